// At a glance: means with their intervals, best first, and rates against the anchor.

function summarySection(set) {
  const plain = set.summaries.filter((summary) => summary.bpp === null);
  const panels = metricsWithFigures(plain).map((metric) => forestPanel(set, plain, metric));
  const rates = ratePanels(set);
  const tables = [differencesTable(set), publishedTables(set)].filter(Boolean);
  if (!panels.length && !rates.length && !tables.length) return null;
  return [
    panels.length ? h("div", { class: "panels" }, panels) : null,
    rates.length ? h("div", { class: "panels wide" }, rates) : null,
    folded(
      "How this was measured",
      h(
        "ul",
        {},
        set.protocol.map((line) => h("li", {}, line)),
      ),
    ),
    ...tables,
    set.notes.length
      ? folded(
          "Notes",
          h(
            "ul",
            {},
            set.notes.map((note) => h("li", {}, note)),
          ),
          set.notes.length < 4,
        )
      : null,
  ];
}

function folded(title, content, open = false) {
  return h("details", { open }, h("summary", {}, title), content);
}

function metricsWithFigures(summaries) {
  return Object.keys(CONTENT.metrics).filter((metric) => summaries.some((summary) => summary.metrics[metric]));
}

/** A metric: each codec's mean as a dot in its interval. */
function forestPanel(set, summaries, metric) {
  const rows = summaries
    .filter((summary) => summary.metrics[metric])
    .map((summary) => {
      const { mean, low = null, high = null, std = null } = summary.metrics[metric];
      return { summary, std, mean: numberOf(mean), low: numberOf(low), high: numberOf(high) };
    });
  rows.sort((a, b) => betterFirst(metric, a.mean, b.mean));
  const ends = rows
    .flatMap((row) => [row.mean, row.low, row.high])
    .filter((value) => value !== null && Number.isFinite(value));
  const [low, high] = ends.length ? [Math.min(...ends), Math.max(...ends)] : [0, 1];
  const share = (value) => (high > low ? `${4 + (92 * (value - low)) / (high - low)}%` : "50%");
  const { label, unit, lower } = CONTENT.metrics[metric];
  return h(
    "div",
    { class: "panel" },
    h(
      "h3",
      {},
      label,
      h("small", {}, [unit, lower ? "lower is better" : "higher is better"].filter(Boolean).join(", ")),
    ),
    h(
      "ol",
      { class: "forest" },
      rows.map((row, index) => forestRow(set, metric, row, index === 0 && rows.length > 1, share)),
    ),
  );
}

function forestRow(set, metric, row, best, share) {
  const { mean, low, high, std, summary } = row;
  const interval =
    low === null
      ? std === null
        ? ""
        : `standard deviation ${metricText(metric, std)}`
      : `interval ${metricText(metric, low)} to ${metricText(metric, high)}`;
  const finite = [low, high].every((value) => value !== null && Number.isFinite(value));
  const bar = finite ? h("span", { class: "bar", vars: { "--from": share(low), "--to": share(high) } }) : null;
  const dot = Number.isFinite(mean) ? h("span", { class: "point", vars: { "--at": share(mean) } }) : null;
  const colour = codecColour(set.variants[summary.variant].codec);
  return h(
    "li",
    { class: best ? "best" : null, title: interval, vars: { "--c": colour } },
    h("span", { class: "name" }, h("i", { class: "dot" }), variantName(set, summary.variant)),
    h("span", { class: "track", "aria-hidden": "true" }, bar, dot),
    h(
      "span",
      { class: "value" },
      metricText(metric, mean),
      h("span", { class: "unseen" }, interval && `, ${interval}`),
    ),
  );
}

