// ---- what changed: circuits compared, dynamics, key components --------------------------------------------------------
const two = (x) => (known(x) ? fixed2(x) : "–");
const quantiles = (f) => (f && known(f.median) ? `${two(f.median)} [${two(f.low)}, ${two(f.high)}]` : "–");
function showChanged() {
  const none = (text) => { $("changed-none").hidden = false; $("changed-none").append(element("span", text + " ")); };
  if (V) showGrafts();
  else { $("grafting").remove(); none("Where the change was written and who carries it is not known: no checkpoint of this run has causal tests (weight grafting, cross-model patching)."); }
  const d = D.summary.diff, y = D.summary.dynamics;
  if (d) showDiff(d); else { $("diff").remove(); none("Circuits are not compared: they were not measured."); }
  if (y && Object.keys(y.behaviour).length) showDynamics(y); else { $("dynamics").remove(); none("There are too few checkpoints to say what moved when."); }
  if (y && y.key) showKey(y.key); else $("key").remove();
}

// ---- circuits compared --------------------------------------------------------------------------------------------------
const between = (c) => `${c.a} → ${c.b}`;
function showDiff(d) {
  const floors = ["A resampled", "halves of A", "chance, 95 %"];
  const beside = (c, what, kind) => {
    const own = c.similarity[what], by = c.chance[what], a = d.floors[c.a] || {}, floor = a.resampled && a.resampled[`${what}_${kind}`];
    const under = known(own[kind]) && floor && known(floor.low) && own[kind] < floor.low;
    return [under ? [two(own[kind]) + " below", "below"] : two(own[kind]), quantiles(floor), quantiles(a.halves && a.halves[`${what}_${kind}`]), `${two(by[kind])}, ${two(by[kind + "_high"])}`];
  };
  const rows = (...of) => d.cells.flatMap((c) => ["heads", "edges"].map((what) => [[what === "heads" ? between(c) : "", "left wrap"], what, ...of.flatMap((f) => f(c, what))]));
  grid("diff-table", ["A → B", "", "in A", "in B", "both", "Jaccard", ...floors], rows((c, w) => ["a", "b", "shared"].map((k) => String(c.similarity[w][k])), (c, w) => beside(c, w, "jaccard")));
  grid("diff-within", ["A → B", "", "A in B", ...floors, "B in A", ...floors], rows((c, w) => beside(c, w, "a_in_b"), (c, w) => beside(c, w, "b_in_a")));
  list("diff-missing", d.missing || []);
  const readers = [...new Set(d.cells.flatMap((c) => Object.keys(c.by_reader || {})))], heads = (c, k) => [c.heads[k].join(" ") || "none", "left wrap"];
  const counts = (n) => `${n.kept ?? 0}, +${n.gained ?? 0}, −${n.lost ?? 0}`;
  grid("diff-heads", ["A → B", ["heads kept", "left"], ["gained", "left"], ["lost", "left"], ...readers], d.cells.map((c) => [[between(c), "left wrap"], ...["kept", "gained", "lost"].map((k) => heads(c, k)), ...readers.map((r) => counts(c.by_reader[r] || {}))]));
  const some = (e) => [e.names.join("  ") + (e.count > e.names.length ? ` … and ${e.count - e.names.length} more` : "") || "none", "left wrap"];
  grid("diff-edges", ["A → B", ["kept", "left"], ["gained", "left"], ["lost", "left"], ["strengthened", "left"], ["weakened", "left"], ["sign changed", "left"]], d.cells.map((c) => [[between(c), "left wrap"], ...["kept", "gained", "lost"].map((k) => some(c.edges[k])), ...["strengthened", "weakened", "sign_changed"].map((k) => [(c.rescored[k] || []).map((r) => `${r.edge} ${signed(r.before)} → ${signed(r.after)}`).join("; ") || "none", "left wrap"])]));
  ROLES.forEach((r) => diffSeries(r, (d.series || {})[D.summary[r]] || []));
}
function diffSeries(role, rows) {
  const x = rows.map((r) => r.step), at = (to, k) => rows.map((r) => r[to][k]), looks = { first: ["to step 0", "solid", "circle"], before: ["to the step before", "dash", "diamond-open"] };
  const traces = Object.entries(looks).flatMap(([to, [words, dash, symbol]]) => [
    { x, y: at(to, "edges_floor"), name: `same circuit resampled, ${words}`, mode: "lines", line: { color: "#a9b0b9", width: 1.5, dash }, type: "scatter" },
    { x, y: at(to, "edges"), name: words, mode: "lines+markers", line: { color: COLOUR[role], width: 2, dash }, marker: { size: 7, symbol }, type: "scatter", hovertemplate: `step %{x}, ${words}: Jaccard of edges %{y:.2f}<extra></extra>` }]);
  draw("diff-series-" + role, rows.length ? traces : [], layout(`Edges shared along the series · ${safe(D.summary[role])}`, { legend: { ...BELOW, y: -0.3 }, shapes: marker(), annotations: rows.length ? [] : emptyText("not measured"), margin: { l: 56, r: 16, t: 40, b: 116 }, xaxis: { title: { text: "fine-tuning step" } }, yaxis: { title: { text: "Jaccard of edges" }, range: [-0.03, 1.05] } }));
}

