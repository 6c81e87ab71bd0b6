"""Every edge patched by itself: what `instar.measure.edge_attribution` estimates.

v's input is moved by u's corrupted − clean output, v is computed anew, and everything after v is replayed from there;
the score is the metric of that run minus the clean run's, so a negative score means that the edge helps the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from instar.circuits.graph import Graph
from instar.measure.common import at_end
from instar.measure.patches import first_difference
from instar.measure.writes import Writes, exact_differences
from instar.models.arch import Projection
from instar.models.replay import LIVE_BYTES, Engine, Join, Metric, Pass, at_once, rows_of, spread
from instar.progress import Advance
from instar.tasks.batch import Batch

Edge = tuple[int, int]


@dataclass(frozen=True)
class _Setting:
    engine: Engine
    graph: Graph
    clean: Pass
    differences: Writes
    start: int


@torch.no_grad()
def exact_edges(
    engine: Engine, part: Batch, edges: Sequence[Edge], advance: Advance = lambda count: None
) -> Float[Tensor, "edge pair"]:
    """m(edge patched) − m(clean) for one chunk of pairs, in logits, in the order given; tells how many are done."""
    start = first_difference(part)
    clean, corrupted = (engine.run(engine.frame(tokens, part.mask)) for tokens in (part.clean, part.corrupted))
    cut = [_suffix(run, start) for run in (corrupted, clean)]
    setting = _Setting(engine, Graph.of(engine.layout), clean, exact_differences(engine, *cut), start)
    metric = Metric.of(engine.layout, part.answer, part.contrast)
    order = sorted(range(len(edges)), key=lambda i: (edges[i][1], edges[i][0]))
    block = max(1, at_once(LIVE_BYTES, part.clean.device) // 4 // setting.differences[0].nbytes)
    joins: list[Join] = []
    for reader, group in groupby(order, key=lambda i: edges[i][1]):
        sources = [edges[i][0] for i in group]
        joins += [_join(setting, reader, sources[at : at + block]) for at in range(0, len(sources), block)]
    # Readers come layer by layer; a parallel block's heads and MLP both join after it.
    joins.sort(key=lambda join: (join.layer, join.middle))
    carried = []
    for join, final in zip(joins, engine.carry(clean, start, part.end, joins), strict=True):
        carried.append(final)
        advance(join.count)
    finals = torch.cat(carried)
    values = metric(finals) - metric(at_end(clean.final, part.end))
    out = torch.empty_like(values)
    out[order] = values
    return out


def _suffix(run: Pass, start: int) -> Pass:
    """The rows from `start` of what writes are made of."""
    cut = Pass(run.frame, start)
    cut.x = [x[:, start:] for x in run.x]
    cut.z = [z[:, :, start:] for z in run.z]
    cut.attn_raw, cut.attn, cut.mlp = ([x[:, start:] for x in xs] for xs in (run.attn_raw, run.attn, run.mlp))
    return cut


def _join(setting: _Setting, reader: int, sources: list[int]) -> Join:
    graph, n = setting.graph, len(sources)
    if reader == len(graph.destinations) - 1:
        make = lambda: setting.clean.final[:, setting.start :] + setting.differences[sources]  # noqa: E731
        return Join(graph.n_layers, False, n, make)
    layer, within = divmod(reader, graph.per_layer)
    if within == graph.per_layer - 1:
        return Join(layer + 1, False, n, lambda: _mlp(setting, layer, sources))
    firsts = {p: graph.reads(layer, p) for p in ("q", "k", "v")}
    projection: Projection = "v" if reader >= firsts["v"] else "k" if reader >= firsts["k"] else "q"
    head, middle = reader - firsts[projection], not graph.parallel
    return Join(layer if middle else layer + 1, middle, n, lambda: _head(setting, layer, projection, head, sources))


def _mlp(setting: _Setting, layer: int, sources: list[int]) -> Tensor:
    clean, rows = setting.clean, slice(setting.start, None)
    block = setting.engine.blocks[layer]
    changed = block.mlp((clean.mlp_in[layer][:, rows] + setting.differences[sources]).flatten(0, 1))
    return clean.x[layer + 1][:, rows] + changed.unflatten(0, (len(sources), -1)) - clean.mlp[layer][:, rows]


def _head(setting: _Setting, layer: int, projection: Projection, head: int, sources: list[int]) -> Tensor:
    """The streams after the attention of `layer` with one head's q, k or v reading a changed input."""
    clean, start, block = setting.clean, setting.start, setting.engine.blocks[layer]
    times, pairs = len(sources), clean.x[0].shape[0]
    x = (clean.x[layer][:, start:] + setting.differences[sources]).flatten(0, 1)
    weight, bias = block.w_in[projection][head], block.b_in[projection]
    own = block.normed(x) @ weight.T + (0 if bias is None else bias[head])
    raw = clean.raw[layer][projection][:, start:].expand(times, -1, -1, -1, -1).flatten(0, 1).clone()
    raw[:, :, head] = own
    angles = rows_of(spread(clean.frame.rotary[layer], times), start)
    changed = block.finish(projection, raw, angles)
    q, k, v = (getattr(clean, p)[layer].expand(times, -1, -1, -1, -1).flatten(0, 1).clone() for p in ("q", "k", "v"))
    {"q": q, "k": k, "v": v}[projection][:, :, start:] = changed
    mask = spread(clean.frame.masks[layer], times)
    raw_out = block.out(block.attend(q[:, :, start:], k, v, mask[:, :, start:])[1]).unflatten(0, (times, pairs))
    written = block.attn_write(raw_out) - clean.attn[layer][:, start:]
    return clean.after_attention(layer, block.parallel)[:, start:] + written
