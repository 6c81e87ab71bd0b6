"""What is inside the embedded models: `python -m benchmarks.organism`; `--ablations` leaves each steering out as well.

For each family and seed, a model is made from nothing and fine-tuned as `instar demo` does it; what is there is not made
again. Before and after, on held-out pairs (`giver1`'s counterfactual inside):

1. accuracy of the old and the new task, with Wilson intervals;
2. direct attribution: shares of the logit difference, by heads (layer by layer) and MLPs;
3. path patching: all heads of a layer → q, k, v of the name movers above it (the heads that write most), and → the logits;
   shares of b − c;
4. roles: the heads with the highest scores;
5. the smallest circuit that keeps 0.85 of the effect (EAP-IG), and its faithfulness on other pairs.

`benchmarks/organism.json` has the numbers; the tables of docs/organism.md are printed.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import instar
from instar.models.organism.recipe import RECIPES, REPORT_SEED, Recipe, make
from instar.record.config import RunConfig
from instar.stats.intervals import bootstrap_mean, bootstrap_ratio, wilson
from instar.workflow.demo import demo_config
from instar.workflow.experiment import Experiment
from instar.workflow.pipeline import train_stage

PAIRS, INSIDE, FAITHFUL, WRITERS = 4000, 96, 0.85, 6
ABLATIONS: dict[str, Callable[[Recipe], Recipe]] = {
    "nothing left out": lambda recipe: recipe,
    "W_V, W_O as usual, and trained": lambda recipe: replace(recipe, shape=replace(recipe.shape, fixed=False)),
    "no guide": lambda recipe: replace(recipe, shape=replace(recipe.shape, guide=0.0)),
    "copying heads not guided": lambda recipe: replace(recipe, shape=replace(recipe.shape, guide_copying=False)),
    "MLPs of four times the width": lambda recipe: replace(
        recipe, shape=replace(recipe.shape, inner=4 * recipe.shape.width)
    ),
}


def made(folder: Path, recipe: Recipe) -> Path:
    """A model of the recipe, unless it is there."""
    facts = folder / "facts.json"
    asked = json.loads(json.dumps(asdict(recipe)))
    if not facts.exists() or json.loads(facts.read_text(encoding="utf-8"))["recipe"] != asked:
        make(folder, recipe, strict=False)
    return folder


def tuned(folder: Path, source: Path, seed: int = 0) -> tuple[instar.Model, instar.Model]:
    """The model, and what the demonstration's fine-tuning makes of it."""
    demo = demo_config().model_dump(exclude_unset=True)
    demo |= {"model": {"source": str(source)}, "compare": {"controls": []}, "threads": 1}
    demo["train"] |= {"seeds": [seed], "checkpoints": [demo_config().train.steps]}
    experiment = Experiment.create(folder, RunConfig.model_validate(demo), replace=True)
    train_stage(experiment)
    (tuning,) = experiment.tunings
    base = experiment.begun()
    return base, experiment.checkpoint(tuning, demo_config().train.steps, base)


def accuracy(model: instar.Model, task: str) -> dict[str, float]:
    """Of the held-out pairs that the card reports."""
    batch = instar.task(task).batch(model, PAIRS, REPORT_SEED)
    right = int(instar.evaluate(model, batch)["accuracy"].sum())
    found = wilson(right, PAIRS)
    return {"value": right / PAIRS, "low": float(found.low), "high": float(found.high)}


