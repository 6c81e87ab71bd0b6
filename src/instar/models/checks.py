"""What is proven of every model when it is loaded, on one short prompt, in milliseconds.

1. Through our attention function the logits equal those of the model's own eager attention.
2. Every layer's heads, z W_O, and the output bias sum to its attention output.
3. Embeddings, attention outputs and MLP outputs sum to the final residual stream.
4. A forward pass put together from the blocks' pieces (`instar.models.replay`) gives the same residual stream.
5. Norms, taken apart into scale, gain and bias, are the norms. Of a model that came in memory, its own attention function
   gives what the eager one does.
6. Changing a pattern changes the logits (it would not if the recording were a bystander).
7. A prompt padded on the right, or on the left, equals the prompt alone.

Errors are relative to the largest value of the tensor: real models have residual channels in the thousands. Rounding grows
with depth and width and depends on threads, so what is allowed is a few times what rounding does to the model's *own* eager
forward pass (the prompt alone beside the same prompt padded, in a batch, and with what each block's attention reads off by
one rounding, since some processors add all of these up alike), never less than `TOLERANCE` and never more than `CAP`. What is
really wrong, a mask or a part, is off by much more.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from instar.models.arch import Layout
from instar.models.norms import frozen
from instar.models.replay import Engine
from instar.models.taps import as_evaluated, body, logits_at, record

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}
CAP = {torch.float64: 1e-10, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}
ROOM = 8
"""How many times the model's own rounding a check may be off."""


def check(layout: Layout, name: str, in_memory: bool = False) -> None:
    """Run all checks.

    Raises:
        ValueError: naming the model, the check that failed and by how much.
    """
    config = layout.module.config
    count = min(8, getattr(config, "max_position_embeddings", 8) - 2)
    tokens = torch.arange(1, count + 1, device=layout.module.device)[None] % config.vocab_size
    with torch.no_grad():
        allowed = _allowed(layout, tokens)
        for what, error in _errors(layout, tokens).items():
            if not error <= allowed:
                raise ValueError(
                    f"{name}: {what}: relative error {error:.2g}, allowed {allowed:.1g}. instar would measure "
                    "something other than this model, so it refuses it; please report the family and its config.json."
                )
        _check_pattern_matters(layout, tokens, name)
        # Families compute these in float32 whatever the model's type.
        loosely = max(allowed, TOLERANCE[torch.float32])
        error = max(_norm_error(layout, tokens))
        if not error <= loosely:
            raise ValueError(
                f"{name}: a norm is not what its weights say (relative error {error:.2g}, allowed {loosely:.1g}), and instar "
                "reads through norms: give the family's own model"
            )
        if in_memory:
            _check_attention(layout, tokens, name, loosely)


def _norm_error(layout: Layout, tokens: Int[Tensor, "pair pos"]) -> Iterator[float]:
    """How far each norm, taken apart, is from itself."""
    x, arch = record(layout, tokens).final, layout.arch
    norms = [layout.final_norm]
    for layer in range(layout.n_layers):
        norms += [layout.part(layer, path) for path in (arch.norm_attn, arch.post_attn, arch.post_mlp)]
        norms.append(layout.norm_mlp(layer))
    for norm in (norm for norm in norms if norm is not None):
        own = frozen(layout, norm, x)
        yield _far(own.hat * own.gain + (0 if own.bias is None else own.bias), norm(x))


def _check_attention(layout: Layout, tokens: Int[Tensor, "pair pos"], name: str, allowed: float) -> None:
    own = layout.module.config._attn_implementation
    with as_evaluated(layout.module):
        logits = layout.module(input_ids=tokens, use_cache=False).logits[:, -1]
    error = _far(logits, _eager(layout, tokens))
    if not error <= allowed:
        raise ValueError(
            f"{name}: its attention function {own!r} gives other logits than eager attention (relative error {error:.2g}, "
            f"allowed {allowed:.1g}), and instar measures the eager one: load the model with attn_implementation='eager'"
        )


