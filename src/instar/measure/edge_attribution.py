"""Edge attribution: what each edge of the graph is worth, by one backward pass or by patching each edge.

    score(u → v) = mean over pairs of Σ over positions and d_model of (corrupted − clean output of u) · ∂m/∂(input of v)

The gradient is of the metric itself, so **a negative score means that the edge helps the answer**.

1. `eap`: gradient at the clean run (arXiv 2310.10348). `eap-ig`: mean gradient over runs whose embeddings lie between
   corrupted and clean (arXiv 2403.17806), at midpoints, or with `rule="left"` at 0, 1/steps, … from the corrupted end, as
   the EAP-IG package does. `gim`, `relp`, `relp-ah`: at the clean run, with other rules in the place of some derivatives
   (`instar.measure.backward`). `exact`: v's input is patched and everything after v recomputed, edge by edge.
2. Only positions from the first difference on are run: left of it every difference is 0 and the runs share a prefix.
3. Gradients are taken at the *projected* q, k and v, scaled by the norm's 1/σ and summed over the steps while they are
   d_head wide; W_Q, W_K, W_V and the norm's gain are applied once. The rest of the norm's derivative is a rank-one
   correction (LayerNorm: also a centring), which a rule that holds the norm's scale leaves out.
4. One matrix product per layer, sources before it × its readers.

The metric m is the logit of the answer minus that of the name which the corruption makes right, at the last real token.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from instar.circuits.graph import Graph
from instar.measure.backward import RULES, Rules, backward
from instar.measure.patches import first_difference
from instar.measure.writes import linear_differences
from instar.models.norms import Frozen, frozen
from instar.models.replay import Engine, Metric, Pass
from instar.models.taps import Edit
from instar.tasks.batch import Batch

ATTRIBUTED = ("eap", "eap-ig", *RULES)
"""Methods that estimate all edges from backward passes."""
Groups = Callable[[Batch, int], list[Tensor | None]]
"""`groups(part, start)`: which rows [pair × pos] are summed together; None for all of them."""


@dataclass(frozen=True)
class Rule:
    """Where between the corrupted (0) and the clean run (1) gradients are taken, and how."""

    at: tuple[float, ...]
    backward: Rules | None = None
    """Rules in the place of some derivatives; None: the gradient."""

    @classmethod
    def of(cls, method: str, steps: int, rule: str) -> "Rule":
        """The one point of a single backward pass, or the points of EAP-IG."""
        if method != "eap-ig":
            return cls((1.0,), RULES.get(method))
        if rule not in ("midpoint", "left"):
            raise ValueError(f"rule: {rule!r} is neither 'midpoint' nor 'left'")
        if steps < 1:
            raise ValueError(f"steps={steps}: at least 1")
        return cls(tuple((k + (0.5 if rule == "midpoint" else 0.0)) / steps for k in range(steps)))


@dataclass
class _Gradients:
    """Sums over the interpolation steps."""

    # Per layer and projection, times the norm's 1/σ: [pair, pos, head, d_head].
    projected: list[dict[str, Tensor]]
    # Per layer and step: the norm's x̂ [pair, pos, d_model], and per projection how much of it to take off.
    hats: list[list[Tensor]]
    parts: list[list[dict[str, Tensor]]]
    mlp_in: list[Tensor]
    final: Tensor


@torch.no_grad()
def edge_scores(engine: Engine, part: Batch, rule: Rule, groups: Groups) -> Float[Tensor, "group source destination"]:
    """Scores of one chunk of pairs, summed over each group of rows; 0 where there is no edge."""
    start = first_difference(part)
    graph = Graph.of(engine.layout)
    metric = Metric.of(engine.layout, part.answer, part.contrast)
    clean = engine.frame(part.clean, part.mask)
    prefix = engine.run(clean, x=clean.x[:, :start]) if start else None
    frames = {"clean": clean, "corrupted": engine.frame(part.corrupted, part.mask)}
    ends = {name: frame.x[:, start:] for name, frame in frames.items()}
    end = part.end - start

    def towards_clean(share: float, edit: Edit | None) -> Pass:
        x = ends["clean"] if share == 1 else ends["corrupted"] + share * (ends["clean"] - ends["corrupted"])
        with torch.enable_grad():
            return engine.run(clean, start, prefix, x.detach().requires_grad_(), edit=edit, end=end)

    # A point at either end is the run whose outputs are needed anyway.
    kept: dict[float, Pass] = {}
    sums: _Gradients | None = None
    with nullcontext() if rule.backward is None else backward(engine, rule.backward) as edit:
        for share in rule.at:
            run = towards_clean(share, edit)
            sums = _added(sums, engine, run, metric, end, held=rule.backward is not None)
            if share in (0, 1):
                kept[share] = run
    assert sums is not None
    corrupted = kept.get(0) or engine.run(frames["corrupted"], start, prefix, end=end)
    clean_run = kept.get(1) or engine.run(clean, start, prefix, end=end)
    differences = linear_differences(engine, corrupted, clean_run).detach()
    return _contracted(engine, graph, differences, sums, end, groups(part, start)) / len(rule.at)


def _added(sums: _Gradients | None, engine: Engine, run: Pass, metric: Metric, end: Tensor, held: bool) -> _Gradients:
    """The gradients of one run, on top of those before; `held`: norms' scales are constants."""
    with torch.enable_grad():
        value = metric(run.final[:, 0])
        wanted = [run.final, *run.mlp_in, *(raw[p] for raw in run.raw for p in "qkv")]
        # A rule may cut q and k off: nothing comes back to them.
        found = list(torch.autograd.grad(value.sum(), wanted, materialize_grads=True))
    layers = range(len(engine.blocks))
    final, mlp_in, raws = found[0], found[1 : 1 + len(layers)], iter(found[1 + len(layers) :])
    width = run.x[0].shape[1]
    mlp_in[-1] = _in_place(mlp_in[-1], end, width)
    own = _Gradients([], [[] for _ in layers], [[] for _ in layers], mlp_in, final[:, 0])
    for layer, block in enumerate(engine.blocks):
        gradient = {p: next(raws) for p in "qkv"}
        raw = {p: run.raw[layer][p].detach() for p in "qkv"}
        if layer == len(layers) - 1:
            gradient["q"], raw["q"] = (_in_place(t["q"], end, width) for t in (gradient, raw))
        norm = None
        if block.norm_attn is not None:
            norm = frozen(engine.layout, block.norm_attn, run.x[layer].detach())
            if not held:
                own.hats[layer].append(norm.hat)
                own.parts[layer].append({p: _along(block, p, gradient[p], raw[p], norm) for p in "qkv"})
        own.projected.append({p: g if norm is None else g * norm.scale[..., None] for p, g in gradient.items()})
    return own if sums is None else _summed(sums, own)


