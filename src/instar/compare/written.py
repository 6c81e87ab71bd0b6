"""How and when a gain was written: the ledger's bookings by part of the model, beside what grafts say of the same parts.

1. Seven groups: W_Q, W_K and W_V, W_O of the heads inside the old task's circuit and outside it, MLPs alike, and the rest
   (embeddings, norms, output biases); and the four parts they are of. In the metric's unit, and as shares of the gain where
   its own interval excludes 0. Shares may be negative or above 1: parts may undo each other.
2. Beside each booking stand its Shapley share of grafts and the two one-at-a-time grafts, of the same prompts and metric;
   how far the part's weights moved, and how large it is.
3. A part is *named* where the lower bounds of its share by the ledger and of its share by grafts both exceed δ. Where the two
   intervals do not overlap, it is said which and why: an interaction (the two grafts differ), or the path.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from instar.compare.booking import ENOUGH_PROMPTS, SLICES, View, booked, sums
from instar.compare.reused import LIMITS
from instar.stats.intervals import NOTHING, Interval, bootstrap_mean, bootstrap_ratio, resamples

PARTS = ("Q,K", "V,O", "MLPs", "the rest")
IN_WORDS = {
    "Q,K": "re-aimed",
    "V,O": "strengthened",
    "MLPs": "rewritten in MLPs",
    "the rest": "by embeddings and norms",
}
MIXED_UP = 5.0
"""Times the gain: where bookings on one line add up to more, regardless of sign, none of them is a share of it."""
RECRUITED = "heads outside"
"""Q,K and V,O of the heads outside the old circuit, together."""
LISTED = 10


@dataclass(frozen=True)
class PartOf:
    """One part's row: nats or logits, and shares of the gain."""

    part: str
    booked: Interval
    share: Interval
    shapley: Interval
    """Share by grafts, averaged over orders."""
    into: Interval
    """Share that comes with this part's tuned weights alone."""
    lost: Interval
    """Share that goes with this part's base weights alone."""
    moved: float
    """Share of ‖Δθ‖²."""
    parameters: float
    """Share of the parameters."""
    named: bool
    disagrees: str
    """Where ledger and grafts differ: why, as far as is known."""

    def carries(self, share: float) -> bool:
        """Whether more than a share of the gain was written there, by ledger and, where there are any, by grafts."""
        grafts = not np.isnan(self.moved)
        return bool(self.share.low > share and (not grafts or self.shapley.low > share))


@dataclass(frozen=True)
class Written:
    """How a gain was written."""

    metric: str
    gain: Interval
    parts: tuple[PartOf, ...]
    """The four parts, then the seven groups."""
    recruited: PartOf
    """What was written in the heads outside the old circuit."""
    nodes: tuple[dict[str, Any], ...]
    """Heads, MLPs and the rest with the largest bookings: `node`, `booked`, `share` with bounds."""
    layers: tuple[dict[str, Any], ...]
    """Every layer's booking, by size."""
    half: tuple[float, float, float] | None
    """The checkpoint from which on half of the gain is there, with bounds; None on one line."""
    intervals: int
    """Stretches of training; 1: a straight line between two models, and another path would book it otherwise."""
    residual: float
    """Share of the gain that is booked on no part."""
    churn: float
    """Σ|bookings| over the stretches, times the gain."""

    @property
    def mixed_up(self) -> bool:
        """Whether so much was booked to and fro on one line that no share of it means anything."""
        # Of a gain that may be 0 anything is many times as much.
        return self.gain.low > 0 and self.churn > MIXED_UP and self.intervals == 1

    @property
    def told(self) -> tuple[PartOf, ...]:
        """The four parts, where their shares mean anything."""
        return () if self.mixed_up else self.parts[: len(PARTS)]

    def recruits(self, share: float) -> bool:
        """Whether more than a share of the gain was written in heads outside the old circuit."""
        return self.gain.low > 0 and not self.mixed_up and self.recruited.carries(share)

    @property
    def named(self) -> tuple[str, ...]:
        """The parts that are named, the largest first."""
        found = [one for one in self.told if one.named]
        return tuple(one.part for one in sorted(found, key=lambda one: -one.share.value))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"named": list(self.named)}


def written(
    ledger: xr.Dataset, inside: Sequence[str], shapley: xr.Dataset | None, metric: str = "choosing",
    course: xr.DataArray | None = None, named: float = LIMITS.named,
) -> Written:  # fmt: skip
    """What a ledger says of a gain, beside grafts.

    Args:
        inside: heads and MLPs of the old task's circuit.
        course: the metric on `step, pair` at every measured checkpoint from the base to this one; none on one line.
        named: δ.
    """
    names = [str(p) for p in ledger["part"].values]
    kinds = [SLICES.get(str(kind), "the rest") for kind in ledger["kind"].values]
    seven = [_group(part, kind, set(inside)) for part, kind in zip(names, kinds, strict=True)]
    rows = []
    for labels in (kinds, seven):
        own = booked(ledger, _by(names, labels), metric)
        order = PARTS if labels is kinds else sorted({*seven} - {*PARTS})
        rows += [_part(own, group, shapley, metric, named) for group in order if group in own["group"].values]
    heads = [g.endswith(" outside") and not g.startswith("MLPs") for g in seven]
    recruits = booked(ledger, _by(names, [RECRUITED if one else "all else" for one in heads]), metric)
    gain = _interval(booked(ledger, "kind", metric), "gain")
    pages, moved = sums(ledger, metric)
    # Of nothing there are no shares.
    whole = float(abs(moved.sum())) or np.nan
    residual, churn = float(abs((pages.sum(2) - moved).sum())) / whole, float(np.abs(pages.sum(0)).sum()) / whole
    outside = _part(recruits, RECRUITED, shapley, metric, named)
    return Written(
        metric, gain, tuple(rows), outside, largest(ledger, "head", metric, "node")[:LISTED],
        largest(ledger, "layer", metric, "layer"), None if course is None else _half(course),
        ledger.sizes["interval"], residual, churn,
    )  # fmt: skip


