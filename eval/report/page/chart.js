// Curves in a plane, drawn as SVG at the width that there is. The nearest point is told under the mouse, under a
// finger, and with the arrow keys.

const LABEL_GAP = 15;

/**
 * A chart in a figure. `update` takes {label, x, y, series, levels, onpick}:
 *   x, y      {label, log, format(value), domain: to be covered too}; y may instead have `categories`, names of lines
 *   series    [{name, colour, marker, dashed, joined, points}]; `unnamed`: without a label at its end; `bare`: without
 *             marks; points: [{x, y, low, high, title, details: [text], data}]
 *   levels    [{name, colour, y}]: lines across
 *   legend    [{name, colour, marker}]: shown above the plot
 *   related   (point, point): whether one is marked when the other is looked at
 *   onpick    called with the `data` of a point that is clicked, if it has some
 */
function chart({ height = 380 } = {}) {
  const tip = h("div", { class: "tip", hidden: true });
  const plane = h("div", { class: "plane", tabindex: 0, role: "group", "aria-roledescription": "chart" });
  const legend = h("div", { class: "key" });
  const element = h("figure", { class: "chart" }, legend, plane, tip);
  let spec = null;
  let drawn = null;
  let active = null;

  const redraw = oncePerFrame(() => {
    if (!spec || !plane.clientWidth) return;
    drawn = drawChart(spec, plane.clientWidth, Math.min(height, Math.max(240, plane.clientWidth * 0.75)));
    plane.replaceChildren(drawn.svg);
    legend.replaceChildren(
      ...(spec.legend || []).map((one) => h("span", { vars: { "--c": one.colour } }, swatch(one), one.name)),
    );
    show(null);
  });
  new ResizeObserver(redraw).observe(plane);

  function show(place) {
    active = place;
    drawn.highlight(place);
    tip.hidden = place === null;
    if (place === null) return;
    const { series, point } = place;
    tip.replaceChildren(
      h("strong", { vars: { "--c": series.colour } }, h("i", { class: "dot" }), point.title || series.name),
      ...(point.details || []).map((text) => h("span", {}, text)),
    );
    const left = place.px + 14 + tip.offsetWidth > plane.clientWidth ? place.px - 14 - tip.offsetWidth : place.px + 14;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${plane.offsetTop + Math.max(0, place.py - tip.offsetHeight - 10)}px`;
  }

  function nearest(event) {
    const box = plane.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = null;
    for (const place of drawn.places) {
      const distance = Math.hypot(place.px - x, place.py - y);
      if (distance < 48 && (best === null || distance < best.distance)) best = { place, distance };
    }
    return best && best.place;
  }

  function pick(place) {
    if (place && place.point.data !== undefined && spec.onpick) spec.onpick(place.point.data);
  }

  plane.addEventListener("pointermove", (event) => drawn && show(nearest(event)));
  plane.addEventListener("pointerleave", () => drawn && show(null));
  plane.addEventListener("click", (event) => drawn && pick(nearest(event)));
  plane.addEventListener("keydown", (event) => {
    if (!drawn || !drawn.places.length) return;
    if (event.key === "Escape") show(null);
    else if (event.key === "Enter") pick(active);
    else if (event.key.startsWith("Arrow")) {
      show(neighbour(drawn.places, active, event.key));
      announce([active.series.name, active.point.title, ...(active.point.details || [])].filter(Boolean).join(", "));
    } else return;
    event.preventDefault();
  });
  return {
    element,
    update(newSpec) {
      spec = newSpec;
      plane.setAttribute("aria-label", `${spec.label}. Arrow keys go from point to point.`);
      redraw();
    },
  };
}

/** The point that an arrow key leads to: left and right along a curve, up and down to the next curve. */
function neighbour(places, active, key) {
  if (active === null) return places[0];
  const along = places.filter((place) => place.series === active.series);
  if (key === "ArrowRight" || key === "ArrowLeft") {
    const index = along.indexOf(active) + (key === "ArrowRight" ? 1 : -1);
    return along[Math.min(Math.max(index, 0), along.length - 1)];
  }
  const all = [...new Set(places.map((place) => place.series))];
  const next = all[(all.indexOf(active.series) + (key === "ArrowDown" ? 1 : all.length - 1)) % all.length];
  const there = places.filter((place) => place.series === next);
  return there.reduce((best, place) => (Math.abs(place.px - active.px) < Math.abs(best.px - active.px) ? place : best));
}

/** {svg, places: [{series, point, px, py}], highlight(place)} */
function drawChart(spec, width, height) {
  const { series, levels = [] } = spec;
  const labelled = width > 620 && !spec.legend && (series.some((one) => one.joined) || levels.length > 0);
  const longest = Math.max(0, ...[...series, ...levels].filter((one) => !one.unnamed).map((one) => one.name.length));
  const area = {
    left: 0,
    top: 12,
    right: width - (labelled ? Math.min(190, 22 + longest * 6.6) : 12),
    bottom: height - 42,
  };
  const finite = series
    .flatMap((one) => one.points)
    .filter((point) => Number.isFinite(point.x) && Number.isFinite(point.y));
  const ys = [
    ...finite.flatMap((point) => [point.y, point.low, point.high]),
    ...levels.map((level) => level.y),
    ...(spec.y.domain || []),
  ];
  const y = spec.y.categories
    ? categoryScale(spec.y.categories, area)
    : scaleOf(extent(ys, spec.y.log), [area.bottom, area.top], spec.y);
  const ticks = y.ticks.map((tick) => (spec.y.format || significant)(tick));
  area.left = spec.y.categories ? Math.min(170, width * 0.3) : 32 + 7 * Math.max(...ticks.map((text) => text.length));
  const x = scaleOf(
    extent([...finite.map((point) => point.x), ...(spec.x.domain || [])], spec.x.log),
    [area.left, area.right],
    spec.x,
  );
  const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  svg.append(axes(spec, area, x, y));
  for (const level of levels)
    svg.append(
      s("line", {
        class: "level",
        x1: area.left,
        x2: area.right,
        y1: y.of(level.y),
        y2: y.of(level.y),
        vars: { "--c": level.colour },
      }),
    );
  const places = [];
  const groups = new Map();
  for (const one of series) {
    const points = one.points
      .filter((point) => finite.includes(point))
      .map((point) => ({ series: one, point, px: x.of(point.x), py: y.of(point.y) }));
    places.push(...points);
    groups.set(one, drawCurve(one, points, y));
    svg.append(groups.get(one));
  }
  if (!finite.length)
    svg.append(s("text", { x: (area.left + area.right) / 2, y: height / 2, class: "empty" }, "nothing to show"));
  if (labelled) svg.append(endLabels(series, levels, places, y, area));
  const ring = s("path", { class: "ring", d: "" });
  svg.append(ring);
  const highlight = (place) => {
    svg.classList.toggle("focused", place !== null);
    for (const [one, group] of groups) group.classList.toggle("active", place !== null && place.series === one);
    const related = places.filter(
      (other) => other === place || (place && spec.related && spec.related(other.point, place.point)),
    );
    ring.setAttribute(
      "d",
      related
        .map((other) => markerPath(other.series.marker || 0, other.px, other.py, other === place ? 7.5 : 6))
        .join(""),
    );
  };
  return { svg, places, highlight };
}

/** A line for each name, from the top. */
function categoryScale(names, area) {
  const step = (area.bottom - area.top) / names.length;
  return { of: (value) => area.top + (value + 0.5) * step, ticks: names.map((_, index) => index) };
}

function extent(values, log) {
  const usable = values.filter((value) => Number.isFinite(value) && (!log || value > 0));
  if (!usable.length) return log ? [0.1, 1] : [0, 1];
  return [usable.reduce((a, b) => Math.min(a, b)), usable.reduce((a, b) => Math.max(a, b))];
}

function axes(spec, area, x, y) {
  const group = s("g", { class: "axes" });
  for (const tick of y.ticks) {
    group.append(s("line", { x1: area.left, x2: area.right, y1: y.of(tick), y2: y.of(tick) }));
    const text = spec.y.categories
      ? shortened(spec.y.categories[tick], Math.floor(area.left / 7))
      : (spec.y.format || significant)(tick);
    group.append(s("text", { x: area.left - 8, y: y.of(tick) + 4, "text-anchor": "end" }, text));
  }
  for (const tick of x.ticks) {
    group.append(s("line", { x1: x.of(tick), x2: x.of(tick), y1: area.top, y2: area.bottom }));
    group.append(
      s("text", { x: x.of(tick), y: area.bottom + 18, "text-anchor": "middle" }, (spec.x.format || significant)(tick)),
    );
  }
  group.append(
    s(
      "text",
      { class: "title", x: (area.left + area.right) / 2, y: area.bottom + 37, "text-anchor": "middle" },
      spec.x.label,
    ),
  );
  if (spec.y.categories) return group;
  const middle = (area.top + area.bottom) / 2;
  group.append(
    s(
      "text",
      { class: "title", transform: `translate(12 ${middle}) rotate(-90)`, "text-anchor": "middle" },
      spec.y.label,
    ),
  );
  return group;
}

function drawCurve(one, points, y) {
  const group = s("g", { class: "series", vars: { "--c": one.colour } });
  if (one.joined && points.length > 1) {
    const path = points
      .map((place, index) => `${index ? "L" : "M"}${place.px.toFixed(1)},${place.py.toFixed(1)}`)
      .join("");
    group.append(s("path", { class: one.dashed ? "curve dashed" : "curve", d: path }));
  }
  if (one.bare) return group;
  for (const { point, px, py } of points) {
    if (Number.isFinite(point.low) && Number.isFinite(point.high)) {
      group.append(s("line", { class: "whisker", x1: px, x2: px, y1: y.of(point.low), y2: y.of(point.high) }));
    }
    group.append(s("path", { class: "mark", d: markerPath(one.marker || 0, px, py, one.size || 3.8) }));
  }
  return group;
}

/** Names at the right ends of curves and lines, moved apart where they would overlap. */
function endLabels(series, levels, places, y, area) {
  const ends = [];
  for (const one of series.filter((each) => each.joined && !each.unnamed)) {
    const own = places.filter((place) => place.series === one);
    if (own.length)
      ends.push({ name: one.name, colour: one.colour, x: own[own.length - 1].px, y: own[own.length - 1].py });
  }
  for (const level of levels) ends.push({ name: level.name, colour: level.colour, x: area.right, y: y.of(level.y) });
  const at = spreadLabels(
    ends.map((end) => end.y),
    LABEL_GAP,
    area.top + 6,
    area.bottom,
  );
  const group = s("g", { class: "labels" });
  ends.forEach((end, index) => {
    const far = Math.abs(end.x - area.right) > 24 || Math.abs(at[index] - end.y) > 4;
    if (far)
      group.append(
        s("path", {
          class: "lead",
          d: `M${end.x + 6},${end.y}L${area.right + 4},${at[index]}`,
          vars: { "--c": end.colour },
        }),
      );
    group.append(
      s("text", { x: area.right + 8, y: at[index] + 4, vars: { "--c": end.colour } }, shortened(end.name, 26)),
    );
  });
  return group;
}

function shortened(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}
