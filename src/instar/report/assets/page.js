"use strict";
// One slider drives every drawing. All scales are computed once, over all steps and both tasks, and never change.
const D = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const COLOUR = { old: "#2a6f97", new: "#c8553d" };
const DIVERGING = [[0, "#1f4e79"], [0.25, "#7fb0d3"], [0.5, "#f7f7f5"], [0.75, "#e6a48f"], [1, "#a33b20"]];
const SHARE = [[0, "#ffffff"], [0.25, "#dbe7ef"], [0.5, "#8fb6cf"], [0.75, "#3f7fa6"], [1, "#123f5c"]];
const ROLES = ["old", "new"];
const LOGITS = "logit(answer) − mean logit(foils)";
// plotly.js offers to upload every chart to its vendor's cloud unless it is told not to, and links to its home page.
const CONFIG = { displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: "", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "sendChartToCloud"] };
// Prompts and names are foreign text, and the chart library reads a little HTML in labels.
const safe = (s) => String(s).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const percent = (x, digits = 1) => (100 * x).toFixed(digits) + " %";
const signed = (x, digits = 2) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
const tint = (hex, alpha) => hex + Math.round(255 * alpha).toString(16).padStart(2, "0");
const flat = (x) => (Array.isArray(x) ? x.flatMap(flat) : [x]);
const task = (role) => D.summary.tasks[D.summary[role]];
const inside = (role) => D.inside[role];
const state = { index: 0, layer: 0, head: 0, shown: 0, playing: null, site: "z", scale: "reference", against: "v", group: null };
const steps = task("old").steps;
// Each drawing in a file of its own adds itself: `start` once, `atStep` whenever the step changes.
const drawings = [{ start: () => startInterventions(), atStep: () => interventions() }];

function layout(title, extra = {}) {
  const axis = { zeroline: false, gridcolor: "#eef0f2", linecolor: "#c9ced6", ticks: "outside", tickcolor: "#c9ced6", automargin: true };
  const base = {
    title: { text: title, font: { size: 14 }, x: 0, xref: "paper", xanchor: "left" },
    font: { family: "ui-sans-serif, system-ui, sans-serif", size: 12, color: "#22262b" },
    margin: { l: 56, r: 16, t: 40, b: 46 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 1, xanchor: "right", font: { size: 11 } }, hovermode: "closest",
  };
  const { xaxis, yaxis, ...rest } = extra;
  return { ...base, ...rest, xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis } };
}
const draw = (id, traces, lay) => Plotly.react($(id), traces, lay, CONFIG);
const element = (tag, text, cls) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; if (cls) e.className = cls; return e; };
const span = (values) => { const v = values.filter(Number.isFinite); const low = Math.min(...v, 0), high = Math.max(...v, 0), pad = 0.06 * (high - low || 1); return [low - pad, high + pad]; };

function band(x, low, high, colour) {
  return { x: [...x, ...[...x].reverse()], y: [...high, ...[...low].reverse()], fill: "toself", fillcolor: tint(colour, 0.16), line: { width: 0 }, hoverinfo: "skip", showlegend: false, type: "scatter", mode: "lines" };
}
const BESIDE = { orientation: "v", y: 1, x: 1.02, xanchor: "left", yanchor: "top", font: { size: 10.5 }, tracegroupgap: 0 };
const BELOW = { orientation: "h", y: -0.24, yanchor: "top", x: 0, xanchor: "left", font: { size: 11 } };
const marker = () => [{ type: "line", x0: steps[state.index], x1: steps[state.index], yref: "paper", y0: 0, y1: 1, line: { color: "#22262b", width: 1, dash: "dot" } }];
const titleOf = (role) => safe(D.summary[role]) + (role === "old" ? " · the task it had" : " · the task it learns");

