"""Colours and matplotlib settings, the same in every figure and animation.

No colour has two meanings: blue and orange are the old and the new task (dash and marker tell them apart too), violet and
ochre the two signs of a map (unlike in lightness), green and magenta what was gained and lost (solid and dashed).
"""

import textwrap
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from instar.notebook import printable

INK, FAINT, QUIET, MASKED = "#1d2329", "#c9ced6", "#56606b", "#e7e9ec"
LONGEST_NAME, LONGEST_TICK = 40, 12
"""Characters of a foreign name in a drawing, and beside an axis."""
COLOUR = {"old": "#1f6fa8", "new": "#c2410c"}
LINE: dict[str, dict[str, Any]] = {
    "old": {"color": COLOUR["old"], "ls": "--", "marker": "s", "ms": 3},
    "new": {"color": COLOUR["new"], "ls": "-", "marker": "o", "ms": 3},
}
KEPT, GAINED, LOST = "#6f7b87", "#00734f", "#b3006b"
PARTS = {"Q,K": "#7a4a12", "V,O": "#2b93b8", "MLPs": "#4a5568", "embeddings, norms, biases": "#a3abb5"}
"""What a gain was written in."""
RAMP = ("#96640a", "#c99632", "#e9cd8c", "#f5f3f0", "#beaed4", "#785aaa", "#3f1e6e")
"""As on the page."""
DIVERGING = LinearSegmentedColormap.from_list("instar", RAMP)
SETTINGS: Any = {
    "font.size": 9,
    "axes.edgecolor": "#8a9099",
    "axes.labelcolor": INK,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.dpi": 110,
    "figure.titlesize": 11,
    "figure.labelsize": 7,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.title_fontsize": 8,
    "pdf.fonttype": 42,
    "savefig.dpi": 160,
    "svg.fonttype": "none",
    "svg.hashsalt": "instar",
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
PAPER: Any = SETTINGS | {
    **dict.fromkeys(("font.size", "axes.titlesize", "figure.titlesize"), 8),
    **{"savefig.dpi": 300, "axes.linewidth": 0.6, "lines.linewidth": 1.2},
}
"""Of a figure whose width is given: nothing is written smaller or larger than 8 points."""


def canvas(size: tuple[float, float]) -> Any:
    """A figure of `size` inches.

    Its canvas is its own: through pyplot a notebook or a program would lose the backend that it has chosen.
    """
    drawn = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn


def named(name: Any, most: int = LONGEST_NAME) -> str:
    """Foreign text for a drawing: one line of at most `most` characters, without control characters, drawn as it is spelt.

    `SETTINGS` keep matplotlib from reading formulas in it (`$x$`, TeX). A label that begins with `_` is none to a legend.
    """
    text = printable(str(name)[: 10 * LONGEST_NAME])
    text = text if len(text) <= most else text[: most - 1] + "…"
    return " " + text if text.startswith("_") else text


def wrapped(text: str, inches: float, points: float) -> str:
    """Text broken into lines that this width has room for."""
    return "\n".join(textwrap.wrap(text, max(20, int(inches * 72 / (0.56 * points))), break_long_words=True))


def legend_below(axes: Any, points: float, **how: Any) -> None:
    """A legend so far under the axes' edge, from its left on, in as many columns as have room."""
    under = axes.transAxes + ScaledTranslation(0, -points / 72, axes.figure.dpi_scale_trans)
    place = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": under, "borderaxespad": 0.0}
    lines = how.get("handles") or axes.get_legend_handles_labels()[0]
    column = 28 + 4.6 * max(len(line.get_label()) for line in lines)
    columns = int(np.clip(inches(axes)[0] * 72 // column, 1, 4))
    axes.legend(ncols=columns, columnspacing=1, handlelength=2, borderpad=0, **place, **how)


def inches(axes: Any) -> tuple[float, float]:
    """About how wide and high axes will be: they are not laid out yet."""
    box, dpi = axes.get_window_extent(), axes.figure.dpi
    return box.width / dpi, box.height / dpi


def whole(axis: Any) -> None:
    """Ticks at whole numbers, as many as have room: of layers and heads."""
    axis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def stage_label(stage: str) -> str:
    """`3_mid` as "3½", `3_pre` as "3"."""
    layer, _, half = stage.partition("_")
    return "out" if stage == "final" else named(layer, LONGEST_TICK) + ("½" if half == "mid" else "")