/** BD-rate: bars from 0, fewer bits to the left. */
function ratePanels(set) {
  const panelOf = (row) => JSON.stringify([row.metric, row.anchor, row.most_bpp ?? null]);
  return [...new Set(set.bd_rate.map(panelOf))].map((panel) => {
    const rows = set.bd_rate.filter((row) => panelOf(row) === panel);
    const [metric, anchor, most_bpp] = JSON.parse(panel);
    rows.sort((a, b) => (a.percent === null) - (b.percent === null) || a.percent - b.percent);
    const most = Math.max(10, ...rows.map((row) => Math.abs(row.percent || 0)));
    return h(
      "div",
      { class: "panel" },
      h(
        "h3",
        {},
        `BD-rate, ${CONTENT.metrics[metric].label}`,
        h(
          "small",
          {},
          `bits for equal quality, against ${anchor}${most_bpp === null ? "" : `, up to ${most_bpp} bpp`}`,
        ),
      ),
      h(
        "ol",
        { class: "forest rates" },
        rows.map((row) => rateRow(set, row, most)),
      ),
    );
  });
}

function rateRow(set, row, most) {
  const index = set.codecs.findIndex((codec) => codec.name === row.codec);
  const end = (percentage) => `${50 + (48 * percentage) / most}%`;
  const about = row.percent === null ? row.undefined : `overlap ${percent(row.overlap)}`;
  const ends = row.percent === null ? null : [end(Math.min(0, row.percent)), end(Math.max(0, row.percent))];
  return h(
    "li",
    {
      title: "overlap: the share of all scores that either reaches which both reach",
      vars: { "--c": index < 0 ? "var(--muted)" : codecColour(index) },
    },
    h("span", { class: "name" }, h("i", { class: "dot" }), row.codec),
    h(
      "span",
      { class: "track zero", "aria-hidden": "true" },
      ends ? h("span", { class: "bar", vars: { "--from": ends[0], "--to": ends[1] } }) : null,
    ),
    h(
      "span",
      { class: "value" },
      row.percent === null ? "undefined" : `${fixed(row.percent, 1, { sign: true })} %`,
      h("small", {}, about),
    ),
  );
}

function differencesTable(set) {
  if (!set.differences.length) return null;
  const columns = [
    { title: "Codec", value: (row) => row.codec },
    { title: "minus", value: (row) => row.baseline },
    { title: "Latents", value: (row) => row.setting },
    { title: "Metric", value: (row) => CONTENT.metrics[row.metric].label },
    {
      title: "Difference",
      numeric: true,
      value: (row) => numberOf(row.interval.mean),
      cell: (row) => metricText(row.metric, numberOf(row.interval.mean), { sign: true }),
    },
    {
      title: "Interval",
      numeric: true,
      value: (row) => numberOf(row.interval.low),
      cell: (row) => intervalText(row.metric, row.interval, { sign: true }),
    },
    { title: "Verdict", value: verdict },
  ];
  return folded(
    "Paired differences, image by image",
    sortableTable({ caption: "Paired differences", columns, rows: set.differences, compact: true }).element,
  );
}

/** What an interval of differences says. */
function verdict({ metric, interval }) {
  const [low, high] = [numberOf(interval.low), numberOf(interval.high)];
  if (low <= 0 && high >= 0) return "cannot be told apart";
  return low > 0 === !CONTENT.metrics[metric].lower ? "better" : "worse";
}

/** What others report: apart from what was measured. */
function publishedTables(set) {
  const tables = set.published;
  if (!tables.length) return null;
  const one = (table) => {
    const metrics = [...new Set(table.rows.flatMap((row) => Object.keys(row.metrics)))];
    const label = (metric) => (CONTENT.metrics[metric] || { label: metric }).label;
    const columns = [
      { title: "Model", value: (row) => row.model },
      ...metrics.map((metric) => ({
        title: label(metric),
        numeric: true,
        value: (row) => row.metrics[metric] ?? null,
        cell: (row) => (metric in row.metrics ? String(row.metrics[metric]) : "–"),
      })),
    ];
    return h(
      "div",
      {},
      h("p", {}, table.protocol, h("br"), h("small", {}, `Source: ${table.source}`)),
      sortableTable({ caption: table.protocol, columns, rows: table.rows, compact: true }).element,
    );
  };
  return folded(
    "Reported by others, under other protocols: not comparable with the figures above",
    h("div", { class: "stack" }, tables.map(one)),
  );
}
