// Section "patching": what a clean value alone brings back into the corrupted run, by site, task and counterfactual.
const BY_SLOT = ["resid_pre", "attn_out", "mlp_out"];
function patchingSection(section) {
  const there = ROLES.filter((r) => REST.patched[r]);
  if (!there.length) return section.remove();
  const sites = [...new Set(there.flatMap((r) => Object.keys(REST.patched[r].values)))];
  if (!sites.includes(state.site)) DEFAULTS.site = state.site = sites[0];
  panel(section, {
    id: "patched",
    pairs: () => there.map((r) => `${nameOf(r)}: ${plural(REST.patched[r].pairs, "pair")} a counterfactual`).join(", "),
    title: "One site at a time",
    kind: "full",
    reads: ["step", "site", "head"],
    controls: choice(
      "site",
      "site",
      sites.map((s) => [s, REST.sites[s] || s]),
    ),
    finding: () => patchFinding(there),
    draw: (box, width) => patchMaps(box, width, there),
    table: () => patchTable(there),
    method:
      "[[Activation patching]]: the clean value is put into the corrupted run; (x − c)/(b − c) with b − c of one reference checkpoint (step 0 for the old task, the last for the new one), so that a growth over steps shows. 1 is all of it. Each task has its own scale; values of at least a twentieth of it are printed.",
    change: "Exact patching instead of an estimate (measure.patching), more pairs (measure.patching_pairs).",
  });
  if (["v", "pattern"].some((s) => sites.includes(s)) && sites.includes("z"))
    panel(section, {
      id: "scatter",
      pairs: () => there.map((r) => `${nameOf(r)}: ${plural(REST.patched[r].pairs, "pair")} a counterfactual`).join(", "),
      title: "Head outputs against values and pattern",
      kind: "full",
      reads: ["step", "head"],
      draw: (box, width) => pairOf(box, width, there, scatter),
      table: () => scatterTable(there),
      method:
        "Each dot is a head: what patching its output brings, against what patching only its values (or only its pattern) brings. On the diagonal the output's effect is that of the values: the head moves what it reads; off it, where it looks matters.",
    });
}
const patchLimit = (role, sites) => {
  const own = REST.patched[role];
  return Math.max(
    0.02,
    ...sites.filter((s) => own.values[s]).flatMap((s) => own.values[s].reference.flat(3).filter(known).map(Math.abs)),
  );
};
function patchFinding(there) {
  return there
    .map((role) => {
      const own = REST.patched[role],
        i = measuredAt(own.steps, stepNow()),
        values = own.values[state.site];
      if (!values) return null;
      let best = null;
      values.reference[i].forEach((page, k) =>
        page.forEach((row, l) =>
          row.forEach((v, c) => {
            if (known(v) && (!best || Math.abs(v) > Math.abs(best.v))) best = { v, k, l, c };
          }),
        ),
      );
      if (!best) return `${nameOf(role)}: masked, b − c of the reference is not clearly above 0.`;
      if (Math.abs(best.v) < 0.02) return `${nameOf(role)}: nothing above 0.02 here.`;
      return `${nameOf(role)} at step ${own.steps[i]}: most at ${BY_SLOT.includes(state.site) ? `L${best.l}, ${own.slots[best.c]}` : `a${best.l}.h${best.c}`} (${fixed(best.v)}, ${own.counterfactuals[best.k]} changed).`;
    })
    .filter(Boolean)
    .join(" ");
}
function patchMaps(box, width, there) {
  const maps = there.flatMap((role) => REST.patched[role].counterfactuals.map((name, k) => ({ role, name, k }))),
    across = width > 760 ? Math.min(maps.length, 3) : 1,
    each = (width - 16 * (across - 1)) / across;
  const many = el("div", { class: "maps", style: `--across:${across}` });
  box.append(many);
  maps.forEach(({ role, name, k }) => {
    const own = REST.patched[role],
      i = measuredAt(own.steps, stepNow()),
      cell = el("div", {}),
      of = own.values[state.site];
    many.append(cell);
    cell.append(el("p", { class: "drawn-title" }, `${nameOf(role)} · ${name} changed`));
    if (!of) return cell.append(el("p", { class: "none" }, "not measured"));
    const values = of.reference[i][k],
      slots = BY_SLOT.includes(state.site),
      layers = values.length,
      limit = patchLimit(role, [state.site]);
    if (values.flat().every((v) => !known(v)))
      return cell.append(el("p", { class: "none" }, "masked: b − c of the reference is not clearly above 0"));
    const onclick = slots ? null : (r, c) => set({ head: `a${layers - 1 - r}.h${c}` });
    if (onclick) onclick.chosen = (r, c) => state.head === `a${layers - 1 - r}.h${c}`;
    const svg = grid(cell, each, layers, values[0].length, (r, c) => values[layers - 1 - r][c], limit, {
      label: `${REST.sites[state.site]} patched, ${nameOf(role)}, ${name} changed`,
      rowName: (r) => `L${layers - 1 - r}`,
      columnName: (c) => (slots ? "" : String(c)),
      title: (r, c) => `L${layers - 1 - r}, ${slots ? own.slots[c] : `head ${c}`}`,
      onclick,
      cell: layers > 16 ? 11 : 22,
    });
    if (slots) slotTicks(svg, own.slots, each);
    cell.append(mapKey(limit, `share of step ${own.reference}'s b − c`));
  });
}
function slotTicks(svg, slots, width) {
  const w = Math.max(8, Math.min(58, (width - 48) / slots.length)),
    tall = +svg.getAttribute("height");
  slots.forEach((slot, c) =>
    svg.append(
      el(
        "text",
        { transform: `translate(${40 + w * (c + 0.5) + 3},${tall + 6}) rotate(-50)`, "text-anchor": "end", class: "soft" },
        slot,
      ),
    ),
  );
  svg.setAttribute("height", tall + 46);
}
function patchTable(there) {
  const rows = there.flatMap((role) => {
    const own = REST.patched[role],
      of = own.values[state.site],
      i = measuredAt(own.steps, stepNow());
    return of
      ? of.reference[i].flatMap((page, k) =>
          page.flatMap((row, l) =>
            row.map((v, c) => [
              nameOf(role),
              own.counterfactuals[k],
              l,
              BY_SLOT.includes(state.site) ? own.slots[c] : c,
              v,
              of.ratio[i][k][l][c],
              of.logits[i][k][l][c],
            ]),
          ),
        )
      : [];
  });
  return {
    columns: ["task", "changed", "layer", "slot or head", "share of the reference", "share of this step", "logits"],
    rows,
  };
}
function scatter(box, width, role) {
  const own = REST.patched[role],
    i = measuredAt(own.steps, stepNow()),
    z = own.values.z.reference[i];
  const rows = ["v", "pattern"]
    .filter((s) => own.values[s])
    .flatMap((site) =>
      z
        .flatMap((page, k) =>
          page.flatMap((row, l) =>
            row.map((y, c) => {
              const by = own.values[site].reference[i][k][l],
                x = by[Math.floor((c * by.length) / row.length)];
              return { site: REST.sites[site], x, y, name: `a${l}.h${c}`, kind: own.counterfactuals[k] };
            }),
          ),
        )
        .filter((d) => known(d.x) && known(d.y)),
    );
  if (!rows.length) return box.append(el("p", { class: "none" }, "masked"));
  const limit = patchLimit(role, ["z", "v", "pattern"]),
    all = ["z", "v", "pattern"].filter((s) => own.values[s]).flatMap((s) => own.values[s].reference.flat(3).filter(known)),
    domain = [Math.min(0, ...all) - 0.04 * limit, Math.max(0, ...all) + 0.08 * limit];
  const far = [...new Map([...rows].sort((a, b) => Math.abs(a.y) - Math.abs(b.y)).map((d) => [d.name, d])).values()].slice(
    -6,
  );
  box.append(
    plot(`head outputs against values and pattern, ${nameOf(role)}`, {
      width,
      height: 300,
      marginRight: 30,
      x: { domain, label: "values or pattern patched", labelArrow: "none", grid: true },
      y: { domain, label: "output patched", labelArrow: "none", grid: true },
      marks: [
        Plot.link([1], {
          x1: domain[0],
          y1: domain[0],
          x2: domain[1],
          y2: domain[1],
          stroke: "var(--line)",
          strokeDasharray: "2 3",
        }),
        Plot.dot(rows, {
          x: "x",
          y: "y",
          symbol: (d) => (d.site === REST.sites.v ? "circle" : "triangle"),
          stroke: (d) => (d.name === state.head ? "var(--ink)" : taskColour[role]),
          strokeWidth: (d) => (d.name === state.head ? 2.4 : 1.2),
          r: 3.6,
          title: (d) => `${d.name}, ${d.kind} changed\noutput ${fixed(d.y)}, ${d.site} ${fixed(d.x)}`,
          tip: true,
        }),
        Plot.text(far, { x: "x", y: "y", text: "name", dx: 6, textAnchor: "start", fill: "var(--soft)" }),
      ],
    }),
    el("div", { class: "legend" }, el("span", {}, "○ values"), el("span", {}, "△ pattern")),
  );
}
function scatterTable(there) {
  return {
    columns: ["task", "changed", "head", "output", "values", "pattern"],
    rows: there.flatMap((role) => {
      const own = REST.patched[role],
        i = measuredAt(own.steps, stepNow()),
        of = (site, k, l, c, n) => {
          const page = own.values[site];
          if (!page) return null;
          const row = page.reference[i][k][l];
          return row[Math.floor((c * row.length) / n)];
        };
      return own.values.z.reference[i].flatMap((page, k) =>
        page.flatMap((row, l) =>
          row.map((v, c) => [
            nameOf(role),
            own.counterfactuals[k],
            `a${l}.h${c}`,
            v,
            of("v", k, l, c, row.length),
            of("pattern", k, l, c, row.length),
          ]),
        ),
      );
    }),
  };
}
