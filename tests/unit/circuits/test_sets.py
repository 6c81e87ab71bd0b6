"""Random sets matched per layer."""

from itertools import combinations, product
from math import comb

import numpy as np
import pytest
import xarray as xr

from instar.circuits.graph import Graph
from instar.circuits.sets import MANY, all_heads, heads_of, matched
from instar.record import netcdf

GRAPH = Graph(4, 6, 2)
CIRCUIT = ("a0.h1", "a0.h4", "a2.h0", "a2.h3", "a2.h5", "a3.h2")


def layers(heads):
    return [sum(h.startswith(f"a{layer}.") for h in heads) for layer in range(12)]


def test_heads_among_nodes():
    assert heads_of(("input", "a0.h1", "m0", "a3", "a10.h11", "logits", "embeddings")) == ("a0.h1", "a10.h11")
    assert all_heads(Graph(2, 2, 1)) == ("a0.h0", "a0.h1", "a1.h0", "a1.h1")


@pytest.mark.parametrize("seed", range(3))
def test_sets_have_as_many_heads_in_each_layer_and_are_different(seed):
    found = matched(GRAPH, CIRCUIT, 100, seed)
    assert len(found.sets) == 100 == len({frozenset(s) for s in found.sets})
    assert found.possible == comb(6, 2) * comb(6, 3) * 6 - 1
    for some in found.sets:
        assert layers(some) == layers(CIRCUIT) and len(set(some)) == len(CIRCUIT)
        assert set(some) <= set(all_heads(GRAPH)) and set(some) != set(CIRCUIT)
        # In the graph's order.
        assert list(some) == [h for h in all_heads(GRAPH) if h in some]
    assert found.overlap == pytest.approx(np.mean([len({*s} & {*CIRCUIT}) / 6 for s in found.sets]), abs=1e-15)


def test_layers_ten_and_one_are_not_taken_for_each_other():
    graph = Graph(12, 3, 3)
    found = matched(graph, ("a1.h0", "a10.h1", "a10.h2", "a11.h0"), 20)
    assert len(found.sets) == 20 and found.possible == 3 * 3 * 3 - 1
    assert all(layers(s) == [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1] for s in found.sets)


@pytest.mark.parametrize("extra", [0, 1, 50])
def test_all_there_are_where_these_are_few(extra):
    graph, mine = Graph(3, 4, 4), ("a0.h1", "a2.h0", "a2.h3")
    expected = {
        frozenset((first, *rest))
        for first, rest in product([f"a0.h{h}" for h in range(4)], combinations([f"a2.h{h}" for h in range(4)], 2))
    } - {frozenset(mine)}
    possible = 4 * 6 - 1
    found = matched(graph, mine, possible + extra)
    assert found.possible == possible == len(found.sets) and {frozenset(s) for s in found.sets} == expected
    # One fewer than there are has to be drawn, and ends too.
    fewer = matched(graph, mine, possible - 1)
    assert fewer.possible == possible and len({frozenset(s) for s in fewer.sets} & expected) == possible - 1


def test_a_seed_decides():
    one, two, other = (matched(GRAPH, CIRCUIT, 40, seed) for seed in (5, 5, 6))
    assert one == two and set(one.sets) != set(other.sets)
    # Not the order in which the set's heads are given.
    assert matched(GRAPH, CIRCUIT[::-1], 40, 5) == one
    few = [matched(Graph(3, 4, 4), ("a0.h1", "a2.h0"), 100, seed) for seed in (5, 5, 6)]
    assert few[0] == few[1] and few[0].sets != few[2].sets and set(few[0].sets) == set(few[2].sets)
    # Asking for more draws on.
    assert matched(GRAPH, CIRCUIT, 60, 5).sets[:40] == one.sets


@pytest.mark.parametrize(("heads", "count", "few"), [(CIRCUIT, 100, 30), (("a0.h0", "a1.h0"), 100, 20)])
def test_the_first_few_sets_are_a_random_sample(heads, count, few):
    """Cross-model patching takes the first thirty: sorted ones would all begin with the lowest heads."""
    chosen = [s for seed in range(30) for s in matched(GRAPH, heads, count, seed).sets[:few]]
    share = np.mean([f"a0.h{h}" in s for s in chosen for h in (0, 1, 2)])
    assert share == pytest.approx(layers(heads)[0] / 6, abs=0.03)


def test_every_head_of_a_layer_is_drawn_alike():
    found = [s for seed in range(20) for s in matched(GRAPH, CIRCUIT, 100, seed).sets]
    for layer, size in enumerate(layers(CIRCUIT)[:4]):
        shares = [np.mean([f"a{layer}.h{head}" in s for s in found]) for head in range(6)]
        assert shares == pytest.approx([size / 6] * 6, abs=0.05)


def test_overlap_of_a_small_example():
    # Of two layers with two heads each: (h0, h0) is the set; the others share one head, one head and none.
    found = matched(Graph(2, 2, 2), ("a0.h0", "a1.h0"), 10)
    assert found.overlap == pytest.approx((0.5 + 0.5 + 0) / 3) and found.possible == 3
    # Three of four in one layer: every other set shares two of the three.
    assert matched(Graph(1, 4, 4), ("a0.h0", "a0.h1", "a0.h2"), 10).overlap == pytest.approx(2 / 3)


@pytest.mark.parametrize("heads", [(), ("a0.h0", "a0.h1", "a1.h0", "a1.h1")])
@pytest.mark.parametrize("count", [0, 5])
def test_nothing_and_everything_have_no_match(heads, count):
    found = matched(Graph(2, 2, 2), heads, count)
    assert found.sets == () and found.possible == 0 and np.isnan(found.overlap)


def test_none_asked_for():
    found = matched(GRAPH, CIRCUIT, 0)
    assert found.sets == () and found.possible > 0 and np.isnan(found.overlap)


def test_more_sets_than_a_file_can_count_are_written_as_so_many(tmp_path):
    graph = Graph(40, 32, 32)
    found = matched(graph, [f"a{i}.h{h}" for i in range(40) for h in range(16)], 3)
    assert found.possible == MANY and len(found.sets) == 3
    attrs = {"possible": found.possible, "huge": 10**40}
    (tmp_path / "x.nc").write_bytes(netcdf.as_bytes(xr.Dataset(attrs=attrs)))
    back = netcdf.attributes(tmp_path / "x.nc")
    assert back["possible"] == MANY and back["huge"] == str(10**40)
