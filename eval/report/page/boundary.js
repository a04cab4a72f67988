// The line between A and B, with its handle.

/**
 * {element, move(share)}. `stage` gets the place as the CSS variable --split; `place(event)` is the share that a pointer
 * is at.
 */
function boundary(stage, place) {
  let share = 0.5;
  const element = h(
    "div",
    {
      class: "handle",
      role: "slider",
      tabindex: 0,
      "aria-label": "Boundary between A and B",
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      "aria-orientation": "horizontal",
    },
    h("span", { "aria-hidden": "true" }, "‹ ›"),
  );

  function move(to) {
    share = Math.min(Math.max(to, 0), 1);
    const percentage = Math.round(100 * share);
    stage.style.setProperty("--split", `${100 * share}%`);
    element.setAttribute("aria-valuenow", percentage);
    element.setAttribute("aria-valuetext", `${percentage} % A`);
  }

  element.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 0.1 : 0.02;
    const places = {
      ArrowLeft: share - step,
      ArrowDown: share - step,
      ArrowRight: share + step,
      ArrowUp: share + step,
      PageDown: share - 0.1,
      PageUp: share + 0.1,
      Home: 0,
      End: 1,
    };
    if (!(event.key in places)) return;
    event.preventDefault();
    event.stopPropagation();
    move(places[event.key]);
  });
  element.addEventListener("pointerdown", (event) => {
    event.stopPropagation();
    element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointermove", (event) => {
    if (element.hasPointerCapture(event.pointerId)) move(place(event));
  });
  element.addEventListener("dblclick", (event) => event.stopPropagation());
  move(share);
  return { element, move };
}
