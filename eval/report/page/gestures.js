// Mouse, fingers and keys on the stage of the viewer.

const STEP = 60;

/** Wheel zooms where the stage has the focus, and with Ctrl anywhere; otherwise it scrolls the page as usual. */
function listenForGestures(stage, view, { place, slide, onkey }) {
  const pointers = new Map();
  let before = null;

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.target.closest("button")) return;
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    before = centre(pointers);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    pointers.set(event.pointerId, place(event));
    const now = centre(pointers);
    if (pointers.size === 1 && view.fitted) slide(place(event).x);
    else {
      view.pan(now.x - before.x, now.y - before.y);
      if (now.apart && before.apart) view.zoomTo((view.zoom * now.apart) / before.apart, now.x, now.y);
    }
    before = now;
  });
  const end = (event) => {
    pointers.delete(event.pointerId);
    before = centre(pointers);
  };
  stage.addEventListener("pointerup", end);
  stage.addEventListener("pointercancel", end);
  stage.addEventListener("dblclick", (event) => {
    const { x, y } = place(event);
    if (view.fitted) view.zoomTo(Math.max(1, Math.ceil(view.fit * 2)), x, y);
    else view.showAll();
  });
  stage.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey && !stage.contains(document.activeElement)) return;
      event.preventDefault();
      const { x, y } = place(event);
      view.zoomTo(view.zoom * 2 ** (-event.deltaY / (event.deltaMode ? 8 : 240)), x, y);
    },
    { passive: false },
  );
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = keyActions(view)[event.key] || onkey[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

function keyActions(view) {
  return {
    "+": () => view.zoomTo(view.zoom * Math.SQRT2),
    "=": () => view.zoomTo(view.zoom * Math.SQRT2),
    "-": () => view.zoomTo(view.zoom / Math.SQRT2),
    0: () => view.showAll(),
    1: () => view.zoomTo(1),
    ArrowLeft: () => view.pan(STEP, 0),
    ArrowRight: () => view.pan(-STEP, 0),
    ArrowUp: () => view.pan(0, STEP),
    ArrowDown: () => view.pan(0, -STEP),
  };
}

/** The middle of all pointers, and how far two are apart. */
function centre(pointers) {
  const all = [...pointers.values()];
  const mean = (key) => all.reduce((sum, one) => sum + one[key], 0) / (all.length || 1);
  return {
    x: mean("x"),
    y: mean("y"),
    apart: all.length === 2 ? Math.hypot(all[0].x - all[1].x, all[0].y - all[1].y) : null,
  };
}