// ---- over steps -----------------------------------------------------------------------------------------------------
const ruled = (r) => `${r.kind}${["best place", "commonest answer"].includes(r.kind) ? ` (${r.says})` : ""} ${percent(r.accuracy)}` + (r.kind === "chance" ? "" : ` [${(100 * r.low).toFixed(1)}, ${(100 * r.high).toFixed(1)}]`);
function baselines() {
  ROLES.forEach((role) => {
    const rules = task(role).baselines || [], count = Math.max(...rules.map((r) => r.trained_on));
    if (rules.length) $("baselines").append(element("li", `${D.summary[role]} without any circuit: ${rules.map(ruled).join(", ")}${count ? `; from ${count.toLocaleString("en")} ${rules[0].learnt_on}, the best on them first (dashed)` : "; no rows to learn others from (dashed)"}`));
  });
}
// What log p(answer) gained, and its two parts; summaries of before 0.4 have none of it.
const nats = (g) => (g.value === null ? "not defined" : `${signed(g.value)} [${signed(g.low)}, ${signed(g.high)}]`);
function gained() {
  ROLES.forEach((role) => {
    const t = task(role), g = t.gain, last = t.steps[t.steps.length - 1];
    if (g && last !== t.steps[0]) $("gained").append(element("li", `${D.summary[role]}, step ${t.steps[0]} to ${last}: log p(answer) ${nats(g.log_probability)} nats = naming ${nats(g.naming)} + choosing ${nats(g.choosing)}`));
    if (t.choosing_undefined) $("gained").append(element("li", `${D.summary[role]}: ${t.choosing_undefined} of ${t.pairs} pairs have fewer than two candidates: choosing is not defined there`));
  });
}
function behaviour(what, title, axis) {
  $(what).hidden = !ROLES.some((role) => task(role)[what]);
  if ($(what).hidden) return;
  const traces = ROLES.filter((role) => task(role)[what]).flatMap((role) => {
    const t = task(role);
    // What needs no circuit, best on training rows; of summaries of before there was any, nothing.
    const rule = what === "accuracy" && (t.baselines || [])[0], ends = [t.steps[0], t.steps[t.steps.length - 1]];
    const beside = rule ? [{ x: ends, y: [rule.accuracy, rule.accuracy], mode: "lines", line: { color: COLOUR[role], width: 1, dash: "dash" }, showlegend: false, type: "scatter", hovertemplate: `${safe(D.summary[role])}: ${safe(ruled(rule))}<extra></extra>` }] : [];
    return [...beside, band(t.steps, t[what + "_low"], t[what + "_high"], COLOUR[role]),
      { x: t.steps, y: t[what], name: safe(D.summary[role]), mode: "lines+markers", marker: { size: 5 }, line: { color: COLOUR[role], width: 2 }, type: "scatter" }];
  });
  draw(what, traces, layout(title, { xaxis: { title: { text: "fine-tuning step" } }, yaxis: axis, shapes: marker() }));
}
function said(role) {
  const t = task(role), names = Object.keys(t.said);
  const shades = { answer: COLOUR[role], "another name": "#b9a7c9", "no name": "#c9ced6", "end of text": "#22262b" };
  const givers = ["#e0b15c", "#c98a3a", "#a8682a", "#7d4b1e"];
  const traces = names.map((n) => ({ x: t.steps, y: t.said[n], name: safe(n), stackgroup: "one", mode: "lines", line: { width: 0.5, color: shades[n] || givers[+n.slice(-1) - 1] }, fillcolor: tint(shades[n] || givers[+n.slice(-1) - 1], 0.85), type: "scatter" }));
  draw("said-" + role, traces, layout(titleOf(role), { xaxis: { title: { text: "fine-tuning step" } }, yaxis: { range: [0, 1], tickformat: ".0%" }, shapes: marker(), legend: BESIDE }));
}
function movedLines(role) {
  const rows = (D.summary.changed.heads[D.summary[role]] || []).slice(0, 6), t = inside(role);
  const hues = ["#a33b20", "#2a6f97", "#5c946e", "#8a6aa8", "#c98a3a", "#5b6470"];
  const traces = rows.flatMap((r, i) => {
    const at = (k) => t.heads[k].map((s) => s[r.layer][r.index]);
    return [band(t.steps, at("low"), at("high"), hues[i]), { x: t.steps, y: at("value"), name: r.head, mode: "lines", line: { color: hues[i], width: 2 }, type: "scatter" }];
  });
  draw("moved-" + role, traces, layout(titleOf(role), { xaxis: { title: { text: "fine-tuning step" } }, yaxis: { title: { text: LOGITS }, range: scales.moved }, shapes: marker(), legend: BESIDE }));
}
function endLines(role) {
  const t = inside(role), end = t.slots.indexOf("end"), seen = (s, k) => attention(t, s, end, k);
  const traces = t.slots.map((name, k) => ({ x: t.steps, y: t.steps.map((_, s) => seen(s, k)), name: safe(name), mode: "lines", line: { width: 2 }, type: "scatter" }));
  draw("end-" + role, traces, layout(`a${state.layer}.h${state.head} · ` + titleOf(role), { xaxis: { title: { text: "fine-tuning step" } }, yaxis: { range: [0, 1.02], title: { text: "attention of the last token" } }, shapes: marker(), legend: BESIDE }));
}
function drift() {
  const d = D.summary.divergence;
  const text = { text: "not measured: no general text was given", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 };
  const lines = d ? [band(d.steps, d.kl_low, d.kl_high, "#5b6470"), { x: d.steps, y: d.kl, mode: "lines+markers", marker: { size: 4 }, line: { color: "#5b6470" }, type: "scatter", showlegend: false }] : [];
  draw("kl", lines, layout("Divergence on general text", { xaxis: { title: { text: "fine-tuning step" } }, yaxis: { title: { text: "nats per token" }, rangemode: "tozero" }, shapes: marker(), annotations: d ? [] : [text] }));
  const w = D.summary.weight_change;
  if (!w) return;
  const names = Object.keys(w), z = names.map((n) => w[n].change.map((c) => c / w[n].norm));
  draw("weights", [{ type: "heatmap", x: steps.map(String), y: names, z, colorscale: SHARE, zmin: 0, zmax: Math.max(...flat(z)) || 1, colorbar: { thickness: 10, tickformat: ".1%" }, hovertemplate: "step %{x}, %{y}: %{z:.2%}<extra></extra>" }],
    layout("Change of the weights, ‖ΔW‖ / ‖W‖", { xaxis: { title: { text: "fine-tuning step" }, type: "category", nticks: 9, tickangle: 0 }, yaxis: { autorange: "reversed", tickfont: { size: 9.5 }, dtick: 1 } }));
}

