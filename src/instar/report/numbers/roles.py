"""The roles of heads by step."""

import json
from typing import Any

import numpy as np
import xarray as xr

from instar.record.store import Store
from instar.report.numbers.rounded import rounded
from instar.stats.intervals import Interval, bootstrap_mean

WATCHED = 8
"""Heads of a role whose score is drawn over the steps: those that ever score furthest from 0."""
REPEATED = {"previous_token": "previous token", "duplicate_token": "duplicate token", "induction": "induction"}
PAIRED = {"name_mover": "name-mover", "copying": "copying", "copy_top5": "answer among the five highest"}


def roles(store: Store, task: str, steps: list[int]) -> dict[str, Any] | None:
    """Every role's scores `step, layer, head`, and bounds for the heads that ever score most; None if not measured."""
    series = store.series("roles", task, steps=steps, only=_with_movers)
    if series is None:
        return None
    found = {name: _role(words, *series_of) for name, words, series_of in _named(series)}
    return {
        "steps": series["step"].values.tolist(),
        "roles": found,
        "pairs": int(series.sizes["pair"]),
        "sequences": int(series.sizes["sequence"]),
        "movers": series["movers"].transpose("step", "layer").values.astype(str).tolist(),
    }


def _with_movers(dataset: xr.Dataset) -> xr.Dataset:
    """The name-movers that S-inhibition was read at differ from step to step; attributes would be the first step's."""
    return dataset.assign(movers=("layer", np.array(json.loads(str(dataset.attrs["name_movers"])), dtype=object)))


def _named(series: xr.Dataset) -> list[tuple[str, str, tuple[np.ndarray, str]]]:
    """Each role by its key: words, values `unit, step, layer, head`, and the unit (shares of attention, logits, …)."""
    axes = ("step", "layer", "head")
    found = [
        (name, words, (series[name].transpose("sequence", *axes).values, "attention"))
        for name, words in REPEATED.items()
        if name in series
    ]
    units = {"name_mover": "attention × logits", "copying": "logits", "copy_top5": "share of pairs"}
    for name, words in PAIRED.items():
        if name in series:
            found.append((name, words, (series[name].transpose("pair", *axes).values, units[name])))
    for target in series["target"].values if "to_slot" in series else ():
        own = series["to_slot"].sel(target=target).transpose("pair", *axes).values
        found.append((f"to {target}", f"attention of the last token to {target}", (own, "attention")))
    for kind in series["counterfactual"].values if "s_inhibition" in series else ():
        own = series["s_inhibition"].sel(counterfactual=kind).transpose("pair", *axes).values
        found.append((f"s_inhibition {kind}", f"S-inhibition, {kind} changed", (own, "attention")))
    return found


def _role(words: str, values: np.ndarray, unit: str) -> dict[str, Any]:
    known = ~np.isnan(values)
    count = known.sum(0)
    mean = np.where(count > 0, np.where(known, values, 0).sum(0) / np.maximum(count, 1), np.nan)
    most = np.nan_to_num(np.abs(mean)).max(0)
    ranked = np.argsort(-most, axis=None, kind="stable")[:WATCHED]
    heads = [np.unravel_index(i, most.shape) for i in ranked if most.ravel()[i] > 0]
    rows = [{"layer": int(layer), "head": int(head)} | _bounds(values[:, :, layer, head]) for layer, head in heads]
    return {"words": words, "unit": unit, "value": rounded(mean), "limit": float(most.max()) or 1.0, "top": rows}


def _bounds(values: np.ndarray) -> dict[str, Any]:
    """Bounds of `unit, step`; a pair whose prompt does not hold the answer has no score."""
    there = [own[~np.isnan(own)] for own in values.T]
    bounds = [bootstrap_mean(own) if len(own) else Interval(np.nan, np.nan, np.nan) for own in there]
    return {k: [rounded(getattr(b, k)) for b in bounds] for k in ("low", "high")}
