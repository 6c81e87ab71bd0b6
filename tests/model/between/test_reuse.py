"""Circuits of one task on another: against `faithfulness` of the same edges, and on a model whose answer is known."""

import json

import numpy as np
import pytest

import instar
from instar.between.reuse import Draws, reuse, thirds
from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.compare.reused import reused
from instar.measure.common import prompts
from instar.measure.faithfulness import faithfulness
from instar.tasks.library import task

FEW = Draws(permuted=20, again=5, removed=20)


@pytest.fixture(scope="module")
def base():
    return instar.load("embedded")


@pytest.fixture(scope="module")
def same(base):
    """The old task in the place of the new one, other prompts of it: the answer is known."""
    old, new = (task("ioi2").batch(base, n, seed) for n, seed in ((16, 1), (48, 2)))
    others = {name: task(name).batch(base, 16) for name in ("ball2",)}
    return old, new, reuse(base, base, old, new, others=others, draws=FEW)


def test_no_prompt_is_in_two_thirds(base):
    parts = thirds(task("ioi2").batch(base, 31))
    names = [{p.clean for p in part.pairs} for part in parts]
    assert sum(map(len, names)) == len(set.union(*names)) == 31 and min(map(len, names)) >= 10
    with pytest.raises(ValueError, match="11 prompts; reuse needs 12"):
        thirds(task("ioi2").batch(base, 11))


def test_what_circuits_do_is_their_faithfulness(base, same):
    _, new, found = same
    graph, own = Graph.of(base.layout), found.isel(counterfactual=0)
    seen = thirds(new)[2]
    for name in ("old", "new"):
        mask = np.zeros(graph.exists.shape, bool)
        mask[graph.exists] = own[f"in_{name}"].values
        by_hand = faithfulness(base, seen, Circuit.of(graph, mask))
        np.testing.assert_allclose(own[name].isel(size=2), by_hand["metric"].isel(circuit=0), atol=1e-5)
    without = Circuit.of(graph, graph.exists & ~mask_of(graph, own["in_old"].values))
    np.testing.assert_allclose(own["without"], faithfulness(base, seen, without)["metric"].isel(circuit=0), atol=1e-5)
    np.testing.assert_allclose(own["clean"], by_hand["clean"], atol=1e-5)
    assert (
        own["edges"].values >= np.minimum(graph.n_edges, own["n"].values * np.array([0.25, 0.5, 1, 2, 4])) - 1
    ).all()
    assert len(prompts(seen)) == own.sizes["pair"]


def mask_of(graph, inside):
    mask = np.zeros(graph.exists.shape, bool)
    mask[graph.exists] = inside
    return mask


def test_the_old_task_runs_on_its_own_circuit(same):
    own = reused(same[2])[0]
    assert own.word == "transformed" and own.reuse.low > 0.8 and own.floor < 0.2
    assert own.slope.low < 1 < own.slope.high and own.correlation.value > 0.9
    assert own.shared["edges"][0] > own.shared["edges"][1] and own.necessity.value > 0.9
    nodes = json.loads(same[2].attrs["inside"])
    assert nodes and all(node[0] in "am" for node in nodes)


def test_models_of_other_graphs_are_refused(base):
    other = instar.load("embedded-shallow")
    batch = task("ioi2").batch(base, 16)
    with pytest.raises(ValueError, match="not of one graph"):
        reuse(base, other, batch, batch)
