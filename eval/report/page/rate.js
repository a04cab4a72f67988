// Rate and distortion: curves of codecs over bits per pixel, on all images together or on one.

const MEAN = "mean";
const BESIDE = 1.5; // published curves are shown so far beside the measured rates

function rateSection(set, onpick) {
  const rated = set.variants.map((_, index) => index).filter((index) => set.variants[index].bytes);
  if (!rated.length) return null;
  const codecs = [...new Set(rated.map((index) => set.variants[index].codec))];
  const published = set.published_curves;
  const state = {
    metric: metricsOf(set)[0],
    image: MEAN,
    log: true,
    ceilings: true,
    codecs: new Set(codecs.map(String)),
    published: new Set(published.map((curve) => curve.codec)),
  };
  const plot = chart({ height: 460 });
  const draw = () => plot.update(rateChart(set, codecs, published, state, onpick));
  draw();
  return [
    h(
      "p",
      { class: "note" },
      "Bits per pixel of whole files, headers counted. ",
      published.length ? "Dashed: as published by others. " : "",
      ceilingsOf(set).length ? "Lines across: the VAE without quantisation, which its files cannot pass." : "",
    ),
    rateToolbar(set, state, draw),
    codecChips(set, codecs, state, draw),
    published.length ? publishedChips(set, published, state, draw) : null,
    plot.element,
    published.length ? folded("Sources of the published curves", sourcesList(published)) : null,
    folded("All points as a table", pointsTable(set)),
    set.agreements.length ? folded("Measured against published curves, at equal rate", agreementsTable(set)) : null,
  ];
}

function rateToolbar(set, state, draw) {
  const change = (key) => (value) => {
    state[key] = value;
    draw();
  };
  const metrics = metricsOf(set).map((metric) => ({ value: metric, label: CONTENT.metrics[metric].label }));
  const images = [
    { value: MEAN, label: `mean of ${plural(set.images.length, "image")}` },
    ...set.images.map((image, index) => ({ value: String(index), label: image.id })),
  ];
  return h(
    "div",
    { class: "toolbar" },
    menu("Metric", metrics, state.metric, change("metric")).element,
    menu("Images", images, state.image, change("image")).element,
    toggle("Logarithmic rate", state.log, change("log")),
    ceilingsOf(set).length ? toggle("Ceilings", state.ceilings, change("ceilings")) : null,
  );
}

function codecChips(set, codecs, state, draw) {
  const options = codecs.map((codec) => ({
    value: String(codec),
    label: set.codecs[codec].name,
    colour: codecColour(codec),
    marker: codec,
  }));
  return chips("Codecs", options, state.codecs, draw);
}

function publishedChips(set, published, state, draw) {
  const options = published.map((curve) => ({ value: curve.codec, label: curve.codec, ...publishedLook(set, curve) }));
  return chips("Published curves", options, state.published, draw, "As published:");
}

function sourcesList(published) {
  const line = (curve) => h("li", {}, `${curve.codec}: ${curve.protocol}. ${curve.source}`);
  return h("ul", {}, published.map(line));
}

/** The colour of the codec of this run that a published curve is about; else a colour that none has. */
function publishedLook(set, curve) {
  const same = set.codecs.findIndex((codec) => codec.kind !== null && codec.kind === curve.same_as);
  const others = set.published_curves.filter(
    (one) => !set.codecs.some((codec) => codec.kind !== null && codec.kind === one.same_as),
  );
  const index = same < 0 ? set.codecs.length + others.indexOf(curve) : same;
  return { colour: codecColour(index), marker: index, dashed: true };
}

/** Of codecs without files: of each its first setting. */
function ceilingsOf(set) {
  const first = (variant) => set.variants.findIndex((one) => one.codec === set.variants[variant].codec) === variant;
  return set.summaries.filter(({ variant, bpp }) => bpp === null && !set.variants[variant].bytes && first(variant));
}

function rateChart(set, codecs, published, state, onpick) {
  const { label, unit } = CONTENT.metrics[state.metric];
  const series = codecs
    .filter((codec) => state.codecs.has(String(codec)))
    .map((codec) => ({
      name: set.codecs[codec].name,
      colour: codecColour(codec),
      marker: codec,
      joined: true,
      points: pointsOf(set, codec, state).sort((a, b) => a.x - b.x),
    }));
  if (state.image === MEAN) {
    const rates = series.flatMap((one) => one.points.map((point) => point.x));
    const range = rates.length ? [Math.min(...rates) / BESIDE, Math.max(...rates) * BESIDE] : [0, Infinity];
    for (const curve of published.filter((one) => state.published.has(one.codec) && one.metrics[state.metric])) {
      const points = publishedPoints(curve, state.metric).filter((point) => point.x >= range[0] && point.x <= range[1]);
      series.push({ name: curve.codec, ...publishedLook(set, curve), joined: true, unnamed: true, size: 2.2, points });
    }
  }
  return {
    label: `${label} over bits per pixel`,
    onpick,
    x: { label: "bits per pixel", log: state.log, format: (value) => significant(value, 3) },
    y: { label: label + (unit ? ` (${unit})` : "") },
    series: series.filter((one) => one.points.length),
    levels: state.ceilings ? ceilingLevels(set, state) : [],
  };
}

