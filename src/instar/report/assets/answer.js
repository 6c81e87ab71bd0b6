// ---- the answer: where the new skill runs, how and when it was written -----------------------------------------------
const A = D.summary.answer || null;
const PARTS = { "Q,K": "#5b4b9a", "V,O": "#d9992b", MLPs: "#3c8a6b", norm: "#8a9099", token: "#b3688a", position: "#7d9cc0", unembedding: "#a58a6a", "attention bias": "#c9c9c9" };

function showAnswer() {
  if (!A) return $("answer").remove();
  $("answer-headline").textContent = A.headline;
  $("verdict").querySelector(".over").textContent = "What the old circuit's heads alone say (the verdict of instar 0.3)";
  const lists = [["ruled_out", "Ruled out"], ["mixed", "Mixed"], ["open", "Open"]];
  $("answer-lists").append(...lists.flatMap(([key, word]) => A[key].map((text) => { const li = element("li"); li.append(element("b", `${word}: `), text); return li; })));
  grid("answer-runs", ["counterfactual", "word", "edges", "reuse", "old circuit alone", "new circuit alone", "floor", "ceiling", "without the old circuit's edges", "λ", "r"],
    Object.entries(A.reuse).map(([name, o]) => [name, o.word, `${o.edges} of ${o.of}`, around(o.reuse), around(o.old), around(o.new), known(o.floor) ? `${fixed2(o.floor)} (${o.floor_is})` : "–", known(o.ceiling) ? fixed2(o.ceiling) : "–", around(o.necessity), around(o.slope), around(o.correlation)]));
  const w = A.written;
  if (!w) ["answer-parts", "answer-nodes", "answer-layers"].forEach((id) => $(id).closest("div.scroll").remove());
  else {
    const beside = Object.entries(A.controls || {});
    grid("answer-parts", ["part", "booked (nats)", "share of the gain", "by grafts", "of ‖Δθ‖²", "of the parameters", ...beside.map(([name]) => `control (${name}), nats`)], w.parts.map((p) => [p.part + (w.named.includes(p.part) ? " ●" : ""), around(p.booked), around(p.share), around(p.shapley), ...[p.moved, p.parameters].map((x) => (known(x) ? percent(x) : "–")), ...beside.map(([, own]) => (own.parts[p.part] ? around(own.parts[p.part]) : "–"))]));
    for (const [id, key, of] of [["answer-nodes", "nodes", "node"], ["answer-layers", "layers", "layer"]]) grid(id, [of, "booked (nats)", "share"], w[key].map((r) => [r[of], around(r.booked), around(r.share)]));
  }
  $("answer-caveat").textContent = A.caveat;
  ledgerPlot(); reusePlot();
}
function ledgerPlot() {
  const l = A.ledger && A.ledger.choosing, at = A.ledger ? [0, ...A.ledger.steps] : [];
  if (!l || at.length < 3) return $("answer-ledger").remove();
  const traces = Object.entries(l.booked).map(([part, values]) => { let sum = 0; return { x: at, y: [0, ...values.map((v) => (sum += v))], name: safe(part), mode: "lines", line: { color: PARTS[part] || "#666", width: 2 } }; });
  let sum = 0; traces.push({ x: at, y: [0, ...l.gain.map((v) => (sum += v))], name: "gain", mode: "lines", line: { color: "#22262b", width: 2, dash: "dot" } });
  draw("answer-ledger", traces, layout("Booked so far, by part of the model", { legend: { ...BELOW, y: -0.3 }, xaxis: { title: { text: "step" } }, yaxis: { title: { text: "choosing, nats" } } }));
}
function reusePlot() {
  const runs = Object.entries(A.reuse).filter(([, o]) => o.curve.length);
  if (!runs.length) return $("answer-reuse").remove();
  const colours = ["#5b4b9a", "#d9992b", "#3c8a6b", "#b3688a"];
  const traces = runs.flatMap(([name, o], i) => [[1, "old circuit", "solid"], [2, "new circuit", "dot"]].map(([k, words, dash]) => ({ x: o.curve.map((c) => c[0]), y: o.curve.map((c) => c[k]), name: `${safe(name)}: ${words}`, mode: "lines+markers", line: { color: colours[i % 4], dash } })));
  draw("answer-reuse", traces, layout("What circuits do alone in the tuned model", { legend: { ...BELOW, y: -0.3 }, xaxis: { type: "log", title: { text: "edges" } }, yaxis: { title: { text: "faithfulness on the new task" } } }));
}
drawings.push({ start: showAnswer });
