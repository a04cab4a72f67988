// Elements. Nothing on this page is made by parsing HTML: what results say, names of files and codecs among it, only
// ever becomes text or the value of an attribute that is named here.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Properties: `onclick` and the like are listeners, `vars` are CSS variables, all others attributes;
 * null and false leave one out. Children: nodes, text, or null. */
function h(tag, properties = {}, ...children) {
  return furnish(document.createElement(tag), properties, children);
}

/** An SVG element, likewise. */
function s(tag, properties = {}, ...children) {
  return furnish(document.createElementNS(SVG, tag), properties, children);
}

function furnish(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "vars") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) element.append(child);
  return element;
}

/** Says something to screen readers, without moving the focus. */
function announce(text) {
  document.getElementById("status").textContent = text;
}

/** Runs `draw` at most once a frame, however often it is asked for. */
function oncePerFrame(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
}

let lastId = 0;

/** An id for an element, different at each call. */
function freshId(prefix) {
  lastId += 1;
  return `${prefix}-${lastId}`;
}
