// The circuit: layers are rows, heads columns, MLPs beside; every node has one place at all steps. Of two circuits of equal
// size, what both have is grey, what only this one has is gained, what only the other has is lost.
// ---- places ------------------------------------------------------------------------------------------------------------
function placesOf(own, width, height) {
  const left = 34,
    right = 74,
    top = 34,
    bottom = 40;
  const column = (width - left - right) / own.heads,
    row = (height - top - bottom) / own.layers;
  const w = Math.min(36, column * 0.72),
    h = Math.min(20, row * 0.52),
    r = Math.min(9, row * 0.3);
  const x = (head) => left + (head + 0.5) * column,
    y = (layer) => height - bottom - (layer + 0.5) * row;
  const middle = left + (width - left - right) / 2;
  const places = new Map([
    ["input", { x: middle, top: height - 20, bottom: height - 20 }],
    ["logits", { x: middle, top: 22, bottom: 22 }],
  ]);
  for (let l = 0; l < own.layers; l++) {
    for (let i = 0; i < own.heads; i++)
      places.set(`a${l}.h${i}`, { x: x(i), y: y(l), top: y(l) - h / 2, bottom: y(l) + h / 2 });
    places.set(`m${l}`, { x: width - right + 26, y: y(l), top: y(l) - r, bottom: y(l) + r });
  }
  const port = (end) => {
    const nodes = nodesOf(own, end),
      kind = portOf(end),
      node = places.get(nodes[0]);
    if (kind === null) return { x: node.x, y: node.bottom };
    const x_ = nodes.reduce((sum, n) => sum + places.get(n).x, 0) / nodes.length;
    return { x: x_ + { q: -0.32, k: 0, v: 0.32 }[kind] * w, y: node.bottom + (nodes.length > 1 ? 2 : 0) };
  };
  return { places, port, w, h, r, y, left, column };
}
function wayOf(from, to) {
  const bend = Math.max(12, Math.abs(from.y - to.y) * 0.42);
  return `M${from.x.toFixed(1)},${from.y.toFixed(1)}C${from.x.toFixed(1)},${(from.y - bend).toFixed(1)} ${to.x.toFixed(1)},${(to.y + 5 + bend).toFixed(1)} ${to.x.toFixed(1)},${(to.y + 4).toFixed(1)}`;
}
const endOf = (to, helps) =>
  helps
    ? `M${to.x - 3.4},${to.y + 6.5}L${to.x + 3.4},${to.y + 6.5}L${to.x},${to.y + 0.5}Z`
    : `M${to.x - 4.6},${to.y + 2}h9.2v2.2h-9.2Z`;

// ---- drawing -------------------------------------------------------------------------------------------------------------
function widest(role) {
  const own = circuitsOf(role).groups[groupOf(role)];
  return (own.widest = own.widest || Math.max(1e-9, ...unpack(own.score).values.map(Math.abs)));
}
function pinned() {
  return state.pins ? state.pins.split(",") : [];
}
function groupsNamed() {
  return state.groups
    ? state.groups.split(";").map((one) => {
        const [name, nodes] = one.split(":");
        return { name, nodes: (nodes || "").split("+") };
      })
    : [];
}
/** The edges on paths through a node, by following edges up and down. */
function through(own, rows, nodes) {
  const ends = rows.map((r) => {
    const [a, b] = r.name.split("->");
    return { r, from: a, to: nodesOf(own, b) };
  });
  const found = new Set();
  for (const start of nodes) {
    for (const [from, to] of [
      ["from", "to"],
      ["to", "from"],
    ]) {
      const seen = new Set([start]),
        waiting = [start];
      while (waiting.length) {
        const node = waiting.pop();
        for (const e of ends)
          if ([e[from]].flat().includes(node)) {
            found.add(e.r.name);
            for (const next of [e[to]].flat())
              if (!seen.has(next)) {
                seen.add(next);
                waiting.push(next);
              }
          }
      }
    }
  }
  return found;
}
/** What was booked on every node up to a step, in nats of choosing; null without a ledger over time. */
function bookedSoFar(step) {
  const own = A && A.ledger && A.ledger.choosing && A.ledger.choosing.nodes;
  if (!own) return null;
  const upto = A.ledger.steps.filter((s) => s <= step).length;
  return Object.fromEntries(Object.entries(own).map(([name, row]) => [name, row.slice(0, upto).reduce((a, b) => a + b, 0)]));
}
const bookedMost = () => {
  const own = A && A.ledger && A.ledger.choosing && A.ledger.choosing.nodes;
  return own
    ? Math.max(
        1e-9,
        ...Object.entries(own)
          .filter(([n]) => isHead(n) || /^m\d/.test(n))
          .map(([, row]) => {
            let sum = 0;
            return Math.max(...row.map((v) => Math.abs((sum += v))));
          }),
      )
    : 1;
};

