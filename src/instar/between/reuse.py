"""Does a tuned model do the new task on the circuit that the base had for the old one? Circuits of equal size, by themselves.

1. C_A: the best n edges of the old task in the base. C_B: the best n of the new task in the tuned model. Both are run alone
   in the tuned model on the new task, all else as on the corrupted prompts (`instar.measure.faithfulness`). n counts edges
   that are left after pruning, and is the smallest size from which on C_B stays faithful.
2. Scores, the choice of n and what circuits do are each of prompts of their own.
3. Beside C_A stand its *ceiling*, C_B made again from resampled pairs, and its *floor*: C_A with the heads of each layer
   permuted, and the circuits of other tasks that the base has mastered. A circuit of which any other of its size does as well
   says nothing. But a task whose circuit does the *old* task in the base is done by the old circuit, and is no other: how
   much each does is measured too.
4. Necessity: what the tuned model loses without C_A's edges, beside as many other edges of the same layers and kinds.
5. How far the tuned model's scores on the new task are the base's on the old one: slope λ through the origin and correlation
   r over the edges of both circuits, and how much the two share.

Everything is in logits per pair; shares and words are made by `instar.compare.reused`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from instar.circuits.circuit import FAITHFUL, Circuit
from instar.circuits.graph import Graph, Mask
from instar.circuits.nulls import heads_permuted, other_edges
from instar.circuits.selection import FINE, at_least, grid_sizes, ranking, smallest_size
from instar.measure.common import about, prompts
from instar.measure.edges import edges
from instar.measure.faithfulness import metrics_of_masks
from instar.models.load import Model, weights_now
from instar.models.plain import measured
from instar.progress import slow
from instar.stats.intervals import resamples
from instar.stats.scales import effect, usable
from instar.tasks.batch import Batch

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Sizes at which circuits are run, in the new circuit's."""
SAME, NULLS = 2, (2, 3)
"""By number: the new circuit's own size, and those at which the floor and the ceiling are."""
REDRAWN = 20
"""Circuits of resampled pairs that overlaps are compared with."""
LEAST_PROMPTS = 12
CONVENTION = (
    "circuits alone in the tuned model, on the new task, the rest as on the corrupted prompts; equal numbers of edges after "
    "pruning; logits of answer minus the name the corruption makes right"
)


