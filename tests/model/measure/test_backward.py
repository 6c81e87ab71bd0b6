"""What must hold of `gim`, `relp` and `relp-ah`; `test_families.py` has their scores against an oracle."""

import numpy as np
import pytest
import torch

import families
import instar
import reference
import rules
from instar.measure.backward import RULES, backward
from instar.models.load import load
from instar.models.replay import Engine, Metric


def prompts():
    clean = families.tokens(3, 7)
    corrupted = clean.clone()
    corrupted[:, 2], corrupted[0, 6] = 3 + (clean[:, 2] + 5) % 90, 3 + (clean[0, 6] + 7) % 90
    mask = torch.arange(7)[None] < torch.tensor([[7], [6], [5]])
    answer, foils = torch.tensor([5, 6, 7]), torch.tensor([[9, 10], [11, 12], [13, 14]])
    return clean, corrupted, mask, answer, foils


def batch_of(clean, corrupted, mask, answer, foils):
    return instar.Batch.from_tokens(clean, corrupted, answer, foils, mask)


@pytest.mark.parametrize("row", ["llama", "qwen3", "olmo2"])
def test_a_held_pattern_conserves_relevance_where_there_are_no_biases(row):
    """At every layer, stream · coefficient sums to the metric itself."""
    model, batch = load(families.tiny(row)), batch_of(*prompts())
    engine = Engine(model.layout)
    frame = engine.frame(batch.clean, batch.mask)
    with torch.enable_grad(), backward(engine, RULES["relp-ah"]) as edit:
        run = engine.run(frame, x=frame.x.clone().requires_grad_(), edit=edit, end=batch.end)
        metric = Metric.of(model.layout, batch.answer, batch.contrast)(run.final[:, 0])
        found = torch.autograd.grad(metric.sum(), run.x[:-1])
    for x, gradient in zip(run.x, found, strict=False):
        assert torch.allclose((x * gradient).sum((1, 2)), metric, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("row", ["gpt2", "llama"])
def test_a_held_pattern_gives_no_score_to_what_q_and_k_read(row):
    module = families.tiny(row)
    model = load(module)
    scores = instar.edges(model, batch_of(*prompts()), "relp-ah", per_pair=True, slots=True)
    by_reader = np.abs(scores.scores).max(0)
    for name, largest in zip(scores.graph.destinations, by_reader, strict=True):
        assert (largest == 0) == name.endswith(("<q>", "<k>")), name
    whole = instar.edges(model, batch_of(*prompts()), "relp-ah").scores
    np.testing.assert_allclose(scores.scores, whole, atol=1e-12)
    with rules.following(module, "relp-ah"):
        theirs = reference.edges_eap(module, *prompts())
    np.testing.assert_allclose([scores[name] for name in theirs], [*theirs.values()], atol=1e-6)


def test_the_model_is_as_before_also_after_an_error():
    model = load(families.tiny("gpt_neox", hidden_act="sigmoid"))
    before = instar.edges(model, batch_of(*prompts()), "eap").scores
    assert np.isfinite(instar.edges(model, batch_of(*prompts()), "gim").scores).all()
    with pytest.raises(ValueError, match=r"Sigmoid is 0\.5 at 0"):
        instar.edges(model, batch_of(*prompts()), "relp")
    # A hook that was left would be refused here.
    np.testing.assert_array_equal(instar.edges(model, batch_of(*prompts()), "eap").scores, before)


def test_agreement_knows_the_methods_and_an_unknown_one_is_named():
    model = load(families.tiny("gpt2"))
    found = instar.edges(model, batch_of(*prompts()), "gim")
    assert -1 <= found.rank_correlation <= 1 and found.dataset.attrs["steps"] == 1
    with pytest.raises(ValueError, match="'relp-ah', 'exact', and no function"):
        instar.edges(model, batch_of(*prompts()), "relpp")  # pyright: ignore[reportArgumentType]
