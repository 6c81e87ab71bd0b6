"""How much two circuits differ for no reason: the same checkpoint on resampled pairs, on disjoint halves, and chance.

A circuit is an estimate from some pairs. Here it is made again from base pairs drawn with replacement: scores averaged, and
as many of the best edges taken as the first one has after pruning. What the new circuits share with the first one is what
*no change* looks like; a comparison of checkpoints, at equal numbers of edges too, says something only below that. How much
the smallest faithful size itself depends on the pairs stands beside it.
Base pairs are drawn with all their counterfactuals, within each wording (a stratified bootstrap; Efron & Tibshirani
1993, ch. 8), and those that scores are from apart from those that faithfulness is on: they are different prompts.

Drawing within strata of n leaves out 1/n of the variance within them, and halves have half the pairs: the first floor is
a little too high, the second too low.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from instar.circuits.circuit import FAITHFUL
from instar.circuits.graph import Graph
from instar.circuits.selection import at_least, grid_sizes, ranking, smallest_size
from instar.compare.chance import Chance, chance
from instar.compare.diff import agreement, plain, ratios
from instar.stats.intervals import bootstrap_mean
from instar.stats.scales import usable

__all__ = [
    "Chance",
    "Floors",
    "Quantiles",
    "Scores",
    "chance",
    "draw",
    "floors",
    "halves",
    "overlaps",
    "resampled",
    "strata",
]
COUNT, HALVES = 100, 20


@dataclass(frozen=True, eq=False)
class Scores:
    """Per-pair data of one checkpoint's circuit: all that making it again needs."""

    graph: Graph
    scores: np.ndarray
    """`[counterfactual, pair, edge]`, logits; edges in the order of `graph.names(graph.exists)`."""
    prompt: np.ndarray
    """`[counterfactual, pair]`: the number of the clean prompt, the same in all counterfactuals."""
    wording: np.ndarray
    """`[counterfactual, pair]`: the number of the wording."""
    share: np.ndarray
    """`[size]`: the grid, as shares of all edges."""
    metric: np.ndarray
    """`[size, evaluated]`, logits: what the circuit of each size does on each evaluated pair."""
    clean: np.ndarray
    """`[evaluated]`, logits."""
    corrupted: np.ndarray
    """`[evaluated]`, logits."""
    evaluated_prompt: np.ndarray
    evaluated_wording: np.ndarray
    circuit: np.ndarray
    """`[edge]`, boolean: the circuit that was made of all pairs."""
    faithful: float = FAITHFUL

    @classmethod
    def of(cls, dataset: xr.Dataset, group: str | None = None) -> "Scores":
        """From one stored `circuit` measurement: its first group (all givers pooled, or the only one), or `group` alone.

        Raises:
            ValueError: for an unknown group, or a measurement of a version that kept no pairs of the curve.
        """
        groups, kinds = ([str(x) for x in dataset[name].values] for name in ("group", "counterfactual"))
        group = groups[0] if group is None else group
        if group not in groups:
            raise ValueError(f"no circuit of {group!r}; there are {', '.join(groups)}")
        if "curve_metric" not in dataset:
            raise ValueError("this circuit was measured without the pairs of its curve; remove the file, measure again")
        attrs, own = dataset.attrs, dataset.sel(group=group)
        graph = Graph.stored(attrs)
        there = own["evaluated_prompt"].values >= 0
        pooled = dataset.isel(counterfactual=[i for i, kind in enumerate(kinds) if group in (kind, "givers")])
        return cls(
            graph=graph,
            scores=pooled["score"].transpose("counterfactual", "pair", "edge").values,
            prompt=pooled["prompt"].transpose("counterfactual", "pair").values,
            wording=pooled["wording"].transpose("counterfactual", "pair").values,
            share=dataset["share"].values,
            metric=own["curve_metric"].transpose("size", "evaluated").values[:, there],
            clean=own["curve_clean"].values[there],
            corrupted=own["curve_corrupted"].values[there],
            evaluated_prompt=own["evaluated_prompt"].values[there],
            evaluated_wording=own["evaluated_wording"].values[there],
            circuit=own["in_circuit"].values.astype(bool),
        )

    @property
    def size(self) -> int | None:
        """How many edges were selected, before pruning; None where no size is faithful."""
        return _sizes(self, np.arange(len(np.unique(self.evaluated_prompt)))[None])[0]

    @property
    def mean(self) -> np.ndarray:
        """Scores `[1, edge]` of all prompts, each counterfactual counting the same."""
        return _mean(self, np.ones((1, len(np.unique(self.prompt)))))

    @property
    def per_pair(self) -> np.ndarray:
        """Scores `[prompt, edge]`, the mean over each prompt's counterfactuals: single draws, as `diff` takes them."""
        index = np.unique(self.prompt, return_inverse=True)[1].reshape(-1)
        member = (index == np.arange(index.max() + 1)[:, None]).astype(float)
        return member @ self.scores.reshape(len(index), -1) / member.sum(1, keepdims=True)

    @property
    def edges(self) -> int:
        """How many edges its circuit has."""
        return int(self.circuit.sum())

    def at(self, edges: int) -> "Scores":
        """With a circuit of so many edges, or a few more where pruning leaves no other choice; none stays none."""
        if edges == self.edges or not self.edges:
            return self
        return replace(self, circuit=_select(self.graph, self.mean, [edges])[0])


