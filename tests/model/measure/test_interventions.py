"""Interventions: closed forms, invariances, planted circuits, and what a user can do wrong."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import families
import instar
from conftest import tiny_gpt2
from instar.circuits.selection import FINE, GRID
from instar.measure.faithfulness import Ranked, completeness, curve, curves, minimality
from instar.models.load import load
from instar.tasks.batch import tokenize


def prompts(vocabulary: int = 101, n: int = 6, width: int = 9, last: bool = True) -> instar.Batch:
    draw = torch.Generator().manual_seed(3)
    clean = torch.randint(1, vocabulary, (n, width), generator=draw)
    corrupted = clean.clone()
    for at in (3, 5, *([width - 1] if last else [])):
        corrupted[:, at] = 1 + (clean[:, at] + 7) % (vocabulary - 1)
    return instar.Batch.from_tokens(clean, corrupted, torch.arange(n) + 10, torch.arange(n) + 40)


@pytest.fixture(scope="module")
def batch():
    return prompts()


def linear_model():
    """A GPT-2 that is a linear map: norms of constant scale, uniform attention, no activation function."""
    model = tiny_gpt2(activation_function="linear").double()
    norms = [n for block in model.transformer.h for n in (block.ln_1, block.ln_2)] + [model.transformer.ln_f]
    with torch.no_grad():
        for norm in norms:
            norm.eps = 1e14
            norm.weight.mul_(1e7)
        for block in model.transformer.h:
            block.attn.c_attn.weight[:, :32] = 0
            block.attn.c_attn.bias[:32] = 0
    return load(model)


def test_edge_attribution_is_exact_on_a_linear_network(batch):
    model = linear_model()
    exact = instar.edges(model, batch, "exact").scores
    assert np.abs(exact).max() > 1e-2
    for options in ({"method": "eap"}, {"steps": 2}, {"steps": 3, "rule": "left"}, {"method": "relp"}):
        np.testing.assert_allclose(instar.edges(model, batch, **options).scores, exact, atol=1e-8 * np.abs(exact).max())
    found = instar.patching(model, batch, ("z", "v", "mlp_out", "attn_out"))
    approximate = instar.patching(model, batch, ("z", "v", "mlp_out", "attn_out"), method="attribution")
    for site in ("z", "v", "mlp_out", "attn_out"):
        np.testing.assert_allclose(approximate[site], found[site], atol=1e-8)


def test_integrated_gradients_become_complete_with_steps(tiny, batch):
    def gap(steps: int) -> float:
        scores = instar.edges(tiny, batch, steps=steps)
        into = [scores[n] for n in scores.graph.names(scores.graph.exists) if n.startswith("input->")]
        ends = instar.patching(tiny, batch, ("z",))
        return abs(sum(into) - float((ends["corrupted"] - ends["clean"]).mean()))

    assert gap(4) < gap(1) and gap(16) < gap(4) / 4


def test_a_planted_circuit_is_found_and_nothing_else(batch):
    """Only one head of the last layer and the direct path write anything."""
    model = tiny_gpt2().double()
    with torch.no_grad():
        for number, block in enumerate(model.transformer.h):
            block.mlp.c_proj.weight.zero_()
            keep = block.attn.c_proj.weight[16:24].clone()
            block.attn.c_proj.weight.zero_()
            if number == 2:
                block.attn.c_proj.weight[16:24] = keep
    loaded = load(model)
    expected = {"input->logits", "input->a2.h2<q>", "input->a2.h2<k>", "input->a2.h2<v>", "a2.h2->logits"}
    for method in ("eap", "eap-ig", "exact"):
        scores = instar.edges(loaded, batch, method)
        found = {n for n in scores.graph.names(scores.graph.exists) if abs(scores[n]) > 1e-9}
        assert found == expected, method
    circuit = scores.circuit(n=5)
    assert set(circuit.edges) == expected and set(circuit.nodes) == {"input", "a2.h2", "logits"}
    f = instar.faithfulness(loaded, batch, [circuit, circuit.without(["a2.h2->logits"])])
    assert f["metric"].values[0] == pytest.approx(f["clean"].values)
    heads = instar.patching(loaded, batch, ("z", "v"))
    assert (np.abs(heads["z"] - heads["corrupted"].mean()) > 1e-9).values.sum() == 1
    ends = instar.faithfulness(loaded, batch, circuit)
    worse = torch.tensor((ends["clean"] < ends["corrupted"]).values)
    answer, foil = (
        torch.where(worse, b, a) for a, b in ((batch.answer, batch.foils[:, 0]), (batch.foils[:, 0], batch.answer))
    )
    turned = instar.Batch.from_tokens(batch.clean, batch.corrupted, answer, foil)
    found = minimality(loaded, turned, circuit, random=20)
    assert np.abs(found["added"]).max() < 1e-9 and (found["percentile"] == 1).all()


def test_nothing_depends_on_the_order_of_pairs_or_on_chunks(tiny, batch):
    other = batch[np.array([4, 2, 5, 0, 1, 3])]
    for one, two in (
        (instar.edges(tiny, batch).scores, instar.edges(tiny, other, chunk=2).scores),
        (instar.patching(tiny, batch, ("k", "attn_out")).k, instar.patching(tiny, other, ("k",), chunk=4).k),
    ):
        np.testing.assert_allclose(one, two, atol=1e-12)
    per_pair = instar.edges(tiny, other, per_pair=True, chunk=4).dataset["score"]
    alone = instar.edges(tiny, other[slice(2, 3)]).scores
    np.testing.assert_allclose(np.nan_to_num(per_pair.isel(pair=2)), alone, atol=1e-12)


def test_slots_sum_to_the_whole_and_only_changed_ones_begin(tiny):
    batch = prompts(last=False)
    whole, by_slot = instar.edges(tiny, batch), instar.edges(tiny, batch, slots=True)
    np.testing.assert_allclose(by_slot.scores, whole.scores, atol=1e-12)
    score = by_slot.dataset["score"]
    # What leaves the input differs at changed tokens only.
    assert np.nan_to_num(score.sel(slot="same", source="input")).any() == np.False_
    assert np.abs(np.nan_to_num(score.sel(slot="changed", source="input"))).max() > 1e-3


def test_patching_by_slot_is_patching_its_positions_together(tiny, batch):
    found = instar.patching(tiny, batch, ("resid_pre",), by="slot", per_pair=True)
    # All tokens that differ, at the input: the clean run itself.
    np.testing.assert_allclose(
        found["resid_pre"].sel(layer=0, slot=["changed"])[:, 0],
        instar.patching(tiny, prompts_without_end(batch), ("z",))["clean"], atol=1e-9,
    )  # fmt: skip


def prompts_without_end(batch: instar.Batch) -> instar.Batch:
    """The clean prompts, but for the last token, which stays corrupted."""
    clean = batch.clean.clone()
    clean[:, -1] = batch.corrupted[:, -1]
    return instar.Batch.from_tokens(clean, batch.corrupted, batch.answer, batch.foils[:, 0])


def test_patching_a_run_with_itself_is_impossible_to_ask_for(batch):
    with pytest.raises(ValueError, match="row 1: clean and corrupted are the same"):
        corrupted = batch.corrupted.clone()
        corrupted[1] = batch.clean[1]
        instar.Batch.from_tokens(batch.clean, corrupted, batch.answer, batch.foils)


def test_rows_padded_on_the_left_are_the_rows(tiny, batch):
    pad = torch.zeros(len(batch), 3, dtype=torch.long)
    mask = torch.ones(len(batch), 12, dtype=torch.bool)
    mask[:, :3] = False
    sides = [torch.cat([pad, t], 1) for t in (batch.clean, batch.corrupted)]
    left = instar.Batch.from_tokens(*sides, batch.answer, batch.foils, mask)
    np.testing.assert_allclose(instar.edges(tiny, left).scores, instar.edges(tiny, batch).scores, atol=1e-12)
    with pytest.raises(ValueError, match="padding inside the text"):
        mask[:, 6] = False
        instar.Batch.from_tokens(*sides, batch.answer, batch.foils, mask)


def test_auto_estimates_checks_and_says_how_far_off_it_is(tiny, batch, monkeypatch):
    exact = instar.patching(tiny, batch, ("z", "mlp_out"), method="auto", per_pair=True)
    assert exact.attrs["method"] == "exact" and exact.attrs["check"] == "{}"
    monkeypatch.setattr("instar.measure.patching.EXACT_BELOW", 0)
    monkeypatch.setattr("instar.measure.patching.CHECKED", 3)
    monkeypatch.setattr("instar.measure.patching.CHECKED_PAIRS", 2)
    found = instar.patching(tiny, batch, ("z", "mlp_out"), method="auto", per_pair=True)
    checks = json.loads(found.attrs["check"])
    for site in ("z", "mlp_out"):
        replayed = found[f"{site}_exact"].values
        there = ~np.isnan(replayed[:2])
        assert there.sum() == 2 * 6 and np.isnan(replayed[2:]).all() and checks[site]["entries"] == 6
        np.testing.assert_allclose(replayed[:2][there], exact[site].values[:2][there], atol=1e-12)
        own, truth = (of[site].values[:2].mean(0)[there[0]] for of in (found, exact))
        assert checks[site]["largest"] == pytest.approx(np.abs(own - truth).max()) and checks[site]["largest"] > 0
        assert checks[site]["pairs"] == 2


def test_a_residual_channel_in_the_thousands_costs_no_agreement(batch):
    model = tiny_gpt2()
    with torch.no_grad():
        model.transformer.wpe.weight[:, 5] += 3000
    single = load(model)
    double = load(tiny_gpt2().double())
    with torch.no_grad():
        double.module.transformer.wpe.weight[:, 5] += 3000
    ours, theirs = (instar.patching(m, batch, ("resid_pre", "z", "q")) for m in (single, double))
    for site in ("resid_pre", "z", "q"):
        assert np.abs(ours[site] - theirs[site]).max() <= 1e-4 * np.abs(theirs[site]).max()


def test_prompts_of_very_unequal_lengths(tiny):
    """A patch far to the right of a short prompt's end leaves that prompt as it was."""
    draw = torch.Generator().manual_seed(0)
    clean = torch.randint(1, 101, (3, 14), generator=draw)
    corrupted = clean.clone()
    corrupted[:, 1] = 1 + (clean[:, 1] + 3) % 100
    mask = torch.arange(14)[None] < torch.tensor([[14], [4], [9]])
    batch = instar.Batch.from_tokens(clean, corrupted, torch.arange(3), torch.arange(3) + 20, mask)
    # The short prompt has slot `a` left of any difference, the others far right of its end.
    slots = torch.full((3, 14), -1)
    slots[mask] = 0
    slots[0, 8], slots[1, 0], slots[2, 7] = 1, 1, 1
    batch = replace(batch, slots=slots, slot_names=("rest", "a"))
    sites = ("resid_pre", "mlp_out", "z", "k")
    for options in ({}, {"by": "slot"}, {"by": "slot", "positions": True}, {"positions": True}):
        together = instar.patching(tiny, batch, sites, per_pair=True, **options)
        for row, width in enumerate((14, 4, 9)):
            alone = instar.patching(tiny, batch[slice(row, row + 1)], sites, per_pair=True, **options)
            for site in sites:
                ours = together[site].isel(pair=row)
                place = ours.dims[-1]
                cut = ours.isel({place: slice(0, width)}) if place == "position" else ours
                np.testing.assert_allclose(cut, alone[site].isel(pair=0), atol=1e-12)
                if place == "position":
                    assert np.isnan(ours.isel(position=slice(width, None))).all()


