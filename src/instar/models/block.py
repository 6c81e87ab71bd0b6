"""A transformer block taken apart, so that a forward pass can begin anywhere and do only what is needed.

1. `frame` asks the model itself for what is fixed before the first block: the first residual stream, each layer's mask
   (causal, padding, sliding window) and rotary angles. Blocks are skipped, so this costs next to nothing.
2. A `Block` has the pieces: norm, projections, q/k norms and rotation, attention, output projection, MLP. Norms, MLPs and
   the attention function are the family's own; weights are views of the model's own (Pythia's interleaved ones excepted).
3. `instar.models.checks` proves at load that the pieces, put together again, give the model's own logits.

Rows are `[row, pos, d_model]`, `row` being pairs or patches × pairs. `raw` q, k and v are the projections' outputs
[row, pos, head, d_head]; finished ones [row, head, pos, d_head] have been normed and rotated.
"""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import NewGELUActivation

from instar.models.arch import Layout, Projection
from instar.models.taps import as_evaluated, attending_through_seam, body

Rows = Float[Tensor, "row pos d_model"]


@dataclass(frozen=True)
class Frame:
    """What a batch of prompts fixes before the first block."""

    x: Float[Tensor, "pair pos d_model"]
    """The first residual stream: the sum of the embeddings."""
    masks: tuple[Float[Tensor, "one_or_pair 1 query key"], ...]
    """Added to the attention scores, one a layer."""
    rotary: tuple[tuple[Tensor, Tensor] | None, ...]
    """cos and sin [pair, pos, rotated], one a layer."""


@torch.no_grad()
def frame(layout: Layout, tokens: Int[Tensor, "pair pos"], mask: Bool[Tensor, "pair pos"]) -> Frame:
    """The frame of a batch, from the model's own forward pass with its blocks skipped."""
    seen: list[dict[str, Any]] = []
    with as_evaluated(layout.module), attending_through_seam(layout.module), _blocks_skipped(layout, seen):
        body(layout, tokens, mask)
    x = seen[0]["hidden_states"]
    return Frame(
        x=x,
        masks=tuple(call["attention_mask"].to(x.dtype) for call in seen),
        rotary=tuple(call.get("position_embeddings") for call in seen),
    )


@contextmanager
def _blocks_skipped(layout: Layout, seen: list[dict[str, Any]]) -> Iterator[None]:
    def skip(block: Any):
        signature = inspect.signature(type(block).forward)

        def forward(*args: Any, **kwargs: Any):
            seen.append(signature.bind(block, *args, **kwargs).arguments)
            return args[0] if args else kwargs["hidden_states"]

        return forward

    before = [block.__dict__.get("forward") for block in layout.blocks]
    try:
        for block in layout.blocks:
            block.forward = skip(block)
        yield
    finally:
        for block, own in zip(layout.blocks, before, strict=True):
            del block.forward
            if own is not None:
                block.forward = own


