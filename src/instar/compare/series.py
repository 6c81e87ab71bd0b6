"""How a quantity moved over the checkpoints: smoothly or at once, where, when, in which order, and with what sign.

1. `shape`: is the rise a logistic curve or a step (BIC), and how much of it fell between two checkpoints?
2. `change_points`: the best piecewise-constant series (exact dynamic programming), tested against a smooth rise.
3. `moment`: the step at which half of the change was made; `order`, `over_seeds` and `agreed` compare moments.
4. `reversals`: which components changed sign for certain.

Steps share their pairs, so bootstraps resample whole pairs; bounds say nothing of another training run (`over_seeds`). A
narrow enough logistic *is* a step, so "smooth" needs a rise of which no interval between checkpoints holds more than
half (`instar.stats.curves.SMOOTH`), and "sudden" means within one interval: denser checkpoints may dissolve it.
"""

from dataclasses import dataclass, field
from itertools import combinations, zip_longest
from typing import Any, Literal

import numpy as np

from instar.stats.curves import crossing, logistic, one_jump, segments
from instar.stats.intervals import LEVEL, NOTHING, Interval, resamples, simultaneous_mean

STRONG = 6.0  # a difference of BIC that is strong evidence (Kass & Raftery 1995, p. 777)
FEWEST = 5  # checkpoints needed for a fit: the logistic has 4 parameters
PARAMETERS = {"none": 1, "smooth": 4, "sudden": 3}
NAN = float("nan")
BOUNDS = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]


@dataclass(frozen=True)
class Gap:
    """Two neighbouring checkpoints (steps) between which something happened."""

    after: float
    by: float


@dataclass(frozen=True)
class Shape:
    """What `shape` found: the fits whichever wins (NaN, None below `FEWEST` steps), shares where there is a change."""

    kind: Literal["none", "smooth", "sudden", "undetermined"]
    bic: dict[str, float]  # "none", "smooth", "sudden"
    change: Interval  # last minus first
    largest_share: Interval
    largest_gap: Gap | None
    centre: float  # the logistic's, in steps; outside the series: it shows one end of the curve only
    rise: float  # the logistic's 10 to 90 %, in steps
    jump: Gap | None  # the step's
    dropped: int  # pairs left out for a NaN at some step


@dataclass(frozen=True)
class ChangePoints:
    """`levels` has one entry more than `points`; `bic[k]` is that of k points; `p` is against a smooth rise."""

    points: list[Gap]
    levels: list[float]
    bic: list[float]
    drop: float
    p: float
    simulations: int
    dropped: int


@dataclass(frozen=True)
class Moment:
    """A step with bootstrap bounds over pairs (`draws [resample]`); NaN where the change is not distinguishable from 0.

    Printed as `step 24 [16, 32]`, the bounds widened to checkpoints: the series resolves no more.
    """

    value: float
    low: float
    high: float
    gap: Gap | None
    change: Interval
    steps: np.ndarray = field(repr=False)
    draws: np.ndarray = field(repr=False)
    dropped: int

    def __str__(self) -> str:
        if self.gap is None:
            return "not established"
        low, high = _around(self.steps, np.array([self.low, self.high]))
        return f"step {self.value:.0f} [{low[0]:g}, {high[1]:g}]"


@dataclass(frozen=True)
class Event:
    """One row of `order`; the last two are None where there is no next event to compare with."""

    name: str
    moment: Moment
    agreement: float | None
    before_next: bool | None


@dataclass(frozen=True)
class Agreed:
    """How many training seeds establish `first` before `second`, after it, or neither; `every`: all of them before."""

    first: str
    second: str
    before: int
    after: int
    undecided: int
    every: bool


@dataclass(frozen=True)
class Reversal:
    """A component's mean at the first step and at `at`, where the opposite sign is first established (None: the last)."""

    component: tuple[int, ...]
    reverses: bool
    at: float | None
    before: Interval
    after: Interval


@dataclass(frozen=True)
class _Series:
    steps: np.ndarray
    values: np.ndarray  # [step, pair, ...component], no NaN
    mean: np.ndarray  # [step, ...component]
    weight: np.ndarray  # 1 / standard error², floored
    noise: float  # the weighted residual sum of squares that pairs alone explain, per degree of freedom
    dropped: int


