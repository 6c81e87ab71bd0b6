"""The one seam between instar and a model: record what flows through it, or change it.

1. transformers lets a model name its attention function. Ours calls the family's own `eager_attention_forward` and so
   sees every head's q, k, v, pattern and z without a line of the model rewritten. A mask function of the same name is
   registered too: without one transformers would hand us no causal mask.
2. Forward hooks see the residual stream and the outputs of attention and MLP.
3. Whatever was changed on the model (attention function, training mode, hooks) is as before on return, also after an
   exception.

Sites, one tensor a layer: `resid_pre`, `resid_mid`, `attn_out`, `mlp_out` [pair, pos, d_model]; `q`, `k`, `v`, `z`
[pair, head, pos, d_head], as the attention function sees them (after rotary embedding; k and v have one row a key-value
head); `pattern` [pair, head, query, key]. `attn_out` and `mlp_out` are what is added to the residual stream: in families
that norm after a block, the normed output; `attn_raw` is the attention's output before that norm. Parallel blocks have
no `resid_mid`. `embed` has one tensor for each embedding module and `final` one: the residual stream that the final norm
reads.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from instar.models.arch import Layout

SEAM = "instar"
Edit = Callable[[str, int, Tensor], Tensor | None]
"""`edit(site, layer, value)`: the value to use instead, or None to leave it."""


@dataclass
class Record:
    """What one forward pass showed: `record["z"][layer]`."""

    sites: dict[str, list[Tensor]] = field(default_factory=dict)

    def __getitem__(self, site: str) -> list[Tensor]:
        return self.sites[site]

    @property
    def final(self) -> Float[Tensor, "pair pos d_model"]:
        """The last residual stream."""
        return self.sites["final"][0]


@dataclass
class _Tap:
    record: Record
    keep: frozenset[str]
    edit: Edit | None

    def see(self, site: str, layer: int, value: Tensor) -> Tensor:
        if self.edit is not None:
            changed = self.edit(site, layer, value)
            value = value if changed is None else changed
        if site in self.keep:
            self.record.sites.setdefault(site, []).append(value)
        return value


# The tap of this thread's forward pass under way. Attention functions get no argument of ours, so it has to be found here.
_current: ContextVar[_Tap | None] = ContextVar("tap", default=None)


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any):
    eager = sys.modules[type(module).__module__].eager_attention_forward
    tap, layer = _current.get(), module.layer_idx
    if tap is None:
        return eager(module, query, key, value, attention_mask, **kwargs)
    query, key, value = (tap.see(s, layer, t) for s, t in (("q", query), ("k", key), ("v", value)))
    z, pattern = eager(module, query, key, value, attention_mask, **kwargs)
    seen = tap.see("pattern", layer, pattern)
    z = z.transpose(1, 2)
    if seen is not pattern:
        z = seen @ value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    z = tap.see("z", layer, z)
    return z.transpose(1, 2).contiguous(), seen


def _mask(*args: Any, **kwargs: Any) -> Tensor:
    # float64's lowest value is minus infinity to families whose softmax runs in float32, and a row of padding on the
    # left, which sees nothing else, would become NaN.
    mask = eager_mask(*args, **kwargs)
    return mask.clamp_min(torch.finfo(torch.float32).min) if mask.dtype == torch.float64 else mask


AttentionInterface.register(SEAM, _attention)
AttentionMaskInterface.register(SEAM, _mask)


def record(
    layout: Layout,
    tokens: Int[Tensor, "pair pos"],
    mask: Bool[Tensor, "pair pos"] | None = None,
    keep: tuple[str, ...] = (),
    edit: Edit | None = None,
) -> Record:
    """One forward pass, with the sites of `keep` recorded (`final` always) and `edit` applied.

    Rows may be padded on either side. Gradients flow where the caller has them enabled. The model runs in evaluation
    mode.

    Raises:
        ValueError: for a prompt longer than the model takes, or `resid_mid` of a model whose blocks are parallel.
    """
    if "resid_mid" in keep and layout.parallel:
        raise ValueError("resid_mid: this model's attention and MLP read the same stream; leave it out")
    tap = _Tap(Record(), frozenset(keep) | {"final"}, edit)
    with as_evaluated(layout.module), attending_through_seam(layout.module), ExitStack() as stack:
        for handle in _hooks(layout, tap, tokens.shape):
            stack.callback(handle.remove)
        stack.callback(_current.reset, _current.set(tap))
        body(layout, tokens, mask)
    return tap.record


def body(layout: Layout, tokens: Int[Tensor, "pair pos"], mask: Bool[Tensor, "pair pos"] | None) -> None:
    """The model's own forward pass without its unembedding: callers read the rows they need themselves."""
    limit = getattr(layout.module.config, "max_position_embeddings", None)
    if limit is not None and tokens.shape[1] > limit:
        raise ValueError(f"a prompt has {tokens.shape[1]} tokens and the model takes {limit}; shorten it")
    mask = (torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask).long()
    _check_sides(layout.rotates_otherwise_beyond, mask.sum(1))
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    layout.module.base_model(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False)


