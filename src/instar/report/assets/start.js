// The page begins: first screen, then, when the browser has time, the rest. Keys, theme, contents list.
const SECTIONS = [
  ["section-circuit", "Circuit", circuitSection],
  ["section-written", "Where it was written", writtenSection],
  ["section-heads", "Heads", headsSection],
  ["section-patching", "Patching", patchingSection],
  ["section-prompts", "Prompts", promptsSection],
  ["section-when", "When", whenSection],
  ["section-seeds", "Seeds and controls", seedsSection],
  ["section-made", "Made", madeSection],
];
const HELP = [
  ["← →", "a checkpoint back or on (shift: to a tested one)"],
  ["space", "play or pause"],
  ["1, 2, …", "to a section, as the contents number them"],
  ["[ ]", "the prompt before or after"],
  ["b", "against the base, or the checkpoint before"],
  ["o", "the old or the new task"],
  ["g", "group the pinned nodes of the circuit"],
  ["↑ ↓", "from panel to panel of a section, on its \u22ef"],
  ["Enter, p", "in the circuit: isolate a node's paths, pin it"],
  ["t", "light or dark"],
  ["?", "this list"],
];

/** The rest is JSON and, behind it, arrays; packed by gzip, which browsers unpack by themselves. */
async function unpackRest() {
  const stream = new Blob([bytesOf($("rest").textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
  const all = await new Response(stream).arrayBuffer(),
    length = new DataView(all).getUint32(0, true);
  BEHIND = all;
  BEHIND.first = 4 + length;
  REST = JSON.parse(new TextDecoder().decode(new Uint8Array(all, 4, length)));
  for (const role of ROLES) if (circuitsOf(role)) Object.assign(circuitsOf(role).groups, REST.groups[role]);
}
async function showRest() {
  await unpackRest();
  $("rest").remove();
  const main = $("sections"),
    contents = $("contents");
  SECTIONS.forEach(([id, title, fill]) => {
    const section = el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title));
    main.append(section);
    fill(section);
    if (section.isConnected)
      contents.append(
        el(
          "li",
          {},
          el(
            "a",
            {
              href: `#${id}`,
              onclick: (event) => {
                event.preventDefault();
                goTo(section);
                history.pushState(null, "", `${addressOf()}${addressOf() === "#" ? "" : "&"}at=${id}`);
              },
            },
            title,
          ),
        ),
      );
  });
  circuitControls();
  showPrompt();
  asOne(contents, "a");
  asOne($("chips"), "button");
  asOne(document.querySelector(".tools"), "button");
  [$("first-screen"), ...main.children].forEach((place) => asOne(place, ".more", true));
  const asked = /(?:^#|&)at=([\w-]+)/.exec(location.hash),
    to = asked && $(asked[1]);
  if (to) goTo(to, false);
  document.body.dataset.ready = "yes";
}

/** One stop of the keyboard for many controls: arrow keys move among them. */
function asOne(place, selector, upright = false) {
  const all = [...place.querySelectorAll(selector)],
    by = upright ? { ArrowDown: 1, ArrowUp: -1 } : { ArrowRight: 1, ArrowLeft: -1 };
  all.forEach((node, i) => node.setAttribute("tabindex", i ? "-1" : "0"));
  place.addEventListener("keydown", (event) => {
    const here = all.indexOf(event.target),
      step = by[event.key];
    if (here < 0 || !step) return;
    event.preventDefault();
    event.stopPropagation();
    all[here].setAttribute("tabindex", "-1");
    const next = all[(here + step + all.length) % all.length];
    next.setAttribute("tabindex", "0");
    next.focus();
  });
}
/** Above the circuit: how many edges or how faithful, and which counterfactual. */
function circuitControls() {
  const place = $("hero-controls");
  if (!ROLES.some(hasCircuits)) return place.remove();
  const role = () => (hasCircuits(state.task) ? state.task : ROLES.find(hasCircuits));
  const sizes = () => sizesOf(role());
  const slider = el("input", {
    type: "range",
    min: 0,
    max: sizes().length - 1,
    "aria-label": "number of edges",
    oninput: () => set({ n: sizes()[+slider.value] || 0, f: 0 }),
  });
  const count = el("output", {});
  const faithful = el(
    "select",
    { "aria-label": "or at least this faithfulness", onchange: () => set({ f: +faithful.value }) },
    [
      [0, "this number"],
      [0.5, "≥ 0.50"],
      [0.7, "≥ 0.70"],
      [0.85, "≥ 0.85"],
      [0.95, "≥ 0.95"],
    ].map(([v, w]) => el("option", { value: v }, w)),
  );
  const groups = el("select", { "aria-label": "counterfactual", onchange: () => set({ group: groups.value }) });
  const atNow = () => {
    const all = sizes(),
      n = state.n || defaultSize(role());
    slider.max = all.length - 1;
    slider.value = Math.max(
      0,
      all.findIndex((s) => s >= n),
    );
    slider.disabled = Boolean(state.f);
    slider.setAttribute("aria-valuetext", plural(n, "edge"));
    count.textContent = state.f ? "" : whole(n);
    faithful.value = state.f;
    for (const option of faithful.options) {
      const needed = +option.value ? neededAt(role(), indexAt(role(), stepNow()), +option.value) : 0;
      option.disabled = needed === null || needed > circuitsOf(role()).most;
      if (+option.value) option.textContent = `≥ ${fixed(+option.value)}${needed ? ` (${whole(needed)})` : ""}`;
    }
    groups.replaceChildren(...Object.keys(circuitsOf(role()).groups).map((g) => el("option", { value: g }, `${g} changed`)));
    groups.value = groupOf(role());
  };
  place.replaceChildren(
    el("label", { class: "control" }, "edges ", slider, count),
    el("label", { class: "control" }, "faithfulness ", faithful),
    el("label", { class: "control" }, groups),
    el("button", { type: "button", onclick: nameGroup, title: "pin nodes with ctrl-click or p" }, "name pins"),
  );
  onChange((changed) => {
    if (changed.some((k) => ["n", "f", "task", "group", "step"].includes(k))) atNow();
  });
  atNow();
}
function nameGroup() {
  const nodes = pinned();
  if (!nodes.length) return tell("pin nodes first: ctrl-click, or p");
  const box = $("naming-pins"),
    field = box.querySelector("input");
  box.hidden = false;
  field.value = "";
  field.focus();
  const named = () => {
    box.hidden = true;
    const name = field.value
      .replace(/[:;+,]/g, " ")
      .trim()
      .slice(0, 24);
    if (name) set({ groups: [...(state.groups ? [state.groups] : []), `${name}:${nodes.join("+")}`].join(";"), pins: "" });
  };
  box.querySelector("button").onclick = named;
  field.onkeydown = (event) => {
    if (event.key === "Enter") named();
    if (event.key === "Escape") box.hidden = true;
  };
}
function keys(event) {
  if (
    event.ctrlKey ||
    event.metaKey ||
    event.altKey ||
    (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "range")
  )
    return;
  const tested = A ? A.series.map((row) => STEPS.indexOf(row.step)) : [];
  const to = (by) => {
    const all = event.shiftKey && tested.length ? tested.filter((i) => (by > 0 ? i > state.step : i < state.step)) : null;
    set({
      step: all ? ((by > 0 ? all[0] : all[all.length - 1]) ?? state.step) : Math.max(0, Math.min(LAST, state.step + by)),
    });
  };
  const does = {
    ArrowLeft: () => to(-1),
    ArrowRight: () => to(1),
    " ": play,
    "[": () => stepPrompt(-1),
    "]": () => stepPrompt(1),
    b: () => set({ vs: state.vs === "base" ? "previous" : "base" }),
    o: () => set({ task: state.task === "new" ? "old" : "new" }),
    g: nameGroup,
    t: nextTheme,
    "?": () => {
      const help = $("help");
      if (help.open) help.close();
      else help.showModal();
    },
  }[event.key];
  const section = /^[1-8]$/.test(event.key) && $("contents").children[+event.key - 1];
  if (!does && !section) return;
  if (event.key === " " && event.target.closest("button, summary, a")) return;
  event.preventDefault();
  if (section) section.querySelector("a").click();
  else does();
}
function nextTheme() {
  document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
  tell(theme());
  drawAgain();
}
Object.assign(state, fromAddress());
showFirst();
showBar();
firstPanels();
atState();
onChange(atState);
showPrompt();
onChange(showPrompt);
darkSystem.addEventListener("change", drawAgain);
document.addEventListener("keydown", keys);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  closeChips();
  closeMenus();
  document.querySelectorAll("svg.circuit").forEach((svg) => {
    if (svg.only) {
      svg.only = null;
      updateCircuit(svg);
    }
  });
});
document.addEventListener("click", (event) => event.target.closest("#chips") || closeChips());
$("theme").addEventListener("click", nextTheme);
$("keys").addEventListener("click", () => $("help").showModal());
$("help").addEventListener("click", (event) => {
  if (event.target === $("help")) $("help").close();
});
$("help").prepend(
  el("h2", {}, "Keys"),
  el(
    "dl",
    {},
    HELP.map(([key, does]) => [el("dt", {}, key), el("dd", {}, does)]),
  ),
);
$("cite").addEventListener("click", () => {
  const to = $("repeat");
  if (to) goTo(to);
});
$("link").addEventListener("click", () => copy(location.href.split("#")[0] + addressOf()));
(window.requestIdleCallback || ((f) => setTimeout(f, 50)))(showRest);