def _in_place(x: Tensor, end: Tensor, width: int) -> Tensor:
    """One row a pair, put back where it stands among rows of zeros."""
    out = x.new_zeros(x.shape[0], width, *x.shape[2:])
    out[torch.arange(len(end), device=end.device), end] = x[:, 0]
    return out


def _along(block: Any, projection: str, gradient: Tensor, raw: Tensor, norm: Frozen) -> Float[Tensor, "pair pos head"]:
    """How much of x̂ the norm's derivative takes off the gradient at the norm's input: a dot product in d_head."""
    constant = block.b_in[projection]
    if norm.bias is not None:
        constant = block.project(projection, norm.bias)
    linear = raw if constant is None else raw - constant
    return (gradient * linear).sum(-1) * norm.scale / norm.hat.shape[-1]


def _summed(a: _Gradients, b: _Gradients) -> _Gradients:
    for mine, other in zip(a.projected, b.projected, strict=True):
        for p in "qkv":
            mine[p] += other[p]
    for lists in ("hats", "parts"):
        for mine, other in zip(getattr(a, lists), getattr(b, lists), strict=True):
            mine.extend(other)
    for mine, other in zip(a.mlp_in, b.mlp_in, strict=True):
        mine += other
    a.final += b.final
    return a


def _contracted(
    engine: Engine, graph: Graph, differences: Tensor, sums: _Gradients, end: Tensor, groups: list[Tensor | None]
) -> Float[Tensor, "group source destination"]:
    """Every source's difference against every reader's gradient: one product a layer and group."""
    out = differences.new_zeros(len(groups), len(graph.sources), len(graph.destinations))
    flat = differences.flatten(1, 2)
    readers = flat.new_empty(graph.per_layer - 1, *flat.shape[1:])
    for layer, block in enumerate(engine.blocks):
        n, first = graph.head(layer), graph.reads(layer, "q")
        _pull(engine, layer, sums, out=readers)
        columns = slice(first, first + len(readers))
        mlp, m = sums.mlp_in[layer].flatten(0, 1), graph.mlp(layer) if not block.parallel else n
        for group, rows in enumerate(groups):
            d = flat[:n] if rows is None else flat[:n, rows]
            out[group, :n, columns] = d.flatten(1) @ _of(readers, rows).flatten(1).T
            d = flat[:m] if rows is None else flat[:m, rows]
            out[group, :m, graph.mlp_reads(layer)] = d.flatten(1) @ _of(mlp[None], rows).flatten()
    last = torch.arange(len(end), device=end.device) * differences.shape[2] + end
    for group, rows in enumerate(groups):
        inside = slice(None) if rows is None else torch.isin(last, rows)
        out[group, :, -1] = flat[:, last[inside]].flatten(1) @ sums.final[inside].flatten()
    return out