@pytest.mark.parametrize("family", ["gpt2", "phi"])
def test_little_memory_changes_nothing(family, monkeypatch):
    """Patches that do not fit together are carried one join at a time."""
    model, batch = load(families.tiny(family)), prompts(families.VOCABULARY)
    calls = (
        lambda: instar.patching(model, batch, ("z", "mlp_out")).z,
        lambda: instar.edges(model, batch, "exact").scores,
    )
    whole = [np.asarray(call()) for call in calls]
    for module in ("models.replay", "measure.edge_patching", "measure.common"):
        monkeypatch.setattr(f"instar.{module}.LIVE_BYTES", 1)
    for one, call in zip(whole, calls, strict=True):
        np.testing.assert_allclose(call(), one, atol=1e-12)


def test_sets_are_patched_together(tiny, batch):
    heads = [f"a{layer}.h{head}" for layer in range(3) for head in range(4)]
    everything = {"all": [*heads, "m0", "m1", "m2"], "one": ["a1.h2"], "none": []}
    found = instar.set_patching(tiny, batch, everything)
    # All writers but the embedding are clean; only the direct path of the last token is not.
    single = instar.patching(tiny, batch, ("z",), per_pair=True)["z"].sel(layer=1, head=2)
    np.testing.assert_allclose(found["metric"].sel(set="one"), single, atol=1e-12)
    np.testing.assert_allclose(found["metric"].sel(set="none"), found["corrupted"], atol=1e-12)
    with pytest.raises(ValueError, match="'a3.h0' is no head or MLP"):
        instar.set_patching(tiny, batch, {"wrong": ["a3.h0"]})


