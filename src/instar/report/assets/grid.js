// Maps of heads with one stop of the keyboard, and selects that set a part of the state.
/** A select that sets a part of the state. */
function choice(key, words, options) {
  const select = el(
    "select",
    { "aria-label": words, onchange: () => set({ [key]: select.value }) },
    options.map(([value, text]) => el("option", { value }, text)),
  );
  select.value = state[key] || options[0][0];
  onChange((changed) => {
    if (changed.includes(key)) select.value = state[key] || options[0][0];
  });
  return el("label", { class: "control" }, words, " ", select);
}
function grid(
  box,
  width,
  rows,
  columns,
  value,
  limit,
  { label, rowName, columnName, onclick, title, digits = 2, cell = 30 },
) {
  const left = 40,
    w = Math.max(8, Math.min(58, (width - left - 8) / columns)),
    h = Math.max(9, Math.min(24, cell));
  const svg = el("svg", {
    width: left + w * columns + 4,
    height: 20 + h * rows,
    class: "grid",
    role: "group",
    "aria-label": label,
  });
  const text = w >= 30 && h >= 13;
  for (let r = 0; r < rows; r++) {
    if (h > 11 || r % 5 === 0)
      svg.append(el("text", { x: left - 6, y: 18 + h * r + h / 2 + 4, "text-anchor": "end", class: "soft" }, rowName(r)));
    for (let c = 0; c < columns; c++) {
      const own = value(r, c),
        chosen = onclick && onclick.chosen(r, c);
      if (own === undefined) continue;
      const node = el(
        "g",
        {
          class: `cell${chosen ? " chosen" : ""}`,
          tabindex: "-1",
          role: onclick ? "button" : "img",
          "data-row": r,
          "data-column": c,
          "aria-label": `${title(r, c)}: ${fixed(own, digits)}`,
        },
        el("rect", { x: left + w * c, y: 18 + h * r, width: w - 1, height: h - 1, fill: mapColour(own, limit) }),
        text && known(own) && Math.abs(own) >= 0.05 * limit
          ? el(
              "text",
              {
                x: left + w * (c + 0.5),
                y: 18 + h * r + h / 2 + 4,
                "text-anchor": "middle",
                style: `fill:${onColour(own, limit)}`,
              },
              fixed(own, digits),
            )
          : null,
        el("title", {}, `${title(r, c)}: ${fixed(own, 3)}`),
      );
      if (onclick) node.addEventListener("click", () => onclick(r, c));
      svg.append(node);
    }
  }
  for (let c = 0; c < columns; c++)
    if (w > 16 || c % 4 === 0)
      svg.append(el("text", { x: left + w * (c + 0.5), y: 12, "text-anchor": "middle", class: "soft" }, columnName(c)));
  roving(svg, onclick);
  box.append(svg);
  return svg;
}
/** One tab stop for a grid; arrow keys move in it. */
function roving(svg, onclick) {
  const cells = [...svg.querySelectorAll(".cell")];
  if (!cells.length) return;
  (svg.querySelector(".cell.chosen") || cells[0]).setAttribute("tabindex", onclick ? "0" : "-1");
  svg.addEventListener("keydown", (event) => {
    const mark = event.target.closest(".cell"),
      by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!mark) return;
    const [r, c] = [+mark.dataset.row, +mark.dataset.column];
    if (by) {
      const next = svg.querySelector(`.cell[data-row="${r + by[0]}"][data-column="${c + by[1]}"]`);
      // From one map's edge to the next map of the same panel.
      const maps = [...svg.closest(".drawing").querySelectorAll("svg.grid")],
        other = !next && by[1] && maps[maps.indexOf(svg) + by[1]],
        row = other ? [...other.querySelectorAll(`.cell[data-row="${r}"]`)] : [],
        to = next || row[by[1] > 0 ? 0 : row.length - 1];
      if (to) {
        mark.setAttribute("tabindex", "-1");
        to.setAttribute("tabindex", "0");
        to.focus();
      }
    } else if (onclick && (event.key === "Enter" || event.key === " ")) {
      onclick(r, c);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
}
