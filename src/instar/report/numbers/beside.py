"""Several runs beside each other: their courses, answers and bookings, and differences from the first with intervals.

A difference of two runs is paired, prompt by prompt, where both were tested on the same prompts; elsewhere there is none.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from instar.record.store import Store
from instar.report.numbers.page_data import ROLES, drawn_of
from instar.report.numbers.rounded import rounded
from instar.stats.intervals import bootstrap_mean, rank_correlation

COMPARED = ("accuracy", "choice", "choosing", "logit_diff")


def beside(stores: Sequence[tuple[str, Store, str]]) -> dict[str, Any]:
    """What the page of several runs draws; each is a name, its store, and how it was fine-tuned.

    Raises:
        ValueError: where runs are of other tasks than the first, naming both.
    """
    summaries = [store.read_summary() for _, store, _ in stores]
    first, ends = (
        summaries[0],
        [
            {role: _last(store, own, role) for role in ROLES}
            for (_, store, _), own in zip(stores, summaries, strict=True)
        ],
    )
    for (name, _, _), own in zip(stores, summaries, strict=True):
        if any(own[role] != first[role] for role in ROLES):
            raise ValueError(
                f"{name} goes from {own['old']} to {own['new']}, {stores[0][0]} from {first['old']} to {first['new']}: "
                "only runs of the same two tasks stand beside each other"
            )
    runs = [
        _run(name, how, own, {role: _difference(ends[0][role], mine[role]) for role in ROLES} if i else None)
        for i, ((name, _, how), own, mine) in enumerate(zip(stores, summaries, ends, strict=True))
    ]
    steps = sorted({step for own in summaries for step in own["tasks"][own["new"]]["steps"]})
    tasks = {role: runs[0]["tasks"][role] | {"steps": steps} for role in ROLES}
    told = {name: first.get(name) for name in ("instar", "old", "new")}
    agreed = [[_agreement(a, b) for b in summaries] for a in summaries]
    model = " · ".join(dict.fromkeys(str(own["model"]) for own in summaries))
    return told | {
        "model": model,
        "answer": None,
        "tasks": tasks,
        "circuits": dict.fromkeys(ROLES),
        "runs": runs,
        "agreed": agreed,
    }


def _last(store: Store, summary: dict[str, Any], role: str) -> Any:
    name = summary[role]
    return store.read_measurement("evaluate", name, store.first_seed, summary["tasks"][name]["steps"][-1]), _prompts(
        store, name
    )


def _prompts(store: Store, task: str) -> list[str]:
    kinds = ((store.prepared() or {}).get("counterfactuals") or {}).get(task) or []
    path = store.pairs(task, kinds[0]) if kinds else None
    return store.read_rows(path, lambda row: row["clean"]) if path is not None and path.exists() else []


def _run(name: str, how: str, summary: dict[str, Any], difference: dict[str, Any] | None) -> dict[str, Any]:
    answer = summary.get("answer") or {}
    written = answer.get("written") or {}
    return {
        "name": name,
        "how": how,
        "model": summary["model"],
        "tasks": {role: drawn_of(summary["tasks"][summary[role]]) for role in ROLES},
        "kind": answer.get("kind"),
        "headline": answer.get("headline"),
        "seeds": answer.get("seeds") or {},
        "reuse": {kind: own["reuse"] for kind, own in (answer.get("reuse") or {}).items()},
        "parts": [{"part": p["part"], "share": p["share"]} for p in written.get("parts", [])],
        "gain": written.get("gain"),
        "half": written.get("half"),
        "difference": difference,
    }


def _difference(first: Any, other: Any) -> dict[str, Any] | None:
    """Of the last checkpoints, other minus first, paired by prompt; None where the prompts are not the same."""
    (one, asked), (two, also) = first, other
    if one is None or two is None or not asked or asked != also:
        return None
    found = {}
    for name in COMPARED:
        moved = np.asarray(two[name].values, float) - np.asarray(one[name].values, float)
        if not np.isnan(moved).any():
            own = bootstrap_mean(moved)
            found[name] = rounded([own.value, own.low, own.high])
    return found


def _agreement(a: dict[str, Any], b: dict[str, Any]) -> float | None:
    """Spearman's rank correlation of what was booked on heads and MLPs in two runs of one shape."""
    nodes = [
        (((own.get("answer") or {}).get("ledger") or {}).get("choosing") or {}).get("nodes") or {} for own in (a, b)
    ]
    names = [name for name in nodes[0] if ".h" in name or name[0] == "m"]
    if not names or nodes[0].keys() != nodes[1].keys():
        return None
    return rounded(rank_correlation(*([sum(own[name]) for name in names] for own in nodes)))
