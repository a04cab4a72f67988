// Maps of where a picture differs from its original, and what their colours mean.

const SCALES = [2, 4, 8, 16, 32, 64, 128];

/** Local errors of a picture against its original: root mean square over `block` pixels, in levels of 255. */
async function errorMap(index, width) {
  const image = await picture(index);
  const canvas = h("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const levels = new Float32Array(canvas.width * canvas.height);
  for (let place = 0; place < levels.length; place += 1)
    levels[place] = (data[4 * place] / CONTENT.pictures.levels_root) ** 2;
  return { levels, width: canvas.width, height: canvas.height, block: Math.round(width / canvas.width) || 1 };
}

// Colours of the maps, dark to light with even steps of lightness.
const HEAT = [
  [8, 8, 24],
  [52, 18, 92],
  [110, 30, 110],
  [168, 46, 94],
  [218, 78, 62],
  [246, 130, 30],
  [250, 194, 56],
  [255, 253, 190],
];

function heat(share) {
  const at = Math.min(Math.max(share, 0), 1) * (HEAT.length - 1);
  const index = Math.min(Math.floor(at), HEAT.length - 2);
  return HEAT[index].map((from, channel) => from + (at - index) * (HEAT[index + 1][channel] - from));
}

/** An error map as a picture, the lightest colour at `full` levels. */
function heatPicture(map, full) {
  const canvas = h("canvas", { width: map.width, height: map.height });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(map.width, map.height);
  map.levels.forEach((level, place) => {
    pixels.data.set(heat(level / full), 4 * place);
    pixels.data[4 * place + 3] = 255;
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** The least of `SCALES` that suits the middle one of the codecs: all but one in a hundred of its values are within. */
function fullScale(maps) {
  const highs = maps
    .map((map) => map.levels.slice().sort()[Math.floor(map.levels.length * 0.99)])
    .sort((a, b) => a - b);
  const high = highs[Math.floor(highs.length / 2)] || 0;
  return SCALES.find((scale) => scale >= high) || SCALES[SCALES.length - 1];
}

/** What the colours mean, and the menu to choose what the lightest is: "auto", or levels as text. */
function heatLegend(chosen, full, block, onchange) {
  const options = [
    { value: "auto", label: `automatic (${full})` },
    ...SCALES.map((scale) => ({ value: String(scale), label: `${scale} levels` })),
  ];
  const size = block === 1 ? "of each pixel" : `over ${block} × ${block} pixels`;
  return [
    h("span", {}, "0"),
    h("span", { class: "ramp", "aria-hidden": "true" }),
    h("span", {}, `${full} levels of 255 or more`),
    menu("Lightest at", options, chosen, onchange).element,
    h(
      "span",
      { class: "note" },
      `Root mean square difference ${size} and the three channels, from the pictures that were measured.`,
    ),
  ];
}
