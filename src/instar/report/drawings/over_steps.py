"""What is drawn over all steps at once: what the model says, and where its key head looks."""

from functools import partial
from typing import Any

import numpy as np

from instar.report.drawings.cell import Cell, Drawn, line_at
from instar.report.numbers.panels import Panels, TaskPanels
from instar.report.style import COLOUR, FAINT, INK, LINE, LONGEST_TICK, QUIET, legend_below, named

BEHAVIOUR = "bands 95 % (Wilson; bootstrap over pairs); logit difference: logit(answer) − mean logit(foils)"
GAZE = "attention of the last token by slot of the prompt, mean over pairs"
LOOKED_AT = 0.05
"""A slot that never gets so much is among the others."""
# Okabe and Ito's colours, without those of the tasks; with dashes, so that grey print tells slots apart.
SLOTS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f6000", "#5b4b9a")
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))


def behaviour_cells(panels: Panels, roles: tuple[str, ...]) -> list[Cell]:
    """Accuracy and logit difference, of these tasks in the same axes."""
    own = [(role, panels.summary["tasks"][panels.summary[role]]) for role in roles]
    steps = own[0][1]["steps"]
    return [
        Cell(title, steps, partial(_behaviour, panels.summary, own, what), stepped=False)
        for title, what in (("Accuracy", "accuracy"), ("Logit difference", "logit_diff"))
    ]


def _behaviour(summary: dict[str, Any], own: list[tuple[str, dict[str, Any]]], what: str, axes: Any) -> Drawn:
    for role, task in own:
        axes.plot(task["steps"], task[what], label=f"{named(summary[role])} ({role} task)", **LINE[role])
        low, high = task[f"{what}_low"], task[f"{what}_high"]
        axes.fill_between(task["steps"], low, high, color=COLOUR[role], alpha=0.18, lw=0)
    axes.set_xlabel("fine-tuning step")
    if what == "accuracy":
        axes.set(ylim=(0, 1.02), ylabel="answer is the top token")
        axes.legend(loc="lower right")
    else:
        axes.set_ylabel("logits")
        axes.axhline(0, color=FAINT, lw=1, zorder=0)
    return line_at(axes, own[0][1]["steps"], QUIET)


def key_head(summary: dict[str, Any]) -> str | None:
    """The head that most of the gain was booked on; None where that is not known."""
    heads = ((summary.get("dynamics") or {}).get("key") or {}).get("heads") or []
    return heads[0]["name"] if heads else None


def gaze_cells(panels: Panels, roles: tuple[str, ...]) -> list[Cell]:
    """Where the key head's last token looks, a drawing a task."""
    head = key_head(panels.summary)
    if head is None:
        return []
    return [
        Cell(f"{head}, {named(task.name)} ({task.role} task)", task.steps, partial(_gaze, task, head), False, below=0.4)
        for task in panels.tasks
        if task.role in roles
    ]


def _gaze(task: TaskPanels, head: str, axes: Any) -> Drawn:
    layer, number = (int(part[1:]) for part in head.split("."))
    shares = np.nan_to_num(task.by_slot[:, layer, number, -1])
    shown = [k for k in range(len(task.slots)) if shares[:, k].max() >= LOOKED_AT]
    for i, k in enumerate(shown):
        label, style = named(task.slots[k], LONGEST_TICK), DASHES[i % len(DASHES)]
        axes.plot(task.steps, shares[:, k], color=SLOTS[i % len(SLOTS)], ls=style, label=label)
    rest = [k for k in range(len(task.slots)) if k not in shown]
    if rest:
        axes.plot(task.steps, shares[:, rest].sum(1), color=FAINT, label="others")
    axes.set(ylim=(0, 1.02), xlabel="fine-tuning step", ylabel="attention of the last token")
    legend_below(axes, 34)
    return line_at(axes, task.steps, INK)
