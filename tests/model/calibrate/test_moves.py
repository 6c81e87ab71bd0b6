"""Moves that change nothing: in every family logits stay, weights do not, and what the algebra forbids is refused."""

import numpy as np
import pytest
import torch

import families
import instar
from instar.calibrate.moves import MOVES, moved
from instar.models.coordinates import in_coordinates_of
from twins import named, prompts

NOT = {
    "keys": {"qwen3", "gemma3", "olmo2", "phi.normed", "stablelm.normed"},
    "basis": {"gemma2", "gemma2.tight_caps", "gemma3", "olmo2"},
}


def logits(model):
    with torch.no_grad():
        return model.module(families.tokens(3, 9)).logits


@pytest.mark.parametrize("row", families.ROWS)
def test_logits_stay_and_weights_move(row):
    base = named(families.tiny(row), "base")
    before = {name: value.clone() for name, value in base.module.state_dict().items()}
    for name in MOVES:
        tuned, skipped = moved(base, name, seed=1)
        assert (name in skipped) is (row in NOT.get(name, ())), (name, skipped)
        assert (tuned.weights == base.weights) is (name in skipped), name
        # Some families norm in float32 whatever the model is in.
        largest = float(logits(base).abs().max())
        torch.testing.assert_close(logits(tuned), logits(base), rtol=0, atol=2e-6 * largest)
    assert all(torch.equal(value, before[name]) for name, value in base.module.state_dict().items())


@pytest.mark.parametrize("row", ["gpt2", "llama", "gemma", "phi"])
def test_moves_one_after_another_and_every_functional_number_stays(row):
    base = named(families.tiny(row, dtype=torch.float64), "base")
    tuned, skipped = moved(base, *(name for name in MOVES if name != "heads"), seed=2)
    assert not skipped
    torch.testing.assert_close(logits(tuned), logits(base), rtol=0, atol=1e-5)
    batch = prompts()
    one, two = (instar.edges(model, batch, "eap") for model in (base, tuned))
    scale = np.nanmax(np.abs(one.scores))
    np.testing.assert_allclose(two.scores, one.scores, atol=1e-5 * scale)
    circuit = one.circuit(n=20)
    f = [instar.faithfulness(model, batch, circuit)["metric"].values for model in (base, tuned)]
    np.testing.assert_allclose(f[0], f[1], atol=1e-5)
    z = [instar.patching(model, batch, ("z",))["z"].values for model in (base, tuned)]
    np.testing.assert_allclose(z[0], z[1], atol=1e-5)


def test_heads_and_neurons_that_changed_places_are_found_again():
    base = named(families.tiny("llama"), "base")
    tuned, _ = moved(base, "heads", "neurons", seed=3)
    back, found = in_coordinates_of(base, tuned)
    assert found.shared and found.heads and found.neurons
    assert all(torch.equal(a, b) for a, b in zip(back.module.parameters(), base.module.parameters(), strict=True))


def test_an_unknown_move_is_named():
    with pytest.raises(ValueError, match="'twist' is none of heads, values"):
        moved(named(families.tiny("gpt2"), "base"), "twist")
