"""What a fine-tuning brought, as behaviour: a new ability, or only the habit of saying a name; and the old task's fate.

A new ability: the share of prompts in which the answer beats every foil rose by more than five points for certain, the logit
difference rose, and the tuned model chooses better than every rule that needs no circuit, for certain. Only naming: the
share of prompts whose top token is a candidate rose by as much, for certain, and choosing did not rise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from instar.compare.baselines import accuracy
from instar.compare.behaviour import change, interval
from instar.stats.intervals import NOTHING, Interval, bootstrap_mean

RISE = 0.05
Fate = Literal["kept", "improved", "weakened", "lost", "open"]


@dataclass(frozen=True)
class Ability:
    """Behaviour on the new task before and after; shares of prompts, nats, logits."""

    choice: tuple[Interval, Interval]
    """Share of prompts in which the answer beats every foil, before and after."""
    rise: Interval
    logit_diff: Interval
    """Paired change, logits."""
    choosing: Interval
    """Paired changes, nats."""
    naming: Interval
    named: Interval
    """Paired change of the share of prompts whose top token is a candidate."""
    rule: str
    """The best rule that needs no circuit, and how often it is right; empty where none was learnt."""
    rule_right: Interval
    beyond: Interval
    """Paired, tuned model minus that rule."""
    new: bool | None
    """Whether there is a new ability; None where the intervals do not say."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @property
    def only_named(self) -> bool:
        """Whether it learnt to say a candidate, and not which."""
        return self.new is False and self.named.low > RISE and not self.choosing.low > 0


def ability(before: xr.Dataset, after: xr.Dataset, rules: Sequence[Mapping[str, Any]] = ()) -> Ability:
    """From the `evaluate` measurements of the new task, of the same pairs."""
    names = ("choice_accuracy", "logit_diff", "choosing", "naming", "named")
    moved = {name: change(before, after, name) or NOTHING for name in names}
    right = np.asarray(after["choice"].values, float)
    beyond = {
        f"{rule['kind']} ({rule['says']})": (accuracy(rule), bootstrap_mean(right - np.array(rule["right"])))
        for rule in rules
    }
    best = min(beyond, key=lambda name: float(beyond[name][1].low), default="")
    level, over = beyond.get(best, (NOTHING, NOTHING))
    rose = _above(moved["choice_accuracy"], RISE)
    truths = (rose, _above(moved["logit_diff"], 0.0), True if not rules else bool(over.low > 0))
    new = False if False in truths else None if None in truths else True
    choice = (_plain(interval(before, "choice_accuracy")), _plain(interval(after, "choice_accuracy")))
    own = {name: _plain(moved[name]) for name in moved}
    return Ability(
        choice, own["choice_accuracy"], own["logit_diff"], own["choosing"], own["naming"], own["named"], best, _plain(level),
        _plain(over), new,
    )  # fmt: skip


def fate(before: xr.Dataset, after: xr.Dataset) -> tuple[Fate, Interval, Interval]:
    """What became of the old task: a word, its choice accuracy afterwards, and the paired change in naming (nats)."""
    moved = change(before, after, "choice_accuracy") or NOTHING
    word: Fate = "kept"
    if np.isnan(moved.low):
        word = "open"
    elif moved.high < -0.5:
        word = "lost"
    elif moved.high < -0.01:
        word = "weakened"
    elif moved.low > 0.01:
        word = "improved"
    elif moved.low < -0.05:
        word = "open"
    return word, _plain(interval(after, "choice_accuracy")), _plain(change(before, after, "naming"))


def _above(own: Interval, at: float) -> bool | None:
    return None if np.isnan(own.low) else True if own.low > at else False if own.high <= at or own.value <= at else None


def _plain(own: Interval | None) -> Interval:
    return NOTHING if own is None else Interval(float(own.value), float(own.low), float(own.high))