def _errors(layout: Layout, tokens: Int[Tensor, "pair pos"]) -> dict[str, float]:
    seen = record(layout, tokens, keep=("embed", "attn_raw", "attn_out", "mlp_out", "z"))
    length = tokens.shape[1]
    ours = logits_at(layout, seen.final, torch.tensor([length - 1], device=tokens.device))
    heads = [torch.einsum("bhpc,hcd->bpd", z, layout.w_o(i)) + layout.b_o(i) for i, z in enumerate(seen["z"])]
    written: Any = sum(seen["embed"]) + sum(seen["attn_out"]) + sum(seen["mlp_out"])
    engine = Engine(layout)
    replayed = engine.run(engine.frame(tokens, torch.ones_like(tokens, dtype=torch.bool))).final
    right, left = (torch.cat(parts, 1) for parts in ((tokens, tokens[:, :2]), (tokens[:, :2], tokens)))
    at = torch.arange(length + 2, device=tokens.device)[None]
    return {
        "logits through the seam equal the model's own": _far(ours, _eager(layout, tokens)),
        "heads and output bias sum to the attention output": max(map(_far, heads, seen["attn_raw"])),
        "writers sum to the residual stream": _far(written, seen.final),
        "the replayed forward pass equals the model's": _far(replayed, seen.final),
        "a right-padded prompt equals the prompt alone": _far(
            record(layout, right, at < length).final[:, :length], seen.final
        ),
        "a left-padded prompt equals the prompt alone": _far(record(layout, left, at >= 2).final[:, 2:], seen.final),
    }


def _allowed(layout: Layout, tokens: Int[Tensor, "pair pos"]) -> float:
    """What rounding explains in this model, in its own eager forward pass."""
    dtype = layout.module.dtype
    if CAP[dtype] == TOLERANCE[dtype]:
        return TOLERANCE[dtype]
    alone, length = _own_stream(layout, tokens), tokens.shape[1]
    right, left = (torch.cat(parts, 1) for parts in ((tokens, tokens[:, :2]), (tokens[:, :2], tokens)))
    at = torch.arange(length + 2, device=tokens.device)[None]
    others = torch.cat([tokens, tokens.flip(1), tokens.roll(1, 1)])
    noise = max(
        _far(_own_stream(layout, right, at < length)[:, :length], alone),
        _far(_own_stream(layout, left, at >= 2)[:, 2:], alone),
        _far(_own_stream(layout, others)[:1], alone),
        _far(_nudged(layout, tokens), alone),
    )
    return max(TOLERANCE[dtype], min(CAP[dtype], ROOM * noise))


def _own_stream(layout: Layout, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """The last residual stream of the model's own eager forward pass."""
    kept: list[Tensor] = []
    handle = layout.final_norm.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    try:
        with _attending_eagerly(layout.module):
            body(layout, tokens, mask)
    finally:
        handle.remove()
    return kept[0].view(*tokens.shape, -1)


def _nudged(layout: Layout, tokens: Tensor) -> Tensor:
    """The same, where every other channel that a block's attention norm reads is larger by one rounding."""

    def nudge(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0].clone()
        x[..., ::2] *= 1 + torch.finfo(x.dtype).eps
        return (x, *inputs[1:])

    norms = [layout.part(layer, layout.arch.norm_attn) for layer in range(layout.n_layers)]
    handles = [norm.register_forward_pre_hook(nudge) for norm in norms if norm is not None]
    try:
        return _own_stream(layout, tokens)
    finally:
        for handle in handles:
            handle.remove()


def _check_pattern_matters(layout: Layout, tokens: Int[Tensor, "pair pos"], name: str) -> None:
    plain = record(layout, tokens).final
    seen = record(layout, tokens, edit=lambda site, layer, x: x.roll(1, -1) if site == "pattern" else None).final
    if torch.equal(seen, plain):
        raise ValueError(
            f"{name}: changing every attention pattern changed nothing: the seam is not in the model's way"
        )


def _eager(layout: Layout, tokens: Int[Tensor, "pair pos"]) -> Tensor:
    with _attending_eagerly(layout.module):
        return layout.module(input_ids=tokens, use_cache=False).logits[:, -1]


@contextmanager
def _attending_eagerly(module: Any) -> Iterator[None]:
    config = module.config
    before, config._attn_implementation = config._attn_implementation, "eager"
    try:
        with as_evaluated(module):
            yield
    finally:
        config._attn_implementation = before


def _far(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp_min(torch.finfo(b.dtype).tiny))
