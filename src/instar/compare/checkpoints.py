"""What changed between checkpoints: the numbers of causal tests, and circuits beside their floors.

1. For every checkpoint with causal tests: its evidence, kept in `compare/`, one file each.
2. Four circuits, of both tasks at step 0 and at the end: how alike they are, each beside the same circuit made of resampled
   pairs, of disjoint halves, beside chance, and beside the control fine-tunings' circuits.
3. Along the series: each checkpoint's circuit against step 0 and against the step before.

Two circuits are always compared at equal numbers of edges, the faithful size of the larger: at sizes of their own, a curve
that grazes the threshold would look like a circuit that shrank.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr

from instar.circuits.circuit import Circuit
from instar.compare.baselines import stored
from instar.compare.chance import beside
from instar.compare.diff import diff, plain, similarity
from instar.compare.evidence import Measured, evidence, items
from instar.compare.floors import Scores, floors, overlaps, resampled
from instar.record.config import CONTROLS
from instar.record.store import SHARED, Store, Tuning
from instar.stats.intervals import bootstrap_mean

COUNT = 100
LISTED = 12


def evidences(store: Store, tasks: dict[str, str], seeds: Sequence[int]) -> dict[str, Any] | None:
    """The numbers of every causally tested checkpoint are written; returned are the first seed's last. None without tests."""
    store.forget(store.place("compare"))
    last = [_evidence(store, tasks, seeds[0], step) for step in store.measured_steps("causal", SHARED, seeds[0])][-1:]
    for seed in seeds[1:]:
        for step in store.measured_steps("causal", SHARED, seed)[-1:]:
            _evidence(store, tasks, seed, step)
    return last[0] if last else None


def _evidence(store: Store, tasks: dict[str, str], seed: int, step: int) -> dict[str, Any] | None:
    first = store.measured_steps("evaluate", tasks["old"], seed)[:1]
    wanted = [("evaluate", tasks[role], at) for role in ("old", "new") for at in (*first, step)]
    loaded = [store.read_measurement(stage, task, seed, at) for stage, task, at in [*wanted, ("causal", SHARED, step)]]
    if any(one is None for one in loaded) or len(loaded) != 5:
        return None
    a, b, c, d, causal = (one for one in loaded if one is not None)
    own = evidence(Measured({"old": (a, b), "new": (c, d)}, causal, stored(store, tasks["new"])))
    store.write_measurement(store.compared("evidence", seed, step), own, str(causal.attrs["key"]))
    numbers = {name: asdict(number) for name, number in items(own).items()}
    return {"step": step, "seed": seed, "evidence": numbers, "added": _added(causal)}


def _added(causal: xr.Dataset) -> dict[str, dict[str, list[float]]]:
    """Residual learning: what each layer's new weights add on the base's input, by part; logits with bootstrap bounds."""
    own = {
        str(part): causal["added"].sel(part=part).transpose("pair", "layer").values for part in causal["part"].values
    }
    spread = {part: bootstrap_mean(values) for part, values in own.items()}
    return {part: {k: getattr(i, k).tolist() for k in ("value", "low", "high")} for part, i in spread.items()}


def diffs(store: Store, tasks: dict[str, str], steps: Sequence[int], controls: Sequence[str]) -> dict[str, Any] | None:
    """Circuits compared; None where none were measured."""
    corners = [(role, step) for role in ("old", "new") for step in (steps[0], steps[-1])]
    every = {(role, step): _scores(store, tasks[role], step) for role, step in corners}
    if any(s is None for s in every.values()):
        return None
    there = {corner: s for corner, s in every.items() if s is not None}
    named = {f"{tasks[role]} at step {step}": scores for (role, step), scores in there.items()}
    pairs = [(0, 3), (1, 3), (0, 1), (2, 3)]
    four = list(named.items())
    rows = [_compared(*four[a], *four[b]) for a, b in pairs if steps[0] != steps[-1]]
    found = {name: s for name in controls if (s := _control(store, tasks, name)) is not None}
    for name, scores in found.items():
        rows.append(_compared(*four[0], f"{tasks['old']} after {CONTROLS[name]}", scores))
    return {
        "cells": rows,
        "floors": {name: plain(floors(scores, COUNT).as_dict()) for name, scores in named.items()},
        "series": {tasks[role]: _series(store, tasks[role], steps) for role in ("old", "new")},
        "missing": _missing(found),
    }


