// What latents are like: pictures by principal components, spectra, disturbances, channels.

function latentsSection(measured) {
  return measured.rows.length
    ? [
        h("p", { class: "note" }, measured.protocol),
        ...latentPictures(measured),
        h("div", { class: "panels wide" }, [spectrumPanel(measured), ...disturbancePanels(measured)].filter(Boolean)),
        comparisonTable(measured),
        channelsPanel(measured),
      ]
    : null;
}

function vaeColour(index) {
  return codecColour(index);
}

function legendOf(measured) {
  return measured.rows.map((row, index) => ({ name: row.vae, colour: vaeColour(index), marker: index }));
}

/** Originals, and below or beside them their latents in each VAE. Pictures are read when they come into sight. */
function latentPictures(measured) {
  const shown = measured.rows.filter((row) => row.pictures.length);
  if (!shown.length) return [];
  const images = shown[0].pictures;
  const cards = images.map((entry, place) =>
    h(
      "div",
      { class: "latent-row" },
      latentPicture(entry.original, entry.image, "original"),
      shown.map((row) =>
        latentPicture(
          row.pictures[place] && row.pictures[place].latents,
          row.vae,
          `latents of ${entry.image} in ${row.vae}`,
          "pixels",
        ),
      ),
    ),
  );
  const explained = shown.map((row) => `${percent(row.explained)} (${row.vae})`);
  return [
    h("h3", {}, "Latents as colours"),
    h(
      "p",
      { class: "note" },
      "Red, green and blue are the three strongest principal components over the channels. ",
      `Of the variance they hold ${listed(explained)}.`,
    ),
    h("div", { class: "latent-grid", vars: { "--columns": shown.length + 1 } }, cards),
  ];
}

function latentPicture(index, caption, description, look = null) {
  const image = h("img", { alt: description, class: look });
  const frame = h("figure", {}, image, h("figcaption", {}, caption));
  if (index === null || index === undefined) return frame;
  const watch = new IntersectionObserver(
    async ([entry]) => {
      if (!entry.isIntersecting) return;
      watch.disconnect();
      image.src = await pictureAddress(index);
    },
    { rootMargin: "300px" },
  );
  watch.observe(frame);
  return frame;
}

/** Power of the channels' mean over frequency, and of one channel at a time. */
function spectrumPanel(measured) {
  const plot = chart({ height: 330 });
  const state = { channels: false };
  const draw = () =>
    plot.update({
      label: "Power spectrum of the latents",
      legend: state.channels ? null : legendOf(measured),
      x: { label: "cycles per latent position", log: true },
      y: { label: "power, share of the variance", log: true, format: powerOfTen },
      series: measured.rows.flatMap((row, index) => spectrumCurves(row, vaeColour(index), index, state.channels)),
    });
  draw();
  return h(
    "div",
    { class: "panel" },
    h("h3", {}, "Power spectrum", h("small", {}, "white noise is flat")),
    toggle("Each channel", false, (on) => {
      state.channels = on;
      draw();
    }),
    plot.element,
  );
}

function spectrumCurves(row, colour, marker, channels) {
  const { frequencies, power } = row.spectrum;
  const usable = power
    .map((values, channel) => ({ values: values.map(numberOf), channel }))
    .filter(({ values }) => values.some((value) => value > 0));
  const curveOf = (name, values) => {
    const total = values.reduce((sum, value) => sum + value, 0) || 1;
    return {
      name,
      colour,
      marker,
      joined: true,
      size: 2.2,
      points: frequencies.map((x, place) => ({
        x,
        y: values[place] / total,
        title: name,
        details: [`${significant(x)} cycles per position`, `${percent(values[place] / total, 1)} of the power`],
      })),
    };
  };
  if (channels)
    return usable.map(({ values, channel }) => ({ ...curveOf(`${row.vae}, channel ${channel}`, values), bare: true }));
  const sum = frequencies.map((_, place) => usable.reduce((total, { values }) => total + values[place], 0));
  return [curveOf(row.vae, sum)];
}

function powerOfTen(value) {
  return value >= 0.001 && value < 1000
    ? significant(value)
    : value.toExponential(0).replace("e+", "e").replace("-", MINUS);
}

