"""Norms taken apart: what a LayerNorm or RMSNorm is when its scale is held at the value it has on one input.

`norm(x) = gain · (x − mean) · scale + bias` for LayerNorm, `gain · x · scale` for RMSNorm, with `scale` depending on x.
Frozen, the map is linear, and the sum of what is read through it is what is read of the sum (arXiv 2211.00593).
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from instar.models.arch import Layout


@dataclass(frozen=True)
class Frozen:
    """A norm with its scale held at one input."""

    scale: Float[Tensor, "*row 1"]
    hat: Float[Tensor, "*row d_model"]
    """The input, centred (LayerNorm only) and scaled, before gain and bias."""
    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    centred: bool

    def pull(self, direction: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """The direction whose product with x is `direction`'s with the frozen norm of x, bias apart."""
        direction = direction * self.gain
        if self.centred:
            direction = direction - direction.mean(-1, keepdim=True)
        return direction * self.scale


def frozen(layout: Layout, norm: Any, x: Float[Tensor, "*row d_model"]) -> Frozen:
    """`norm` with its scale as it is on `x`."""
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    gain = x.new_ones(x.shape[-1]) if weight is None else weight.detach()
    if isinstance(norm, nn.LayerNorm):
        centre = x - x.mean(-1, keepdim=True)
        scale = (centre.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
        return Frozen(scale, centre * scale, gain, None if bias is None else bias.detach(), True)
    eps = getattr(norm, "variance_epsilon", None)
    scale = (x.square().mean(-1, keepdim=True) + (norm.eps if eps is None else eps)).rsqrt()
    return Frozen(scale, x * scale, gain + 1 if layout.arch.gain_plus_one else gain, None, False)
