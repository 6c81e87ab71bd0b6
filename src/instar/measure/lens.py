"""Logit lens: each residual stream is normed *anew* with the final norm and unembedded.

"What would the model say if it stopped here", at half layers (`resid_pre` and `resid_mid`). It is another reading of the
stream than direct logit attribution (`instar.measure.direct_attribution`), and never mixed with it. Models that cap their
logits are read before the cap.

Of the clean prompts, in logits, for answer minus mean of the foils, at the last real token; positive helps.
"""

import numpy as np
import torch
import xarray as xr

from instar.measure.common import about, answer_direction, at_end, joined, numpy, pieces
from instar.models.load import Model
from instar.models.memory import halving
from instar.models.plain import measured
from instar.models.taps import record
from instar.tasks.batch import Batch


@halving
@measured
@torch.no_grad()
def lens(model: Model, batch: Batch, *, chunk: int = 64) -> xr.Dataset:
    """Logit lens per half layer.

    Returns:
        `logit_diff` (logits) on `pair, stage`; stages are `0_pre`, `0_mid`, …, `final` (parallel blocks have no `mid`).
    """
    layout, parts = model.layout, []
    halves = ("resid_pre",) if layout.parallel else ("resid_pre", "resid_mid")
    for part in pieces(batch, model, chunk):
        seen = record(layout, part.clean, part.mask, keep=halves)
        direction = answer_direction(model, part.answer, part.foils)
        stream = [x for both in zip(*(seen[half] for half in halves), strict=True) for x in both]
        read = [layout.final_norm(at_end(x, part.end)) for x in (*stream, seen.final)]
        values = [(x * direction.vector).sum(1) + direction.offset for x in read]
        parts.append({"logit_diff": numpy(torch.stack(values, 1))})
    stages = [f"{layer}_{half[6:]}" for layer in range(layout.n_layers) for half in halves]
    dataset = joined(parts, {"logit_diff": ("pair", "stage")}, batch, stage=np.array([*stages, "final"]))
    convention = "final norm recomputed at each stage; logit(answer) - mean logit(foils)"
    return dataset.assign_attrs(about(model, batch, convention=convention))
