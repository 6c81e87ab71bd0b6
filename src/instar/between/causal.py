"""Everything causal between a base and one checkpoint, in one file.

1. Weight grafts (`instar.between.graft`), both ways, for both tasks, on clean prompts, beside random sets matched per layer.
2. Outputs exchanged (`instar.between.exchange`), both ways, for the new task, beside the same random sets.
3. Necessity: the heads of the old circuit, as one set, take their values on the corrupted prompts (noising), in the tuned
   model; beside ≥ 100 matched random sets. Single heads are backed up by others and would look superfluous.
4. Transfer: how faithful the old circuit is by itself in the tuned model on the new task, and the new one in the base.
5. Residual learning, layer by layer; heads that bear each other's names (`instar.models.weights.permuted`).

All values are logits per pair: shares, with their intervals, are made in `instar.compare.evidence`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from instar.between.exchange import exchange, residual_learning
from instar.between.graft import graft, sets_of
from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.circuits.sets import all_heads, all_mlps, heads_of, matched
from instar.measure.common import about, prompts
from instar.measure.faithfulness import faithfulness
from instar.measure.paths import set_patching
from instar.models.load import Model, weights_now
from instar.models.plain import measured
from instar.models.weights import permuted
from instar.tasks.batch import Batch

TRANSFERRED = ("old circuit in tuned", "new circuit in base", "random in tuned")


@dataclass(frozen=True)
class Prompts:
    """One task's pairs: clean ones, and those with each giver's counterfactual, one after another."""

    clean: Batch
    givers: Batch


@measured
def causal(
    base: Model,
    tuned: Model,
    old: Prompts,
    new: Prompts,
    old_circuit: Circuit,
    new_circuit: Circuit,
    *,
    random: int = 100,
    exchanged: int = 30,
    single: bool = True,
    by_layer: bool = True,
    seed: int = 0,
    chunk: int = 64,
) -> xr.Dataset:
    """All causal tests of `tuned`.

    Args:
        old: pairs of the old task. `new`: of the new one; as many clean ones.
        old_circuit: of the old task in the base; its heads are "inside". `new_circuit`: of the new task in `tuned`.
        random: matched sets for necessity. `exchanged`: of these, for grafting and cross-model patching.
        single: also graft every single head, and all layers up to each.
        by_layer: also graft, and exchange the outputs of, every layer's attention and MLP by itself.

    Returns:
        Logits on `pair`, with `task` (old, new), `set`, `carried`, `draw`: see docs/formats.md.
    """
    graph = Graph.of(base.layout)
    inside = heads_of(old_circuit.nodes)
    others = tuple(h for h in all_heads(graph) if h not in inside)
    null = matched(graph, inside, random, seed)
    random_sets = {f"random {i}": some for i, some in enumerate(null.sets[:exchanged])}
    data = _grafts(base, tuned, (old.clean, new.clean), sets_of(graph, inside, single, by_layer) | random_sets, chunk)
    groups = {"inside": inside, "outside": others, "heads": all_heads(graph)}
    data |= _exchanges(base, tuned, new.clean, groups, random_sets, by_layer, chunk)
    data |= _necessity(tuned, new.givers, inside, null.sets, "new", chunk)
    data |= _necessity(tuned, old.givers, inside, (), "old", chunk)
    data |= _transfer(base, tuned, new.givers, old_circuit, new_circuit, seed)
    data["added"] = (("layer", "part", "pair"), residual_learning(base, tuned, new.clean, chunk=chunk)["added"].values)
    coords = {"layer": np.arange(graph.n_layers), "part": ["attention", "mlp"], "task": ["old", "new"]}
    attrs = about(
        tuned, new.clean, base_weights=weights_now(base), inside=list(inside), matched_possible=null.possible,
        matched_overlap=null.overlap, permuted=permuted(base.layout, tuned.layout), seed=seed,
    )  # fmt: skip
    return xr.Dataset(data).assign_coords(coords).assign_attrs(attrs)


def _grafts(base: Model, tuned: Model, batches: Sequence[Batch], sets: dict[str, Any], chunk: int) -> dict[str, Any]:
    found = [graft(base, tuned, batch, sets, chunk=chunk) for batch in batches]
    return {
        f"graft_{name}": xr.concat([f[name] for f in found], "task", coords="minimal", compat="override").drop_vars(
            ["place", "wording", "pair"], errors="ignore"
        )
        for name in found[0].data_vars
    }


def _exchanges(
    base: Model, tuned: Model, batch: Batch, groups: dict[str, Any], random: dict[str, Any], by_layer: bool, chunk: int
) -> dict[str, Any]:
    graph, heads = Graph.of(base.layout), groups["heads"]
    sets: dict[str, Any] = {**groups, "mlps": all_mlps(graph)}
    for layer in range(graph.n_layers) if by_layer else ():
        sets |= {f"a{layer}": [h for h in heads if h.startswith(f"a{layer}.")], f"m{layer}": [f"m{layer}"]}
    found = exchange(base, tuned, batch, sets | random, chunk=chunk)
    return {
        f"carry_{k}": found[k].rename(set="carried").drop_vars(["place", "wording", "pair"]) for k in ("into", "lost")
    }


def _necessity(
    tuned: Model, batch: Batch, inside: Sequence[str], null: Sequence[Any], name: str, chunk: int
) -> dict[str, Any]:
    """The metric without the set `inside` (first) and without each matched one."""
    sets = {"inside": inside} | {f"random {i}": s for i, s in enumerate(null)}
    found = set_patching(tuned, batch, sets, direction="noising", chunk=chunk)
    axis = f"{name}_ablated"
    return {
        f"ablated_{name}": ((f"{name}_knocked", axis), found["metric"].transpose("set", "pair").values),
        f"ablated_{name}_clean": (axis, found["clean"].values),
        f"ablated_{name}_corrupted": (axis, found["corrupted"].values),
        f"ablated_{name}_prompt": (axis, prompts(batch)),
        f"{name}_knocked": list(sets),
    }


def _transfer(base: Model, tuned: Model, batch: Batch, old: Circuit, new: Circuit, seed: int) -> dict[str, Any]:
    """Metrics of circuits by themselves, on the new task; the random one has as many edges as the old circuit."""
    graph = old.graph
    order = np.random.default_rng(seed).permutation(graph.n_edges)[: len(old)]
    rows, columns = np.nonzero(graph.exists)
    mask = np.zeros(graph.exists.shape, bool)
    mask[rows[order], columns[order]] = True
    in_tuned = faithfulness(tuned, batch, [old, Circuit.of(graph, mask)])
    in_base = faithfulness(base, batch, [new])
    metric = np.stack([in_tuned["metric"].values[0], in_base["metric"].values[0], in_tuned["metric"].values[1]])
    found: dict[str, Any] = {"transfer": (("transferred", "evaluated"), metric), "transferred": list(TRANSFERRED)}
    for end in ("clean", "corrupted"):
        found[f"transfer_{end}"] = (
            ("transferred", "evaluated"), np.stack([m[end].values for m in (in_tuned, in_base, in_tuned)]),
        )  # fmt: skip
    return found | {"transfer_prompt": ("evaluated", prompts(batch))}
