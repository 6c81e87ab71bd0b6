"""Parts that changed places are found, put back, and nothing else is."""

import copy

import numpy as np
import pytest
import torch

import families
from instar.measure.common import clean_logits
from instar.models.arch import Layout
from instar.models.coordinates import by_neuron, in_coordinates_of, reorder
from twins import named, noisy, prompts


def moved(module, seed=1, heads=True, neurons=True):
    """A copy in which heads (groups, heads within groups) and neurons change places; it computes the same."""
    generator, twin = np.random.default_rng(seed), copy.deepcopy(module)
    arch = named(module, "").layout.arch
    layout = Layout(twin, arch)
    size = layout.n_heads // layout.n_kv_heads
    for layer in range(layout.n_layers):
        groups = generator.permutation(layout.n_kv_heads) if heads else np.arange(layout.n_kv_heads)
        within = [generator.permutation(size) if heads else np.arange(size) for _ in groups]
        order = np.concatenate([g * size + own for g, own in zip(groups, within, strict=True)])
        rows = len(by_neuron(layout, layer)[0])
        reorder(layout, layer, order, groups, generator.permutation(rows) if neurons else np.arange(rows))
    return twin


@pytest.mark.parametrize("row", list(families.ROWS))
def test_what_changed_places_is_put_back_in_every_family(row):
    base = families.tiny(row)
    tuned = noisy(base, 0.1)
    twin = moved(tuned)
    with torch.no_grad():
        a, b = (clean_logits(named(m, "").layout, prompts()) for m in (tuned, twin))
    # The move itself is one of coordinates alone.
    assert float((a - b).abs().max()) <= 1e-6 * float(a.abs().max())
    back, found = in_coordinates_of(named(base, "base"), named(twin, "twin"))
    assert found.shared and found.neurons and "put back" in found.said
    for (name, own), other in zip(back.module.named_parameters(), tuned.parameters(), strict=True):
        assert torch.equal(own, other), name


def test_a_fine_tuned_model_is_left_as_it_is():
    base = families.tiny("llama")
    tuned = named(noisy(base, 0.3), "tuned")
    same, found = in_coordinates_of(named(base, "base"), tuned)
    assert same is tuned and found.said == "" and found.shared and found.alike < 1


def test_another_model_shares_no_coordinates_and_nothing_is_moved():
    base, other = named(families.tiny("gpt2"), "base"), named(families.tiny("gpt2", seed=5), "other")
    same, found = in_coordinates_of(base, other)
    assert same is other and not found.shared and "not put back" in found.said


def test_a_head_that_was_trained_anew_is_not_another():
    base = families.tiny("gpt2")
    tuned = noisy(base, 0.05)
    layout = named(tuned, "").layout
    with torch.no_grad():
        for own in (layout.w_in(0, "q"), layout.w_o(0)):
            own.data[1] = torch.randn_like(own.data[1])
    same, found = in_coordinates_of(named(base, "base"), named(tuned, "tuned"))
    assert same.module is tuned and not found.heads
