// ---- what changed: weights grafted, outputs exchanged, residual learning ----------------------------------------------
// The two shares have a colour and a pattern, so that neither needs the other.
const WAYS = [["into", "returns (tuned into base)", "#5b4b9a", ""], ["lost", "loses (base into tuned)", "#d9992b", "/"]];
const CARRY = [["into", "brings (tuned outputs in base)", "#5b4b9a", ""], ["lost", "takes (base outputs in tuned)", "#d9992b", "/"]];
const GROUPS = ["inside", "inside<qk>", "inside<vo>", "outside", "mlps", "embeddings", "norms"];
const SAID = { inside: "inside", "inside<qk>": "inside:<br>Q, K", "inside<vo>": "inside:<br>V, O", outside: "other<br>heads", heads: "all<br>heads", mlps: "all<br>MLPs", embeddings: "embed-<br>dings", norms: "norms,<br>biases" };
const GAIN = "share of the gain";
const has = (kind, name) => V && `${kind} ${name} into` in V.evidence;
const share = (kind, name, way) => item(`${kind} ${name} ${way}`);
const setsOf = (kind, test) => (V ? Object.keys(V.evidence) : []).filter((k) => k.startsWith(kind + " ") && k.endsWith(" into")).map((k) => k.slice(kind.length + 1, -5)).filter(test);
const isLayer = (n) => /^[am]\d+$/.test(n), isHead = (n) => /^a\d+\.h\d+$/.test(n), isRandom = (n) => n.startsWith("random ");
const UPRIGHT = { margin: { l: 56, r: 26, t: 58, b: 132 }, legend: { ...BELOW, y: -0.62 }, xaxis: { type: "category", showgrid: false, tickangle: -90 } };
const NARROW = window.innerWidth < 640;
const sub = (title, more) => `${title}<br><span style="font-size:11px;color:#6b7280">${more}</span>`;
const delta = () => (V.thresholds ? V.thresholds.share : null);
const rule = (y, dash, colour = "#8a9099") => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: colour, width: 1, dash }, layer: "above" });
function rules() {
  const d = delta();
  return { shapes: [rule(0, "solid", "#5b6470"), ...(d === null ? [] : [rule(d, "dash", "#22262b")])], annotations: d === null ? [] : [{ text: "δ", xref: "paper", x: 1, xanchor: "left", y: d, showarrow: false, font: { size: 12 }, xshift: 3 }] };
}
// Raw accuracies in the hover, where they were kept.
function rawly(name, way) {
  const g = D.grafted, i = way === "into" ? 0 : 1;
  const one = (r) => { const a = g && g.accuracy[r] && g.accuracy[r][name]; return a ? `<br>${safe(D.summary[r])} accuracy ${percent(a[i])} (base ${percent(g.whole[r][0])}, tuned ${percent(g.whole[r][1])})` : ""; };
  return ROLES.map(one).join("");
}
function shareBars(kind, names, ways, raw = () => "") {
  return ways.map(([way, words, colour, pattern]) => {
    const e = names.map((n) => share(kind, n, way)), y = e.map((x) => x.value), ends = (a, b) => e.map((x) => (known(x[a]) && known(x[b]) ? Math.abs(x[a] - x[b]) : 0));
    return { x: names.map((n) => (NARROW && SAID[n] ? SAID[n].replace("-<br>", "").replace("<br>", " ") : SAID[n] || safe(n))), y, name: words, type: "bar", marker: { color: colour, line: { color: pattern ? "#8a5a00" : colour, width: 1 }, pattern: { shape: pattern, fgcolor: "#8a5a00", bgcolor: "#f6e3bd", solidity: 0.3 } },
      error_y: { type: "data", symmetric: false, array: ends("high", "value"), arrayminus: ends("value", "low"), thickness: 1.2, width: 3, color: "#22262b" },
      text: names.map((n, i) => `${safe(n)} ${words}: ${around(e[i])}${raw(n, way)}`), textposition: "none", hovertemplate: "%{text}<extra></extra>" };
  });
}
const highest = (kind, names) => span(names.flatMap((n) => ["into", "lost"].flatMap((w) => { const e = share(kind, n, w); return [e.low, e.high, e.value]; })).concat(delta() ?? 0.3));
function barPlot(id, title, kind, names, ways, extra = {}, raw) {
  const { shapes, annotations } = rules(), some = names.some((n) => known(share(kind, n, "into").value));
  draw(id, shareBars(kind, names, ways, raw), layout(title, { legend: { ...BELOW, y: -0.13 }, barmode: "group", bargap: 0.3, shapes, annotations: some ? annotations : emptyText("masked: the gain is not clearly above 0"), margin: { l: 56, r: 26, t: 40, b: 64 },
    xaxis: { type: "category", showgrid: false }, yaxis: { title: { text: GAIN }, range: highest(kind, names), zeroline: true, zerolinecolor: "#5b6470" }, ...extra, ...(NARROW ? UPRIGHT : {}) }));
}
const emptyText = (text) => [{ text, showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5, font: { size: 12, color: "#6b7280" } }];
const numbered = (names) => names.slice().sort((a, b) => +a.match(/\d+/)[0] - +b.match(/\d+/)[0] || (a < b ? -1 : 1));

