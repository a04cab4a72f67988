// Speed against the plain way, and figures of other kinds as they are.

/** Further figures that some rows have, of our side. */
const PARTS = [
  { key: "network_share", title: "Network", hint: "share of the time", text: (share) => percent(share) },
  { key: "coder_share", title: "Entropy coder", hint: "share of the time", text: (share) => percent(share, 1) },
  {
    key: "symbols_per_second",
    title: "Msymbols/s",
    hint: "of the entropy coder alone, in millions",
    text: (rate) => fixed(rate / 1e6, 2),
  },
  { key: "bytes_ratio", title: "Bytes", hint: "of our files over the plain way's", text: (ratio) => percent(ratio) },
];

function speedSection(measured) {
  const rows = measured.rows;
  const most = Math.max(...rows.map((row) => row.speedup.high), 1);
  const end = (value) => `${(100 * value) / most}%`;
  const bar = (row) =>
    h(
      "span",
      { class: "speedup" },
      h(
        "span",
        { class: "track", "aria-hidden": "true" },
        h("span", { class: "bar", vars: { "--from": "0%", "--to": end(row.speedup.median) } }),
        h("span", { class: "whisker", vars: { "--from": end(row.speedup.low), "--to": end(row.speedup.high) } }),
        h("span", { class: "one", vars: { "--at": end(1) } }),
      ),
      `${fixed(row.speedup.median, 2)}×`,
    );
  const rate = (key) => ({
    numeric: true,
    first: "descending",
    value: (row) => row[key].median,
    cell: (row) =>
      h(
        "span",
        { title: `quartiles ${significant(row[key].low)} to ${significant(row[key].high)}` },
        significant(row[key].median),
      ),
  });
  const memory = (key) => ({
    numeric: true,
    value: (row) => row[key] ?? null,
    cell: (row) => (row[key] === undefined ? "–" : `${fixed(row[key] / 2 ** 30, 2)} GiB`),
  });
  const columns = [
    { title: "Work", value: (row) => row.row },
    { title: "Side", numeric: true, value: (row) => row.side ?? null },
    { title: "Type", value: (row) => row.dtype ?? "" },
    {
      title: "Speed-up",
      numeric: true,
      first: "descending",
      value: (row) => row.speedup.median,
      cell: bar,
      hint: "images a second against the plain way, median and quartiles over the rounds",
    },
    { title: "Images/s", ...rate("images_per_second") },
    { title: "plain", ...rate("plain_images_per_second") },
    {
      title: "Share of peak",
      numeric: true,
      first: "descending",
      value: (row) => row.share_of_matrix_peak ?? null,
      cell: (row) => percent(row.share_of_matrix_peak ?? null),
      hint: "of the machine's matrix products a second",
    },
    { title: "Memory", ...memory("peak_memory") },
    { title: "plain", ...memory("plain_peak_memory") },
    ...PARTS.filter(({ key }) => rows.some((row) => key in row)).map(({ key, title, hint, text }) => ({
      title,
      hint,
      numeric: true,
      value: (row) => row[key] ?? null,
      cell: (row) => (key in row ? text(row[key]) : "–"),
    })),
  ];
  return [h("p", { class: "note" }, measured.protocol), sortableTable({ caption: "Speed", columns, rows }).element];
}

/** Whatever else was measured: a column for each figure. */
function otherSection(measured) {
  const keys = [...new Set(measured.rows.flatMap((row) => Object.keys(row)))];
  const columns = keys.map((key) => {
    const numeric = measured.rows.every((row) => row[key] === undefined || typeof row[key] === "number");
    return {
      title: key,
      numeric,
      value: (row) => row[key] ?? null,
      cell: (row) => (numeric ? significant(row[key] ?? null, 4) : String(row[key] ?? "–")),
    };
  });
  return [
    h("p", { class: "note" }, measured.protocol),
    sortableTable({ caption: measured.title, columns, rows: measured.rows, compact: true }).element,
  ];
}