def test_recomputed_mlps_carry_more_than_frozen_ones(tiny, batch):
    frozen, recomputed = (
        instar.path_patching(tiny, batch, ["input"], ["logits"], mlps=how)["change"] for how in ("frozen", "recomputed")
    )
    assert np.abs(frozen - recomputed).max() > 1e-3
    every = instar.path_patching(tiny, batch, ["input"], ["a0.h0", "a0.h1", "a0.h2", "a0.h3", "m0", "logits"])
    # Every reader of the input before anything is recomputed, and the logits: not the whole effect, but a real one.
    assert np.isfinite(every["change"]).all()
    with pytest.raises(ValueError, match="senders"):
        instar.path_patching(tiny, batch, ["a9.h0"], ["logits"])
    with pytest.raises(ValueError, match="receivers"):
        instar.path_patching(tiny, batch, ["input"], ["a9.h0"])


def test_curves_areas_and_the_smallest_faithful_circuit(embedded):
    batch = instar.ioi(2).batch(embedded, n=24, seed=1)
    scores = instar.edges(embedded, batch)
    found = curve(embedded, batch, scores, random=2)
    f, share = found["faithfulness"].values, found["share"].values
    assert f[-1] == pytest.approx(1, abs=1e-4) and found["edges"].values[-1] == scores.graph.n_edges
    area = float(np.sum((f[1:] + f[:-1]) / 2 * np.diff(share)))
    assert found.attrs["cpr"] == pytest.approx(area)
    assert found["random"].shape == (2, 10) and (found["random"].values[:, :6] < 0.5).all()
    circuit = scores.circuit(faithfulness=0.85)
    assert "smallest of the grid" in circuit.how and "the pairs that the scores are from" in circuit.how
    own = instar.faithfulness(embedded, batch, circuit)
    assert float(own["faithfulness"][0]) >= 0.85 and float(own["low"][0]) <= float(own["faithfulness"][0])
    assert 0.5 < scores.rank_correlation <= 1
    gaps = completeness(embedded, batch, circuit, random=3, groups={"mlps": ["m0", "m1"]})
    assert list(gaps["removed"].values) == ["random 0", "random 1", "random 2", "mlps"] and (gaps["gap"] >= 0).all()


