"""The dynamics of a run: how each task's behaviour moved, what moved when, which heads reversed, and the key components.

1. `shape` and `change_points` of accuracy and logit difference, for both tasks and every seed.
2. `moment` of each event, half of its change: behaviour; the last token's attention to each slot for the heads whose
   attention moved most; direct attribution of the heads that moved most. In order, with what the order survives.
3. Heads whose direct attribution reversed its sign, by intervals on both sides.
4. The key layers and heads: those on which the ledger books most of the gain, with their causal check, the two grafts of that
   component alone, and the change of what it writes into the logits directly. One list, which names the default head too.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr

from instar.compare.answered import ledger_of
from instar.compare.diff import plain
from instar.compare.evidence import items
from instar.compare.series import Moment, agreed, change_points, moment, order, over_seeds, reversals, shape
from instar.compare.written import largest
from instar.record.store import Store

WATCHED = 3
"""Heads of each kind whose events are put in order."""
MOVED = 0.05
"""Less of the last token's attention is not called a move."""
KEY = 5
"""So many components are called key."""


def dynamics(store: Store, tasks: dict[str, str], seeds: Sequence[int], steps: Sequence[int]) -> dict[str, Any]:
    """See the module; None in places that were not measured."""
    if len(steps) < 2:
        return {"behaviour": {}, "events": [], "reversals": [], "key": None}
    behaviour = {name: _behaviour(store, name, seeds) for name in tasks.values()}
    # Of a seed that is measured at its ends alone it is not known when anything happened.
    whole = [s for s in seeds if s == seeds[0] or len(store.measured_steps("evaluate", tasks["new"], s)) > 2]
    by_seed = [_moments(store, tasks["new"], seed) for seed in whole]
    events = order(by_seed[0])
    return plain(
        {
            "behaviour": behaviour,
            "events": [_event(e, by_seed) for e in events],
            "agreed": [asdict(a) for a in agreed([order(m) for m in by_seed])] if len(whole) > 1 else [],
            "reversals": {name: _reversed(store, name, steps) for name in tasks.values()},
            "key": _key(store, tasks, steps, seeds[0]),
        }
    )


