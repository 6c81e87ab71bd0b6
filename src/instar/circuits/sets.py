"""Sets of nodes: all heads, all MLPs, and sets of heads to compare one with, as many in each layer, drawn at random."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb, prod

import numpy as np

from instar.circuits.graph import Graph

Names = tuple[str, ...]


MANY = 10**15
"""Sets that are counted: a file holds no larger whole numbers exactly, and nothing asks for more."""


@dataclass(frozen=True)
class Matched:
    """Random sets matched per layer, none of them the set itself."""

    sets: tuple[Names, ...]
    possible: int
    """How many different ones there are."""
    overlap: float
    """The mean share of the set's own members in them: near 1 they say little. NaN without any."""


def heads_of(names: Sequence[str]) -> Names:
    """The heads among nodes."""
    return tuple(n for n in names if n.startswith("a") and ".h" in n)


def all_heads(graph: Graph) -> Names:
    """Every head of a graph."""
    return heads_of(graph.sources)


def all_mlps(graph: Graph) -> Names:
    """Every MLP of a graph."""
    return tuple(n for n in graph.sources if n.startswith("m"))


def matched(graph: Graph, heads: Sequence[str], count: int, seed: int = 0) -> Matched:
    """`count` sets with as many heads in each layer as `heads`; all there are, where these are fewer."""
    own = [[h for h in heads if h.startswith(f"a{layer}.")] for layer in range(graph.n_layers)]
    layers = [[f"a{i}.h{h}" for h in range(graph.n_heads)] for i, some in enumerate(own) if some]
    sizes = [len(some) for some in own if some]
    possible = min(MANY, prod(comb(graph.n_heads, size) for size in sizes) - 1)
    order = {name: i for i, name in enumerate(all_heads(graph))}
    mine = tuple(sorted(heads, key=order.__getitem__))
    generator = np.random.default_rng(seed)
    # In the order drawn: whoever takes the first few of them has a random sample too.
    sets: dict[Names, None] = {}
    if 0 < possible <= count:
        choices = product(*(combinations(names, size) for names, size in zip(layers, sizes, strict=True)))
        every = [own for choice in choices if (own := tuple(h for part in choice for h in part)) != mine]
        sets = {every[i]: None for i in generator.permutation(possible)}
    while len(sets) < min(count, possible):
        drawn = (generator.choice(len(names), size, replace=False) for names, size in zip(layers, sizes, strict=True))
        one = tuple(names[i] for names, part in zip(layers, drawn, strict=True) for i in sorted(part))
        if one != mine:
            sets[one] = None
    overlap = float(np.mean([len({*mine} & {*s}) / len(mine) for s in sets])) if sets else float("nan")
    return Matched(tuple(sets), possible, overlap)
