"""Patching, a drawing a counterfactual: maps of a site by layer and slot or head; head outputs against values or pattern."""

from functools import partial
from typing import Any

import numpy as np

from instar.report.drawings.cell import Cell, Drawn
from instar.report.drawings.direct import heat
from instar.report.numbers.interventions import BY_SLOT, CONVENTION, SITES, Patched
from instar.report.numbers.panels import Panels
from instar.report.style import COLOUR, FAINT, LONGEST_NAME, LONGEST_TICK, MASKED, QUIET, named

FINEST, WORTH = 0.1, 0.02
"""The scale of a map goes at least so far, in shares: less would draw noise. A map that nowhere reaches so much says so."""


def patched_cells(site: str, panels: Panels, roles: tuple[str, ...]) -> list[Cell]:
    """Maps of a site."""
    limit = max(FINEST, panels.patched_limit((site,), "reference"))
    return [
        Cell(title, one.steps, partial(_map, one, site, k, limit), width=3.6, least=2.9, height=0.75)
        for title, _, one, k in _kinds(panels, roles, site)
    ]


def scatter_cells(site: str, panels: Panels, roles: tuple[str, ...]) -> list[Cell]:
    """Dots a head: its output patched against its values or pattern patched."""
    limit = max(FINEST, panels.patched_limit((site, "z"), "reference"))
    return [
        Cell(title, one.steps, partial(_dots, one, site, k, limit, role), width=3.6, least=2.9, height=0.8)
        for title, role, one, k in _kinds(panels, roles, site)
    ]


def convention(panels: Panels) -> str:
    """What the numbers are."""
    own = panels.patched.items()
    pairs = ", ".join(f"{named(panels.summary[r])} {p.pairs} (reference: step {p.reference})" for r, p in own)
    return f"{CONVENTION}; {named(next(iter(panels.patched.values())).how)}; pairs: {pairs}"


def _kinds(panels: Panels, roles: tuple[str, ...], site: str) -> list[tuple[str, str, Patched, int]]:
    return [
        (" · ".join(named(n, LONGEST_NAME // 2) for n in (panels.summary[role], f"{kind} changed")), role, one, k)
        for role, one in panels.patched.items()
        if role in roles and site in one.values
        for k, kind in enumerate(one.counterfactuals)
    ]


def _map(patched: Patched, site: str, kind: int, limit: float, axes: Any) -> Drawn:
    values = patched.values[site]["reference"][:, kind]
    axes.set_facecolor(MASKED)
    drawn = heat(axes, values, limit, "share of reference")
    axes.set_ylabel(f"{SITES[site]}\nlayer")
    if site in BY_SLOT:
        labels = [named(slot, LONGEST_TICK) for slot in patched.slots]
        axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_xlabel("")
    said = axes.text(0.5, 0.5, "", transform=axes.transAxes, ha="center", va="center", color=QUIET)

    def show(index: int) -> None:
        drawn.show(index)
        own = values[index][np.isfinite(values[index])]
        quiet = f"nothing above {WORTH}" if len(own) and np.abs(own).max() < WORTH else ""
        said.set_text(quiet if len(own) else "not measurable")

    return Drawn(show, [*drawn.moving, said], drawn.image, drawn.unit)


def _dots(patched: Patched, site: str, kind: int, limit: float, role: str, axes: Any) -> Drawn:
    axes.plot([-limit, limit], [-limit, limit], color=FAINT, lw=1, ls=":", zorder=0)
    dots = axes.scatter([], [], s=20, color=COLOUR[role], alpha=0.8, edgecolor="white", lw=0.5)
    edge = 1.08 * limit
    axes.set(xlim=(-edge, edge), ylim=(-edge, edge), xlabel=f"{SITES[site]} patched", ylabel="head output patched")

    def show(index: int) -> None:
        out, by = (patched.panel(s, "reference", index, kind) for s in ("z", site))
        # Heads that share keys and values share what patching these does.
        by = by.repeat(out.shape[1] // by.shape[1], axis=1)
        dots.set_offsets(np.stack([by.ravel(), out.ravel()], 1))

    return Drawn(show, [dots])
