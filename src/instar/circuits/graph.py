"""The graph of a model: who writes to the residual stream, who reads it, and every edge between the two.

Sources: `input`, then per layer the heads `a3.h0` … and the MLP `m3`. Destinations: per layer each query head's
`a3.h0<q>`, each key-value head's `a3.h0<k>` and `a3.h0<v>`, the MLP `m3`; last `logits`. An edge `u->v` exists where u
writes before v reads; in parallel blocks (Pythia, Phi) a layer's heads do not write before its MLP reads. Names are
those of the EAP-IG package (arXiv 2403.17806): GPT-2 small has 157 sources, 445 destinations and 32,491 edges.

Arrays over edges are `[source, destination]` in these orders.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np

Mask = np.ndarray
"""Boolean, [source, destination]."""
CELLS = 2**28
"""The largest graph: a model of 96 layers of 96 heads has 258 million pairs."""


@dataclass(frozen=True)
class Graph:
    """The shape that decides nodes and edges."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    parallel: bool = False

    def __post_init__(self) -> None:
        """Refuse what no model is, before an array of its edges is made.

        Raises:
            ValueError: for numbers that are not whole and positive, groups that do not divide, or more than `CELLS`.
        """
        for name in ("n_layers", "n_heads", "n_kv_heads"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r:.40}, expected a whole number from 1 on")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"{self.n_kv_heads:.6g} key-value heads for {self.n_heads:.6g} heads: not a whole number of heads a group"
            )
        cells = (1 + self.n_layers * (self.n_heads + 1)) * (1 + self.n_layers * self.per_layer)
        if cells > CELLS:
            raise ValueError(
                f"{self.n_layers:.6g} layers of {self.n_heads:.6g} heads: {cells:.3g} pairs of a writer and a reader, and at "
                f"most {CELLS:,} are held"
            )

    @classmethod
    def of(cls, layout: Any) -> "Graph":
        """The graph of a model, from its `instar.models.arch.Layout`."""
        return cls(layout.n_layers, layout.n_heads, layout.n_kv_heads, layout.parallel)

    @classmethod
    def stored(cls, attrs: Any) -> "Graph":
        """The graph that a measurement's attributes describe."""
        shape = (int(attrs[k]) for k in ("n_layers", "n_heads", "n_kv_heads"))
        return cls(*shape, parallel=bool(int(attrs["parallel"])))

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Names of the writers, in order."""
        layers = range(self.n_layers)
        return ("input", *(n for i in layers for n in (*(f"a{i}.h{h}" for h in range(self.n_heads)), f"m{i}")))

    @cached_property
    def destinations(self) -> tuple[str, ...]:
        """Names of the readers, in order."""
        widths = {"q": self.n_heads, "k": self.n_kv_heads, "v": self.n_kv_heads}
        heads = [[f"a{i}.h{h}<{p}>" for p, n in widths.items() for h in range(n)] for i in range(self.n_layers)]
        return (*(n for i in range(self.n_layers) for n in (*heads[i], f"m{i}")), "logits")

    @property
    def per_layer(self) -> int:
        """Destinations of one layer: its heads' q, k and v, and its MLP."""
        return self.n_heads + 2 * self.n_kv_heads + 1

    def head(self, layer: int, head: int = 0) -> int:
        """A head's index among the sources."""
        return 1 + layer * (self.n_heads + 1) + head

    def mlp(self, layer: int) -> int:
        """An MLP's index among the sources."""
        return self.head(layer, self.n_heads)

    def reads(self, layer: int, projection: str, head: int = 0) -> int:
        """The index of a head's q, k or v among the destinations."""
        before = {"q": 0, "k": self.n_heads, "v": self.n_heads + self.n_kv_heads}[projection]
        return layer * self.per_layer + before + head

    def mlp_reads(self, layer: int) -> int:
        """The index of an MLP among the destinations."""
        return (layer + 1) * self.per_layer - 1

    def before(self, destination: int) -> int:
        """How many sources write before a destination reads."""
        if destination == len(self.destinations) - 1:
            return len(self.sources)
        layer, within = divmod(destination, self.per_layer)
        is_mlp = within == self.per_layer - 1
        return self.head(layer) + (self.n_heads if is_mlp and not self.parallel else 0)

    @cached_property
    def exists(self) -> Mask:
        """Which pairs are edges."""
        before = np.array([self.before(v) for v in range(len(self.destinations))])
        return np.arange(len(self.sources))[:, None] < before[None]

    @cached_property
    def n_edges(self) -> int:
        """How many edges."""
        return int(self.exists.sum())

    @cached_property
    def feeds(self) -> Mask:
        """`[destination, source]`: which node's inputs a destination belongs to; `logits` feeds none."""
        table = np.zeros((len(self.destinations), len(self.sources)), bool)
        group = self.n_heads // self.n_kv_heads
        for layer in range(self.n_layers):
            for head in range(self.n_heads):
                source = self.head(layer, head)
                table[self.reads(layer, "q", head), source] = True
                table[self.reads(layer, "k", head // group), source] = True
                table[self.reads(layer, "v", head // group), source] = True
            table[self.mlp_reads(layer), self.mlp(layer)] = True
        return table

    @cached_property
    def feeds_one(self) -> Mask:
        """`feeds` of the destinations that are one node's alone."""
        return self.feeds & (self.feeds.sum(1, keepdims=True) == 1)

    def names(self, mask: Mask) -> tuple[str, ...]:
        """The names of the edges in a mask."""
        return tuple(f"{self.sources[u]}->{self.destinations[v]}" for u, v in zip(*np.nonzero(mask), strict=True))

    def other(self, graph: "Graph") -> str:
        """How another graph differs, in words, and what to do where only shared keys and values do."""
        both = f"{self.shape} and {graph.shape}"
        if replace(self, n_kv_heads=1) != replace(graph, n_kv_heads=1):
            return both
        fewer = min(self.n_kv_heads, graph.n_kv_heads)
        return (
            f"{both}: read the file of the first with n_kv_heads={fewer}"
            if self.n_kv_heads > fewer
            else (f"{both}: read the file of the second with n_kv_heads={fewer}")
        )

    def mask(self, names: Iterable[str]) -> Mask:
        """The mask of named edges.

        Raises:
            ValueError: for a name that is no edge of this graph.
        """
        mask = np.zeros(self.exists.shape, bool)
        for name in names:
            u, v = self.edge(name)
            mask[u, v] = True
        return mask

    @property
    def shape(self) -> str:
        """In words, such as `12 layers of 8 heads (2 key-value)`."""
        shared = f" ({self.n_kv_heads} key-value)" if self.n_kv_heads != self.n_heads else ""
        return f"{self.n_layers} layers of {self.n_heads} heads{shared}{', parallel blocks' if self.parallel else ''}"

    def has(self, name: str) -> bool:
        """Whether this is the name of an edge."""
        source, _, destination = name.partition("->")
        u, v = self._source_index.get(source), self._destination_index.get(destination)
        return u is not None and v is not None and bool(self.exists[u, v])

    def edge(self, name: str) -> tuple[int, int]:
        """The indices of an edge, by name."""
        source, _, destination = name.partition("->")
        if not self.has(name):
            raise ValueError(f"{name!r} is no edge of a model with {self.shape}")
        return self._source_index[source], self._destination_index[destination]

    @cached_property
    def _source_index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.sources)}

    @cached_property
    def _destination_index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.destinations)}

    def pruned(self, mask: Mask) -> Mask:
        """The edges that lie on a path from the input to the logits."""
        mask = mask & self.exists
        while True:
            # Nodes reached from the input, and nodes from which a kept edge leaves.
            fed = (mask.any(0) @ self.feeds) > 0
            fed[0] = True
            alive = fed & mask.any(1)
            read = (self.feeds @ alive) > 0
            read[-1] = True
            kept = mask & alive[:, None] & read[None]
            if (kept == mask).all():
                return kept
            mask = kept
