"""Colours and matplotlib settings, the same in every figure and animation."""

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from instar.notebook import printable

OLD, NEW, INK, FAINT, QUIET = "#2a6f97", "#c8553d", "#22262b", "#c9ced6", "#6b7280"
LONGEST_NAME, LONGEST_TICK = 40, 12
"""Characters of a foreign name in a drawing, and beside an axis."""
COLOUR = {"old": OLD, "new": NEW}
PARTS = {"Q,K": "#5b4b9a", "V,O": "#d9992b", "MLPs": "#3c8a6b", "embeddings, norms, biases": "#a0a5ad"}
"""What a gain was written in."""
DIVERGING = LinearSegmentedColormap.from_list("instar", ["#1f4e79", "#7fb0d3", "#f7f7f5", "#e6a48f", "#a33b20"])
SETTINGS: Any = {
    "font.size": 10,
    "axes.edgecolor": "#8a9099",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "svg.hashsalt": "instar",
    "text.parse_math": False,
    "text.usetex": False,
}

TICKS = 16
"""That have room on an axis."""


def subplots(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure of `size` inches, and its axes as an array `[rows, columns]`.

    Its canvas is its own: through pyplot a notebook or a program would lose the backend that it has chosen.
    """
    drawn = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn, drawn.subplots(rows, columns, squeeze=False)


def figure(columns: int, width: float = 5.2, height: float = 3.6) -> tuple[Any, list[Any]]:
    """A figure with panels side by side."""
    drawn, axes = subplots(1, columns, (width * columns, height))
    return drawn, list(axes[0])


def named(name: Any, most: int = LONGEST_NAME) -> str:
    """Foreign text for a drawing: one line of at most `most` characters, without control characters, drawn as it is spelt.

    `SETTINGS` keep matplotlib from reading formulas in it (`$x$`, TeX). A label that begins with `_` is none to a legend.
    """
    text = printable(str(name)[: 10 * LONGEST_NAME])
    text = text if len(text) <= most else text[: most - 1] + "…"
    return " " + text if text.startswith("_") else text


def stage_label(stage: str) -> str:
    """`3_mid` as "3½", `3_pre` as "3"."""
    layer, _, half = stage.partition("_")
    return "out" if stage == "final" else named(layer, LONGEST_TICK) + ("½" if half == "mid" else "")


def some(count: int) -> range:
    """The ticks of so many layers or heads: as many as have room beside each other."""
    return range(0, count, -(-count // TICKS))
