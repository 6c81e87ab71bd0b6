"""What each source of the graph adds to the residual stream, as the difference between two runs.

A head's write is z W_O without the output bias, contracted only here, and only for a difference. In families that norm
the attention's output, a head's write for *attribution* goes through that norm with its scale frozen at each run's own
value, so that the heads' writes of a run sum to what the attention adds; for *exact* patches the norm is recomputed.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from instar.circuits.graph import Graph
from instar.models.norms import frozen
from instar.models.replay import Engine, Pass

Writes = Float[Tensor, "source pair pos d_model"]


def linear_differences(engine: Engine, new: Pass, old: Pass) -> Writes:
    """`new` − `old` of every source, over the rows that both runs have; norms after a block frozen.

    Of runs made for their end alone, the last layer's rows all hold the end's difference.
    """
    graph = Graph.of(engine.layout)
    out = new.x[0].new_empty(len(graph.sources), *new.x[0].shape)
    out[0] = new.x[0] - old.x[0]
    for layer, block in enumerate(engine.blocks):
        heads = out[graph.head(layer) : graph.mlp(layer)]
        if block.post_attn is None:
            head_writes(block.w_o, new.z[layer] - old.z[layer], out=heads)
        else:
            norms = [frozen(engine.layout, block.post_attn, run.attn_raw[layer]) for run in (new, old)]
            scaled = [run.z[layer] * norm.scale[:, None] for run, norm in zip((new, old), norms, strict=True)]
            head_writes(block.w_o, scaled[0] - scaled[1], out=heads)
            heads *= norms[0].gain
        out[graph.mlp(layer)] = new.mlp[layer] - old.mlp[layer]
    return out


def exact_differences(engine: Engine, new: Pass, old: Pass) -> Writes:
    """`new` − `old` of every source patched by itself into `old`: a norm after the attention is recomputed."""
    graph = Graph.of(engine.layout)
    out = new.x[0].new_empty(len(graph.sources), *new.x[0].shape)
    out[0] = new.x[0] - old.x[0]
    for layer, block in enumerate(engine.blocks):
        heads = out[graph.head(layer) : graph.mlp(layer)]
        head_writes(block.w_o, new.z[layer] - old.z[layer], out=heads)
        if block.post_attn is not None:
            heads.copy_(block.attn_write(old.attn_raw[layer] + heads) - old.attn[layer])
        out[graph.mlp(layer)] = new.mlp[layer] - old.mlp[layer]
    return out


def head_writes(
    w_o: Float[Tensor, "head d_head d_model"], z: Float[Tensor, "pair head pos d_head"], out: Tensor
) -> None:
    """z W_O of each head, into `out` [head, pair, pos, d_model]; a single position of z into all of them."""
    pairs, heads, rows, _ = z.shape
    flat = z.permute(1, 0, 2, 3).reshape(heads, pairs * rows, -1)
    if rows == out.shape[2]:
        torch.bmm(flat, w_o, out=out.view(heads, pairs * rows, -1))
    else:
        out.copy_(torch.bmm(flat, w_o).view(heads, pairs, rows, -1))