def shape(steps: Any, values: Any, seed: int = 0) -> Shape:
    """Whether the mean over pairs of `values [step, pair]` (0/1 or logits) moved smoothly, at once, or not at all.

    A constant, a logistic in the step (level, change, centre, width) and a step (two levels, place) are fitted by least
    squares weighted with the standard errors over pairs. BIC = residual sum / c + parameters · ln(steps) (Schwarz 1978);
    c, one for all three, is what pairs explain or, if more, the best fit's residual per degree of freedom (checkpoints
    wobble more than pairs say; Burnham & Anderson 2002, §2.5). Smooth and sudden must differ by `STRONG`. "none": the
    constant wins, or last minus first may be 0 (a bump that goes back). Two equal jumps are "smooth": no single one is.

    `largest_share`: the largest |change| of one interval over the |whole change|; above 1 where the series overshoots,
    1 for two checkpoints, NaN where no change is established. Noise inflates a maximum and resampling does so again: its
    bounds are reflected (Davison & Hinkley 1997, §5.2) and still cover too seldom where many intervals are alike.
    """
    series = _prepare(steps, values)
    means = resamples(series.values.shape[1], seed) @ series.values.T
    change = _change(series, means)
    moved = change.low * change.high > 0  # both bounds on one side of 0
    share = _share(series, means) if moved else NOTHING
    largest = np.abs(np.diff(series.mean)).argmax() if moved else 0
    gap = Gap(*map(float, series.steps[largest : largest + 2])) if moved else None
    if len(series.steps) < FEWEST:
        kind = "none" if len(series.steps) > 1 and not moved else "undetermined"
        return Shape(kind, dict.fromkeys(PARAMETERS, NAN), change, share, gap, NAN, NAN, None, series.dropped)
    smooth = logistic(series.steps, series.mean[None], series.weight)
    (_, (at,)), (flat, sudden) = segments(series.mean, series.weight, 1)
    bic = dict(zip(PARAMETERS, _bic(series, [flat, smooth.rss[0], sudden], [*PARAMETERS.values()]), strict=True))
    kind = "undetermined"
    if not moved or bic["none"] <= min(bic.values()):
        kind = "none"
    elif abs(bic["smooth"] - bic["sudden"]) >= STRONG:
        kind = "smooth" if bic["smooth"] < bic["sudden"] else "sudden"
    jump, rise = Gap(*map(float, series.steps[at - 1 : at + 1])), 2 * np.log(9) * float(smooth.width[0])
    return Shape(kind, bic, change, share, gap, float(smooth.centre[0]), rise, jump, series.dropped)


