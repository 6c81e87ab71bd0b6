"""The one seam between instar and a model: record what flows through it, or change it.

1. transformers lets a model name its attention function. Ours calls the family's own `eager_attention_forward` and so
   sees every head's q, k, v, pattern and z without a line of the model rewritten. A mask function of the same name is
   registered too: without one transformers would hand us no causal mask.
2. Forward hooks see the residual stream and the outputs of attention and MLP.
3. Whatever was changed on the model (attention function, training mode, hooks) is as before on return, also after an
   exception.

Sites, one tensor a layer: `resid_pre`, `resid_mid`, `attn_out`, `mlp_out` [pair, pos, d_model]; `q`, `k`, `v`, `z`
[pair, head, pos, d_head]; `pattern` [pair, head, query, key]. `embed` has one tensor for each embedding module and
`final` one: the residual stream that the final norm reads.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from instar.models.arch import Layout

SEAM = "instar"
RESIDUAL_SITES = ("resid_pre", "resid_mid", "attn_out", "mlp_out")
HEAD_SITES = ("q", "k", "v", "pattern", "z")
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


# The tap of the forward pass under way. Attention functions get no argument of ours, so it has to be found here.
_current: list[_Tap] = []


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any):
    eager = sys.modules[type(module).__module__].eager_attention_forward
    if not _current:
        return eager(module, query, key, value, attention_mask, **kwargs)
    tap, layer = _current[-1], module.layer_idx
    query, key, value = (tap.see(s, layer, t) for s, t in (("q", query), ("k", key), ("v", value)))
    z, pattern = eager(module, query, key, value, attention_mask, **kwargs)
    seen = tap.see("pattern", layer, pattern)
    z = z.transpose(1, 2)
    if seen is not pattern:
        z = seen @ value
    z = tap.see("z", layer, z)
    return z.transpose(1, 2).contiguous(), seen


AttentionInterface.register(SEAM, _attention)
AttentionMaskInterface.register(SEAM, eager_mask)


def record(
    layout: Layout,
    tokens: Int[Tensor, "pair pos"],
    mask: Bool[Tensor, "pair pos"] | None = None,
    keep: tuple[str, ...] = (),
    edit: Edit | None = None,
) -> Record:
    """One forward pass, with the sites of `keep` recorded (`final` always) and `edit` applied.

    Gradients flow where the caller has them enabled. The model runs in evaluation mode.
    """
    limit = getattr(layout.module.config, "max_position_embeddings", None)
    if limit is not None and tokens.shape[1] > limit:
        raise ValueError(f"a prompt has {tokens.shape[1]} tokens and the model takes {limit}; shorten it")
    tap = _Tap(Record(), frozenset(keep) | {"final"}, edit)
    mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    with _as_evaluated(layout.module), _attending_through_seam(layout.module), ExitStack() as stack:
        for handle in _hooks(layout, tap):
            stack.callback(handle.remove)
        _current.append(tap)
        stack.callback(_current.pop)
        # The caller reads answer rows from the last residual; one position of logits is the least a model computes.
        layout.module(input_ids=tokens, attention_mask=mask.long(), use_cache=False, logits_to_keep=1)
    return tap.record


def _hooks(layout: Layout, tap: _Tap) -> Iterator[Any]:
    arch = layout.arch

    def before(site: str, layer: int):
        def hook(_: nn.Module, inputs: tuple[Any, ...]):
            return (tap.see(site, layer, inputs[0]), *inputs[1:])

        return hook

    def after(site: str, layer: int):
        def hook(_: nn.Module, __: Any, output: Any):
            if isinstance(output, tuple):
                return (tap.see(site, layer, output[0]), *output[1:])
            return tap.see(site, layer, output)

        return hook

    for index, module in enumerate(layout.embeddings):
        yield module.register_forward_hook(after("embed", index))
    for layer, block in enumerate(layout.blocks):
        yield block.register_forward_pre_hook(before("resid_pre", layer))
        yield layout.part(layer, arch.attn).register_forward_hook(after("attn_out", layer))
        yield layout.part(layer, arch.mlp).register_forward_hook(after("mlp_out", layer))
        yield layout.part(layer, arch.norm_mlp).register_forward_hook(_mid(tap, layer))
    yield layout.final_norm.register_forward_pre_hook(before("final", 0))


def _mid(tap: _Tap, layer: int):
    # resid_mid is read, never edited: the block adds the same tensor again after its norm.
    def hook(_: nn.Module, inputs: tuple[Any, ...], __: Any) -> None:
        if "resid_mid" in tap.keep:
            tap.record.sites.setdefault("resid_mid", []).append(inputs[0])

    return hook


@contextmanager
def _as_evaluated(module: Any) -> Iterator[None]:
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True


@contextmanager
def _attending_through_seam(module: Any) -> Iterator[None]:
    before = module.config._attn_implementation
    module.config._attn_implementation = SEAM
    try:
        yield
    finally:
        module.config._attn_implementation = before


def logits_at(
    layout: Layout, final: Float[Tensor, "pair pos d_model"], end: Int[Tensor, " pair"]
) -> Float[Tensor, "pair vocabulary"]:
    """The logits of the last real token of each row."""
    rows = final[torch.arange(len(end), device=final.device), end]
    return layout.unembed(layout.final_norm(rows))