@dataclass(frozen=True)
class Draws:
    """How many of what is drawn at random."""

    permuted: int = 100
    """Circuits with heads permuted."""
    again: int = 20
    """Circuits made again from resampled pairs."""
    removed: int = 100
    """Sets of other edges."""

    @classmethod
    def of(cls, count: int) -> "Draws":
        """So many with permuted heads, and of the others as fits."""
        return cls(count, max(8, count // 5), count)


DRAWS = Draws()


@measured
def reuse(
    base: Model,
    tuned: Model,
    old: Batch | Mapping[str, Batch],
    new: Batch | Mapping[str, Batch],
    *,
    others: Mapping[str, Batch] | None = None,
    draws: Draws = DRAWS,
    method: Any = "eap-ig",
    chunk: int = 16,
    seed: int = 0,
) -> xr.Dataset:
    """What the old task's circuit does for the new task in the tuned model, for each counterfactual.

    Args:
        old: pairs of the old task, or one batch for each counterfactual, all pooled; `new`: of the new one, or one batch
            for each counterfactual, each by itself: a third of its prompts is for scores, one for the size and one for what
            circuits do.
        others: pairs of other tasks that the base has mastered, by name.
        method: how edges are scored (`instar.edges`).

    Returns:
        On `counterfactual`: `n` (edges), and in logits on `pair` (prompt `prompt`) `clean`, `corrupted`; `old`, `new` on
        `size` (`edges` each); `both` (the union); `permuted`, `again` on `level, draw` or `level, redraw`; `other` on
        `level, task`; `other_does_old` on `task` and `old_does_old` (faithfulness in the base, on pairs of the old task);
        `without`, `without_others` on `draw`. `slope`, `correlation` with bounds; `shared_edges`,
        `shared_heads` beside `_floor`, `_ceiling`. Floor, ceiling and necessity are NaN where b − c is not above 0.

    Raises:
        ValueError: for fewer than 12 prompts, or models of different graphs.
    """
    named = {new.counterfactual: new} if isinstance(new, Batch) else dict(new)
    olds = [own.aligned() for own in ([old] if isinstance(old, Batch) else old.values())]
    graph = Graph.of(base.layout)
    if graph != Graph.of(tuned.layout):
        raise ValueError(f"{base.name} and {tuned.name} are not of one graph: {graph.other(Graph.of(tuned.layout))}")
    before = np.concatenate([_per_pair(base, own, method, chunk) for own in olds])
    rest = {k: edges(base, own, method, chunk=chunk).scores for k, own in (others or {}).items()}
    one = _One(graph, base, tuned, olds, before, rest, draws, method, chunk, seed)
    parts, pages = [thirds(batch.aligned()) for batch in named.values()], []
    # What is stacked is as long as the shortest.
    least = min(len(seen) for *_, seen in parts)
    with slow("reuse", len(named)) as advance:
        for scored, sized, seen in parts:
            pages.append(one.page(scored, sized, seen[slice(0, least)]))
            advance(1)
    attrs = about(
        tuned, next(iter(named.values())), base_weights=weights_now(base), convention=CONVENTION, old=olds[0].task,
        old_pairs=len(before), n_layers=graph.n_layers, n_heads=graph.n_heads, n_kv_heads=graph.n_kv_heads,
        parallel=int(graph.parallel),
    )  # fmt: skip
    sizes = [int(page["in_old"].sum()) for page in pages]
    attrs["inside"] = json.dumps(_nodes(graph, pages[int(np.argmax(sizes))]["in_old"].values))
    whole = xr.concat(pages, "counterfactual", combine_attrs="drop").assign_coords(counterfactual=list(named))
    return whole.assign_attrs(attrs)


def _per_pair(model: Model, batch: Batch, method: Any, chunk: int) -> np.ndarray:
    """Scores [pair, source, destination], 0 where there is no edge."""
    return np.nan_to_num(edges(model, batch, method, per_pair=True, chunk=chunk).dataset["score"].values)


def _nodes(graph: Graph, edges_in: np.ndarray) -> list[str]:
    """Heads and MLPs of a circuit."""
    mask = np.zeros(graph.exists.shape, bool)
    mask[graph.exists] = edges_in
    return [node for node in Circuit.of(graph, mask).nodes if node not in ("input", "logits")]


def thirds(batch: Batch) -> tuple[Batch, Batch, Batch]:
    """Pairs to score edges on, to choose the size on, and to see on what circuits do: no prompt is in two of them."""
    index = prompts(batch)
    order = list(dict.fromkeys(index.tolist()))
    if len(order) < LEAST_PROMPTS:
        raise ValueError(
            f"{batch.task}: {len(order)} prompts; reuse needs {LEAST_PROMPTS} or more, a third of them for each of scores, "
            "size and evaluation"
        )
    parts = np.array_split(np.array(order), 3)
    a, b, c = (batch[np.flatnonzero(np.isin(index, own))] for own in parts)
    return a, b, c


@dataclass
class _One:
    """One counterfactual."""

    graph: Graph
    base: Model
    tuned: Model
    olds: list[Batch]
    before: np.ndarray
    """Scores of the old task in the base [pair, source, destination]."""
    others: Mapping[str, np.ndarray]
    draws: Draws
    method: Any
    chunk: int
    seed: int

    def page(self, scored: Batch, sized: Batch, seen: Batch) -> xr.Dataset:
        after = _per_pair(self.tuned, scored, self.method, self.chunk)
        n, why = self._size(after.mean(0), sized)
        sizes = [min(self.graph.n_edges, max(1, round(n * factor))) for factor in FACTORS]
        a, b = ([self._mask(own, size) for size in sizes] for own in (self.before.mean(0), after.mean(0)))
        nothing = np.zeros_like(self.graph.exists)
        first, clean = self._run(seen, [nothing, *a, *b, a[SAME] | b[SAME]])
        corrupted, first = first[0], first[1:]
        data: dict[str, Any] = {
            "clean": ("pair", clean), "corrupted": ("pair", corrupted), "prompt": ("pair", prompts(seen)),
            "old": (("size", "pair"), first[: len(sizes)]), "new": (("size", "pair"), first[len(sizes) : -1]),
            "both": ("pair", first[-1]), "n": n, "edges": ("size", np.array([int(m.sum()) for m in a])),
            "new_edges": ("size", np.array([int(m.sum()) for m in b])), "why": why,
            "in_old": ("edge", a[SAME][self.graph.exists]), "in_new": ("edge", b[SAME][self.graph.exists]),
        }  # fmt: skip
        speaks = usable(effect(clean, corrupted, prompts(seen)))
        weights = resamples(len(after), self.seed, max(self.draws.again, REDRAWN))
        redrawn = np.einsum("dp,puv->duv", weights, after)
        sets = [self._sets(a[i], int(b[i].sum()), redrawn) for i in NULLS]
        data |= self._nulls(seen, sets, speaks) | self._necessity(seen, a[SAME], speaks)
        data |= self._alike(a[SAME], b[SAME], after, sets[0]) | self._of_the_base(a[SAME])
        coords = {"edge": list(self.graph.names(self.graph.exists)), "factor": ("size", np.array(FACTORS))}
        coords |= {"level": [FACTORS[i] for i in NULLS], "task": list(self.others)}
        return xr.Dataset(data, coords=coords)

    def _size(self, scores: np.ndarray, sized: Batch) -> tuple[int, str]:
        """The smallest size from which on the new circuit stays faithful; else where it is most."""
        masks = [self._mask(scores, n) for n in dict.fromkeys(grid_sizes(self.graph, FINE))]
        values, clean = self._run(sized, [np.zeros_like(self.graph.exists), *masks])
        whole = effect(clean, values[0], prompts(sized))
        f = (values[1:] - values[0]).mean(1) / (clean - values[0]).mean()
        counts = np.array([int(mask.sum()) for mask in masks])
        if not usable(whole):
            return int(counts[0]), "b − c is not clearly above 0 where the size is chosen"
        size = smallest_size(counts, f, FAITHFUL)
        return (
            (size, "") if size is not None else (int(counts[f.argmax()]), "no size is faithful; that of the largest f")
        )

    def _mask(self, scores: np.ndarray, n: int) -> Mask:
        return at_least(self.graph, ranking(scores, signed=False), n)

    def _run(self, batch: Batch, masks: Sequence[Mask]) -> tuple[np.ndarray, np.ndarray]:
        return metrics_of_masks(self.tuned, batch, masks, "resample", self.chunk)

    def _sets(self, old: Mask, n: int, redrawn: np.ndarray) -> dict[str, list[Mask]]:
        """What stands beside the old circuit at one size."""
        return {
            "permuted": heads_permuted(self.graph, old, max(self.draws.permuted, 1), self.seed),
            "again": [self._mask(own, n) for own in redrawn],
            "other": [self._mask(own, n) for own in self.others.values()],
        }

    def _nulls(self, seen: Batch, levels: list[dict[str, list[Mask]]], speaks: bool) -> dict[str, Any]:
        """Floor and ceiling, at two sizes."""
        most = {"permuted": self.draws.permuted, "again": self.draws.again, "other": len(self.others)}
        found: dict[str, list[np.ndarray]] = {name: [] for name in most}
        for sets in levels:
            every = [mask for name, some in sets.items() for mask in some[: most[name]]]
            values = self._run(seen, every)[0] if speaks and every else np.full((len(every), len(seen)), np.nan)
            for name, rows in found.items():
                rows.append(values[: most[name]])
                values = values[most[name] :]
        axes = {"permuted": "draw", "again": "redraw", "other": "task"}
        return {name: (("level", axes[name], "pair"), np.stack(rows)) for name, rows in found.items()}

    def _of_the_base(self, mask: Mask) -> dict[str, Any]:
        """What the old task's circuit and those of other tasks do of the old task in the base."""
        sets = [np.zeros_like(mask), mask, *(self._mask(own, int(mask.sum())) for own in self.others.values())]
        found = [metrics_of_masks(self.base, own, sets, "resample", self.chunk) for own in self.olds]
        values, clean = np.concatenate([v for v, _ in found], 1), np.concatenate([c for _, c in found])
        f = (values[1:] - values[0]).mean(1) / (clean - values[0]).mean()
        return {"old_does_old": float(f[0]), "other_does_old": ("task", f[1:])}

    def _necessity(self, seen: Batch, mask: Mask, speaks: bool) -> dict[str, Any]:
        """The model without the old circuit's edges, and without as many others."""
        others = other_edges(self.graph, mask, self.draws.removed, self.seed)
        sets = [self.graph.exists & ~own for own in (mask, *others.masks)]
        values = self._run(seen, sets)[0] if speaks else np.full((len(sets), len(seen)), np.nan)
        return {
            "without": ("pair", values[0]),
            "without_others": (("removed", "pair"), values[1:]),
            "matched": others.matched,
        }

    def _alike(self, a: Mask, b: Mask, after: np.ndarray, beside: dict[str, list[Mask]]) -> dict[str, Any]:
        """λ and r with bootstrap bounds, and what the circuits share beside what chance and resampling give."""
        both = a | b
        x, y = self.before[:, both], after[:, both]
        found: dict[str, Any] = {}
        drawn = [resamples(len(own), self.seed + i, 500) @ own for i, own in enumerate((x, y))]
        at = _slope(x.mean(0)[None], y.mean(0)[None])
        for name, value, spread in zip(("slope", "correlation"), at, _slope(*drawn), strict=True):
            low, high = np.nanquantile(spread, [0.025, 0.975])
            found |= {name: float(value[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
        floor, ceiling = beside["permuted"], beside["again"][:REDRAWN]
        for what, of in (("edges", lambda m: m), ("heads", self._heads)):
            found[f"shared_{what}"] = _shared(of(a), of(b))
            found[f"shared_{what}_floor"] = float(np.mean([_shared(of(own), of(b)) for own in floor]))
            found[f"shared_{what}_ceiling"] = float(np.mean([_shared(of(own), of(b)) for own in ceiling]))
        return found

    def _heads(self, mask: Mask) -> np.ndarray:
        nodes = set(Circuit.of(self.graph, mask).nodes)
        return np.array([".h" in name and name in nodes for name in self.graph.sources])


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope through the origin of y on x, and their correlation, row by row."""
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (x * y).sum(1) / (x * x).sum(1)
        x, y = (own - own.mean(1, keepdims=True) for own in (x, y))
        return slope, (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))


def _shared(a: np.ndarray, b: np.ndarray) -> float:
    """How much of the second lies in the first."""
    return float((a & b).sum() / max(int(b.sum()), 1))
