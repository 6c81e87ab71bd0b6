// Sections "when", "seeds and runs" and "made".
function whenSection(section) {
  const y = REST.dynamics,
    events = (y && y.events) || [];
  if (events.length)
    panel(section, {
      id: "events",
      title: "Half of each change, in order",
      kind: "full",
      reads: [],
      cursor: true,
      finding: () => {
        const sure = events.slice(0, -1).filter((e) => e.before_next).length;
        return `${plural(events.length, "change")}; ${sure ? `${plural(sure, "neighbouring order")} established` : "no order of neighbours is established"}.`;
      },
      draw: (box, width) => {
        const rows = fitting(
          events.map((e, i) => ({ ...e, name: `${i + 1}. ${e.event}` })),
          width,
        );
        box.append(
          plot("half of each change, with bounds", {
            width,
            height: 60 + 22 * rows.length,
            marginLeft: marginFor(rows, width),
            x: { domain: [STEPS[0], STEPS[LAST]], label: "fine-tuning step", labelArrow: "none" },
            y: { domain: rows.map((r) => r.name), label: null, type: "point", padding: 0.6 },
            marks: [
              Plot.ruleX(STEPS, { stroke: "var(--line)" }),
              Plot.link(rows, { x1: "low", x2: "high", y1: "name", y2: "name", stroke: "var(--soft)", strokeWidth: 1.6 }),
              Plot.dot(rows, {
                x: "step",
                y: "name",
                fill: "var(--ink)",
                r: 4,
                title: (r) => `${r.event}: ${r.text}`,
                tip: true,
              }),
            ],
          }),
        );
      },
      table: () => ({
        columns: ["event", "half of it by step", "change", "before the next one"],
        rows: events.map((e) => [
          e.event,
          [e.step, e.low, e.high],
          e.change,
          known(e.before_next) ? (e.before_next ? "established" : "not established") : "",
        ]),
      }),
      method:
        "An event is half of a change, with bounds over prompts widened to checkpoints: the series resolves no more. An order of two neighbours is established where at least 95 % of resamples give it and a checkpoint lies between.",
      change: "Denser checkpoints (train.checkpoints) or more prompts.",
    });
  for (const [what, title, sub] of [
    ["choice_accuracy", "Right among the candidates", "answer beats every other candidate"],
    ["logit_diff", "Logit difference", "logits: answer above the mean of the others"],
    ["naming", "Naming", "nats: log of the candidates' summed probability"],
  ]) {
    if (!known(seriesOf("new")[what] && seriesOf("new")[what][LAST])) continue;
    const shares = what === "choice_accuracy";
    panel(section, {
      id: what,
      title,
      sub,
      kind: "half",
      reads: [],
      cursor: true,
      draw: (box, width) =>
        behaviour(
          box,
          width,
          what,
          title.toLowerCase(),
          shares ? (x) => percent(x) : fixed,
          180,
          shares ? { y: { domain: [0, 1], tickFormat: (x) => percent(x, 0) }, rules: rulesOfThumb() } : {},
        ),
      table: () => seriesTable(what),
      caption: sub,
    });
  }
  const along = A ? A.series : [];
  if (along.length > 1)
    panel(section, {
      id: "along",
      title: "The answer at every tested checkpoint",
      kind: "half",
      reads: [],
      draw: (box) =>
        box.append(
          el(
            "ol",
            { class: "along" },
            along.map((row, i) =>
              el(
                "li",
                {},
                el(
                  "button",
                  { type: "button", tabindex: i ? "-1" : "0", onclick: () => set({ step: STEPS.indexOf(row.step) }) },
                  `step ${row.step}`,
                ),
                " ",
                worded(row.headline),
              ),
            ),
          ),
        ) || asOne(box, "button", true),
      table: () => ({ columns: ["step", "answer", "headline"], rows: along.map((r) => [r.step, r.kind, r.headline]) }),
    });
  const w = REST.weight_change;
  if (w && Object.keys(w).length)
    panel(section, {
      id: "weights",
      title: "How far the weights moved",
      sub: "norm of the change",
      kind: "half",
      reads: [],
      cursor: true,
      draw: (box, width) => {
        const total = STEPS.map((_, i) => ({
          x: STEPS[i],
          y: Math.sqrt(Object.values(w).reduce((sum, own) => sum + (own.change[i] || 0) ** 2, 0)),
        }));
        box.append(
          lines(
            "norm of the change of all weights",
            [{ name: "norm of the change", colour: "var(--ink)", rows: total, marker: "circle" }],
            { width, height: 180, y: { label: null, domain: [0, Math.max(...total.map((t) => t.y)) || 1] } },
          ),
        );
      },
      table: () => ({
        columns: ["part", "norm before", ...STEPS.map((s) => `change by step ${s}`)],
        rows: Object.entries(w).map(([name, own]) => [name, own.norm, ...own.change]),
      }),
      caption: "Euclidean norm of the change against the base",
    });
  const d = REST.divergence;
  if (d && d.steps && d.steps.length > 1)
    panel(section, {
      id: "divergence",
      title: "On other text",
      sub: "nats: how far its words moved from the base's",
      kind: "half",
      reads: [],
      cursor: true,
      draw: (box, width) =>
        box.append(
          lines(
            "divergence from the base on general text",
            [
              {
                name: "KL",
                colour: "var(--ink)",
                rows: d.steps.map((x, i) => ({ x, y: d.kl[i], low: d.kl_low[i], high: d.kl_high[i] })),
              },
            ],
            { width, height: 180, y: { label: null, zero: true } },
          ),
        ),
      table: () => ({
        columns: ["step", "divergence (nats a token)"],
        rows: d.steps.map((s, i) => [s, [d.kl[i], d.kl_low[i], d.kl_high[i]]]),
      }),
      caption: "Kullback-Leibler divergence from the base's next-token distribution on general text, nats a token",
    });
  const course = REST.course;
  if (course && course.steps.length)
    panel(section, {
      id: "loss",
      title: "The training itself",
      sub: "loss at every step, nats a token",
      kind: "half",
      reads: [],
      cursor: true,
      draw: (box, width) =>
        box.append(
          lines(
            "loss at every step",
            [{ name: "loss", colour: "var(--ink)", rows: course.steps.map((x, i) => ({ x, y: course.loss[i] })), width: 1 }],
            { width, height: 180, y: { label: null } },
          ),
        ),
      table: () => ({
        columns: ["step", "loss", "gradient norm", "change of the weights", "choosing"],
        rows: course.steps.map((s, i) => [s, course.loss[i], course.gradient_norm[i], course.change[i], course.choosing[i]]),
      }),
      caption: "loss on the training rows of each step; a checkpoint was kept where the bar has a tick",
    });
  if (!section.querySelector(".panel")) section.remove();
}
function rulesOfThumb() {
  const best = (seriesOf("new").baselines || [])[0];
  return best
    ? [
        Plot.ruleY([best.accuracy], {
          stroke: "var(--new)",
          strokeDasharray: "1 4",
          title: () => `a rule without a circuit, ${best.kind}: ${percent(best.accuracy)}`,
          tip: true,
        }),
      ]
    : [];
}
function seedsSection(section) {
  const seeds = A ? Object.entries(A.seeds || {}) : [],
    controls = Object.entries(FIRST.controls || {}).filter(([, c]) => c);
  if (seeds.length < 2 && !controls.length) return section.remove();
  const spread = REST.seeds.new || {};
  if (seeds.length > 1)
    panel(section, {
      id: "seeds",
      title: "Every seed's answer",
      kind: "half",
      reads: [],
      finding: () => {
        const kinds = [...new Set(seeds.map(([, k]) => k))];
        return kinds.length === 1
          ? `All ${seeds.length} seeds: ${kinds[0]}.`
          : `Seeds differ: ${seeds.map(([s, k]) => `${s} ${k}`).join(", ")}.`;
      },
      draw: (box) => box.append(tableOf({ columns: ["seed", "answer"], rows: seeds })),
      table: () => ({ columns: ["seed", "answer"], rows: seeds }),
    });
  if (Object.keys(spread).length > 1)
    panel(section, {
      id: "seeds-accuracy",
      title: "Every seed's course",
      kind: "half",
      reads: [],
      cursor: true,
      draw: (box, width) =>
        box.append(
          lines(
            "accuracy of every seed",
            Object.entries(spread)
              .filter(([, own]) => own.accuracy)
              .map(([seed, own], i) => ({
                name: `seed ${seed}`,
                colour: "var(--new)",
                dash: lookOf(i).dash,
                rows: own.steps.map((x, k) => ({ x, y: own.accuracy[k], as: (v) => percent(v) })),
              })),
            { width, height: 180, y: { domain: [0, 1], label: null, tickFormat: (x) => percent(x, 0) } },
          ),
        ),
      table: () => ({
        columns: ["seed", "step", "accuracy"],
        rows: Object.entries(spread).flatMap(([seed, own]) => (own.accuracy || []).map((v, i) => [seed, own.steps[i], v])),
      }),
    });
  if (controls.length)
    panel(section, {
      id: "controls",
      title: "Control fine-tunings",
      kind: "half",
      reads: [],
      finding: () => "What these show too is not owed to learning the new task.",
      draw: (box) => box.append(tableOf(controlTable(controls))),
      table: () => controlTable(controls),
    });
}
function controlTable(controls) {
  const booked = (A && A.controls) || {};
  return {
    columns: ["control", `${nameOf("new")} accuracy`, `${nameOf("old")} accuracy`, "gain in choosing (nats)"],
    rows: controls.map(([name, c]) => [
      c.is,
      ...["new", "old"].map((role) => {
        const own = c[nameOf(role)];
        return own ? [own.accuracy, own.accuracy_low, own.accuracy_high] : null;
      }),
      booked[name] ? booked[name].gain : null,
    ]),
  };
}
function madeSection(section) {
  panel(section, {
    id: "how",
    title: "How it was made",
    kind: "full",
    reads: [],
    draw: (box) => {
      box.append(tableOf({ columns: ["what", "how"], rows: REST.made }));
      box.append(
        el("details", {}, el("summary", { tabindex: "-1" }, "The configuration"), el("pre", { tabindex: "-1" }, REST.config)),
      );
    },
    table: () => ({ columns: ["what", "how"], rows: REST.made }),
  });
  panel(section, {
    id: "repeat",
    title: "To repeat and to cite",
    kind: "full",
    reads: [],
    draw: (box) => {
      const cite = `@software{instar,\n  title = {instar: what fine-tuning does to a circuit},\n  version = {${FIRST.instar}},\n  note = {page of ${FIRST.model}, ${nameOf("old")} to ${nameOf("new")}}\n}`;
      for (const [name, text] of [
        ["Repeat", "instar run run.yaml --out runs/again    # run.yaml: the configuration above, saved"],
        ["Cite", cite],
      ])
        box.append(
          el("p", { class: "drawn-title" }, name, " ", el("button", { type: "button", onclick: () => copy(text) }, "copy")),
          el("pre", { tabindex: "-1" }, text),
        );
    },
  });
}
