"""The embedded models' shape, and how their structure is steered at its birth.

Left alone, models of this size copy names in their first layer and answer "either of the two" for longer than one wants to
wait (docs/organism.md has what each of these was good for). So:

1. W_V and W_O are orthogonal and stay as they are born. In `copying` heads W_O is W_V's transpose: these can only write what
   they look at, and they look at the dimensions in which names differ. In all others it is a random rotation: what they move
   cannot be read by the unembedding, only by later queries, keys, values and MLPs. So "write minus the giver's name" is not
   to be had, and whom the copying heads look at must be decided by attention. MLPs are narrow, which leaves them no room for
   a table of names.
2. For the first `guide_steps` steps a small, fading loss asks `duplicate` heads to look from the giver to his mention before,
   `movers` from the last token to the giver, and `copying` heads from the last token to the receiver's last mention, each
   until it does so with probability `enough`. Afterwards nothing but the language loss is trained.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

Heads = tuple[tuple[int, int], ...]
FAINT = 1e-4
"""Added to attention before its logarithm is taken."""


@dataclass(frozen=True)
class Shape:
    """What a model of the recipe is born as."""

    family: Literal["gpt2", "llama"] = "gpt2"
    layers: int = 4
    heads: int = 8
    groups: int = 8
    """Heads of keys and values; GPT-2 has as many as of queries."""
    size: int = 24
    """Dimensions of a head."""
    width: int = 192
    inner: int = 96
    positions: int = 96
    words_std: float = 0.05
    names: int = 48
    """Dimensions in which names differ at birth, which copying heads read first."""
    places_std: float = 0.12
    """Of GPT-2's position embeddings: the larger, the more a duplicate is found by its place."""
    fixed: bool = True
    """Whether W_V and W_O are orthogonal and stay so."""
    values: float = 0.5
    copied: float = 1.0
    moved: float = 0.6
    idle: float = 0.6
    """Gains: of W_V (`values`), and of W_O in copying heads, in the others that are guided, and in the rest."""
    duplicate: Heads = ((0, 0), (0, 1), (0, 2))
    movers: Heads = ((1, 0), (1, 1), (1, 2), (1, 3))
    copying: Heads = tuple((layer, head) for layer in (2, 3) for head in range(2))
    guide: float = 0.2
    guide_steps: int = 1500
    guide_copying: bool = True
    enough: float = 1.0


class Fixed:
    """Parts of a model that training leaves as they are."""

    def __init__(self, parts: list[tuple[Tensor, tuple[slice, ...]]]):
        self.parts = [(parameter, where, parameter.detach()[where].clone()) for parameter, where in parts]

    def forget(self) -> None:
        """No gradients: before they are clipped."""
        for parameter, where, _ in self.parts:
            if parameter.grad is not None:
                parameter.grad[where] = 0

    @torch.no_grad()
    def restore(self) -> None:
        """What weight decay did is undone, to the bit."""
        for parameter, where, kept in self.parts:
            parameter[where] = kept


def build(shape: Shape, tokens: int, names: list[int]) -> tuple[Any, Fixed]:
    """A new model of so many tokens, of which some are names, and what of it stays as it is."""
    model = _gpt2(shape, tokens) if shape.family == "gpt2" else _llama(shape, tokens)
    with torch.no_grad():
        basis = torch.linalg.qr(torch.randn(shape.width, shape.names))[0]
        for name, parameter in model.named_parameters():
            if "wte" in name or "embed_tokens" in name:
                parameter.normal_(0, shape.words_std)
                parameter[names] = parameter[names] @ basis @ basis.T * (shape.width / shape.names) ** 0.5
            elif "wpe" in name:
                parameter.normal_(0, shape.places_std)
            elif any(
                part in name for part in ("c_attn.weight", "c_fc.weight", "q_proj", "k_proj", "gate_proj", "up_proj")
            ):
                parameter.normal_(0, shape.width**-0.5)
        parts = (
            [part for layer in range(shape.layers) for part in _circuits(model, shape, layer, basis)]
            if shape.fixed
            else []
        )
    return model, Fixed(parts)


def _gpt2(shape: Shape, tokens: int) -> Any:
    if shape.heads * shape.size != shape.width or shape.groups != shape.heads:
        raise ValueError(
            "a GPT-2 has heads that fill its width, and keys and values of each: size × heads = width, groups = heads"
        )
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=tokens,
            n_positions=shape.positions,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_inner=shape.inner,
            attn_pdrop=0.0,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def _llama(shape: Shape, tokens: int) -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokens,
            max_position_embeddings=shape.positions,
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.groups,
            head_dim=shape.size,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def _circuits(model: Any, shape: Shape, layer: int, names: Tensor) -> list[tuple[Tensor, tuple[slice, ...]]]:
    """Makes a layer's values orthogonal and its outputs copy or rotate them. Returns where these stand."""
    wide, inside = shape.groups * shape.size, shape.heads * shape.size
    copying = sorted({head * shape.groups // shape.heads for own, head in shape.copying if own == layer})
    others = [group for group in range(shape.groups) if group not in copying]
    drawn = torch.randn(shape.width, shape.width)
    if copying:
        drawn[:, : shape.names] = names
    order = sorted(range(shape.groups), key=(copying + others).index)
    values = torch.linalg.qr(drawn)[0][:, :wide].unflatten(1, (shape.groups, shape.size))[:, order].flatten(1)
    most = max(shape.width, inside)
    out = shape.moved * torch.linalg.qr(torch.randn(most, most))[0][:inside, : shape.width]
    for head in range(shape.heads):
        own = slice(head * shape.size, (head + 1) * shape.size)
        if (layer, head) in shape.copying:
            group = head * shape.groups // shape.heads * shape.size
            out[own] = shape.copied * values.T[group : group + shape.size]
        elif (layer, head) not in shape.duplicate + shape.movers:
            out[own] *= shape.idle / shape.moved
    if shape.family == "gpt2":
        block = model.transformer.h[layer].attn
        block.c_attn.weight[:, -wide:] = shape.values * values
        block.c_proj.weight.copy_(out)
        return [(block.c_attn.weight, (slice(None), slice(-wide, None))), (block.c_proj.weight, (slice(None),))]
    block = model.model.layers[layer].self_attn
    block.v_proj.weight.copy_(shape.values * values.T)
    block.o_proj.weight.copy_(out.T)
    return [(block.v_proj.weight, (slice(None),)), (block.o_proj.weight, (slice(None),))]


def guidance(
    attentions: tuple[Float[Tensor, "row head query key"], ...], gifts: Int[Tensor, "gift 5"], shape: Shape
) -> Float[Tensor, ""]:
    """Nats by which the guided heads look less than `enough` to where they are asked to look."""
    row, end, giver, before, receiver = gifts.T
    asked = [
        (heads, query, key)
        for heads, query, key in (
            (shape.duplicate, giver, before),
            (shape.movers, end, giver),
            (shape.copying if shape.guide_copying else (), end, receiver),
        )
    ]
    most = torch.tensor(shape.enough + FAINT).log()
    total = torch.zeros(())
    for heads, query, key in asked:
        for layer, head in heads:
            total = total + (most - (attentions[layer][row, head, query, key] + FAINT).log()).clamp_min(0).mean()
    return total
