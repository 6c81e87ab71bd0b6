// Several runs side by side: one colour, dash and marker for each, shared axes, differences from the first with intervals.
const RUNS = FIRST.runs;
const SYMBOLS = ["circle", "square", "triangle", "diamond", "star", "wye", "cross", "times"];
const runLook = (i) => ({
  ...lookOf(i),
  symbol: SYMBOLS[i % SYMBOLS.length],
});
const runLegend = (all = RUNS) =>
  el(
    "div",
    { class: "legend" },
    all.map((run) =>
      el("span", {}, el("i", { class: "swatch", style: `--own:${runLook(RUNS.indexOf(run)).colour}` }), run.name),
    ),
  );
const series = RUNS.map((run, i) => ({ key: run.name, words: run.name, ...runLook(i) }));

function courses(section, role, what, title, shares) {
  const there = RUNS.filter((run) => run.tasks[role][what]);
  if (!there.length) return;
  const as = shares ? (x) => percent(x) : fixed;
  panel(section, {
    id: `${what}-${role}`,
    title,
    sub: FIRST[role],
    kind: "half",
    reads: [],
    draw: (box, width) =>
      box.append(
        runLegend(there),
        lines(
          `${title} of every run on ${FIRST[role]}`,
          there.map((run) => {
            const own = run.tasks[role],
              look = runLook(RUNS.indexOf(run));
            const rows = own.steps.map((x, i) => ({
              x,
              y: own[what][i],
              low: own[`${what}_low`][i],
              high: own[`${what}_high`][i],
              as,
            }));
            return { name: run.name, colour: look.colour, dash: look.dash, rows };
          }),
          { width, height: 210, y: { label: null, ...(shares ? { domain: [0, 1], tickFormat: (x) => percent(x, 0) } : {}) } },
        ),
      ),
    table: () => ({
      columns: ["run", "step", title],
      rows: there.flatMap((run) => run.tasks[role].steps.map((s, i) => [run.name, s, bounds(run.tasks[role], what, i)])),
    }),
  });
}
function answersTable() {
  return {
    columns: ["run", "answer", "in a sentence", "every seed", "gain in choosing (nats)", "fine-tuning"],
    rows: RUNS.map((run) => [
      run.name,
      run.kind || "no answer",
      run.headline ? worded(run.headline) : "no checkpoint was tested",
      Object.entries(run.seeds)
        .map(([seed, kind]) => `${seed}: ${kind}`)
        .join(", ") || DASH,
      run.gain,
      run.how,
    ]),
  };
}
function differencesPanel(section) {
  const there = RUNS.filter((run) => run.difference && ROLES.some((role) => run.difference[role]));
  const words = {
    accuracy: "accuracy",
    choice: "right among the candidates",
    choosing: "choosing, nats",
    logit_diff: "logit difference",
  };
  panel(section, {
    id: "differences",
    title: `Against ${RUNS[0].name}`,
    sub: "at the last checkpoints, prompt by prompt",
    kind: "full",
    reads: [],
    draw: (box, width) => {
      if (!there.length)
        return box.append(el("p", { class: "none" }, "No other run was tested on the same prompts: nothing can be paired."));
      const pair = el("div", { class: "pair" }),
        each = width > 760 ? (width - 20) / 2 : width;
      box.append(pair);
      for (const [what, title] of Object.entries(words)) {
        const rows = there.flatMap((run) =>
          ROLES.filter((role) => (run.difference[role] || {})[what]).map((role) => ({
            name: `${run.name}, ${FIRST[role]}`.slice(0, 48),
            values: { own: run.difference[role][what] },
          })),
        );
        if (!rows.length) continue;
        const cell = el("div", {});
        pair.append(cell);
        cell.append(
          el("p", { class: "drawn-title" }, title),
          dots(
            `differences in ${title}`,
            rows,
            [{ key: "own", words: "difference", colour: "var(--ink)", symbol: "circle" }],
            {
              width: each,
              x: { label: "difference" },
            },
          ),
        );
      }
    },
    table: () => ({
      columns: ["run", "task", ...Object.values(words)],
      rows: there.flatMap((run) =>
        ROLES.filter((role) => run.difference[role]).map((role) => [
          run.name,
          FIRST[role],
          ...Object.keys(words).map((what) => run.difference[role][what] || null),
        ]),
      ),
    }),
    method:
      "The run's number minus the first one's on the same prompts, with 95 % over prompts. Two fine-tunings differ by chance, too: only several seeds of each say how much.",
  });
}
function dotsPanel(section, id, title, rows, label) {
  if (!rows.length) return;
  panel(section, {
    id,
    title,
    kind: "half",
    reads: [],
    draw: (box, width) =>
      box.append(
        runLegend(),
        dots(title, rows, series, {
          width,
          rowHeight: 14 + 8 * RUNS.length,
          x: { label },
        }),
      ),
    table: () => ({
      columns: ["", ...RUNS.map((run) => run.name)],
      rows: rows.map((row) => [row.name, ...RUNS.map((run) => row.values[run.name] || null)]),
    }),
  });
}
function agreementPanel(section) {
  if (FIRST.agreed.flat().every((x) => !known(x))) return;
  panel(section, {
    id: "agreement",
    title: "Do they write in the same heads?",
    kind: "half",
    reads: [],
    draw: (box, width) => {
      grid(box, width, RUNS.length, RUNS.length, (r, c) => FIRST.agreed[r][c], 1, {
        label: "rank correlation of what was booked on heads and MLPs",
        rowName: (r) => String(r + 1),
        columnName: (c) => String(c + 1),
        title: (r, c) => `${RUNS[r].name} and ${RUNS[c].name}`,
      });
      box.append(
        mapKey(1, "rank correlation (Spearman)", 0),
        el(
          "ol",
          { class: "soft" },
          RUNS.map((run) => el("li", {}, run.name)),
        ),
      );
    },
    table: () => ({
      columns: ["", ...RUNS.map((run) => run.name)],
      rows: RUNS.map((run, r) => [run.name, ...FIRST.agreed[r]]),
    }),
    method: "Heads and MLPs ranked by what the [[ledger]] booked on them, one run against the other.",
  });
}
function showRuns() {
  $("facts").textContent = `${FIRST.old} → ${FIRST.new} · ${FIRST.model}`;
  const kinds = [...new Set(RUNS.map((run) => run.kind || "no answer"))];
  $("headline").textContent =
    kinds.length === 1
      ? `${RUNS.length} runs: all ${kinds[0]}.`
      : `${RUNS.length} runs: ${RUNS.map((run) => `${run.name} ${run.kind || "no answer"}`).join("; ")}.`;
  const section = el("section", { id: "runs", "aria-label": "runs" });
  $("sections").append(section);
  const common = (of) => [...new Set(RUNS.flatMap((run) => of(run)))];
  panel(section, {
    id: "answers",
    title: "Every run's answer",
    kind: "full",
    level: "h2",
    reads: [],
    draw: (box) => box.append(tableOf(answersTable())),
    table: answersTable,
  });
  courses(section, "new", "accuracy", "Accuracy", true);
  courses(section, "old", "accuracy", "Accuracy", true);
  courses(section, "new", "choosing", "Choosing, nats", false);
  courses(section, "new", "logit_diff", "Logit difference", false);
  differencesPanel(section);
  const values = (of) => Object.fromEntries(RUNS.map((run) => [run.name, triple(of(run))]));
  dotsPanel(
    section,
    "reuse",
    "Reuse of the old circuit",
    common((run) => Object.keys(run.reuse)).map((kind) => ({
      name: `${kind} changed`,
      values: values((run) => run.reuse[kind]),
    })),
    "reuse",
  );
  dotsPanel(
    section,
    "parts",
    "Where the gain was written",
    common((run) => run.parts.map((p) => p.part)).map((part) => ({
      name: part,
      values: values((run) => (run.parts.find((p) => p.part === part) || {}).share),
    })),
    "share of the gain in choosing",
  );
  agreementPanel(section);
  $("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
    drawAgain();
  });
  document.body.dataset.ready = "yes";
}
showRuns();
