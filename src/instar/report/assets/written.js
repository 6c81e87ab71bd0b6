// Section "where it was written": the ledger's parts beside grafts, heads and MLPs, sets of weights put in and taken out.
const LEDGER_SERIES = [
  { key: "share", words: "share of the gain, booked by the ledger", colour: "var(--ink)", symbol: "circle" },
  { key: "shapley", words: "by grafts, averaged over all orders", colour: "var(--graft)", symbol: "square", hollow: true },
];
function writtenSection(section) {
  const w = A && A.written,
    tested = REST.grafts ? Object.keys(REST.grafts).map(Number) : [];
  if (!w && !tested.length) return section.remove();
  if (w) {
    panel(section, {
      id: "parts",
      title: "Parts of the model",
      sub: `by step ${A.step}`,
      kind: "half",
      reads: [],
      finding: () =>
        `${w.named.length ? `Named: ${listed(w.named)}.` : "No part has most of it for certain."}${outsideSaid(w)}`,
      draw: (box, width) => {
        box.append(
          shareLegend(LEDGER_SERIES),
          dots(
            "shares of the gain by part of the model",
            w.parts.map((p) => ({ name: p.part, values: { share: triple(p.share), shapley: triple(p.shapley) } })),
            LEDGER_SERIES,
            { width, rowHeight: 26, x: { label: "share of the gain in choosing" } },
          ),
        );
      },
      table: () => ({
        columns: [
          "part",
          "booked (nats)",
          "share of the gain",
          "by grafts",
          "of the change's norm²",
          "of the parameters",
          "named",
        ],
        rows: w.parts.map((p) => [
          p.part,
          p.booked,
          p.share,
          p.shapley,
          p.moved,
          p.parameters,
          w.named.includes(p.part) ? "yes" : p.disagrees || "",
        ]),
      }),
      method:
        "[[ledger]]: each part's change times the gradient of choosing, integrated along the training, in nats that add up to the gain. Beside it [[grafts]]: what putting a part's tuned weights into the base brings, averaged over all orders (Shapley). A part is named only where both are above a tenth of the gain by their lower bounds.",
      change: "Held-out prompts are the unit of the intervals: more of them (measure.ledger_prompts) or another seed.",
    });
    panel(section, {
      id: "nodes",
      title: "Heads and MLPs",
      kind: "half",
      reads: ["step"],
      finding: () =>
        w.nodes.length
          ? `By step ${A.step} most on ${listed(w.nodes.slice(0, 3).map((n) => `${n.node} (${percent(n.share.value, 0)})`))}.`
          : "",
      draw: nodesMap,
      table: () => ({
        columns: ["node", "booked (nats)", "share of the gain"],
        rows: w.nodes.map((n) => [n.node, n.booked, n.share]),
      }),
      method:
        "What the [[ledger]] booked on every head and MLP so far, in nats of choosing; the table has the largest with their intervals.",
    });
  }
  if (tested.length)
    panel(section, {
      id: "grafts",
      pairs: () => plural(REST.grafts[testedAt(tested)].pairs, "held-out prompt"),
      title: "Sets of weights put in and taken out",
      kind: "full",
      reads: ["step", "metric"],
      controls: choice("metric", "measure", [
        ["share", "share of the gain"],
        ["accuracy", "accuracy itself"],
      ]),
      finding: () => graftFinding(tested),
      draw: (box, width) => graftPlot(box, width, tested),
      table: () => graftTable(tested),
      method:
        "[[grafts]]: the set's tuned weights in the base (returns), its base weights in the tuned model (loses), on the same prompts. A set may be sufficient and not necessary, or the reverse. Both metrics stand beside each other, for they may disagree. Grey: random sets of heads, matched by layer.",
      change: "More prompts (compare.pairs), or further tested checkpoints (compare.checkpoints).",
    });
}
const shareLegend = (series) =>
  el(
    "div",
    { class: "legend" },
    series.map((s) =>
      el("span", {}, el("i", { class: `dot ${s.hollow ? "hollow" : ""}`, style: `--own:${s.colour}` }), s.words),
    ),
  );
