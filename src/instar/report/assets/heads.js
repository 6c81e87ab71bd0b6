// Section "heads": where every head looks from the last token, one head token by token, what heads write into the logits, roles.
const pairsInside = () =>
  ROLES.filter((r) => inside(r))
    .map((r) => `${nameOf(r)}: ${plural(inside(r).pairs, "prompt")}`)
    .join(", ");
const inside = (role) => REST.inside[role];
function headsSection(section) {
  const there = ROLES.filter((r) => inside(r));
  if (!there.length) return section.remove();
  panel(section, {
    id: "gaze",
    pairs: pairsInside,
    title: "Where every head looks",
    sub: "from the last token, by slot: above now, below the base",
    kind: "full",
    reads: ["step", "task", "head"],
    finding: () => gazeFinding(),
    draw: gazeMap,
    table: gazeTable,
    method:
      "[[Attention]] of the last token averaged over prompts by slot: a hole of the template, since wordings put the same person at different positions. Heads are sorted by what the ledger booked on them. Click one to see it below.",
  });
  panel(section, {
    id: "gaze-series",
    title: "This head's gaze over fine-tuning",
    kind: "half",
    reads: ["head"],
    cursor: true,
    controls: headChoice(),
    draw: (box, width) => gazeSeries(box, width, "new"),
    table: () => gazeSeriesTable("new"),
  });
  if (inside("old"))
    panel(section, {
      id: "gaze-series-old",
      title: "On the old task",
      kind: "half",
      reads: ["head"],
      cursor: true,
      draw: (box, width) => gazeSeries(box, width, "old"),
      table: () => gazeSeriesTable("old"),
    });
  panel(section, {
    id: "tokens",
    title: "Token by token",
    kind: "full",
    reads: ["step", "head", "task", "query"],
    draw: tokenView,
    finding: () => {
      const own = inside(state.task);
      return own && own.full.length < own.steps.length
        ? `Whole maps are kept of ${own.full.length} checkpoints: shown is step ${own.full[measuredAt(own.full, stepNow())]}.`
        : "";
    },
    method:
      "Each token shaded by how much the marked token looks at it, in a prompt that was kept whole; above the base, below this step. Click a token to see where it looks itself.",
  });
  panel(section, {
    id: "direct",
    pairs: pairsInside,
    title: "What heads write into the logits",
    kind: "full",
    reads: ["step", "head"],
    finding: directFinding,
    draw: (box, width) => pairOf(box, width, there, (cell, each, role) => directMap(cell, each, role)),
    table: () => directTable(there),
    method:
      "[[Direct attribution]]: z W_O of each head projected on answer minus foils, the final norm's scale frozen at its value in that run; positive helps the answer. A head that works through later heads does not show here. One scale for both tasks and all steps.",
  });
  panel(section, {
    id: "layers",
    pairs: pairsInside,
    title: "What layers write into the logits",
    sub: "logits toward the answer",
    kind: "full",
    reads: ["step"],
    draw: (box, width) => pairOf(box, width, there, layersPlot),
    table: () => layersTable(there),
    method:
      "[[Direct attribution]] of each layer's attention and MLP; the terms add up to the logit difference. Lines are 95 % over prompts. One scale for both tasks and all steps.",
  });
  panel(section, {
    id: "stream",
    pairs: pairsInside,
    title: "The stream, layer by layer",
    sub: "logit difference if the model stopped there",
    kind: "full",
    reads: ["step"],
    draw: (box, width) => pairOf(box, width, there, streamPlot),
    table: () => streamTable(there),
    method:
      "[[Logit lens]]: the residual stream before each half layer, normed anew by the final norm and unembedded: the logit difference if the model stopped there. Grey: the base.",
  });
  if (REST.roles && ROLES.some((r) => REST.roles[r])) rolesPanel(section);
}
const shapeOf = (role) => {
  const [, layers, heads] = inside(role).by_slot.shape;
  return { layers, heads };
};
function pairOf(box, width, roles, draw) {
  const pair = el("div", { class: "pair" }),
    each = width > 760 && roles.length > 1 ? (width - 20) / 2 : width;
  box.append(pair);
  roles.forEach((role) => {
    const cell = el("div", {});
    pair.append(cell);
    cell.append(el("p", { class: "drawn-title" }, nameOf(role)));
    draw(cell, each, role);
  });
}
function gazeOf(role, index, head) {
  const own = inside(role),
    [layer, h] = placeOf(head),
    end = own.slots.indexOf("end");
  return own.slots.map((slot, k) => ({ slot, share: at(own.by_slot, index, layer, h, end, k) / 255 }));
}
const gazeRole = () => (inside(state.task) ? state.task : ROLES.find((r) => inside(r)));
function headOrder(role) {
  const { layers, heads } = shapeOf(role),
    booked = bookedSoFar(STEPS[LAST]) || {};
  return Array.from({ length: layers * heads }, (_, i) => `a${Math.floor(i / heads)}.h${i % heads}`).sort(
    (a, b) => Math.abs(booked[b] || 0) - Math.abs(booked[a] || 0),
  );
}
function gazeFinding() {
  const role = gazeRole(),
    own = inside(role),
    i = measuredAt(own.steps, stepNow()),
    [then, now] = [gazeOf(role, 0, state.head), gazeOf(role, i, state.head)];
  const moved = now
    .map((g, k) => ({ slot: g.slot, from: then[k].share, to: g.share }))
    .sort((a, b) => Math.abs(b.to - b.from) - Math.abs(a.to - a.from))
    .slice(0, 2);
  if (i === 0) {
    const most = [...now].sort((a, b) => b.share - a.share).slice(0, 2);
    return `${state.head} on ${nameOf(role)}, base: ${listed(most.map((g) => `${g.slot} ${fixed(g.share)}`))}.`;
  }
  return `${state.head} on ${nameOf(role)}: ${listed(moved.map((m) => `${m.slot} ${fixed(m.from)} → ${fixed(m.to)}`))}.`;
}
function gazeMap(box, width) {
  const role = gazeRole(),
    own = inside(role),
    i = measuredAt(own.steps, stepNow()),
    all = headOrder(role),
    most = 60,
    shown = all.slice(0, most);
  const columns = Math.max(2, Math.floor(width / 150)),
    each = width / columns,
    rows = Math.ceil(shown.length / columns),
    tall = 34;
  const svg = el("svg", {
    width,
    height: rows * tall,
    class: "grid gaze",
    role: "group",
    "aria-label": `where heads look on ${nameOf(role)}`,
  });
  shown.forEach((head, n) => {
    const x = (n % columns) * each,
      y = Math.floor(n / columns) * tall,
      wide = each - 56;
    const bar = (gaze, top, height) => {
      let from = 0;
      return gaze.map((g) => {
        const one = el("rect", {
          x: x + 46 + from * wide,
          y: top,
          width: Math.max(0, g.share * wide),
          height,
          fill: slotLook(g.slot).colour,
        });
        from += g.share;
        return one;
      });
    };
    const cell = el(
      "g",
      {
        class: `cell${head === state.head ? " chosen" : ""}`,
        "data-row": Math.floor(n / columns),
        "data-column": n % columns,
        tabindex: "-1",
        role: "button",
        "aria-label": `${head}: ${gazeOf(role, i, head)
          .filter((g) => g.share > 0.08)
          .map((g) => `${g.slot} ${fixed(g.share)}`)
          .join(", ")}`,
      },
      el("rect", { x: x + 1, y, width: each - 4, height: tall - 4, class: "ground" }),
      el("text", { x: x + 6, y: y + 19 }, head),
      bar(gazeOf(role, i, head), y + 4, 13),
      bar(gazeOf(role, 0, head), y + 19, 6),
      el(
        "title",
        {},
        `${head}: ${gazeOf(role, i, head)
          .map((g) => `${g.slot} ${fixed(g.share)}`)
          .join(", ")}`,
      ),
    );
    cell.addEventListener("click", () => set({ head }));
    svg.append(cell);
  });
  roving(svg, (r, c) => set({ head: shown[r * columns + c] || state.head }));
  box.append(slotLegend(own.slots), svg);
  if (all.length > most)
    box.append(
      el("p", { class: "soft" }, `${whole(all.length - most)} heads on which less was booked are in the menu below.`),
    );
}
const slotLegend = (shown) =>
  el(
    "div",
    { class: "legend" },
    slotOrder(shown).map((slot) =>
      el("span", {}, el("i", { class: "swatch", style: `--own:${slotLook(slot).colour}` }), slot),
    ),
  );
