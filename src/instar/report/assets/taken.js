// What can be taken along of a panel: SVG, PNG, CSV, its caption, a link.
const INCH = 96,
  POINTS = 8;
function openMenu(own, button) {
  closeMenus();
  // What is folded opens from here, too: a panel is one stop of the keyboard.
  const items = [...own.node.querySelectorAll(".below details")].map((fold) => [
    fold.dataset.name,
    () => {
      fold.open = true;
      fold.querySelector(".scroll").focus();
    },
  ]);
  const drawn = own.box.querySelector("svg");
  if (drawn)
    items.push(
      ["SVG, 3.3 inches", () => save(own, "svg", 3.3)],
      ["SVG, 6.9 inches", () => save(own, "svg", 6.9)],
      ["PNG, twice the size", () => save(own, "png", (own.width || 600) / INCH)],
    );
  if (own.table) items.push(["CSV", () => download(`${own.id}-step-${stepNow()}.csv`, "text/csv", csv(own.table()))]);
  items.push(
    ["Copy the caption", () => copy(captionOf(own))],
    [
      "Copy a link to this view",
      () => copy(location.href.split("#")[0] + addressOf() + (addressOf() === "#" ? "" : "&") + `at=${own.id}`),
    ],
  );
  const menu = el(
    "div",
    { class: "menu", role: "menu" },
    items.map(([name, does]) =>
      el(
        "button",
        {
          type: "button",
          role: "menuitem",
          onclick: () => {
            closeMenus();
            button.focus();
            does();
          },
        },
        name,
      ),
    ),
  );
  button.setAttribute("aria-expanded", "true");
  button.after(menu);
  menu.firstChild.focus();
  menu.addEventListener("keydown", (event) => {
    const all = [...menu.children],
      i = all.indexOf(document.activeElement),
      by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by) {
      event.preventDefault();
      event.stopPropagation();
      all[(i + by + all.length) % all.length].focus();
    }
    if (event.key === "Escape") {
      closeMenus();
      button.focus();
      event.stopPropagation();
    }
  });
}
function closeMenus() {
  document.querySelectorAll(".menu").forEach((menu) => {
    menu.previousSibling.setAttribute("aria-expanded", "false");
    menu.remove();
  });
}
document.addEventListener("click", (event) => {
  if (!event.target.closest(".menu, .more")) closeMenus();
});