def _group(part: str, kind: str, inside: set[str]) -> str:
    """Which of the seven groups."""
    return kind if kind == "the rest" else f"{kind} {'inside' if _node(part) in inside else 'outside'}"


def _node(part: str) -> str:
    """`a3.h7` of `a3.h7.q`, `m3` of `m3.in`."""
    return part.rpartition(".")[0] or part


def _by(names: Sequence[str], labels: Sequence[str]) -> Mapping[str, Sequence[str]]:
    return {group: [n for n, own in zip(names, labels, strict=True) if own == group] for group in dict.fromkeys(labels)}


def _part(own: xr.Dataset, group: str, shapley: xr.Dataset | None, metric: str, named: float) -> PartOf:
    if group not in own["group"].values:
        none = Interval(0.0, 0.0, 0.0)
        return PartOf(group, none, none, none, none, none, 0.0, 0.0, False, "")
    row = own.sel(group=group)
    share, grafts = _interval(row, "share"), _Grafts.of(shapley, group, metric)
    agrees, why = shapley is None or _agree(share, grafts.shapley), ""
    if not agrees and max(abs(share.value), abs(grafts.shapley.value)) > named:
        apart = grafts.into.high < grafts.lost.low or grafts.lost.high < grafts.into.low
        why = "an interaction: alone it brings and takes other shares" if apart else "the path: grafts go straight"
    part = PartOf(
        group, _interval(row, "booked"), share, grafts.shapley, grafts.into, grafts.lost, grafts.moved, grafts.parameters,
        False, why,
    )  # fmt: skip
    return replace(part, named=part.carries(named))


def _agree(share: Interval, worth: Interval) -> bool:
    """The same sign, and intervals that overlap."""
    return bool(share.low <= worth.high and worth.low <= share.high and share.value * worth.value > 0)


@dataclass(frozen=True)
class _Grafts:
    """What grafts say of a part."""

    shapley: Interval
    into: Interval
    lost: Interval
    moved: float
    parameters: float

    @classmethod
    def of(cls, found: xr.Dataset | None, group: str, metric: str) -> "_Grafts":
        """Its Shapley share, the two grafts of the whole of it, its share of the distance and of the parameters."""
        if found is None:
            return cls(NOTHING, NOTHING, NOTHING, np.nan, np.nan)
        some = ("Q,K outside", "V,O outside") if group == RECRUITED else (group, f"{group} inside", f"{group} outside")
        mine = np.array([name in some for name in found["group"].values.tolist()])
        own, member = found.sel(metric=metric), found["member"].values.astype(bool)
        base, tuned = own["base"].values, own["tuned"].values
        alone, without = (int(np.flatnonzero((member == group).all(1))[0]) for group in (mine, ~mine))
        value = own["value"].transpose("pair", "group").values[:, mine].sum(1)
        coalition = own["coalition_value"].transpose("coalition", "pair").values
        shares, whole = [NOTHING] * 3, bootstrap_mean(tuned - base)
        if whole.low > 0 or whole.high < 0:
            moved = np.stack([value, coalition[alone] - base, tuned - coalition[without]], 1)
            ratio = bootstrap_ratio(moved, tuned - base)
            shares = [Interval(*(float(getattr(ratio, k)[i]) for k in ("value", "low", "high"))) for i in range(3)]
        moved, size = (float(found[k].values[mine].sum() / found[k].values.sum()) for k in ("moved", "parameters"))
        return cls(shares[0], shares[1], shares[2], moved, size)


def _interval(row: xr.Dataset, name: str) -> Interval:
    return Interval(*(float(row[f"{name}{end}"]) for end in ("", "_low", "_high")))


def largest(
    ledger: xr.Dataset, by: View | Mapping[str, Sequence[str]], metric: str, name: str
) -> tuple[dict[str, Any], ...]:
    """Bookings by a view or by sets, the largest first: `booked` and `share`, with each group's own name as `name`."""
    own = booked(ledger, by, metric)
    order = np.argsort(-np.abs(own["booked"].values), kind="stable")
    rows = [own.isel(group=int(i)) for i in order]
    return tuple(
        {name: str(row["group"].values), **{k: _interval(row, k) for k in ("booked", "share")}} for row in rows
    )


def _half(course: xr.DataArray) -> tuple[float, float, float] | None:
    """The first checkpoint from which on half of the whole gain is there, with bounds over prompts.

    Of the metric at every checkpoint: the ledger, which adds up to the same gain, is kept at some of them.
    """
    values = course.transpose("pair", "step").values
    so_far = (values - values[:, :1])[~np.isnan(values).any(1), 1:]
    if so_far.shape[1] < 2 or len(so_far) < ENOUGH_PROMPTS:
        return None
    drawn = np.concatenate([so_far.mean(0)[None], resamples(len(so_far)) @ so_far])
    if (drawn[:, -1] <= 0).mean() > 0.025 or drawn[0, -1] <= 0:
        return None
    beyond = drawn >= drawn[:, -1:] / 2
    stays = np.logical_and.accumulate(beyond[:, ::-1], axis=1)[:, ::-1].argmax(1)
    at = course["step"].values[1:].astype(float)[stays]
    low, high = np.quantile(at[1:], [0.025, 0.975], method="nearest")
    return float(at[0]), float(low), float(high)