def _of(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x[:, rows]


def _pull(engine: Engine, layer: int, sums: _Gradients, out: Tensor) -> None:
    """Gradients at the residual stream [reader, row, d_model]: through W, the norm's gain and centring, less x̂'s part.

    Gain and centring are folded into W, which is smaller than what comes out.
    """
    block, at, gradients = engine.blocks[layer], 0, sums.projected[layer]
    for p in "qkv":
        weight = block.w_in[p]
        if block.norm_attn is not None:
            norm = frozen(engine.layout, block.norm_attn, weight[0, :1])
            weight = weight * norm.gain
            weight = weight - weight.mean(-1, keepdim=True) if norm.centred else weight
        rows = gradients[p].flatten(0, 1).transpose(0, 1)
        torch.bmm(rows, weight, out=out[at : at + len(weight)])
        at += len(weight)
    for hat, parts in zip(sums.hats[layer], sums.parts[layer], strict=True):
        along = torch.cat([parts[p] for p in "qkv"], -1).flatten(0, 1)
        out.addcmul_(along.T[..., None], hat.flatten(0, 1), value=-1)


def groups_of(slots: bool, per_pair: bool) -> tuple[Groups, Callable[[Batch], list[tuple[int, int]]]]:
    """How rows are summed, and the (pair, slot) index of each group in a chunk; 0 for an axis that is not kept."""

    def labels(part: Batch) -> list[tuple[int, int]]:
        pairs = range(len(part)) if per_pair else range(1)
        kinds = range(len(part.slot_names)) if slots else range(1)
        return [(pair, slot) for pair in pairs for slot in kinds]

    def groups(part: Batch, start: int) -> list[Tensor | None]:
        if not slots and not per_pair:
            return [None]
        width = part.clean.shape[1] - start
        here = part.slots[:, start:].flatten()
        pair = torch.arange(len(part), device=here.device).repeat_interleave(width)
        return [_rows(pair == p if per_pair else None, here == s if slots else None) for p, s in labels(part)]

    return groups, labels


def _rows(*conditions: Tensor | None) -> Tensor:
    given = [c for c in conditions if c is not None]
    return torch.stack(given).all(0).nonzero().flatten()
