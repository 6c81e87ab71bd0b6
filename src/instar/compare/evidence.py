"""From per-pair values to the numbers of the causal tests, each with its 95 % interval and what it stands beside.

An evidence dataset has one axis, `item`, and on it `value`, `low`, `high` (NaN: masked or not measured). Items:

- `gain accuracy` (share of pairs), `gain logits`, `gain choice accuracy`, `gain naming`, `gain choosing`, `gain log
  probability` (nats; the sum of the two before it): paired, checkpoint minus base, of the new task; `old accuracy`, … alike.
- `accuracy base`, `accuracy tuned`, `choice accuracy base`, … `naming`, `choosing`: of the new task; `old accuracy base`, ….
- `baseline RULE`: the choice accuracy of a rule that needs no circuit, on the same pairs; `beyond RULE`: the paired
  difference. Evidence of version 0.3 has none of these, and of the others only accuracy and logits.
- `graft SET into`, `graft SET lost`, `carry SET into`, `carry SET lost`: shares of the gain in logits, ratios of means. They
  are NaN unless the gain's interval lies above 0.
- `necessity`: share of b − c that is gone with the old circuit's heads, new task, tuned model; `old necessity`: of
  the old task.
- `necessity null`, `graft null into` …: of matched random sets, their mean and the quantiles 5 % and 95 % between sets.
- `transfer`: faithfulness of the old circuit in the tuned model; `transfer base`: of the new circuit in the base.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from instar.compare.baselines import accuracy
from instar.compare.behaviour import change, gain, interval
from instar.stats.intervals import NOTHING, Interval, between, bootstrap_mean, bootstrap_ratio, by_group
from instar.stats.scales import usable

SHARED_SETS = ("inside", "outside", "heads", "mlps")
LABELS = {
    "accuracy": "accuracy",
    "logit_diff": "logits",
    "choice_accuracy": "choice accuracy",
    "naming": "naming",
    "choosing": "choosing",
    "log_probability": "log probability",
}
"""What is told of behaviour, and as what."""


@dataclass(frozen=True)
class Measured:
    """The measurements of one checkpoint that its evidence is made of, beside those of step 0."""

    evaluate: Mapping[str, tuple[xr.Dataset, xr.Dataset]]
    """By role (old, new): behaviour at step 0 and at the checkpoint."""
    causal: xr.Dataset
    baselines: Sequence[Mapping[str, Any]] = ()
    """Rules that need no circuit, on the pairs of the new task's behaviour (`instar.compare.baselines`)."""


def evidence(measured: Measured) -> xr.Dataset:
    """All items of one checkpoint; the attributes name the heads inside and what is known beside numbers."""
    numbers: dict[str, Interval] = {}
    for role, prefix in (("new", "gain"), ("old", "old")):
        numbers |= _behaviour(*measured.evaluate[role], role, prefix)
    numbers |= _beyond(measured.evaluate["new"][1], measured.baselines)
    causal = measured.causal
    numbers |= _shares(causal) | _necessity(causal) | _transfer(causal)
    names = list(numbers)
    rows = {k: ("item", np.array([float(getattr(numbers[n], k)) for n in names])) for k in ("value", "low", "high")}
    attrs = {
        **{k: v if isinstance(v := causal.attrs[k], str) else json.dumps(v) for k in ("inside", "permuted")},
        "matched_possible": int(causal.attrs["matched_possible"]),
        "matched_overlap": float(causal.attrs["matched_overlap"]),
        "pairs": int(causal.sizes["pair"]),
        **({"says": json.dumps({r["kind"]: r["says"] for r in measured.baselines})} if measured.baselines else {}),
    }
    return xr.Dataset(rows, coords={"item": np.array(names, dtype=str)}).assign_attrs(attrs)


def _behaviour(before: xr.Dataset, after: xr.Dataset, role: str, prefix: str) -> dict[str, Interval]:
    """Paired changes: the prompts are the same."""
    own = "" if role == "new" else "old "
    gained = gain(before, after)
    numbers: dict[str, Interval] = {}
    for name, label in LABELS.items():
        moved = gained.get(name) or change(before, after, name)
        numbers |= {} if moved is None else {f"{prefix} {label}": moved}
        for when, dataset in (("base", before), ("tuned", after)):
            if name != "logit_diff" and (level := interval(dataset, name)) is not None:
                numbers[f"{own}{label} {when}"] = level
    return numbers