@dataclass(frozen=True)
class Quantiles:
    """What draws gave; NaN where none could be had."""

    value: float
    """The mean over draws."""
    low: float
    """2.5 %."""
    median: float
    high: float
    """97.5 %."""

    @classmethod
    def of(cls, values: np.ndarray) -> "Quantiles":
        """Of draws; those that are NaN are left out."""
        values = np.asarray(values, float)
        values = values[~np.isnan(values)]
        if not len(values):
            return cls(*[float("nan")] * 4)
        return cls(float(values.mean()), *(float(q) for q in np.quantile(values, [0.025, 0.5, 0.975])))


@dataclass(frozen=True)
class Floors:
    """What the same checkpoint's circuit shares with itself. Keys: `edges_jaccard`, `heads_a_in_b`, …, `spearman`."""

    resampled: dict[str, Quantiles]
    """The circuit (a) against circuits of resampled pairs (b), of as many edges."""
    halves: dict[str, Quantiles]
    """Circuits of disjoint halves of the pairs, of as many edges too."""
    sizes: Quantiles
    """The smallest faithful size (edges selected) of resampled pairs, those without any left out."""
    empty: int
    """How many draws have no faithful size."""
    count: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; null for NaN."""
        return plain(asdict(self))


def floors(scores: Scores, count: int = COUNT, seed: int = 0, split: int = HALVES) -> Floors:
    """The floors of one circuit, from `count` bootstraps and `split` splits into halves."""
    masks, edges = _redrawn(scores, count, seed)
    shared = overlaps(scores.graph, scores.circuit[None], masks)
    sizes = _resized(scores, count, seed)
    return Floors(
        {k: Quantiles.of(v) for k, v in (shared | agreement(scores.mean, edges)).items()},
        {k: Quantiles.of(v) for k, v in halves(scores, split, seed).items()},
        Quantiles.of(np.array([np.nan if size is None else size for size in sizes], float)), sizes.count(None), count,
    )  # fmt: skip


def resampled(scores: Scores, count: int = COUNT, seed: int = 0) -> np.ndarray:
    """Circuits of resampled base pairs, boolean `[draw, edge]`, of as many edges as the circuit has."""
    return _redrawn(scores, count, seed)[0]


def halves(scores: Scores, count: int = HALVES, seed: int = 0) -> dict[str, np.ndarray]:
    """How alike circuits of disjoint halves of the pairs are, of as many edges as the whole: `[draw]` by measure."""
    one, other = _halves(scores, count, seed)
    return overlaps(scores.graph, one[0], other[0]) | agreement(one[1], other[1])


def overlaps(graph: Graph, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """Jaccard and containments of nodes, heads and edges, from masks `[draw, edge]`."""
    touches = _incidence(graph)
    heads = np.array([name[0] == "a" for name in graph.sources[1:]])
    nodes = [(m.astype(np.float32) @ touches) > 0 for m in (a, b)]
    found: dict[str, np.ndarray] = {}
    for what, (x, y) in {"nodes": nodes, "heads": [n[:, heads] for n in nodes], "edges": (a, b)}.items():
        sizes = (x & y).sum(1), x.sum(1), y.sum(1)
        found |= {f"{what}_{k}": v for k, v in ratios(*sizes).items()}
    return found


def draw(strata: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Bootstrap indices `[draw, item]`: each item gives way to a random one of its stratum."""
    generator = np.random.default_rng(seed)
    drawn = np.tile(np.arange(len(strata)), (count, 1))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        drawn[:, members] = members[generator.integers(0, len(members), (count, len(members)))]
    return drawn