function showGrafts() {
  const g = D.grafted, whole = item("gain logits here");
  $("changed-at").textContent = `base against step ${V.step}, seed ${V.seed}`;
  $("graft-facts").textContent = [`G = ${around(whole)} logits.`, g ? `${g.pairs} pairs of ${D.summary.new}.` : "", g ? `“Inside” are the heads of the old task's circuit in the base: ${g.inside.length ? g.inside.join(", ") : "none"}.` : "", delta() === null ? "" : `The dashed line is δ = ${delta()}, from which a set counts as carrying the gain. Lines are 95 % intervals over prompts.`].filter(Boolean).join(" ");
  barPlot("graft-groups", "Groups of weights", "graft", GROUPS.filter((n) => has("graft", n)), WAYS, { margin: { l: 56, r: 26, t: 40, b: 80 }, legend: { ...BELOW, y: -0.26 }, xaxis: { type: "category", showgrid: false, tickangle: 0 } }, rawly);
  upTo();
  const layers = numbered(setsOf("graft", isLayer));
  if (layers.length) barPlot("graft-layers", "Every layer's attention (a) and MLP (m)", "graft", layers, WAYS, {}, rawly); else $("graft-layers").remove();
  graftHeads();
  grid("graft-table", ["set", "returns", "loses", ...ROLES.flatMap((r) => [`${D.summary[r]} accuracy: set into base`, "… out of tuned"])], setsOf("graft", () => true).map((n) => [n, around(share("graft", n, "into")), around(share("graft", n, "lost")), ...ROLES.flatMap((r) => { const a = g && g.accuracy[r] && g.accuracy[r][n]; return a ? a.map((x) => percent(x)) : ["–", "–"]; })]));
  showCarriers(); showAdded();
}
function upTo() {
  const names = numbered(setsOf("graft", (n) => n.startsWith("to layer ")));
  if (!names.length) return $("graft-upto").remove();
  const x = names.map((n) => +n.slice(9)), { shapes, annotations } = rules();
  const traces = WAYS.flatMap(([way, words, colour, dashed]) => {
    const e = names.map((n) => share("graft", n, way));
    if (!known(e[0].value)) return [];
    return [band(x, e.map((v) => v.low), e.map((v) => v.high), colour), { x, y: e.map((v) => v.value), name: words, mode: "lines+markers", line: { color: colour, width: 2, dash: dashed ? "dash" : "solid" }, marker: { size: 7, symbol: dashed ? "diamond-open" : "circle" }, text: names.map((n, i) => `${n}, ${words}: ${around(e[i])}${rawly(n, way)}`), hovertemplate: "%{text}<extra></extra>", type: "scatter" }];
  });
  draw("graft-upto", traces, layout("All layers up to and with this one", { legend: { ...BELOW, y: -0.26 }, shapes: [...shapes, rule(1, "dot")], annotations: traces.length ? annotations : emptyText("masked: the gain is not clearly above 0"), margin: { l: 56, r: 26, t: 40, b: 80 }, xaxis: { title: { text: "last layer of the set", standoff: 6 }, dtick: x.length > 16 ? 4 : 1 }, yaxis: { title: { text: GAIN }, range: span([...highest("graft", names), 1]) } }));
}
function graftHeads() {
  const names = setsOf("graft", isHead), boxes = ["graft-heads-into", "graft-heads-lost", "graft-heads-top"];
  if (!names.length) return boxes.forEach((id, i) => (i ? $(id).remove() : $(id).replaceWith(element("p", "Single heads were not grafted in this run (compare.single is off).", "how"))));
  const at = names.map((n) => n.slice(1).split(".h").map(Number)), L = Math.max(...at.map((a) => a[0])) + 1, H = Math.max(...at.map((a) => a[1])) + 1;
  const limit = Math.max(...names.flatMap((n) => WAYS.map(([w]) => Math.abs(share("graft", n, w).value || 0)))) || 1;
  WAYS.forEach(([way, words]) => {
    const cells = (f) => [...Array(L).keys()].map((l) => [...Array(H).keys()].map((h) => f(`a${l}.h${h}`)));
    draw("graft-heads-" + way, [{ type: "heatmap", z: cells((n) => share("graft", n, way).value), text: cells((n) => `${n} ${words}: ${around(share("graft", n, way))}${rawly(n, way)}`), colorscale: DIVERGING, zmin: -limit, zmax: limit, colorbar: { thickness: 10, title: { text: GAIN, side: "right", font: { size: 10 } } }, hovertemplate: "%{text}<extra></extra>" }],
      layout(`Every head ${words}`, { plot_bgcolor: "#e7e9ec", annotations: names.some((n) => known(share("graft", n, way).value)) ? [] : emptyText("masked"), xaxis: { title: { text: "head" }, dtick: 1, showgrid: false }, yaxis: { title: { text: "layer" }, dtick: 1, showgrid: false, range: [L - 0.5, -0.5] } }));
  });
  const most = (n) => Math.max(...WAYS.map(([w]) => Math.abs(share("graft", n, w).value || 0)));
  const top = names.slice().sort((a, b) => most(b) - most(a)).slice(0, 14);
  barPlot("graft-heads-top", sub("Heads with the largest shares", `${top.length} of ${names.length}, by the larger of the two shares`), "graft", top, WAYS, { margin: { l: 56, r: 26, t: 58, b: 64 } }, rawly);
}
function showCarriers() {
  const groups = ["inside", "outside", "heads", "mlps"].filter((n) => has("carry", n)), random = setsOf("carry", isRandom);
  const box = (name, way) => { const v = random.map((n) => share("carry", n, way).value).filter(known); return v.length ? { value: v.reduce((a, b) => a + b, 0) / v.length, low: Math.min(...v), high: Math.max(...v) } : null; };
  const traces = shareBars("carry", groups, CARRY), label = NARROW ? "random sets" : `random,<br>${random.length} sets`;
  CARRY.forEach(([way, words], i) => {
    const r = box("random", way), t = traces[i], err = t.error_y; if (!r) return;
    [[t.x, label], [t.y, r.value], [err.array, r.high - r.value], [err.arrayminus, r.value - r.low], [t.text, `${random.length} random sets matched per layer to the inside, ${words}: mean ${r.value.toFixed(2)}, from ${r.low.toFixed(2)} to ${r.high.toFixed(2)}`]].forEach(([a, v]) => a.splice(1, 0, v));
  });
  const { shapes, annotations } = rules(), all = [...groups, ...random];
  draw("carry-groups", traces, layout(sub("Groups that carry the gain", "may be written elsewhere; random: mean and range"), { legend: { ...BELOW, y: -0.3 }, barmode: "group", bargap: 0.3, shapes, annotations: all.some((n) => known(share("carry", n, "into").value)) ? annotations : emptyText("masked: the gain is not clearly above 0"), margin: { l: 56, r: 26, t: 58, b: 84 }, xaxis: { type: "category", showgrid: false }, yaxis: { title: { text: GAIN }, range: highest("carry", all) }, ...(NARROW ? UPRIGHT : {}) }));
  const layers = numbered(setsOf("carry", isLayer)).sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
  if (layers.length) barPlot("carry-layers", sub("Layers that carry the gain", "may be written elsewhere; heads (a), then MLPs (m)"), "carry", layers, CARRY, { margin: { l: 56, r: 26, t: 58, b: 84 }, legend: { ...BELOW, y: -0.3 } }); else $("carry-layers").remove();
}
function showAdded() {
  const parts = Object.entries(V.added || {});
  if (!parts.length) return $("added").remove();
  const looks = [["#5b6470", ""], ["#a9b0b9", "/"]];
  const traces = parts.map(([part, own], i) => ({ x: own.value.map((_, l) => String(l)), y: own.value, error_y: { array: own.value.map((v, l) => own.high[l] - v), arrayminus: own.value.map((v, l) => v - own.low[l]), thickness: 1, width: 3 }, name: part === "mlp" ? "MLP" : safe(part), type: "bar", marker: { color: looks[i % 2][0], line: { color: "#5b6470", width: 1 }, pattern: { shape: looks[i % 2][1], fgcolor: "#5b6470", bgcolor: "#eef0f2", solidity: 0.25 } }, hovertemplate: `layer %{x} ${safe(part)}: %{y:+.3f} logits<extra></extra>` }));
  draw("added", traces, layout(`Added on the base's input, ${safe(D.summary.new)}`, { legend: BELOW, barmode: "group", bargap: 0.3, margin: { l: 56, r: 16, t: 40, b: 64 }, xaxis: { type: "category", showgrid: false, title: { text: "layer" } }, yaxis: { title: { text: "logits" }, range: span(parts.flatMap(([, own]) => [...own.low, ...own.high])), zeroline: true, zerolinecolor: "#5b6470" } }));
}
