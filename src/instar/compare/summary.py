"""summary.json: what a run found, in one documented file (docs/formats.md)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from instar import __version__
from instar.compare import baselines
from instar.compare.answered import answers
from instar.compare.behaviour import behaviour, bounds
from instar.compare.changed import changed_heads, changed_layers
from instar.compare.checkpoints import diffs, evidences
from instar.compare.dynamics import dynamics
from instar.record.config import CONTROLS
from instar.record.store import SCHEMA, SHARED, Store
from instar.stats.intervals import Interval, bootstrap_mean
from instar.stats.scales import effect, usable, why_not


@dataclass(frozen=True)
class Compared:
    """What is compared."""

    model: str
    tasks: dict[str, str]
    """Names by role, `old` and `new`."""
    seeds: Sequence[int]
    controls: Sequence[str]
    places: Mapping[str, Collection[int]]
    """The steps at which each stage was to be measured."""
    ours: bool = True
    """Whether the training is instar's own."""


def summarise(store: Store, of: Compared, failures: list[dict[str, Any]], key: str = "") -> dict[str, Any]:
    """Write and return the summary."""
    store.write_json(store.summary, found(store, of, failures), key=key)
    return store.read_json(store.summary)


def found(store: Store, of: Compared, failures: list[dict[str, Any]]) -> dict[str, Any]:
    """The summary of what is there: of a run under way, of the checkpoints that have all that was to be measured."""
    tasks, seeds = of.tasks, list(of.seeds)
    steps = common_steps(store, of.places, list(tasks.values()))
    # Evidence is written here and read by what follows.
    controls = {name: _control(store, tasks, name) for name in of.controls}
    causal = evidences(store, tasks, seeds)
    rows = (store.index() or {"steps": []})["steps"]
    read = [(row, store.attributes("evaluate", tasks["old"], seeds[0], row["step"])) for row in rows]
    return {
        "schema": SCHEMA,
        "instar": __version__,
        "model": of.model,
        "old": tasks["old"],
        "new": tasks["new"],
        "tasks": {name: _behaviour(store, name, role, seeds, steps) for role, name in tasks.items()},
        "training": _training(store, seeds),
        "checkpoints": _checkpoints(read),
        "health": [finding | {"seed": s} for s in seeds for finding in (store.index(s) or {"health": []})["health"]],
        "divergence": _divergence(store, steps),
        "weight_change": _weight_change(store, steps),
        "changed": {
            "heads": {name: _changed(store, name, steps, changed_heads) for name in tasks.values()},
            "layers": {name: _changed(store, name, steps, changed_layers) for name in tasks.values()},
        },
        "circuits": {name: _circuits(store, name, steps) for name in tasks.values()},
        "audit": _audit(store),
        "wordings": _wordings(store),
        "failed": failures,
        "notices": _notices(store, read),
        "diff": diffs(store, tasks, steps, of.controls),
        "dynamics": dynamics(store, tasks, seeds, steps),
        "controls": controls,
        "answer": answers(store, tasks, seeds, controls, of.ours),
        "causal": causal,
    }


def common_steps(store: Store, places: Mapping[str, Collection[int]], tasks: list[str]) -> list[int]:
    """The steps that have all that was to be measured there: a run under way, or with a failed checkpoint, has some only."""
    every = set.intersection(*(set(store.measured_steps("evaluate", task)) for task in tasks))
    for stage, wanted in places.items():
        for task in [SHARED] if stage == "drift" else tasks:
            # A stage that no checkpoint has is not drawn at all.
            if found := store.measured_steps(stage, task):
                every -= set(wanted) - set(found)
    steps = sorted(every)
    if not steps:
        raise ValueError(
            f"{store.root}: no checkpoint has been measured on both tasks; run `instar measure {store.root}`"
        )
    return steps


OF_OTHER_SEEDS = ("steps", "accuracy", "choice_accuracy", "naming", "choosing", "logit_diff", "gain")


def _behaviour(store: Store, task: str, role: str, seeds: list[int], steps: list[int]) -> dict[str, Any]:
    """The series of one task: the first seed's in full, of the others what is drawn."""
    series = store.series("evaluate", task, steps=steps)
    if series is None:
        raise ValueError(f"{store.root}: {task} has not been evaluated; run `instar measure {store.root}`")
    found = {"role": role, **behaviour(series)}
    others = {}
    for seed in seeds[1:]:
        other = store.series("evaluate", task, seed)
        if other is not None:
            others[str(seed)] = {k: v for k, v in behaviour(other).items() if k in OF_OTHER_SEEDS}
    return found | {"seeds": others, "baselines": baselines.listed(baselines.stored(store, task))}


def _training(store: Store, seeds: list[int]) -> dict[str, Any]:
    columns = ("step", "loss", "tokens", "train_accuracy", "heldout_accuracy", "end_of_text", "bytes")
    found = {}
    for seed in seeds:
        rows = (store.index(seed) or {"steps": []})["steps"]
        found[str(seed)] = {column: [row[column] for row in rows] for column in columns}
    return found


Read = list[tuple[dict[str, Any], dict[str, Any]]]
"""Each checkpoint's row of the index, and how its behaviour was measured."""


def _checkpoints(read: Read) -> list[dict[str, Any]]:
    """Where each checkpoint of the first seed came from, and how far merging an adapter moved its logits."""
    found = []
    for row, own in read:
        made = {
            name: own.get(name)
            for name in ("weights", "dtype", "prompts", "adapter", "merge_error", "dequantised_from")
        }
        found.append({"step": row["step"], "source": row.get("source"), "revision": row.get("revision"), **made})
    return found


