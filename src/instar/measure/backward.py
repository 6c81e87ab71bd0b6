"""Other rules for the backward pass of edge attribution: `gim`, `relp`, `relp-ah`. The forward pass stays as it is.

In all three a norm is the linear map that it is with its scale held (LayerNorm's centring stays; norms of q and k and norms
after a block as all others), and each branch of a gated MLP gets half of the gradient at the product. Linear layers,
embeddings, rotation and the caps of Gemma 2 keep their own derivative. What differs:

    rule                gim (arXiv 2505.17630)         relp (arXiv 2508.21258)           relp-ah
    softmax             gradient at temperature 2      its own gradient                  no gradient: the pattern is held
    q, k and v          × 1/4, × 1/4, × 1/2            as they are                       v as it is; q and k get nothing
    activation f(x)     its own gradient               × f(x) / x                        × f(x) / x

1. Hooks on norms, activations and the projection behind a gate hand on the module's own output with another backward
   rule, and come off again; q, k, v and the pattern are handed on by the replay's `edit`. No value changes.
2. Temperature T: the gradient at the scores is s_T ⊙ (g − Σ s_T g), s_T = softmax(scores / T), with no factor 1/T, as in the
   GIM paper's code. s_T ∝ pattern^(1/T), so scores, masks and caps need not be seen: the pattern's gradient is turned
   into the one that its own softmax makes this of.

Where the papers leave a choice. GIM: its circuits are from code that passes Gemma 2's caps by; here they keep their
derivative, as in its package. Up to 0.1.4 that package left the gate out. RelP: its table of rules has the
AH-rule (a held pattern; arXiv 2202.07304), and its authors' code for circuits leaves it out by default, so attention keeps
its gradient there: `relp`. With it, `relp-ah`, edges into q and k score 0 and are ranked last: what attention looks at
is not seen. In relp f(x)/x is 0 at x = 0. Relevance is conserved by `relp-ah` on a model without biases, norms' own
ones included, and without caps. Neither paper treats parallel blocks, q/k norms or attention soft-caps by themselves:
the same rules, module by module. An activation that is not 0 at 0 has no identity rule and is refused.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from instar.models.norms import frozen
from instar.models.replay import Engine
from instar.models.taps import Edit

Pull = Callable[[Tensor], Tensor]
"""A backward rule: from the gradient at a value to that at its input."""


@dataclass(frozen=True)
class Rules:
    """What differs from the gradient. Norms' scales are held, gated branches halved, in every one."""

    temperature: float | None = None
    """Of the softmax's gradient; 0: the pattern is held; None: its own gradient."""
    qk: float = 1.0
    v: float = 1.0
    ratio: bool = False
    """Activations are multiplied by f(x) / x, not by f'(x)."""


RULES = {
    "gim": Rules(temperature=2.0, qk=0.25, v=0.5),
    "relp": Rules(ratio=True),
    "relp-ah": Rules(temperature=0.0, ratio=True),
}
GATE = 0.5


@contextmanager
def backward(engine: Engine, rules: Rules) -> Iterator[Edit]:
    """While open, gradients through the engine's modules follow the rules; runs take the `edit` that it gives.

    Raises:
        ValueError: for an activation that the identity rule is not made for.
    """
    layout = engine.layout

    def hold(norm: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return _swapped(inputs[0], output, frozen(layout, norm, inputs[0].detach()).pull)

    def divide(_: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x = inputs[0].detach()
        slope = torch.where(x == 0, 0, output.detach() / x)
        return _swapped(inputs[0], output, lambda gradient: gradient * slope)

    def halve(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_scaled(inputs[0], GATE), *inputs[1:])

    with ExitStack() as stack:
        for norm in _norms(engine):
            stack.callback(norm.register_forward_hook(hold).remove)
        for block in engine.blocks:
            if block.gated is not None:
                stack.callback(block.gated.register_forward_pre_hook(halve).remove)
            if rules.ratio:
                _check_activation(block.activation, block.w_o.device)
                stack.callback(block.activation.register_forward_hook(divide).remove)
        yield _attention(rules)


def _norms(engine: Engine) -> list[nn.Module]:
    """Every norm once; one that is made of a norm for each head as its parts."""
    found: list[Any] = [engine.layout.final_norm]
    for block in engine.blocks:
        found += [block.norm_attn, block.norm_mlp, block.post_attn, block.post_mlp, *block.qk_norm]
    leaves = [m for norm in found if norm is not None for m in norm.modules() if not [*m.children()]]
    return list({id(norm): norm for norm in leaves}.values())


def _check_activation(activation: Any, device: torch.device) -> None:
    value = float(activation(torch.zeros(1, device=device)))
    if value != 0:
        raise ValueError(
            f"relp: the activation {type(activation).__name__} is {value:.3g} at 0, and its rule f(x) / x is for those that "
            "are 0 there; use gim, eap-ig or exact"
        )


def _attention(rules: Rules) -> Edit:
    def edit(name: str, _: int, value: Tensor) -> Tensor | None:
        if name == "pattern" and rules.temperature is not None:
            return _tempered(value, rules.temperature) if rules.temperature else value.detach()
        factor = {"q": rules.qk, "k": rules.qk, "v": rules.v}.get(name, 1.0)
        return None if factor == 1 else _scaled(value, factor)

    return edit


def _tempered(pattern: Tensor, temperature: float) -> Tensor:
    held = pattern.detach()
    soft = held ** (1 / temperature)
    soft = soft / soft.sum(-1, keepdim=True)
    # The softmax behind multiplies by the pattern again; what is masked, or too small to be a number, stays without.
    share = torch.where(held == 0, 0, soft / held)

    def pull(gradient: Tensor) -> Tensor:
        return share * (gradient - (soft * gradient).sum(-1, keepdim=True))

    return _swapped(pattern, pattern, pull)


def _scaled(x: Tensor, factor: float) -> Tensor:
    return _swapped(x, x, lambda gradient: gradient * factor)


def _swapped(x: Tensor, value: Tensor, pull: Pull) -> Tensor:
    """`value`, whose gradient goes to x by `pull`."""
    return _Swapped.apply(x, value.detach(), pull) if x.requires_grad else value


class _Swapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, pull: Pull) -> Tensor:
        ctx.pull = pull
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.pull(gradients[0]), None, None
