"""The graph's names and counts, pruning against a path search, selection, and circuits' files."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.circuits.selection import select, smallest_size, top

SMALL = Graph(2, 3, 3)


def test_gpt2_small_has_the_published_counts():
    graph = Graph(12, 12, 12)
    assert (len(graph.sources), len(graph.destinations), graph.n_edges) == (157, 445, 32_491)


def test_larger_models_have_the_known_counts():
    assert Graph(48, 25, 25).n_edges == 2_235_025  # GPT-2 XL
    assert Graph(32, 32, 32).n_edges == 1_592_881  # a 7B model of 32 layers


def test_a_parallel_block_has_no_edge_from_its_heads_to_its_mlp():
    names = set(Graph(2, 2, 2, parallel=True).names(Graph(2, 2, 2, parallel=True).exists))
    assert "a0.h1->m0" not in names and "m0->m1" in names and "a0.h1->a1.h0<q>" in names


def test_grouped_queries_share_their_readers():
    graph = Graph(1, 4, 2)
    assert [n for n in graph.destinations if "<k>" in n] == ["a0.h0<k>", "a0.h1<k>"]
    assert graph.feeds[graph.reads(0, "v", 1)].nonzero()[0].tolist() == [graph.head(0, 2), graph.head(0, 3)]


def on_a_path(graph: Graph, mask: np.ndarray) -> set[str]:
    """By walking every edge from the input, and back from the logits."""
    edges = [(u, v) for u, v in zip(*np.nonzero(mask), strict=True)]
    nodes = {v: {int(u) for u in np.flatnonzero(graph.feeds[v])} for v in range(len(graph.destinations))}
    ahead = {0}
    while True:
        more = ahead | {n for u, v in edges if u in ahead for n in nodes[v]}
        if more == ahead:
            break
        ahead = more
    back: set[int] = set()
    last = len(graph.destinations) - 1
    while True:
        more = back | {u for u, v in edges if v == last or nodes[v] & back}
        if more == back:
            break
        back = more
    kept = [(u, v) for u, v in edges if u in ahead and (v == last or nodes[v] & back & ahead)]
    return {f"{graph.sources[u]}->{graph.destinations[v]}" for u, v in kept}


@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.15, 0.4]), st.sampled_from([1, 2]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_pruning_leaves_what_lies_on_a_path(seed, share, kv_heads, parallel):
    graph = Graph(3, 2, kv_heads, parallel)
    mask = graph.exists & (np.random.default_rng(seed).random(graph.exists.shape) < share)
    pruned = graph.pruned(mask)
    assert (graph.pruned(pruned) == pruned).all() and not (pruned & ~mask).any()
    assert set(graph.names(pruned)) == on_a_path(graph, mask)


def scores(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SMALL.exists.shape) * SMALL.exists


def test_top_takes_the_largest_and_ties_the_earlier():
    value = np.abs(scores())
    mask = top(SMALL, value, 10)
    assert mask.sum() == 10 and value[mask].min() >= value[SMALL.exists & ~mask].max()
    assert (top(SMALL, np.ones_like(value), 7) == top(SMALL, np.zeros_like(value), 7)).all()


def test_greedy_grows_from_the_logits_and_needs_no_pruning_toward_them():
    value = np.abs(scores())
    mask = top(SMALL, value, 25, "greedy")
    assert mask.sum() == 25
    # Each edge leads to the logits or to a node from which an edge of the circuit leaves.
    for _, v in zip(*np.nonzero(mask), strict=True):
        assert v == len(SMALL.destinations) - 1 or any(mask[n].any() for n in np.flatnonzero(SMALL.feeds[v]))
    first = top(SMALL, value, 1, "greedy")
    assert value[first] == value[:, -1].max() and first[:, -1].any()


def test_signed_selection_prefers_what_helps():
    circuit = select(SMALL, scores(), 12, signed=True)
    assert all(s < 0 for s in circuit.scores) and "signed" in circuit.how


def test_a_circuit_survives_its_file_and_reads_the_other_packages(tmp_path):
    circuit = select(SMALL, scores(), 30)
    circuit.write(tmp_path / "c.json")
    again = Circuit.read(tmp_path / "c.json")
    assert (again.edges, again.graph, again.how) == (circuit.edges, circuit.graph, circuit.how)
    np.testing.assert_allclose(again.scores, circuit.scores)
    theirs = json.loads(circuit.to_json())
    assert theirs["nodes"]["logits"]["in_graph"] and set(theirs) >= {"cfg", "nodes", "edges"}
    assert len(theirs["edges"]) == SMALL.n_edges
    # Their files have no entry of ours and the sign of the loss.
    del theirs["instar"], theirs["cfg"]["n_key_value_heads"]
    other = Circuit.from_json(json.dumps(theirs))
    assert other.edges == circuit.edges
    name = circuit.edges[0]
    assert theirs["edges"][name]["score"] == pytest.approx(-circuit.scores[0])


NO_MARK = '{"cfg": {"n_layers": 1, "n_heads": 1}, "edges": {"input->m0": {}}}'
LIST = '{"cfg": {"n_layers": 1, "n_heads": 1}, "edges": ["input->m0"]}'


@pytest.mark.parametrize("text", ["[]", "{", '{"cfg": {}}', '{"cfg": {"n_layers": 1, "n_heads": 1}}', NO_MARK, LIST])
def test_what_is_no_circuit_is_refused(text):
    with pytest.raises(ValueError, match="not a circuit"):
        Circuit.from_json(text)


def test_names_that_are_no_edges_are_refused():
    for name in ("a0.h0->a0.h1<q>", "m0->a0.h0<k>", "logits->m0", "a9.h0->logits", "nonsense"):
        with pytest.raises(ValueError, match="is no edge"):
            SMALL.edge(name)


def test_node_view_and_removal():
    circuit = Circuit.of(SMALL, SMALL.mask(["input->a0.h1<v>", "a0.h1->logits", "input->logits"]))
    assert circuit.nodes == ("input", "a0.h1", "logits")
    assert circuit.without(["input->logits"]).edges == ("input->a0.h1<v>", "a0.h1->logits")


@pytest.mark.parametrize(
    ("f", "found"),
    [
        ([0.2, 0.9, 0.8, 0.9, 1.0], 5),  # it falls below once more after the second
        ([0.9, 0.9, 1.2, 0.9, 1.0], 1),
        ([0.1, 0.2, 0.3, 0.4, 0.8], None),
        ([np.nan] * 5, None),
    ],
)
def test_the_smallest_size_is_the_one_from_which_on_it_stays(f, found):
    assert smallest_size([1, 2, 3, 5, 10], np.array(f), 0.85) == found


def test_shared_keys_bring_no_head_into_the_node_view():
    """Under grouped queries a0.h0 and a0.h1 read one key: only the one that is read by its query, or writes, is there."""
    circuit = Circuit(Graph(2, 4, 2), ("input->a1.h0<q>", "input->a1.h0<k>", "input->a1.h0<v>", "a1.h0->logits"))
    assert circuit.nodes == ("input", "a1.h0", "logits") and circuit.heads == [(1, 0)]