def change_points(steps: Any, values: Any, most: int = 3, simulations: int = 199, seed: int = 0) -> ChangePoints:
    """Where the mean of `values [step, pair]` jumps: the exact optimum over all segmentations with up to `most` points.

    Dynamic programming (Auger & Lawrence 1989) on the weighted residual sum; BIC with `shape`'s c picks the number (a
    level and a place for each; Yao 1988). A segment may be one checkpoint long: pairs give every checkpoint an error of
    its own, and logarithmic schedules have few checkpoints where most happens.

    Any trend yields points, so `p` compares with one: series are simulated from the fitted logistic plus the deviations
    of resampled pairs (whole, so steps stay correlated), scaled up where checkpoints wobble more than that. Statistic:
    by how much one jump fits better than the logistic, `drop`. Below `FEWEST` steps: no points, `p` NaN.
    """
    series = _prepare(steps, values)
    if (count := len(series.steps)) < FEWEST:
        return ChangePoints([], [float(series.mean.mean())], [NAN], NAN, NAN, 0, series.dropped)
    cuts, rss = segments(series.mean, series.weight, max(1, min(most, (count - 2) // 2)))
    bic = _bic(series, rss, [2 * points + 1 for points in range(len(cuts))])
    best = cuts[int(np.argmin(bic))]
    parts = zip(np.split(series.mean, best), np.split(series.weight, best), strict=True)
    levels = [float(np.average(mean, weights=weight)) for mean, weight in parts]
    smooth = logistic(series.steps, series.mean[None], series.weight)
    drop, both = float(smooth.rss[0] - rss[1]), [smooth.rss[0], rss[1]]
    excess = _scale(series, both, [PARAMETERS["smooth"], PARAMETERS["sudden"]]) / series.noise
    weights = resamples(series.values.shape[1], seed, simulations)
    simulated = smooth.curve + np.sqrt(excess) * (weights @ (series.values - series.mean[:, None]).T)
    drops = logistic(series.steps, simulated, series.weight).rss - one_jump(simulated, series.weight)
    # The slack is for rounding: where pairs do not differ every simulation is the fit.
    p = (1 + int((drops >= drop - 1e-9 * abs(drop)).sum())) / (1 + simulations)
    points = [Gap(*map(float, series.steps[at - 1 : at + 1])) for at in best]
    return ChangePoints(points, levels, bic, drop, p, simulations, series.dropped)


def moment(steps: Any, values: Any, share: float = 0.5, seed: int = 0) -> Moment:
    """The step at which the mean of `values [step, pair]` first has made `share` (0 to 1] of its change, last minus first.

    Linear between checkpoints. Give moments of the same pairs the same `seed` (`order` pairs their draws), others another.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, not {share}")
    series = _prepare(steps, values)
    means = resamples(series.values.shape[1], seed) @ series.values.T
    change = _change(series, means)
    if not change.low * change.high > 0:
        return Moment(NAN, NAN, NAN, None, change, series.steps, np.full(len(means), NAN), series.dropped)
    value, draws = crossing(series.steps, series.mean[None], share), crossing(series.steps, means, share)
    low, high = map(float, np.nanquantile(draws, BOUNDS))
    gap = Gap(*map(float, _around(series.steps, value)[:, 0]))
    return Moment(float(value[0]), low, high, gap, change, series.steps, draws, series.dropped)


def before(first: Moment, second: Moment) -> float:
    """The share of paired draws with `first` before `second` *and* a checkpoint between (else interpolation decides)."""
    return float((_around(first.steps, first.draws)[1] <= _around(second.steps, second.draws)[0]).mean())


def order(moments: dict[str, Moment]) -> list[Event]:
    """Events by step, not established ones last; `before_next` only where 95 % of draws agree, False is undecided."""
    names = sorted(moments, key=lambda name: (np.isnan(moments[name].value), moments[name].value))
    events = []
    for name, after in zip_longest(names, names[1:]):
        compared = after is not None and moments[after].gap is not None
        agreement = before(moments[name], moments[str(after)]) if compared else None
        events.append(Event(name, moments[name], agreement, None if agreement is None else agreement >= LEVEL))
    return events


def over_seeds(moments: list[Moment]) -> dict[str, Any]:
    """One event over training seeds: `values` (steps; NaN: not established), their `min`, `max`, and `established`."""
    there, values = [m.value for m in moments if m.gap is not None], [m.value for m in moments]
    return {"values": values, "established": len(there), "min": min(there, default=NAN), "max": max(there, default=NAN)}


def agreed(order_by_seed: list[list[Event]]) -> list[Agreed]:
    """Every two events that all training seeds have, the order that more of them establish first."""
    seeds = [{event.name: event.moment for event in events} for events in order_by_seed]
    names = [name for name in (seeds[0] if seeds else {}) if all(name in s for s in seeds)]
    rows = []
    for one, other in combinations(names, 2):
        ahead = sum(before(s[one], s[other]) >= LEVEL for s in seeds)
        behind = sum(before(s[other], s[one]) >= LEVEL for s in seeds)
        if behind > ahead:
            one, other, ahead, behind = other, one, behind, ahead
        rows.append(Agreed(one, other, ahead, behind, len(seeds) - ahead - behind, ahead == len(seeds)))
    return rows


def reversals(steps: Any, values: Any, seed: int = 0) -> list[Reversal]:
    """Which components of `values [step, pair, ...component]` have one sign at the first step and the other later.

    Both by intervals over all steps and components at once (95 %, max-t). About 80 kB for each: heads, not edges.
    """
    series = _prepare(steps, values)
    interval = simultaneous_mean(np.moveaxis(series.values, 1, 0), seed)
    bounds = np.stack([interval.value, interval.low, interval.high])
    sign = np.where(interval.low > 0, 1, np.where(interval.high < 0, -1, 0))
    rows = []
    for at in np.ndindex(*series.values.shape[2:]):
        opposite = np.flatnonzero(sign[:, *at] * sign[0, *at] < 0)
        when = int(opposite[0]) if len(opposite) else len(sign) - 1
        step = float(series.steps[when]) if len(opposite) else None
        first, later = (Interval(*map(float, bounds[:, k, *at])) for k in (0, when))
        rows.append(Reversal(at, step is not None, step, first, later))
    return rows


def _prepare(steps: Any, values: Any) -> _Series:
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    if values.ndim < 2 or len(steps) != len(values) or len(steps) == 0 or (np.diff(steps) <= 0).any():
        raise ValueError(f"needs increasing steps and values [step, pair, ...], not {steps.shape} and {values.shape}")
    whole = ~np.isnan(values).any(axis=(0, *range(2, values.ndim)))
    if (pairs := int(whole.sum())) < 2:
        raise ValueError(f"{pairs} of {len(whole)} pairs have a value at every step; at least 2 are needed")
    values = values[:, whole]
    mean, error = values.mean(1), values.std(1, ddof=1) / np.sqrt(pairs)
    # Where all pairs agree (nobody is right yet) the error is 0, yet the mean is not known so well: no step outweighs
    # a typical one more than 16 times. Where they agree at every step, a hundredth of the range stands in.
    error = np.maximum(error, np.sqrt((error**2).mean()) / 4)
    weight = 1 / np.where(error > 0, error, 0.01 * np.ptp(mean) or 1.0) ** 2
    noise = 1.0
    if values.ndim == 2 and len(steps) > 1:
        # What a pair has in common over steps moves the whole series and blurs no shape: it is taken out.
        off = values - mean[:, None] - np.average(values - mean[:, None], axis=0, weights=weight)
        noise = float((weight @ off**2).sum()) / (pairs * (pairs - 1)) / (len(steps) - 1)
    return _Series(steps, values, mean, weight, max(noise, 1e-3), len(whole) - pairs)


def _scale(series: _Series, rss: list[float], parameters: list[int]) -> float:
    return max(series.noise, min(r / (len(series.steps) - k) for r, k in zip(rss, parameters, strict=True)))


def _bic(series: _Series, rss: list[float], parameters: list[int]) -> list[float]:
    scale = _scale(series, rss, parameters)
    return [float(r / scale + k * np.log(len(series.steps))) for r, k in zip(rss, parameters, strict=True)]


def _change(series: _Series, means: np.ndarray) -> Interval:
    if len(series.steps) < 2:
        return NOTHING
    low, high = map(float, np.quantile(means[:, -1] - means[:, 0], BOUNDS))
    return Interval(float(series.mean[-1] - series.mean[0]), low, high)


def _around(steps: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """The checkpoints around each moment, `[2, moment]`; one on a checkpoint belongs to the interval that it ends."""
    at = np.maximum(np.searchsorted(steps[1:-1], moments) + 1, 1)
    return np.where(np.isnan(moments), NAN, np.stack([steps[at - 1], steps[np.minimum(at, len(steps) - 1)]]))


def _share(series: _Series, means: np.ndarray) -> Interval:
    every = np.concatenate([series.mean[None], means])
    whole = np.abs(every[:, -1] - every[:, 0])
    shares = np.abs(np.diff(every)).max(1) / np.where(whole > 0, whole, NAN)
    value, bounds = shares[0], 2 * shares[0] - np.nanquantile(shares[1:], BOUNDS)
    # No series has less than an even share; reflection may push a bound past that, or past the value.
    low = min(max(bounds[1], 1 / (len(series.steps) - 1)), value)
    return Interval(float(value), float(low), float(max(bounds[0], value)))