def _beyond(after: xr.Dataset, rules: Sequence[Mapping[str, Any]]) -> dict[str, Interval]:
    """How much better than each rule that needs no circuit the checkpoint chooses among the candidates, pair by pair."""
    if not rules:
        return {}
    right = after["choice"].values.astype(float)
    numbers: dict[str, Interval] = {}
    for rule in rules:
        numbers[f"baseline {rule['kind']}"] = accuracy(rule)
        numbers[f"beyond {rule['kind']}"] = bootstrap_mean(right - np.array(rule["right"]))
    return numbers


def _shares(causal: xr.Dataset) -> dict[str, Interval]:
    """Shares of the new task's gain, by grafting and by exchanging outputs."""
    base, tuned = (causal[f"graft_{k}"].sel(task="new").values.astype(float) for k in ("base", "tuned"))
    gain = tuned - base
    whole = bootstrap_mean(gain)
    numbers: dict[str, Interval] = {"gain logits here": whole}
    for kind, axis in (("graft", "set"), ("carry", "carried")):
        into, lost = (causal[f"{kind}_{way}"] for way in ("into", "lost"))
        if kind == "graft":
            into, lost = into.sel(task="new"), lost.sel(task="new")
        moved = {
            "into": into.transpose(axis, "pair").values - base,
            "lost": tuned - lost.transpose(axis, "pair").values,
        }
        names = [str(name) for name in causal[axis].values]
        for way, values in moved.items():
            numbers |= {f"{kind} {name} {way}": NOTHING for name in names}
            if usable(whole):
                spread = bootstrap_ratio(values.T, gain)
                bounds = zip(spread.value, spread.low, spread.high, strict=True)
                numbers |= {f"{kind} {n} {way}": Interval(*own) for n, own in zip(names, bounds, strict=True)}
            random = [n for n in names if n.startswith("random ")]
            numbers[f"{kind} null {way}"] = between([numbers[f"{kind} {n} {way}"].value for n in random])
    return numbers


def _necessity(causal: xr.Dataset) -> dict[str, Interval]:
    numbers: dict[str, Interval] = {}
    for task, prefix in (("new", ""), ("old", "old ")):
        clean, corrupted, prompt = (causal[f"ablated_{task}_{k}"].values for k in ("clean", "corrupted", "prompt"))
        lost = by_group((clean - causal[f"ablated_{task}"].values).T, prompt)
        whole = by_group(clean - corrupted, prompt)
        if not usable(bootstrap_mean(whole)):
            numbers |= {f"{prefix}necessity": NOTHING} | ({"necessity null": NOTHING} if task == "new" else {})
            continue
        spread = bootstrap_ratio(lost, whole)
        numbers[f"{prefix}necessity"] = Interval(*(getattr(spread, k)[0] for k in ("value", "low", "high")))
        if task == "new":
            numbers["necessity null"] = between(spread.value[1:])
    return numbers


def _transfer(causal: xr.Dataset) -> dict[str, Interval]:
    numbers: dict[str, Interval] = {}
    prompt = causal["transfer_prompt"].values
    metric, clean, corrupted = (causal[k].values for k in ("transfer", "transfer_clean", "transfer_corrupted"))
    # The tuned model is the reference: what the base can hardly tell apart must not be divided by.
    reference = bootstrap_mean(by_group(clean[0] - corrupted[0], prompt))
    for i, name in enumerate(("transfer", "transfer base", "transfer random")):
        above, below = by_group(metric[i] - corrupted[i], prompt), by_group(clean[i] - corrupted[i], prompt)
        numbers[name] = bootstrap_ratio(above, below) if usable(bootstrap_mean(below), reference) else NOTHING
    return numbers


def items(dataset: xr.Dataset) -> dict[str, Interval]:
    """An evidence dataset as intervals by name."""
    columns = (dataset[k].values.tolist() for k in ("value", "low", "high"))
    rows: Any = zip(dataset["item"].values.tolist(), *columns, strict=True)
    return {name: Interval(value, low, high) for name, value, low, high in rows}
