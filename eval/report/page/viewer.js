// Pictures of all codecs, at the same place and size: two with a slider between them, two side by side, or all
// together; as they are, or as maps of where they differ from the original.

const GAP = 4;
const STAGE_LABEL =
  "Pictures. Plus and minus zoom, arrow keys move, 0 shows all, x swaps A and B, brackets change the image.";

class Viewer {
  constructor(pictured) {
    this.pictured = pictured;
    this.set = pictured.set;
    this.image = pictured.images[0];
    [this.a, this.b] = this.variants;
    this.mode = "slider";
    this.differences = false;
    this.full = "auto";
    this.turn = 0;
    this.panes = [];
    this.draw = oncePerFrame(() => this.panes.forEach((pane) => pane.draw(this.view)));
    this.view = new View(() => this.viewChanged());
    this.build();
    this.show();
  }

  /** Of the image in sight. */
  get variants() {
    return this.pictured.variants(this.image);
  }

  build() {
    this.stage = h("div", { class: "stage", tabindex: 0, role: "group", "aria-label": STAGE_LABEL });
    this.boundary = boundary(this.stage, (event) => this.place(event).x / this.view.pane.width);
    listenForGestures(this.stage, this.view, {
      place: (event) => this.place(event),
      slide: (x) => this.mode === "slider" && this.boundary.move(x / this.view.pane.width),
      onkey: { x: () => this.swap(), "[": () => this.step(-1), "]": () => this.step(1) },
    });
    new ResizeObserver(() => this.layout()).observe(this.stage);
    this.strip = filmstrip(this.set, this.pictured.images, (image) => this.choose(image));
    this.toolbar = viewerToolbar(this);
    this.legend = h("div", { class: "legend" });
    this.details = h("div");
    const parts = [this.strip.element, this.toolbar.element, this.stage, this.legend, viewerHints(), this.details];
    this.element = h("div", { class: "viewer" }, parts);
  }

  setMode(mode) {
    this.mode = mode;
    this.show();
  }

  setDifferences(on) {
    this.differences = on;
    this.show();
  }

  /** Show another image; keeps codecs, zoom and place where the new one has them. */
  choose(image) {
    this.image = image;
    this.strip.choose(image);
    if (!this.variants.includes(this.a)) [this.a] = this.variants;
    if (!this.variants.includes(this.b)) this.b = this.variants.find((variant) => variant !== this.a);
    this.show();
  }

  step(by) {
    const { images } = this.pictured;
    this.choose(images[(images.indexOf(this.image) + by + images.length) % images.length]);
    announce(this.set.images[this.image].id);
  }

  pick(side, variant) {
    this[side] = variant;
    this.show();
  }

  swap() {
    [this.a, this.b] = [this.b, this.a];
    this.show();
  }

  /** Show an image with one variant as B, from elsewhere on the page. */
  showVariant(image, variant) {
    if (!this.pictured.images.includes(image)) return;
    if (this.pictured.variants(image).includes(variant)) this.b = variant;
    this.choose(image);
    this.element.scrollIntoView({ block: "start" });
    this.stage.focus({ preventScroll: true });
  }

  /** Lay out the panes and load what they show; what was asked for before and comes later is dropped. */
  async show() {
    this.turn += 1;
    const { turn } = this;
    const { width, height } = this.set.images[this.image];
    const shown = this.mode === "all" ? this.variants : [this.a, this.b];
    this.toolbar.update();
    this.arrange(shown);
    this.view.setImage(width, height);
    this.drawDetails();
    const sources = await this.sources(shown);
    if (turn !== this.turn) return;
    this.panes.forEach((pane, index) => {
      pane.source = sources[index];
    });
    this.draw();
    performance.mark("latentcodec-pictures");
  }

  /** A pane for each variant. */
  arrange(shown) {
    while (this.panes.length < shown.length) this.panes.push(new Pane());
    this.panes.length = shown.length;
    this.stage.classList.remove(...MODES.map(({ value }) => value));
    this.stage.classList.add(this.mode);
    const handle = this.mode === "slider" ? [this.boundary.element] : [];
    this.stage.replaceChildren(...this.panes.map((pane) => pane.element), ...handle);
    shown.forEach((variant, index) => {
      const name = this.pictured.name(variant);
      const title = this.mode === "all" ? name : `${"AB"[index]}: ${name}`;
      this.panes[index].setCaption(title, this.pictured.summary(this.image, variant), this.pictured.colour(variant));
    });
    this.layout();
  }

