// Figures as text.

const MINUS = "−";

/** A number of results: infinities come as text, since JSON has none; null where there is no figure. */
function numberOf(value) {
  if (value === "inf") return Infinity;
  if (value === "-inf") return -Infinity;
  return typeof value === "number" ? value : null;
}

/** With so many digits after the point; "–" where there is no figure. */
function fixed(value, digits, { sign = false } = {}) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Number.isFinite(value) ? Math.abs(value).toFixed(digits) : "∞";
  const zero = Number(size) === 0;
  return (value < 0 && !zero ? MINUS : sign && !zero ? "+" : "") + size;
}

/** With about so many significant digits, and no more zeros than needed. */
function significant(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return fixed(value, 0);
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-4))
    return value
      .toExponential(digits - 1)
      .replace("e+", "e")
      .replace("-", MINUS);
  return String(Number(value.toPrecision(digits))).replace("-", MINUS);
}

function metricText(metric, value, options) {
  return fixed(value, CONTENT.metrics[metric].digits, options);
}

/** `24.31 dB`. */
function metricWithUnit(metric, value) {
  const { unit } = CONTENT.metrics[metric];
  return metricText(metric, value) + (unit ? ` ${unit}` : "");
}

function intervalText(metric, interval, options) {
  const [low, high] = [interval.low, interval.high].map((end) => metricText(metric, numberOf(end), options));
  return `${low} to ${high}`;
}

/** -1, 0 or 1: which of two scores is better, the better first. */
function betterFirst(metric, a, b) {
  return CONTENT.metrics[metric].lower ? a - b : b - a;
}

function percent(value, digits = 0) {
  return value === null ? "–" : `${fixed(100 * value, digits)} %`;
}

function bytesText(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1000) return `${value} B`;
  if (value < 1e6) return `${fixed(value / 1000, 1)} kB`;
  return `${fixed(value / 1e6, 2)} MB`;
}

function secondsText(value) {
  if (value === null || value === undefined) return "–";
  const digits = (number) => (number >= 100 ? 0 : number >= 10 ? 1 : 2);
  return value < 1 ? `${fixed(value * 1000, digits(value * 1000))} ms` : `${fixed(value, digits(value))} s`;
}

function plural(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

/** `a, b and c`. */
function listed(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}`;
}
