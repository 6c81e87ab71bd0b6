"""What a set of edges is compared with: itself with other heads in the place of its own, and other edges like its own."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from instar.circuits.graph import Graph, Mask


def heads_permuted(graph: Graph, mask: Mask, count: int, seed: int = 0) -> list[Mask]:
    """The set with each layer's heads renamed at random: as many edges, on paths of the same form.

    Under grouped queries whole groups change places, and heads within their group.
    """
    generator, found = np.random.default_rng(seed), []
    for _ in range(count):
        sources, destinations = np.arange(len(graph.sources)), np.arange(len(graph.destinations))
        for layer in range(graph.n_layers):
            heads, groups = _shuffled(graph, generator)
            sources[graph.head(layer) : graph.mlp(layer)] = graph.head(layer) + heads
            for projection, order in (("q", heads), ("k", groups), ("v", groups)):
                first = graph.reads(layer, projection)
                destinations[first : first + len(order)] = first + order
        renamed = np.zeros_like(mask)
        renamed[np.ix_(sources, destinations)] = mask
        found.append(renamed)
    return found


def _shuffled(
    graph: Graph, generator: np.random.Generator
) -> tuple[Int[np.ndarray, " head"], Int[np.ndarray, " group"]]:
    """Where each head goes, and where each group of shared keys."""
    size = graph.n_heads // graph.n_kv_heads
    groups = generator.permutation(graph.n_kv_heads)
    within = [generator.permutation(size) for _ in groups]
    return np.concatenate([size * at + order for at, order in zip(groups, within, strict=True)]), groups


@dataclass(frozen=True)
class Others:
    """Sets of other edges."""

    masks: list[Mask]
    matched: float
    """Which share of their edges are of the very layers and kinds; the rest are of the kinds, or any."""


def other_edges(graph: Graph, mask: Mask, count: int, seed: int = 0) -> Others:
    """As many edges from outside a set, matched by the layers and kinds of their two ends as far as there are such."""
    generator = np.random.default_rng(seed)
    u, v = np.nonzero(graph.exists)
    inside = mask[u, v]
    levels = [np.unique(label, return_inverse=True)[1].reshape(-1) for label in _labels(graph, u, v)]
    masks, matched = [], 0
    for _ in range(count):
        order = generator.permutation(len(u))
        drawn, missing = _drawn(levels[0], ~inside, inside, order)
        matched = int(drawn.sum())
        for labels in levels[1:]:
            more, missing = _drawn(labels, ~inside & ~drawn, missing, order)
            drawn |= more
        own = np.zeros_like(mask)
        own[u[drawn], v[drawn]] = True
        masks.append(own)
    return Others(masks, matched / max(int(inside.sum()), 1))


Chosen = Bool[np.ndarray, " edge"]


def _drawn(labels: Int[np.ndarray, " edge"], free: Chosen, wanted: Chosen, order: np.ndarray) -> tuple[Chosen, Chosen]:
    """For each wanted edge a free one of its label, in a given order; and the wanted ones for which there was none."""
    count = labels.max() + 1
    asked, there = (np.bincount(labels[own], minlength=count) for own in (wanted, free))
    return _first(labels, free, asked, order), wanted & ~_first(labels, wanted, there, order)


def _first(labels: np.ndarray, among: Chosen, counts: np.ndarray, order: np.ndarray) -> Chosen:
    """The first so many of each label, in a given order."""
    mine = order[among[order]]
    mine = mine[np.argsort(labels[mine], kind="stable")]
    own = labels[mine]
    rank = np.arange(len(own)) - np.searchsorted(own, own)
    found = np.zeros(len(labels), bool)
    found[mine[rank < counts[own]]] = True
    return found


def _labels(graph: Graph, u: np.ndarray, v: np.ndarray) -> list[np.ndarray]:
    """Of every edge: the layers and kinds of its ends, their kinds, and nothing."""
    writers = [("head" if ".h" in name else name[0], name.partition(".")[0]) for name in graph.sources]
    readers = [(name[-2] if name.endswith(">") else name[0], name.partition(".")[0]) for name in graph.destinations]
    ends = [(*writers[a], *readers[b]) for a, b in zip(u, v, strict=True)]
    return [
        np.array(["|".join(own) for own in ends]),
        np.array([f"{a}|{b}" for a, _, b, _ in ends]),
        np.zeros(len(u), int),
    ]
