"""What a circuit does by itself: faithfulness and its curve, completeness, minimality.

Every edge outside the circuit carries what it carries in a *baseline*; every edge inside carries its source's output in
this very evaluation. Edges are followed in topological order, all circuits of a curve on one baseline run.

- `resample` (the default): the paired corrupted prompt. Only what a kept edge can change is computed anew, from the
  first position at which the prompts differ.
- `mean`: the mean over the corrupted prompts of the same wording, position by position.
- `zero`: nothing at all, the biases of the attention outputs excepted. Only on request: it takes the model far from
  anything it was trained on.

    f(C) = (m(C) − c) / (b − c), a ratio of means over pairs; 1 is the whole model, 0 the corrupted prompts.

CPR = ∫ f dk and CMD = ∫ |1 − f| dk over the sizes k of `GRID` as shares of all edges (MIB, arXiv 2504.13151), by the
trapezoidal rule. Values of different ablations are never comparable.

An edge carries a value at each position to the same position: pairs whose two prompts are not aligned position by position
are left out, and the attribute `left_out` counts and names them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr

from instar.circuits.circuit import FAITHFUL, Circuit
from instar.circuits.graph import Graph, Mask
from instar.circuits.selection import FINE, GRID, Selection, grid_sizes, ranking, smallest_size, top
from instar.measure.ablate import Ablation, Baselines, evaluate_masks
from instar.measure.common import about, fitting, numpy, pair_coords, prompts, sorted_pieces
from instar.models.load import Model
from instar.models.memory import halving
from instar.models.plain import measured
from instar.models.replay import Engine, Metric
from instar.progress import slow
from instar.stats.intervals import bootstrap_ratio, by_group
from instar.stats.scales import effect, usable
from instar.tasks.batch import Batch


class Scored(Protocol):
    """Scores of every edge, [source, destination]: what `instar.edges` returns."""

    @property
    def graph(self) -> Graph: ...
    @property
    def scores(self) -> np.ndarray: ...


@measured
def faithfulness(
    model: Model,
    batch: Batch,
    circuits: Circuit | Sequence[Circuit],
    *,
    ablation: Ablation = "resample",
    chunk: int = 16,
) -> xr.Dataset:
    """How much of the model's behaviour circuits reproduce by themselves.

    Returns:
        `metric` (logits) on `circuit, pair`; `clean`, `corrupted` (or the ablated baseline's metric) on `pair`;
        `faithfulness`, `low`, `high` (bootstrap 95 % over pairs) and `edges` on `circuit`. Where the interval of
        b − c spans 0 the ratio is NaN.
    """
    given = [circuits] if isinstance(circuits, Circuit) else list(circuits)
    graph = Graph.of(model.layout)
    for circuit in given:
        if circuit.graph != graph:
            raise ValueError(f"the circuit and the model are not of the same graph: {circuit.graph.other(graph)}")
    masks = [np.zeros(graph.exists.shape, bool), *(circuit.mask for circuit in given)]
    batch = batch.aligned()
    values, clean = metrics_of_masks(model, batch, masks, ablation, chunk)
    return _dataset(model, batch, values, clean, masks, ablation)


@halving
@torch.no_grad()
def metrics_of_masks(
    model: Model, batch: Batch, masks: Sequence[Mask], ablation: Ablation, chunk: int
) -> tuple[np.ndarray, np.ndarray]:
    """The metric [mask, pair] of each circuit, and of the clean prompts [pair]."""
    if ablation not in ("resample", "mean", "zero"):
        raise ValueError(f"ablation: {ablation!r} is none of 'resample', 'mean', 'zero'")
    engine = Engine(model.layout)
    chunk = fitting(chunk, batch, model, len(Graph.of(model.layout).sources))
    baselines = Baselines.of(engine, batch, ablation, chunk)
    values, clean = np.zeros((len(masks), len(batch))), np.zeros(len(batch))
    with slow("circuits", len(batch) * len(masks)) as advance:
        for rows, part in sorted_pieces(batch, model, chunk):
            metric = Metric.of(engine.layout, part.answer, part.contrast)
            found = evaluate_masks(engine, part, masks, baselines, metric, advance)
            values[:, rows], clean[rows] = numpy(found.circuits), numpy(found.clean)
    return values, clean


def _dataset(
    model: Model, batch: Batch, values: np.ndarray, clean: np.ndarray, masks: Sequence[Mask], ablation: Ablation
) -> xr.Dataset:
    """The first mask is the empty circuit: its metric is c."""
    corrupted, values = values[0], values[1:]
    # Counterfactuals of one prompt are one draw.
    index = prompts(batch)
    above, below = (by_group(x, index) for x in (values.T - corrupted[:, None], clean - corrupted))
    spread = bootstrap_ratio(above, below)
    masked = not usable(effect(clean, corrupted, index))
    blank = np.full(len(values), np.nan)
    data: dict[str, Any] = {
        "metric": (("circuit", "pair"), values),
        "clean": ("pair", clean),
        "corrupted": ("pair", corrupted),
        "faithfulness": ("circuit", blank if masked else spread.value),
        "low": ("circuit", blank if masked else spread.low),
        "high": ("circuit", blank if masked else spread.high),
        "edges": ("circuit", np.array([int(mask.sum()) for mask in masks[1:]])),
    }
    convention = "(m(C) - c) / (b - c), ratio of means; logits of answer minus the name the corruption makes right"
    return xr.Dataset(data, coords=pair_coords(batch)).assign_attrs(
        about(model, batch, ablation=ablation, convention=convention)
    )


@measured
def curve(
    model: Model,
    batch: Batch,
    edges: Scored,
    *,
    shares: Sequence[float] = GRID,
    selection: Selection = "top",
    signed: bool = False,
    random: int = 3,
    seed: int = 0,
    ablation: Ablation = "resample",
    chunk: int = 16,
) -> xr.Dataset:
    """Faithfulness at every size of a grid, with random circuits of the same sizes beside it.

    Args:
        shares: sizes as shares of all edges.
        random: how many random rankings.

    Returns:
        `faithfulness`, `low`, `high`, `edges` (after pruning) on `size`; `random` on `draw, size`; `metric` on
        `size, pair`; CPR and CMD as attributes `cpr`, `cmd`, `random_cpr`, with the `ranking` that they used.
    """
    ranked = {"own": Ranked(edges, ("all",), batch)}
    every = _Curves(model, {"all": batch}, ranked, {"own": shares}, random, selection, signed, seed, ablation, chunk)
    return every.measured()["own"]


@dataclass(frozen=True)
class Ranked:
    """Edges whose ranking gives a curve, and the pairs that it is on."""

    edges: Scored
    parts: tuple[str, ...]
    """Which parts these pairs are, in their order."""
    batch: Batch


@measured
def curves(
    model: Model, parts: Mapping[str, Batch], ranked: Mapping[str, Ranked], *, random: int = 3, chunk: int = 16
) -> dict[str, xr.Dataset]:
    """`curve` of several rankings on parts of the same pairs: what is the same for all of them is run once.

    Random circuits are, and so are their values on a part that several rankings are measured on. Sizes are those of
    `FINE`: measured at those of `GRID`, and at the others only around the smallest faithful one; elsewhere NaN.
    """
    coarse = _Curves(model, parts, ranked, dict.fromkeys(ranked, GRID), random, chunk=chunk).measured()
    around = {name: own for name in ranked if (own := _between(coarse[name]))}
    finer = _Curves(model, parts, {name: ranked[name] for name in around}, around, 0, chunk=chunk).measured()
    graph = Graph.of(model.layout)
    return {name: _merged(graph, coarse[name], finer.get(name)) for name in ranked}


def _between(coarse: xr.Dataset) -> list[float]:
    """Sizes of `FINE` between the last of `GRID` that is not faithful and the smallest faithful one after it."""
    size = smallest_size(coarse["size"].values, coarse["faithfulness"].values, FAITHFUL)
    first = 0 if size is None else int(np.flatnonzero(coarse["size"].values == size)[0])
    return [share for share in FINE if first and GRID[first - 1] < share < GRID[first]]


def _merged(graph: Graph, coarse: xr.Dataset, finer: xr.Dataset | None) -> xr.Dataset:
    """One curve over all sizes of `FINE`; random circuits are of the coarse sizes alone."""
    whole, more = (
        None if own is None else own.swap_dims(size="share").drop_vars("size").reindex(share=list(FINE))
        for own in (coarse, finer)
    )
    assert whole is not None
    if more is not None:
        whole = whole.combine_first(more.drop_vars("random"))
    whole = whole.assign_coords(size=("share", grid_sizes(graph, FINE)))
    return whole.swap_dims(share="size").assign_attrs(coarse.attrs)


@dataclass(frozen=True)
class _Curves:
    """Several rankings' circuits at sizes of their own, each on its parts of the pairs; random ones at the first's sizes."""

    model: Model
    parts: Mapping[str, Batch]
    ranked: Mapping[str, Ranked]
    shares: Mapping[str, Sequence[float]]
    random: int
    selection: Selection = "top"
    signed: bool = False
    seed: int = 0
    ablation: Ablation = "resample"
    chunk: int = 16

    def measured(self) -> dict[str, xr.Dataset]:
        """By ranking, as `curve` has it."""
        if not self.ranked:
            return {}
        graph = Graph.of(self.model.layout)
        empty, common = np.zeros(graph.exists.shape, bool), self._random(graph)
        own = {
            name: [
                graph.pruned(top(graph, ranking(r.edges.scores, self.signed), n, self.selection))
                for n in grid_sizes(graph, self.shares[name])
            ]
            for name, r in self.ranked.items()
        }
        values: dict[tuple[str, str], np.ndarray] = {}
        clean: dict[str, np.ndarray] = {}
        for part, batch in ((part, batch.aligned()) for part, batch in self.parts.items()):
            names = [name for name, r in self.ranked.items() if part in r.parts]
            masks = [empty, *common, *(mask for name in names for mask in own[name])]
            found, clean[part] = _of_some(self.model, batch, masks, self.ablation, self.chunk)
            first, rest = found[: 1 + len(common)], found[1 + len(common) :]
            for name in names:
                mine, rest = np.split(rest, [len(own[name])])
                values[name, part] = np.concatenate([first[:1], mine, first[1:]])
        return {
            name: self._one(
                name, _dataset(
                    self.model, r.batch.aligned(), np.concatenate([values[name, part] for part in r.parts], 1),
                    np.concatenate([clean[part] for part in r.parts]), [empty, *own[name], *common], self.ablation,
                ),
            )
            for name, r in self.ranked.items()
        }  # fmt: skip

    def _random(self, graph: Graph) -> list[Mask]:
        generator, sizes = np.random.default_rng(self.seed), grid_sizes(graph, next(iter(self.shares.values())))
        shape = graph.exists.shape
        draws = [generator.permutation(graph.exists.size).reshape(shape).astype(float) for _ in range(self.random)]
        return [graph.pruned(top(graph, draw, n)) for draw in draws for n in sizes]

    def _one(self, name: str, whole: xr.Dataset) -> xr.Dataset:
        """A ranking's own circuits by size, and the random ones after them."""
        shares = self.shares[name]
        sizes = grid_sizes(Graph.of(self.model.layout), shares)
        own = whole.isel(circuit=slice(0, len(sizes))).rename(circuit="size").assign_coords(size=sizes)
        drawn = whole["faithfulness"].values[len(sizes) :].reshape(self.random, len(sizes))
        own = own.assign(random=(("draw", "size"), drawn)).assign_coords(share=("size", np.array(shares)))
        area = [_area(shares, line) for line in (own["faithfulness"].values, *drawn)]
        mean = float(np.mean([a[0] for a in area[1:]])) if self.random else np.nan
        ranks = {"ranking": "signed" if self.signed else "absolute", "selection": self.selection}
        return own.assign_attrs(cpr=area[0][0], cmd=area[0][1], random_cpr=mean, **ranks)


def _of_some(
    model: Model, batch: Batch, masks: Sequence[Mask], ablation: Ablation, chunk: int
) -> tuple[np.ndarray, np.ndarray]:
    """`metrics_of_masks`, without running the circuits of all edges: they are the model."""
    exists = Graph.of(model.layout).exists
    whole = np.array([np.array_equal(mask, exists) for mask in masks])
    some, clean = metrics_of_masks(
        model, batch, [m for m, all_ in zip(masks, whole, strict=True) if not all_], ablation, chunk
    )
    values = np.broadcast_to(clean, (len(masks), len(clean))).copy()
    values[~whole] = some
    return values, clean


def _area(shares: Sequence[float], f: np.ndarray) -> tuple[float, float]:
    """CPR and CMD: areas over the shares of edges, by trapezoids."""
    x = np.asarray(shares)
    return float(np.trapezoid(f, x)), float(np.trapezoid(np.abs(1 - f), x))


@measured
def completeness(
    model: Model,
    batch: Batch,
    circuit: Circuit,
    *,
    groups: dict[str, Sequence[str]] | None = None,
    random: int = 10,
    seed: int = 0,
    ablation: Ablation = "resample",
    chunk: int = 16,
) -> xr.Dataset:
    """|f(C∖K) − f(M∖K)|: does the model without K do what the circuit without K does (arXiv 2211.00593)?

    K are sets of nodes, whose edges are all cut: `random` random halves of the circuit's heads and MLPs, and the named
    `groups` (by role). Returns `circuit`, `model` (faithfulness without K) and `gap` on `removed`.
    """
    graph = circuit.graph
    nodes = [node for node in circuit.nodes if node not in ("input", "logits")]
    generator = np.random.default_rng(seed)
    sets = {f"random {i}": list(generator.permutation(nodes)[: len(nodes) // 2]) for i in range(random)}
    sets |= {name: list(members) for name, members in (groups or {}).items()}
    masks = [np.zeros(graph.exists.shape, bool)]
    for removed in sets.values():
        masks += [_without(graph, circuit.mask, removed), _without(graph, graph.exists, removed)]
    batch = batch.aligned()
    values, clean = metrics_of_masks(model, batch, masks, ablation, chunk)
    f = _dataset(model, batch, values, clean, masks, ablation)["faithfulness"].values.reshape(-1, 2)
    return xr.Dataset(
        {
            "circuit": ("removed", f[:, 0]),
            "model": ("removed", f[:, 1]),
            "gap": ("removed", np.abs(f[:, 0] - f[:, 1])),
            "members": ("removed", np.array([" ".join(s) for s in sets.values()])),
        },
        coords={"removed": list(sets)},
    ).assign_attrs(about(model, batch, ablation=ablation))


def _without(graph: Graph, mask: Mask, nodes: Sequence[str]) -> Mask:
    unknown = set(nodes) - set(graph.sources)
    if unknown:
        raise ValueError(f"{sorted(unknown)} are no nodes of this graph; nodes are input, a0.h0, m0, …")
    rows = np.isin(graph.sources, list(nodes))
    mask = mask.copy()
    mask[rows] = False
    # A reader goes only with all the heads that it feeds: keys and values may be shared.
    readers = (graph.feeds[:, rows].sum(1) > 0) & (graph.feeds[:, ~rows].sum(1) == 0)
    mask[:, readers] = False
    return mask


@measured
def minimality(
    model: Model,
    batch: Batch,
    circuit: Circuit,
    *,
    random: int = 50,
    seed: int = 0,
    limit: int = 200,
    ablation: Ablation = "resample",
    chunk: int = 16,
) -> xr.Dataset:
    """Each edge's contribution f(C) − f(C∖e), against that of random edges added, f(C∪e) − f(C).

    The first `limit` edges by score are tested. Returns `contribution` on `edge`, `added` on `draw`, and `percentile`
    on `edge`: the share of random edges whose absolute contribution is smaller.
    """
    graph, mask = circuit.graph, circuit.mask
    order = np.argsort(-np.abs(circuit.scores or np.ones(len(circuit))), kind="stable")[:limit]
    names = [circuit.edges[i] for i in order]
    outside = graph.names(graph.exists & ~mask)
    extra = np.random.default_rng(seed).permutation(len(outside))[:random]
    masks = [np.zeros(mask.shape, bool), mask]
    masks += [mask & ~graph.mask([name]) for name in names]
    masks += [mask | graph.mask([outside[i]]) for i in extra]
    batch = batch.aligned()
    values, clean = metrics_of_masks(model, batch, masks, ablation, chunk)
    f = _dataset(model, batch, values, clean, masks, ablation)["faithfulness"].values
    contribution, added = f[0] - f[1 : 1 + len(names)], f[1 + len(names) :] - f[0]
    smaller = (np.abs(added)[None] < np.abs(contribution)[:, None]).mean(1)
    smaller = np.where(np.isnan(contribution), np.nan, smaller)
    return xr.Dataset(
        {
            "contribution": ("edge", contribution),
            "percentile": ("edge", smaller),
            "added": ("draw", added),
        },
        coords={"edge": names},
    ).assign_attrs(about(model, batch, ablation=ablation))