/** Of one codec: means over images, or one image's own figures. */
function pointsOf(set, codec, state) {
  const { metric } = state;
  const point = (variant, bpp, score, interval, image, more) => ({
    x: bpp,
    y: score,
    low: interval ? numberOf(interval.low) : null,
    high: interval ? numberOf(interval.high) : null,
    title: variantName(set, variant),
    details: [
      `${fixed(bpp, 3)} bpp`,
      `${CONTENT.metrics[metric].label} ${metricWithUnit(metric, score)}`,
      ...(interval ? [`interval ${intervalText(metric, interval)}`] : []),
      ...more,
    ],
    data: { image, variant },
  });
  if (state.image === MEAN) {
    return set.summaries
      .filter(
        (summary) => set.variants[summary.variant].codec === codec && summary.bpp !== null && summary.metrics[metric],
      )
      .map((summary) =>
        point(
          summary.variant,
          summary.bpp.mean,
          numberOf(summary.metrics[metric].mean),
          summary.metrics[metric],
          null,
          [],
        ),
      );
  }
  const image = Number(state.image);
  return rowsOf(set)
    .filter(
      (row) =>
        row.image === image &&
        set.variants[row.variant].codec === codec &&
        row.bpp !== null &&
        row.metrics[metric] !== null,
    )
    .map((row) => point(row.variant, row.bpp, row.metrics[metric], null, image, [bytesText(row.bytes)]));
}

function publishedPoints(curve, metric) {
  return curve.bpp
    .map((bpp, index) => ({
      x: bpp,
      y: curve.metrics[metric][index],
      title: `${curve.codec}, published`,
      details: [
        `${fixed(bpp, 3)} bpp`,
        `${CONTENT.metrics[metric].label} ${metricWithUnit(metric, curve.metrics[metric][index])}`,
      ],
    }))
    .filter((point) => typeof point.y === "number");
}

function ceilingLevels(set, state) {
  const { metric } = state;
  return ceilingsOf(set)
    .map((summary) => {
      const row =
        state.image === MEAN
          ? null
          : rowsOf(set).find((one) => one.image === Number(state.image) && one.variant === summary.variant);
      const score =
        state.image === MEAN
          ? summary.metrics[metric] && numberOf(summary.metrics[metric].mean)
          : row && row.metrics[metric];
      return {
        name: variantName(set, summary.variant),
        colour: codecColour(set.variants[summary.variant].codec),
        y: score,
      };
    })
    .filter((level) => Number.isFinite(level.y));
}

function pointsTable(set) {
  const rows = set.summaries.filter((summary) => summary.bpp !== null);
  const columns = [
    {
      title: "Codec",
      value: (row) => set.codecs[set.variants[row.variant].codec].name,
      cell: (row) => nameCell(set, row.variant),
    },
    { title: "Setting", value: (row) => set.variants[row.variant].setting },
    { title: "bpp", numeric: true, value: (row) => row.bpp.mean, cell: (row) => fixed(row.bpp.mean, 4) },
    ...metricsOf(set).map((metric) => ({
      title: CONTENT.metrics[metric].label,
      numeric: true,
      first: CONTENT.metrics[metric].lower ? "ascending" : "descending",
      value: (row) => (row.metrics[metric] ? numberOf(row.metrics[metric].mean) : null),
      cell: (row) => (row.metrics[metric] ? metricText(metric, numberOf(row.metrics[metric].mean)) : "–"),
    })),
    {
      title: "Encode",
      numeric: true,
      value: (row) => row.encode,
      cell: (row) => secondsText(row.encode),
      hint: "median over images",
    },
    {
      title: "Decode",
      numeric: true,
      value: (row) => row.decode,
      cell: (row) => secondsText(row.decode),
      hint: "median over images",
    },
  ];
  return sortableTable({ caption: "Points of all curves", columns, rows, compact: true }).element;
}

/** Whether the measurement is sound: codecs that others have measured too must give the same curve. */
function agreementsTable(set) {
  const columns = [
    { title: "Measured", value: (row) => row.codec },
    { title: "Published", value: (row) => row.published },
    { title: "Rates", numeric: true, value: (row) => row.rates.length },
    {
      title: "Mean difference",
      numeric: true,
      value: (row) => row.mean,
      cell: (row) => metricText(row.metric, row.mean, { sign: true }),
    },
    {
      title: "Largest",
      numeric: true,
      value: (row) => Math.max(...row.differences.map(Math.abs)),
      cell: (row) => metricText(row.metric, Math.max(...row.differences.map(Math.abs))),
    },
    { title: "Verdict", value: (row) => (row.agrees ? `within ${row.tolerance}` : `beyond ${row.tolerance}`) },
  ];
  return sortableTable({ caption: "Measured against published curves", columns, rows: set.agreements, compact: true })
    .element;
}

function nameCell(set, variant, name = set.codecs[set.variants[variant].codec].name) {
  return h(
    "span",
    { class: "name" },
    h("i", { class: "dot", vars: { "--c": codecColour(set.variants[variant].codec) } }),
    name,
  );
}