class Block:
    """The pieces of one layer."""

    def __init__(self, layout: Layout, layer: int):
        arch = layout.arch
        self.layout, self.layer, self.parallel = layout, layer, layout.parallel
        self.attn = layout.part(layer, arch.attn)
        self.norm_attn = layout.part(layer, arch.norm_attn)
        self.post_attn = layout.part(layer, arch.post_attn)
        self.post_mlp = layout.part(layer, arch.post_mlp)
        self.norm_mlp = layout.norm_mlp(layer)
        self.qk_norm = [layout.part(layer, path) for path in arch.qk_norm or (None, None)]
        self.rotated = bool(getattr(self.attn, "use_rope", True))
        self.q_scale = layout.part(layer, arch.q_scale)
        # Pythia's heads lie interleaved: side by side they can be multiplied as one matrix.
        apart = arch.fused == "interleaved"
        self.w_in = {p: _detached(layout.w_in(layer, p), copy=apart) for p in ("q", "k", "v")}
        self.b_in = {p: _detached(layout.b_in(layer, p), copy=apart) for p in ("q", "k", "v")}
        self.w_o, self.b_o = layout.w_o(layer).detach(), layout.b_o(layer).detach()
        mlp = {path: _quick(layout.part(layer, path)) for path in arch.mlp}
        self._mlp = list(mlp.values())
        self.activation = mlp.get(arch.activation) or layout.part(layer, arch.activation)
        self.gated = layout.part(layer, arch.gated)
        self._eager = sys.modules[type(self.attn).__module__].eager_attention_forward
        cap = layout.part(layer, arch.softcap)
        self._options = {"scaling": self.attn.scaling if self.q_scale is None else 1.0} | (
            {"softcap": cap} if cap else {}
        )

    @property
    def normed_together(self) -> bool:
        """A norm over all heads' q (and k) at once ties the heads of this layer to each other."""
        return self.layout.arch.qk_norm_whole

    def normed(self, x: Tensor) -> Tensor:
        """What the projections read."""
        return x if self.norm_attn is None else self.norm_attn(x)

    def project(self, projection: Projection, normed: Tensor) -> Float[Tensor, "*row head d_head"]:
        """Raw q, k or v of all heads."""
        weight, bias = self.w_in[projection], self.b_in[projection]
        out = functional.linear(normed, weight.flatten(0, 1), None if bias is None else bias.flatten())
        return out.unflatten(-1, weight.shape[:2])

    def finish(
        self, projection: Projection, raw: Float[Tensor, "row pos head d_head"], rotary: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "row head pos d_head"]:
        """q, k or v as the attention function takes them: normed, rotated, scaled, as the family does it."""
        norm = None if projection == "v" else self.qk_norm["qk".index(projection)]
        if norm is not None and self.normed_together:
            raw = norm(raw.flatten(-2)).view(raw.shape)
        x = raw.transpose(1, 2)
        if norm is not None and not self.normed_together:
            x = norm(x)
        if projection == "q" and self.q_scale is not None:
            x = x * self.q_scale
        if projection == "v" or rotary is None or not self.rotated:
            return x
        return _rotate(x, *rotary)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pattern [row, head, query, key] and z [row, head, query, d_head], by the family's own function."""
        z, pattern = self._eager(self.attn, q, k, v, mask, dropout=0.0, **self._options)
        return pattern, z.transpose(1, 2)

    def read(self, pattern: Tensor, v: Tensor) -> Float[Tensor, "row head query d_head"]:
        """z of a given pattern."""
        return pattern @ self.shared(v)

    def shared(self, x: Tensor) -> Tensor:
        """A key-value tensor repeated for the query heads that share it, on the head axis −3."""
        groups = self.layout.n_heads // self.layout.n_kv_heads
        return x if groups == 1 else x.repeat_interleave(groups, dim=-3)

    def out(self, z: Float[Tensor, "row head pos d_head"]) -> Rows:
        """The attention's output before any norm that follows it."""
        return functional.linear(z.transpose(1, 2).flatten(-2), self.w_o.flatten(0, 1).T, self.b_o)

    def attn_write(self, raw: Tensor) -> Tensor:
        """What the attention adds to the residual stream."""
        return raw if self.post_attn is None else self.post_attn(raw)

    def mlp(self, x: Tensor) -> Tensor:
        """What the MLP adds to the residual stream that it reads."""
        x = x if self.norm_mlp is None else self.norm_mlp(x)
        for module in self._mlp:
            x = module(x)
        return x if self.post_mlp is None else self.post_mlp(x)


def _detached(x: Any, copy: bool) -> Any:
    return None if x is None else x.detach().contiguous() if copy else x.detach()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of the first `cos.shape[-1]` channels, halves against each other (arXiv 2104.09864)."""
    width = cos.shape[-1]
    turned, rest = x[..., :width], x[..., width:]
    left, right = turned.chunk(2, dim=-1)
    turned = turned * cos[:, None] + torch.cat([-right, left], -1) * sin[:, None]
    return torch.cat([turned, rest], -1) if rest.shape[-1] else turned


def _quick(module: Any) -> Any:
    """GPT-2's activation spelt out costs eight passes over memory; the same function in one."""
    if isinstance(module, NewGELUActivation):
        return nn.GELU(approximate="tanh")
    return module