def _check_sides(limit: int | None, lengths: Tensor) -> None:
    """Prompts on both sides of the limit would be rotated by the longest: a prompt's result would be its neighbours'."""
    beyond = lengths > limit if limit is not None else lengths < 0
    if bool(beyond.any()) and not bool(beyond.all()):
        raise ValueError(
            f"prompts of up to {limit} tokens and longer ones in one pass: this model (rope type longrope) rotates all of "
            "them by the longest; run the long ones by themselves"
        )


def _hooks(layout: Layout, tap: _Tap, shape: torch.Size) -> Iterator[Any]:
    arch = layout.arch

    def see(site: str, layer: int, value: Tensor) -> Tensor:
        # OPT's MLP sees all rows of a batch as one; sites are always [pair, pos, d_model].
        return tap.see(site, layer, value.view(*shape, -1)).view(value.shape)

    def before(site: str, layer: int):
        def hook(_: nn.Module, inputs: tuple[Any, ...]):
            return (see(site, layer, inputs[0]), *inputs[1:])

        return hook

    def after(site: str, layer: int):
        def hook(_: nn.Module, __: Any, output: Any):
            if isinstance(output, tuple):
                return (see(site, layer, output[0]), *output[1:])
            return tap.see(site, layer, output) if site == "embed" else see(site, layer, output)

        return hook

    def middle(layer: int):
        # resid_mid is read, never edited: the block adds the same tensor again after its norm. The tensor itself is
        # kept, so that gradients are of the stream; where OPT has flattened it, of the MLP's branch.
        def hook(_: nn.Module, inputs: tuple[Any, ...]):
            if "resid_mid" not in tap.keep:
                return None
            x = inputs[0] if inputs[0].ndim == 3 else inputs[0].view(*shape, -1)
            tap.record.sites.setdefault("resid_mid", []).append(x)
            return (x.view(inputs[0].shape) if x is not inputs[0] else x, *inputs[1:])

        return hook

    for index, module in enumerate(layout.embeddings):
        yield module.register_forward_hook(after("embed", index))
    for layer, block in enumerate(layout.blocks):
        attn, first = layout.part(layer, arch.attn), layout.part(layer, arch.mlp[0])
        yield block.register_forward_pre_hook(before("resid_pre", layer))
        yield attn.register_forward_hook(after("attn_raw", layer))
        yield (layout.part(layer, arch.post_attn) or attn).register_forward_hook(after("attn_out", layer))
        yield (layout.norm_mlp(layer) or first).register_forward_pre_hook(middle(layer))
        last = layout.part(layer, arch.post_mlp) or layout.part(layer, arch.mlp[-1])
        yield last.register_forward_hook(after("mlp_out", layer))
    yield layout.final_norm.register_forward_pre_hook(before("final", 0))


@contextmanager
def as_evaluated(module: Any) -> Iterator[None]:
    """Evaluation mode for a while, each part's own mode afterwards."""
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True


@contextmanager
def attending_through_seam(module: Any) -> Iterator[None]:
    """Our attention function for a while, the model's own choice afterwards."""
    before = module.config._attn_implementation
    module.config._attn_implementation = SEAM
    try:
        yield
    finally:
        module.config._attn_implementation = before


def logits_at(
    layout: Layout, final: Float[Tensor, "pair pos d_model"], end: Int[Tensor, " pair"]
) -> Float[Tensor, "pair vocabulary"]:
    """The logits of the last real token of each row, after the model's soft-cap."""
    rows = final[torch.arange(len(end), device=final.device), end]
    return layout.logits(rows)
