// Section "circuit": both tasks side by side, faithfulness, reuse, circuits beside no change and beside chance.
function circuitSection(section) {
  if (!ROLES.some(hasCircuits)) return section.remove();
  const groups = [...new Set(ROLES.filter(hasCircuits).flatMap((r) => Object.keys(circuitsOf(r).groups)))];
  panel(section, {
    id: "both",
    pairs: pairsOfCircuits,
    title: "Both tasks side by side",
    kind: "full",
    reads: ["step", "vs", "group", "n", "f", "pins", "groups"],
    finding: () => ROLES.filter(hasCircuits).flatMap((role) => [el("span", { class: "line" }, ...circuitFinding(role))]),
    draw: (box, width) => {
      const pair = el("div", { class: "pair" });
      box.append(circuitLegend(), pair);
      ROLES.filter(hasCircuits).forEach((role) => {
        const own = el("div", {});
        pair.append(own);
        own.append(el("p", { class: "drawn-title" }, nameOf(role)));
        drawCircuit(own, Math.min(width, width > 760 ? (width - 20) / 2 : width), role);
      });
    },
    update: (box) => box.querySelectorAll("svg.circuit").forEach(updateCircuit),
    table: () => {
      const tables = ROLES.filter(hasCircuits).map((r) => [nameOf(r), circuitTable(r)]);
      return {
        columns: ["task", ...tables[0][1].columns],
        rows: tables.flatMap(([name, t]) => t.rows.map((row) => [name, ...row])),
      };
    },
    change:
      "Another number of edges, other counterfactuals (the controls of the circuit above), more pairs to score on (measure.circuit_pairs).",
  });
  panel(section, {
    id: "faithfulness",
    pairs: pairsOfCircuits,
    title: "How much circuits of each size keep",
    sub: "faithfulness",
    reads: ["step", "group"],
    kind: "full",
    finding: () => {
      const role = state.task,
        own = hasCircuits(role) && circuitsOf(role).groups[groupOf(role)];
      if (!own) return "";
      const i = indexAt(role, stepNow()),
        size = own.size[i];
      return known(size)
        ? `${nameOf(role)}, ${groupOf(role)} changed: ${plural(size, "edge")} keep at least 0.85 of the effect at step ${circuitsOf(role).steps[i]}.`
        : `${nameOf(role)}: ${whyNone(role, i)}.`;
    },
    draw: (box, width) => {
      const pair = el("div", { class: "pair" });
      box.append(pair);
      const each = width > 760 ? (width - 20) / 2 : width;
      ROLES.filter(hasCircuits).forEach((role) => {
        const cell = el("div", {});
        pair.append(cell);
        faithfulnessPlot(cell, each, role);
      });
    },
    table: () => {
      const rows = [];
      for (const role of ROLES.filter(hasCircuits)) {
        const own = circuitsOf(role).groups[groupOf(role)],
          i = indexAt(role, stepNow());
        own.kept[i].forEach((n, j) =>
          rows.push([nameOf(role), n, [own.faithfulness[i][j], own.low[i][j], own.high[i][j]], own.random[i][j]]),
        );
      }
      return { columns: ["task", "edges", "faithfulness", "random edges"], rows };
    },
    method:
      "[[faithfulness]] = (m(circuit) − c)/(b − c) on other pairs than those that edges were scored on; all other edges carry the corrupted prompt's values. Grey: random edges, as many. The band is 95 %.",
    change: "More pairs make the band narrower (measure.circuit_pairs).",
  });
  if (A && Object.values(A.reuse).some((o) => o.curve && o.curve.length))
    panel(section, {
      id: "reuse",
      title: "Where the new skill runs",
      sub: "share of the effect, each circuit alone",
      kind: "full",
      reads: [],
      finding: () =>
        Object.entries(A.reuse)
          .map(([name, o]) => `${name}: ${o.word}, reuse ${ranged(o.reuse)}`)
          .join("; ") + ".",
      draw: (box, width) => reusePlot(box, width),
      table: () => ({
        columns: [
          "counterfactual",
          "word",
          "edges",
          "reuse",
          "old circuit alone",
          "new circuit alone",
          "floor",
          "ceiling",
          "lost without the old circuit's edges",
        ],
        rows: Object.entries(A.reuse).map(([name, o]) => [
          name,
          o.word,
          `${o.edges} of ${o.of}`,
          o.reuse,
          o.old,
          o.new,
          o.floor,
          o.ceiling,
          o.necessity,
        ]),
      }),
      method:
        "Circuits of equal numbers of edges alone in the tuned model on the new task. [[reuse]] = (old − floor)/(ceiling − floor): the floor is the old circuit with its heads permuted or another task's circuit, whichever does more; the ceiling the new task's own circuit, made again from other pairs: above 1 the old circuit does more than that one. The word is given at one size (the vertical line) and at twice as many edges; both circuits do less below it.",
      change:
        "A floor near the ceiling: any circuit of that size does it, and the word stays open. More pairs, another seed.",
    });
  const d = REST.diff;
  if (d && d.cells && d.cells.length)
    panel(section, {
      id: "overlap",
      title: "Circuits beside no change and beside chance",
      sub: "edges scored on all counterfactuals together",
      kind: "full",
      reads: [],
      finding: () => {
        const c = d.cells[0];
        return `${c.a} and ${c.b}: ${plural(c.similarity.edges.shared, "edge")} of ${c.similarity.edges.a} and ${c.similarity.edges.b} in common (Jaccard ${fixed(c.similarity.edges.jaccard)}; by chance at most ${fixed(c.chance.edges.jaccard_high)}${below(d, c)}).`;
      },
      draw: (box, width) => overlapPlot(box, width, d),
      table: () => overlapTable(d),
      method:
        "[[Jaccard]] of the edges of two circuits, beside what no change looks like (the first circuit made again from resampled pairs: grey range) and beside two random sets of the same sizes (cross). Only an overlap below the grey range is anything to explain.",
      change: (d.missing || []).join("; ") || null,
    });
  return groups;
}
function faithfulnessPlot(box, width, role) {
  const own = circuitsOf(role).groups[groupOf(role)],
    i = indexAt(role, stepNow()),
    floor = 0.7;
  const rows = (index) =>
    own.kept[index]
      .map((n, j) => ({
        x: Math.max(floor, n),
        y: own.faithfulness[index][j],
        low: own.low[index][j],
        high: own.high[index][j],
        random: own.random[index][j],
      }))
      .filter((r) => known(r.y));
  box.append(
    el("p", { class: "drawn-title" }, `${nameOf(role)}, ${groupOf(role)} changed, step ${circuitsOf(role).steps[i]}`),
  );
  const drawn = rows(i);
  if (!drawn.length) return box.append(el("p", { class: "none" }, whyNone(role, i)));
  box.append(
    plot(`faithfulness of circuits of ${nameOf(role)} by number of edges`, {
      width,
      height: 220,
      x: { type: "log", label: "edges", labelArrow: "none", grid: true },
      y: { label: null, domain: [-0.1, 1.15], clamp: true, grid: true },
      marks: [
        Plot.ruleY([0, 1], { stroke: "var(--line)" }),
        Plot.ruleY([0.85], { stroke: "var(--soft)", strokeDasharray: "2 3" }),
        Plot.lineY(rows(0), { x: "x", y: "y", stroke: "var(--faint)", strokeWidth: 2 }),
        Plot.lineY(drawn, { x: "x", y: "random", stroke: "var(--soft)", strokeDasharray: "1 3" }),
        Plot.areaY(drawn, { x: "x", y1: "low", y2: "high", fill: taskColour[role], fillOpacity: 0.16 }),
        Plot.lineY(drawn, { x: "x", y: "y", stroke: taskColour[role], strokeDasharray: taskDash[role] }),
        Plot.dot(drawn, {
          x: "x",
          y: "y",
          r: 2.5,
          fill: taskColour[role],
          title: (r) => `${whole(r.x)} edges: ${ranged([r.y, r.low, r.high])}\nrandom ${fixed(r.random)}`,
          tip: true,
        }),
      ],
    }),
    el(
      "div",
      { class: "legend" },
      el("span", {}, el("i", { class: role }), "this step"),
      el("span", {}, el("i", { class: "faintline" }), "step 0"),
      el("span", {}, el("i", { class: "dotted" }), "random edges"),
    ),
  );
}
function reusePlot(box, width) {
  const pair = el("div", { class: "pair" }),
    all = Object.entries(A.reuse).filter(([, o]) => o.curve.length);
  box.append(pair);
  all.forEach(([name, o]) => {
    const cell = el("div", {}),
      rows = o.curve.map(([x, old, own]) => ({ x, old, new: own }));
    const each = width > 760 && all.length > 1 ? (width - 20) / 2 : width;
    pair.append(cell);
    cell.append(
      el("p", { class: "drawn-title" }, `${name} changed: ${o.word}`),
      plot(`what the old and the new circuit do alone, ${name} changed`, {
        width: each,
        height: 210,
        x: { type: "log", label: "edges", labelArrow: "none", grid: true },
        y: { label: null, grid: true },
        marks: [
          Plot.ruleY([0], { stroke: "var(--line)" }),
          known(o.floor) ? Plot.ruleY([o.floor], { stroke: "var(--soft)", strokeDasharray: "1 3" }) : null,
          known(o.ceiling) ? Plot.ruleY([o.ceiling], { stroke: "var(--soft)", strokeDasharray: "8 3" }) : null,
          Plot.ruleX([o.edges], { stroke: "var(--line)" }),
          ...ROLES.flatMap((r) => [
            known(o[r].low)
              ? Plot.ruleX([o.edges], { y1: o[r].low, y2: o[r].high, stroke: taskColour[r], strokeWidth: 2 })
              : null,
            Plot.lineY(rows, { x: "x", y: r, stroke: taskColour[r], strokeDasharray: taskDash[r] }),
            Plot.dot(rows, {
              x: "x",
              y: r,
              fill: taskColour[r],
              r: 2.6,
              symbol: r === "old" ? "square" : "circle",
              title: (row) => `${r === "old" ? "old" : "new"} circuit of ${whole(row.x)} edges: ${fixed(row[r])}`,
              tip: true,
            }),
          ]),
        ].filter(Boolean),
      }),
      el(
        "div",
        { class: "legend" },
        el("span", {}, el("i", { class: "old" }), "the old task's circuit"),
        el("span", {}, el("i", { class: "new" }), "the new task's"),
        known(o.ceiling) ? el("span", {}, el("i", { class: "longdash" }), "ceiling: the new one from other pairs") : null,
        el("span", {}, el("i", { class: "dotted" }), `floor: ${o.floor_is || "circuits of that size"}`),
      ),
    );
  });
}
/** Names, or as many of them as the summary keeps, and how many more there are. */
function someOf(own) {
  const names = Array.isArray(own) ? own : own.names,
    count = Array.isArray(own) ? own.length : own.count;
  return !count ? "none" : names.join(", ") + (count > names.length ? ` and ${whole(count - names.length)} more` : "");
}
/** Whether an overlap lies below what no change looks like. */
function below(d, c) {
  const floor = ((d.floors[c.a] || {}).resampled || {}).edges_jaccard || {};
  return !known(floor.low)
    ? ""
    : `; ${c.similarity.edges.jaccard < floor.low ? "less than" : "no less than"} the same circuit from other pairs, ${fixed(floor.low)} to ${fixed(floor.high)}`;
}
function overlapPlot(box, width, d) {
  const rows = d.cells.map((c) => {
    const floor = ((d.floors[c.a] || {}).resampled || {}).edges_jaccard || {};
    return {
      name: `${c.a} → ${c.b}`,
      value: c.similarity.edges.jaccard,
      low: floor.low,
      high: floor.high,
      chance: c.chance.edges.jaccard_high,
    };
  });
  const fitted = fitting(rows, width);
  box.append(
    plot("edges that two circuits share, beside resampling and chance", {
      width,
      height: 50 + 26 * fitted.length,
      marginLeft: marginFor(fitted, width),
      x: { domain: [0, 1], label: "Jaccard of edges", labelArrow: "none", grid: true },
      y: { domain: fitted.map((r) => r.name), label: null, type: "point", padding: 0.6 },
      marks: [
        Plot.link(
          fitted.filter((r) => known(r.low)),
          { x1: "low", x2: "high", y1: "name", y2: "name", stroke: "var(--faint)", strokeWidth: 9 },
        ),
        Plot.dot(fitted, { x: "chance", y: "name", symbol: "times", stroke: "var(--soft)" }),
        Plot.dot(fitted, {
          x: "value",
          y: "name",
          fill: "var(--ink)",
          r: 4,
          title: (r) =>
            `${r.name}: ${fixed(r.value)}\nresampled ${fixed(r.low)} to ${fixed(r.high)}\nby chance at most ${fixed(r.chance)}`,
          tip: true,
        }),
      ],
    }),
  );
}
function overlapTable(d) {
  const rows = d.cells.flatMap((c) =>
    ["heads", "edges"].map((what) => {
      const own = c.similarity[what],
        floor = ((d.floors[c.a] || {}).resampled || {})[`${what}_jaccard`] || {};
      return [
        `${c.a} → ${c.b}`,
        what,
        own.a,
        own.b,
        own.shared,
        own.jaccard,
        known(floor.median) ? [floor.median, floor.low, floor.high] : null,
        c.chance[what].jaccard_high,
        someOf(c[what].gained),
        someOf(c[what].lost),
      ];
    }),
  );
  return {
    columns: ["A → B", "of", "in A", "in B", "both", "Jaccard", "A resampled", "chance, 95 %", "gained", "lost"],
    rows,
  };
}