/** Running on the old circuit's edges and being written in its heads are two things. */
function outsideSaid(w) {
  const own = w.recruited;
  if (!own || !known(own.share.value)) return "";
  const grafts = known(own.shapley.value) ? `, by grafts ${ranged(own.shapley)}` : "";
  return ` In heads outside the old circuit: by the ledger ${ranged(own.share)}${grafts}.`;
}
function nodesMap(box, width) {
  const booked = bookedSoFar(stepNow()),
    shape = circuitsOf("new") || circuitsOf("old");
  if (!booked || !shape)
    return box.append(
      tableOf({ columns: ["node", "booked (nats)", "share"], rows: A.written.nodes.map((n) => [n.node, n.booked, n.share]) }),
    );
  const limit = bookedMost();
  grid(
    box,
    width,
    shape.layers,
    shape.heads + 1,
    (r, c) => {
      const l = shape.layers - 1 - r,
        own = booked[c < shape.heads ? `a${l}.h${c}` : `m${l}`];
      return own === undefined ? null : own;
    },
    limit,
    {
      label: "nats booked on every head and MLP so far",
      rowName: (r) => `L${shape.layers - 1 - r}`,
      columnName: (c) => (c < shape.heads ? String(c) : "MLP"),
      title: (r, c) => (c < shape.heads ? `a${shape.layers - 1 - r}.h${c}` : `m${shape.layers - 1 - r}`),
      cell: shape.layers > 16 ? 11 : 24,
    },
  );
  box.append(mapKey(limit, "nats of choosing, so far"));
}
// ---- grafts -----------------------------------------------------------------------------------------------------------------
const GRAFT_SERIES = [
  { key: "into", words: "returns: its new weights in the base", colour: "var(--graft)", symbol: "circle" },
  {
    key: "lost",
    words: "loses: its old weights in the tuned model",
    colour: "var(--graft2)",
    symbol: "square",
    hollow: true,
  },
];
const testedAt = (tested) => tested[measuredAt(tested, stepNow())];
function graftRows(page, metric) {
  const own = page.graft[metric],
    sets = page.sets.map((name, i) => ({ name, i })).filter((s) => !s.name.startsWith("random "));
  if (!own.into) return [];
  const groups = sets.filter((s) => !isHead(s.name) && !s.name.startsWith("to layer")),
    heads = sets
      .filter((s) => isHead(s.name))
      .sort((a, b) => own.into[b.i][0] - own.into[a.i][0])
      .slice(0, 8);
  const words = {
    inside: "heads of the old circuit",
    "inside<qk>": "their Q,K",
    "inside<vo>": "their V,O",
    outside: "all other heads",
    heads: "all heads",
    mlps: "all MLPs",
  };
  return [...groups, ...heads].map((s) => ({ ...s, name: words[s.name] || s.name, set: s.name }));
}
function graftRandom(page, metric, way) {
  const own = page.graft[metric],
    there = page.sets.map((n, i) => [n, i]).filter(([n]) => n.startsWith("random "));
  if (!own[way] || !there.length) return null;
  const values = there.map(([, i]) => own[way][i][0]);
  return [Math.min(...values), Math.max(...values)];
}
function graftFinding(tested) {
  const step = testedAt(tested),
    page = REST.grafts[step],
    i = page.sets.indexOf("inside");
  const [ld, acc] = ["logit_diff", "accuracy"].map((m) => page.graft[m]);
  if (!ld.into || i < 0) return `Step ${step}: there is no gain to share.`;
  const share = (own, way) => (own[way] ? ranged(own[way][i]) : "not measurable");
  return `At step ${step} (${step > stepNow() ? "the first tested one" : "the tested one at or before this"}), ${page.pairs} prompts: the old circuit's heads return ${share(ld, "into")} of the gain in logit difference and ${share(acc, "into")} of the gain in accuracy; without their new weights ${share(ld, "lost")} and ${share(acc, "lost")} are lost.`;
}
function graftPlot(box, width, tested) {
  const page = REST.grafts[testedAt(tested)],
    pair = el("div", { class: "pair" });
  box.append(shareLegend(GRAFT_SERIES), pair);
  const each = width > 760 ? (width - 20) / 2 : width;
  if (state.metric === "accuracy") {
    const rows = graftRows(page, "logit_diff").map((s) => ({
      name: s.name,
      values: { into: page.accuracy.into[s.i], lost: page.accuracy.lost[s.i] },
    }));
    return pair.append(
      dots("accuracy with each set grafted", rows, GRAFT_SERIES, {
        width,
        x: { domain: [0, 1], label: "accuracy on the new task", tickFormat: (x) => percent(x, 0) },
        marks: [
          Plot.ruleX([page.accuracy.base[0]], { stroke: "var(--soft)", strokeDasharray: "2 3", title: () => "base" }),
          Plot.ruleX([page.accuracy.tuned[0]], { stroke: "var(--new)", strokeDasharray: "2 3" }),
        ],
      }),
    );
  }
  for (const [metric, words] of [
    ["logit_diff", "logit difference"],
    ["accuracy", "accuracy"],
  ]) {
    const cell = el("div", {}),
      own = page.graft[metric],
      rows = graftRows(page, "logit_diff");
    pair.append(cell);
    cell.append(el("p", { class: "drawn-title" }, `share of the gain in ${words}`));
    if (!own.into) {
      cell.append(el("p", { class: "none" }, "no gain to share"));
      continue;
    }
    const range = graftRandom(page, metric, "into");
    cell.append(
      dots(
        `shares of the gain in ${words} by set of weights`,
        rows.map((s) => ({ name: s.name, values: { into: own.into[s.i], lost: own.lost[s.i] } })),
        GRAFT_SERIES,
        {
          width: each,
          x: { label: "share" },
          marks: [
            range ? Plot.rectX([range], { x1: (d) => d[0], x2: (d) => d[1], fill: "var(--faint)", fillOpacity: 0.35 }) : null,
            Plot.ruleX([1], { stroke: "var(--line)" }),
          ].filter(Boolean),
        },
      ),
    );
  }
}
function graftTable(tested) {
  const page = REST.grafts[testedAt(tested)],
    own = page.graft;
  const of = (metric, way, i) => (own[metric][way] ? own[metric][way][i] : null);
  return {
    columns: [
      "set",
      "logit difference: returns",
      "loses",
      "accuracy: returns",
      "loses",
      "accuracy with it in the base",
      "accuracy without it",
    ],
    rows: page.sets.map((name, i) => [
      name,
      of("logit_diff", "into", i),
      of("logit_diff", "lost", i),
      of("accuracy", "into", i),
      of("accuracy", "lost", i),
      page.accuracy.into[i],
      page.accuracy.lost[i],
    ]),
  };
}
