// What the page was given: the JSON that the writer put into it, and pictures, which are decoded when they are looked
// at.

const CONTENT = JSON.parse(document.getElementById("data").textContent);
const COLOURS = 10;

function codecColour(index) {
  return `var(--codec-${index % COLOURS})`;
}

/** Name of a codec with one of its settings, as menus and captions say it. */
function variantName(set, index) {
  const { codec, setting } = set.variants[index];
  const { name, settings } = set.codecs[codec];
  return settings > 1 || set.variants[index].bytes ? `${name} · ${settingName(setting)}` : name;
}

/** Codecs that write files are set by a number; others by a word. */
function settingName(setting) {
  return /^[0-9.]+$/.test(setting) ? `q${setting}` : setting;
}

/** Rows as objects, from the columns that they are stored in; scores as numbers. */
function rowsOf(set) {
  if (set.expanded) return set.expanded;
  const { rows } = set;
  const metrics = Object.entries(rows.metrics).map(([name, scores]) => [name, scores.map(numberOf)]);
  set.expanded = rows.image.map((image, index) => ({
    image,
    variant: rows.variant[index],
    bytes: rows.bytes[index],
    bpp:
      rows.bytes[index] === null
        ? null
        : (8 * rows.bytes[index]) / (set.images[image].width * set.images[image].height),
    encode: rows.encode[index],
    decode: rows.decode[index],
    metrics: Object.fromEntries(metrics.map(([name, scores]) => [name, scores[index]])),
    picture: rows.picture[index],
    difference: rows.difference[index],
  }));
  return set.expanded;
}

function metricsOf(set) {
  return Object.keys(set.rows.metrics);
}

const parsed = new Promise((resolve) => {
  if (document.readyState !== "loading") resolve();
  else document.addEventListener("DOMContentLoaded", () => resolve());
});

/** Where a picture can be shown from. They come at the end of the file, so that all else works before they are read. */
async function pictureAddress(index) {
  const id = `picture-${index}`;
  if (!document.getElementById(id)) await parsed;
  return `data:${CONTENT.pictures.types[index]};base64,${document.getElementById(id).textContent}`;
}

const KEPT = 48;
const kept = new Map();

/** A decoded picture; the last few stay decoded. */
function picture(index) {
  const known = kept.get(index);
  kept.delete(index);
  const promise = known || decoded(index);
  kept.set(index, promise);
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  return promise;
}

async function decoded(index) {
  const image = new Image();
  image.src = await pictureAddress(index);
  await image.decode();
  return image;
}
