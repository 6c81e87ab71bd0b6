"""Everything causal in one file: what is measured by groups alone is what stands there beside the layers, too."""

import numpy as np
import pytest

import families
from instar.between.causal import Prompts, causal
from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from twins import named, noisy, prompts


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_groups_alone_are_those_beside_the_layers(family):
    module = families.tiny(family)
    base, tuned = named(module, "base"), named(noisy(module, 0.2), "tuned")
    batch, graph = prompts(), Graph.of(base.layout)
    kept = graph.pruned(graph.exists & (np.random.default_rng(0).random(graph.exists.shape) < 0.5))
    own, circuit = Prompts(batch, batch), Circuit.of(graph, kept)
    options = {"random": 3, "exchanged": 2, "single": False}
    whole, groups = (causal(base, tuned, own, own, circuit, circuit, by_layer=by, **options) for by in (True, False))
    layers = {f"{kind}{i}" for kind in "am" for i in range(graph.n_layers)}
    for axis, names in (("set", ("graft_into", "graft_lost")), ("carried", ("carry_into", "carry_lost"))):
        there = list(groups[axis].values)
        assert set(whole[axis].values) - set(there) == layers
        for name in names:
            assert (whole[name].sel({axis: there}).values == groups[name].values).all()
    assert (whole["added"].values == groups["added"].values).all()
