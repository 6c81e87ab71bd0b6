"""What a checkpoint does, each number with its one interval: every table, file, drawing and answer reads these.

1. Shares of pairs (`SHARES`) have Wilson's interval, means (`MEANS`) a percentile bootstrap over pairs.
2. A change between two checkpoints is paired, and its parts are resampled together: the gain in log p(answer) is the gain in
   naming plus the gain in choosing, and so is each resample's (`instar.measure.evaluate` defines them).
3. What was not measured (by instar 0.3) is left out. A pair of which a number is not defined does not count for it; where it
   is defined of none, the number is NaN.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from instar.stats.intervals import Interval, bootstrap_mean, wilson

SHARES = {"accuracy": "accuracy", "choice_accuracy": "choice", "named": "named"}
"""The log's win rate, the answer beats all foils, the top token is a candidate: by its name in files, the variable."""
MEANS = {name: name for name in ("naming", "choosing", "log_probability", "logit_diff", "probability")}
EVERY = SHARES | MEANS
GROUPED = ("accuracy", "choice_accuracy", "named", "naming", "choosing")
"""What is told by wording and by place."""
GAIN = ("log_probability", "naming", "choosing")
MANY = 100
"""Of so many wordings only the accuracy is told of each."""


def interval(measured: xr.Dataset, name: str) -> Interval | None:
    """One number of an `evaluate` measurement, or of a series of them (arrays along `step`); None where it is not there."""
    if EVERY[name] not in measured:
        return None
    values = measured[EVERY[name]]
    return _interval(np.asarray(values.transpose("pair", ...).values, float), name in SHARES)


def change(before: xr.Dataset, after: xr.Dataset, name: str) -> Interval | None:
    """The paired change of a number between two checkpoints; None where it is not there."""
    if not all(EVERY[name] in one for one in (before, after)):
        return None
    return _interval(_paired(before, after, name), share=False)


def gain(before: xr.Dataset, after: xr.Dataset) -> dict[str, Interval]:
    """Paired gains in log p(answer), naming and choosing, in nats, over the same pairs; none where they are not there."""
    if not all(name in one for name in GAIN for one in (before, after)):
        return {}
    changes = np.stack([_paired(before, after, name) for name in GAIN], 1)
    defined = ~np.isnan(changes).any(1)
    return _by_name(GAIN, _interval(changes[defined] if defined.any() else changes, share=False))


def behaviour(series: xr.Dataset) -> dict[str, Any]:
    """Every number of a series with its bounds over `steps`, the gain from its first step to its last, by place, wording
    and error, as plain values."""
    found: dict[str, Any] = {"pairs": series.sizes["pair"], "steps": series["step"].values.tolist()}
    for name in EVERY:
        if (own := interval(series, name)) is not None:
            found |= bounds(name, own)
    if gained := gain(series.isel(step=0), series.isel(step=-1)):
        found["gain"] = {name: plain(own) for name, own in gained.items()}
    if undefined := int(series.attrs.get("choosing_undefined", 0)):
        found["choosing_undefined"] = undefined
    foils = series["foil_diff"].transpose("foil", "step", "pair").values
    return found | {
        "foil_diff": np.nanmean(foils, axis=2).tolist(),
        "by_place": by_label(series, "place", lambda place: f"place {place + 1}"),
        "by_wording": by_label(series, "wording", str),
        "said": _said(series),
    }


def by_label(measured: xr.Dataset, label: str, name: Callable[[Any], str]) -> dict[str, dict[str, Any]]:
    """What is told of the pairs that share a label."""
    labels = measured[label].values
    each = sorted(set(labels.tolist()))
    told = GROUPED if len(each) <= MANY else GROUPED[:1]
    found = {}
    for one in each:
        mine = measured.isel(pair=np.flatnonzero(labels == one))
        found[name(one)] = {"pairs": mine.sizes["pair"]}
        for number in told:
            if (own := interval(mine, number)) is not None:
                found[name(one)] |= bounds(number, own)
    return found


def bounds(name: str, own: Interval) -> dict[str, Any]:
    """A number as `name`, `name_low` and `name_high`."""
    return {f"{name}{end}": np.asarray(getattr(own, k)).tolist() for end, k in _ENDS.items()}


def plain(own: Interval) -> dict[str, float]:
    """A number as `value`, `low` and `high`."""
    return {k: float(getattr(own, k)) for k in _ENDS.values()}


_ENDS = {"": "value", "_low": "low", "_high": "high"}


def _paired(before: xr.Dataset, after: xr.Dataset, name: str) -> np.ndarray:
    return np.asarray(after[EVERY[name]].values, float) - np.asarray(before[EVERY[name]].values, float)


def _interval(values: np.ndarray, share: bool) -> Interval:
    """Over the first axis, of the pairs that are defined wherever any is."""
    there = ~np.isnan(values)
    known = there.any(0)
    rows = (there | ~known).all(tuple(range(1, values.ndim)))
    if not known.any() or not rows.any():
        return Interval(*(np.full(values.shape[1:], np.nan) for _ in range(3)))
    counted = values[rows]
    return wilson(counted.sum(0), len(counted)) if share else bootstrap_mean(counted)


def _by_name(names: Sequence[str], own: Interval) -> dict[str, Interval]:
    return {name: Interval(*(getattr(own, k)[i] for k in _ENDS.values())) for i, name in enumerate(names)}


def _said(series: xr.Dataset) -> dict[str, list[float]]:
    """Share of pairs by what the top token was."""
    names = json.loads(series.attrs["said_names"])
    said = series["said"].transpose("step", "pair").values
    shares = {name: (said == i).mean(1).tolist() for i, name in enumerate(names)}
    return {name: values for name, values in shares.items() if name == "answer" or any(values)}
