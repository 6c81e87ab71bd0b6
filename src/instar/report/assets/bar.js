// One prompt as a sentence, and the step bar.
// ---- one prompt as a sentence --------------------------------------------------------------------------------------------
const promptsOf = (role) => (REST ? REST.prompts : FIRST.examples)[role];
/** Text with its slots underlined in their colours. */
function sentence(row) {
  const [text, , , , , spans] = row,
    pieces = [];
  let from = 0;
  for (const [slot, start, stop] of [...spans].sort((a, b) => a[1] - b[1])) {
    if (start < from) continue;
    pieces.push(
      text.slice(from, start),
      el("u", { style: `--slot:${slotLook(slot).colour}`, title: slot }, text.slice(start, stop)),
    );
    from = stop;
  }
  return [...pieces, text.slice(from)];
}
function saidOf(own, row, step, pair) {
  const name = own.said_names[at(own.said, step, pair)];
  if (name === "answer") return row[1];
  const slot = name.replace(" ", ""),
    span = row[5].find((s) => s[0] === slot);
  return span ? row[0].slice(span[1], span[2]) : name;
}
/** The first checkpoint from which on a prompt is right to the end; null where it is wrong at the end. */
function learntAt(own, pair) {
  let found = null;
  for (let s = own.steps.length - 1; s >= 0 && at(own.right, s, pair); s--) found = own.steps[s];
  return found;
}
function showPrompt() {
  const role = state.task,
    own = promptsOf(role);
  $("prompt").hidden = !own;
  if (!own) return;
  const count = own.rows.length,
    pair = Math.min(state.prompt, count - 1),
    row = own.rows[pair];
  const here = measuredAt(own.steps, stepNow()),
    learnt = learntAt(own, pair),
    right = at(own.right, here, pair);
  const since =
    learnt === null
      ? "not right at the end"
      : learnt === own.steps[0]
        ? "right at every step"
        : `right from step ${learnt} on`;
  $("sentence").replaceChildren(
    ...sentence(row),
    " → ",
    el("b", { class: right ? "right" : "wrong" }, saidOf(own, row, here, pair)),
    el(
      "small",
      {},
      ` ${right ? "right" : `should be ${row[1]}`} at step ${own.steps[here]}; base said ${saidOf(own, row, 0, pair)}; ${since}`,
    ),
  );
  $("which").textContent = `${pair + 1} of ${whole(own.of || count)}`;
}
function stepPrompt(by) {
  const own = promptsOf(state.task);
  if (own) set({ prompt: (Math.min(state.prompt, own.rows.length - 1) + by + own.rows.length) % own.rows.length });
}

// ---- the step bar ----------------------------------------------------------------------------------------------------------
let playing = null;
function showBar() {
  const slider = $("step");
  slider.max = LAST;
  slider.addEventListener("input", () => set({ step: +slider.value }));
  $("play").addEventListener("click", play);
  const tested = new Set(A ? A.series.map((row) => row.step) : []),
    place = (i) => `${(100 * i) / Math.max(1, LAST)}%`;
  const events = (FIRST.events || []).slice(0, 12);
  $("ticks").replaceChildren(
    ...(STEPS.length <= 80
      ? STEPS.map((s, i) =>
          el("i", {
            class: tested.has(s) ? "tested" : "",
            style: `left:${place(i)}`,
            title: tested.has(s) ? `step ${s}: tested` : `step ${s}`,
          }),
        )
      : []),
    ...events.map((e) => {
      const i = STEPS.findIndex((s) => s >= e.step),
        low = Math.max(0, (i < 0 ? LAST : i) - 1),
        part = i > 0 ? low + (e.step - STEPS[low]) / (STEPS[low + 1] - STEPS[low]) : 0;
      return el("i", { class: "event", style: `left:${place(part)}`, title: `${e.event}: ${e.text}` });
    }),
  );
  const vs = $("vs");
  vs.replaceChildren(
    ...[
      ["base", "the base"],
      ["previous", "the checkpoint before"],
      ["other", "the other task"],
      ...STEPS.slice(1).map((s) => [String(s), `step ${s}`]),
    ].map(([value, words]) => el("option", { value }, words)),
  );
  vs.addEventListener("change", () => set({ vs: vs.value }));
  const task = $("task");
  task.replaceChildren(...["new", "old"].map((role) => el("option", { value: role }, nameOf(role))));
  task.addEventListener("change", () => set({ task: task.value }));
}
function play() {
  if (playing) {
    clearInterval(playing);
    playing = null;
    $("play").textContent = "▶";
    $("play").setAttribute("aria-label", "play");
    return;
  }
  if (state.step === LAST) set({ step: 0 });
  $("play").textContent = "❚❚";
  $("play").setAttribute("aria-label", "pause");
  const pause = Math.max(120, 450 / (+$("speed").value || 1));
  playing = setInterval(() => {
    if (state.step === LAST) return play();
    set({ step: state.step + 1 });
  }, pause);
}
function atState() {
  $("step").value = state.step;
  const own = seriesOf("new");
  $("step").setAttribute("aria-valuetext", `step ${stepNow()}, ${nameOf("new")} ${percent(own.accuracy[state.step])}`);
  $("now").textContent = stepNow();
  for (const id of ["vs", "task"]) if ($(id)) $(id).value = state[id];
  $("aria").textContent = playing
    ? `step ${stepNow()}: ${ROLES.map((r) => `${nameOf(r)} ${percent(seriesOf(r).accuracy[state.step])}`).join(", ")}`
    : "";
}
