// Drawings by Observable Plot: lines with bands, dots with intervals, bars, maps. Each is an SVG with a label; colours are
// variables of the page's style, so that a change of theme redraws nothing.
const PARTS = { "Q,K": "qk", "V,O": "vo", MLPs: "mlp", "the rest": "rest" };
const taskColour = { old: "var(--old)", new: "var(--new)" };
const taskDash = { old: "7 4", new: null };
/** Colours and dashes of lines that are many: slots, runs, seeds. */
const LOOKS = [
  ["#0072b2", null],
  ["#d55e00", "6 3"],
  ["#009e73", "2 3"],
  ["#cc79a7", "8 3 2 3"],
  ["#8c6d00", "4 2"],
  ["#56b4e9", "1 2"],
  ["#6a3d9a", "10 3"],
  ["#a0522d", "3 1"],
  ["#3d7a7a", "5 5"],
  ["#b0476b", "7 2 1 2"],
];
const slotOrder = (slots) =>
  [...slots].sort(
    (a, b) =>
      (a === "text") - (b === "text") || (a === "end") - (b === "end") || FIRST.slots.indexOf(a) - FIRST.slots.indexOf(b),
  );
function lookOf(i) {
  const [colour, dash] = LOOKS[i % LOOKS.length];
  return { colour, dash };
}
/** A slot has one colour and one dash on the whole page. */
function slotLook(slot) {
  if (slot === "text") return { colour: "var(--faint)", dash: null };
  return lookOf(Math.max(0, FIRST.slots.indexOf(slot)));
}
const BASE = {
  style: { background: "none", color: "var(--ink)", fontFamily: "inherit", fontSize: "11px", overflow: "visible" },
  marginLeft: 44,
  marginBottom: 34,
  marginTop: 18,
  marginRight: 14,
};

function plot(label, options) {
  const made = Plot.plot({ ...BASE, ...options });
  // One picture with one name: what the library calls its pieces says nothing.
  made.querySelectorAll("g[aria-label], g[aria-description]").forEach((g) => {
    g.removeAttribute("aria-label");
    g.removeAttribute("aria-description");
  });
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", label);
  return made;
}
/** Lines with 95 % bands over the steps. `lines`: {name, colour, dash, rows: [{x, y, low, high}], marker}. */
function lines(label, lines, { width, height = 190, y = {}, x = {}, rules = [], marks = [] }) {
  const flat = lines.flatMap((line) =>
    line.rows.filter((r) => known(r.y)).map((r) => ({ ...r, name: line.name, colour: line.colour })),
  );
  return plot(label, {
    width,
    height,
    x: { label: "fine-tuning step", labelArrow: "none", ...x },
    y: { grid: true, labelArrow: "none", ...y },
    marks: [
      ...rules,
      ...lines.map((line) =>
        Plot.areaY(
          line.rows.filter((r) => known(r.low)),
          { x: "x", y1: "low", y2: "high", fill: line.colour, fillOpacity: 0.16 },
        ),
      ),
      ...lines.map((line) =>
        Plot.lineY(
          line.rows.filter((r) => known(r.y)),
          { x: "x", y: "y", stroke: line.colour, strokeWidth: line.width || 1.8, strokeDasharray: line.dash },
        ),
      ),
      ...lines
        .filter((line) => line.marker)
        .map((line) =>
          Plot.dot(
            line.rows.filter((r) => known(r.y)),
            { x: "x", y: "y", r: 2.4, symbol: line.marker, fill: line.colour },
          ),
        ),
      ...marks,
      Plot.tip(
        flat,
        Plot.pointer({
          x: "x",
          y: "y",
          title: (d) =>
            `${d.name}\nstep ${d.x}: ${(d.as || fixed)(d.y)}${known(d.low) ? ` [${(d.as || fixed)(d.low)}, ${(d.as || fixed)(d.high)}]` : ""}`,
          fill: "var(--card)",
          stroke: "var(--line)",
        }),
      ),
    ],
  });
}
const LETTER = 6.1;
/** Room for the names at the left. */
const marginFor = (rows, width, most = 0.46) =>
  Math.min(width * most, 16 + LETTER * Math.max(...rows.map((r) => r.name.length)));
