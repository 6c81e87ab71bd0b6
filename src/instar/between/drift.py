"""How far a checkpoint is from its base: in what it says of general text, and in its weights.

`kl`: KL(base ‖ checkpoint) in nats per token, over every position of general text. `weight_change`: ‖ΔW‖ (Frobenius) of
each component, and `weight_norm` ‖W‖ of the base beside it. Components are each layer's attention and MLP with the norms
that feed them, the embeddings, and the final norm.
"""

import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor

from instar.models.load import Model, weights_now
from instar.models.plain import measured
from instar.models.taps import record
from instar.models.weights import tied

PART = 2**24
"""Numbers of a weight that a GPU holds in float64 at a time."""


@measured
@torch.no_grad()
def drift(
    base: Model, tuned: Model, tokens: Int[Tensor, "text pos"] | None, mask: Bool[Tensor, "text pos"] | None = None
) -> xr.Dataset:
    """Divergence on general text (NaN for `tokens=None`) and change of the weights.

    Returns:
        `kl` on `text` (nats per token); `weight_change`, `weight_norm` on `component`.
    """
    change, norm = defaultdict(float), defaultdict(float)
    # Where one of the two has a matrix of its own at either end, the other's shared one is compared with both.
    once = tied(base.layout) == tied(tuned.layout)
    own = dict(tuned.module.named_parameters(remove_duplicate=once))
    for name, value in base.module.named_parameters(remove_duplicate=once):
        part = component(name, base)
        for a, b in _parts(own[name], value):
            change[part] += float((a - b).square().sum())
            norm[part] += float(b.square().sum())
    names = sorted(
        change, key=lambda c: (c.startswith("final"), [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", c)])
    )
    dataset = xr.Dataset(
        {
            "weight_change": ("component", np.sqrt([change[n] for n in names])),
            "weight_norm": ("component", np.sqrt([norm[n] for n in names])),
            "kl": ("text", _divergence(base, tuned, tokens, mask)),
        },
        coords={"component": np.array(names)},
    )
    return dataset.assign_attrs(model=tuned.name, weights=weights_now(tuned), base=weights_now(base))


def _parts(*values: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Two tensors in float64 where they are; a GPU's memory has room for a part of them at a time."""
    if values[0].device.type in ("cpu", "mps"):  # Apple's GPUs have no float64
        yield tuple(v.cpu().double() for v in values)
    else:
        split = [v.flatten().split(PART) for v in values]
        yield from (tuple(v.double() for v in own) for own in zip(*split, strict=True))


def component(parameter: str, model: Model) -> str:
    """`embed`, `layer 3 attention`, `layer 3 mlp` or `final norm`: where a parameter belongs."""
    arch = model.layout.arch
    inside = re.match(re.escape(arch.blocks) + r"\.(\d+)\.(.+)", parameter)
    if inside is None:
        return "final norm" if parameter.startswith(arch.final_norm) else "embed"
    layer, rest = inside.groups()
    # A norm that both share (Phi) counts with the attention.
    own = {*arch.mlp, arch.norm_mlp, arch.post_mlp} - {None, arch.norm_attn}
    return f"layer {layer} {'mlp' if any(rest.startswith(f'{path}.') for path in own) else 'attention'}"


def _divergence(base: Model, tuned: Model, tokens: Tensor | None, mask: Tensor | None) -> np.ndarray:
    if tokens is None:
        return np.array([np.nan])
    mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    values = []
    for row, real in zip(tokens.split(16), mask.split(16), strict=True):
        p, q = (_log_probabilities(m, row, real) for m in (base, tuned))
        per_token = (p.exp() * (p - q)).sum(-1).cpu().double()
        values.append((per_token * real).sum(1) / real.sum(1))
    return torch.cat(values).numpy()


def _log_probabilities(model: Model, tokens: Tensor, mask: Tensor) -> Tensor:
    layout = model.layout
    final = record(layout, tokens.to(model.device), mask.to(model.device)).final
    return layout.logits(final).log_softmax(-1)
