"""Grids of patching panels: a column for each task and counterfactual, a row for each site, fixed scales.

A grid is laid out once; `Grid.show(index)` changes only what a step changes, so an animation is as steady as its axes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from instar.report.numbers.interventions import BY_SLOT, CONVENTION, SITES, Patched
from instar.report.numbers.panels import Panels
from instar.report.style import COLOUR, DIVERGING, FAINT, LONGEST_NAME, LONGEST_TICK, QUIET, named, some, subplots

GRIDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "patched_residual": ("Residual stream, attention and MLP outputs patched", BY_SLOT),
    "patched_heads": ("Heads patched", ("z", "q", "k", "v", "pattern")),
    "patched_scatter": ("Head outputs against values and pattern", ("v", "pattern")),
}
MASKED = "#e7e9ec"


@dataclass(frozen=True)
class Grid:
    """A laid-out figure and what moves in it."""

    figure: Any
    steps: list[int]
    updates: list[Callable[[int], None]]
    moving: list[Any]
    title: Any
    label: str

    def show(self, index: int) -> None:
        """Set everything to one step."""
        for update in self.updates:
            update(index)
        self.title.set_text(f"{self.label}  ·  step {self.steps[index]:>4}")


def grid(panels: Panels, kind: str) -> Grid | None:
    """One of `GRIDS`; None where patching was not measured."""
    if not panels.patched:
        return None
    label, sites = GRIDS[kind]
    columns = [(role, one, k) for role, one in panels.patched.items() for k in range(len(one.counterfactuals))]
    sites = tuple(s for s in sites if all(s in one.values for _, one, _ in columns))
    drawn, axes = subplots(len(sites), len(columns), (3.5 * len(columns) + 0.8, 2.6 * len(sites) + 1))
    limit = panels.patched_limit((*sites, "z") if kind == "patched_scatter" else sites, "reference")
    updates, moving = [], []
    for number, (row, site) in enumerate(zip(axes, sites, strict=True)):
        for one, (role, patched, k) in zip(row, columns, strict=True):
            draw = _scatter if kind == "patched_scatter" else _heat
            artist, update = draw(one, patched, site, k, limit, role)
            updates.append(update)
            moving.append(artist)
            if number == 0:
                names = panels.summary[role], patched.counterfactuals[k]
                task, changed = (named(name, LONGEST_NAME // 2) for name in names)
                one.set_title(f"{task} · {changed} changed", fontsize=10)
    if kind != "patched_scatter":
        drawn.colorbar(moving[0], ax=axes, label="share of the reference checkpoint's b − c", shrink=0.8)
    title = drawn.suptitle(f"{label}  ·  step {0:>4}", x=0.01, ha="left", family="monospace", fontsize=11)
    pairs = ", ".join(
        f"{named(panels.summary[r])} {p.pairs} (reference: step {p.reference})" for r, p in panels.patched.items()
    )
    how = named(next(iter(panels.patched.values())).how)
    drawn.supxlabel(
        f"{CONVENTION}; {how}; pairs: {pairs}; instar {named(panels.summary['instar'])}", fontsize=7, color=QUIET
    )
    steps = next(iter(panels.patched.values())).steps
    return Grid(drawn, steps, updates, [*moving, title], title, label)


def _heat(axes: Any, patched: Patched, site: str, kind: int, limit: float, role: str) -> Any:
    first = patched.panel(site, "reference", 0, kind)
    axes.set_facecolor(MASKED)
    image = axes.imshow(np.ma.masked_invalid(first), cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
    by_slot = site in BY_SLOT
    ticks = range(first.shape[1]) if by_slot else some(first.shape[1])
    labels = [named(slot, LONGEST_TICK) for slot in patched.slots] if by_slot else ticks
    axes.set_xticks(ticks, labels, rotation=50 if by_slot else 0, fontsize=7)
    axes.set_yticks(some(first.shape[0]))
    axes.set_ylabel(f"{SITES[site]}\nlayer", fontsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)

    def update(index: int) -> None:
        image.set_data(np.ma.masked_invalid(patched.panel(site, "reference", index, kind)))

    return image, update


def _scatter(axes: Any, patched: Patched, site: str, kind: int, limit: float, role: str) -> Any:
    axes.plot([-limit, limit], [-limit, limit], color=FAINT, lw=1, ls=":", zorder=0)
    dots = axes.scatter([], [], s=22, color=COLOUR[role], alpha=0.8, edgecolor="white", lw=0.5)
    edge = 1.08 * limit
    axes.set(xlim=(-edge, edge), ylim=(-edge, edge), xlabel=f"{SITES[site]} patched", ylabel="head output patched")
    axes.xaxis.label.set_size(8)
    axes.yaxis.label.set_size(8)

    def update(index: int) -> None:
        out, by = (patched.panel(s, "reference", index, kind) for s in ("z", site))
        # Heads that share keys and values share what patching these does.
        by = by.repeat(out.shape[1] // by.shape[1], axis=1)
        dots.set_offsets(np.stack([by.ravel(), out.ravel()], 1))

    return dots, update
