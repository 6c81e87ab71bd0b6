"""Where the new skill runs: the word for one counterfactual, from what circuits of equal size do (`instar.between.reuse`).

    reuse = (f(C_A) − floor) / (ceiling − floor)

A ratio of means over the same prompts, resampled together; its floor is the larger of C_A with its heads permuted (their
mean) and the best of other mastered tasks' circuits, but for those that do the old task in the base as well: they are
C_A, found by other prompts (`same_as`). 1: the old task's circuit does the new task as well as the new task's own,
made again; 0: as well as any of that size.

- `transformed`: reuse is at least ρ_high for certain, at n and at 2n edges, and C_A is not known to be superfluous.
- `formed`: reuse is at most ρ_low for certain, and C_A is not necessary.
- `extended`: in between for certain, and the new circuit's other edges add something. Or it is as of `transformed`, and
  the gain was written, by ledger and grafts, mostly in heads outside C_A (`instar.compare.answer`): what the corruption
  does runs on the old circuit, what made the difference does not.
- `undetermined`: anything else, with what would close it.

Nothing is said where the new circuit is not faithful (lower bound of f(C_B) below 0.5), nor at a size at which the floor is
more than half of f(C_B): any circuit of that size does it.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import xarray as xr

from instar.stats.intervals import NOTHING, Interval, between, bootstrap_ratio, by_group
from instar.stats.scales import effect, usable, why_not

Word = Literal["transformed", "extended", "formed", "undetermined"]
Truth = bool | None


@dataclass(frozen=True)
class Limits:
    """Where words begin. Uncalibrated: how often the answer is right is not known yet."""

    high: float = 0.8
    """ρ_high: reuse from which a skill runs on the old circuit."""
    low: float = 0.3
    """ρ_low: reuse up to which it does not."""
    faithful: float = 0.5
    """f(C_B) below which there is no new circuit to speak of."""
    power: float = 0.5
    """The floor's share of f(C_B), and the null's of the whole effect, above which a comparison tells nothing."""
    recruited: float = 0.5
    """Share of a gain written in heads outside C_A from which a skill that runs on C_A extends it."""
    named: float = 0.1
    """δ: a share of the gain from which a part of the model is named."""
    same: float = 0.5
    """Share of what C_A does of the old task in the base from which another task's circuit is C_A by another name."""


