// Roles of heads that are known from the literature.
function rolesPanel(section) {
  const there = ROLES.filter((r) => REST.roles[r]),
    names = [...new Set(there.flatMap((r) => Object.keys(REST.roles[r].roles)))],
    words = (key) => there.map((r) => (REST.roles[r].roles[key] || {}).words).find(Boolean);
  // Of what most is there: where no head does it, there is nothing to see.
  const strength = (name) => Math.max(...there.map((r) => (REST.roles[r].roles[name] || { limit: 0 }).limit));
  names.sort((a, b) => strength(b) - strength(a));
  const of = (role) => REST.roles[role].roles[state.role || names[0]];
  panel(section, {
    id: "roles",
    title: "Roles that are known from indirect-object identification",
    kind: "full",
    reads: ["step", "role", "head"],
    controls: choice(
      "role",
      "role",
      names.map((n) => [n, words(n)]),
    ),
    draw: (box, width) => {
      pairOf(box, width, there.filter(of), (cell, each, role) =>
        roleMap(cell, each, role, of(role), strength(state.role || names[0])),
      );
    },
    finding: () => {
      const own = there.includes("new") && of("new");
      if (!own) return "";
      const top = own.top[0],
        i = measuredAt(REST.roles.new.steps, stepNow());
      return top
        ? `Furthest on ${nameOf("new")}: a${top.layer}.h${top.head}, ${ranged([own.value[i][top.layer][top.head], top.low[i], top.high[i]])} (${own.unit}).`
        : "";
    },
    table: () => ({
      columns: ["task", "head", "base", "this step"],
      rows: there.filter(of).flatMap((role) => {
        const own = of(role),
          i = measuredAt(REST.roles[role].steps, stepNow());
        return own.top.map((t) => [
          nameOf(role),
          `a${t.layer}.h${t.head}`,
          [own.value[0][t.layer][t.head], t.low[0], t.high[0]],
          [own.value[i][t.layer][t.head], t.low[i], t.high[i]],
        ]);
      }),
    }),
    method:
      "How alike every head is to a [[role]] known from the literature; a score does not say that the model needs the head for it. One scale for all steps and both tasks; the table has the heads that ever score furthest, with 95 % intervals.",
  });
}
function roleMap(box, width, role, own, limit) {
  const i = measuredAt(REST.roles[role].steps, stepNow()),
    values = own.value[i],
    layers = values.length;
  if (values.flat().every((v) => !known(v))) return box.append(el("p", { class: "none" }, "not measurable at this step"));
  const onclick = (r, c) => set({ head: `a${layers - 1 - r}.h${c}` });
  onclick.chosen = (r, c) => state.head === `a${layers - 1 - r}.h${c}`;
  grid(box, width, layers, values[0].length, (r, c) => values[layers - 1 - r][c], limit || 1, {
    label: `${own.words} on ${nameOf(role)}`,
    rowName: (r) => `L${layers - 1 - r}`,
    columnName: String,
    title: (r, c) => `a${layers - 1 - r}.h${c}`,
    onclick,
    cell: layers > 16 ? 11 : 22,
  });
  box.append(mapKey(limit || 1, own.unit));
}
