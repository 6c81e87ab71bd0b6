"""Causal tests of sets of weights at every tested step: what they bring alone, and what is lost without them.

On two metrics side by side, since they may disagree: shares of the gain in logit difference, and of the gain in accuracy,
each a ratio of means with its bootstrap interval over prompts.
"""

import json
from typing import Any

import numpy as np
import xarray as xr

from instar.record.store import SHARED, Store, Tuning
from instar.report.numbers.rounded import rounded
from instar.stats.intervals import Interval, bootstrap_mean, bootstrap_ratio, wilson
from instar.stats.scales import usable

METRICS = {"logit_diff": "", "accuracy": "_right"}


def grafts(store: Store, seed: Tuning) -> dict[str, Any] | None:
    """By step; None without causal tests."""
    pages = {
        step: store.read_measurement("causal", SHARED, seed, step)
        for step in store.measured_steps("causal", SHARED, seed)
    }
    there = {step: page for step, page in pages.items() if page is not None}
    return {str(step): _page(page) for step, page in there.items()} or None


def _page(causal: xr.Dataset) -> dict[str, Any]:
    new = causal.sel(task="new")
    return {
        "sets": [str(name) for name in causal["set"].values],
        "inside": json.loads(str(causal.attrs["inside"])),
        "pairs": int(causal.sizes["pair"]),
        "graft": {name: _shares(new, "graft", "set", ending) for name, ending in METRICS.items()},
        "accuracy": {way: _rates(new[f"graft_{way}_right"]) for way in ("base", "tuned", "into", "lost")},
        "carried": [str(name) for name in causal["carried"].values],
        "carry": _shares(new, "carry", "carried"),
    }


def _shares(new: xr.Dataset, kind: str, axis: str, ending: str = "") -> dict[str, Any]:
    """Each way's shares of the gain that the two models have on the same clean prompts."""
    base, tuned = (new[f"graft_{way}{ending}"].values.astype(float) for way in ("base", "tuned"))
    into, lost = (new[f"{kind}_{way}{ending}"].transpose("pair", axis).values.astype(float) for way in ("into", "lost"))
    return _of({"into": into - base[:, None], "lost": tuned[:, None] - lost}, tuned - base)


def _of(pages: dict[str, np.ndarray], gain: np.ndarray) -> dict[str, Any]:
    """Each way's shares `[value, low, high]` by set; nothing where there is no gain to share."""
    whole = bootstrap_mean(gain)
    empty = dict.fromkeys(pages)
    found = {way: _rows(bootstrap_ratio(page, gain)) for way, page in pages.items()} if usable(whole) else empty
    return {"gain": rounded([whole.value, whole.low, whole.high]), **found}


def _rates(right: xr.DataArray) -> Any:
    own = right.values
    total = own.shape[right.dims.index("pair")]
    return _rows(wilson(own.sum(right.dims.index("pair")), total))


def _rows(own: Interval) -> Any:
    return rounded(np.stack([np.asarray(getattr(own, k)) for k in ("value", "low", "high")], -1))
