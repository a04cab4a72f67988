// Which part of a picture is seen. All panes of the viewer share one view, so that every codec is seen at the same
// place and at the same size.

const MOST_ZOOM = 32;
const MOST_FIT = 8;
const LEAST_SHARE = 0.5;

class View {
  /** `onchange` is called whenever something else is to be seen. */
  constructor(onchange) {
    this.onchange = onchange;
    this.pane = { width: 1, height: 1 };
    this.image = { width: 1, height: 1 };
    this.fitted = true;
    this.zoom = 1;
    this.x = 0.5;
    this.y = 0.5;
  }

  /** Pixels of the page for one of the picture when all of it is seen. */
  get fit() {
    return Math.min(this.pane.width / this.image.width, this.pane.height / this.image.height, MOST_FIT);
  }

  setPane(width, height) {
    this.pane = { width, height };
    this.settle();
  }

  /** A picture of another size is seen whole; of the same size, at the same place. */
  setImage(width, height) {
    if (width !== this.image.width || height !== this.image.height) this.fitted = true;
    this.image = { width, height };
    this.settle();
  }

  showAll() {
    this.fitted = true;
    this.settle();
  }

  /** Zoom to so many pixels of the page for one of the picture; the point of the pane (px, py) stays where it is. */
  zoomTo(zoom, px = this.pane.width / 2, py = this.pane.height / 2) {
    const wanted = Math.min(Math.max(zoom, Math.min(1, this.fit * LEAST_SHARE)), MOST_ZOOM);
    const [dx, dy] = [px - this.pane.width / 2, py - this.pane.height / 2];
    this.x += (dx / this.zoom - dx / wanted) / this.image.width;
    this.y += (dy / this.zoom - dy / wanted) / this.image.height;
    this.zoom = wanted;
    this.fitted = false;
    this.settle();
  }

  /** Move the picture by pixels of the screen. */
  pan(dx, dy) {
    if (this.fitted) return;
    this.x -= dx / this.zoom / this.image.width;
    this.y -= dy / this.zoom / this.image.height;
    this.settle();
  }

  /** Keep the picture in the pane. */
  settle() {
    if (this.fitted) {
      this.zoom = this.fit;
      [this.x, this.y] = [0.5, 0.5];
    }
    const keep = (at, pane, size) => {
      const half = pane / (2 * size * this.zoom);
      return half >= 0.5 ? 0.5 : Math.min(Math.max(at, half), 1 - half);
    };
    this.x = keep(this.x, this.pane.width, this.image.width);
    this.y = keep(this.y, this.pane.height, this.image.height);
    this.onchange();
  }

  /** Where the whole picture lies in the pane: {left, top, width, height}. */
  get frame() {
    const [width, height] = [this.image.width * this.zoom, this.image.height * this.zoom];
    return { left: this.pane.width / 2 - this.x * width, top: this.pane.height / 2 - this.y * height, width, height };
  }
}

/** A canvas with a caption; shows whatever can be drawn, stretched over the view's frame. */
class Pane {
  constructor() {
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.caption = h("div", { class: "pane-caption" });
    this.element = h("div", { class: "pane" }, this.canvas, this.caption);
    this.source = null;
  }

  setCaption(title, detail, colour) {
    this.caption.replaceChildren(
      h("strong", { vars: { "--c": colour || "transparent" } }, colour ? h("i", { class: "dot" }) : null, title),
      detail ? h("span", {}, detail) : "",
    );
  }

  draw(view) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(view.pane.width * ratio), Math.round(view.pane.height * ratio)];
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.source) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const natural = this.source.naturalWidth || this.source.width;
    const { left, top, width: wide, height: high } = view.frame;
    // Large pixels stay squares: what is compared is the pictures, not the browser's interpolation.
    context.imageSmoothingEnabled = (wide * ratio) / natural < 2;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.source, left, top, wide, high);
  }
}