def test_curves_of_several_rankings_are_each_one_by_itself(embedded):
    """What is shared is run once, and nothing is shared that differs: pooled, and each counterfactual's own pairs."""
    parts = {kind: instar.ioi(3).batch(embedded, n=6, seed=1, counterfactual=kind) for kind in ("giver1", "giver2")}
    both = tokenize([pair for part in parts.values() for pair in part.pairs], embedded.tokenizer)
    scores = {name: instar.edges(embedded, batch, "eap") for name, batch in {**parts, "both": both}.items()}
    ranked = {name: Ranked(scores[name], (name,), parts[name]) for name in parts}
    ranked["both"] = Ranked(scores["both"], tuple(parts), both)
    found = curves(embedded, parts, ranked, random=2)
    assert not np.isnan(found["giver2"]["faithfulness"][-1])
    for name, one in ranked.items():
        alone = curve(embedded, one.batch, one.edges, random=2)
        coarse = found[name].isel(size=np.isin(FINE, GRID))
        for variable, own in alone.items():
            mine = coarse[variable].transpose(*own.dims)
            np.testing.assert_allclose(mine, own, atol=2e-4, err_msg=f"{name}, {variable}")
        every = curve(embedded, one.batch, one.edges, random=0, shares=FINE)["faithfulness"].values
        own = found[name]["faithfulness"].values
        known = ~np.isnan(own)
        # More sizes are measured only where the smallest faithful one is looked for, and it is found where all would have it.
        assert not known.any() or len(GRID) < known.sum() <= len(GRID) + 4
        np.testing.assert_allclose(own[known], every[known], atol=2e-4)
        np.testing.assert_allclose(coarse["metric"].isel(size=-1), alone["clean"].values, atol=1e-4)


def test_where_nothing_is_mastered_there_is_no_circuit_and_no_ratio(embedded):
    batch = instar.ioi(2).batch(embedded, n=12, seed=0)
    # The model is right on what is called the corrupted prompt: b − c is far below 0.
    flipped = instar.Batch.from_tokens(batch.corrupted, batch.clean, batch.answer, batch.contrast[:, 0], batch.mask)
    scores = instar.edges(embedded, flipped, "eap")
    assert np.isnan(instar.faithfulness(embedded, flipped, scores.circuit(n=10))["faithfulness"]).all()
    assert np.isnan(instar.patching(embedded, flipped, ("z",))["z_ratio"]).all()
    with pytest.raises(ValueError, match="no circuit can be faithful"):
        scores.circuit(faithfulness=0.85)


