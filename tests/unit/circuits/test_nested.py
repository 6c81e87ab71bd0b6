"""Circuits of every size at once are those that are selected and pruned one by one."""

import numpy as np
import pytest

from instar.circuits.graph import Graph
from instar.circuits.nested import entering
from instar.circuits.selection import at_least


@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 6, 2), (3, 4, 4, True), (1, 1, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_an_edge_enters_with_the_smallest_circuit_that_has_it(shape, seed):
    graph = Graph(*shape)
    value = np.random.default_rng(seed).exponential(size=graph.exists.shape).round(1)  # with ties
    most = min(120, graph.n_edges)
    found = entering(graph, value, most)
    for n in {1, 2, 5, 17, 60, most} & set(range(1, most + 1)):
        own = {(int(u), int(v)) for u, v in zip(*np.nonzero(at_least(graph, value, n)), strict=True)}
        assert {edge for edge, size in found.items() if size <= n} == own, n


def test_what_comes_onto_a_path_together_enters_together():
    graph, value = Graph(2, 2, 2), np.zeros(Graph(2, 2, 2).exists.shape)
    for rank, name in enumerate(("a0.h0->a1.h1<v>", "input->a0.h0<v>", "a1.h1->logits")):
        value[graph.edge(name)] = 10 - rank
    assert set(entering(graph, value, 3).values()) == {1}
