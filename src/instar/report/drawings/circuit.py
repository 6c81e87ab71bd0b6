"""The circuit at a step against the first step's, at equal numbers of edges: what was kept, gained and lost.

1. Rows are layers, a column is a head, the last column the MLPs; the input stands below and the logits above, and nothing
   changes its place. A head or MLP without an edge is a small tick.
2. An edge rises from the top of its writer to the bottom of its reader: left of the middle to a head's queries, right of it
   to its values, between them to its keys. Heads that share keys and values are read by a bar under all of them.
3. It ends in an arrow where it helps the answer (a negative score), in a bar where it works against it. Its width goes by the
   root of its |score|, on one scale over all steps; of what was lost, by the score that it had.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path

from instar.report.drawings.cell import Cell, Drawn
from instar.report.drawings.over_steps import key_head
from instar.report.numbers.circuits import Circuits
from instar.report.numbers.panels import Panels
from instar.report.style import GAINED, INK, KEPT, LOST, QUIET, inches, legend_below, named, whole

THINNEST, THICKEST, ROOMY = 0.5, 4.0, 10.0
"""Lines, and the largest radius of a node, which has room for its name, in points."""
STYLES = {"kept": (KEPT, "-", 2.0), "gained": (GAINED, "-", 2.2), "lost": (LOST, (0, (3, 2)), 2.1)}
"""Colour, dash, and what lies on top."""
MLP_RISE, ENDS_RISE, MLP_GAP = 0.42, 1.15, 0.6
PORTS = {"q": -0.7, "k": 0.0, "v": 0.7, "": 0.0}
"""Where an edge ends, in radii from a head's middle."""


@dataclass(frozen=True)
class Change:
    """Edges with their scores; of what was lost the score that it had."""

    kept: dict[str, float]
    gained: dict[str, float]
    lost: dict[str, float]

    @classmethod
    def of(cls, before: Iterable[tuple[str, float]], now: Iterable[tuple[str, float]]) -> "Change":
        """Of two circuits."""
        had, has = dict(before), dict(now)
        return cls(
            {name: score for name, score in has.items() if name in had},
            {name: score for name, score in has.items() if name not in had},
            {name: score for name, score in had.items() if name not in has},
        )


def circuit_cells(panels: Panels, roles: tuple[str, ...]) -> list[Cell]:
    """A circuit a task; none where no step had a faithful one."""
    return [
        Cell(
            f"{named(panels.summary[role])} ({role} task)",
            own.steps,
            partial(_circuit, own, key_head(panels.summary)),
            width=6.2,
            least=3.2,
            height=float(np.clip(own.graph.n_layers / own.graph.n_heads, 0.7, 1.3)),
            below=0.8,
        )
        for role, own in panels.circuits.items()
        if role in roles and any(own.edges)
    ]


def convention(panels: Panels) -> str:
    """What the numbers are."""
    own = [(panels.summary[role], c) for role, c in panels.circuits.items()]
    how = "; ".join(f"{named(name)}: {named(c.method)}, {named(c.shown)} changed, {c.pairs} pairs" for name, c in own)
    shared = (
        "; bar: heads that share keys and values" if any(c.graph.n_heads != c.graph.n_kv_heads for _, c in own) else ""
    )
    return (
        f"circuits of equal numbers of edges; {how}; → helps the answer, ⊣ works against "
        f"it; width: root of |score|, one scale over all steps; ring: the head that most of the gain was booked on{shared}"
    )


def base_of(own: Circuits) -> int:
    """The place of the first step with a circuit."""
    return next(i for i, step in enumerate(own.edges) if step)


def sentence(own: Circuits, index: int) -> str:
    """The counts."""
    base, now = base_of(own), own.edges[index]
    if not now:
        return f"not measurable at step {own.steps[index]}"
    count = f"{len(now)} of {own.graph.n_edges:,} edges"
    if index == base:
        return f"{count}: what later steps are compared with"
    change = Change.of(own.edges[base], now)
    since = f"since step {own.steps[base]}" if base == 0 else f"since step {own.steps[base]}, the first with a circuit"
    return f"{count}: {len(change.kept)} kept, {len(change.gained)} gained, {len(change.lost)} lost {since}"