// ---- at one step ----------------------------------------------------------------------------------------------------
function stream(role) {
  const t = inside(role), i = state.index, x = t.stages;
  const label = x.map((s) => (s === "final" ? "out" : s.split("_")[0] + (s.endsWith("mid") ? "½" : "")));
  draw("stream-" + role, [
    { x, y: t.stream.value[0], name: "base", mode: "lines", line: { color: "#c9ced6", width: 3 }, type: "scatter" },
    band(x, t.stream.low[i], t.stream.high[i], COLOUR[role]),
    { x, y: t.stream.value[i], name: "step " + steps[i], mode: "lines+markers", line: { color: COLOUR[role], width: 2 }, marker: { size: 6 }, type: "scatter" },
  ], layout(titleOf(role), { xaxis: { title: { text: "residual stream before layer" }, tickvals: x, ticktext: label, type: "category" }, yaxis: { title: { text: LOGITS }, range: scales.stream, zeroline: true, zerolinecolor: "#c9ced6" } }));
}
function layers(role) {
  const t = inside(role), i = state.index, x = t.layers.value[0].map((_, l) => String(l));
  const bars = ["attention", "MLP"].flatMap((name, part) => {
    const pick = (k, s) => t.layers[k][s].map((row) => row[part]), y = pick("value", i);
    const error = { type: "data", symmetric: false, array: pick("high", i).map((h, l) => h - y[l]), arrayminus: pick("low", i).map((low, l) => y[l] - low), thickness: 1, width: 2, color: "#22262b" };
    const colour = part ? "#8a9099" : COLOUR[role];
    return [{ x, y, name, type: "bar", offsetgroup: String(part), marker: { color: colour }, error_y: error },
      { x, y: pick("value", 0), name: name + ", base", type: "bar", offsetgroup: part + "b", marker: { color: tint(colour, 0.3) } }];
  });
  draw("layers-" + role, bars, layout(titleOf(role), { legend: BELOW, barmode: "group", bargap: 0.25, xaxis: { title: { text: "layer" }, type: "category" }, yaxis: { title: { text: LOGITS }, range: scales.layers, zeroline: true, zerolinecolor: "#c9ced6" } }));
}
function heads(role) {
  const t = inside(role), z = t.heads.value[state.index];
  const box = { type: "rect", x0: state.head - 0.5, x1: state.head + 0.5, y0: state.layer - 0.5, y1: state.layer + 0.5, line: { color: "#22262b", width: 2 } };
  draw("heads-" + role, [{ type: "heatmap", z, colorscale: DIVERGING, zmin: -scales.heads, zmax: scales.heads, colorbar: { thickness: 10, title: { text: "logits", side: "right" } }, hovertemplate: "a%{y}.h%{x}: %{z:.3f} logits<extra></extra>" }],
    layout(titleOf(role), { xaxis: { title: { text: "head" }, dtick: 1, showgrid: false, range: [-0.5, z[0].length - 0.5] }, yaxis: { title: { text: "layer" }, dtick: 1, showgrid: false, range: [z.length - 0.5, -0.5] }, shapes: [box] }));
}
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
function attention(t, step, query, key) {
  const [, L, H, Q, K] = t.by_slot.shape;
  return t.by_slot.bytes[(((step * L + state.layer) * H + state.head) * Q + query) * K + key] / 255;
}
function slots(role) {
  const t = inside(role), names = t.slots.map(safe);
  const z = names.map((_, q) => names.map((_, k) => attention(t, state.index, q, k)));
  draw("slots-" + role, [{ type: "heatmap", x: names, y: names, z, colorscale: SHARE, zmin: 0, zmax: 1, colorbar: { thickness: 10 }, hovertemplate: "%{y} attends to %{x}: %{z:.2f}<extra></extra>" }],
    layout(`a${state.layer}.h${state.head} · ` + titleOf(role), { xaxis: { title: { text: "attended slot" }, showgrid: false, tickangle: -40, type: "category" }, yaxis: { autorange: "reversed", showgrid: false, type: "category" } }));
}
function example(role) {
  const t = inside(role);
  if (!t.tokens.length) return;
  const [, S, L, H, Q, K] = t.example.shape, shown = Math.min(state.shown, S - 1);
  const names = t.tokens[shown].map((w, i) => i + " " + safe(w));
  const z = names.map((_, q) => names.map((_, k) => t.example.bytes[((((state.index * S + shown) * L + state.layer) * H + state.head) * Q + q) * K + k] / 255));
  draw("example-" + role, [{ type: "heatmap", x: names, y: names, z, colorscale: SHARE, zmin: 0, zmax: 1, showscale: false, hovertemplate: "%{y} → %{x}: %{z:.2f}<extra></extra>" }],
    layout(`a${state.layer}.h${state.head} · ` + titleOf(role), { xaxis: { showgrid: false, tickangle: -60, type: "category", tickfont: { size: 10 } }, yaxis: { autorange: "reversed", showgrid: false, type: "category", tickfont: { size: 10 } } }));
}

