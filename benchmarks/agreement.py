"""How well edge scores agree with patching, method by method: `python -m benchmarks.agreement --models embedded FOLDER`.

A model is `embedded`, a folder, or `NAME=FOLDER`; without `--models` the embedded one and, where there is one, the first
model folder in `$INSTAR_MODELS` or `.models/`. For each model and task, the givers' counterfactuals with equal weight:

1. Every edge (or a random sample, `--sample`) is patched by itself, pair by pair, and scored by every method on the same
   pairs.
2. Spearman's rank correlation of the mean scores over pairs, and the share of the k edges that are largest by patching
   which are among the k largest by the method, k = 1 % and 10 % of the edges patched.
3. CPR and CMD of circuits of MIB's ten sizes, on as many other pairs.
4. CPU seconds of scoring, one thread: other work on the machine does not count.

Intervals are 95 %, by resampling prompts; a pair of the second counterfactual is another prompt. `minus eap-ig` is the
difference of two methods on the same resamples: where it spans 0, neither is the better one.
"""

import argparse
import datetime
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.__main__ import machine
from scipy.stats import rankdata

import instar
from instar.circuits.graph import Graph
from instar.circuits.selection import GRID, grid_sizes, select
from instar.measure.common import fitting, sorted_pieces
from instar.measure.edge_patching import exact_edges
from instar.models.replay import Engine
from instar.stats.intervals import bootstrap_mean, resamples
from instar.stats.scales import usable

METHODS = ("eap", "eap-ig", "gim", "relp", "relp-ah")
AGAINST = "eap-ig"
RESAMPLES = 500
SHARES = (0.01, 0.1)
Estimates = dict[str, np.ndarray]
"""The value on all pairs first, then on each resample."""