@dataclass(frozen=True)
class Places:
    """Where nodes and ends of edges are, in columns and layers."""

    layers: int
    heads: int
    group: int
    """Heads that share keys and values."""
    radius: tuple[float, float]

    def node(self, name: str) -> tuple[float, float]:
        """The middle of a node."""
        if name in ("input", "logits"):
            y = -ENDS_RISE if name == "input" else self.layers - 1 + MLP_RISE + ENDS_RISE - 0.2
            return (self.heads - 1) / 2, y
        layer, _, head = name[1:].partition(".h")
        return (float(head), float(layer)) if head else (self.heads - 1 + 1 + MLP_GAP, int(layer) + MLP_RISE)

    def read(self, name: str) -> tuple[float, float]:
        """Where an edge ends that is read by `a1.h0<v>`, `m3` or `logits`."""
        node, _, port = name.rstrip(">").partition("<")
        x, y = self.node(node)
        if port in ("k", "v") and self.group > 1:
            # It is read by its whole group, at the middle of the bar.
            return x * self.group + (self.group - 1) / 2 + self.radius[0] * PORTS[port], y - 1.6 * self.radius[1]
        # On the circle: what is left or right of its middle is higher.
        return x + PORTS[port] * self.radius[0], y - self.radius[1] * float(np.sqrt(1 - PORTS[port] ** 2))

    def path(self, edge: str) -> Path:
        """An edge's curve: upright where it begins and where it ends, around what lies between in its own column."""
        source, _, reader = edge.partition("->")
        x0, y0 = self.node(source)
        y0 += self.radius[1]
        x1, y1 = self.read(reader)
        bulge = 0.55 if abs(x1 - x0) < 0.3 and y1 - y0 > 1 else 0.0
        rise = max(0.35 * (y1 - y0), 0.15)
        return Path(
            [(x0, y0), (x0 + bulge, y0 + rise), (x1 + bulge, y1 - rise), (x1, y1)],
            [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
        )


def touched(edges: Iterable[str]) -> set[str]:
    """The heads and MLPs that edges begin or end at; a shared key or value belongs to the heads that write."""
    ends = {end for edge in edges for end in edge.split("->")}
    return {end.partition("<")[0] for end in ends if not end.endswith(("<k>", "<v>"))} - {"input", "logits"}


def _circuit(own: Circuits, key: str | None, axes: Any) -> Drawn:
    (wide, high), graph = inches(axes), own.graph
    column, row = wide * 72 / (graph.n_heads + 1 + MLP_GAP), high * 72 / (graph.n_layers + 2.2)
    radius = float(np.clip(0.36 * min(column, row), 2.0, ROOMY))
    places = Places(graph.n_layers, graph.n_heads, graph.n_heads // graph.n_kv_heads, (radius / column, radius / row))
    ends = _furniture(axes, places)
    every = sorted({name for step in own.edges for name, _ in step})
    most = max(abs(score) for step in own.edges for _, score in step)
    lines = {
        name: axes.add_artist(
            FancyArrowPatch(path=places.path(name), arrowstyle="-", fc="none", mutation_scale=max(6.0, radius))
        )
        for name in every
    }
    bars = {bar: axes.plot(*xy, color=QUIET, lw=0.8, zorder=2.5)[0] for bar, xy in _bars(places, every).items()}
    dots = axes.scatter([], [], s=(2 * radius) ** 2, zorder=3)
    names = sorted(touched(every))
    labels = {n: _label(axes, places, n) for n in names} if radius >= ROOMY else {}
    below = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top", "annotation_clip": False}
    said = axes.annotate("", (0, 0), (0, -32), **below)
    _legend(axes)
    base = own.edges[base_of(own)]

    def show(index: int) -> None:
        now = own.edges[index]
        change = Change.of(base, now) if now else Change({}, {}, {})
        for line in lines.values():
            line.set_visible(False)
        for kind, (colour, dash, above) in STYLES.items():
            for name, score in getattr(change, kind).items():
                style = "-|>,head_length=0.5,head_width=0.25" if score < 0 else "|-|,widthA=0,widthB=0.35"
                width = THINNEST + (THICKEST - THINNEST) * np.sqrt(abs(score) / most)
                lines[name].set(visible=True, edgecolor=colour, linestyle=dash, linewidth=width, zorder=above)
                lines[name].set_arrowstyle(style)
                lines[name].set_facecolor(colour if score < 0 else "none")
        shown = [*change.kept, *change.gained, *change.lost]
        there = {n for n in names if n in touched(shown)}
        dots.set_offsets(np.reshape([places.node(n) for n in names if n in there], (-1, 2)))
        dots.set_facecolor(["#ffffff"] * len(there))
        dots.set_edgecolor([INK if n == key else QUIET for n in names if n in there])
        dots.set_linewidth([2.2 if n == key else 0.9 for n in names if n in there])
        for name, label in labels.items():
            label.set_visible(name in there)
        for (reader, _), bar in bars.items():
            bar.set_visible(any(name.endswith(f"->{reader}") for name in shown))
        said.set_text(sentence(own, index).replace(": ", ":\n", 1))

    return Drawn(show, [*lines.values(), *bars.values(), *ends, dots, *labels.values(), said])


def _bars(places: Places, edges: list[str]) -> dict[tuple[str, str], tuple[list[float], list[float]]]:
    """Under heads that share keys and values, a bar for each of both that is ever read."""
    found = {}
    for reader in sorted({edge.partition("->")[2] for edge in edges}):
        if reader.endswith(("<k>", "<v>")) and places.group > 1:
            x, y = places.read(reader)
            middle = x - places.radius[0] * PORTS[reader[-2]]
            half = (places.group - 1) / 2
            found[reader, "bar"] = ([middle - half, middle + half], [y, y])
    return found


def _furniture(axes: Any, places: Places) -> list[Any]:
    """What stands still: ticks where no edge is, the axes, and the ends, which lie upon edges."""
    layers, heads = range(places.layers), range(places.heads)
    nodes = [places.node(n) for i in layers for n in (*(f"a{i}.h{h}" for h in heads), f"m{i}")]
    x, y = np.array(nodes).T
    axes.scatter(x, y, marker="_", s=14, color="#b9c0c8", lw=0.8, zorder=1)
    box = {"boxstyle": "round,pad=0.25", "fc": "white", "ec": QUIET, "lw": 0.9}
    middle = {"ha": "center", "va": "center", "bbox": box, "zorder": 3}
    ends = [axes.text(*places.node(name), name, **middle) for name in ("input", "logits")]
    last = places.node("m0")[0]
    axes.set(xlim=(-0.6, last + 0.75), ylim=(-ENDS_RISE - 0.4, places.node("logits")[1] + 0.4))
    whole(axes.xaxis)
    ticks = [t for t in axes.xaxis.get_major_locator().tick_values(0, places.heads - 1) if 0 <= t < places.heads]
    axes.set_xticks([*ticks, last], [*(f"{t:.0f}" for t in ticks), "MLP"])
    whole(axes.yaxis)
    axes.set_yticks(
        [t for t in axes.yaxis.get_major_locator().tick_values(0, places.layers - 1) if 0 <= t < places.layers]
    )
    axes.set(xlabel="head", ylabel="layer")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return ends


def _label(axes: Any, places: Places, name: str) -> Any:
    text = name[1:].replace(".h", ".") if ".h" in name else name
    return axes.text(*places.node(name), text, ha="center", va="center", zorder=4, fontsize=8)


def _legend(axes: Any) -> None:
    lines = [Line2D([], [], color=colour, ls=dash, lw=1.8, label=kind) for kind, (colour, dash, _) in STYLES.items()]
    legend_below(axes, 57, handles=lines)
