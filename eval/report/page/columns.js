// Columns that more than one table has.

/** Columns of a table of rows: the codec, as `codecCell` shows it, what it took, and every metric. */
function scoreColumns(set, rows, codecCell) {
  const columns = [{ title: "Codec", value: (row) => variantName(set, row.variant), cell: codecCell }];
  if (rows.some((row) => row.bytes !== null)) {
    columns.push({
      title: "bpp",
      numeric: true,
      value: (row) => row.bpp,
      cell: (row) => fixed(row.bpp, 3),
      hint: "bits of the whole file for each pixel",
    });
    columns.push({ title: "Size", numeric: true, value: (row) => row.bytes, cell: (row) => bytesText(row.bytes) });
  }
  for (const metric of metricsOf(set)) {
    const { label, lower } = CONTENT.metrics[metric];
    columns.push({
      title: label,
      numeric: true,
      first: lower ? "ascending" : "descending",
      highlight: true,
      hint: `${lower ? "lower" : "higher"} is better`,
      value: (row) => row.metrics[metric],
      cell: (row) => metricText(metric, row.metrics[metric]),
    });
  }
  for (const [title, key] of [
    ["Encode", "encode"],
    ["Decode", "decode"],
  ]) {
    if (rows.some((row) => row[key] !== null))
      columns.push({ title, numeric: true, value: (row) => row[key], cell: (row) => secondsText(row[key]) });
  }
  return columns;
}
