"""The backward rules of GIM and RelP, written into a Hugging Face model by hand. Imports nothing of the package under test.

Inside `following` every forward keeps its value and is written out in plain torch with `detach`, so that autograd gives
what the rules prescribe: norms over a detached scale, x · (f(x) / x).detach() for an activation, half of a · b.detach() +
a.detach() · b at a gate, and for a softmax at temperature 2 the surrogate 2 · softmax(scores / 2), whose derivative is the
one at that temperature.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


def _norm(module: Any) -> Any:
    plus_one = type(module).__name__.startswith("Gemma")

    def layer_norm(x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        out = centred / (centred.pow(2).mean(-1, keepdim=True) + module.eps).sqrt().detach() * module.weight
        return out if module.bias is None else out + module.bias

    def rms_norm(x: Tensor) -> Tensor:
        eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
        return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt().detach() * (module.weight + plus_one)

    return layer_norm if isinstance(module, nn.LayerNorm) else rms_norm


def _activation(function: Any) -> Any:
    return lambda x: x * (function(x) / x).detach()


def _gated(mlp: Any) -> Any:
    act = mlp.act_fn if hasattr(mlp, "act_fn") else mlp.activation_fn

    def forward(x: Tensor) -> Tensor:
        # Phi-3 keeps gate and up in one matrix.
        gate, up = (
            mlp.gate_up_proj(x).chunk(2, -1) if hasattr(mlp, "gate_up_proj") else (mlp.gate_proj(x), mlp.up_proj(x))
        )
        a = act(gate)
        return mlp.down_proj((a * up.detach() + a.detach() * up) / 2)

    return forward


def _part(x: Tensor, share: float) -> Tensor:
    """x, of which a share alone has a gradient."""
    return share * x + ((1 - share) * x).detach()


def _attention(method: str) -> Any:
    def forward(
        module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, scaling: Any = None, softcap: Any = None, **_: Any
    ):
        if method == "gim":
            q, k, v = _part(q, 1 / 4), _part(k, 1 / 4), _part(v, 1 / 2)
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        scores = q @ k.mT * (q.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = scores if softcap is None else softcap * (scores / softcap).tanh()
        scores = scores if mask is None else scores + mask
        pattern = scores.softmax(-1)
        if method == "gim":
            surrogate = 2 * (scores / 2).softmax(-1)
            pattern = pattern.detach() + surrogate - surrogate.detach()
        if method == "relp-ah":
            pattern = pattern.detach()
        return (pattern @ v).transpose(1, 2), pattern

    return forward


@contextmanager
def following(model: Any, method: str) -> Iterator[None]:
    """The model with its forwards written out; as it was afterwards."""
    with ExitStack() as stack:

        def put(module: Any, forward: Any) -> None:
            module.forward = forward
            stack.callback(delattr, module, "forward")

        for module in [*model.modules()]:
            if isinstance(module, nn.LayerNorm) or "RMSNorm" in type(module).__name__:
                put(module, _norm(module))
            for name in ("act", "act_fn", "activation_fn"):
                act = getattr(module, name, None)
                if method != "gim" and isinstance(act, nn.Module):
                    put(act, _activation(act.forward))
            if hasattr(module, "down_proj"):
                put(module, _gated(module))
        attention = next(m for m in model.modules() if type(m).__name__.endswith("Attention"))
        home: Any = sys.modules[type(attention).__module__]
        stack.callback(setattr, home, "eager_attention_forward", home.eager_attention_forward)
        home.eager_attention_forward = _attention(method)
        yield
