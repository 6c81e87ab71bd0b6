// Section "prompts": every held-out prompt at every checkpoint, as a barcode and as a table; a click makes one the page's prompt.
const SAID_COLOURS = {
  answer: "var(--right)",
  "giver 1": "var(--said1)",
  "giver 2": "var(--said2)",
  "no name": "var(--said4)",
  "end of text": "var(--ink)",
};
const saidColour = (name) => SAID_COLOURS[name] || "var(--said3)";
function promptsSection(section) {
  const there = ROLES.filter((r) => REST.prompts[r]);
  if (!there.length) return section.remove();
  panel(section, {
    id: "barcode",
    title: "Every held-out prompt",
    sub: "a row each",
    kind: "full",
    reads: ["task", "sort", "prompt"],
    move: moveBarcode,
    controls: choice("sort", "sorted by", [
      ["learnt", "when learnt"],
      ["place", "the answer's place"],
      ["wording", "wording"],
    ]),
    finding: () => promptsFinding(),
    draw: barcode,
    table: () => promptsTable(1e9),
    method:
      "Each row is a prompt, each column a checkpoint; the colour is what the model would say next (the top token). A click makes a prompt the page's.",
  });
  const filters = el(
    "div",
    { class: "filters" },
    el(
      "label",
      { class: "control" },
      "search ",
      el("input", { type: "search", value: state.find, oninput: (event) => set({ find: event.target.value }) }),
    ),
    choice("show", "show", [
      ["all", "all"],
      ["wrong", "wrong at this step"],
      ["forgotten", "once right, wrong at the end"],
      ["never", "never right"],
      ["flips", "changed more than once"],
    ]),
  );
  panel(section, {
    id: "prompts-table",
    title: "One by one",
    kind: "full",
    reads: ["task", "step", "find", "show", "sort", "prompt"],
    controls: filters,
    finding: () =>
      `${plural(chosenPrompts().length, "prompt")} of ${whole(promptsOf(state.task) ? promptsOf(state.task).rows.length : 0)}.`,
    draw: promptList,
    table: () => promptsTable(1e9),
  });
  panel(section, {
    id: "prompt-series",
    title: "The chosen prompt's logit difference",
    kind: "half",
    reads: ["task", "prompt"],
    cursor: true,
    draw: promptSeries,
    table: () => {
      const own = promptsOf(state.task),
        pair = Math.min(state.prompt, own.rows.length - 1);
      return {
        columns: ["step", "logit difference", "right"],
        rows: own.steps.map((s, i) => [s, at(own.hundredths, i, pair) / 100, at(own.right, i, pair)]),
      };
    },
  });
  panel(section, {
    id: "groups",
    title: "By the answer's place and by wording",
    kind: "half",
    reads: ["task", "step"],
    draw: groupsPlot,
    table: groupsTable,
  });
}
function facts(own) {
  return (own.facts =
    own.facts ||
    own.rows.map((_, pair) => {
      const right = own.steps.map((_, s) => at(own.right, s, pair));
      return {
        learnt: learntAt(own, pair),
        first: right[0],
        ever: right.some(Boolean),
        last: right[right.length - 1],
        flips: right.slice(1).filter((r, i) => r !== right[i]).length,
      };
    }));
}
function promptOrder(own) {
  const all = facts(own),
    number = (l) => (l === null ? 1e9 : l);
  const by = { learnt: () => 0, place: (i) => own.rows[i][3], wording: (i) => own.rows[i][4] }[state.sort] || (() => 0);
  return own.rows.map((_, i) => i).sort((a, b) => by(a) - by(b) || number(all[a].learnt) - number(all[b].learnt) || a - b);
}
function promptsFinding() {
  const own = promptsOf(state.task);
  if (!own) return `The prompts of ${nameOf(state.task)} are not kept one by one.`;
  const all = facts(own),
    count = (f) => all.filter(f).length;
  const said = [
    [count((f) => f.first && !f.flips), "right at every step"],
    [count((f) => f.first && f.last && f.flips), "right at both ends only"],
    [count((f) => !f.first && f.last), "learnt (wrong at first, right at the end)"],
    [count((f) => f.first && !f.last), "lost"],
    [count((f) => !f.first && !f.last && f.ever), "right on the way only"],
    [count((f) => !f.ever), "never right"],
  ];
  return `${nameOf(state.task)}: ${said
    .filter(([n]) => n)
    .map(([n, words]) => `${whole(n)} ${words}`)
    .join(", ")}; ${whole(count((f) => f.flips > 1))} changed more than once.`;
}
function barcode(box, width) {
  const own = promptsOf(state.task);
  if (!own) return;
  const order = promptOrder(own),
    tall = Math.min(320, Math.max(120, order.length)),
    left = 44,
    wide = width - left - 14;
  const canvas = el("canvas", {
    width: own.steps.length,
    height: order.length,
    style: `margin-left:${left}px;width:${wide}px;height:${tall}px`,
    class: "barcode",
    role: "img",
    "aria-label": promptsFinding(),
    tabindex: "-1",
  });
  const c = canvas.getContext("2d"),
    style = getComputedStyle(document.documentElement),
    image = c.createImageData(own.steps.length, order.length);
  const colours = own.said_names.map((n) => rgbOf(style.getPropertyValue(saidColour(n).slice(4, -1))));
  order.forEach((pair, y) =>
    own.steps.forEach((_, x) => {
      const [r, g, b] = colours[at(own.said, x, pair)],
        i = 4 * (y * own.steps.length + x);
      image.data.set([r, g, b, 255], i);
    }),
  );
  c.putImageData(image, 0, 0);
  canvas.addEventListener("click", (event) => {
    const place = canvas.getBoundingClientRect();
    set({ prompt: order[Math.floor(((event.clientY - place.top) / place.height) * order.length)] });
  });
  const chosen = order.indexOf(Math.min(state.prompt, own.rows.length - 1));
  const used = own.said_names.filter((_, k) => unpack(own.said).values.includes(k));
  // Of a linear axis each checkpoint's column is as wide as any other: columns are checkpoints, not steps.
  box.append(
    el(
      "div",
      { class: "legend" },
      used.map((n) =>
        el("span", {}, el("i", { class: "swatch", style: `--own:${saidColour(n)}` }), n === "answer" ? "the answer" : n),
      ),
    ),
    el(
      "div",
      { class: "codebox" },
      canvas,
      el("i", { class: "column" }),
      el("i", { class: "mark", style: `top:${((chosen + 0.5) / order.length) * tall}px;left:${left - 10}px` }),
    ),
    el(
      "p",
      { class: "soft ends" },
      el("span", {}, `step ${own.steps[0]}`),
      el("span", {}, `step ${own.steps[own.steps.length - 1]}`),
    ),
  );
}
function moveBarcode() {
  const column = this.box.querySelector(".column"),
    own = promptsOf(state.task),
    canvas = this.box.querySelector("canvas");
  if (column)
    column.style.left = `${44 + ((measuredAt(own.steps, stepNow()) + 0.5) / own.steps.length) * parseFloat(canvas.style.width)}px`;
}
function rgbOf(text) {
  const m = /#(\w\w)(\w\w)(\w\w)/.exec(text.trim());
  return m ? m.slice(1).map((h) => parseInt(h, 16)) : [128, 128, 128];
}
function chosenPrompts() {
  const own = promptsOf(state.task);
  if (!own) return [];
  const all = facts(own),
    here = measuredAt(own.steps, stepNow()),
    find = state.find.toLowerCase();
  const shown =
    {
      all: () => true,
      wrong: (i) => !at(own.right, here, i),
      forgotten: (i) => all[i].ever && !all[i].last,
      never: (i) => !all[i].ever,
      flips: (i) => all[i].flips > 1,
    }[state.show] || (() => true);
  return promptOrder(own).filter(
    (i) => shown(i) && (!find || `${own.rows[i][0]} ${own.rows[i][1]}`.toLowerCase().includes(find)),
  );
}
function promptList(box) {
  const own = promptsOf(state.task);
  if (!own) return;
  const all = facts(own),
    here = measuredAt(own.steps, stepNow()),
    rows = chosenPrompts(),
    most = 60;
  box.append(
    el(
      "div",
      { class: "scroll list", tabindex: "0", role: "region", "aria-label": "the list of prompts" },
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            ["number", "prompt", "answer", "says now", "base said", "right from", "logit difference"].map((c, i) =>
              el("th", { scope: "col", class: i === 1 ? "words" : null }, c),
            ),
          ),
        ),
        el(
          "tbody",
          {},
          rows.slice(0, most).map((i) => {
            const row = own.rows[i];
            return el(
              "tr",
              { class: i === state.prompt ? "chosen" : null, onclick: () => set({ prompt: i }) },
              el(
                "td",
                {},
                el(
                  "button",
                  { type: "button", tabindex: "-1", "aria-label": `${i + 1}: make it the page's prompt` },
                  String(i + 1),
                ),
              ),
              el("td", { class: "words" }, sentence(row)),
              el("td", {}, row[1]),
              el("td", { class: at(own.right, here, i) ? "right" : "wrong" }, saidOf(own, row, here, i)),
              el("td", {}, saidOf(own, row, 0, i)),
              el("td", {}, all[i].learnt === null ? "not" : String(all[i].learnt)),
              el("td", {}, fixed(at(own.hundredths, here, i) / 100)),
            );
          }),
        ),
      ),
    ),
    ...(rows.length > most
      ? [el("p", { class: "soft onscreen" }, `The first ${most} are shown; the CSV file has all.`)]
      : []),
  );
}
function promptsTable(most) {
  const own = promptsOf(state.task);
  if (!own) return { columns: [], rows: [] };
  const all = facts(own),
    here = measuredAt(own.steps, stepNow());
  return {
    columns: [
      "number",
      "prompt",
      "answer",
      "foils",
      "answer's place",
      "wording",
      "base said",
      "says at this step",
      "right from step",
      "logit difference (logits)",
    ],
    rows: promptOrder(own)
      .slice(0, most)
      .map((i) => {
        const row = own.rows[i];
        return [
          i + 1,
          row[0],
          row[1],
          row[2].join(" "),
          row[3] + 1,
          own.wordings[row[4]],
          saidOf(own, row, 0, i),
          saidOf(own, row, here, i),
          all[i].learnt === null ? "not" : all[i].learnt,
          at(own.hundredths, here, i) / 100,
        ];
      }),
  };
}
function promptSeries(box, width) {
  const own = promptsOf(state.task);
  if (!own) return;
  const pair = Math.min(state.prompt, own.rows.length - 1);
  box.append(
    el("p", { class: "drawn-title" }, `prompt ${pair + 1}`),
    lines(
      `logit difference of prompt ${pair + 1}`,
      [
        {
          name: `prompt ${pair + 1}`,
          colour: taskColour[state.task],
          dash: taskDash[state.task],
          rows: own.steps.map((x, i) => ({ x, y: at(own.hundredths, i, pair) / 100 })),
          marker: "circle",
        },
      ],
      { width, height: 170, y: { label: null }, rules: [Plot.ruleY([0], { stroke: "var(--soft)" })] },
    ),
  );
}
function groupRows() {
  const own = promptsOf(state.task);
  if (!own) return [];
  const here = measuredAt(own.steps, stepNow()),
    groups = new Map();
  own.rows.forEach((row, i) => {
    for (const name of [`place ${row[3] + 1}`, own.wordings.length > 1 ? own.wordings[row[4]] : null])
      if (name) {
        const g = groups.get(name) || [0, 0, 0];
        g[0] += at(own.right, here, i);
        g[1] += at(own.right, 0, i);
        g[2] += 1;
        groups.set(name, g);
      }
  });
  return [...groups].map(([name, [now, then, n]]) => ({ name, now: wilson(now, n), then: wilson(then, n), n }));
}
function wilson(right, n) {
  const z = 1.959963984540054,
    p = right / n,
    middle = (p + (z * z) / (2 * n)) / (1 + (z * z) / n),
    half = (z * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n))) / (1 + (z * z) / n);
  return [p, Math.max(0, Math.min(p, middle - half)), Math.min(1, Math.max(p, middle + half))];
}
function groupsPlot(box, width) {
  const rows = groupRows(),
    short = (name) => (name.length > 34 ? `${name.slice(0, 33)}…` : name);
  const shown = [
    ...rows.filter((r) => r.name.startsWith("place ")),
    ...rows
      .filter((r) => !r.name.startsWith("place "))
      .sort((a, b) => a.now[0] - b.now[0])
      .slice(0, 8),
  ];
  const series = [
    { key: "then", words: "base", colour: "var(--soft)", symbol: "square", hollow: true },
    { key: "now", words: "this step", colour: taskColour[state.task], symbol: "circle" },
  ];
  box.append(
    shareLegend(series),
    dots(
      "accuracy by the answer's place and by wording",
      shown.map((r) => ({ name: short(r.name), values: r })),
      series,
      {
        width,
        x: { domain: [0, 1], label: "accuracy", tickFormat: (x) => percent(x, 0) },
      },
    ),
  );
}
const groupsTable = () => ({
  columns: ["group", "prompts", "base", "this step"],
  rows: groupRows().map((r) => [r.name, r.n, r.then, r.now]),
});
