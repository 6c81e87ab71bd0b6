"""What needs no circuit beside an accuracy: rules of `data/baselines.jsonl`, each with its accuracy and interval.

They are learnt where tasks are known (`instar.tasks.baselines`). A rule's record has `kind`, `says`, `right` (one number a
pair tested on, in the pairs' order), `rows`, `learnt_on` and `best`. The accuracy of a guess has no error; the others are
shares of pairs, with Wilson's interval.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from instar.record.store import Store
from instar.stats.intervals import Interval, wilson

GUESS = "chance"


def stored(store: Store, task: str) -> list[dict[str, Any]]:
    """A task's rules; none in a run directory that was made before there were any."""
    path = store.data("baselines.jsonl")
    return [row for row in store.read_rows(path) if row["task"] == task] if path.exists() else []


def accuracy(rule: Mapping[str, Any]) -> Interval:
    """How often a rule is right on the pairs tested on."""
    right, pairs = math.fsum(rule["right"]), len(rule["right"])
    share = right / pairs
    return Interval(share, share, share) if rule["kind"] == GUESS else wilson(right, pairs)


def listed(rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rules for JSON, the best on training rows first."""
    rows = []
    for rule in sorted(rules, key=lambda rule: not rule["best"]):
        own = accuracy(rule)
        numbers = {k: float(getattr(own, v)) for k, v in (("accuracy", "value"), ("low", "low"), ("high", "high"))}
        said = {"kind": rule["kind"], "says": rule["says"], **numbers, "pairs": len(rule["right"])}
        rows.append(said | {"trained_on": rule["rows"], "learnt_on": rule["learnt_on"], "best": rule["best"]})
    return rows
