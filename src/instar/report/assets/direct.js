// What heads and layers write into the logits directly, and the stream by logit lens.
function directLimit() {
  return (REST.directLimit =
    REST.directLimit ||
    Math.max(1e-9, ...ROLES.filter((r) => inside(r)).flatMap((r) => inside(r).heads.value.flat(2).map(Math.abs))));
}
function directMap(box, width, role) {
  const own = inside(role),
    i = measuredAt(own.steps, stepNow()),
    values = own.heads.value[i],
    limit = directLimit(),
    layers = values.length;
  const onclick = (r, c) => set({ head: `a${layers - 1 - r}.h${c}` });
  onclick.chosen = (r, c) => state.head === `a${layers - 1 - r}.h${c}`;
  grid(box, width, layers, values[0].length, (r, c) => values[layers - 1 - r][c], limit, {
    label: `direct attribution of heads on ${nameOf(role)}`,
    rowName: (r) => `L${layers - 1 - r}`,
    columnName: String,
    title: (r, c) => `a${layers - 1 - r}.h${c}`,
    onclick,
    cell: layers > 16 ? 11 : 22,
  });
  box.append(mapKey(limit, "logits toward the answer"));
}
function directFinding() {
  const moved = (REST.changed.heads || {})[nameOf("new")] || [],
    sure = moved.filter((m) => m.moved).slice(0, 3);
  return sure.length
    ? `Moved beyond their simultaneous intervals on ${nameOf("new")}: ${sure.map((m) => `${m.head} ${fixed(m.before)} → ${fixed(m.after)}`).join(", ")}.`
    : `No head's direct contribution to ${nameOf("new")} moved beyond its interval.`;
}
function directTable(there) {
  return {
    columns: ["task", "head", "base (logits)", "this step (logits)"],
    rows: there.flatMap((role) => {
      const own = inside(role),
        i = measuredAt(own.steps, stepNow());
      return own.heads.value[i].flatMap((row, l) =>
        row.map((v, h) => [
          nameOf(role),
          `a${l}.h${h}`,
          [own.heads.value[0][l][h], own.heads.low[0][l][h], own.heads.high[0][l][h]],
          [v, own.heads.low[i][l][h], own.heads.high[i][l][h]],
        ]),
      );
    }),
  };
}
function streamPlot(box, width, role) {
  const own = inside(role),
    i = measuredAt(own.steps, stepNow());
  const name = (stage) =>
    stage === "final" ? own.stages.length / 2 : +stage.split("_")[0] + (stage.endsWith("mid") ? 0.5 : 0);
  const rows = (s) =>
    own.stages
      .map((stage, k) => ({
        x: name(stage),
        y: own.stream.value[s][k],
        low: own.stream.low[s][k],
        high: own.stream.high[s][k],
      }))
      .sort((a, b) => a.x - b.x);
  const all = ROLES.filter((r) => inside(r)).flatMap((r) => [
    ...inside(r).stream.low.flat(),
    ...inside(r).stream.high.flat(),
  ]);
  box.append(
    lines(
      `logit lens of ${nameOf(role)}`,
      [
        { name: "base", colour: "var(--faint)", rows: rows(0).map(({ x, y }) => ({ x, y })), width: 2 },
        {
          name: `step ${own.steps[i]}`,
          colour: taskColour[role],
          dash: taskDash[role],
          rows: rows(i),
          marker: role === "old" ? "square" : "circle",
        },
      ],
      {
        width,
        height: 200,
        x: { label: "before layer", ticks: 8 },
        y: { label: null, domain: [Math.min(...all), Math.max(...all)] },
        rules: [Plot.ruleY([0], { stroke: "var(--line)" })],
      },
    ),
  );
}
function streamTable(there) {
  return {
    columns: ["task", "stage", "base (logits)", "this step (logits)"],
    rows: there.flatMap((role) => {
      const own = inside(role),
        i = measuredAt(own.steps, stepNow());
      return own.stages.map((stage, k) => [
        nameOf(role),
        stage,
        ...[0, i].map((s) => [own.stream.value[s][k], own.stream.low[s][k], own.stream.high[s][k]]),
      ]);
    }),
  };
}
/** Of each layer its attention and its MLP; the base as an empty dot. */
function layersPlot(box, width, role) {
  const own = inside(role),
    i = measuredAt(own.steps, stepNow()),
    parts = ["attention", "MLP"];
  const rows = own.layers.value[i].flatMap((row, l) =>
    row.map((y, p) => ({
      l: l + (p ? 0.14 : -0.14),
      p,
      y,
      low: own.layers.low[i][l][p],
      high: own.layers.high[i][l][p],
      base: own.layers.value[0][l][p],
    })),
  );
  const all = ROLES.filter((r) => inside(r)).flatMap((r) => [
    ...inside(r).layers.low.flat(2),
    ...inside(r).layers.high.flat(2),
  ]);
  const colour = (d) => (d.p ? "var(--mlp)" : taskColour[role]);
  box.append(
    el(
      "div",
      { class: "legend" },
      el("span", {}, `\u25cf attention`),
      el("span", {}, `\u25a0 MLP`),
      el("span", {}, `\u25cb base`),
    ),
    plot(`direct attribution of layers on ${nameOf(role)}`, {
      width,
      height: 200,
      x: {
        label: "layer",
        labelArrow: "none",
        domain: [-0.5, own.layers.value[i].length - 0.5],
        ticks: Math.min(16, own.layers.value[i].length),
        tickFormat: "d",
      },
      y: { label: null, grid: true, domain: [Math.min(0, ...all), Math.max(0, ...all)] },
      marks: [
        Plot.ruleY([0], { stroke: "var(--soft)" }),
        Plot.dot(rows, { x: "l", y: "base", stroke: "var(--faint)", r: 3, symbol: (d) => parts[d.p] }),
        Plot.link(rows, { x1: "l", x2: "l", y1: "low", y2: "high", stroke: colour, strokeWidth: 1.6 }),
        Plot.dot(rows, {
          x: "l",
          y: "y",
          fill: colour,
          r: 3.4,
          symbol: (d) => parts[d.p],
          title: (d) => `L${Math.round(d.l)} ${parts[d.p]}: ${ranged([d.y, d.low, d.high])}; base ${fixed(d.base)}`,
          tip: true,
        }),
      ],
      symbol: { domain: parts, range: ["circle", "square"] },
    }),
  );
}
function layersTable(there) {
  return {
    columns: ["task", "layer", "part", "base (logits)", "this step (logits)"],
    rows: there.flatMap((role) => {
      const own = inside(role),
        i = measuredAt(own.steps, stepNow()),
        of = (s, l, p) => ["value", "low", "high"].map((k) => own.layers[k][s][l][p]);
      return own.layers.value[i].flatMap((row, l) =>
        row.map((_, p) => [nameOf(role), l, p ? "MLP" : "attention", of(0, l, p), of(i, l, p)]),
      );
    }),
  };
}