// ---- interventions --------------------------------------------------------------------------------------------------
const SCALES = { reference: "share of the reference", ratio: "own share", logits: "logits" };
const RESIDUAL = ["resid_pre", "attn_out", "mlp_out"];
const kinds = () => ROLES.filter((r) => D.patched[r]).flatMap((r) => D.patched[r].counterfactuals.map((c, k) => ({ role: r, kind: k, name: c, id: `${r}-${k}` })));
const named = (p) => `${safe(D.summary[p.role])} · ${safe(p.name)} changed`;
const MASKED = "masked: b − c is not clearly above 0 here";
function emptyNote(z) {
  return flat(z).some((v) => v !== null) ? [] : [{ text: MASKED, showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5, font: { size: 12, color: "#6b7280" } }];
}
// What is not measured at every checkpoint is shown as it was last measured, and says at which step.
const placeIn = (own) => own.steps.findLastIndex((s) => s <= steps[state.index]);
const since = (own) => (own.steps[placeIn(own)] === steps[state.index] ? "" : ` · step ${own.steps[placeIn(own)]}`);
function patchedPanel(p) {
  const d = D.patched[p.role], z = d.values[state.site][state.scale][placeIn(d)][p.kind], bySlot = RESIDUAL.includes(state.site);
  const limit = d.limits[bySlot ? "slots" : "heads"][state.scale], x = bySlot ? d.slots.map(safe) : z[0].map((_, h) => String(h));
  const e = d.effects[placeIn(d)][p.kind], sub = `b − c = ${signed(e[0])} [${signed(e[1])}, ${signed(e[2])}] logits`;
  draw("patched-" + p.id, [{ type: "heatmap", x, y: z.map((_, l) => String(l)), z, colorscale: DIVERGING, zmin: -limit, zmax: limit, colorbar: { thickness: 9, title: { text: SCALES[state.scale], side: "right", font: { size: 10 } } }, hovertemplate: "layer %{y}, %{x}: %{z:.3f}<extra></extra>" }],
    layout(`${named(p)}${since(d)}<br><span style="font-size:11px;color:#6b7280">${sub}</span>`, { margin: { l: 40, r: 8, t: 56, b: 60 }, plot_bgcolor: "#e7e9ec", annotations: emptyNote(z), xaxis: { type: "category", showgrid: false, tickangle: bySlot ? -40 : 0, title: { text: bySlot ? "" : "head" } }, yaxis: { type: "category", autorange: "reversed", showgrid: false, title: { text: "layer" } } }));
}
function scatterPanel(p) {
  const d = D.patched[p.role], out = d.values.z[state.scale][placeIn(d)][p.kind], by = d.values[state.against][state.scale][placeIn(d)][p.kind];
  const limit = d.limits.heads[state.scale] * 1.08, group = out[0].length / by[0].length, heads = out.flatMap((row, l) => row.map((y, h) => [y, by[l][Math.floor(h / group)], l, h]));
  draw("scatter-" + p.id, [{ x: [-limit, limit], y: [-limit, limit], mode: "lines", line: { color: "#c9ced6", width: 1, dash: "dot" }, hoverinfo: "skip", showlegend: false, type: "scatter" },
    { x: heads.map((h) => h[1]), y: heads.map((h) => h[0]), text: heads.map((h) => `a${h[2]}.h${h[3]}`), mode: "markers", type: "scatter", showlegend: false, marker: { size: 8, color: heads.map((h) => h[2]), colorscale: "Viridis", cmin: 0, cmax: out.length - 1, colorbar: { thickness: 9, title: { text: "layer", side: "right" } }, line: { width: 0.5, color: "#fff" } }, hovertemplate: "%{text}: output %{y:.3f}, " + state.against + " %{x:.3f}<extra></extra>" }],
  layout(named(p) + since(d), { annotations: emptyNote(out), xaxis: { range: [-limit, limit], title: { text: `${state.against === "v" ? "values" : "pattern"} patched (${SCALES[state.scale]})` } }, yaxis: { range: [-limit, limit], title: { text: "output patched" } } }));
}
// A task without the chosen corruption shows all of its own.
const chosen = (c) => Math.max(0, c.groups.indexOf(state.group));
const circuitSpan = span([1.1, -0.1, ...Object.values(D.circuits).flatMap((c) => flat([c.faithfulness, c.random]).filter((v) => v !== null))]);
// Why a group has no curve at a place: nothing may be divided by its b − c.
const whyNot = (role, g, i) => { const name = D.summary[role], c = D.circuits[role], own = ((D.summary.circuits || {})[name] || {})[c.groups[g]] || {}; return (own.not_measured || [])[(own.steps || []).indexOf(c.steps[i])] || null; };
const notMeasured = (why) => ({ text: `not measured: ${safe(why).replace(" over ", " logits<br>over ")}`, showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5, font: { size: 12, color: "#6b7280" } });
function circuitCurve(role) {
  const c = D.circuits[role], g = chosen(c), i = placeIn(c), at = (k) => c[k][i][g];
  // Sizes that were not measured are passed over: a curve's own, and those of random circuits, which are fewer.
  const there = (k) => c.share.map((_, j) => j).filter((j) => at(k)[j] !== null), on = (k, own) => own.map((j) => at(k)[j]), sizes = (own) => own.map((j) => 100 * c.share[j]), seen = there("faithfulness"), x = sizes(seen);
  const known = seen.length > 0, line = { color: COLOUR[role], width: 2 };
  const traces = known ? [band(x, on("low", seen), on("high", seen), COLOUR[role]), { x: sizes(there("random")), y: on("random", there("random")), name: "random circuits", mode: "lines", line: { color: "#a9b0b9", width: 2, dash: "dash" }, type: "scatter" },
    { x, y: on("faithfulness", seen), text: on("kept", seen), name: "best edges", mode: "lines+markers", line, type: "scatter", hovertemplate: "%{x:.2g} % of edges (%{text} on a path): %{y:.2f}<extra></extra>" }] : [];
  const size = at("size"), fixed = (v) => (v === null ? "–" : v.toFixed(2)), why = whyNot(role, g, i), facts = why ? "not measured" : size === null ? "no size is faithful" : `${size} edges keep 0.85`;
  const sub = `CPR ${fixed(at("cpr"))} (random ${fixed(at("random_cpr"))}) · scores' rank correlation with exact ${fixed(at("rank_correlation"))}${since(c)}`;
  draw("curve-" + role, traces, layout(`${safe(D.summary[role])} · ${safe(c.groups[g])}: ${facts}<br><span style="font-size:11px;color:#6b7280">${sub}</span>`, { margin: { l: 56, r: 16, t: 56, b: 46 }, legend: BELOW, annotations: known ? [] : why ? [notMeasured(why)] : emptyNote([null]), shapes: [0, 0.85, 1].map((y) => ({ type: "line", x0: 0, x1: 1, xref: "paper", y0: y, y1: y, line: { color: "#c9ced6", width: 1, dash: y === 0.85 ? "dot" : "solid" } })), xaxis: { type: "log", title: { text: "edges selected, % of all" } }, yaxis: { range: circuitSpan, title: { text: "faithfulness" } } }));
}
const placed = (node, heads) => node === "input" ? [-1, heads / 2] : node === "logits" ? [null, heads / 2] : node[0] === "m" ? [+node.slice(1) + 0.45, heads + 0.6] : [+node.slice(1).split(".")[0], +node.split(".h")[1].split("<")[0]];
function circuitGraph(role) {
  const c = D.circuits[role], g = chosen(c), edges = c.edges[placeIn(c)][g];
  const L = c.layers, H = c.heads, out = [L, H / 2];
  const at = (n) => { const [x, y] = placed(n, H); return x === null ? out : [x, y]; }, top = Math.max(...edges.map((e) => Math.abs(e[1])), 1e-9);
  const lines = edges.map(([name, score]) => { const [u, v] = name.split("->"), a = at(u), b = at(v), kind = (v.match(/<(.)>/) || [, ""])[1]; return { x: [a[0], (a[0] + b[0]) / 2, b[0]], y: [a[1], (a[1] + b[1]) / 2 + 0.25, b[1]], mode: "lines", line: { shape: "spline", width: 0.8 + 4 * Math.sqrt(Math.abs(score) / top), color: tint(score < 0 ? "#2a6f97" : "#a33b20", 0.65), dash: kind === "q" ? "dot" : kind === "k" ? "dash" : "solid" }, text: [0, 1, 2].map(() => `${name}: ${signed(score, 3)} logits`), hoverinfo: "text", showlegend: false, type: "scatter" }; });
  const nodes = [...new Set(edges.flatMap(([n]) => n.split("->").map((x) => x.replace(/<.>/, ""))))], spot = nodes.map(at);
  const dots = { x: spot.map((s) => s[0]), y: spot.map((s) => s[1]), text: nodes, mode: "markers+text", textposition: "top center", textfont: { size: 9.5 }, marker: { size: 9, color: "#22262b" }, hoverinfo: "text", showlegend: false, type: "scatter" };
  const why = whyNot(role, g, placeIn(c)), total = c.size[placeIn(c)][g], of = total === null ? "" : `<br><span style="font-size:11px;color:#6b7280">${edges.length < c.drawn[g] ? `the ${edges.length} largest of ` : ""}${c.drawn[g]} edges, as many at every step; here ${total} keep 0.85</span>`;
  draw("graph-" + role, [...lines, dots], layout(`${safe(D.summary[role])} · ${safe(c.groups[g])}: circuit at step ${c.steps[placeIn(c)]}${of}`, { margin: { l: 56, r: 16, t: 56, b: 46 }, annotations: edges.length ? [] : why ? [notMeasured(why)] : [{ text: total === null ? "no faithful circuit on the grid" : "empty", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }], xaxis: { range: [-1.6, L + 0.6], showgrid: false, title: { text: "layer (MLPs above the heads; v solid, k dashed, q dotted)" }, tickvals: [...Array(L).keys()] }, yaxis: { range: [-0.8, H + 1.6], showgrid: false, title: { text: "head" }, tickvals: [...Array(H).keys()] } }));
}
function interventions() {
  kinds().forEach((p) => { patchedPanel(p); scatterPanel(p); });
  ROLES.filter((r) => D.circuits[r]).forEach((r) => { circuitCurve(r); circuitGraph(r); });
}
function option(select, value, text) { const o = element("option", text); o.value = value; $(select).append(o); }
function startInterventions() {
  if (!kinds().length) $("patching").remove();
  if (!Object.keys(D.circuits).length) $("circuits").remove();
  kinds().forEach((p) => ["patched", "scatter"].forEach((kind) => { const box = element("div", undefined, "plot"); box.id = `${kind}-${p.id}`; $(kind).append(box); }));
  const bind = (id, key) => $(id) && $(id).addEventListener("change", () => { state[key] = $(id).value; interventions(); });
  if (kinds().length) {
    const first = D.patched[kinds()[0].role];
    Object.entries(first.sites).filter(([s]) => s in first.values).forEach(([s, name]) => option("site", s, name));
    Object.entries(SCALES).forEach(([s, name]) => option("scale", s, name));
    state.site = "z" in first.values ? "z" : Object.keys(first.values)[0]; $("site").value = state.site;
    $("patched-how").textContent = first.how === "exact" ? "" : `These are ${first.how}.`;
  }
  const groups = [...new Set(Object.values(D.circuits).flatMap((c) => c.groups))];
  groups.forEach((g) => option("group", g, g === "givers" ? "all givers pooled" : g));
  state.group = groups[0];
  bind("site", "site"); bind("scale", "scale"); bind("against", "against"); bind("group", "group");
}