  /** Pictures, or maps where there are some; the colours of all maps of an image mean the same. */
  async sources(shown) {
    const pictures = shown.map((variant) => picture(this.pictured.picture(this.image, variant)));
    this.legend.hidden = !this.differences;
    if (!this.differences) return Promise.all(pictures);
    const { image, pictured } = this;
    const mapped = this.variants.filter(
      (variant) => variant !== ORIGINAL && pictured.row(image, variant).difference !== null,
    );
    const { width } = this.set.images[image];
    const load = async (variant) => [variant, await errorMap(pictured.row(image, variant).difference, width)];
    const maps = new Map(await Promise.all(mapped.map(load)));
    const full = this.full === "auto" ? fullScale([...maps.values()]) : Number(this.full);
    const { block } = maps.size ? maps.values().next().value : { block: 1 };
    this.legend.replaceChildren(
      ...heatLegend(this.full, full, block, (value) => {
        this.full = value;
        this.show();
      }),
    );
    return Promise.all(
      shown.map((variant, index) => (maps.has(variant) ? heatPicture(maps.get(variant), full) : pictures[index])),
    );
  }

  /** Sizes of panes, and so of the stage, from the width that there is. */
  layout() {
    const wide = this.stage.clientWidth;
    if (!wide || !this.panes.length) return;
    const { width, height } = this.set.images[this.image];
    const columns = { slider: 1, pair: wide < 560 && width > height ? 1 : 2, all: columnsFor(this.panes.length, wide) }[
      this.mode
    ];
    const each = (wide - (columns - 1) * GAP) / columns;
    const most = window.innerHeight * (this.mode === "slider" || columns > 1 ? 0.74 : 0.4);
    const high = Math.round(Math.min(Math.max((each * height) / width, 120), Math.max(most, 200)));
    this.stage.style.setProperty("--columns", columns);
    this.stage.style.setProperty("--high", `${high}px`);
    if (each !== this.view.pane.width || high !== this.view.pane.height) this.view.setPane(each, high);
  }

  viewChanged() {
    this.toolbar.showZoom(this.view.zoom);
    this.stage.classList.toggle("zoomed", !this.view.fitted);
    this.draw();
  }

  /** Of a pointer, in the pane that it is over. */
  place(event) {
    const box = this.stage.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const within = (at, size) => ((at % size) + size) % size;
    return this.mode === "slider"
      ? { x, y }
      : { x: within(x, this.view.pane.width + GAP), y: within(y, this.view.pane.height + GAP) };
  }

  /** What each codec made of this image. */
  drawDetails() {
    const rows = this.variants
      .filter((variant) => variant !== ORIGINAL)
      .map((variant) => this.pictured.row(this.image, variant));
    const { id, width, height } = this.set.images[this.image];
    const table = sortableTable({
      caption: `Codecs on ${id}`,
      columns: scoreColumns(this.set, rows, (row) => this.codecButton(row.variant)),
      rows,
      compact: true,
      rowClass: ({ variant }) => (variant === this.a || variant === this.b ? "chosen" : null),
    });
    this.details.replaceChildren(h("h3", {}, id, h("small", {}, ` ${width} × ${height}`)), table.element);
  }

  codecButton(variant) {
    const name = this.pictured.name(variant);
    const dot = h("i", { class: "dot", vars: { "--c": this.pictured.colour(variant) } });
    return button([dot, name], () => this.pick("b", variant), { class: "name", title: `Show ${name} as B` });
  }
}

/** So many columns of at least 250 pixels that few places stay empty. */
function columnsFor(count, wide) {
  const most = Math.max(1, Math.min(count, Math.floor(wide / 250)));
  const empty = (columns) => (columns - (count % columns)) % columns;
  const choices = [most, most - 1, most - 2].filter((columns) => columns > 1);
  return choices.length ? choices.reduce((best, columns) => (empty(columns) < empty(best) ? columns : best)) : 1;
}
