"""What an edge set is compared with: the same set under other heads' names, and other edges of its kinds."""

from collections import Counter

import numpy as np
import pytest

from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.circuits.nulls import heads_permuted, other_edges
from instar.circuits.selection import at_least, top

GRAPHS = [Graph(3, 4, 4), Graph(3, 6, 2), Graph(2, 4, 1), Graph(2, 4, 4, parallel=True)]


def circuit(graph, n, seed=0):
    return at_least(graph, np.random.default_rng(seed).random(graph.exists.shape), n)


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_at_least_is_the_smallest_cut_that_leaves_enough(graph):
    value = np.random.default_rng(1).random(graph.exists.shape)
    for n in (1, 5, 17, graph.n_edges):
        own = at_least(graph, value, n)
        sizes = [int(graph.pruned(top(graph, value, k)).sum()) for k in range(1, graph.n_edges + 1)]
        cut = next(k for k, size in enumerate(sizes, 1) if size >= n)
        assert own.sum() >= n and np.array_equal(own, graph.pruned(top(graph, value, cut)))


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_permuted_sets_are_circuits_of_the_same_form(graph):
    mask = circuit(graph, 30)
    by_layer = Counter(node.partition(".")[0] for node in Circuit.of(graph, mask).nodes)
    for other in heads_permuted(graph, mask, 12):
        assert other.sum() == mask.sum() and not (other & ~graph.exists).any()
        assert np.array_equal(graph.pruned(other), other)
        assert Counter(node.partition(".")[0] for node in Circuit.of(graph, other).nodes) == by_layer


def test_one_head_goes_with_all_its_edges_and_shared_keys_with_their_group():
    graph = Graph(2, 4, 2)
    mask = graph.mask(["input->a0.h3<q>", "input->a0.h1<k>", "a0.h3->logits"])
    seen = set()
    for other in heads_permuted(graph, mask, 40):
        names = graph.names(other)
        head = next(name for name in names if name.endswith("->logits")).partition("->")[0]
        number = int(head.partition(".h")[2])
        assert f"input->{head}<q>" in names and f"input->a0.h{number // 2}<k>" in names
        seen.add(head)
    assert seen == {"a0.h0", "a0.h1", "a0.h2", "a0.h3"}


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_other_edges_are_as_many_and_none_of_the_set(graph):
    mask = circuit(graph, graph.n_edges // 4)
    found = other_edges(graph, mask, 10)
    assert all(own.sum() == mask.sum() for own in found.masks)
    assert not any((own & (mask | ~graph.exists)).any() for own in found.masks)
    assert 0 < found.matched <= 1 and len({own.tobytes() for own in found.masks}) > 1


def test_other_edges_are_of_the_same_layers_and_kinds_where_there_are_such():
    graph = Graph(3, 8, 8)
    mask = graph.mask(["a0.h1->a1.h2<q>", "a0.h3->a1.h2<k>", "a1.h2->a2.h0<v>", "input->m0"])

    def kinds(own):
        return Counter(
            tuple(end.partition(".")[0] + end[-3:] * ("<" in end) for end in name.split("->"))
            for name in graph.names(own)
        )

    wanted = kinds(mask)
    found = other_edges(graph, mask, 20)
    # The only edge from the input to an MLP of that layer is in the set itself.
    assert found.matched == 0.75
    for own in found.masks:
        assert sum((kinds(own) & wanted).values()) == 3
