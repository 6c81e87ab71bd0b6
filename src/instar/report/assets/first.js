// The first screen: what was learnt, what became of the old circuit, how sure; one prompt; the step bar; the circuit and, beside
// it, behaviour and the ledger.
/** A model's name; of a path its last part. */
const modelWords = () =>
  /^[./~]|\\|\/.*\//.test(FIRST.model) ? FIRST.model.split(/[\\/]/).filter(Boolean).pop() : FIRST.model;
function showFirst() {
  const shape = circuitsOf("new") || circuitsOf("old");
  const seeds = Object.keys(FIRST.training || {}).length || 1;
  const facts = [
    modelWords(),
    shape ? `${shape.layers} layers × ${shape.heads} heads` : null,
    `${whole(STEPS[LAST])} steps`,
    plural(seeds, "seed"),
    `${whole(seriesOf("new").pairs)} held-out prompts a task`,
  ];
  $("facts").textContent = facts.filter(Boolean).join(" · ");
  $("headline").textContent = A
    ? worded(A.headline)
    : FIRST.under_way
      ? "No answer yet: it comes with the tests between checkpoints."
      : "No answer: no checkpoint was tested for reuse of the old circuit.";
  $("learnt").replaceChildren(
    ...["new", "old"].flatMap((role, i) => {
      const own = seriesOf(role),
        what = known(own.accuracy[LAST]) ? "accuracy" : "choice_accuracy";
      return [
        i ? " · " : "",
        el("b", { class: role }, nameOf(role)),
        taskWords(nameOf(role)) === nameOf(role) ? "" : ` (${taskWords(nameOf(role))})`,
        ` ${percent(own[what][0])} → `,
        el(
          "span",
          { class: "nowrap" },
          `${percent(own[what][LAST])} [${percent(own[`${what}_low`][LAST])}, ${percent(own[`${what}_high`][LAST])}]`,
        ),
        role === "old" && A ? `, ${A.old.fate}` : "",
      ];
    }),
  );
  showChips();
  $("before").addEventListener("click", () => stepPrompt(-1));
  $("after").addEventListener("click", () => stepPrompt(1));
}
/** What a reader has to know before she believes a number, the gravest first. */
function warnings() {
  const data = ((FIRST.audit || {}).findings || []).filter((own) => own.severity !== "note"),
    watched = Object.values(FIRST.training || {}).some((own) => own.train_accuracy.some(known));
  return [
    ...(FIRST.unverified || []).map((text) => `not verified: ${text}`),
    ...(FIRST.failed || []).map((own) => `step ${own.step} (seed ${own.seed}) could not be measured: ${own.reason}`),
    ...(FIRST.health || []).map((own) => `${own.kind} at step ${own.step}: ${own.text}`),
    ...data.map(
      (own) => `data: ${own.kind}, ${own.tested ? `${own.tested}, ` : ""}${own.count} ${own.unit || "rows"}: ${own.text}`,
    ),
    ...(FIRST.notices || []).map((own) => own.text),
    ...(watched ? [] : ["health was not watched: somebody else trained these checkpoints"]),
  ];
}
function closeChips() {
  document.querySelectorAll("#chips .all:not([hidden])").forEach((own) => {
    own.hidden = true;
    own.previousSibling.setAttribute("aria-expanded", "false");
  });
}
/** Ruled out, mixed, open, warnings, controls, and how often such an answer is right: at most a line each, the rest on a click. */
function showChips() {
  const chips = [];
  if (A) {
    // The first of each list is the one that the headline rests on.
    const ruled = A.ruled_out.filter((text) => !/^no new ability/.test(text));
    if (ruled.length)
      chips.push([
        "\u2715",
        "ruled out",
        brief(ruled.find((t) => /^(a new circuit|the old circuit|other heads)/.test(t)) || ruled[0]),
        A.ruled_out,
        "ruled",
      ]);
    if (A.mixed.length) chips.push(["\u2248", "mixed", brief(A.mixed[0]), A.mixed, "mixed"]);
    if (A.open.length) chips.push(["?", "open", brief(A.open[0]), A.open, "open"]);
  }
  if (FIRST.under_way)
    chips.unshift(["\u25d4", "under way", brief(FIRST.under_way.split(": ")[1] || ""), [FIRST.under_way], "open"]);
  const health = warnings();
  if (health.length) chips.push(["\u26a0", plural(health.length, "warning"), brief(health[0]), health, "warned"]);
  const controls = Object.values(FIRST.controls || {})
    .filter(Boolean)
    .map(
      (c) =>
        `${c.is}: ${["new", "old"]
          .map((role) => c[nameOf(role)] && `${nameOf(role)} ${percent(c[nameOf(role)].accuracy)}`)
          .filter(Boolean)
          .join(", ")}`,
    );
  if (controls.length) chips.push(["=", "control", brief(controls[0]), controls, "control"]);
  if (A && A.caveat) {
    const told = /right (\d+ of \d+).*?false alarms (\d+ of \d+)/.exec(A.caveat);
    chips.push([
      "\u00b1",
      "how often right",
      told ? `${told[1]}; false alarms ${told[2]}` : brief(A.caveat),
      [A.caveat],
      "sure",
    ]);
  }
  $("chips").replaceChildren(
    ...chips.map(([sign, word, text, all, kind]) => {
      const more = el(
        "ul",
        { class: "all", hidden: true },
        all.map((one) => el("li", {}, worded(one))),
      );
      const button = el(
        "button",
        {
          type: "button",
          "aria-expanded": "false",
          onclick: () => {
            const open = more.hidden;
            closeChips();
            more.hidden = !open;
            button.setAttribute("aria-expanded", String(open));
            // Kept on the screen, wherever its chip stands.
            more.style.left = "0";
            more.style.left = `${Math.min(0, document.documentElement.clientWidth - 8 - more.getBoundingClientRect().right)}px`;
          },
        },
        el("span", { "aria-hidden": "true" }, sign),
        " ",
        el("b", {}, word),
        " ",
        all.length > 1 ? el("small", { class: "count" }, `${all.length} `) : null,
        el("small", {}, text),
      );
      return el("li", { class: kind }, button, more);
    }),
  );
}
function brief(text, most = 64) {
  const first = text.split(/[:;]/)[0];
  const own = first.length > 18 ? first : text;
  return own.length > most ? `${own.slice(0, most - 1)}…` : own;
}

