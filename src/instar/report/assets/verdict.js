// ---- the verdict: what became of the old circuit --------------------------------------------------------------------
const V = D.summary.verdict || null;
const SIGN = { "no new ability": "–", replaced: "✕", extended: "+", rewired: "⇄", amplified: "▲", undetermined: "?" };
const TRUTH = { true: ["✓ true", "t"], false: ["✗ false", "f"], null: ["? open", "o"] };
const capital = (s) => { const t = String(s); return t.charAt(0).toUpperCase() + t.slice(1); };
const known = (x) => Number.isFinite(x);
const kindClass = (kind) => (kind in SIGN ? "k-" + kind.replaceAll(" ", "-") : "k-none");
const item = (name) => (V && V.evidence[name]) || { value: null, low: null, high: null };
// A bound of −0.00 keeps its sign: the interval holds 0.
const fixed2 = (x) => x.toFixed(2).replace("-", "−");
const around = (e, f = fixed2) => (!e || !known(e.value) ? "not measurable" : f(e.value) + (known(e.low) && known(e.high) ? ` [${f(e.low)}, ${f(e.high)}]` : ""));
const signOf = (kind) => { const s = element("span", SIGN[kind] || "·", "sign " + kindClass(kind)); s.setAttribute("aria-hidden", "true"); return s; };

// A cell is its text, or its text and a class. Text only, whatever it says.
function grid(id, head, rows) {
  const t = $(id); t.replaceChildren();
  const put = (row, tag, cell) => { const [text, cls] = Array.isArray(cell) ? cell : [cell]; row.append(element(tag, text, cls)); };
  const top = t.createTHead().insertRow(); head.forEach((h) => put(top, "th", h));
  const body = t.createTBody();
  rows.forEach((cells) => { const r = body.insertRow(); cells.forEach((c) => put(r, "td", c)); });
}
function list(id, lines) { $(id).replaceChildren(...lines.map((l) => element("li", l))); }

function showVerdict() {
  showControls();
  if (!V) return noVerdict();
  $("verdict-kind").append(signOf(V.kind), capital(V.kind));
  $("verdict-text").textContent = V.text;
  verdictNumbers();
  if (V.missing.length) {
    const lines = element("ul", undefined, "plain");
    lines.append(...V.missing.map((m) => element("li", m)));
    $("verdict-open").append(element("b", V.kind === "undetermined" ? "What is open, or in the way" : "What is missing"), lines);
  }
  $("verdict-change").textContent = V.would_change;
  verdictStrip();
  const seeds = Object.entries(V.seeds || {});
  $("verdict-seeds").textContent = [V.across_seeds, seeds.length > 1 ? seeds.map(([s, k]) => `Seed ${s}: ${k}`).join("; ") + "." : ""].filter(Boolean).join(" ");
  conditions();
  const cells = (e) => (e.value === null ? ["not measurable", "", ""] : [e.value, e.low, e.high].map((x) => (x === null ? "–" : signed(x, 3))));
  grid("evidence-table", ["item", "value", "low", "high"], Object.entries(V.evidence).map(([n, e]) => [n, ...cells(e)]));
}
function noVerdict() {
  $("verdict-kind").textContent = "No verdict";
  $("verdict-text").textContent = "No checkpoint of this run has causal tests (weight grafting, cross-model patching, ablation of the old circuit), or its circuits were not measured. Direct attribution, further down, shows who writes the answer, not which weights had to change.";
  ["verdict-numbers", "verdict-open", "verdict-change", "verdict-along", "verdict-conditions", "verdict-evidence"].forEach((id) => $(id).remove());
}
function verdictNumbers() {
  const facts = [
    ["Old circuit's heads, weights grafted", [["returns ", around(item("graft inside into"))], ["loses ", around(item("graft inside lost"))]]],
    ["All other heads, weights grafted", [["returns ", around(item("graft outside into"))], ["loses ", around(item("graft outside lost"))]]],
    ["New task without the old circuit's heads", [["effect lost ", around(item("necessity"))], ["random sets ", around(item("necessity null")), "quiet"]]],
    ["New circuit inside the old one", [["heads ", around(item("heads inside"))], ["resampled ", around(item("heads floor")), "quiet"], ["edges ", around(item("edges inside"))], ["resampled ", around(item("edges floor")), "quiet"]]],
  ];
  facts.forEach(([what, numbers]) => {
    const box = element("div"), dd = element("dd");
    numbers.forEach(([word, number, quiet], i) => { const [main, ...rest] = number.split(" ["); if (i) dd.append(element("br")); const line = element("span", word, quiet || ""); dd.append(line); line.append(number === "not measurable" ? number : element(quiet ? "span" : "b", main), rest.length ? " [" + rest.join(" [") : ""); });
    box.append(element("dt", what), dd); $("verdict-numbers").append(box);
  });
}
function verdictStrip() {
  V.series.forEach((row) => {
    const cell = element("li", undefined, kindClass(row.kind)), kind = element("b");
    kind.append(signOf(row.kind), capital(row.kind));
    cell.append(kind, `step ${row.step}`); cell.dataset.step = row.step; cell.title = row.missing.join("; ");
    $("verdict-strip").append(cell);
  });
  const tested = V.series.map((r) => r.step);
  $("verdict-tested").textContent = `causal tests were made at ${tested.length} of ${steps.filter((s) => s > 0).length} checkpoints after the base`;
}
function conditions() {
  const rows = V.series.length ? V.series : [V], names = Object.keys(V.conditions), t = V.thresholds;
  grid("conditions-table", ["condition", ...rows.map((r) => `step ${r.step}`)], names.map((n) => [n, ...rows.map((r) => TRUTH[String(r.conditions[n] ?? null)])]));
  if (t) $("verdict-thresholds").textContent = `δ (a share of the gain from which a set carries it): ${t.share}. Rise in accuracy that counts as new: ${t.rise}. Margin below the resampling floor at which an overlap still counts as equal: ${t.margin}; no overlap is claimed where resamples share less than ${t.floor}. The old circuit transfers from a faithfulness of ${t.transfer}. A condition is open where its interval spans the threshold or it was not measured.`;
}
function showControls() {
  const s = D.summary, controls = Object.entries(s.controls || {}), last = steps.length - 1;
  if (!controls.length) return $("verdict-controls").remove();
  const at = (i) => ROLES.map((r) => bounds(task(r), "accuracy", i, percent)), w = s.weight_change;
  const moved = (i) => (w ? Math.hypot(...Object.values(w).map((c) => c.change[i])).toFixed(2) : "–");
  const rows = [["base", ...at(0), moved(0)], [`${s.new}, step ${steps[last]} (the main fine-tuning)`, ...at(last), moved(last)]];
  controls.forEach(([name, c]) => rows.push(!c ? [`${name} (control)`, "not measured", "not measured", "–"] : [`${c.is} (control)`, ...ROLES.map((r) => { const a = c[s[r]]; return a ? `${percent(a.accuracy)} [${percent(a.accuracy_low)}, ${percent(a.accuracy_high)}]` : "not measured"; }), known(c["weights moved"]) ? c["weights moved"].toFixed(2) : "–"]));
  grid("controls-table", ["after", ...ROLES.map((r) => s[r] + " accuracy"), "weights moved, ‖ΔW‖"], rows);
}
drawings.push({ start: showVerdict });
