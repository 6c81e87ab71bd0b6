"""The numbers behind the drawings of interventions: patching on three scales, faithfulness curves, circuits.

A series is scaled by one *reference checkpoint*: step 0 for the old task, the last step for the new one, for each
counterfactual by itself. A ratio whose own denominator is not usable there (`instar.stats.scales`) is NaN: masked.
"""

import json
from dataclasses import dataclass

import numpy as np
import xarray as xr

from instar.circuits.selection import of_size
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
SHOWN_EDGES = 80


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


@dataclass(frozen=True)
class Circuits:
    """One task's circuits at every step. Arrays begin with `step, group`."""

    steps: list[int]
    groups: list[str]
    share: np.ndarray
    kept: np.ndarray
    faithfulness: np.ndarray
    low: np.ndarray
    high: np.ndarray
    random: np.ndarray
    """The mean over random rankings."""
    size: np.ndarray
    """Edges of the smallest faithful circuit; NaN where there is none."""
    cpr: np.ndarray
    random_cpr: np.ndarray
    rank_correlation: np.ndarray
    drawn: list[int]
    """By group, how many edges every step's circuit is drawn with: the largest of the faithful sizes."""
    edges: list[list[list[tuple[str, float]]]]
    """The edges of the circuit of that size with their scores, the largest first, at most `SHOWN_EDGES`."""
    method: str
    pairs: int
    layers: int
    heads: int
    kv_heads: int


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


def circuits(store: Store, task: str, steps: list[int]) -> Circuits | None:
    """The series of one task; None where it was not measured."""
    series = store.series("circuit", task, steps=steps, only=_mean_scores)
    if series is None:
        return None

    def rows(name: str, *axes: str) -> np.ndarray:
        return series[name].transpose("step", "group", *axes).values

    drawn = np.nan_to_num(np.fmax.reduce(rows("circuit_size"), 0)).astype(int).tolist()
    return Circuits(
        steps=series["step"].values.tolist(),
        groups=[str(g) for g in series["group"].values],
        share=series["share"].values if "step" not in series["share"].dims else series["share"].values[0],
        kept=rows("kept", "size"),
        faithfulness=rows("faithfulness", "size"),
        low=rows("low", "size"),
        high=rows("high", "size"),
        random=series["random"].mean("draw").transpose("step", "group", "size").values,
        size=rows("circuit_size"),
        cpr=rows("cpr"),
        random_cpr=rows("random_cpr"),
        rank_correlation=rows("rank_correlation"),
        drawn=drawn,
        edges=_edges(series, drawn),
        method=str(series.attrs["method"]),
        pairs=int(series["score_pairs"].values.ravel()[0]),
        layers=int(series.attrs["n_layers"]),
        heads=int(series.attrs["n_heads"]),
        kv_heads=int(series.attrs["n_kv_heads"]),
    )


def _mean_scores(dataset: xr.Dataset) -> xr.Dataset:
    pairs = dataset.sizes["pair"]
    kept = dataset.drop_vars("score_exact", errors="ignore")
    return kept.assign(score=dataset["score"].mean("pair"), score_pairs=pairs)


def _edges(series: xr.Dataset, drawn: list[int]) -> list[list[list[tuple[str, float]]]]:
    """By step and group: the circuits of equal size; none where no size was faithful."""
    found: list[list[list[tuple[str, float]]]] = []
    for step in range(series.sizes["step"]):
        own = series.isel(step=step)
        found.append([])
        for name, n, size in zip(own["group"].values, drawn, own["circuit_size"].values, strict=True):
            circuit = None if np.isnan(size) else of_size(own, n, str(name))
            rows = [] if circuit is None else list(zip(circuit.edges, circuit.scores, strict=True))
            found[-1].append(sorted(rows, key=lambda row: -abs(row[1]))[:SHOWN_EDGES])
    return found