// ---- words and tables -----------------------------------------------------------------------------------------------
function table(id, head, rows, current) {
  const t = $(id); t.replaceChildren();
  const top = t.createTHead().insertRow(); head.forEach((h) => top.append(element("th", h)));
  const body = t.createTBody();
  rows.forEach((cells, i) => { const r = body.insertRow(); if (i === current) r.className = "now"; cells.forEach((c) => r.append(element("td", c))); });
}
const bounds = (t, what, i, f) => (!t[what] || t[what][i] === null ? "–" : `${f(t[what][i])} [${f(t[what + "_low"][i])}, ${f(t[what + "_high"][i])}]`);
const NUMBERS = [["accuracy", "accuracy", percent], ["choice_accuracy", "choice accuracy", percent], ["naming", "naming", signed], ["choosing", "choosing", signed]];
function bigTable() {
  const every = [...NUMBERS, ["logit_diff", "logit difference", signed]];
  const head = ["step", ...ROLES.flatMap((r) => every.map(([, name]) => `${D.summary[r]} ${name}`))];
  const rows = steps.map((s, i) => [s ? String(s) : "0 (base)", ...ROLES.flatMap((r) => every.map(([what, , f]) => bounds(task(r), what, i, f)))]);
  table("table", head, rows, state.index);
}
function groups(role) {
  const t = task(role), rows = [];
  for (const kind of ["by_place", "by_wording"]) for (const [name, g] of Object.entries(t[kind])) rows.push([name, ...NUMBERS.map(([what, , f]) => bounds(g, what, state.index, f)), String(g.pairs)]);
  table("groups-" + role, [`${D.summary[role]} at step ${steps[state.index]}`, ...NUMBERS.map(([, name]) => name), "pairs"], rows);
}
function movedTables(role) {
  const cells = (r) => [signed(r.before), signed(r.after), `${signed(r.change)} [${signed(r.low)}, ${signed(r.high)}]`, r.moved ? "moved" : "within noise"];
  for (const [kind, id, name] of [["heads", "moved-table-", (r) => r.head], ["layers", "layers-table-", (r) => `layer ${r.layer} ${r.part}`]]) {
    const rows = (D.summary.changed[kind][D.summary[role]] || []).slice(0, kind === "heads" ? 8 : 6);
    table(id + role, [`${D.summary[role]}: ${kind.slice(0, -1)}`, "base", "last", `change [95 %, all ${kind}]`, ""], rows.map((r) => [name(r), ...cells(r)]));
  }
}
function words() {
  const s = D.summary, last = steps.length - 1;
  $("title").textContent = `${s.model}: ${s.old} → ${s.new}`;
  const lead = $("lead");
  ROLES.slice().reverse().forEach((r, i) => {
    const t = task(r), name = element("b", s[r]); name.className = r;
    lead.append(i ? " " : "", name, ` went from ${bounds(t, "accuracy", 0, percent)} to ${bounds(t, "accuracy", last, percent)} in ${steps[last]} steps${i ? "" : ";"}${i ? "." : ""}`);
  });
  const notes = $("notes"), note = (text, cls) => notes.append(element("p", text, "note " + cls));
  s.health.forEach((h) => note(`Health, seed ${h.seed}, step ${h.step}: ${h.kind}. ${h.text}`, "warning"));
  const watched = Object.values(s.training).some((t) => t.train_accuracy.some((x) => x !== null));
  if (!watched) note("Health was not watched: somebody else trained these checkpoints.", "note");
  else if (!s.health.length) note("Health: no end-of-text collapse, no failure to learn, no overfitting was seen at any checkpoint.", "ok");
  if (s.audit) s.audit.findings.filter((f) => f.severity !== "note").forEach((f) => note(`Data: ${f.kind}, ${f.tested ? f.tested + ", " : ""}${f.count} ${f.unit || "rows"}. ${f.text}`, f.severity));
  s.failed.forEach((f) => note(`Step ${f.step} (seed ${f.seed}) could not be measured: ${f.reason}`, "error"));
  D.made.forEach(([k, v]) => $("made").append(element("dt", k), element("dd", v)));
  $("config").textContent = D.config; $("version").textContent = s.instar;
}

