"""The numbers behind the drawings of patching, on three scales.

A series is scaled by one *reference checkpoint*: step 0 for the old task, the last step for the new one, for each
counterfactual by itself. A ratio whose own denominator is not usable there (`instar.stats.scales`) is NaN: masked.
"""

import json
from dataclasses import dataclass

import numpy as np
import xarray as xr

from instar.record.store import Store
from instar.stats.intervals import Interval
from instar.stats.scales import effect, mean_change, share

SITES = {
    "resid_pre": "residual stream",
    "attn_out": "attention output",
    "mlp_out": "MLP output",
    "z": "head output (z)",
    "q": "queries",
    "k": "keys",
    "v": "values",
    "pattern": "pattern",
}
BY_SLOT = ("resid_pre", "attn_out", "mlp_out")
"""Sites drawn by layer and slot; the others by layer and head."""
SCALES = ("reference", "ratio", "logits")
CONVENTION = "clean value patched into the corrupted run; (x − c)/(b − c) with the reference checkpoint's b − c"


@dataclass(frozen=True)
class Patched:
    """One task's patching at every step."""

    steps: list[int]
    counterfactuals: list[str]
    slots: list[str]
    reference: int
    """The step whose b − c scales the series."""
    effects: list[list[Interval]]
    """b − c by step and counterfactual, in logits."""
    values: dict[str, dict[str, np.ndarray]]
    """By site and scale: `step, counterfactual, layer, slot or head`."""
    pairs: int
    how: str
    """Exact or estimated, in words."""

    def panel(self, site: str, scale: str, index: int, counterfactual: int) -> np.ndarray:
        """One drawing's values."""
        return self.values[site][scale][index, counterfactual]


def patched(store: Store, task: str, role: str, steps: list[int]) -> Patched | None:
    """The series of one task; None where it was not measured."""
    series = store.series("patching", task, steps=steps)
    if series is None:
        return None
    where = 0 if role == "old" else -1
    kinds = [str(k) for k in series["counterfactual"].values]
    ends = [series[name].transpose("step", "counterfactual", "pair").values for name in ("clean", "corrupted")]
    effects = [[effect(b, c) for b, c in zip(*rows, strict=True)] for rows in zip(*ends, strict=True)]
    values = {site: _scaled(series, site, ends, effects[where]) for site in SITES if site in series}
    return Patched(
        series["step"].values.tolist(),
        kinds,
        [str(s) for s in series["slot"].values],
        int(series["step"].values[where]),
        effects,
        values,
        series.sizes["pair"],
        _how(series),
    )


def _scaled(series: xr.Dataset, site: str, ends: list[np.ndarray], reference: list[Interval]) -> dict[str, np.ndarray]:
    axes = [d for d in series[site].dims if d not in ("step", "counterfactual", "pair")]
    per_pair = series[site].transpose("step", "counterfactual", "pair", *axes).values
    found = {scale: np.full((*per_pair.shape[:2], *per_pair.shape[3:]), np.nan) for scale in SCALES}
    for step, kind in np.ndindex(*per_pair.shape[:2]):
        clean, corrupted = ends[0][step, kind], ends[1][step, kind]
        moved = mean_change(per_pair[step, kind], clean, corrupted, "denoising")
        found["logits"][step, kind] = moved
        found["ratio"][step, kind] = share(moved, effect(clean, corrupted), reference[kind])
        found["reference"][step, kind] = share(moved, reference[kind])
    return found


def _how(series: xr.Dataset) -> str:
    """Estimates must not pass for exact patching."""
    if series.attrs["method"] == "exact":
        return "exact"
    checks = json.loads(str(series.attrs["check"]))
    ranks = [site["rank"] for kind in checks.values() for site in kind.values() if site["rank"] is not None]
    checked = f"; first step: rank correlation with exact at least {min(ranks):.2f} on a sample" if ranks else ""
    return f"estimated by attribution patching, not exact{checked}"
