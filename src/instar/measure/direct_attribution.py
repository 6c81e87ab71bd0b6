"""Direct logit attribution: what each component adds to the logit difference by itself.

The final norm's scale is *frozen* at the value it has in this run, which makes the map from residual stream to logits
linear, so the contributions of embeddings, heads, MLPs and biases sum to the logit difference (arXiv 2211.00593). A head's
contribution is z W_O without the output bias; the output bias is its own term, an MLP's includes its bias. The sum is
checked on every batch. Where the family norms a block's output (Gemma 2 and 3, OLMo 2) that norm is frozen too. Models
that cap their logits are decomposed before the cap.

Of the clean prompts, in logits, for answer minus mean of the foils, at the last real token; positive helps.
"""

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from instar.measure.common import Readout, about, answer_direction, at_end, joined, numpy, pieces
from instar.models.load import Model
from instar.models.memory import halving
from instar.models.norms import Frozen, frozen
from instar.models.plain import measured
from instar.models.taps import Record, record
from instar.tasks.batch import Batch

# Many families run their norms in float32 whatever the model is in.
SUM_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}


@halving
@measured
@torch.no_grad()
def attribution(model: Model, batch: Batch, *, chunk: int = 64) -> xr.Dataset:
    """Direct logit attribution of every component.

    Returns:
        In logits: `heads` on `pair, layer, head`; `attn_bias`, `mlp` on `pair, layer`; `embed` on `pair, embedding`
        (token embedding first); `bias` (final norm's and unembedding's) and `total` on `pair`. All sum to `total`.

    Raises:
        ArithmeticError: if they do not, by more than 1e-5 × the largest term in float32.
    """
    parts = [_attribution(model, part) for part in pieces(batch, model, chunk)]
    layers = ("pair", "layer")
    dims: dict[str, tuple[str, ...]] = {"heads": (*layers, "head"), "attn_bias": layers, "mlp": layers}
    dims |= {"embed": ("pair", "embedding"), "bias": ("pair",), "total": ("pair",)}
    names = [path.split(".")[-1] for path in model.layout.arch.embeddings]
    coords = {"layer": np.arange(model.layout.n_layers), "head": np.arange(model.layout.n_heads), "embedding": names}
    dataset = joined(parts, dims, batch, **coords)
    convention = "final norm's scale frozen; heads without output bias; logit(answer) - mean logit(foils)"
    return dataset.assign_attrs(about(model, batch, convention=convention))


def _attribution(model: Model, part: Batch) -> dict[str, Any]:
    seen = record(model.layout, part.clean, part.mask, keep=("embed", "mlp_out", "attn_raw", "z"))
    found = decomposed(model, part, seen)
    _check_sum(found, model)
    return {name: numpy(value) for name, value in found.items()}


def decomposed(model: Model, part: Batch, seen: Record) -> dict[str, Tensor]:
    """The terms of one recorded run (embed, mlp_out, attn_raw, z): the heads' without building their outputs."""
    layout, direction = model.layout, answer_direction(model, part.answer, part.foils)
    final = at_end(seen.final, part.end)
    linear = _through(frozen(layout, layout.final_norm, final), direction)
    heads, biases = [], []
    for layer in range(layout.n_layers):
        z = seen["z"][layer][torch.arange(len(part)), :, part.end]
        read = linear
        if (norm := layout.part(layer, layout.arch.post_attn)) is not None:
            read = _through(frozen(layout, norm, at_end(seen["attn_raw"][layer], part.end)), linear)
        # The direction goes through W_O first: [pair, head, d_model] is never built.
        heads.append(((read.vector @ layout.w_o(layer).flatten(0, 1).T).view_as(z) * z).sum(-1))
        biases.append(read.vector @ layout.b_o(layer) + read.offset - linear.offset)
    return {
        "heads": torch.stack(heads, 1),
        "attn_bias": torch.stack(biases, 1),
        "mlp": torch.stack([_read(x, part, linear) for x in seen["mlp_out"]], 1),
        "embed": torch.stack([_read(x, part, linear) for x in seen["embed"]], 1),
        "bias": linear.offset,
        "total": (layout.final_norm(final) * direction.vector).sum(1) + direction.offset,
    }


def _through(norm: Frozen, direction: Readout) -> Readout:
    """The direction as it reads what stands before a frozen norm."""
    bias = 0 if norm.bias is None else direction.vector @ norm.bias
    return Readout(norm.pull(direction.vector), direction.offset + bias)


def _read(x: Float[Tensor, "row pos d_model"], part: Batch, linear: Readout) -> Float[Tensor, " pair"]:
    x = x.expand(len(part), -1, -1)
    return (at_end(x, part.end) * linear.vector).sum(1)


def _check_sum(found: dict[str, Tensor], model: Model) -> None:
    parts = [found["heads"].flatten(1), found["attn_bias"], found["mlp"], found["embed"], found["bias"][:, None]]
    terms = torch.cat(parts, 1)
    off = float(((terms.sum(1) - found["total"]).abs() / terms.abs().amax(1)).max())
    allowed = SUM_TOLERANCE.get(model.module.dtype, 0.05)
    if not off <= allowed:
        raise ArithmeticError(
            f"{model.name}: contributions miss the logit difference by {off:.2g} of the largest term, allowed {allowed:.0e}"
        )