def test_a_reference_checkpoint_gives_the_third_scale(embedded):
    batch = instar.ioi(2).batch(embedded, n=12, seed=0)
    large = instar.patching(embedded, batch, ("z",))
    own = instar.patching(embedded, batch, ("z",), reference=large)
    np.testing.assert_allclose(own["z_reference"], own["z_ratio"])
    np.testing.assert_allclose(own["z_ratio"], large["z_ratio"])
    # Against a reference with twenty times the effect, the own share says nothing and the reference's is a twentieth.
    huge = large.assign(clean=20 * large["clean"], corrupted=20 * large["corrupted"])
    small = instar.patching(embedded, batch, ("z",), reference=huge)
    assert np.isnan(small["z_ratio"]).all()
    np.testing.assert_allclose(small["z_reference"], large["z_ratio"] / 20, atol=1e-6)


def test_another_attribution_is_a_function(tiny, batch):
    def ones(engine, part, groups):
        shape = len(engine.blocks) * 5 + 1, len(engine.blocks) * 13 + 1
        return torch.ones(len(groups(part, 0)), *shape) * len(part)

    found = instar.edges(tiny, batch, ones)
    assert found.dataset.attrs["method"] == "ones" and found["a0.h0->m0"] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, b: instar.patching(m, b, ("zz",)), "sites: 'zz' is none of"),
        (lambda m, b: instar.patching(m, b, direction="up"), "direction: 'up' is none of"),
        (lambda m, b: instar.set_patching(m, b, {"a": ["a0.h0"]}, site="attn_out"), "site: 'attn_out'"),
        (lambda m, b: instar.path_patching(m, b, ["input"], ["m0"], direction="up"), "direction: 'up'"),
        (lambda m, b: instar.edges(m, b, "eap").circuit(threshold=0.1, selection="greedy"), "selection: 'greedy'"),
        (lambda m, b: instar.edges(m, b, "magic"), "method: 'magic'"),
        (lambda m, b: instar.edges(m, b, rule="right"), "rule: 'right'"),
        (lambda m, b: instar.edges(m, b, "exact", slots=True), "slots=True"),
        (lambda m, b: instar.edges(m, b, "eap").circuit(), "give one of n="),
        (lambda m, b: instar.edges(m, b, "eap").circuit(n=10**6), "between 0 and"),
        (lambda m, b: instar.edges(m, b, "eap").circuit(n=3, selection="best"), "selection: 'best'"),
        (lambda m, b: instar.faithfulness(m, b, instar.edges(m, b).circuit(n=3), ablation="none"), "ablation: 'none'"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tiny, batch, call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(tiny, batch)


def test_a_circuit_of_another_model_and_a_missing_site_are_refused(tiny, batch):
    other = load(families.tiny("phi"))
    small = prompts(families.VOCABULARY)
    circuit = instar.edges(other, small, "eap").circuit(n=3)
    with pytest.raises(ValueError, match="not of the same graph"):
        instar.faithfulness(tiny, batch, circuit)
    with pytest.raises(ValueError, match="there is no resid_mid"):
        instar.patching(other, small, ("resid_mid",))


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_in_memory_is_left_as_it_was(fails):
    module = families.tiny("gemma2", dtype=torch.bfloat16)
    model, small = load(module), prompts(families.VOCABULARY, n=3)
    module.train()
    module.model.layers[1].eval()
    module.model.layers[0].mlp.requires_grad_(False)
    before = [(m.training, dict(m.__dict__.get("_forward_hooks", {}))) for m in module.modules()]
    wanted = [(p.requires_grad, p.dtype, p.grad) for p in module.parameters()]
    implementation = module.config._attn_implementation
    if fails:
        with pytest.raises(ValueError, match="a prompt has 9 tokens and the model takes 4"):
            module.config.max_position_embeddings = 4
            instar.patching(model, small)
    else:
        instar.patching(model, small, per_pair=True)
        instar.faithfulness(model, small, instar.edges(model, small).circuit(n=20))
    assert [(m.training, dict(m.__dict__.get("_forward_hooks", {}))) for m in module.modules()] == before
    assert [(p.requires_grad, p.dtype, p.grad) for p in module.parameters()] == wanted
    assert module.config._attn_implementation == implementation
    assert all("forward" not in block.__dict__ for block in module.model.layers)