def _behaviour(store: Store, task: str, seeds: Sequence[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for seed in seeds:
        series = store.series("evaluate", task, seed)
        if series is None:
            continue
        own = {}
        for name in ("accuracy", "logit_diff"):
            values = series[name].transpose("step", "pair").values
            one, points = shape(series["step"].values, values), change_points(series["step"].values, values)
            own[name] = asdict(one) | {"change_points": asdict(points)}
        found[str(seed)] = own
    return found


def _moments(store: Store, task: str, seed: int) -> dict[str, Moment]:
    """Events of one fine-tuning, by what they are."""
    found: dict[str, Moment] = {}
    behaviour = store.series("evaluate", task, seed)
    if behaviour is not None:
        for name, words in (("accuracy", "accuracy"), ("logit_diff", "logit difference")):
            found[f"{words} on {task}"] = _of(behaviour, behaviour[name])
    attention = store.series("attention", task, seed, only=lambda d: d[["from_end"]])
    if attention is not None:
        found |= _attention(attention)
    direct = store.series("attribution", task, seed, only=lambda d: d[["heads"]])
    if direct is not None:
        change = abs((direct["heads"].isel(step=-1) - direct["heads"].isel(step=0)).mean("pair"))
        for layer, head in _largest(change.transpose("layer", "head").values):
            found[f"direct contribution of a{layer}.h{head}"] = _of(direct, direct["heads"].sel(layer=layer, head=head))
    return {name: m for name, m in found.items() if m.gap is not None}


def _attention(series: xr.Dataset) -> dict[str, Moment]:
    mean = series["from_end"].mean("pair")
    change = abs(mean.isel(step=-1) - mean.isel(step=0)).transpose("layer", "head", "key_slot").values
    found = {}
    for layer, head, slot in _largest(change):
        if change[layer, head, slot] >= MOVED:
            name = str(series["key_slot"].values[slot])
            own = series["from_end"].isel(layer=layer, head=head, key_slot=slot)
            found[f"attention of a{layer}.h{head} to {name}"] = _of(series, own)
    return found


def _of(series: xr.Dataset, values: xr.DataArray) -> Moment:
    return moment(series["step"].values, values.transpose("step", "pair").values)


def _largest(values: np.ndarray) -> list[tuple[int, ...]]:
    order = np.argsort(-np.nan_to_num(values), axis=None, kind="stable")[:WATCHED]
    return [tuple(int(i) for i in np.unravel_index(at, values.shape)) for at in order]


def _event(event: Any, by_seed: list[dict[str, Moment]]) -> dict[str, Any]:
    own = event.moment
    row = {
        "event": event.name, "step": own.value, "low": own.low, "high": own.high, "text": str(own),
        "change": asdict(own.change), "before_next": event.before_next, "agreement": event.agreement,
    }  # fmt: skip
    if len(by_seed) > 1:
        row["seeds"] = over_seeds([m[event.name] for m in by_seed if event.name in m])
    return row


def _reversed(store: Store, task: str, steps: Sequence[int]) -> list[dict[str, Any]]:
    series = store.series("attribution", task, steps=steps, only=lambda d: d[["heads"]])
    if series is None:
        return []
    found = reversals(series["step"].values, series["heads"].transpose("step", "pair", "layer", "head").values)
    return [
        {"head": "a{}.h{}".format(*r.component), "step": r.at, "before": asdict(r.before), "after": asdict(r.after)}
        for r in found
        if r.reverses
    ]


def _key(store: Store, tasks: dict[str, str], steps: Sequence[int], seed: int) -> dict[str, Any] | None:
    """Key layers and heads of the last step; None without its ledger."""
    ledger = ledger_of(store, tasks["new"], seed, steps[-1])
    if ledger is None:
        return None
    path = store.compared("evidence", seed, steps[-1])
    grafts = items(store.read_dataset(path)) if path.exists() else {}
    direct = _direct(store, tasks["new"], (steps[0], steps[-1]))
    parts = [str(name) for name in ledger["part"].values]
    heads = [name.rpartition(".")[0] for name in parts if ".h" in name]
    layers: dict[str, list[str]] = {}
    for name in parts:
        if name[0] in "am":
            layers.setdefault(name.partition(".")[0], []).append(name)
    found = {"layers": layers, "heads": {head: [head] for head in heads}}
    return {
        "metric": "choosing",
        **{kind: _key_rows(largest(ledger, sets, "choosing", "name"), grafts, direct) for kind, sets in found.items()},
    }


def _direct(store: Store, task: str, ends: tuple[int, int]) -> dict[str, float]:
    """How much more every head, attention layer and MLP writes into the logit difference at the end, in logits."""
    found = store.series("attribution", task, steps=ends)
    if found is None or found.sizes["step"] < 2:
        return {}
    change = (found.isel(step=-1) - found.isel(step=0)).mean("pair")
    heads, bias, mlp = (change[name] for name in ("heads", "attn_bias", "mlp"))
    own = {f"a{int(i)}.h{int(h)}": float(heads.sel(layer=i, head=h)) for i in heads["layer"] for h in heads["head"]}
    for i in heads["layer"]:
        own |= {
            f"a{int(i)}": float(heads.sel(layer=i).sum() + bias.sel(layer=i)),
            f"m{int(i)}": float(mlp.sel(layer=i)),
        }
    return own


def _key_rows(rows: Sequence[dict[str, Any]], grafts: dict[str, Any], direct: dict[str, float]) -> list[dict[str, Any]]:
    """The first `KEY` that have a name, each with its causal check."""
    found = []
    for row in [row for row in rows if row["name"] != "elsewhere"][:KEY]:
        checks = {way: grafts.get(f"graft {row['name']} {way}") for way in ("into", "lost")}
        own = {k: asdict(row[k]) for k in ("booked", "share")}
        own |= {way: None if check is None else asdict(check) for way, check in checks.items()}
        found.append({"name": row["name"], **own, "direct": direct.get(row["name"])})
    return found
