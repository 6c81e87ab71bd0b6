"""The dynamics of a run: how each task's behaviour moved, what moved when, which heads reversed, and the key components.

1. `shape` and `change_points` of accuracy and logit difference, for both tasks and every seed.
2. `moment` of each event, half of its change: behaviour; the last token's attention to each slot for the heads whose
   attention moved most; direct attribution of the heads that moved most. In order, with what the order survives.
3. Heads whose direct attribution reversed its sign, by intervals on both sides.
4. The key layers and heads by grafting (where the gain was written) and by attribution (whose direct contribution to the
   logits moved): two lists, and where they disagree. The larger of a graft's two shares does not hide the other.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr

from instar.compare.diff import plain
from instar.compare.evidence import items
from instar.compare.series import Moment, agreed, change_points, moment, order, over_seeds, reversals, shape
from instar.record.store import SHARED, Store

WATCHED = 3
"""Heads of each kind whose events are put in order."""
MOVED = 0.05
"""Less of the last token's attention is not called a move."""
KEY, LEAST = 5, 0.05
"""At most so many components are called key, and none below this share of the gain, or of all direct changes."""


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
    """Key layers and heads by both lists; None without causal tests of the last step."""
    path = store.compared("evidence", seed, steps[-1])
    direct = store.series("attribution", tasks["new"], steps=[steps[0], steps[-1]])
    if not path.exists() or direct is None or store.read_measurement("causal", SHARED, seed, steps[-1]) is None:
        return None
    found = items(store.read_dataset(path))
    change = direct.isel(step=-1) - direct.isel(step=0)
    heads = change["heads"].mean("pair").transpose("layer", "head")
    attention = (change["heads"].sum("head") + change["attn_bias"]).mean("pair")
    mlp = change["mlp"].mean("pair")
    moved = {f"a{int(i)}.h{int(h)}": float(heads.sel(layer=i, head=h)) for i in heads["layer"] for h in heads["head"]}
    layers = {f"a{int(i)}": float(attention.sel(layer=i)) for i in attention["layer"]}
    layers |= {f"m{int(i)}": float(mlp.sel(layer=i)) for i in mlp["layer"]}
    return {"layers": _lists(found, layers), "heads": _lists(found, moved)}


def _lists(found: dict[str, Any], attribution: dict[str, float]) -> dict[str, Any]:
    """The first `KEY` by each list, if they are large enough.

    Grafting ranks by the smaller of its two shares: what is sufficient *and* necessary.
    """
    names = [n for n in attribution if f"graft {n} into" in found]
    shares = {n: [found[f"graft {n} {way}"] for way in ("into", "lost")] for n in names}
    both = {n: min(i.value for i in shares[n]) for n in names}
    sure = [n for n in names if both[n] >= LEAST and all(i.low > 0 for i in shares[n])]
    grafted = sorted(sure, key=lambda n: -both[n])[:KEY]
    whole = sum(abs(v) for v in attribution.values())
    moved = [n for n in attribution if abs(attribution[n]) >= LEAST * whole]
    direct = sorted(moved, key=lambda n: -abs(attribution[n]))[:KEY]
    rows = {
        n: {"into": asdict(shares[n][0]), "lost": asdict(shares[n][1])}
        for n in dict.fromkeys((*grafted, *direct))
        if n in shares
    }
    return {
        "by_grafting": grafted,
        "by_attribution": direct,
        "attribution": {n: attribution[n] for n in dict.fromkeys((*grafted, *direct))},
        "shares": rows,
        "only_by_grafting": [n for n in grafted if n not in direct],
        "only_by_attribution": [n for n in direct if n not in grafted],
    }
