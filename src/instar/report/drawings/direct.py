"""What is read off directly: the stream by logit lens, and what layers and heads write into the logit difference."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter

from instar.report.drawings.cell import Cell, Drawn
from instar.report.numbers.panels import Panels, TaskPanels
from instar.report.style import COLOUR, DIVERGING, FAINT, INK, LINE, QUIET, named, stage_label, whole

UNITS = "logit(answer) − mean logit(foils)"
SHORT = "logit difference"


def direct_cells(
    draw: Callable[[Panels, TaskPanels, Any], Drawn], panels: Panels, roles: tuple[str, ...]
) -> list[Cell]:
    """A drawing a task."""
    return [
        Cell(f"{named(task.name)} ({task.role} task)", task.steps, partial(draw, panels, task))
        for task in panels.tasks
        if task.role in roles
    ]


def stream(panels: Panels, task: TaskPanels, axes: Any) -> Drawn:
    """Logit lens by half layer, the base faint behind."""
    x, own = np.arange(len(task.stages)) / 2, task.stream
    axes.axhline(0, color=FAINT, lw=1, zorder=0)
    axes.plot(x, own.value[0], color=QUIET, lw=1, ls=":", label="base")
    band = axes.fill_between(x, own.low[0], own.high[0], color=COLOUR[task.role], alpha=0.18, lw=0)
    (line,) = axes.plot(x, own.value[0], label="at this step", **LINE[task.role])
    whole(axes.xaxis)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda v, _: stage_label(task.stages[int(2 * v)]) if 0 <= 2 * v < len(x) else "")
    )
    low = min(float(t.stream.low.min()) for t in panels.tasks)
    high = max(float(t.stream.high.max()) for t in panels.tasks)
    room = 0.05 * (high - low)
    axes.set(ylim=(low - room, high + room), xlabel="residual stream before layer", ylabel=SHORT)
    axes.legend(loc="upper left")

    def show(index: int) -> None:
        line.set_ydata(own.value[index])
        band.set_data(x, own.low[index], own.high[index])

    return Drawn(show, [band, line])


def layers(panels: Panels, task: TaskPanels, axes: Any) -> Drawn:
    """Direct attribution of each layer's attention and MLP, the base as outlines."""
    x, own = np.arange(task.layers.value.shape[1]), task.layers
    thin = 1.0 if len(x) <= 16 else 0.6
    axes.axhline(0, color=FAINT, lw=1, zorder=0)
    bars, bounds = [], []
    for part, (name, colour) in enumerate((("attention", COLOUR[task.role]), ("MLP", "#8a9099"))):
        at = x + 0.2 * (2 * part - 1)
        bars.append(axes.bar(at, own.value[0, :, part], 0.36, color=colour, label=name))
        bounds.append((at, axes.vlines(at, own.low[0, :, part], own.high[0, :, part], color=INK, lw=thin)))
        axes.bar(at, own.value[0, :, part], 0.36, fill=False, edgecolor=INK, lw=0.7 * thin, ls=":")
    ends = [float(b) for t in panels.tasks for b in (t.layers.low.min(), t.layers.high.max())]
    whole(axes.xaxis)
    axes.set(ylim=(min(ends) * 1.08, max(ends) * 1.08), xlabel="layer (dotted: base)", ylabel=SHORT)
    axes.legend(loc="upper left")

    def show(index: int) -> None:
        for part, (rectangles, (at, lines)) in enumerate(zip(bars, bounds, strict=True)):
            for one, height in zip(rectangles, own.value[index, :, part], strict=True):
                one.set_height(height)
            ends = zip(at, own.low[index, :, part], own.high[index, :, part], strict=True)
            lines.set_segments([[(a, low), (a, high)] for a, low, high in ends])

    return Drawn(show, [*(r for rectangles in bars for r in rectangles), *(lines for _, lines in bounds)])


def heads(panels: Panels, task: TaskPanels, axes: Any) -> Drawn:
    """Direct attribution of every head, one zero-centred scale for all."""
    return heat(axes, task.heads.value, panels.limit("heads"), SHORT)


def heat(axes: Any, values: np.ndarray, limit: float, unit: str) -> Drawn:
    """A map by layer and head, of `values` `[step, layer, head]`; what is NaN is masked."""
    image = axes.imshow(np.ma.masked_invalid(values[0]), cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
    axes.set(xlabel="head", ylabel="layer")
    whole(axes.xaxis)
    whole(axes.yaxis)
    for spine in axes.spines.values():
        spine.set_visible(False)

    def show(index: int) -> None:
        image.set_data(np.ma.masked_invalid(values[index]))

    return Drawn(show, [image], image, unit)