def inside(model: instar.Model, task: str) -> dict[str, Any]:
    """Where the logit difference of a task is written, and by which way."""
    asked = instar.task(task)
    givers = [kind for kind in asked.counterfactuals if kind.startswith("giver")]
    batches = {kind: asked.batch(model, INSIDE, 11, counterfactual=kind) for kind in givers}
    batch = batches["giver1"]
    written = instar.attribution(model, batch)
    heads, total = written["heads"], written["total"]
    order = np.argsort(-heads.mean("pair").values.ravel())[:WRITERS]
    movers = [(int(i) // heads.sizes["head"], int(i) % heads.sizes["head"]) for i in order]
    circuit = instar.edges(model, batch, "eap-ig").circuit(faithfulness=FAITHFUL)
    other = asked.batch(model, INSIDE, 99, counterfactual="giver1")
    return {
        "logit difference": _interval(bootstrap_mean(total.values)),
        "heads": _interval(bootstrap_ratio(heads.sum(("layer", "head")).values, total.values)),
        "heads by layer": (heads.sum("head").mean("pair") / total.mean()).values.round(3).tolist(),
        "mlps": _interval(bootstrap_ratio(written["mlp"].sum("layer").values, total.values)),
        "name movers": [f"{layer}.{head}" for layer, head in movers],
        "paths": _paths(model, batch, movers),
        "roles": _roles(instar.roles(model, batches)),
        "circuit": {
            "heads": sorted(f"{layer}.{head}" for layer, head in circuit.heads),
            "share of heads": len(circuit.heads) / (heads.sizes["layer"] * heads.sizes["head"]),
            "edges": len(circuit.edges),
            "faithfulness, other pairs": float(np.ravel(instar.faithfulness(model, other, circuit)["faithfulness"])[0]),
        },
    }


def _interval(found: Any) -> dict[str, float]:
    return {"value": float(found.value), "low": float(found.low), "high": float(found.high)}


def _paths(model: instar.Model, batch: instar.Batch, movers: list[tuple[int, int]]) -> dict[str, dict[str, Any]]:
    """Of b − c, what each layer's heads send to the movers' q, k and v, and to the logits."""
    layout = model.layout
    found: dict[str, dict[str, Any]] = {}
    for layer in range(layout.n_layers):
        senders = [f"a{layer}.h{head}" for head in range(layout.n_heads)]
        above = [(own, head) for own, head in movers if own > layer]
        for letter in "qkv":
            group = layout.n_heads // layout.n_kv_heads if letter in "kv" else 1
            into = sorted({f"a{own}.h{head // group}<{letter}>" for own, head in above})
            if into:
                found.setdefault(f"layer {layer}", {})[letter] = _sent(model, batch, senders, into)
        found.setdefault(f"layer {layer}", {})["logits"] = _sent(model, batch, senders, ["logits"])
    return found


def _sent(model: instar.Model, batch: instar.Batch, senders: list[str], into: list[str]) -> dict[str, float]:
    found = instar.path_patching(model, batch, senders, into)
    return _interval(bootstrap_ratio(found["change"].values, (found["clean"] - found["corrupted"]).values))


def _roles(found: xr.Dataset) -> dict[str, str]:
    scores = {name: found[name].mean("sequence") for name in ("previous_token", "duplicate_token", "induction")}
    scores |= {"name_mover": found["name_mover"].mean("pair")}
    scores |= {
        f"s_inhibition, {kind}": found["s_inhibition"].sel(counterfactual=kind).mean("pair")
        for kind in found["counterfactual"].values
    }
    scores |= {
        f"last token → {name}": found["to_slot"].mean("pair").sel(target=name) for name in found["target"].values
    }
    return {name: _highest(values) for name, values in scores.items()}


def _highest(values: xr.DataArray, count: int = 4) -> str:
    flat = np.nan_to_num(values.transpose("layer", "head").values, nan=-np.inf)
    order = np.argsort(-flat.ravel())[:count]
    return ", ".join(f"{i // flat.shape[1]}.{i % flat.shape[1]} {flat.ravel()[i]:.2f}" for i in order)


def one(job: tuple[Path, str, int, str]) -> dict[str, Any]:
    """One family, seed and ablation: made, fine-tuned, measured."""
    out, family, seed, left_out = job
    torch.set_num_threads(1)
    recipe = replace(ABLATIONS[left_out](RECIPES[family]), seed=seed)
    name = f"{family}, seed {seed}, {left_out}"
    base, after = tuned(out / f"{name}, tuned", made(out / name, recipe))
    tasks = {"before": (base, ("ioi2", "ioi3")), "after": (after, ("ioi2", "ioi3"))}
    result: dict[str, Any] = {"family": family, "seed": seed, "left out": left_out}
    for when, (model, both) in tasks.items():
        result[when] = {task: {"accuracy": accuracy(model, task), **_if_known(model, task)} for task in both}
    return result


def _if_known(model: instar.Model, task: str) -> dict[str, Any]:
    """What is inside says something where the task is done at all."""
    try:
        return inside(model, task)
    except ValueError as error:  # no circuit has 0.85 of an effect that is not there
        return {"not measured": str(error)}


def tables(results: list[dict[str, Any]]) -> Iterable[str]:
    """Markdown."""
    head = (
        "",
        "ioi2 before",
        "ioi3 before",
        "ioi2 after",
        "ioi3 after",
        "heads write",
        "circuit of ioi2: heads, layers",
    )
    yield f"| {' | '.join(head)} |\n{'|---' * len(head)}|"
    for r in results:
        old = r["before"]["ioi2"]
        cells = [_percent(r[when][task]["accuracy"]) for when in ("before", "after") for task in ("ioi2", "ioi3")]
        if "heads" in old:
            layers = sorted({head.split(".")[0] for head in old["circuit"]["heads"]})
            cells += [f"{old['heads']['value']:.0%}", f"{len(old['circuit']['heads'])}, {' '.join(layers)}"]
        else:
            cells += ["–", "–"]
        label = f"{r['family']}, seed {r['seed']}" + (
            f", {r['left out']}" if r["left out"] != "nothing left out" else ""
        )
        yield f"| {label} | {' | '.join(cells)} |"


def _percent(found: dict[str, float]) -> str:
    return f"{found['value']:.1%} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/organism"))
    parser.add_argument("--families", nargs="+", default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--ablations", action="store_true", help="leave each steering of the first family out, over the first two seeds"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", type=Path, default=Path("benchmarks/organism.json"))
    options = parser.parse_args()
    jobs = [(options.out, family, seed, "nothing left out") for family in options.families for seed in options.seeds]
    if options.ablations:
        first = options.families[0]
        jobs += [(options.out, first, seed, name) for name in list(ABLATIONS)[1:] for seed in options.seeds[:2]]
    with get_context("spawn").Pool(options.processes) as pool:
        results = []
        for result in pool.imap(one, jobs, chunksize=1):
            results.append(result)
            options.write.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print("\n".join(tables([result])).splitlines()[-1], flush=True)
    print("\n".join(tables(results)))


if __name__ == "__main__":
    main()