SAID_OF_CHECKPOINTS = {"left_over": "weights", "adapter_base": "adapter", "tokenizer": "tokenizer"}
"""What measurements carry of how a checkpoint was read, where that is not plain."""


def _notices(store: Store, read: Read) -> list[dict[str, Any]]:
    """What a reader has to know beside the numbers: how checkpoints were read, and results of several versions."""
    found: dict[tuple[str, str], list[int]] = {}
    for row, own in read:
        for name, kind in SAID_OF_CHECKPOINTS.items():
            if own.get(name):
                found.setdefault((kind, str(own[name])), []).append(row["step"])
    notices: list[dict[str, Any]] = []
    for (kind, text), steps in found.items():
        where = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
        notices.append({"kind": kind, "steps": steps, "text": f"{where}: {kind}: {text}"})
    versions = store.made_with()
    if len(versions) > 1:
        parts = (
            f"{count} with {made or 'an earlier instar, which did not say'}" for made, count in versions.most_common()
        )
        text = f"measurements of several versions are compared: {'; '.join(parts)}. --remeasure makes all of them anew"
        notices.append({"kind": "versions", "steps": [], "text": text})
    return notices


def _divergence(store: Store, steps: list[int]) -> dict[str, Any] | None:
    """KL(base ‖ checkpoint) in nats per token on general text."""
    series = store.series("drift", SHARED, steps=steps)
    if series is None or bool(series["kl"].isnull().all()):
        return None
    values = series["kl"].transpose("text", "step").values
    return {"steps": series["step"].values.tolist(), **bounds("kl", bootstrap_mean(values))}


def _weight_change(store: Store, steps: list[int]) -> dict[str, Any] | None:
    series = store.series("drift", SHARED, steps=steps)
    if series is None:
        return None
    norms = series["weight_norm"].isel(step=0)
    return {
        name: {
            "norm": float(norms.sel(component=name)),
            "change": series["weight_change"].sel(component=name).values.tolist(),
        }
        for name in series["component"].values.tolist()
    }


def _circuits(store: Store, task: str, steps: list[int]) -> dict[str, Any] | None:
    """By corruption: the smallest faithful circuit's size (null: none), areas, agreement with exact, and b − c."""
    names = {"size": "circuit_size", **{n: n for n in ("cpr", "cmd", "random_cpr", "rank_correlation")}}
    series = store.series(
        "circuit", task, steps=steps, only=lambda dataset: _with_effect(dataset, list(names.values()))
    )
    if series is None:
        return None
    return {
        str(group): {
            "steps": series["step"].values.tolist(),
            **{name: series[of].sel(group=group).transpose("step").values.tolist() for name, of in names.items()},
            **_effects(series.sel(group=group)),
        }
        for group in series["group"].values
    }


def _with_effect(dataset: xr.Dataset, names: list[str]) -> xr.Dataset:
    """Of one circuit file what is told, and b − c of the pairs that faithfulness is on, which older files lack."""
    found = dataset[names]
    if "curve_clean" not in dataset:
        return found
    rows = {"effect": [], "effect_low": [], "effect_high": [], "prompts": []}
    for group in dataset["group"].values:
        own = dataset.sel(group=group)
        prompt = own["evaluated_prompt"].values
        there = prompt >= 0
        b, c = (own[f"curve_{end}"].values[there] for end in ("clean", "corrupted"))
        whole = effect(b, c, prompt[there])
        numbers = (whole.value, whole.low, whole.high, len(np.unique(prompt[there])))
        for row, number in zip(rows.values(), numbers, strict=True):
            row.append(float(number))
    return found.assign({name: ("group", np.array(row)) for name, row in rows.items()})


def _effects(own: xr.Dataset) -> dict[str, list[Any]]:
    """b − c of one group by step, and where nothing may be divided by it, why; nothing where no file has it."""
    if "effect" not in own:
        return {}
    columns = {name: own[name].transpose("step").values.tolist() for name in ("effect", "effect_low", "effect_high")}
    rows = zip(*columns.values(), own["prompts"].values.tolist(), strict=True)
    reasons = [
        None if prompts != prompts or usable(Interval(*bounds)) else why_not(Interval(*bounds), int(prompts))
        for *bounds, prompts in rows
    ]
    return columns | {"not_measured": reasons}


def _changed(store: Store, task: str, steps: list[int], rank: Any) -> list[dict[str, Any]]:
    series = store.series("attribution", task, steps=steps)
    return [] if series is None or series.sizes["step"] < 2 else rank(series)


def _control(store: Store, tasks: dict[str, str], name: str) -> dict[str, Any] | None:
    """The end of a control fine-tuning: accuracy on both tasks, and how far its weights went."""
    found: dict[str, Any] = {"is": CONTROLS[name]}
    for task in tasks.values():
        series = store.series("evaluate", task, name)
        if series is None:
            return None
        found[task] = {k: v[-1] for k, v in behaviour(series).items() if k.startswith("accuracy")}
    drift = store.series("drift", SHARED, name)
    if drift is not None:
        found["weights moved"] = float(np.sqrt((drift["weight_change"].isel(step=-1) ** 2).sum()))
    return found


def _wordings(store: Store) -> list[dict[str, Any]] | None:
    """How the base answered each wording, and which were kept; None where it was not asked."""
    path = store.data("wordings.json")
    return store.read_json(path)["wordings"] if path.exists() else None


def _audit(store: Store) -> dict[str, Any] | None:
    path = store.data("audit.json")
    if not path.exists():
        return None
    report = store.read_json(path)
    findings = [
        {k: f[k] for k in ("kind", "severity", "count", "unit", "text", "tested") if k in f} for f in report["findings"]
    ]
    return {"ok": report["ok"], "rows": report["rows"], "findings": findings}
