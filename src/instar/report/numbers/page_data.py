"""The numbers of the page, as its scripts read them: rounded, packed, None for what is masked."""

import base64
from typing import Any

import numpy as np

from instar.record.store import Store
from instar.report.numbers.changed import grafted, roles
from instar.report.numbers.course import course
from instar.report.numbers.interventions import BY_SLOT, SCALES, SITES, Circuits, Patched
from instar.report.numbers.panels import Panels, TaskPanels
from instar.report.numbers.rounded import rounded
from instar.stats.intervals import Interval


def page_data(panels: Panels, store: Store) -> dict[str, Any]:
    """Everything that the page draws, by section."""
    inside: dict[str, Any] = {"old": None, "new": None}
    for task in panels.tasks:
        inside[task.role] = _task(task)
    return {
        "summary": panels.summary,
        "inside": inside,
        "patched": {role: _patched(panels, p) for role, p in panels.patched.items()},
        "circuits": {role: _circuits(c) for role, c in panels.circuits.items()},
        "course": course(store),
        "grafted": _grafted(panels, store),
        "roles": {role: roles(store, panels.summary[role], _steps(panels, role)) for role in ("old", "new")},
    }


def _steps(panels: Panels, role: str) -> list[int]:
    return panels.summary["tasks"][panels.summary[role]]["steps"]


def _grafted(panels: Panels, store: Store) -> dict[str, Any] | None:
    verdict = panels.summary.get("verdict")
    return grafted(store, verdict["step"], verdict["seed"]) if verdict else None


def _patched(panels: Panels, one: Patched) -> dict[str, Any]:
    return {
        "steps": one.steps,
        "counterfactuals": one.counterfactuals,
        "slots": one.slots,
        "how": one.how,
        "effects": [[rounded([e.value, e.low, e.high]) for e in row] for row in one.effects],
        "values": {s: {k: rounded(v) for k, v in scales.items()} for s, scales in one.values.items()},
        "limits": {
            "slots": {k: panels.patched_limit(BY_SLOT, k) for k in SCALES},
            "heads": {k: panels.patched_limit([s for s in SITES if s not in BY_SLOT], k) for k in SCALES},
        },
        "sites": SITES,
        "pairs": one.pairs,
    }


def _circuits(one: Circuits) -> dict[str, Any]:
    arrays = ("kept", "faithfulness", "low", "high", "random", "size", "cpr", "random_cpr", "rank_correlation")
    return {
        "steps": one.steps,
        "groups": one.groups,
        "share": one.share.tolist(),
        **{name: rounded(getattr(one, name)) for name in arrays},
        "drawn": one.drawn,
        "edges": [[[[n, round(s, 4)] for n, s in edges] for edges in row] for row in one.edges],
        "layers": one.layers,
        "heads": one.heads,
    }


def _task(task: TaskPanels) -> dict[str, Any]:
    return {
        "steps": task.steps,
        "stages": task.stages,
        "slots": task.slots,
        "tokens": task.tokens,
        "stream": _interval(task.stream),
        "layers": _interval(task.layers),
        "heads": _interval(task.heads),
        "by_slot": _packed(task.by_slot),
        "example": _packed(task.example),
    }


def _interval(interval: Interval) -> dict[str, Any]:
    return {name: np.round(getattr(interval, name), 4).tolist() for name in ("value", "low", "high")}


def _packed(shares: np.ndarray) -> dict[str, Any]:
    """Shares from 0 to 1 as bytes: a 255th is finer than a colour."""
    levels = np.rint(np.nan_to_num(shares) * 255).clip(0, 255).astype(np.uint8)
    return {"shape": list(levels.shape), "data": base64.b64encode(levels.tobytes()).decode()}
