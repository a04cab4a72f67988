// Things to choose with: native radio buttons, checkboxes and menus, so that keyboards and screen readers know them.

/** One of several, side by side. Options: [{value, label, title?}]. */
function segmented(label, options, value, onchange) {
  const name = freshId("choice");
  const group = h("div", { class: "segmented", role: "radiogroup", "aria-label": label });
  for (const option of options) {
    const input = h("input", { type: "radio", name, value: option.value, checked: option.value === value });
    input.addEventListener("change", () => onchange(option.value));
    group.append(h("label", { title: option.title }, input, h("span", {}, option.label)));
  }
  return group;
}

/** One of several, from a menu. Options: [{value, label}]; values are text. */
function menu(label, options, value, onchange) {
  // Named by itself: the text of a label around a menu takes in all of the menu's options.
  const select = h("select", { "aria-label": label });
  fillMenu(select, options, value);
  select.addEventListener("change", () => onchange(select.value));
  return { element: h("label", { class: "menu" }, h("span", {}, label), select), select };
}

function fillMenu(select, options, value) {
  select.replaceChildren(...options.map((option) => h("option", { value: option.value }, option.label)));
  select.value = value;
}

/**
 * Any number of several. Options: [{value, label, colour, marker, dashed}]; `chosen` is a Set that this keeps up to
 * date.
 */
function chips(label, options, chosen, onchange, intro = null) {
  const group = h(
    "fieldset",
    { class: "chips" },
    h("legend", { class: "unseen" }, label),
    intro ? h("span", { class: "note" }, intro) : null,
  );
  for (const option of options) {
    const input = h("input", { type: "checkbox", value: option.value, checked: chosen.has(option.value) });
    input.addEventListener("change", () => {
      if (input.checked) chosen.add(option.value);
      else chosen.delete(option.value);
      onchange();
    });
    group.append(
      h("label", { class: "chip", vars: { "--c": option.colour } }, input, swatch(option), h("span", {}, option.label)),
    );
  }
  return group;
}

/** A line and a mark, as the plot draws them. */
function swatch({ marker = 0, dashed = false }) {
  return s(
    "svg",
    { class: "swatch", viewBox: "0 0 26 12", width: 26, height: 12, "aria-hidden": "true" },
    s("line", { x1: 1, x2: 25, y1: 6, y2: 6, class: dashed ? "curve dashed" : "curve" }),
    s("path", { d: markerPath(marker, 13, 6, 4), class: "mark" }),
  );
}

function toggle(label, checked, onchange) {
  const input = h("input", { type: "checkbox", role: "switch", checked });
  input.addEventListener("change", () => onchange(input.checked));
  return h("label", { class: "toggle" }, input, h("span", {}, label));
}

function button(label, onclick, properties = {}) {
  return h("button", { type: "button", onclick, ...properties }, label);
}