// ---- dynamics -------------------------------------------------------------------------------------------------------------
function showDynamics(y) {
  const order = ["open", "yes"];
  const survives = (e) => (e.before_next === null || e.before_next === undefined ? "–" : `${e.before_next ? order[1] : order[0]} (${percent(e.agreement, 0)} of resamples)`);
  const seeds = (e) => (e.seeds && e.seeds.values ? e.seeds.values.map((v) => (known(v) ? v.toFixed(0) : "–")).join(", ") : "–");
  if (y.events.length) {
    grid("events-table", ["", ["event", "left"], "half of it by", "change", ["before the next?", "left"], "step, every seed"], y.events.map((e, i) => [String(i + 1), [e.event, "left"], e.text, around(e.change, (v) => signed(v)), [survives(e), "left"], seeds(e)]));
    const names = y.events.map((e, i) => `${i + 1}. ${safe(e.event)}`), v = y.events.map((e) => e.step);
    $("events").style.height = `${110 + 30 * names.length}px`;
    draw("events", [{ x: v, y: names, mode: "markers", type: "scatter", marker: { size: 9, color: "#22262b" }, error_x: { type: "data", symmetric: false, array: y.events.map((e) => e.high - e.step), arrayminus: y.events.map((e) => e.step - e.low), thickness: 1.6, width: 4, color: "#5b6470" }, hovertemplate: "%{y}: %{x:.1f}<extra></extra>" }],
      layout("Half of each change, in order", { margin: { l: 56, r: 16, t: 40, b: 46 }, shapes: steps.map((s) => ({ type: "line", x0: s, x1: s, yref: "paper", y0: 0, y1: 1, line: { color: "#e3e6ea", width: 1 }, layer: "below" })), xaxis: { title: { text: "fine-tuning step (grey: checkpoints)" }, range: [steps[0], steps[steps.length - 1]], showgrid: false }, yaxis: { type: "category", autorange: "reversed", showgrid: false } }));
  } else { $("events").remove(); $("events-table").replaceWith(element("p", "No event is established: nothing changed beyond its intervals, or there are too few checkpoints.")); }
  const reversed = Object.entries(y.reversals || {}).flatMap(([name, rows]) => rows.map((r) => `${r.head} on ${name}: ${around(r.before, (v) => signed(v))} at step ${steps[0]}, ${around(r.after, (v) => signed(v))} at step ${r.step ?? steps[steps.length - 1]}`));
  $("reversals").textContent = reversed.length ? `Direct contributions that reversed their sign: ${reversed.join("; ")}.` : "No head reversed the sign of its direct contribution beyond its intervals.";
  if ((y.agreed || []).length) grid("agreed-table", [["first", "left"], ["second", "left"], "seeds in this order", "the other way", "undecided"], y.agreed.map((a) => [[a.first, "left"], [a.second, "left"], String(a.before), String(a.after), String(a.undecided)])); else $("agreed").remove();
  const what = { accuracy: "accuracy", logit_diff: "logit difference" }, gap = (p) => (p ? `between ${p.after} and ${p.by}` : "–");
  const shapes = Object.entries(y.behaviour).flatMap(([name, of]) => Object.entries(of).flatMap(([seed, kinds]) => Object.entries(kinds).map(([k, s]) => {
    const b = s.bic || {}, c = s.change_points || {}, points = (c.points || []).map(gap).join("; ");
    // Any trend yields points: they are jumps only where a smooth rise would hardly yield them.
    const jumps = !points ? "none" : !known(c.p) ? points : c.p < 0.05 ? `${points} (p = ${c.p.toFixed(3)})` : `none beyond a smooth rise (p = ${c.p.toFixed(2)})`;
    return [`${name}, ${what[k] || k}`, seed, [s.kind === "none" ? "no change" : s.kind, "left"], known(b.smooth) && known(b.sudden) ? signed(b.smooth - b.sudden, 1) : "–", around(s.change, (v) => signed(v)), [jumps, "left"]];
  })));
  grid("shape-table", ["", "seed", ["shape", "left"], "BIC smooth − sudden", "change", ["change points", "left"]], shapes);
}

// ---- key layers and heads --------------------------------------------------------------------------------------------------
function showKey(key) {
  const check = (s) => (s ? around(s) : "not grafted");
  for (const kind of ["layers", "heads"]) grid("key-" + kind, [kind.slice(0, -1), "booked (nats)", "share of the gain", "grafted alone: returns", "takes", "direct, logits"],
    key[kind].map((r) => [r.name, around(r.booked), around(r.share), check(r.into), check(r.lost), known(r.direct) ? signed(r.direct) : "–"]));
}
function changedAtStep() {
  document.querySelectorAll("#verdict-strip li").forEach((li) => li.classList.toggle("now", +li.dataset.step === steps[state.index]));
  ROLES.forEach((r) => { const p = $("diff-series-" + r); if (p && p.data) Plotly.relayout(p, { shapes: marker() }); });
}
drawings.push({ start: showChanged, atStep: changedAtStep });
