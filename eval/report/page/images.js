// Every image: how scores spread over images, and the table of all rows.

function imagesSection(set, onpick) {
  const rows = rowsOf(set);
  if (!rows.length) return null;
  const state = { metric: metricsOf(set)[0], text: "", codec: "all", setting: "all" };
  const spread = chart({ height: Math.max(200, 90 + 46 * spreadVariants(set).length) });
  const table = imageTable(set, rows, onpick);
  const count = h("output", { class: "note" });
  const draw = () => spread.update(spreadChart(set, state.metric, onpick));
  const filter = () => {
    const shown = rows.filter((row) => matches(set, row, state));
    table.update(shown);
    count.textContent = plural(shown.length, "row");
  };
  const search = h("input", {
    type: "search",
    placeholder: "part of a name",
    "aria-label": "Images whose name contains",
  });
  search.addEventListener("input", () => {
    state.text = search.value.toLowerCase();
    filter();
  });
  const change = (key, act) => (value) => {
    state[key] = value;
    act();
  };
  const metrics = metricsOf(set).map((metric) => ({ value: metric, label: CONTENT.metrics[metric].label }));
  const codecs = [
    { value: "all", label: "all" },
    ...set.codecs.map((codec, index) => ({ value: String(index), label: codec.name })),
  ];
  const settings = [...new Set(set.variants.map((variant) => variant.setting))].map((setting) => ({
    value: `=${setting}`,
    label: setting,
  }));
  draw();
  filter();
  return [
    h(
      "div",
      { class: "toolbar" },
      menu("Metric", metrics, state.metric, change("metric", draw)).element,
      h("span", { class: "note" }, "A mark is an image; its marks in all lines belong together."),
    ),
    spread.element,
    h(
      "div",
      { class: "toolbar" },
      h("label", { class: "menu" }, h("span", {}, "Image"), search),
      menu("Codec", codecs, state.codec, change("codec", filter)).element,
      settings.length > 1
        ? menu("Setting", [{ value: "all", label: "all" }, ...settings], state.setting, change("setting", filter))
            .element
        : null,
      count,
    ),
    table.element,
  ];
}

function matches(set, row, { text, codec, setting }) {
  const variant = set.variants[row.variant];
  return (
    (codec === "all" || variant.codec === Number(codec)) &&
    (setting === "all" || `=${variant.setting}` === setting) &&
    set.images[row.image].id.toLowerCase().includes(text)
  );
}

/** Those that have pictures; else the first setting of each codec. */
function spreadVariants(set) {
  const shown = [
    ...new Set(
      rowsOf(set)
        .filter((row) => row.picture !== null)
        .map((row) => row.variant),
    ),
  ].sort((a, b) => a - b);
  return shown.length
    ? shown
    : set.variants
        .map((_, index) => index)
        .filter((index) => set.variants.findIndex((one) => one.codec === set.variants[index].codec) === index);
}

function spreadChart(set, metric, onpick) {
  const { label, unit } = CONTENT.metrics[metric];
  const variants = spreadVariants(set);
  const series = variants.map((variant, line) => ({
    name: variantName(set, variant),
    colour: codecColour(set.variants[variant].codec),
    marker: 0,
    points: rowsOf(set)
      .filter((row) => row.variant === variant && row.metrics[metric] !== null)
      .sort((a, b) => a.metrics[metric] - b.metrics[metric])
      .map((row, index) => ({
        x: row.metrics[metric],
        y: line + (((index * 0.618) % 1) - 0.5) * 0.5,
        title: set.images[row.image].id,
        details: [
          variantName(set, variant),
          metricWithUnit(metric, row.metrics[metric]),
          ...(row.bpp === null ? [] : [`${fixed(row.bpp, 3)} bpp`]),
        ],
        data: { image: row.image, variant },
      })),
  }));
  return {
    label: `${label} of every image`,
    series,
    onpick,
    related: (a, b) => a.data.image === b.data.image,
    x: { label: label + (unit ? ` (${unit})` : "") },
    y: { categories: variants.map((variant) => variantName(set, variant)) },
  };
}

function imageTable(set, rows, onpick) {
  const image = {
    title: "Image",
    value: (row) => set.images[row.image].id,
    cell: (row) =>
      row.picture === null
        ? set.images[row.image].id
        : button(set.images[row.image].id, () => onpick({ image: row.image, variant: row.variant }), {
            class: "name",
            title: "Show it above",
          }),
  };
  const setting = { title: "Setting", value: (row) => set.variants[row.variant].setting };
  const [codec, ...scores] = scoreColumns(set, rows, (row) => nameCell(set, row.variant));
  codec.value = (row) => set.codecs[set.variants[row.variant].codec].name;
  scores.forEach((column) => delete column.highlight); // the best of all rows is no news
  return sortableTable({
    caption: "Every image",
    columns: [image, codec, setting, ...scores],
    rows,
    limit: 60,
    compact: true,
  });
}
