"""What moved between the first and the last checkpoint: heads and layers by direct attribution.

A change is the paired difference, last minus first, of a component's contribution to the logit difference on the same
prompts (logits). Bounds are simultaneous over the list (`intervals.simultaneous_mean`), so a component whose bounds
exclude 0 did move, although it was picked for having moved most.
"""

from typing import Any

import numpy as np
import xarray as xr

from instar.stats.intervals import Interval, simultaneous_mean


def changed_heads(attribution: xr.Dataset) -> list[dict[str, Any]]:
    """Every head, largest change first."""
    heads = attribution["heads"].transpose("step", "pair", "layer", "head").values
    interval = simultaneous_mean(heads[-1] - heads[0])
    names = [(layer, head) for layer in range(heads.shape[2]) for head in range(heads.shape[3])]
    rows = []
    for layer, head in names:
        own = {"head": f"a{layer}.h{head}", "layer": layer, "index": head}
        rows.append(own | _row(heads[:, :, layer, head], interval, (layer, head)))
    return sorted(rows, key=lambda row: -abs(row["change"]))


def changed_layers(attribution: xr.Dataset) -> list[dict[str, Any]]:
    """Every layer's attention (heads and output bias) and MLP, largest change first."""
    attention = attribution["heads"].sum("head") + attribution["attn_bias"]
    both = np.stack([x.transpose("step", "pair", "layer").values for x in (attention, attribution["mlp"])], -1)
    interval = simultaneous_mean(both[-1] - both[0])
    rows = []
    for layer in range(both.shape[2]):
        for kind, name in enumerate(("attention", "mlp")):
            own = {"layer": layer, "part": name}
            rows.append(own | _row(both[:, :, layer, kind], interval, (layer, kind)))
    return sorted(rows, key=lambda row: -abs(row["change"]))


def _row(values: np.ndarray, interval: Interval, at: tuple[int, ...]) -> dict[str, Any]:
    low, high = float(interval.low[at]), float(interval.high[at])
    return {
        "before": float(values[0].mean()),
        "after": float(values[-1].mean()),
        "change": float(interval.value[at]),
        "low": low,
        "high": high,
        "moved": not low <= 0 <= high,
    }