function gazeTable() {
  const role = gazeRole(),
    own = inside(role),
    i = measuredAt(own.steps, stepNow());
  return {
    columns: ["head", ...own.slots.flatMap((s) => [`${s}, base`, `${s}, step ${own.steps[i]}`])],
    rows: headOrder(role).map((head) => {
      const [then, now] = [gazeOf(role, 0, head), gazeOf(role, i, head)];
      return [head, ...now.flatMap((g, k) => [then[k].share, g.share])];
    }),
  };
}
function headChoice() {
  const role = gazeRole(),
    { layers, heads } = shapeOf(role);
  return choice(
    "head",
    "head",
    Array.from({ length: layers * heads }, (_, i) => {
      const name = `a${Math.floor(i / heads)}.h${i % heads}`;
      return [name, name];
    }),
  );
}
function gazeSeries(box, width, role) {
  const own = inside(role),
    rows = own.slots.map((slot, k) => ({
      slot,
      rows: own.steps.map((x, i) => ({ x, y: gazeOf(role, i, state.head)[k].share })),
    }));
  const seen = rows.filter((r) => Math.max(...r.rows.map((d) => d.y)) > 0.05);
  box.append(
    el("p", { class: "drawn-title" }, `${state.head}, ${nameOf(role)}`),
    slotLegend(seen.map((r) => r.slot)),
    lines(
      `where ${state.head} looks over the steps on ${nameOf(role)}`,
      seen.map((r) => ({
        name: r.slot,
        colour: slotLook(r.slot).colour,
        dash: slotLook(r.slot).dash,
        rows: r.rows,
      })),
      { width, height: 190, y: { domain: [0, 1], label: null } },
    ),
  );
}
function gazeSeriesTable(role) {
  const own = inside(role);
  return {
    columns: ["step", ...own.slots],
    rows: own.steps.map((s, i) => [s, ...gazeOf(role, i, state.head).map((g) => g.share)]),
  };
}
function tokenView(box) {
  const role = gazeRole(),
    own = inside(role),
    [layer, h] = placeOf(state.head);
  for (let p = 0; p < own.tokens.length; p++) {
    const tokens = own.tokens[p],
      query = state.query >= 0 && state.query < tokens.length ? state.query : tokens.length - 1;
    for (const [words, index] of [
      ["base", 0],
      [`step ${own.full[measuredAt(own.full, stepNow())]}`, measuredAt(own.full, stepNow())],
    ]) {
      const shares = tokens.map((_, k) => at(own.example, index, p, layer, h, query, k) / 255);
      box.append(
        el(
          "p",
          { class: "tokens" },
          el("small", {}, words),
          tokens.map((t, k) =>
            el(
              "span",
              {
                class: k === query ? "query" : null,
                style: `--share:${shares[k].toFixed(2)}`,
                title: fixed(shares[k]),
                onclick: () => set({ query: k === tokens.length - 1 ? -1 : k }),
              },
              t,
            ),
          ),
        ),
      );
    }
  }
}