def strata(prompt: np.ndarray, wording: np.ndarray) -> np.ndarray:
    """The stratum of each prompt, from the prompts and wordings of pairs `[counterfactual, pair]`.

    Prompts of one stratum have the same wording and as many pairs in each counterfactual, so that every draw has as many
    pairs of each. A wording of a single prompt could not be resampled; such prompts are one stratum.
    """
    numbers, first, index = np.unique(prompt, return_index=True, return_inverse=True)
    pairs = np.zeros((len(numbers), len(prompt)), int)
    np.add.at(pairs, (index.reshape(prompt.shape), np.arange(len(prompt))[:, None]), 1)
    own = np.column_stack([wording.ravel()[first], pairs])
    _, found, size = np.unique(own, axis=0, return_inverse=True, return_counts=True)
    own[size[found.reshape(-1)] == 1, 0] = -1
    return np.unique(own, axis=0, return_inverse=True)[1].reshape(-1)


def _redrawn(scores: Scores, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Circuits and mean scores of bootstraps, both [draw, edge]."""
    drawn = draw(strata(scores.prompt, scores.wording), count, int(np.random.SeedSequence(seed).generate_state(2)[0]))
    edges = _mean(scores, np.stack([np.bincount(row, minlength=drawn.shape[1]) for row in drawn]))
    return _select(scores.graph, edges, [scores.edges] * count), edges


def _resized(scores: Scores, count: int, seed: int) -> list[int | None]:
    """The smallest faithful size of resampled pairs."""
    evaluated = strata(scores.evaluated_prompt[None], scores.evaluated_wording[None])
    return _sizes(scores, draw(evaluated, count, int(np.random.SeedSequence(seed).generate_state(2)[1])))


def _halves(scores: Scores, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Circuits and mean scores [draw, edge] of one half and of the other, each stratum halved."""
    layers, generator = strata(scores.prompt, scores.wording), np.random.default_rng(seed)
    # One prompt has no halves.
    size = scores.edges if len(layers) > 1 else 0
    half = np.zeros((count, len(layers)), bool)
    for row in half:
        order = np.lexsort((generator.random(len(layers)), layers))
        # Every other prompt of each stratum; whether the first or the second is by chance.
        row[order[generator.integers(2) :: 2]] = True
    return [(_select(scores.graph, e, [size] * count), e) for e in (_mean(scores, half), _mean(scores, ~half))]


def _mean(scores: Scores, weights: np.ndarray) -> np.ndarray:
    """Scores [draw, edge] with weights [draw, prompt]; each counterfactual counts the same, as in the run."""
    index = np.unique(scores.prompt, return_inverse=True)[1].reshape(scores.prompt.shape)
    total = np.zeros((len(weights), scores.scores.shape[-1]))
    for own, rows in zip(scores.scores, index, strict=True):
        mine = weights[:, rows].astype(float)
        total += (mine / np.maximum(mine.sum(1, keepdims=True), 1)) @ own
    return total / len(index)


def _sizes(scores: Scores, drawn: np.ndarray) -> list[int | None]:
    """The smallest faithful size of each draw [draw, prompt]; the ratio is masked by the same rule as in the run."""
    index = np.unique(scores.evaluated_prompt, return_inverse=True)[1].reshape(-1)
    member = (index == np.arange(index.max() + 1)[:, None]).astype(float)
    above, below = member @ (scores.metric - scores.corrupted).T, member @ (scores.clean - scores.corrupted)
    spread = bootstrap_mean(below[drawn].T)
    sizes, found = grid_sizes(scores.graph, scores.share), []
    for i, rows in enumerate(drawn):
        own = replace(spread, value=spread.value[i], low=spread.low[i], high=spread.high[i])
        found.append(
            smallest_size(sizes, above[rows].mean(0) / below[rows].mean(), scores.faithful) if usable(own) else None
        )
    return found


def _select(graph: Graph, edges: np.ndarray, sizes: Sequence[int | None]) -> np.ndarray:
    """The circuits [draw, edge] of mean scores [draw, edge]: the best by absolute score, of which so many are left."""
    masks, table = np.zeros(edges.shape, bool), np.zeros(graph.exists.shape)
    for own, scores, size in zip(masks, edges, sizes, strict=True):
        if size:
            table[graph.exists] = scores
            own[:] = graph.pruned(at_least(graph, ranking(table, signed=False), size))[graph.exists]
    return masks


def _incidence(graph: Graph) -> np.ndarray:
    """Which heads and MLPs each edge touches, [edge, node], as `Circuit.nodes` has it."""
    u, v = np.nonzero(graph.exists)
    touched = graph.feeds_one[v].copy()
    touched[np.arange(len(u)), u] = True
    return touched[:, 1:].astype(np.float32)
