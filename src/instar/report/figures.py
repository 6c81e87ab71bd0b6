"""Static figures for papers: PNG and SVG of behaviour over steps, stream, layers and heads, and the last step's patching.

Each drawing takes axes and a step, so that an animation is the same drawing many times.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import rc_context

from instar.record.store import Store
from instar.report.grids import GRIDS, grid
from instar.report.ledger import ledger_grid
from instar.report.numbers.panels import Panels, TaskPanels
from instar.report.style import (
    COLOUR,
    DIVERGING,
    FAINT,
    INK,
    QUIET,
    SETTINGS,
    figure,
    named,
    some,
    stage_label,
    subplots,
)

UNITS = "logit(answer) − mean logit(foils)"
CONVENTIONS = {
    "stream": "logit lens: final norm recomputed at every stage",
    "layers": "direct logit attribution: final norm's scale frozen; positive helps the answer",
    "heads": "direct logit attribution: final norm's scale frozen; z W_O without output bias; positive helps the answer",
}


def write_figures(store: Store, panels: Panels) -> None:
    """`report/figures/*.png` and `.svg`."""
    with rc_context(SETTINGS):
        _save(store, "behaviour", draw_behaviour(panels.summary))
        for name, draw in (("stream", draw_stream), ("layers", draw_layers), ("heads", draw_heads)):
            if panels.tasks:
                _save(store, name, first_and_last(panels, draw, name))
        for name, drawn in (*((name, grid(panels, name)) for name in GRIDS), ("ledger", ledger_grid(panels))):
            if drawn is not None:
                drawn.show(len(drawn.steps) - 1)
                _save(store, name, drawn.figure)


def _save(store: Store, name: str, drawn: Any) -> None:
    # Laid out once: the layout takes longer than the drawing.
    drawn.draw_without_rendering()
    drawn.set_layout_engine("none")
    for kind in ("png", "svg"):
        with store.writing(store.report("figures", f"{name}.{kind}")) as scratch:
            # Without a date the same run gives the same bytes.
            drawn.savefig(scratch, metadata={"Date": None} if kind == "svg" else {"Software": None})


def draw_behaviour(summary: dict[str, Any]) -> Any:
    """Accuracy and logit difference of both tasks over steps, with 95 % bands."""
    drawn, (left, right) = figure(2)
    for role in ("old", "new"):
        name = summary[role]
        task = summary["tasks"][name]
        for axes, what in ((left, "accuracy"), (right, "logit_diff")):
            axes.plot(
                task["steps"], task[what], color=COLOUR[role], label=f"{named(name)} ({role} task)", marker="o", ms=3
            )
            axes.fill_between(
                task["steps"], task[f"{what}_low"], task[f"{what}_high"], color=COLOUR[role], alpha=0.18, lw=0
            )
    left.set(title="Accuracy", xlabel="fine-tuning step", ylim=(0, 1.02), ylabel="answer is the top token")
    right.set(title="Logit difference", xlabel="fine-tuning step", ylabel=UNITS)
    right.axhline(0, color=FAINT, lw=1, zorder=0)
    left.legend(frameon=False, loc="lower right")
    drawn.supxlabel(_made(summary), fontsize=7, color=QUIET)
    return drawn


def _made(summary: dict[str, Any]) -> str:
    counts = ", ".join(f"{named(n)} {t.get('pairs', 0)} pairs" for n, t in summary["tasks"].items())
    return f"held-out prompts; bands 95 % (Wilson; bootstrap over pairs); {counts}; instar {named(summary['instar'])}"


def caption(panels: Panels, kind: str) -> str:
    """What a drawing's numbers are, for under it."""
    pairs = ", ".join(f"{named(t.name)} {t.pairs}" for t in panels.tasks)
    bands = "" if kind == "heads" else "; bands and lines 95 % (bootstrap over pairs)"
    return f"{CONVENTIONS[kind]}; held-out pairs: {pairs}{bands}; instar {named(panels.summary['instar'])}"


def first_and_last(panels: Panels, draw: Callable[[Any, Panels, TaskPanels, int], Any], kind: str) -> Any:
    """One row a task, base on the left, last checkpoint on the right."""
    rows = len(panels.tasks)
    drawn, grid = subplots(rows, 2, (10.4, 3.4 * rows))
    image = None
    for axes, task in zip(grid, panels.tasks, strict=True):
        for one, index in zip(axes, (0, len(task.steps) - 1), strict=True):
            image = draw(one, panels, task, index) or image
            one.set_title(f"{named(task.name)}, step {task.steps[index]}")
    if image is not None:
        drawn.colorbar(image, ax=grid, shrink=0.7, label=UNITS)
    drawn.supxlabel(caption(panels, kind), fontsize=7, color=QUIET)
    return drawn


def draw_stream(axes: Any, panels: Panels, task: TaskPanels, index: int) -> None:
    """Logit lens by half layer, the base faint behind."""
    x = np.arange(len(task.stages))
    axes.axhline(0, color=FAINT, lw=1, zorder=0)
    axes.plot(x, task.stream.value[0], color=FAINT, lw=2, label="base")
    axes.fill_between(x, task.stream.low[index], task.stream.high[index], color=COLOUR[task.role], alpha=0.18, lw=0)
    axes.plot(x, task.stream.value[index], color=COLOUR[task.role], marker="o", ms=3, label=f"step {task.steps[index]}")
    ticks = [2 * i for i in some(len(x[::2]))]
    axes.set_xticks(ticks, [stage_label(task.stages[i]) for i in ticks])
    low = min(float(t.stream.low.min()) for t in panels.tasks)
    high = max(float(t.stream.high.max()) for t in panels.tasks)
    axes.set(
        ylim=(low - 0.05 * (high - low), high + 0.05 * (high - low)),
        xlabel="residual stream before layer",
        ylabel=UNITS,
    )
    axes.yaxis.label.set_size(8)
    axes.legend(frameon=False, loc="upper left", fontsize=8)


def draw_layers(axes: Any, panels: Panels, task: TaskPanels, index: int) -> None:
    """Direct attribution of each layer's attention and MLP, the base as outlines."""
    x = np.arange(task.layers.value.shape[1])
    axes.axhline(0, color=FAINT, lw=1, zorder=0)
    for part, (name, colour) in enumerate((("attention", COLOUR[task.role]), ("MLP", "#8a9099"))):
        at = x + 0.2 * (2 * part - 1)
        value, low, high = (getattr(task.layers, k)[index, :, part] for k in ("value", "low", "high"))
        axes.bar(at, value, 0.36, color=colour, label=name)
        axes.vlines(at, low, high, color=INK, lw=1)
        axes.bar(at, task.layers.value[0, :, part], 0.36, fill=False, edgecolor=INK, lw=0.7, ls=":")
    bounds = [float(b) for t in panels.tasks for b in (t.layers.low.min(), t.layers.high.max())]
    axes.set(ylim=(min(bounds) * 1.08, max(bounds) * 1.08), xlabel="layer", ylabel=UNITS, xticks=some(len(x)))
    axes.yaxis.label.set_size(8)
    axes.legend(frameon=False, loc="upper right", fontsize=8, title="dotted: base", title_fontsize=7)


def draw_heads(axes: Any, panels: Panels, task: TaskPanels, index: int) -> Any:
    """Direct attribution of every head, one zero-centred scale for all."""
    limit = panels.limit("heads")
    values = task.heads.value[index]
    image = axes.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
    axes.set(xlabel="head", ylabel="layer", xticks=some(values.shape[1]), yticks=some(values.shape[0]))
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image
