// Panels: a drawing with its finding, its table, how it was made, and what can be taken along. Drawn when seen, and again when
// what it reads has changed while it is seen.
const panels = [];
const inView = new Set();
const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const own = target.panel;
      if (isIntersecting) inView.add(own);
      else inView.delete(own);
      if (isIntersecting && own.stale) drawPanel(own);
    }
  },
  { rootMargin: "160px" },
);

/**
 * A panel into a place. `draw(box, width)` fills the box; `reads` are the parts of the state that it depends on; `cursor` marks
 * drawings over steps, in which a line moves and nothing is drawn anew; `table()` gives {columns, rows} of what is drawn.
 */
function panel(place, own) {
  const finding = el("p", { class: "finding" }),
    box = el("div", { class: "drawing" });
  const menu = el(
    "button",
    {
      class: "more",
      type: "button",
      "aria-haspopup": "menu",
      "aria-expanded": "false",
      "aria-label": `take along: ${own.title}`,
      onclick: () => openMenu(own, menu),
    },
    "\u22ef",
  );
  const more = el("div", { class: "below" });
  own.box = box;
  own.finding_ = finding;
  own.stale = true;
  own.node = el(
    "article",
    { class: `panel ${own.kind || ""}`, id: own.id, "aria-labelledby": `${own.id}-title` },
    el(
      "header",
      {},
      el(own.level || "h3", { id: `${own.id}-title` }, own.title, own.sub ? el("small", {}, " ", own.sub) : null),
      menu,
    ),
    finding,
    own.controls || null,
    box,
    more,
  );
  if (own.table) more.append(folded("Table", (inside) => inside.append(tableOf(own.table())), own));
  if (own.change) more.append(folded("What would change this", (inside) => inside.append(el("p", {}, own.change))));
  if (own.method) more.append(folded("How it is made", (inside) => inside.append(el("p", {}, ...explained(own.method)))));
  own.node.panel = own;
  panels.push(own);
  place.append(own.node);
  watcher.observe(own.node);
  return own;
}
/** Details that are filled when they are opened; those of a table again when it changes. */
function folded(name, fill, own) {
  const inside = el("div", { class: "scroll", tabindex: "-1" }),
    node = el("details", { "data-name": name }, el("summary", { tabindex: "-1" }, name), inside);
  const again = () => {
    inside.replaceChildren();
    fill(inside);
  };
  node.addEventListener("toggle", () => {
    if (node.open) again();
  });
  if (own)
    own.refill = () => {
      if (node.open) again();
    };
  return node;
}
function drawPanel(own) {
  own.stale = false;
  const width = Math.max(240, own.box.clientWidth || 600);
  own.width = width;
  const said = own.finding ? own.finding() : null;
  own.finding_.replaceChildren(...(Array.isArray(said) ? said : said ? [said] : []));
  if (own.update && own.box.firstChild && own.drawnAt === width) own.update(own.box, width);
  else {
    own.box.replaceChildren();
    own.draw(own.box, width);
    own.drawnAt = width;
  }
  [...own.box.querySelectorAll('.grid [tabindex="0"]')].slice(1).forEach((cell) => cell.setAttribute("tabindex", "-1"));
  if (own.cursor) placeCursors(own);
  if (own.move) own.move();
  if (own.refill) own.refill();
}
function placeCursors(own) {
  own.lines_ = [...own.box.querySelectorAll("svg")]
    .filter((svg) => svg.scale && svg.scale("x"))
    .map((svg) => {
      const scale = svg.scale("x"),
        y = svg.scale("y");
      const [top, bottom] = y ? [Math.min(...y.range), Math.max(...y.range)] : [18, svg.height.baseVal.value - 34];
      const line = el("line", { class: "cursor", y1: top - 4, y2: bottom });
      svg.append(line);
      return { line, scale };
    });
  moveCursors(own);
}
function moveCursors(own) {
  const x = stepNow();
  for (const { line, scale } of own.lines_ || []) {
    const at_ = scale.apply(x);
    line.setAttribute("x1", at_);
    line.setAttribute("x2", at_);
  }
}
let due = null;
onChange((changed) => {
  for (const own of panels) {
    if (changed.includes("step") && own.cursor && !own.reads.includes("step")) moveCursors(own);
    if (changed.includes("step") && own.move && own.drawnAt) own.move();
    if (own.reads.some((key) => changed.includes(key))) own.stale = true;
  }
  if (due === null)
    due = requestAnimationFrame(() => {
      due = null;
      for (const own of inView) if (own.stale) drawPanel(own);
    });
});
let resized = null;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(
    () =>
      panels.forEach((own) => {
        if (own.box.clientWidth && own.box.clientWidth !== own.width) {
          own.stale = true;
          if (inView.has(own)) drawPanel(own);
        }
      }),
    120,
  );
});
/** Draw all that is seen anew: the colours of maps are not the style's. */
function drawAgain() {
  for (const own of panels) {
    own.stale = true;
    own.drawnAt = null;
    if (inView.has(own)) drawPanel(own);
  }
}
/** To a place of the page: what lies before it is drawn first, or the place would move while it is being scrolled to. */
function goTo(node, smooth = true) {
  for (const own of panels) {
    if (
      own.stale &&
      own.node.compareDocumentPosition(node) &
        (Node.DOCUMENT_POSITION_FOLLOWING | Node.DOCUMENT_POSITION_CONTAINS | Node.DOCUMENT_POSITION_CONTAINED_BY)
    )
      drawPanel(own);
  }
  const still = !smooth || matchMedia("(prefers-reduced-motion: reduce)").matches;
  node.scrollIntoView({ behavior: still ? "auto" : "smooth" });
}
addEventListener("beforeprint", () =>
  panels.forEach((own) => {
    if (own.stale) drawPanel(own);
  }),
);

// ---- tables ------------------------------------------------------------------------------------------------------------
/** {columns: [name, …], rows: [[cell, …], …]}: a cell is text, a number, or {value, low, high}. */
function tableOf({ columns, rows, caption }, most = 400) {
  const cell = (x, i) => {
    const text =
      x && typeof x === "object"
        ? ranged(x)
        : typeof x === "number"
          ? Number.isInteger(x)
            ? whole(x)
            : fixed(x, 3)
          : known(x)
            ? String(x)
            : DASH;
    return i ? el("td", { class: typeof x === "string" ? "words" : null }, text) : el("th", { scope: "row" }, text);
  };
  return el(
    "table",
    {},
    caption ? el("caption", {}, caption) : null,
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        columns.map((c) => el("th", { scope: "col" }, c)),
      ),
    ),
    el(
      "tbody",
      {},
      rows.slice(0, most).map((row) => el("tr", {}, row.map(cell))),
    ),
    rows.length > most
      ? el(
          "tfoot",
          {},
          el(
            "tr",
            {},
            el("td", { colspan: columns.length }, `${plural(rows.length - most, "row")} more are in the CSV file`),
          ),
        )
      : null,
  );
}
// ---- words explained: a term is told on focus and on hover ----------------------------------------------------------------
const term = (word, as = word) => (TERMS[word] ? el("span", { class: "term", tabindex: "-1", "data-term": word }, as) : as);
/** `[[faithfulness]]` in a text is a term. */
function explained(text) {
  return text.split(/\[\[(.+?)\]\]/).map((piece, i) => (i % 2 ? term(piece) : piece));
}