@dataclass(frozen=True)
class Reuse:
    """One counterfactual's numbers and word."""

    counterfactual: str
    word: Word
    edges: int
    """Of either circuit; of the graph `of`."""
    of: int
    reuse: Interval
    reuse_at_twice: Interval
    old: Interval
    """f of the old task's circuit."""
    new: Interval
    """f of the new task's circuit."""
    floor: float
    """f, with which circuit it is."""
    floor_is: str
    floor_high: float
    """95th percentile of permuted circuits."""
    ceiling: float
    necessity: Interval
    necessity_null: Interval
    """Of other edges: their mean, and the 5th and 95th percentile."""
    adds: Interval
    """f of both circuits together less f of the old one."""
    slope: Interval
    correlation: Interval
    same_as: tuple[str, ...]
    """Other tasks of which the base's circuit does the old task too."""
    shared: dict[str, tuple[float, float, float]]
    """Share of the new circuit's edges and heads in the old one, with permuted heads, and of resampled pairs."""
    curve: list[tuple[int, float, float]]
    """Edges, f of the old and of the new circuit."""
    open: tuple[str, ...] = ()
    """What is in the way of a word, and what would close it."""
    conditions: dict[str, Truth] = field(default_factory=dict)
    tells_at_twice: bool = False
    """Whether anything can be said at twice as many edges: the floor is low enough."""
    recruits: bool = False
    """Whether it is extended by what was written in heads outside."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


LIMITS = Limits()


def reused(dataset: xr.Dataset, limits: Limits = LIMITS) -> list[Reuse]:
    """Every counterfactual of a `reuse` measurement."""
    return [_one(dataset.sel(counterfactual=kind), str(kind), limits) for kind in dataset["counterfactual"].values]


def _one(own: xr.Dataset, kind: str, limits: Limits) -> Reuse:
    prompt = own["prompt"].values
    clean, corrupted = own["clean"].values, own["corrupted"].values
    b_c = effect(clean, corrupted, prompt)
    whole = by_group(clean - corrupted, prompt)
    speaks = usable(b_c)

    def f(values: np.ndarray) -> Interval:
        """A share of b − c; the last axis is pairs."""
        return bootstrap_ratio(by_group(np.moveaxis(values, -1, 0), prompt), whole) if speaks else NOTHING

    n = int(np.flatnonzero(own["factor"].values == 1)[0])
    old, new = (f(own[name].values[n] - corrupted) for name in ("old", "new"))
    levels = [_level(own, i, corrupted, whole, prompt, limits) for i in range(own.sizes["level"])] if speaks else []
    at, twice = (levels or [_Level(), _Level()])[:2]
    necessity = f(clean - own["without"].values)
    null = between(f(clean - own["without_others"].values).value) if speaks else NOTHING
    adds = f(own["both"].values - own["old"].values[n])
    bounds = {name: _stored(own, name) for name in ("slope", "correlation")}
    shared = {what: _three(own, f"shared_{what}") for what in ("edges", "heads")}
    truth = _conditions(new, at, necessity, null, adds, float(own["matched"]), limits)
    truth |= _thresholds(at.reuse, twice.reuse, twice.powerful, limits)
    word = _word(truth)
    sizes, lines = own["edges"].values.tolist(), [f(own[name].values - corrupted).value for name in ("old", "new")]
    curve = [] if not speaks else [(int(s), float(a), float(b)) for s, a, b in zip(sizes, *lines, strict=True)]
    why = why_not(b_c, len(np.unique(prompt))) if not speaks else ""
    open_ = () if word != "undetermined" else tuple(_open(truth, why, str(own["why"].values), at, new, limits))
    return Reuse(
        kind, word, int(sizes[n]), own.sizes["edge"], at.reuse, twice.reuse, old, new, at.floor, at.floor_is, at.high,
        at.ceiling, necessity, null, adds, bounds["slope"], bounds["correlation"], _same(own, limits), shared, curve, open_,
        truth, twice.powerful,
    )  # fmt: skip


@dataclass(frozen=True)
class _Level:
    """One size."""

    reuse: Interval = NOTHING
    floor: float = np.nan
    floor_is: str = ""
    high: float = np.nan
    ceiling: float = np.nan
    powerful: bool = False
    exceeds: bool = False
    """Whether the old circuit does more than nearly all with permuted heads."""


def _level(
    own: xr.Dataset, i: int, corrupted: np.ndarray, whole: np.ndarray, prompt: np.ndarray, limits: Limits
) -> _Level:
    level = own.isel(level=i)
    n = int(np.flatnonzero(own["factor"].values == float(level["level"]))[0])
    a, b = own["old"].values[n], own["new"].values[n]
    mean = float(whole.sum())

    def f(values: np.ndarray) -> np.ndarray:
        return (values - corrupted).sum(-1) / mean

    permuted, other, again = (level[name].values for name in ("permuted", "other", "again"))
    floors = {"the old circuit with its heads permuted": permuted.mean(0)} if len(permuted) else {}
    same = _same(own, limits)
    each = zip(own["task"].values.tolist(), other, strict=True)
    floors |= {f"the circuit of {name}": row for name, row in each if name not in same}
    if not floors or not len(again):
        return _Level()
    name = max(floors, key=lambda key: float(f(floors[key])))
    ceiling, high = again.mean(0), float(np.quantile(f(permuted), 0.95)) if len(permuted) else np.nan
    share = bootstrap_ratio(by_group(a - floors[name], prompt), by_group(ceiling - floors[name], prompt))
    room = usable(effect(ceiling, floors[name], prompt))
    return _Level(
        Interval(*(float(getattr(share, k)) for k in ("value", "low", "high"))) if room else NOTHING,
        float(f(floors[name])), name, high, float(f(ceiling)),
        bool(f(floors[name]) <= limits.power * f(b)), bool(f(a) > high),
    )  # fmt: skip


def _same(own: xr.Dataset, limits: Limits) -> tuple[str, ...]:
    does = own["other_does_old"].values >= limits.same * float(own["old_does_old"])
    return tuple(str(name) for name, alike in zip(own["task"].values, does, strict=True) if alike)


def _conditions(
    new: Interval, at: _Level, necessity: Interval, null: Interval, adds: Interval, matched: float, limits: Limits
) -> dict[str, Truth]:
    tells = matched >= limits.power and null.high <= limits.power
    necessary = None if not tells or np.isnan(necessity.low) else _beyond(necessity, null.high)
    return {
        "new circuit": None if np.isnan(new.low) else bool(new.low >= limits.faithful),
        "size tells": at.powerful,
        "above floor": at.exceeds,
        "necessary": necessary,
        "adds": None if np.isnan(adds.low) else bool(adds.low > 0),
    }


def _thresholds(at: Interval, twice: Interval, tells: bool, limits: Limits) -> dict[str, Truth]:
    return {
        "high": _beyond(at, limits.high),
        "high at twice": _beyond(twice, limits.high) if tells else True,
        "low": _negated(_beyond(at, limits.low)),
    }


def judged(own: Reuse, limits: Limits) -> Reuse:
    """The same numbers, with other limits ρ_high and ρ_low."""
    truth = own.conditions | _thresholds(own.reuse, own.reuse_at_twice, own.tells_at_twice, limits)
    return replace(own, word=_word(truth), conditions=truth, recruits=False)


def _beyond(own: Interval, at: float) -> Truth:
    return True if own.low >= at else False if own.high <= at else None


def _negated(truth: Truth) -> Truth:
    return None if truth is None else not truth


def _word(truth: dict[str, Truth]) -> Word:
    if not truth["new circuit"] or not truth["size tells"]:
        return "undetermined"
    if truth["high"] and truth["high at twice"] and truth["above floor"] and truth["necessary"] is not False:
        return "transformed"
    if truth["low"] and truth["necessary"] is not True:
        return "formed"
    if truth["high"] is False and truth["low"] is False and truth["above floor"] and truth["adds"]:
        return "extended"
    return "undetermined"


MORE = "more pairs narrow it"


def _open(truth: dict[str, Truth], why: str, size: str, at: _Level, new: Interval, limits: Limits) -> Iterator[str]:
    if why:
        yield f"nothing can be divided by the effect of the corruption: {why}"
        return
    if size:
        yield f"the size of the circuit: {size}"
    if not truth["new circuit"]:
        yield f"a new circuit that is faithful: its faithfulness's lower bound is {new.low:.2f}; {MORE}"
        return
    if not truth["size tells"]:
        yield (
            f"a size that tells: at this one {at.floor_is or 'a random circuit'} reaches {at.floor:.2f} of the effect, more "
            f"than half of the new circuit's {new.value:.2f}; any circuit of this size does it"
        )
        return
    if truth["high"] is None or truth["low"] is None:
        yield f"reuse within one side of {limits.high:g} and {limits.low:g}: it spans one of them; {MORE}"
    if truth["high"] and not truth["high at twice"]:
        yield "reuse at twice the size: it is not above the limit there"
    if truth["high"] and truth["necessary"] is False:
        yield "necessity: other edges of the same kinds take as much, so the old circuit is superfluous"
    if truth["low"] and truth["necessary"]:
        yield "necessity: alone the old circuit does little, yet without it the new skill is gone"
    if truth["high"] is False and truth["low"] is False and not truth["adds"]:
        yield f"what the new circuit's other edges add: not clearly above 0; {MORE}"
    if not truth["above floor"] and not truth["low"]:
        yield "the floor: circuits with permuted heads do as much"


def _three(own: xr.Dataset, name: str) -> tuple[float, float, float]:
    return float(own[name]), float(own[f"{name}_floor"]), float(own[f"{name}_ceiling"])


def _stored(own: xr.Dataset, name: str) -> Interval:
    return Interval(*(float(own[f"{name}{end}"]) for end in ("", "_low", "_high")))


def together(found: list[Reuse]) -> Word:
    """One word of all counterfactuals that have one: what runs on the old circuit in part is extended."""
    words: list[Word] = [one.word for one in found if one.word != "undetermined"]
    return "undetermined" if not words else words[0] if len({*words}) == 1 else "extended"