function drawCircuit(box, width, role, height) {
  const own = circuitsOf(role);
  if (!own) return box.append(el("p", { class: "none" }, "Circuits were not measured."));
  const tall = height || Math.max(300, Math.min(720, 78 + own.layers * (own.layers > 16 ? 20 : 52)));
  const svg = el("svg", {
    width,
    height: tall,
    viewBox: `0 0 ${width} ${tall}`,
    class: "circuit",
    role: "group",
    "aria-label": `circuit of ${nameOf(role)}: arrow keys move between nodes, enter isolates, p pins`,
  });
  const layers = { ground: el("g"), edges: el("g"), nodes: el("g") };
  svg.append(...Object.values(layers));
  svg.drawn = { own, role, layers, ...placesOf(own, width, tall), width, tall };
  box.append(svg);
  updateCircuit(svg);
  svg.addEventListener("pointermove", circuitTip);
  svg.addEventListener("pointerleave", hideTip);
  svg.addEventListener("click", circuitClick);
  svg.addEventListener("keydown", circuitKey);
  svg.addEventListener("focusin", circuitTip);
  svg.addEventListener("focusout", hideTip);
}
function updateCircuit(svg) {
  const { own, role, layers, places, port, w, h, r, y, width, tall } = svg.drawn;
  const found = differenceOf(role),
    touched = new Set(["input", "logits"]),
    most = widest(role);
  svg.found = found;
  found.rows.forEach((row) => {
    const [a, b] = row.name.split("->");
    touched.add(a);
    nodesOf(own, b).forEach((n) => touched.add(n));
  });
  const chosen = [...pinned(), ...(svg.only ? [svg.only] : [])].filter((n) => places.has(n)),
    lit = chosen.length ? through(own, found.rows, chosen) : null;
  const order = { lost: 0, here: 1, kept: 1, gained: 2 };
  const paths = [...found.rows]
    .sort((a, b) => order[a.is] - order[b.is])
    .flatMap((row) => {
      const [a, b] = row.name.split("->"),
        from = { x: places.get(a).x, y: places.get(a).top },
        to = port(b);
      const score = row.is === "lost" ? row.then : row.score,
        wide = 0.7 + 4.3 * Math.sqrt(Math.abs(score || 0) / most);
      const dim = lit && !lit.has(row.name) ? " dim" : "";
      return [
        el("path", {
          class: `edge ${row.is}${dim}`,
          d: wayOf(from, to),
          "stroke-width": wide.toFixed(2),
          "data-edge": row.name,
        }),
        el("path", { class: `end ${row.is}${dim}`, d: endOf(to, score >= 0), "data-edge": row.name }),
      ];
    });
  layers.edges.replaceChildren(...paths);
  const booked = bookedSoFar(stepNow()),
    limit = bookedMost(),
    named = groupsNamed();
  const nodes = [];
  for (let l = 0; l < own.layers; l++) {
    if (!layers.ground.childNodes[l])
      layers.ground.append(el("text", { x: 6, y: y(l) + 4, class: "soft" }, own.layers > 20 && l % 5 ? "" : `L${l}`));
    for (let i = 0; i <= own.heads; i++) {
      const name = i < own.heads ? `a${l}.h${i}` : `m${l}`,
        place = places.get(name),
        there = touched.has(name),
        mlp = i === own.heads;
      const value = booked ? booked[name] : null,
        group = named.find((g) => g.nodes.includes(name));
      const marks = `${chosen.includes(name) ? " chosen" : ""}${group ? " grouped" : ""}`;
      if (!there && !chosen.includes(name) && !group && own.layers * own.heads > 40) {
        nodes.push(
          mlp
            ? el("circle", { class: "tick", cx: place.x, cy: place.y, r: 1.5, "data-node": name })
            : el("rect", { class: "tick", x: place.x - 1.5, y: place.y - 1.5, width: 3, height: 3, "data-node": name }),
        );
        continue;
      }
      const fill = known(value) && Math.abs(value) > 0.02 * limit ? mapColour(value, limit) : "var(--card)",
        ink = known(value) && Math.abs(value) > 0.02 * limit ? onColour(value, limit) : null;
      const node = el(
        "g",
        {
          class: `node${there ? "" : " apart"}${marks}`,
          "data-node": name,
          tabindex: "-1",
          role: "button",
          "aria-label": nodeWords(name, found, own, value),
        },
        mlp
          ? el("circle", { cx: place.x, cy: place.y, r, fill })
          : el("rect", { x: place.x - w / 2, y: place.y - h / 2, width: w, height: h, rx: 3, fill }),
        mlp
          ? el("text", { x: place.x + r + 4, y: place.y + 4, class: "soft" }, name)
          : h > 9
            ? el(
                "text",
                { x: place.x, y: place.y + 3.8, "text-anchor": "middle", style: ink ? `fill:${ink}` : null },
                String(i),
              )
            : null,
        group
          ? el("text", { x: place.x, y: place.y - h / 2 - 3, "text-anchor": "middle", class: "groupname" }, group.name)
          : null,
      );
      nodes.push(node);
    }
  }
  if (own.layers > 16 && !layers.ground.querySelector(".heads"))
    layers.ground.append(
      ...Array.from({ length: own.heads }, (_, i) =>
        el("text", { class: "soft heads", x: places.get(`a0.h${i}`).x, y: tall - 30, "text-anchor": "middle" }, String(i)),
      ),
    );
  const ends = [
    ["input", "input (embeddings)", 15],
    ["logits", "logits", -6],
  ].map(([name, words, dy]) =>
    el(
      "g",
      {
        class: "node end",
        "data-node": name,
        tabindex: "-1",
        role: "button",
        "aria-label": nodeWords(name, found, own, null).replace(name, words),
      },
      el("text", { x: places.get(name).x, y: places.get(name).top + dy, "text-anchor": "middle" }, words),
    ),
  );
  const focused = document.activeElement && svg.contains(document.activeElement) ? document.activeElement.dataset.node : null;
  layers.nodes.replaceChildren(...nodes, ...ends);
  const first =
    layers.nodes.querySelector(`[data-node="${CSS.escape(focused || state.head)}"][tabindex]`) ||
    layers.nodes.querySelector("[tabindex]");
  // The first screen's is the one that the keyboard reaches; others are for the eye.
  if (first && svg.closest("#hero")) first.setAttribute("tabindex", "0");
  if (focused && first) first.focus();
  if (!found.rows.length)
    layers.edges.append(
      el("text", { x: width / 2, y: tall / 2, "text-anchor": "middle", class: "none" }, whyNone(role, found.here)),
    );
}
function nodeEdges(name, found, own) {
  const touch = { in: [], out: [] };
  found.rows.forEach((row) => {
    const [a, b] = row.name.split("->");
    if (a === name) touch.out.push(row);
    if (nodesOf(own, b).includes(name)) touch.in.push(row);
  });
  for (const rows of Object.values(touch)) rows.sort((a, b) => Math.abs(b.score || b.then) - Math.abs(a.score || a.then));
  return touch;
}
const edgeWords = (row) => `${row.name} ${row.is}: ${signed(row.then)} then, ${signed(row.score)} now`;
function nodeWords(name, found, own, booked) {
  const touch = nodeEdges(name, found, own);
  return `${isHead(name) ? `${name}, head ${placeOf(name)[1]}` : name}: ${plural(touch.in.length, "edge")} in, ${touch.out.length} out${known(booked) ? `, ${signed(booked)} nats booked so far` : ""}`;
}
function circuitTip(event) {
  const svg = event.currentTarget,
    mark = event.target.closest("[data-node], [data-edge]");
  if (!mark) return hideTip();
  const {
    found,
    drawn: { own },
  } = svg;
  if (mark.dataset.edge) {
    const row = found.rows.find((r) => r.name === mark.dataset.edge);
    return (
      row &&
      showTip(
        event,
        mark,
        [row.name],
        [
          `${row.is}; ${(row.is === "lost" ? row.then : row.score) >= 0 ? "helps" : "works against"} the answer`,
          `score then ${signed(row.then, 3)}, now ${signed(row.score, 3)} logits`,
        ],
      )
    );
  }
  const name = mark.dataset.node,
    touch = nodeEdges(name, found, own),
    booked = bookedSoFar(stepNow());
  const some = (rows) => rows.slice(0, 5).map(edgeWords);
  showTip(
    event,
    mark,
    [name],
    [
      booked && known(booked[name]) ? `booked so far ${signed(booked[name], 3)} nats of choosing` : null,
      touch.in.length ? "strongest in:" : "nothing comes in",
      ...some(touch.in),
      touch.out.length ? "strongest out:" : "nothing goes out",
      ...some(touch.out),
    ],
  );
}
function circuitClick(event) {
  const mark = event.target.closest("[data-node]"),
    svg = event.currentTarget;
  if (!mark) {
    if (!event.target.closest("[data-edge]")) {
      svg.only = null;
      updateCircuit(svg);
    }
    return;
  }
  chooseNode(svg, mark.dataset.node, event.ctrlKey || event.metaKey);
}
function chooseNode(svg, name, pin) {
  if (pin) {
    const all = pinned();
    return set({ pins: (all.includes(name) ? all.filter((n) => n !== name) : [...all, name]).join(",") });
  }
  svg.only = svg.only === name ? null : name;
  if (isHead(name)) set({ head: name });
  updateCircuit(svg);
}
function circuitKey(event) {
  const mark = event.target.closest("[data-node]"),
    svg = event.currentTarget,
    { own } = svg.drawn;
  if (!mark) return;
  const name = mark.dataset.node;
  if (event.key === "Enter") chooseNode(svg, name, false);
  else if (event.key === "p") chooseNode(svg, name, true);
  else if (["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"].includes(event.key)) {
    const all = [...svg.querySelectorAll("[tabindex]")],
      here = mark.getBoundingClientRect(),
      ahead = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    const near = all
      .map((node) => {
        const place = node.getBoundingClientRect(),
          dx = place.x + place.width / 2 - here.x - here.width / 2,
          dy = place.y + place.height / 2 - here.y - here.height / 2;
        const on = dx * ahead[0] + dy * ahead[1],
          off = Math.abs(dx * ahead[1]) + Math.abs(dy * ahead[0]);
        return { node, on, cost: on + 3 * off };
      })
      .filter((n) => n.on > 1)
      .sort((a, b) => a.cost - b.cost)[0];
    if (near) {
      mark.setAttribute("tabindex", "-1");
      near.node.setAttribute("tabindex", "0");
      near.node.focus();
    }
  } else return;
  event.preventDefault();
  event.stopPropagation();
}
/** One sentence about what is drawn. */
function circuitFinding(role) {
  if (!circuitsOf(role)) return "";
  const found = differenceOf(role);
  if (!found.count) return `${nameOf(role)} at step ${found.step}: ${whyNone(role, found.here)}.`;
  const count = (is) => found.rows.filter((r) => r.is === is).length,
    against = found.other !== role ? `${nameOf(found.other)}'s circuit at step ${found.against}` : `step ${found.against}`;
  const said = faithfulnessOf(role, found.here, found.count),
    turned = found.rows.filter((r) => r.is === "kept" && r.score * r.then < 0).length,
    last = found.step === stepNow() ? "" : ` (measured last before step ${stepNow()})`;
  const own = `${nameOf(role)} at step ${found.step}${last}, ${groupOf(role)} changed: ${plural(found.count, "edge")} of ${whole(circuitsOf(role).edges)}${said ? ` ${said}` : ""}. `;
  if (!found.compared) return [own, `Nothing to compare with at ${against}: ${whyNone(found.other, found.there)}.`];
  return [
    own,
    el("b", {}, `${count("kept")} kept`),
    turned ? ` (${turned} with the sign reversed)` : "",
    `, ${count("gained")} gained and ${count("lost")} lost against ${against}.`,
  ];
}
const circuitTable = (role) => ({
  columns: ["edge", "is", "score then (logits)", "score now (logits)"],
  rows: differenceOf(role).rows.map((r) => [r.name, r.is, r.then, r.score]),
});
