// What every drawing uses: the data, elements, numbers as they are written, and the page's state.
const FIRST = JSON.parse(document.getElementById("first").textContent);
let REST = null;
const ROLES = ["old", "new"];
const A = FIRST.answer;
const STEPS = FIRST.tasks.new.steps;
const LAST = STEPS.length - 1;

const $ = (id) => document.getElementById(id);

/** An element; foreign text only ever becomes a text node. */
function el(name, attributes = {}, ...inside) {
  const svg =
    ["svg", "g", "path", "rect", "circle", "line", "text", "title", "defs", "marker", "pattern", "desc"].includes(name) &&
    attributes.html !== true;
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false || key === "html") continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "class") made.setAttribute("class", value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...inside.flat(3).filter((x) => x !== null && x !== undefined && x !== false));
  return made;
}
const known = (x) => x !== null && x !== undefined && !Number.isNaN(x);

// ---- numbers ---------------------------------------------------------------------------------------------------------
const MINUS = "\u2212",
  THIN = "\u202f",
  DASH = "\u2013";
const typographic = (text) => text.replace("-", MINUS);
/** A sentence that a rule wrote, with the page's minus and space. */
const worded = (text) =>
  String(text)
    .replace(/(^|[\s[(+])-(?=\d)/g, `$1${MINUS}`)
    .replace(/(\d)\s?%/g, `$1${THIN}%`);
function fixed(x, digits = 2) {
  if (!known(x)) return DASH;
  const text = x.toFixed(digits);
  return typographic(/^-0\.?0*$/.test(text) ? text.slice(1) : text);
}
const signed = (x, digits = 2) => (known(x) && x > 0 && !/^0\.?0*$/.test(x.toFixed(digits)) ? "+" : "") + fixed(x, digits);
const percent = (x, digits = 1) => (known(x) ? `${fixed(100 * x, digits)}${THIN}%` : DASH);
const whole = (x) => (known(x) ? (Math.round(x) || 0).toLocaleString("en").replace(/,/g, THIN) : DASH);
/** A number with its interval: {value, low, high} or [value, low, high]. */
function ranged(x, as = fixed) {
  if (!x) return DASH;
  const [value, low, high] = Array.isArray(x) ? x : [x.value, x.low, x.high];
  if (!known(value)) return "not measurable";
  return known(low) && known(high) ? `${as(value)} [${as(low)}, ${as(high)}]` : as(value);
}
const triple = (x) => (x ? [x.value, x.low, x.high] : null);
const plural = (n, one, many = one + "s") => `${whole(n)} ${n === 1 ? one : many}`;
const listed = (all) => (all.length < 2 ? all.join("") : `${all.slice(0, -1).join(", ")} and ${all[all.length - 1]}`);

// ---- packed arrays -----------------------------------------------------------------------------------------------------
const KINDS = { float32: Float32Array, uint16: Uint16Array, int16: Int16Array, uint8: Uint8Array };
let BEHIND = null;
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
/** An array with its `values`: its bytes are text, or stand at a place behind the rest's JSON. */
function unpack(own) {
  if (own.values) return own;
  const length = own.shape.reduce((a, b) => a * b, 1),
    kind = KINDS[own.kind];
  own.values =
    typeof own.bytes === "string" ? new kind(bytesOf(own.bytes).buffer) : new kind(BEHIND, own.bytes + BEHIND.first, length);
  if (own.steps) {
    const each = length / own.shape[0];
    for (let i = each; i < length; i++) own.values[i] += own.values[i - each];
  }
  return own;
}
/** The place of `[i, j, …]` in a packed array. */
function at(own, ...place) {
  const { values, shape } = unpack(own);
  let index = 0;
  for (let i = 0; i < shape.length; i++) index = index * shape[i] + (place[i] || 0);
  return values[index];
}

// ---- names -------------------------------------------------------------------------------------------------------------
/** A task's name in words, where its name says what it is. */
function taskWords(name) {
  const ioi = /^ioi(\d)$/.exec(name);
  return ioi ? `${["", "one", "two", "three", "four", "five"][+ioi[1]] || ioi[1]}-name indirect-object identification` : name;
}
const nameOf = (role) => FIRST[role];
const isHead = (name) => /^a\d+\.h\d+$/.test(name);
const placeOf = (head) => head.slice(1).split(".h").map(Number);
const seriesOf = (role) => FIRST.tasks[role];
const bounds = (own, what, i) => ({ value: own[what][i], low: own[`${what}_low`][i], high: own[`${what}_high`][i] });
/** The last of these steps that is not after a step; the first where all are. */
function measuredAt(steps, step) {
  let found = 0;
  steps.forEach((s, i) => {
    if (s <= step) found = i;
  });
  return found;
}

// ---- state -------------------------------------------------------------------------------------------------------------
const KEY_HEADS = ((FIRST.key || {}).heads || []).map((row) => row.name).filter(isHead);
const DEFAULTS = {
  step: LAST,
  vs: "base",
  task: "new",
  group: "",
  head: KEY_HEADS[0] || "a0.h0",
  prompt: 0,
  n: 0,
  f: 0,
  pins: "",
  groups: "",
  role: "",
  metric: "share",
  site: "z",
  sort: "learnt",
  find: "",
  show: "all",
  query: -1,
};
const state = { ...DEFAULTS };
const listeners = [];
const onChange = (f) => listeners.push(f);
const stepNow = () => STEPS[state.step];
/** The index of the checkpoint that this one is compared with. */
const againstIndex = () =>
  state.vs === "base" ? 0 : state.vs === "previous" ? Math.max(0, state.step - 1) : Math.max(0, STEPS.indexOf(+state.vs));

function set(changes, remember = true) {
  const changed = Object.keys(changes).filter((key) => changes[key] !== state[key]);
  if (!changed.length) return;
  Object.assign(state, changes);
  listeners.forEach((f) => f(changed));
  if (remember) keepInAddress(changed);
}

// ---- the state in the address: `#step=24&vs=base&head=a0.h7` -----------------------------------------------------------
const NUMBERS = ["prompt", "n", "f", "query"];
function addressOf(own = state) {
  const pairs = Object.keys(DEFAULTS)
    .filter((key) => own[key] !== DEFAULTS[key])
    .map((key) => `${key}=${encodeURIComponent(key === "step" ? STEPS[own.step] : own[key])}`);
  return pairs.length ? `#${pairs.join("&")}` : "#";
}
function fromAddress() {
  const found = { ...DEFAULTS };
  for (const pair of location.hash.slice(1).split("&")) {
    const [key, raw] = pair.split("=");
    if (!(key in DEFAULTS) || raw === undefined) continue;
    let value;
    try {
      value = decodeURIComponent(raw);
    } catch {
      continue;
    }
    if (key === "step") found.step = Number.isFinite(+value) ? measuredAt(STEPS, +value) : LAST;
    else if (NUMBERS.includes(key)) found[key] = Number.isFinite(+value) ? Math.max(DEFAULTS[key], +value) : DEFAULTS[key];
    else found[key] = value;
  }
  if (!["base", "previous"].includes(found.vs) && !STEPS.includes(+found.vs)) found.vs = "base";
  if (!ROLES.includes(found.task)) found.task = "new";
  if (!isHead(found.head)) found.head = DEFAULTS.head;
  return found;
}
let addressTimer = null;
function keepInAddress(changed) {
  const moving = changed.every((key) => ["step", "n", "f", "find"].includes(key));
  clearTimeout(addressTimer);
  const write = () => history[moving ? "replaceState" : "pushState"](null, "", addressOf());
  // A slider that is drawn along would fill the history, and browsers refuse a hundred a second.
  if (moving) addressTimer = setTimeout(write, 250);
  else write();
}
addEventListener("popstate", () => set(fromAddress(), false));
