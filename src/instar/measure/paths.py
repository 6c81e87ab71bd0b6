"""Interventions on named parts: path patching, and sets of heads and MLPs patched together.

Path patching (arXiv 2211.00593): what do these *senders* tell these *receivers* directly?

1. Senders' outputs are moved from their values on one prompt to those on the other, and carried along the residual
   stream only: every head in between keeps its value. MLPs in between keep theirs (`mlps="frozen"`) or are computed
   anew from the changed stream (`"recomputed"`).
2. The receivers' inputs (heads' q, k, v, MLPs, or the logits) are read off that stream.
3. A whole run with the receivers computed from these inputs, and everything after them anew, gives the metric.

Noising (the default) carries the corrupted values into the clean run; denoising the reverse. One sender and one receiver
with frozen MLPs is that edge's exact score.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from instar.circuits.graph import Graph
from instar.measure.common import about, at_end, numpy, pair_coords, sorted_pieces
from instar.measure.patches import BY_KEY_VALUE_HEAD, HEAD_SITES, first_difference
from instar.measure.writes import head_writes
from instar.models.load import Model
from instar.models.memory import halving
from instar.models.plain import measured
from instar.models.replay import Engine, Metric, Pass
from instar.stats.scales import Direction, change
from instar.tasks.batch import Batch

_HEAD = re.compile(r"a(\d+)\.h(\d+)")


@halving
@measured
@torch.no_grad()
def path_patching(
    model: Model,
    batch: Batch,
    senders: Sequence[str],
    receivers: Sequence[str],
    *,
    mlps: Literal["frozen", "recomputed"] = "frozen",
    direction: Direction = "noising",
    chunk: int = 16,
) -> xr.Dataset:
    """Patch the direct paths from senders to receivers.

    Args:
        senders: `input`, heads `a9.h9`, MLPs `m3`.
        receivers: `a9.h6<q>` (k, v: per key-value head), `a9.h6` for all three, `m3`, `logits`.

    Returns:
        `metric` of the patched run, `clean`, `corrupted` (logits) and `change` (x − c or b − x) on `pair`.

    Raises:
        ValueError: for a name that is no sender or receiver of this model.
    """
    graph = Graph.of(model.layout)
    into = _receivers(graph, receivers)
    unknown = [s for s in senders if s not in graph.sources]
    if unknown:
        raise ValueError(f"senders: {unknown} are none of this model's input, a0.h0, …, m{graph.n_layers - 1}")
    if mlps not in ("frozen", "recomputed"):
        raise ValueError(f"mlps: {mlps!r} is neither 'frozen' nor 'recomputed'")

    def patched(engine: Engine, base: Pass, source: Pass, part: Batch) -> Tensor:
        seen, rest = _carried(engine, graph, base, source, set(senders), into, mlps == "recomputed")

        def edit(name: str, layer: int, value: Tensor) -> Tensor | None:
            if (name, layer) not in seen:
                return None
            for head, own in seen[name, layer].items():
                value = _with_head(value, name, head, own)
            return value

        return at_end(engine.run(base.frame, edit=edit).final + rest, part.end)

    about_it = {"senders": list(senders), "receivers": list(receivers), "mlps": mlps}
    return _over_pairs(model, batch, direction, chunk, {"": patched}, about_it).isel(set=0, drop=True)


@halving
@measured
@torch.no_grad()
def set_patching(
    model: Model,
    batch: Batch,
    sets: dict[str, Sequence[str]],
    *,
    site: Literal["z", "q", "k", "v", "pattern"] = "z",
    direction: Direction = "denoising",
    chunk: int = 16,
) -> xr.Dataset:
    """Patch each set of heads (at `site`) and MLPs (their outputs) at once: single heads are backed up by others.

    Args:
        sets: names of sets, with members `a9.h6` (for k and v the key-value head) and `m3`.

    Returns:
        `metric`, `clean`, `corrupted`, `change` (logits) on `set, pair`.
    """
    if site not in HEAD_SITES:
        raise ValueError(f"site: {site!r} is none of {', '.join(HEAD_SITES)}")
    heads_there = model.layout.n_kv_heads if site in BY_KEY_VALUE_HEAD else model.layout.n_heads
    members = {name: [_member(model, m, heads_there) for m in inside] for name, inside in sets.items()}

    def patcher(inside: list[tuple[int, int | None]]) -> Any:
        def patched(engine: Engine, base: Pass, source: Pass, part: Batch) -> Tensor:
            # Left of the first difference both runs are the same, and so is the patched one.
            start = first_difference(part)

            def edit(name: str, layer: int, value: Tensor) -> Tensor | None:
                if name == "mlp" and (layer, None) in inside:
                    return source.mlp[layer][:, start:]
                heads = [h for at, h in inside if at == layer and h is not None]
                if name != site or not heads:
                    return None
                value = value.clone()
                value[:, heads] = getattr(source, site)[layer][:, heads, start:]
                return value

            return at_end(engine.run(base.frame, start, base, edit=edit).final, part.end - start)

        return patched

    runs = {name: patcher(inside) for name, inside in members.items()}
    return _over_pairs(
        model, batch, direction, chunk, runs, {"site": site, "sets": {k: list(v) for k, v in sets.items()}}
    )


def _over_pairs(
    model: Model, batch: Batch, direction: Direction, chunk: int, runs: dict[str, Any], more: dict[str, Any]
) -> xr.Dataset:
    if direction not in ("denoising", "noising"):
        raise ValueError(f"direction: {direction!r} is neither 'denoising' nor 'noising'")
    engine, batch = Engine(model.layout), batch.aligned()
    values, ends = np.zeros((len(runs), len(batch))), np.zeros((2, len(batch)))
    for rows, part in sorted_pieces(batch, model, chunk):
        metric = Metric.of(engine.layout, part.answer, part.contrast)
        both = [engine.run(engine.frame(tokens, part.mask)) for tokens in (part.clean, part.corrupted)]
        ends[:, rows] = [numpy(metric(at_end(run.final, part.end))) for run in both]
        source, base = both if direction == "denoising" else both[::-1]
        for i, run in enumerate(runs.values()):
            values[i, rows] = numpy(metric(run(engine, base, source, part)))
    data: dict[str, Any] = {
        "metric": (("set", "pair"), values),
        "change": (("set", "pair"), change(values, ends[0], ends[1], direction)),
        "clean": ("pair", ends[0]),
        "corrupted": ("pair", ends[1]),
    }
    dataset = xr.Dataset(data, coords={**pair_coords(batch), "set": list(runs)})
    return dataset.assign_attrs(about(model, batch, direction=direction, **more))


def _receivers(graph: Graph, names: Sequence[str]) -> set[str]:
    group = graph.n_heads // graph.n_kv_heads
    found: set[str] = set()
    for name in names:
        head = _HEAD.fullmatch(name)
        layer, number = (int(x) for x in head.groups()) if head else (0, 0)
        whole = {f"a{layer}.h{number}<q>", *(f"a{layer}.h{number // group}<{p}>" for p in "kv")} if head else {name}
        unknown = whole - set(graph.destinations)
        if unknown:
            raise ValueError(f"receivers: {sorted(unknown)} are none of this model's a0.h0<q>, …, m0, …, logits")
        found |= whole
    return found


def _member(model: Model, name: str, heads: int) -> tuple[int, int | None]:
    layer = re.fullmatch(r"m(\d+)", name)
    head = _HEAD.fullmatch(name)
    node = (int(layer[1]), None) if layer else (int(head[1]), int(head[2])) if head else None
    if node is None or node[0] >= model.layout.n_layers or (node[1] or 0) >= heads:
        raise ValueError(f"sets: {name!r} is no head or MLP of a model with {model.layout.n_layers} layers of {heads}")
    return node


def _carried(
    engine: Engine, graph: Graph, base: Pass, source: Pass, senders: set[str], into: set[str], recomputed: bool
) -> tuple[dict[tuple[str, int], dict[int, Tensor]], Tensor | float]:
    """What each receiver becomes, by the name that `Engine.run` edits, and what goes to the logits directly."""
    seen: dict[tuple[str, int], dict[int, Tensor]] = {}
    moved = source.x[0] - base.x[0] if "input" in senders else torch.zeros_like(base.x[0])
    for layer, block in enumerate(engine.blocks):
        normed = block.normed(base.x[layer] + moved)
        for p in ("q", "k", "v"):
            heads = [h for h in range(len(block.w_in[p])) if f"a{layer}.h{h}<{p}>" in into]
            if heads:
                raw = block.project(p, normed)
                seen[f"raw_{p}", layer] = {h: raw[:, :, h] for h in heads}
        entering = moved
        moved = moved + _heads_moved(engine, graph, base, source, senders, layer)
        read = base.mlp_in[layer] + (entering if block.parallel else moved)
        if f"m{layer}" in into:
            seen["mlp", layer] = {-1: block.mlp(read)}
        if f"m{layer}" in senders:
            moved = moved + source.mlp[layer] - base.mlp[layer]
        elif recomputed:
            moved = moved + block.mlp(read) - base.mlp[layer]
    return seen, moved if "logits" in into else 0.0


def _heads_moved(
    engine: Engine, graph: Graph, base: Pass, source: Pass, senders: set[str], layer: int
) -> Tensor | float:
    heads = [h for h in range(graph.n_heads) if f"a{layer}.h{h}" in senders]
    if not heads:
        return 0.0
    block = engine.blocks[layer]
    out = base.x[0].new_empty(len(heads), *base.x[0].shape)
    head_writes(block.w_o[heads], (source.z[layer] - base.z[layer])[:, heads], out=out)
    return block.attn_write(base.attn_raw[layer] + out.sum(0)) - base.attn[layer]


def _with_head(value: Tensor, name: str, head: int, own: Tensor) -> Tensor:
    if name == "mlp":
        return own
    value = value.clone()
    value[:, :, head] = own
    return value
