"""A checkpoint's circuit made of its own scores and curve, as the stage makes it."""

from dataclasses import replace

import numpy as np

from instar.circuits.selection import select
from instar.compare.floors import Scores


def remade(scores: Scores) -> Scores:
    """With the circuit of the smallest faithful size; without edges where there is none."""
    table, size = np.zeros(scores.graph.exists.shape), scores.size
    table[scores.graph.exists] = scores.scores.mean((0, 1))
    chosen = np.zeros(scores.graph.n_edges, bool)
    return replace(
        scores, circuit=chosen if size is None else select(scores.graph, table, size).mask[scores.graph.exists]
    )
