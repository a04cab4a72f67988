// A table that sorts by any of its columns.

/**
 * Columns: {title, hint, value(row): number, text or null, cell(row): node or text, numeric, first: "ascending" or
 * "descending", highlight: mark the best}. `first` is the order of the first click and, for `highlight`, what is best.
 * Rows without a value come last in either order. More than `limit` rows are shown on request.
 */
function sortableTable({ caption, columns, rows, sort = null, limit = 100, rowClass = () => null, compact = false }) {
  const state = { rows, column: sort ? columns[sort.column] : null, order: sort ? sort.order : null, all: false };
  const body = h("tbody");
  const more = button(
    "",
    () => {
      state.all = true;
      draw();
    },
    { class: "quiet" },
  );
  const headers = columns.map((column) => header(column));
  const table = h(
    "table",
    { class: compact ? "compact" : null },
    h("caption", { class: "unseen" }, caption),
    h("thead", {}, h("tr", {}, headers)),
    body,
  );
  const scroller = h("div", { class: "scroller", role: "region", "aria-label": caption, tabindex: 0 }, table);

  function header(column) {
    const arrow = h("span", { class: "arrow", "aria-hidden": "true" });
    const click = () => {
      const other = state.order === "ascending" ? "descending" : "ascending";
      state.order = state.column === column ? other : column.first || "ascending";
      state.column = column;
      draw();
      announce(`${caption}: sorted by ${column.title}, ${state.order}`);
    };
    return h(
      "th",
      { scope: "col", class: column.numeric ? "number" : null, title: column.hint },
      button([column.title, arrow], click),
    );
  }

  function draw() {
    columns.forEach((column, index) => {
      headers[index].setAttribute("aria-sort", column === state.column ? state.order : "none");
    });
    const sorted = state.column ? sortedRows(state.rows, state.column, state.order) : state.rows;
    const best = columns.map((column) =>
      column.highlight && state.rows.length > 1 ? bestOf(state.rows, column) : null,
    );
    const shown = state.all ? sorted : sorted.slice(0, limit);
    body.replaceChildren(...shown.map((row) => line(row, best)));
    const hidden = sorted.length - shown.length;
    more.hidden = hidden === 0;
    more.textContent = `Show ${plural(hidden, "more row")}`;
  }

  function line(row, best) {
    return h(
      "tr",
      { class: rowClass(row) },
      columns.map((column, index) => {
        const content = column.cell ? column.cell(row) : column.value(row);
        const isBest = best[index] !== null && column.value(row) === best[index];
        const properties = { class: [column.numeric ? "number" : "", isBest ? "best" : ""].join(" ").trim() || null };
        const cell =
          column === columns[0] ? h("th", { scope: "row", ...properties }, content) : h("td", properties, content);
        if (isBest) cell.append(h("span", { class: "unseen" }, " (best)"));
        return cell;
      }),
    );
  }

  draw();
  return {
    element: h("div", { class: "table" }, scroller, more),
    update(newRows) {
      state.rows = newRows;
      draw();
    },
    redraw: draw,
  };
}

function sortedRows(rows, column, order) {
  const sign = order === "descending" ? -1 : 1;
  return [...rows].sort((a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    if (typeof x === "string" || typeof y === "string")
      return sign * String(x).localeCompare(String(y), "en", { numeric: true });
    return x === y ? 0 : sign * (x < y ? -1 : 1);
  });
}

function bestOf(rows, column) {
  const values = rows
    .map((row) => column.value(row))
    .filter((value) => typeof value === "number" && !Number.isNaN(value));
  if (values.length < 2 || values.every((value) => value === values[0])) return null;
  return column.first === "ascending" ? Math.min(...values) : Math.max(...values);
}
