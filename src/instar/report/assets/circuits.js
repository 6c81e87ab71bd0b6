// Circuits as data: of every size, at every step, and what one has that another has not.
const circuitsOf = (role) => FIRST.circuits[role];
function groupOf(role) {
  const names = Object.keys(circuitsOf(role).groups);
  return names.includes(state.group) ? state.group : names[0];
}
const indexAt = (role, step) => measuredAt(circuitsOf(role).steps, step);
const nodeOf = (end) => end.replace(/<[qkv]>$/, "");
const portOf = (end) => (/<([qkv])>$/.exec(end) || [])[1] || null;

/** The nodes that an end of an edge belongs to: keys and values may be shared by several heads. */
function nodesOf(own, end) {
  const port = portOf(end);
  if (port === null || port === "q" || own.kv_heads === own.heads) return [nodeOf(end)];
  const [layer, group] = placeOf(nodeOf(end)),
    many = own.heads / own.kv_heads;
  return Array.from({ length: many }, (_, i) => `a${layer}.h${group * many + i}`);
}
function sizesOf(role) {
  const own = circuitsOf(role).groups[groupOf(role)],
    found = new Set([defaultSize(role)]);
  own.kept.forEach((row) =>
    row.forEach((n) => {
      if (n > 0 && n <= circuitsOf(role).most) found.add(n);
    }),
  );
  return [...found].sort((a, b) => a - b);
}
const defaultSize = (role) => circuitsOf(role).drawn;
/** How many edges a circuit is drawn with: as many as asked for, or the fewest that are measured to be faithful enough. */
function sizeAt(role, index) {
  if (!state.f) return state.n || defaultSize(role);
  const found = neededAt(role, index, state.f);
  circuitsOf(role).groups[groupOf(role)].needed = found;
  // None is drawn rather than one that is less faithful than it says.
  return found === null || found > circuitsOf(role).most ? 0 : found;
}
/** The fewest edges that were measured to be so faithful, and stay so with more; null where none are. */
function neededAt(role, index, least) {
  const own = circuitsOf(role).groups[groupOf(role)];
  let found = null;
  for (let j = own.kept[index].length - 1; j >= 0; j--) {
    const f = own.faithfulness[index][j];
    if (!known(f)) continue;
    if (f < least) break;
    found = own.kept[index][j];
  }
  return found;
}
/** Edge → score of the circuit of n edges. */
function edgesAt(role, index, n) {
  const own = circuitsOf(role).groups[groupOf(role)],
    found = new Map();
  own.names.forEach((name, e) => {
    const from = at(own.from, index, e);
    if (from && from <= n) found.set(name, at(own.score, index, e));
  });
  return found;
}
function scoreAt(role, index, name) {
  const own = circuitsOf(role).groups[groupOf(role)];
  own.places = own.places || new Map(own.names.map((n, i) => [n, i]));
  return own.places.has(name) ? at(own.score, index, own.places.get(name)) : null;
}
/** Kept, gained and lost edges: of this step's circuit against the other's, of equally many edges. */
function differenceOf(role) {
  const beside = ROLES.find((r) => r !== role),
    other = state.vs === "other" && circuitsOf(beside) ? beside : role;
  const here = indexAt(role, stepNow()),
    there = other !== role ? indexAt(other, stepNow()) : indexAt(role, STEPS[againstIndex()]);
  const n = sizeAt(role, here),
    now = edgesAt(role, here, n),
    then = edgesAt(other, there, n);
  // Where there is no circuit to compare with, nothing was gained: there is only what is here.
  const rows = [...now].map(([name, score]) => ({
    name,
    score,
    is: !then.size ? "here" : then.has(name) ? "kept" : "gained",
    then: then.size ? scoreAt(other, there, name) : null,
  }));
  for (const [name, score] of then)
    if (!now.has(name)) rows.push({ name, score: scoreAt(role, here, name), is: "lost", then: score });
  return {
    rows,
    n,
    here,
    there,
    other,
    count: now.size,
    compared: then.size > 0,
    step: circuitsOf(role).steps[here],
    against: circuitsOf(other).steps[there],
  };
}
/** What was measured of a circuit of exactly this size, or the two sizes around it. */
function faithfulnessOf(role, index, count) {
  const own = circuitsOf(role).groups[groupOf(role)],
    kept = own.kept[index];
  const said = (j) =>
    `${ranged([own.faithfulness[index][j], own.low[index][j], own.high[index][j]])}${known(own.random[index][j]) ? ` (random edges ${fixed(own.random[index][j])})` : ""}`;
  const exact = kept.findIndex((k, j) => k === count && known(own.faithfulness[index][j]));
  if (exact >= 0) return `keep ${said(exact)} of the effect`;
  const there = kept.map((k, j) => [k, j]).filter(([, j]) => known(own.faithfulness[index][j]));
  const below = there.filter(([k]) => k < count).pop(),
    above = there.find(([k]) => k > count);
  if (!below && !above) return null;
  return `are drawn; tested were ${[below, above]
    .filter(Boolean)
    .map(([k, j]) => `${whole(k)}, which keep ${said(j)}`)
    .join(", and ")}`;
}
function whyNone(role, index) {
  const why = circuitsOf(role).why[groupOf(role)],
    own = circuitsOf(role).groups[groupOf(role)];
  if (why && why[index]) return `not measured: ${why[index]}`;
  if (!state.f) return "no circuit";
  return own.needed
    ? `${fixed(state.f)} takes ${plural(own.needed, "edge")}, more than the ${whole(circuitsOf(role).most)} that can be drawn`
    : `no measured circuit keeps ${fixed(state.f)} from some size on`;
}
/** On how many pairs edges were scored and circuits tested. */
const pairsOfCircuits = () => {
  const own = ROLES.filter((r) => circuitsOf(r)).map((r) => circuitsOf(r))[0];
  return own
    ? `edges scored on ${whole(own.scored)} pairs a counterfactual, circuits tested on at most ${whole(own.tested)} others`
    : "";
};
