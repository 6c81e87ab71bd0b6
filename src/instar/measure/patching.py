"""Activation patching: what is restored (or lost) when one activation takes the value it has on the other prompt.

1. Denoising (the default) puts the clean value into the corrupted run, noising the corrupted value into the clean run.
2. `exact` replays every patch from where it begins (`instar.models.replay`): the result of a whole forward pass each.
3. `attribution` estimates all of them from one backward pass: base metric + (source − base) · ∂m/∂activation at the
   base run (attribution patching, arXiv 2310.10348). An approximation, and labelled one.
4. `auto` is exact for models under ten million parameters. Above, it estimates all, replays the largest entries of each
   site and as many random ones on the first few pairs, and reports how far the estimates are off on these.

The metric m is the logit of the answer minus that of the name which the corruption makes right (`Batch.contrast`), the
same on both prompts, at the last real token. Values are m of the patched run, in logits; `<site>_ratio` is on the scale
of `instar.stats.scales`. z is patched before W_O. Under grouped-query attention k and v have one entry a key-value head.

Of a pair whose prompts differ in length a slot takes the values of as many tokens, one by one, or of its last token where it
has others than on the other side; a whole head those of all slots. Its single positions and its patterns are NaN, and the
attribute `unequal` counts such pairs.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from instar.measure.common import about, numpy, pair_coords, sorted_pieces
from instar.measure.patches import (
    BY_KEY_VALUE_HEAD,
    HEAD_SITES,
    RESIDUAL_SITES,
    Case,
    Entries,
    estimate,
    places,
    replay,
)
from instar.models.load import Model
from instar.models.memory import halving
from instar.models.plain import measured
from instar.models.replay import Engine
from instar.progress import slow
from instar.stats.intervals import Interval, present_mean, rank_correlation
from instar.stats.scales import Direction, effect, mean_change, share
from instar.tasks.align import NONE
from instar.tasks.batch import Batch

Method = Literal["exact", "attribution", "auto"]
By = Literal["position", "slot"]
BY = "by"
"""Stands in an array's axes for what `by` says."""
SITES = ("resid_pre", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern")
EXACT_BELOW = 10_000_000
CHECKED, CHECKED_PAIRS = 20, 4
"""Entries of a site that `auto` replays: so many of the largest, and so many at random; and on how many pairs."""


@halving
@measured
@torch.no_grad()
def patching(
    model: Model,
    batch: Batch,
    sites: Sequence[str] = SITES,
    *,
    direction: Direction = "denoising",
    method: Method = "exact",
    by: By = "position",
    positions: bool = False,
    per_pair: bool = False,
    reference: xr.Dataset | None = None,
    seed: int = 0,
    chunk: int = 16,
) -> xr.Dataset:
    """Patch every entry of `sites`.

    Args:
        sites: residual sites `resid_pre`, `resid_mid`, `attn_out`, `mlp_out`; head sites `z`, `q`, `k`, `v`, `pattern`.
        by: whether a position is one token, or a slot of the template (all its tokens at once; the one choice that
            means something for prompts of several wordings).
        positions: patch head sites at each position by itself: the query's for z, q and pattern, the key's for k and v.
        per_pair: keep the `pair` axis.
        reference: what this function returned for the reference checkpoint of a series: adds `<site>_reference`, shares of
            its b − c, and masks the own ratio where the own b − c is not clearly above a tenth of it.
        seed: which random entries `auto` replays.
        chunk: pairs a pass; activations of no more than these are held at a time.

    Returns:
        Per site the metric of the patched run (logits) on `layer, position|slot` or `layer, head|kv_head`, and
        `<site>_ratio`; `clean` and `corrupted` on `pair`. With `auto` above its limit also `<site>_exact`, of the first
        pairs alone and NaN where not replayed, and the attribute `check`, which compares both on these pairs.

    Raises:
        ValueError: for an unknown site, direction or method, or `resid_mid` of a model with parallel blocks.
    """
    _check_arguments(model, sites, direction, method, by)
    small = sum(p.numel() for p in model.module.parameters()) < EXACT_BELOW
    how = ("exact" if small else "auto") if method == "auto" else method
    engine, names = Engine(model.layout), batch.slot_names if by == "slot" else range(batch.clean.shape[1])
    shapes = {site: _axes(model, site, len(names), positions) for site in sites}
    values: dict[str, np.ndarray] = {}
    exact: dict[str, np.ndarray] = {}
    ends = np.zeros((2, len(batch)))
    entries = sum(int(np.prod(list(shape.values()))) for shape in shapes.values())

    def cases(batch: Batch, differentiable: bool) -> Iterator[tuple[np.ndarray, Case]]:
        for rows, part in sorted_pieces(batch, model, chunk):
            yield rows, Case.of(engine, part, _positions(part, by, len(names), direction), direction, differentiable)

    with slow("patching", entries * -(-len(batch) // chunk)) as advance:
        for rows, case in cases(batch, differentiable=how != "exact"):
            wanted: Entries = {site: case.entries(site, positions) for site in sites}
            _fill(values, (replay if how == "exact" else estimate)(case, wanted, advance), rows, len(batch))
            both = [numpy(case.read(run.final)) for run in (case.base, case.source)]
            ends[:, rows] = both if direction == "noising" else both[::-1]
    if how == "auto":
        chosen = _chosen(values, ends[1 if direction == "denoising" else 0], shapes, seed)
        few = batch[slice(0, CHECKED_PAIRS)]
        with slow("exact check", sum(map(len, chosen.values())) * -(-len(few) // chunk)) as advance:
            for rows, case in cases(few, differentiable=False):
                _fill(exact, replay(case, chosen, advance), rows, len(batch))
        exact = {site: _spread(exact[site], chosen[site], shapes[site]) for site in sites}
    arrays = {site: value.reshape(len(batch), *shapes[site].values()) for site, value in values.items()}
    scale = None if reference is None else effect(reference["clean"], reference["corrupted"])
    return _dataset(model, batch, arrays, exact, ends, shapes, by, direction, how, per_pair, scale)


def _check_arguments(model: Model, sites: Sequence[str], direction: str, method: str, by: str) -> None:
    known = (*RESIDUAL_SITES, *HEAD_SITES)
    for name, value, choices in (
        *(("sites", site, known) for site in sites),
        ("direction", direction, ("denoising", "noising")),
        ("method", method, ("exact", "attribution", "auto")),
        ("by", by, ("position", "slot")),
    ):
        if value not in choices:
            raise ValueError(f"{name}: {value!r} is none of {', '.join(choices)}")
    if "resid_mid" in sites and model.layout.parallel:
        raise ValueError(
            f"{model.name}: its attention and MLP read the same stream, so there is no resid_mid; leave it out of sites"
        )


def _positions(part: Batch, by: By, count: int, direction: Direction) -> Bool[Tensor, "position pair pos"]:
    """Positions of the run that is patched. A single one means nothing where two prompts differ in length."""
    if by == "slot":
        slots = part.slots
        if part.counterpart is not None:
            at = places(part, direction)
            own = slots if direction == "noising" else slots.gather(1, at.clamp_min(0))
            slots = own.masked_fill(at == NONE, NONE)
        return torch.stack([slots == slot for slot in range(count)])
    width = part.clean.shape[1]
    here = part.mask & ~part.unequal[:, None]
    return torch.eye(count, width, dtype=torch.bool, device=part.mask.device)[:, None] & here[None]


def _axes(model: Model, site: str, count: int, positions: bool) -> dict[str, int]:
    """The axes of a site's array after `pair`, with their sizes."""
    layout = model.layout
    if site in RESIDUAL_SITES:
        return {"layer": layout.n_layers, BY: count}
    heads = {"kv_head": layout.n_kv_heads} if site in BY_KEY_VALUE_HEAD else {"head": layout.n_heads}
    return {"layer": layout.n_layers, **heads, **({BY: count} if positions else {})}


def _fill(into: dict[str, np.ndarray], metrics: dict[str, Tensor], rows: np.ndarray, pairs: int) -> None:
    for site, value in metrics.items():
        into.setdefault(site, np.full((pairs, value.shape[0]), np.nan))[rows] = numpy(value.T)


def _chosen(values: dict[str, np.ndarray], base: np.ndarray, shapes: dict[str, dict[str, int]], seed: int) -> Entries:
    """The entries with the largest estimated effects, and random ones."""
    generator = np.random.default_rng(seed)
    chosen: Entries = {}
    for site, value in values.items():
        moved = np.abs(present_mean(value - base[:, None]))
        largest = np.argsort(-np.nan_to_num(moved))[:CHECKED]
        rest = np.setdiff1d(np.arange(len(moved)), largest)
        random = generator.choice(rest, min(CHECKED, len(rest)), replace=False)
        index = np.unravel_index(np.sort([*largest, *random]), tuple(shapes[site].values()))
        chosen[site] = [tuple(int(i) for i in entry) for entry in zip(*index, strict=True)]
    return chosen


def _spread(values: np.ndarray, entries: Any, axes: dict[str, int]) -> np.ndarray:
    whole = np.full((len(values), *axes.values()), np.nan)
    for column, entry in enumerate(entries):
        whole[(slice(None), *entry)] = values[:, column]
    return whole


def _dataset(
    model: Model, batch: Batch, values: Any, exact: Any, ends: np.ndarray, shapes: Any,
    by: By, direction: Direction, how: str, per_pair: bool, reference: Interval | None,
) -> xr.Dataset:  # fmt: skip
    data: dict[str, Any] = {"clean": ("pair", ends[0]), "corrupted": ("pair", ends[1])}
    check: dict[str, Any] = {}
    for site, value in values.items():
        axes = tuple(by if axis == BY else axis for axis in shapes[site])
        mean = present_mean(value)
        data[site] = (("pair", *axes), value) if per_pair else (axes, mean)
        moved = mean_change(value, ends[0], ends[1], direction)
        data[f"{site}_ratio"] = (axes, share(moved, effect(ends[0], ends[1]), reference))
        if reference is not None:
            data[f"{site}_reference"] = (axes, share(moved, reference))
        if how == "auto":
            replayed = present_mean(exact[site])
            data[f"{site}_exact"] = (("pair", *axes), exact[site]) if per_pair else (axes, replayed)
            few = slice(0, CHECKED_PAIRS)
            check[site] = _off(present_mean(value[few]), replayed) | {"pairs": len(value[few])}
    coords = pair_coords(batch) | {"layer": np.arange(model.layout.n_layers)}
    coords |= {"head": np.arange(model.layout.n_heads), "kv_head": np.arange(model.layout.n_kv_heads)}
    coords[by] = np.array(batch.slot_names) if by == "slot" else np.arange(batch.clean.shape[1])
    used = {name for dims, _ in data.values() for name in ([dims] if isinstance(dims, str) else dims)}
    dataset = xr.Dataset(data, coords={k: v for k, v in coords.items() if k in used or k in ("place", "wording")})
    convention = f"{direction}; metric of the patched run in logits, answer minus the name the corruption makes right"
    return dataset.assign_attrs(
        about(model, batch, direction=direction, method=how, convention=convention, check=check)
    )


def _off(estimated: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """How far the estimates of the replayed entries are off, in logits, and their rank correlation."""
    there = ~np.isnan(exact)
    if not there.any():
        return {"entries": 0, "largest": None, "mean": None, "rank": None}
    error = np.abs(estimated - exact)[there]
    rank = rank_correlation(estimated[there], exact[there])
    return {
        "entries": int(there.sum()),
        "largest": float(error.max()),
        "mean": float(error.mean()),
        "rank": rank,
    }
