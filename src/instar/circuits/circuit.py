"""A circuit: a set of edges, how it was selected, and its JSON, which the EAP-IG package reads and writes too.

Selection takes the best-scored edges (`top`), or the best-scored ones that lead to what is already there, from the
logits up (`greedy`); pruning then leaves those on a path from input to logits. A negative score means that the edge
helps the answer here and hurts it in the EAP-IG package's demonstrations (they score the loss −m), so signs are
flipped in its files.
"""

import heapq
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from instar.circuits.graph import Graph, Mask

Selection = Literal["top", "greedy"]
FAITHFUL = 0.85
"""The circuit of a checkpoint is the smallest of the grid from which on faithfulness stays at least this."""


@dataclass(frozen=True)
class Circuit:
    """A set of edges of one model's graph."""

    graph: Graph
    edges: tuple[str, ...]
    """Names in the graph's order."""
    scores: tuple[float, ...] = ()
    """In logits, one an edge, where they are known."""
    selected: int | None = None
    """How many edges were selected before pruning."""
    how: str = ""
    """Method, ranking and evaluation, in words."""

    @classmethod
    def of(cls, graph: Graph, mask: Mask, scores: np.ndarray | None = None, **more: Any) -> "Circuit":
        """The circuit of a mask over edges."""
        own = () if scores is None else tuple(float(s) for s in scores[mask])
        return cls(graph, graph.names(mask), own, **more)

    def __len__(self) -> int:
        return len(self.edges)

    @property
    def mask(self) -> Mask:
        """Its edges, [source, destination]."""
        return self.graph.mask(self.edges)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Its node view: the sources and readers that its edges touch, in the graph's order, `logits` last."""
        mask = self.mask
        touched = mask.any(1) | (mask.any(0) @ self.graph.feeds)
        return (*(name for name, kept in zip(self.graph.sources, touched, strict=True) if kept), "logits")

    def without(self, edges: Iterable[str]) -> "Circuit":
        """The circuit less some of its edges, not pruned."""
        gone = set(edges)
        return Circuit.of(self.graph, self.graph.mask(e for e in self.edges if e not in gone), how=self.how)

    def to_json(self) -> str:
        """The circuit in the EAP-IG package's format (its sign), with how it was made."""
        graph = self.graph
        known = dict(zip(self.edges, self.scores or [0.0] * len(self), strict=True))
        nodes = set(self.nodes)
        value = {
            "cfg": {
                "n_layers": graph.n_layers,
                "n_heads": graph.n_heads,
                "n_key_value_heads": graph.n_kv_heads,
                "parallel_attn_mlp": graph.parallel,
                "d_model": None,
            },
            "nodes": {name: {"in_graph": name in nodes} for name in (*graph.sources, "logits")},
            "edges": {name: {"score": -known.get(name, 0.0), "in_graph": name in known} for name in self._all()},
            "instar": {"how": self.how, "selected": self.selected, "signs": "of the loss -m, as in EAP-IG"},
        }
        return json.dumps(value, indent=1)

    def _all(self) -> tuple[str, ...]:
        return self.graph.names(self.graph.exists)

    @classmethod
    def from_json(cls, text: str) -> "Circuit":
        """A circuit from our JSON or the EAP-IG package's.

        Raises:
            ValueError: for text that is not a circuit, naming what is missing.
        """
        try:
            value = json.loads(text)
            cfg, edges = value["cfg"], value["edges"]
            graph = Graph(
                int(cfg["n_layers"]),
                int(cfg["n_heads"]),
                int(cfg.get("n_key_value_heads") or cfg["n_heads"]),
                bool(cfg.get("parallel_attn_mlp", False)),
            )
            kept = [name for name, edge in edges.items() if edge["in_graph"]]
            scores = {name: -float(edges[name].get("score") or 0.0) for name in kept}
            own = value.get("instar", {})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a circuit: {error!r}; expected an object with cfg, nodes and edges") from None
        names = graph.names(graph.mask(kept))
        return cls(graph, names, tuple(scores[n] for n in names), own.get("selected"), own.get("how", ""))

    def write(self, path: Path | str) -> None:
        """Its JSON into a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def read(cls, path: Path | str) -> "Circuit":
        """A circuit from a JSON file."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def grid_sizes(graph: Graph, shares: Sequence[float] | np.ndarray) -> list[int]:
    """How many edges are selected for each share of all edges; at least one."""
    return [max(1, round(float(share) * graph.n_edges)) for share in shares]


def smallest_size(sizes: Sequence[int] | np.ndarray, f: np.ndarray, wanted: float) -> int | None:
    """The first size from which on f never falls below `wanted`; None where there is none or f is masked."""
    enough = np.asarray(f) >= wanted
    stays = np.logical_and.accumulate(enough[::-1])[::-1]
    return int(np.asarray(sizes)[stays.argmax()]) if stays.any() else None


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
    flat = np.flatnonzero(graph.exists)
    order = np.argsort(-value.ravel()[flat], kind="stable")[:n]
    mask = np.zeros(graph.exists.size, bool)
    mask[flat[order]] = True
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