def batches(model: instar.Model, task: str, pairs: int, seed: int) -> list[instar.Batch]:
    """`pairs` prompts of a task, an equal part for each giver's counterfactual."""
    own = instar.task(task)
    givers = [kind for kind in own.counterfactuals if kind.startswith("giver")]
    return [own.batch(model, pairs // len(givers), seed + i, counterfactual=kind) for i, kind in enumerate(givers)]


def exact(model: instar.Model, parts: list[instar.Batch], chosen: np.ndarray) -> np.ndarray:
    """m(edge patched) − m(clean), [pair, edge]."""
    engine, edges, found = Engine(model.layout), [(int(u), int(v)) for u, v in chosen], []
    for part in parts:
        values = np.zeros((len(part), len(edges)))
        size = fitting(16, part, model, len(Graph.of(model.layout).sources))
        for rows, piece in sorted_pieces(part, model, size):
            values[rows] = exact_edges(engine, piece, edges).T.double().numpy()
        found.append(values)
    return np.concatenate(found)


@dataclass(frozen=True)
class Scored:
    """One method's scores of every edge, [pair, source, destination], and what they cost."""

    scores: np.ndarray
    seconds: float

    @classmethod
    def by(cls, model: instar.Model, parts: list[instar.Batch], method: Any) -> "Scored":
        kept = [instar.edges(model, part, method, per_pair=True).dataset["score"].values for part in parts]
        # What is timed comes second: the first pass also brings the code into memory.
        began = time.process_time()
        for part in parts:
            instar.edges(model, part, method)
        return cls(np.nan_to_num(np.concatenate(kept)), time.process_time() - began)


def agreement(patched: np.ndarray, scored: dict[str, np.ndarray]) -> dict[str, Estimates]:
    """Rank correlation and overlaps of every method [pair, edge] with patching, by name of the number."""
    pairs, edges = patched.shape
    weights = np.concatenate([np.full((1, pairs), 1 / pairs), resamples(pairs, count=RESAMPLES)])
    truth = weights @ patched
    ranks = rankdata(truth, axis=1)
    sizes = {f"top {share:.0%}": max(1, round(share * edges)) for share in SHARES}
    found: dict[str, Estimates] = {name: {} for name in ("spearman", *sizes)}
    for method, values in scored.items():
        means = weights @ values
        found["spearman"][method] = _rowwise(ranks, rankdata(means, axis=1))
        for name, k in sizes.items():
            ours, theirs = (np.argsort(-np.abs(x), axis=1, kind="stable")[:, :k] for x in (means, truth))
            both = [len(np.intersect1d(a, b)) / k for a, b in zip(ours, theirs, strict=True)]
            found[name][method] = np.array(both)
    return found


def _rowwise(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def areas(model: instar.Model, parts: list[instar.Batch], scored: dict[str, np.ndarray]) -> dict[str, Estimates]:
    """CPR and CMD of every method's mean scores [source, destination]; NaN where b − c is not clearly above 0."""
    graph = Graph.of(model.layout)
    circuits = [select(graph, s, n) for s in scored.values() for n in grid_sizes(graph, GRID)]
    found = [instar.faithfulness(model, part, circuits) for part in parts]
    metric, clean, corrupted = (
        np.concatenate([f[name].values for f in found], -1) for name in ("metric", "clean", "corrupted")
    )
    pairs = len(clean)
    weights = np.concatenate([np.full((1, pairs), 1 / pairs), resamples(pairs, count=RESAMPLES)])
    below = weights @ (clean - corrupted)
    below = below if usable(bootstrap_mean(clean - corrupted)) else np.full_like(below, np.nan)
    f = (weights @ (metric - corrupted).T) / below[:, None]
    f = f.reshape(len(weights), len(scored), len(GRID))
    area = {"cpr": np.trapezoid(f, GRID, axis=-1), "cmd": np.trapezoid(np.abs(1 - f), GRID, axis=-1)}
    return {name: dict(zip(scored, values.T, strict=True)) for name, values in area.items()}


def _interval(values: np.ndarray) -> list[float]:
    return [float(values[0]), *(float(q) for q in np.quantile(values[1:], [0.025, 0.975]))]


def rows(
    name: str, model: instar.Model, task: str, pairs: int, sample: int | None, chunk_seed: int = 0
) -> dict[str, Any]:
    """All methods on one model and task."""
    graph = Graph.of(model.layout)
    every = np.argwhere(graph.exists)
    chosen = every
    if sample < len(every):
        chosen = every[np.sort(np.random.default_rng(0).permutation(len(every))[:sample])]
    parts, others = batches(model, task, pairs, 0), batches(model, task, pairs, 100)
    began = time.process_time()
    patched = exact(model, parts, chosen)
    seconds = time.process_time() - began
    print(f"{name}, {task}: {len(chosen)} edges patched in {seconds:.0f} s", flush=True)
    found = {method: Scored.by(model, parts, method) for method in METHODS}
    numbers = agreement(patched, {m: s.scores[:, chosen[:, 0], chosen[:, 1]] for m, s in found.items()})
    numbers |= areas(model, others, {m: s.scores.mean(0) for m, s in found.items()})
    methods = [
        {"method": method, "seconds": found[method].seconds}
        | {key: _interval(values[method]) for key, values in numbers.items()}
        | {f"{key} minus {AGAINST}": _interval(values[method] - values[AGAINST]) for key, values in numbers.items()}
        for method in METHODS
    ]
    about = {"model": name, "task": task, "edges": graph.n_edges, "patched": len(chosen), "exact_seconds": seconds}
    return about | {"pairs": len(patched), "evaluated": sum(len(b) for b in others), "methods": methods}


def table(result: dict[str, Any]) -> str:
    """The rows of one model and task as Markdown."""
    head = ("method", "Spearman", "top 1 %", "top 10 %", "CPR", "CMD", "CPU s")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in result["methods"]:
        forms = {"spearman": ".2f", "top 1%": ".2f", "top 10%": ".2f", "cpr": ".3f", "cmd": ".3f"}
        cells = ["{} ({} to {})".format(*(format(v, form) for v in row[key])) for key, form in forms.items()]
        lines.append(f"| `{row['method']}` | {' | '.join(cells)} | {row['seconds']:.2f} |")
    title = "{model}, {task}: {patched:,} of {edges:,} edges, {pairs} pairs; exact {exact_seconds:.0f} s".format(
        **result
    )
    return "\n".join([title, "", *lines, ""])


def _found() -> list[str]:
    root = Path(os.environ.get("INSTAR_MODELS", ".models"))
    return ["embedded", *sorted(str(p.parent) for p in root.glob("**/config.json"))[:1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=None)
    parser.add_argument("--tasks", nargs="+", default=["ioi2", "ioi3"])
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--sample", type=int, default=5000, help="edges patched of a model that has more")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/agreement.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    if options.out.exists():
        # Other models' rows stay; the same ones are made anew.
        results = json.loads(options.out.read_text(encoding="utf-8"))["results"]
    for source in options.models or _found():
        called, _, folder = source.rpartition("=")
        model, name = instar.load(folder), called or Path(folder).name
        for task in options.tasks:
            own = rows(name, model, task, options.pairs, options.sample)
            results = [r for r in results if (r["model"], r["task"]) != (name, task)] + [own]
            print(table(own), flush=True)
            whole = {"date": datetime.date.today().isoformat(), "machine": machine(), "torch": torch.__version__}
            options.out.write_text(json.dumps(whole | {"results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
