"""The numbers of the page, in two parts: what its first screen needs, and what is unpacked when that is drawn.

Rounded, packed, None for what is masked.
"""

from typing import Any

import numpy as np

from instar.record.store import Store
from instar.report.numbers.circuits import circuits_of
from instar.report.numbers.course import course
from instar.report.numbers.grafts import grafts
from instar.report.numbers.interventions import SITES, Patched
from instar.report.numbers.packed import shares
from instar.report.numbers.panels import Panels, TaskPanels
from instar.report.numbers.prompts import prompts
from instar.report.numbers.roles import roles
from instar.report.numbers.rounded import rounded
from instar.stats.intervals import Interval

ROLES = ("old", "new")
TOLD = ("instar", "model", "old", "new", "answer", "controls", "health", "notices", "training", "failed", "audit")
"""Of the summary, what the first screen says; and of each task:"""
DRAWN = ("accuracy", "choice_accuracy", "choosing", "naming", "logit_diff")
ENDS = ("", "_low", "_high")
EXAMPLES = 8
FULL_MAPS = 8
"""Checkpoints with a prompt's whole attention: of more, evenly chosen ones."""


def page_data(panels: Panels, store: Store) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first part and the rest."""
    summary = panels.summary
    steps = {role: summary["tasks"][summary[role]]["steps"] for role in ROLES}
    why = summary["circuits"]
    circuits = {role: circuits_of(own, why.get(summary[role], {})) for role, own in panels.circuits.items()}
    shown = {role: circuits[role]["groups"].pop(own.shown) for role, own in panels.circuits.items()}
    told = {role: prompts(store, summary[role], steps[role], EXAMPLES) for role in ROLES}
    seed = store.first_seed
    first = {
        **{name: summary.get(name) for name in TOLD},
        "tasks": {role: drawn_of(summary["tasks"][summary[role]]) for role in ROLES},
        "key": (summary.get("dynamics") or {}).get("key"),
        "events": (summary.get("dynamics") or {}).get("events", []),
        "circuits": {
            role: own | {"groups": {panels.circuits[role].shown: shown[role]}} for role, own in circuits.items()
        },
        "examples": {role: own and own[0] for role, own in told.items()},
        "slots": _slots(panels, told),
    }
    rest = {
        **{name: summary.get(name) for name in ("diff", "dynamics", "changed", "weight_change", "divergence")},
        "seeds": {role: summary["tasks"][summary[role]].get("seeds") for role in ROLES},
        "groups": {role: own["groups"] for role, own in circuits.items()},
        "prompts": {role: own and own[1] for role, own in told.items()},
        "inside": {task.role: _task(task) for task in panels.tasks},
        "patched": {role: _patched(p) for role, p in panels.patched.items()},
        "sites": SITES,
        "grafts": grafts(store, seed),
        "roles": {role: roles(store, summary[role], steps[role]) for role in ROLES},
        "course": course(store),
    }
    return first, rest


def _slots(panels: Panels, told: dict[str, Any]) -> list[str]:
    """Every slot of both tasks in a fixed order, so that each has one colour."""
    named = [slot for task in panels.tasks for slot in task.slots if slot != "text"]
    named += [span[0] for own in told.values() if own is not None for row in own[0]["rows"] for span in row[5]]
    return list(dict.fromkeys(named))


def drawn_of(task: dict[str, Any]) -> dict[str, Any]:
    """Series with their bounds, every seed's where there are several, and rules that need no circuit."""
    named = [f"{name}{end}" for name in DRAWN for end in ENDS]
    own = {name: rounded(task[name]) for name in named if name in task}
    return {"pairs": task.get("pairs"), "steps": task["steps"], "baselines": task.get("baselines"), **own}


def _patched(one: Patched) -> dict[str, Any]:
    return {
        "steps": one.steps,
        "counterfactuals": one.counterfactuals,
        "slots": one.slots,
        "how": one.how,
        "reference": one.reference,
        "effects": [[rounded([e.value, e.low, e.high]) for e in row] for row in one.effects],
        "values": {s: {k: rounded(v) for k, v in scales.items()} for s, scales in one.values.items()},
        "pairs": one.pairs,
    }


def _task(task: TaskPanels) -> dict[str, Any]:
    full = np.unique(np.linspace(0, len(task.steps) - 1, min(FULL_MAPS, len(task.steps))).round().astype(int))
    return {
        "steps": task.steps,
        "stages": task.stages,
        "slots": task.slots,
        "tokens": task.tokens,
        "pairs": task.pairs,
        "stream": _interval(task.stream),
        "layers": _interval(task.layers),
        "heads": _interval(task.heads),
        "by_slot": shares(task.by_slot),
        "full": [task.steps[i] for i in full],
        "example": shares(task.example[full]),
    }


def _interval(interval: Interval) -> dict[str, Any]:
    return {name: np.round(getattr(interval, name), 4).tolist() for name in ("value", "low", "high")}