function captionOf(own) {
  const n = ROLES.map((role) => `${nameOf(role)}: ${whole(seriesOf(role).pairs)}`).join(", ");
  const said = [
    own.title,
    own.finding_.textContent,
    own.caption || "",
    own.method ? own.method.replace(/\[\[|\]\]/g, "") : "",
  ].filter(Boolean);
  return `${said.map((s) => s.replace(/\.?\s*$/, ".")).join(" ")} Step ${stepNow()} of ${STEPS[LAST]}; ${FIRST.model}; ${own.pairs ? own.pairs() : `held-out prompts ${n}`}; intervals 95 %; instar ${FIRST.instar}.`;
}
/** Comma-separated values; text that a spreadsheet would take for a formula is quoted. */
function csv({ columns, rows }) {
  const flat = (x) => (x && typeof x === "object" ? (Array.isArray(x) ? x : [x.value, x.low, x.high]) : [x]);
  const wide = columns.map((_, i) => Math.max(1, ...rows.map((row) => flat(row[i]).length)));
  const quoted = (text) => {
    const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
  };
  const head = columns.flatMap((c, i) => (wide[i] === 3 ? [c, `${c} low`, `${c} high`] : [c]));
  const lines_ = rows.map((row) =>
    row.flatMap((x, i) => {
      const own = flat(x);
      return [...own, ...Array(wide[i] - own.length).fill("")];
    }),
  );
  return (
    [head, ...lines_]
      .map((row) => row.map((x) => (typeof x === "number" ? String(x) : quoted(known(x) ? String(x) : ""))).join(","))
      .join("\n") + "\n"
  );
}
function download(name, type, content) {
  const link = el("a", {
    href: URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type })),
    download: name,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", {}, text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  tell("copied");
}
/** The panel drawn anew at a width in inches, as one SVG with real text; in the colours of the light theme. */
function standalone(own, inches) {
  const width = Math.round(inches * INCH),
    stage = el("div", { class: "stage", style: `width:${width}px`, "data-theme": "light" });
  document.body.append(stage);
  const kept = own.box;
  try {
    forPaper = true;
    own.box = stage;
    own.draw(stage, width);
    const frame = stage.getBoundingClientRect(),
      style = getComputedStyle(stage);
    const outer = el("svg", {
      xmlns: "http://www.w3.org/2000/svg",
      width: `${inches}in`,
      height: `${(frame.height / INCH).toFixed(3)}in`,
      viewBox: `0 0 ${width} ${Math.ceil(frame.height)}`,
      "font-family": "Helvetica, Arial, sans-serif",
      "font-size": `${(POINTS * INCH) / 72}px`,
    });
    outer.append(
      el("title", {}, own.title),
      el("desc", {}, captionOf(own)),
      document.getElementById("patterns").querySelector("defs").cloneNode(true),
      el("rect", { width: "100%", height: "100%", fill: "#fff" }),
    );
    const css = document.createElementNS("http://www.w3.org/2000/svg", "style");
    css.textContent = document.getElementById("svgstyle").textContent;
    outer.append(css);
    for (const svg of stage.querySelectorAll("svg")) {
      if (svg.parentElement.closest("svg")) continue;
      const place = svg.getBoundingClientRect(),
        copied = svg.cloneNode(true);
      copied.setAttribute("x", place.left - frame.left);
      copied.setAttribute("y", place.top - frame.top);
      copied.setAttribute("width", place.width);
      copied.setAttribute("height", place.height);
      outer.append(copied);
    }
    for (const words of stage.querySelectorAll(".legend > span, .drawn-title, .mapkeyrow > span"))
      outer.append(...written(words, frame));
    const text = new XMLSerializer().serializeToString(outer);
    return text
      .replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim() || "#000")
      .replace(/currentColor/g, "#1d2329");
  } finally {
    forPaper = false;
    own.box = kept;
    stage.remove();
  }
}
/** Words beside a drawing, with the key that stands before them, as SVG. */
function written(words, frame) {
  const key = words.querySelector("i"),
    place = words.getBoundingClientRect(),
    made = [];
  let from = place.left;
  if (key) {
    const own = key.getBoundingClientRect(),
      look = getComputedStyle(key),
      [x, y] = [own.left - frame.left, own.top - frame.top];
    from = own.right + 4;
    if (own.height > 6)
      made.push(
        el("rect", {
          x,
          y,
          width: own.width,
          height: own.height,
          fill: look.backgroundColor,
          stroke: look.borderTopColor,
          "stroke-width": parseFloat(look.borderTopWidth) || 0,
        }),
      );
    else
      made.push(
        el("line", {
          x1: x,
          x2: x + own.width,
          y1: y + 1.5,
          y2: y + 1.5,
          stroke: look.borderTopColor,
          "stroke-width": 2.5,
          "stroke-dasharray": { dashed: "5 3", dotted: "2 3" }[look.borderTopStyle] || null,
        }),
      );
  }
  return [...made, el("text", { x: from - frame.left, y: place.top - frame.top + 13, fill: "#1d2329" }, words.textContent)];
}
function save(own, kind, inches) {
  const text = standalone(own, inches),
    name = `${own.id}-${nameOf(state.task)}-step-${stepNow()}-${inches.toFixed(1)}in`.replace(/[^\w.-]+/g, "_");
  if (kind === "svg") return download(`${name}.svg`, "image/svg+xml", text);
  const image = new Image(),
    size = /viewBox="0 0 (\d+) (\d+)"/.exec(text);
  image.onload = () => {
    const canvas = el("canvas", { width: 2 * size[1], height: 2 * size[2] });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => download(`${name}.png`, "image/png", blob));
  };
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
}
let telling = null;
function tell(text) {
  const node = $("told");
  node.textContent = text;
  node.classList.add("seen");
  clearTimeout(telling);
  telling = setTimeout(() => node.classList.remove("seen"), 1600);
}