/** What decoding makes of noise and of cut frequencies: PSNR lost. */
function disturbancePanels(measured) {
  const kinds = [
    ["noise", "Noise on the latents", "standard deviations of the latents", (size) => Number(size)],
    ["cut", "High frequencies cut", "share of the frequencies that is kept", (keep) => Number(keep)],
  ];
  return kinds
    .filter(([key]) => measured.rows.some((row) => Object.keys(row[key]).length))
    .map(([key, title, axis, place]) => {
      const plot = chart({ height: 330 });
      plot.update({
        label: title,
        legend: legendOf(measured),
        x: { label: axis, log: key === "noise" },
        y: { label: "PSNR lost (dB)", domain: [0] },
        series: measured.rows.map((row, index) => ({
          name: row.vae,
          colour: vaeColour(index),
          marker: index,
          joined: true,
          points: Object.entries(row[key])
            .map(([size, errors]) => ({
              x: place(size),
              y: numberOf(errors.loss),
              title: row.vae,
              details: [
                `${axis}: ${size}`,
                `${fixed(numberOf(errors.loss), 2)} dB lost`,
                `pictures change by ${fixed(numberOf(errors.change), 1)} levels`,
              ],
            }))
            .sort((a, b) => a.x - b.x),
        })),
      });
      return h(
        "div",
        { class: "panel" },
        h("h3", {}, title, h("small", {}, "less is lost where latents are robust")),
        plot.element,
      );
    });
}

function comparisonTable(measured) {
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, h("span", { class: "unseen" }, "Figure")),
    measured.rows.map((row, index) =>
      h("th", { scope: "col", class: "number" }, h("i", { class: "dot", vars: { "--c": vaeColour(index) } }), row.vae),
    ),
  );
  const groups = measured.table.map(({ title, lines }) =>
    h(
      "tbody",
      {},
      h("tr", { class: "group" }, h("th", { scope: "colgroup", colspan: measured.rows.length + 1 }, title)),
      lines.map(([label, ...values]) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, label),
          values.map((value) => h("td", { class: "number" }, value)),
        ),
      ),
    ),
  );
  return h(
    "div",
    { class: "table narrow" },
    h("h3", {}, "Figures"),
    h(
      "div",
      { class: "scroller", role: "region", tabindex: 0, "aria-label": "Figures of the latents" },
      h("table", { class: "compact" }, h("thead", {}, head), groups),
    ),
  );
}

const CHANNEL_COLUMNS = [
  ["mean", "Mean", 3],
  ["std", "Deviation", 3],
  ["skewness", "Skew", 2],
  ["kurtosis", "Kurtosis", 2],
  ["kl_nats", "KL nats", 0],
  ["posterior_share", "Posterior share", 5],
  ["spectral_slope", "Slope", 2],
  ["high_frequency_share", "High freq.", 3],
];

/** One VAE's channels, and how they correlate. */
function channelsPanel(measured) {
  const place = h("div", { class: "channels" });
  const draw = (index) => {
    const row = measured.rows[index];
    const rows = row.per_channel.map((channel, number) => ({ ...channel, number }));
    const columns = [
      {
        title: "Channel",
        value: (channel) => channel.number,
        cell: (channel) => (channel.active ? String(channel.number) : `${channel.number}, not active`),
      },
      ...CHANNEL_COLUMNS.map(([key, title, digits]) => ({
        title,
        numeric: true,
        value: (channel) => numberOf(channel[key]),
        cell: (channel) => fixed(numberOf(channel[key]), digits),
      })),
    ];
    place.replaceChildren(
      sortableTable({ caption: `Channels of ${row.vae}`, columns, rows, compact: true }).element,
      correlationMap(row),
    );
  };
  draw(0);
  const options = measured.rows.map((row, index) => ({ value: String(index), label: row.vae }));
  return h(
    "div",
    {},
    h("h3", {}, "Channels"),
    options.length > 1 ? segmented("VAE", options, "0", (value) => draw(Number(value))) : null,
    place,
  );
}

function correlationMap({ vae, correlation }) {
  const size = correlation.length;
  const canvas = h("canvas", {
    class: "pixels",
    width: size,
    height: size,
    role: "img",
    "aria-label": `Correlation of the channels of ${vae}`,
  });
  const context = canvas.getContext("2d");
  correlation.forEach((line, y) =>
    line.forEach((value, x) => {
      context.fillStyle = diverging(numberOf(value));
      context.fillRect(x, y, 1, 1);
    }),
  );
  const told = h("span", { class: "note" }, "red: rise together; blue: opposite");
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const at = (offset, length) => Math.min(size - 1, Math.max(0, Math.floor((offset / length) * size)));
    const [x, y] = [at(event.clientX - box.left, box.width), at(event.clientY - box.top, box.height)];
    told.textContent = `channels ${y} and ${x}: ${fixed(numberOf(correlation[y][x]), 2)}`;
  });
  return h("figure", { class: "correlation" }, canvas, h("figcaption", {}, "Correlation of channels. ", told));
}

/** Blue for -1, grey for 0, red for 1. */
function diverging(value) {
  if (value === null) return "rgb(128 128 128)";
  const share = Math.min(Math.abs(value), 1) ** 0.7;
  const [from, to] = [[226, 228, 232], value < 0 ? [33, 88, 190] : [196, 40, 52]];
  return `rgb(${from.map((start, channel) => Math.round(start + share * (to[channel] - start))).join(" ")})`;
}
