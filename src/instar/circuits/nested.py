"""Circuits of every number of edges at once: as edges are added from the best on, which is in the circuit from which size.

A circuit of n edges (`instar.circuits.selection.at_least`) has the best edges of which n lie on a path from input to logits.
Circuits of one ranking lie within each other, so each edge is said by the smallest n of which it is a part.

1. Edges come one by one, the best first.
2. An edge lies on a path once its source is reached from the input and its destination leads to the logits; either may become
   true when another edge comes, and stays true.
3. Whatever comes onto a path together enters at the same size: one more than what was there before.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from instar.circuits.graph import Graph


@dataclass
class _Growing:
    """What is selected so far, by node: who is reached, who leads on, and which edges wait for either."""

    graph: Graph
    reached: set[int] = field(default_factory=lambda: {0})
    """Sources."""
    leading: set[int] = field(default_factory=set)
    """Destinations."""
    leaving: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """By source, the destinations of its edges."""
    reading: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """By destination, the sources of its edges."""
    there: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        graph = self.graph
        self.leading = {len(graph.destinations) - 1}
        self.feeds = [np.flatnonzero(row).tolist() for row in graph.feeds]
        self.fed_by = [np.flatnonzero(row).tolist() for row in graph.feeds.T]

    def add(self, source: int, destination: int) -> list[tuple[int, int]]:
        """The edges that are on a path now and were not before."""
        self.leaving[source].append(destination)
        self.reading[destination].append(source)
        touched = [(source, destination)]
        if source in self.reached:
            touched += self._reach(destination)
        if destination in self.leading:
            touched += self._lead(source)
        new = [
            edge for edge in dict.fromkeys(touched)
            if edge not in self.there and edge[0] in self.reached and edge[1] in self.leading
        ]  # fmt: skip
        self.there.update(new)
        return new

    def _reach(self, destination: int) -> list[tuple[int, int]]:
        touched, waiting = [], [destination]
        while waiting:
            for source in self.feeds[waiting.pop()]:
                if source not in self.reached:
                    self.reached.add(source)
                    touched += [(source, v) for v in self.leaving[source]]
                    waiting += self.leaving[source]
        return touched

    def _lead(self, source: int) -> list[tuple[int, int]]:
        touched, waiting = [], [source]
        while waiting:
            for destination in self.fed_by[waiting.pop()]:
                if destination not in self.leading:
                    self.leading.add(destination)
                    touched += [(u, destination) for u in self.reading[destination]]
                    waiting += self.reading[destination]
        return touched


def entering(graph: Graph, value: np.ndarray, most: int) -> dict[tuple[int, int], int]:
    """By edge (indices of source and destination), the smallest circuit that has it, up to circuits of `most` edges.

    Args:
        value: what edges are ranked by, the best largest, `[source, destination]`; ties go to the earlier edge.
    """
    places = np.flatnonzero(graph.exists)
    order, growing = places[np.argsort(-value.ravel()[places], kind="stable")], _Growing(graph)
    found: dict[tuple[int, int], int] = {}
    for place in order:
        new = growing.add(*divmod(int(place), graph.exists.shape[1]))
        found |= dict.fromkeys(new, len(found) + 1)
        if len(found) >= most:
            break
    return found