// ---- scales, state --------------------------------------------------------------------------------------------------
const both = (f) => ROLES.filter(inside).flatMap((r) => flat(f(inside(r))));
const scales = D.inside.old && D.inside.new ? {
  stream: span(both((t) => [t.stream.low, t.stream.high])), layers: span(both((t) => [t.layers.low, t.layers.high])),
  moved: span(both((t) => [t.heads.low, t.heads.high])), heads: Math.max(...both((t) => t.heads.value).map(Math.abs)) || 1,
} : null;
const overSteps = () => {
  behaviour("accuracy", "Accuracy", { range: [0, 1.02], tickformat: ".0%" });
  behaviour("choice_accuracy", "Choice accuracy", { range: [0, 1.02], tickformat: ".0%" });
  for (const what of ["naming", "choosing"]) behaviour(what, what[0].toUpperCase() + what.slice(1), { title: { text: "nats" }, rangemode: "tozero", zeroline: true, zerolinecolor: "#c9ced6" });
  behaviour("logit_diff", "Logit difference", { title: { text: LOGITS }, zeroline: true, zerolinecolor: "#c9ced6" });
  ROLES.forEach(said); drift(); baselines(); gained();
  if (scales) ROLES.forEach((r) => { movedLines(r); endLines(r); });
};
const MARKED = ["accuracy", "choice_accuracy", "naming", "choosing", "logit_diff", "said-old", "said-new", "moved-old", "moved-new", "end-old", "end-new", "kl"];
function atStep() {
  const i = state.index, facts = ROLES.map((r) => `${D.summary[r]} ${percent(task(r).accuracy[i])}`).join(" · ");
  $("step").value = i; $("step-label").textContent = steps[i]; $("step-facts").textContent = facts;
  ROLES.forEach(groups); bigTable();
  MARKED.forEach((id) => $(id).data && Plotly.relayout($(id), { shapes: marker() }));
  if (scales) ROLES.forEach((r) => { stream(r); layers(r); heads(r); slots(r); example(r); });
  drawings.forEach((d) => d.atStep && d.atStep());
}
function choose(layer, head) {
  state.layer = layer; state.head = head; $("head").value = `${layer}.${head}`;
  ROLES.forEach((r) => { heads(r); slots(r); example(r); endLines(r); });
}
function play() {
  if (state.playing) { clearInterval(state.playing); state.playing = null; $("play").textContent = "▶"; return; }
  if (state.index === steps.length - 1) { state.index = 0; atStep(); }
  $("play").textContent = "❚❚";
  state.playing = setInterval(() => { state.index += 1; atStep(); if (state.index === steps.length - 1) play(); }, 450);
}
function start() {
  words();
  if (scales) ROLES.forEach((r) => { const t = inside(r); t.by_slot.bytes = bytes(t.by_slot.data); t.example.bytes = bytes(t.example.data); movedTables(r); });
  const slider = $("step"); slider.max = steps.length - 1; state.index = steps.length - 1;
  slider.addEventListener("input", () => { state.index = +slider.value; atStep(); });
  $("play").addEventListener("click", play);
  if (scales) {
    // The head that was booked most; without a ledger, the one whose direct contribution moved most.
    const key = (((D.summary.dynamics || {}).key || {}).heads || []).map((r) => r.name.match(/^a(\d+)\.h(\d+)$/)).filter(Boolean).map((m) => ({ layer: +m[1], index: +m[2] }));
    const ranked = D.summary.changed.heads[D.summary.new] || [], top = key[0] || ranked.find((r) => r.moved) || ranked[0] || { layer: 0, index: 0 };
    state.layer = top.layer; state.head = top.index;
    inside("new").heads.value[0].forEach((row, l) => row.forEach((_, h) => { const o = element("option", `a${l}.h${h}`); o.value = `${l}.${h}`; $("head").append(o); }));
    $("head").value = `${state.layer}.${state.head}`;
    inside("new").tokens.forEach((_, i) => { const o = element("option", String(i + 1)); o.value = i; $("shown").append(o); });
    $("shown").addEventListener("change", () => { state.shown = +$("shown").value; ROLES.forEach(example); });
    $("head").addEventListener("change", () => choose(...$("head").value.split(".").map(Number)));
  }
  drawings.forEach((d) => d.start && d.start());
  overSteps(); atStep();
  if (scales) ROLES.forEach((r) => $("heads-" + r).on("plotly_click", (e) => choose(Math.round(e.points[0].y), Math.round(e.points[0].x))));
  document.body.dataset.ready = "yes";
}
