// What can be seen of each image: the original, and what codecs made of it.

const ORIGINAL = -1;

class Pictured {
  constructor(set) {
    this.set = set;
    this.rows = new Map();
    for (const row of rowsOf(set)) {
      if (row.picture === null) continue;
      if (!this.rows.has(row.image)) this.rows.set(row.image, new Map());
      this.rows.get(row.image).set(row.variant, row);
    }
    this.images = [...this.rows.keys()].filter((image) => this.variants(image).length > 1);
  }

  /** Numbers of variants, the original first. */
  variants(image) {
    const original = this.set.images[image].original === null ? [] : [ORIGINAL];
    return [...original, ...[...this.rows.get(image).keys()].sort((a, b) => a - b)];
  }

  row(image, variant) {
    return this.rows.get(image).get(variant);
  }

  /** The picture's number. */
  picture(image, variant) {
    return variant === ORIGINAL ? this.set.images[image].original : this.row(image, variant).picture;
  }

  name(variant) {
    return variant === ORIGINAL ? "original" : variantName(this.set, variant);
  }

  colour(variant) {
    return variant === ORIGINAL ? null : codecColour(this.set.variants[variant].codec);
  }

  /** Rate and the first score, for a caption. */
  summary(image, variant) {
    if (variant === ORIGINAL) return "";
    const row = this.row(image, variant);
    const metric = metricsOf(this.set).find((name) => row.metrics[name] !== null);
    const rate = row.bpp === null ? [] : [`${fixed(row.bpp, 3)} bpp`];
    return [...rate, ...(metric ? [metricWithUnit(metric, row.metrics[metric])] : [])].join(" · ");
  }
}
