// What the viewer is steered with: images in a strip, codecs in menus, how to compare, and the zoom.

const MODES = [
  { value: "slider", label: "Slider" },
  { value: "pair", label: "Side by side" },
  { value: "all", label: "All codecs" },
];

/** {element, choose(image)}: small originals to choose from. */
function filmstrip(set, images, onchange) {
  const name = freshId("image");
  const inputs = new Map();
  const element = h("div", { class: "filmstrip", role: "radiogroup", "aria-label": "Image" });
  for (const image of images) {
    const { id, thumbnail } = set.images[image];
    const input = h("input", { type: "radio", name, checked: image === images[0], "aria-label": id });
    input.addEventListener("change", () => onchange(image));
    const shown = thumbnail
      ? h("img", { src: thumbnail, alt: "", height: 64, decoding: "async" })
      : h("span", { class: "nothumb" }, id);
    element.append(h("label", { title: id }, input, shown));
    inputs.set(image, input);
  }
  return {
    element,
    choose(image) {
      const input = inputs.get(image);
      input.checked = true;
      const [frame, strip] = [input.parentElement.getBoundingClientRect(), element.getBoundingClientRect()];
      if (frame.left < strip.left || frame.right > strip.right)
        element.scrollLeft += frame.left - strip.left - strip.width / 3;
    },
  };
}

/** {element, update(), showZoom(zoom)}: everything else. */
function viewerToolbar(viewer) {
  const menus = {
    a: menu("A", [], "", (value) => viewer.pick("a", Number(value))),
    b: menu("B", [], "", (value) => viewer.pick("b", Number(value))),
  };
  const swap = button("⇄", () => viewer.swap(), { title: "Swap A and B (x)", "aria-label": "Swap A and B" });
  const pair = h("div", { class: "tools" }, menus.a.element, swap, menus.b.element);
  const zoom = h("output", { class: "zoom" });
  const zoomBy = (factor) => () => viewer.view.zoomTo(viewer.view.zoom * factor);
  const zooming = h(
    "div",
    { class: "tools zooming", role: "group", "aria-label": "Zoom" },
    button("−", zoomBy(1 / 2), { "aria-label": "Zoom out", title: "Zoom out (−)" }),
    zoom,
    button("+", zoomBy(2), { "aria-label": "Zoom in", title: "Zoom in (+)" }),
    button("Fit", () => viewer.view.showAll(), { title: "Show all of the picture (0)" }),
    button("1:1", () => viewer.view.zoomTo(1), { title: "A pixel of the picture for a pixel of the page (1)" }),
  );
  const modes = segmented("View", MODES, viewer.mode, (mode) => viewer.setMode(mode));
  const differences = toggle("Difference map", false, (on) => viewer.setDifferences(on));
  return {
    element: h("div", { class: "toolbar" }, modes, pair, differences, zooming),
    update() {
      pair.hidden = viewer.mode === "all";
      const options = viewer.variants.map((variant) => ({
        value: String(variant),
        label: viewer.pictured.name(variant),
      }));
      for (const side of ["a", "b"]) fillMenu(menus[side].select, options, String(viewer[side]));
    },
    showZoom(value) {
      zoom.textContent = `${Math.round(value * 100)} %`;
    },
  };
}

function viewerHints() {
  const keys = (...names) => names.map((name) => h("kbd", {}, name));
  return h(
    "p",
    { class: "hints" },
    "Drag to move the boundary, or the picture when it is zoomed in; pinch, ",
    keys("Ctrl"),
    "+ wheel or double-click to zoom. Keys: ",
    keys("+", "−", "0", "1"),
    "zoom, ",
    keys("←", "→"),
    "move, ",
    keys("x"),
    "swaps A and B, ",
    keys("[", "]"),
    "change the image.",
  );
}