// ---- the first screen's drawings --------------------------------------------------------------------------------------------
/** Lines of one measure for both tasks. */
function behaviour(box, width, what, words, as, height, more = {}) {
  const rows = ROLES.map((role) => {
    const own = seriesOf(role);
    return {
      name: nameOf(role),
      colour: taskColour[role],
      dash: taskDash[role],
      rows: own.steps.map((x, i) => ({ x, y: own[what][i], low: own[`${what}_low`][i], high: own[`${what}_high`][i], as })),
    };
  });
  const ends = rows.map((r, i) => ({ role: ROLES[i], name: r.name, y: r.rows[r.rows.length - 1].y }));
  const made = lines(`${words} of both tasks over the steps`, rows, {
    width,
    height,
    y: { label: null, ...more.y },
    rules: more.rules || [],
  });
  box.append(
    el(
      "div",
      { class: "legend" },
      ...["new", "old"].map((role) => el("span", { class: role }, el("i", { class: role }), nameOf(role))),
    ),
    made,
  );
  return ends;
}
function controlsRules(what) {
  return Object.values(FIRST.controls || {})
    .filter((c) => c && c[nameOf("new")] && known(c[nameOf("new")][what]))
    .map((c) =>
      Plot.dot([c], {
        x: () => STEPS[LAST],
        y: c[nameOf("new")][what],
        symbol: "times",
        stroke: "var(--new)",
        r: 4,
        title: () => `control, ${c.is}: ${nameOf("new")} ${percent(c[nameOf("new")][what])}`,
        tip: true,
      }),
    );
}
function ledgerParts(own) {
  const rows = { "Q,K": null, "V,O": null, MLPs: null, "the rest": null };
  for (const [name, values] of Object.entries(own.booked)) {
    const to = name in rows ? name : "the rest";
    rows[to] = values.map((v, i) => v + (rows[to] ? rows[to][i] : 0));
  }
  return Object.fromEntries(Object.entries(rows).filter(([, values]) => values));
}
/** Bookings so far by part, stacked: what made the gain above the line, what worked against it below. */
function ribbon(box, width, height, metric = "choosing") {
  const own = A && A.ledger && A.ledger[metric];
  if (!own)
    return box.append(
      el(
        "p",
        { class: "none" },
        FIRST.under_way
          ? "The gain is booked when the run ends."
          : A && A.written
            ? "The gain was booked from end to end only: see where it was written."
            : "No ledger: the gain in choosing was not booked.",
      ),
    );
  const steps = [0, ...A.ledger.steps],
    parts = ledgerParts(own),
    areas = [];
  const above = steps.map(() => 0),
    below = steps.map(() => 0),
    named = (A.written && A.written.named) || [];
  for (const [name, values] of Object.entries(parts)) {
    let sum = 0;
    const rows = [0, ...values.map((v) => (sum += v))].map((v, i) => {
      const up = Math.max(0, v),
        down = Math.min(0, v),
        row = { x: steps[i], y1: above[i], y2: above[i] + up, d1: below[i], d2: below[i] + down };
      above[i] += up;
      below[i] += down;
      return row;
    });
    areas.push(
      Plot.areaY(rows, { x: "x", y1: "y1", y2: "y2", fill: `var(--${PARTS[name]})` }),
      Plot.areaY(rows, { x: "x", y1: "d1", y2: "d2", fill: `url(#against-${PARTS[name]})` }),
    );
    const top = rows[rows.length - 1];
    if (named.includes(name))
      areas.push(
        Plot.text([top], {
          x: "x",
          y: (d) => (d.y1 + d.y2) / 2,
          text: () => `${name} ${percent((A.written.parts.find((p) => p.part === name) || { share: {} }).share.value, 0)}`,
          textAnchor: "end",
          dx: -5,
          fontWeight: 600,
          fill: "#fff",
          stroke: "#1d2329",
          strokeWidth: 2.5,
        }),
      );
  }
  let sum = 0;
  const gain = [0, ...own.gain.map((v) => (sum += v))].map((y, i) => ({ x: steps[i], y }));
  box.append(
    el(
      "div",
      { class: "legend" },
      ...Object.keys(parts).map((name) => el("span", {}, el("i", { class: PARTS[name] }), name)),
      el("span", {}, el("i", { class: "gainline" }), "the gain"),
    ),
  );
  box.append(
    plot(`gain in ${metric} booked so far, by part of the model`, {
      width,
      height,
      x: { label: "fine-tuning step", labelArrow: "none" },
      y: { grid: true, label: null },
      marks: [
        ...areas,
        Plot.ruleY([0], { stroke: "var(--ink)" }),
        Plot.lineY(gain, { x: "x", y: "y", stroke: "var(--ink)", strokeDasharray: "2 3", strokeWidth: 1.6 }),
      ],
    }),
  );
}
const hasCircuits = (role) => Boolean(circuitsOf(role));
function seriesTable(what) {
  const rows = STEPS.map((s, i) => [s, ...["new", "old"].map((role) => bounds(seriesOf(role), what, i))]);
  return { columns: ["step", ...["new", "old"].map((role) => `${nameOf(role)} ${what.replace("_", " ")}`)], rows };
}
/** The drawings of the first screen; `only` names those of a page with less. */
function firstPanels(only = null) {
  const hero = $("hero"),
    side = $("side");
  const first = (place, own) => (!only || only.includes(own.id) ? panel(place, { level: "h2", ...own }) : null);
  first(hero, {
    id: "circuit",
    pairs: pairsOfCircuits,
    title: "The circuit and what changed",
    kind: "tall",
    reads: ["step", "vs", "task", "group", "n", "f", "pins", "groups"],
    finding: () => circuitFinding(state.task),
    draw: (box, width) => {
      box.append(circuitLegend());
      drawCircuit(box, width, state.task, heroHeight());
    },
    update: (box, width) => {
      const svg = box.querySelector("svg.circuit");
      if (!svg || svg.drawn.role !== state.task || svg.drawn.tall !== heroHeight()) {
        box.replaceChildren(circuitLegend());
        drawCircuit(box, width, state.task, heroHeight());
      } else updateCircuit(svg);
    },
    table: () => (hasCircuits(state.task) ? circuitTable(state.task) : { columns: [], rows: [] }),
    caption:
      "Rows are layers, columns heads, MLPs beside. Width grows with the root of |score| on one scale for all steps; an arrow helps the answer, a bar works against it; a node's shade is what the ledger booked on it so far (violet helped, ochre worked against)",
    method:
      sharedSaid() +
      "Edges are scored by [[edge attribution]] and the best are kept of which so many lie on a path from input to logits. Two circuits of equal numbers of edges are compared, so that none is larger by a rounding. Where a step's circuit was not measured, the last one before it is drawn. [[faithfulness]] is measured on other prompts than those that the edges were scored on.",
  });
  first(side, {
    id: "accuracy",
    title: "Accuracy",
    sub: "answer is the top token",
    reads: [],
    cursor: true,
    table: () => seriesTable("accuracy"),
    draw: (box, width) =>
      behaviour(box, width, "accuracy", "accuracy", (x) => percent(x), 150, {
        y: { domain: [0, 1], tickFormat: (x) => percent(x, 0) },
        rules: controlsRules("accuracy"),
      }),
    finding: () => (controlsRules("accuracy").length ? "× control fine-tuning" : ""),
    caption: "Share of held-out prompts whose answer is the top token of the whole vocabulary; bands are 95 % (Wilson)",
  });
  first(side, {
    id: "choosing",
    title: "Choosing",
    sub: "nats: log p(answer) among the candidates",
    reads: [],
    cursor: true,
    table: () => seriesTable("choosing"),
    draw: (box, width) => behaviour(box, width, "choosing", "choosing", fixed, 150),
    caption: "log p(answer) minus the log of the candidates' summed probability, in nats, mean over prompts",
  });
  first(side, {
    id: "ribbon",
    pairs: () => (A && A.ledger && A.ledger.prompts ? `${plural(A.ledger.prompts, "held-out prompt")}` : "held-out prompts"),
    title: "Where the gain was written",
    sub: "nats of choosing, so far",
    kind: "wide",
    reads: [],
    cursor: true,
    finding: ribbonFinding,
    table: ribbonTable,
    draw: (box, width) => ribbon(box, width, 168),
    caption:
      "Choosing's gradient times the change of the weights, integrated along the training between checkpoints; hatched, below the line: what worked against the gain",
    method:
      "The [[ledger]] splits the gain among all parts of the model; the parts add up to the gain, but for a residual that is stated in the table.",
  });
}
function heroHeight() {
  const wide = innerWidth > 900 ? Math.max(300, Math.min(560, innerHeight - 430)) : 380;
  return circuitsOf(state.task) && circuitsOf(state.task).layers > 16
    ? Math.max(wide, circuitsOf(state.task).layers * 13 + 80)
    : wide;
}
/** Of grouped queries: whose keys and values an edge's name means. */
function sharedSaid() {
  const own = circuitsOf("new") || circuitsOf("old");
  if (!own || own.kv_heads === own.heads) return "";
  return `Keys and values are shared by ${own.heads / own.kv_heads} heads: a1.h1<k> is the second such group of layer 1, and is drawn at each of its heads. `;
}
const circuitLegend = () =>
  el(
    "div",
    { class: "legend" },
    ["kept", "gained", "lost"].map((is) => el("span", {}, el("i", { class: is }), is)),
    el("span", {}, "▲ helps"),
    el("span", {}, "▬ works against"),
    el("span", {}, "shade: gain booked there so far"),
  );
function ribbonFinding() {
  const w = A && A.written;
  if (!w) return "";
  const half = w.half && known(w.half[0]) ? `; of all prompts half is there by step ${whole(w.half[0])}` : "";
  const on = A.ledger && A.ledger.prompts ? ` on ${plural(A.ledger.prompts, "prompt")}` : "";
  return `${ranged(w.gain, signed)} nats by step ${A.step}${on}${half}.`;
}
function ribbonTable() {
  const own = A && A.ledger && A.ledger.choosing;
  if (!own) return { columns: [], rows: [] };
  const parts = ledgerParts(own);
  return {
    columns: ["to step", ...Object.keys(parts), "gain", "residual"],
    rows: A.ledger.steps.map((s, i) => [s, ...Object.values(parts).map((v) => v[i]), own.gain[i], own.residual[i]]),
  };
}
