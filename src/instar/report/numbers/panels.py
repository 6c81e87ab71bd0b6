"""The numbers behind every drawing: means over pairs, with fixed scales over the whole series.

The page, the figures and the animations all draw from here, so that they cannot disagree.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from instar.record.store import Store
from instar.report.numbers.circuits import Circuits, circuits
from instar.report.numbers.interventions import Patched, patched
from instar.stats.intervals import Interval, bootstrap_mean


@dataclass(frozen=True)
class TaskPanels:
    """One task at every step. Arrays begin with the step axis; values are logits, or shares for attention."""

    name: str
    role: str
    steps: list[int]
    stages: list[str]
    stream: Interval
    """Logit lens, `step, stage`."""
    layers: Interval
    """Direct attribution, `step, layer, part`; parts are attention and MLP."""
    heads: Interval
    """Direct attribution, `step, layer, head`."""
    slots: list[str]
    by_slot: np.ndarray
    """Attention, `step, layer, head, query slot, key slot`."""
    example: np.ndarray
    """Attention of the kept prompts, `step, shown, layer, head, query, key`; zero beyond a prompt's end."""
    tokens: list[list[str]]
    """The tokens of each kept prompt."""
    pairs: int


@dataclass(frozen=True)
class Panels:
    """Everything that is drawn, and the limits that all frames share."""

    summary: dict[str, Any]
    tasks: list[TaskPanels]
    patched: dict[str, Patched]
    """By role; empty where patching was not measured."""
    circuits: dict[str, Circuits]

    def limit(self, what: str) -> float:
        """Largest absolute value of "stream", "layers" or "heads" over tasks and steps: a zero-centred scale."""
        return max((float(np.abs(getattr(t, what).value).max()) for t in self.tasks), default=1.0) or 1.0

    def patched_limit(self, sites: Sequence[str], scale: str) -> float:
        """Largest absolute value of these sites over tasks, counterfactuals and steps."""
        values = [p.values[s][scale] for p in self.patched.values() for s in sites if s in p.values]
        return max((float(np.nanmax(np.abs(v))) for v in values if np.isfinite(v).any()), default=1.0) or 1.0


def panels(store: Store, summary: dict[str, Any] | None = None) -> Panels:
    """Read a measured run: of one under way, what a summary of its own says.

    Raises:
        ValueError: where there is no summary yet.
    """
    summary = store.read_summary() if summary is None else summary
    tasks = [_task(store, summary[role], role, summary["tasks"][summary[role]]["steps"]) for role in ("old", "new")]
    named = {role: (summary[role], summary["tasks"][summary[role]]["steps"]) for role in ("old", "new")}
    shown = {role: patched(store, name, role, steps) for role, (name, steps) in named.items()}
    asked = {name: own["edges"] for name, own in ((summary.get("answer") or {}).get("reuse") or {}).items()}
    drawn = {role: circuits(store, name, steps, asked) for role, (name, steps) in named.items()}
    return Panels(
        summary,
        [task for task in tasks if task is not None],
        {role: p for role, p in shown.items() if p is not None},
        {role: c for role, c in drawn.items() if c is not None},
    )


def _task(store: Store, name: str, role: str, steps: list[int]) -> TaskPanels | None:
    """A task's panels, or None where a stage was not measured."""
    series = {stage: store.series(stage, name, steps=steps) for stage in ("lens", "attribution", "attention")}
    lens, attribution, attention = series["lens"], series["attribution"], series["attention"]
    if lens is None or attribution is None or attention is None:
        return None
    parts = [attribution["heads"].sum("head") + attribution["attn_bias"], attribution["mlp"]]
    layers = np.stack([p.transpose("pair", "step", "layer").values for p in parts], -1)
    tokens = json.loads(attention.attrs["tokens"])
    example = attention["example"].transpose("step", "shown", "layer", "head", "query", "key").values
    return TaskPanels(
        name=name,
        role=role,
        steps=lens["step"].values.tolist(),
        stages=lens["stage"].values.tolist(),
        stream=bootstrap_mean(lens["logit_diff"].transpose("pair", "step", "stage").values),
        layers=bootstrap_mean(layers),
        heads=bootstrap_mean(attribution["heads"].transpose("pair", "step", "layer", "head").values),
        slots=attention["key_slot"].values.tolist(),
        by_slot=attention["by_slot"].transpose("step", "layer", "head", "query_slot", "key_slot").values,
        example=np.nan_to_num(example),
        tokens=[text.split("\n") for text in tokens],
        pairs=lens.sizes["pair"],
    )