/** Names cut to their room; two that would be the same are told apart by a number. */
function fitting(rows, width, most = 0.46) {
  const room = Math.max(8, Math.floor((width * most - 16) / LETTER)),
    seen = new Map();
  return rows.map((row) => {
    const short = row.name.length > room ? `${row.name.slice(0, room - 1)}…` : row.name,
      n = (seen.get(short) || 0) + 1;
    seen.set(short, n);
    return { ...row, name: n > 1 ? `${short.slice(0, room - 3)}…${n}` : short };
  });
}
/** Dots with intervals, a row each: {name, values: {series: [value, low, high]}}. */
function dots(label, rows, series, { width, x = {}, marks = [], rowHeight = 22 }) {
  const marginLeft = marginFor(rows, width);
  rows = fitting(rows, width);
  const flat = rows.flatMap((row, i) =>
    series
      .map((s, k) => ({ at: i, k, name: row.name, own: row.values[s.key], ...s }))
      .filter((d) => d.own && known(d.own[0])),
  );
  const shift = (d) => (d.k - (series.length - 1) / 2) * Math.min(8, rowHeight / series.length);
  return plot(label, {
    width,
    height: 46 + rowHeight * rows.length,
    marginLeft,
    x: { grid: true, labelArrow: "none", ...x },
    y: { domain: rows.map((r) => r.name), label: null, type: "point", padding: 0.6 },
    marks: [
      Plot.ruleX([0], { stroke: "var(--soft)" }),
      ...marks,
      ...series.flatMap((s, k) => {
        const own = flat.filter((d) => d.k === k),
          dy = shift({ k });
        return [
          Plot.link(
            own.filter((d) => known(d.own[1])),
            { x1: (d) => d.own[1], x2: (d) => d.own[2], y1: "name", y2: "name", stroke: s.colour, strokeWidth: 1.6, dy },
          ),
          Plot.dot(own, {
            x: (d) => d.own[0],
            y: "name",
            symbol: s.symbol,
            fill: s.hollow ? "var(--card)" : s.colour,
            stroke: s.colour,
            r: 3.6,
            dy,
            title: (d) => `${d.name}, ${d.words}: ${ranged(d.own)}`,
            tip: true,
          }),
        ];
      }),
    ],
  });
}
// ---- maps: what helps is violet, what works against it ochre, of unequal lightness --------------------------------------
const RAMPS = {
  light: {
    helps: [
      [245, 243, 240],
      [190, 174, 212],
      [120, 90, 170],
      [63, 30, 110],
    ],
    against: [
      [245, 243, 240],
      [233, 205, 140],
      [201, 150, 50],
      [150, 100, 10],
    ],
  },
  dark: {
    helps: [
      [38, 44, 51],
      [86, 68, 130],
      [140, 115, 205],
      [205, 190, 255],
    ],
    against: [
      [38, 44, 51],
      [92, 72, 30],
      [165, 125, 40],
      [240, 200, 110],
    ],
  },
};
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
/** What is taken along is always light. */
let forPaper = false;
const theme = () => (forPaper ? "light" : document.documentElement.dataset.theme || (darkSystem.matches ? "dark" : "light"));
function mapColour(value, limit) {
  if (!known(value)) return "url(#masked)";
  const ramp = RAMPS[theme()][value < 0 ? "against" : "helps"],
    t = Math.min(1, Math.abs(value) / (limit || 1)) * (ramp.length - 1);
  const i = Math.min(ramp.length - 2, Math.floor(t)),
    rest = t - i;
  return `rgb(${ramp[i].map((c, k) => Math.round(c + rest * (ramp[i + 1][k] - c))).join(",")})`;
}
const onColour = (value, limit) =>
  (known(value) && Math.abs(value) / (limit || 1) > (theme() === "light" ? 0.5 : 0.6)) === (theme() === "light")
    ? "#fff"
    : "#1d2329";
/** The shares of a scale that a map's key shows. */
function mapKey(limit, words, digits = 2) {
  const width = 150,
    bar = el("svg", {
      width: width + 70,
      height: 26,
      role: "img",
      "aria-label": `colours from ${fixed(-limit, digits)} to ${fixed(limit, digits)}: ${words}`,
      class: "mapkey",
    });
  for (let i = 0; i < 30; i++)
    bar.append(
      el("rect", {
        x: 20 + i * (width / 30),
        y: 2,
        width: width / 30 + 0.5,
        height: 9,
        fill: mapColour((i / 14.5 - 1) * limit, limit),
      }),
    );
  [
    [0, -limit],
    [0.5, 0],
    [1, limit],
  ].forEach(([x, value]) =>
    bar.append(el("text", { x: 20 + x * width, y: 23, "text-anchor": "middle" }, fixed(value, digits))),
  );
  return el("div", { class: "mapkeyrow" }, bar, el("span", {}, words));
}