def _missing(found: dict[str, Any]) -> list[str]:
    return [
        f"no control fine-tuning on {what}: its floor is not known"
        for name, what in CONTROLS.items()
        if name not in found
    ]


def _scores(store: Store, task: str, step: int, seed: Tuning | None = None) -> Scores | None:
    dataset = store.read_measurement("circuit", task, store.first_seed if seed is None else seed, step)
    return None if dataset is None else Scores.of(dataset)


def _control(store: Store, tasks: dict[str, str], name: str) -> Scores | None:
    steps = store.measured_steps("circuit", tasks["old"], name)
    return _scores(store, tasks["old"], steps[-1], name) if steps else None


def _circuit(scores: Scores) -> Circuit:
    mask = np.zeros(scores.graph.exists.shape, bool)
    mask[scores.graph.exists] = scores.circuit
    return Circuit.of(scores.graph, mask)


def _compared(name_a: str, a: Scores, name_b: str, b: Scores) -> dict[str, Any]:
    """Two circuits of equal size: overlaps, chance, and what was kept, gained, lost, strengthened, weakened, sign-changed."""
    a, b = (own.at(max(a.edges, b.edges)) for own in (a, b))
    circuits = _circuit(a), _circuit(b)
    # Prompts of two tasks are not the same ones, even where they are as many.
    own = diff(*circuits, a.per_pair, b.per_pair, paired=False)
    listed = {kind: list(getattr(own.edges, kind)) for kind in ("kept", "gained", "lost")}
    heads = {kind: list(getattr(own.nodes.heads, kind)) for kind in ("kept", "gained", "lost")}
    return {
        "a": name_a,
        "b": name_b,
        "similarity": plain(asdict(own.similarity)),
        "chance": {what: c.as_dict() for what, c in beside(*circuits).items()},
        "edges": {kind: {"count": len(names), "names": names[:LISTED]} for kind, names in listed.items()},
        "heads": heads,
        "rescored": {
            kind: [asdict(r) for r in getattr(own, kind)[:LISTED]]
            for kind in ("strengthened", "weakened", "sign_changed")
        },
        "by_reader": own.by_reader,
        "how": own.how,
    }


def _series(store: Store, task: str, steps: Sequence[int]) -> list[dict[str, Any]]:
    """Jaccard of nodes, heads and edges, weighted Jaccard and rank correlation, to step 0 and to the step before."""
    rows = []
    first = before = None
    for step, scores in _read(store, task, steps):
        first, before = first or scores, before or scores
        row: dict[str, Any] = {"step": step}
        for name, other in (("first", first), ("before", before)):
            one, two = (own.at(max(other.edges, scores.edges)) for own in (other, scores))
            alike = similarity(_circuit(one), _circuit(two), one.per_pair.mean(0), two.per_pair.mean(0))
            again = resampled(one, 40)
            floor = np.median(_quiet(overlaps(one.graph, one.circuit[None], again)["edges_jaccard"]))
            row[name] = plain(
                {
                    "nodes": alike.nodes.jaccard, "heads": alike.heads.jaccard, "edges": alike.edges.jaccard,
                    "weighted": alike.weighted_jaccard, "spearman": alike.spearman, "edges_floor": float(floor),
                }
            )  # fmt: skip
        rows.append(row)
        before = scores
    return rows


def _quiet(values: np.ndarray) -> np.ndarray:
    """NaN-only means no draw had a circuit: one NaN, and no warning."""
    there = values[~np.isnan(values)]
    return there if len(there) else np.array([np.nan])


def _read(store: Store, task: str, steps: Sequence[int]) -> Iterator[tuple[int, Scores]]:
    for step in steps:
        scores = _scores(store, task, step)
        if scores is not None:
            yield step, scores
