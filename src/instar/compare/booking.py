"""A ledger read: what each part, kind, layer or set of heads was booked, with intervals over blocks of prompts.

1. Bookings of the chosen parts and intervals of the training are added up; they add up to the gain, but for the residual.
2. In the metric's unit always; as a share of the gain where the gain's own interval excludes 0. A share may be negative or
   above 1: parts may undo each other.
3. Intervals are of blocks of prompts, resampled, and expanded for there being few. Fewer than 24 prompts have none.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from instar.stats.intervals import Interval, bootstrap_ratio

View = Literal["part", "kind", "layer", "head", "slice", "factor"]
ENOUGH_PROMPTS = 24
SLICES = {"q": "Q,K", "k": "Q,K", "v": "V,O", "o": "V,O", "mlp in": "MLPs", "mlp gate": "MLPs", "mlp out": "MLPs"}
"""What a kind is of, in the answer's words; norms, output biases and embeddings are by themselves."""


def booked(
    ledger: xr.Dataset,
    by: View | Mapping[str, Sequence[str]] = "kind",
    metric: str | None = None,
    over_time: bool = False,
) -> xr.Dataset:
    """Sums of bookings by a view of the parts.

    Args:
        ledger: of `instar.ledger`.
        by: `part`, `kind`, `layer`, `head` (all four matrices of one), `slice` (Q,K; V,O; MLPs; …), or named sets of heads
            and MLPs (`{"inside": ["a0.h1", "m2"]}`; what is in none is `elsewhere`). `factor`: of low-rank adapters,
            what each one's A and B made of it, and what is in no adapter.
        metric: which one, where there are several.
        over_time: keep the intervals of the training apart.

    Returns:
        On `group` (and `interval`): `booked` with `booked_low`, `booked_high` (nats or logits) and `share` with its bounds;
        `gain` with its bounds. NaN where there is nothing to be said.

    Raises:
        ValueError: for a metric that is not in it, or a set's name of no part.
    """
    names = [str(m) for m in ledger["metric"].values]
    if metric is None and len(names) == 1:
        metric = names[0]
    if metric not in names:
        raise ValueError(f"metric: {metric!r} is none of this ledger's ({', '.join(names)})")
    prompts = ledger["prompts"].values.astype(float)
    pages, gains = sums(ledger, metric)
    if by == "factor":
        groups, pages = _factors(ledger, metric, pages)
    else:
        labels = _labels(ledger, by)
        groups = list(dict.fromkeys(labels))
        pages = pages @ np.array([[label == group for group in groups] for label in labels], float)
    dims: tuple[str, ...] = ("interval", "group")
    if not over_time:
        pages, gains, dims = pages.sum(1), gains.sum(1), ("group",)
    whole = gains.sum(1) if over_time else gains
    gain = bootstrap_ratio(whole, prompts, few=True)
    mean, share = (bootstrap_ratio(pages, below, few=True) for below in (prompts, whole))
    few = prompts.sum() < ENOUGH_PROMPTS
    unknown = not (gain.low > 0 or gain.high < 0)
    data = (
        _named("booked", mean, dims, few) | _named("share", share, dims, few, unknown) | _named("gain", gain, (), few)
    )
    coords: dict[str, Any] = {"group": groups}
    if over_time and "interval" in ledger.coords:
        coords["interval"] = ledger["interval"].values
    return xr.Dataset(data, coords=coords).assign_attrs(metric=metric, convention=ledger.attrs["convention"])


def sums(ledger: xr.Dataset, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Bookings [block, interval, part] and gains [block, interval], sums over prompts: a small block counts less."""
    own, prompts = ledger.sel(metric=metric), ledger["prompts"].values.astype(float)
    pages = own["booked"].transpose("block", "interval", "part").values * prompts[:, None, None]
    return pages, (own["after"] - own["before"]).transpose("block", "interval").values * prompts[:, None]


def _factors(ledger: xr.Dataset, metric: str, pages: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Groups, and their sums over prompts [block, interval, group]."""
    if "by_factor" not in ledger:
        raise ValueError("by: 'factor' is of low-rank adapters, and these checkpoints are none")
    own = ledger["by_factor"].sel(metric=metric).transpose("block", "interval", "factor", "part").values
    own = own * ledger["prompts"].values.astype(float)[:, None, None, None]
    whole = np.where(np.isnan(own).any(2), pages, 0.0).sum(2, keepdims=True)
    names = [f"adapters' {name}" for name in ledger["factor"].values]
    return [*names, "no adapter"], np.concatenate([np.nansum(own, 3), whole], 2)


def _named(name: str, found: Interval, dims: tuple[str, ...], few: bool, unknown: bool = False) -> dict[str, Any]:
    values = {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    nothing = [key for key in values if unknown or (few and key != name)]
    return {key: (dims, np.full_like(value, np.nan) if key in nothing else value) for key, value in values.items()}


def _labels(ledger: xr.Dataset, by: View | Mapping[str, Sequence[str]]) -> list[str]:
    kinds, layers, heads = ([*ledger[name].values] for name in ("kind", "layer", "head"))
    parts = [str(name) for name in ledger["part"].values]
    if isinstance(by, Mapping):
        return _sets(parts, by)
    views: dict[str, Callable[[int], str]] = {
        "part": lambda i: parts[i],
        "kind": lambda i: str(kinds[i]),
        "layer": lambda i: str(layers[i]) if layers[i] >= 0 else str(kinds[i]),
        "head": lambda i: parts[i].rpartition(".")[0] if heads[i] >= 0 else parts[i].partition(".")[0],
        "slice": lambda i: SLICES.get(str(kinds[i]), str(kinds[i])),
    }
    if by not in views:
        raise ValueError(f"by: {by!r} is none of {', '.join(views)}, and no sets")
    return [views[by](i) for i in range(len(parts))]


def _sets(parts: Sequence[str], sets: Mapping[str, Sequence[str]]) -> list[str]:
    owner = {name: group for group, some in sets.items() for name in some}
    # `a3.h7` stands for its four matrices, `m3` for its MLP's, a whole part for itself.
    found = [next((owner[n] for n in (part, part.rpartition(".")[0]) if n in owner), "elsewhere") for part in parts]
    known = {n for part in parts for n in (part, part.rpartition(".")[0])}
    unknown = [name for name in owner if name not in known]
    if unknown:
        raise ValueError(
            f"by: this model has no {', '.join(map(repr, unknown[:3]))}; its parts are {', '.join(parts[:3])}, …"
        )
    return found
