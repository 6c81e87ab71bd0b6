"""Which edges a circuit has: selected from scores, then pruned to those on a path from input to logits.

Selection takes the best-scored edges (`top`), or the best-scored ones that lead to what is already there, from the
logits up (`greedy`).
"""

import heapq
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from instar.circuits.circuit import Circuit, stored_scores
from instar.circuits.graph import Graph, Mask

Selection = Literal["top", "greedy"]
GRID = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
FINE = (
    *(
        float(share)
        for low, high in pairwise(GRID)
        for share in np.geomspace(low, high, math.ceil(12 * math.log10(high / low)) + 1)[:-1]
    ),
    1.0,
)
"""`GRID` and what lies between, more than twelve sizes a decade: where the smallest faithful circuit is looked for."""


def grid_sizes(graph: Graph, shares: Sequence[float] | np.ndarray) -> list[int]:
    """How many edges are selected for each share of all edges; at least one."""
    return [max(1, round(float(share) * graph.n_edges)) for share in shares]


def smallest_size(sizes: Sequence[int] | np.ndarray, f: np.ndarray, wanted: float) -> int | None:
    """The first size from which on f never falls below `wanted`; None where there is none or f is masked.

    Sizes at which f is not known (NaN) are passed over.
    """
    known = ~np.isnan(f)
    enough = np.asarray(f)[known] >= wanted
    stays = np.logical_and.accumulate(enough[::-1])[::-1]
    return int(np.asarray(sizes)[known][stays.argmax()]) if stays.any() else None


def ranking(scores: np.ndarray, signed: bool) -> np.ndarray:
    """What edges are ranked by, best largest: |score|, or −score (what helps the answer most)."""
    return -scores if signed else np.abs(scores)


def select(
    graph: Graph,
    scores: np.ndarray,
    n: int | None = None,
    threshold: float | None = None,
    selection: Selection = "top",
    signed: bool = False,
) -> Circuit:
    """A pruned circuit from scores [source, destination].

    Raises:
        ValueError: for a size outside the graph or an unknown selection.
    """
    value = ranking(scores, signed)
    if threshold is not None:
        if selection != "top":
            raise ValueError(f"selection: {selection!r} takes n=; a threshold takes every edge above it")
        mask, selected = graph.exists & (value >= threshold), None
        what = f"score at least {threshold:g}"
    else:
        if n is None or not 0 <= n <= graph.n_edges:
            raise ValueError(f"n={n}: a circuit of this model has between 0 and {graph.n_edges} edges")
        mask, selected, what = top(graph, value, n, selection), n, f"{selection} {n}"
    how = f"{what} by {'signed' if signed else 'absolute'} score"
    return Circuit.of(graph, graph.pruned(mask), scores, selected=selected, how=how)


def top(graph: Graph, value: np.ndarray, n: int, selection: Selection = "top") -> Mask:
    """The `n` best edges, not pruned. Ties go to the earlier edge."""
    if selection == "greedy":
        return _greedy(graph, value, n)
    if selection != "top":
        raise ValueError(f"selection: {selection!r} is neither 'top' nor 'greedy'")
    return _first(graph, _order(graph, value), n)


def at_least(graph: Graph, value: np.ndarray, n: int) -> Mask:
    """The best edges of which at least `n` are left after pruning: as few as do it, or all there are."""
    order = _order(graph, value)

    def enough(count: int) -> bool:
        return count >= graph.n_edges or int(graph.pruned(_first(graph, order, count)).sum()) >= n

    # The more edges, the more are left. Mostly hardly more than n are needed.
    low, step = n, max(1, n // 16)
    while not enough(low):
        low, step = low + step, 2 * step
    low, high = min(low, max(n, low - step // 2 + 1)), low
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return graph.pruned(_first(graph, order, low))


def of_size(dataset: Any, n: int, group: str | None = None) -> Circuit:
    """Of a stored `circuit` measurement, the circuit of `n` edges after pruning: for comparisons at equal numbers of edges.

    It has a few more where pruning leaves no choice. Errors as of `Circuit.stored`; ValueError for a size that there is not.
    """
    name, graph, scores = stored_scores(dataset, group)
    if not 0 < n <= graph.n_edges:
        raise ValueError(f"edges={n}: a circuit of this model has between 1 and {graph.n_edges} edges")
    mask = at_least(graph, ranking(scores, signed=False), n)
    return Circuit.of(
        graph, mask, scores, how=f"{dataset.attrs['method']}, {name}; the best edges of which {n} are left"
    )


def _order(graph: Graph, value: np.ndarray) -> np.ndarray:
    """Places of all edges in the flat table, the best first."""
    flat = np.flatnonzero(graph.exists)
    return flat[np.argsort(-value.ravel()[flat], kind="stable")]


def _first(graph: Graph, order: np.ndarray, n: int) -> Mask:
    mask = np.zeros(graph.exists.size, bool)
    mask[order[:n]] = True
    return mask.reshape(graph.exists.shape)


def _greedy(graph: Graph, value: np.ndarray, n: int) -> Mask:
    """From the logits up: the best edge into a node that is already there, `n` times."""
    mask = np.zeros(graph.exists.shape, bool)
    there: set[int] = {0}
    heap: list[tuple[float, int, int]] = []

    def offer(readers: Iterable[int]) -> None:
        for v in readers:
            for u in range(graph.before(v)):
                heapq.heappush(heap, (-float(value[u, v]), u, v))

    offered = {len(graph.destinations) - 1}
    offer(offered)
    for _ in range(n):
        if not heap:
            break
        _, u, v = heapq.heappop(heap)
        mask[u, v] = True
        if u not in there:
            there.add(u)
            # Heads that share keys and values bring the same readers; each is offered once.
            new = [int(r) for r in np.flatnonzero(graph.feeds[:, u]) if int(r) not in offered]
            offered.update(new)
            offer(new)
    return mask
