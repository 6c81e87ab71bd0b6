// ---- roles of heads ---------------------------------------------------------------------------------------------------
const ROLE_HOW = {
  previous_token: "Mean attention to the token before, in the second half of random tokens said twice.", duplicate_token: "Mean attention to the same token earlier, in the second half of random tokens said twice.",
  induction: "Mean attention to what came after the same token earlier, in the second half of random tokens said twice.", name_mover: "Attention of the last token to the answer × what the head would say there (logits, answer minus mean foil); negative: a negative name-mover.",
  copying: "What the head makes of the answer's position, under the final norm on that alone (logits, answer minus mean foil).", copy_top5: "Share of pairs where the answer is among the five highest tokens of what the head makes of its position.",
  to: "Attention of the last token.", s_inhibition: "With this head's output from a prompt in which that giver bears the answer's name: how much attention of the later name-movers leaves the answer for that giver (clean minus patched; positive: the head keeps them off it). Grey cells: no later name-mover exists, so there is nothing to read.",
};
const roleOf = (r) => D.roles[r] && D.roles[r].roles[state.role];
const roleLimit = () => Math.max(...ROLES.map((r) => (roleOf(r) ? roleOf(r).limit : 0))) || 1;
const one = (key) => key.split(" ")[0];
const shareOf = (own) => ["attention", "share of pairs"].includes(own.unit) && !state.role.startsWith("s_inhibition");
function roleMap(r) {
  const own = roleOf(r), limit = roleLimit(), plain = own && shareOf(own), z = own ? own.value[placeIn(D.roles[r])] : [[null]];
  draw("role-" + r, [{ type: "heatmap", z, colorscale: plain ? SHARE : DIVERGING, zmin: plain ? 0 : -limit, zmax: limit, showscale: !!own, colorbar: { thickness: 10, title: { text: own ? own.unit : "", side: "right", font: { size: 10 } } }, hovertemplate: "a%{y}.h%{x}: %{z:.3f}<extra></extra>" }],
    layout(titleOf(r) + (own ? since(D.roles[r]) : ""), { plot_bgcolor: own ? "#d9dce1" : "#f3f4f6", annotations: own && flat(z).some(known) ? [] : emptyText(own ? "masked" : "this task has no such change"), xaxis: { visible: !!own, title: { text: "head" }, dtick: 1, showgrid: false, range: [-0.5, z[0].length - 0.5] }, yaxis: { visible: !!own, title: { text: "layer" }, dtick: 1, showgrid: false, range: [z.length - 0.5, -0.5] } }));
}
function taken(r) {
  const own = roleOf(r), hues = ["#a33b20", "#2a6f97", "#5c946e", "#8a6aa8", "#c98a3a", "#5b6470"], dashes = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const traces = own ? own.top.slice(0, 6).flatMap((t, i) => [band(D.roles[r].steps, t.low, t.high, hues[i]),
    { x: D.roles[r].steps, y: own.value.map((s) => s[t.layer][t.head]), name: `a${t.layer}.h${t.head}`, mode: "lines+markers", marker: { size: 4 }, line: { color: hues[i], width: 2, dash: dashes[i] }, type: "scatter" }]) : [];
  const all = ROLES.filter(roleOf).flatMap((k) => roleOf(k).top.flatMap((t) => [...t.low, ...t.high]));
  draw("taken-" + r, traces, layout(titleOf(r), { legend: BESIDE, shapes: own ? marker() : [], annotations: own ? [] : emptyText("this task has no such change"), xaxis: { visible: !!own, title: { text: "fine-tuning step" } }, yaxis: { visible: !!own, title: { text: own ? own.unit : "" }, range: span(all), zeroline: true, zerolinecolor: "#c9ced6" } }));
}
function rolesAtStep() {
  if (!$("roles")) return;
  const there = ROLES.filter((r) => D.roles[r]);
  there.forEach(roleMap);
  there.filter(roleOf).forEach((r) => Plotly.relayout($("taken-" + r), { shapes: marker() }));
  const read = there.map((r) => { const of = D.roles[r].movers[placeIn(D.roles[r])]; return `${D.summary[r]}${since(D.roles[r])}: ` + of.map((names, l) => `layer ${l} ${names || "none"}`).join("; "); });
  $("role-movers").textContent = state.role.startsWith("s_inhibition") ? `Name-movers that this is read at, for heads of each layer, at this step. ${read.join(". ")}.` : "";
}
function roleChosen() {
  const first = ROLES.map(roleOf).find(Boolean), base = one(state.role), n = D.roles.new || D.roles.old;
  const on = ["previous_token", "duplicate_token", "induction"].includes(base) ? `${n.sequences} sequences` : `${n.pairs} pairs`;
  $("role-how").textContent = `${ROLE_HOW[base] || ""} Mean over ${on}; unit: ${first.unit}.`;
  ROLES.filter((r) => D.roles[r]).forEach(taken); rolesAtStep();
}
function startRoles() {
  const there = ROLES.filter((r) => D.roles[r]);
  if (!there.length) { $("roles").remove(); $("changed-none").hidden = false; $("changed-none").append(element("span", "Roles of heads were not measured.")); return; }
  ROLES.filter((r) => !D.roles[r]).forEach((r) => { $("role-" + r).remove(); $("taken-" + r).remove(); });
  const names = {};
  there.slice().reverse().forEach((r) => Object.entries(D.roles[r].roles).forEach(([k, v]) => { names[k] = v.words; }));
  Object.entries(names).forEach(([k, words]) => option("role", k, words));
  state.role = "name_mover" in names ? "name_mover" : Object.keys(names)[0]; $("role").value = state.role;
  $("role").addEventListener("change", () => { state.role = $("role").value; roleChosen(); });
  roleChosen();
}
drawings.push({ start: startRoles, atStep: rolesAtStep });
