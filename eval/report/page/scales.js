// From values to pixels, and where an axis has its ticks.

/** {of(value): pixel, ticks: [value]} over a domain [low, high], which is widened a little. */
function scaleOf(domain, pixels, { log = false, room = 0.04 } = {}) {
  const forth = log ? Math.log10 : (value) => value;
  let [low, high] = domain.map(forth);
  if (low === high)
    [low, high] = [low - (log ? 0.1 : Math.abs(low) * 0.05 || 1), high + (log ? 0.1 : Math.abs(high) * 0.05 || 1)];
  const margin = (high - low) * room;
  [low, high] = [low - margin, high + margin];
  const of = (value) => pixels[0] + ((forth(value) - low) / (high - low)) * (pixels[1] - pixels[0]);
  const count = Math.max(2, Math.round(Math.abs(pixels[1] - pixels[0]) / (log ? 70 : 55)));
  return { of, ticks: log ? logTicks(10 ** low, 10 ** high, count) : linearTicks(low, high, count) };
}

function linearTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const ticks = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index += 1)
    ticks.push(Number((index * step).toPrecision(12)));
  return ticks;
}

/** Powers of ten; with 2 and 5 times them, or all their multiples, where there is room. */
function logTicks(low, high, count) {
  const of = (factors) => {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      for (const factor of factors) ticks.push(Number((factor * 10 ** power).toPrecision(12)));
    }
    return ticks.filter((tick) => tick >= low && tick <= high);
  };
  const choices = [[1, 1.5, 2, 3, 4, 5, 6, 8], [1, 2, 3, 5], [1, 2, 5], [1, 3], [1]].map(of);
  return choices.find((ticks) => ticks.length <= count + 1) || choices[choices.length - 1];
}

/** Places for labels that want to be at `wanted`: at least `gap` apart, between `low` and `high`, in the same order. */
function spreadLabels(wanted, gap, low, high) {
  const order = wanted.map((_, index) => index).sort((a, b) => wanted[a] - wanted[b]);
  const places = [...wanted];
  let least = low;
  for (const index of order) {
    places[index] = Math.max(places[index], least);
    least = places[index] + gap;
  }
  let most = high;
  for (const index of order.reverse()) {
    places[index] = Math.min(places[index], most);
    most = places[index] - gap;
  }
  return places;
}

const MARKERS = [
  (x, y, r) => `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`,
  (x, y, r) => `M${x - r * 0.9},${y - r * 0.9}h${r * 1.8}v${r * 1.8}h${-r * 1.8}z`,
  (x, y, r) => `M${x},${y - r * 1.15}L${x + r * 1.1},${y + r * 0.85}H${x - r * 1.1}z`,
  (x, y, r) => `M${x},${y - r * 1.25}L${x + r * 1.25},${y}L${x},${y + r * 1.25}L${x - r * 1.25},${y}z`,
  (x, y, r) => `M${x},${y + r * 1.15}L${x + r * 1.1},${y - r * 0.85}H${x - r * 1.1}z`,
];

/** The outline of a mark, so that colour is never the only difference. */
function markerPath(kind, x, y, r) {
  return MARKERS[kind % MARKERS.length](x, y, r);
}
