"""Measurements against references that share no code with them: plain Hugging Face forwards, in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import random_batch, tiny_gpt2
from instar.between.drift import drift
from instar.measure.attention import attention
from instar.measure.direct_attribution import attribution
from instar.measure.evaluate import SAID, evaluate
from instar.measure.lens import lens
from instar.models.load import load
from instar.tasks.library import TASKS


def reference(model, batch):
    """Residual streams of every half layer at the last token, one prompt at a time, and the answer's directions."""
    core, rows = model.transformer, []
    for tokens, end in zip(batch.clean, batch.end, strict=True):
        tokens = tokens[None, : int(end) + 1]
        x = core.wte(tokens) + core.wpe(torch.arange(tokens.shape[1]))
        halves = []
        for block in core.h:
            halves.append(x[0, -1])
            x = x + block.attn(block.ln_1(x))[0]
            halves.append(x[0, -1])
            x = x + block.mlp(block.ln_2(x))
        rows.append(torch.stack([*halves, x[0, -1]]))
    streams = torch.stack(rows)
    unembed = model.lm_head.weight
    return streams, unembed[batch.answer] - unembed[batch.foils].mean(1)


@pytest.fixture
def batch():
    return random_batch()


def test_lens_norms_every_stage_anew(tiny, batch):
    model = tiny.module
    streams, direction = reference(model, batch)
    expected = torch.einsum("psd,pd->ps", model.transformer.ln_f(streams), direction)
    found = lens(tiny, batch, chunk=2)
    np.testing.assert_allclose(found["logit_diff"].values, expected.detach().numpy(), rtol=1e-9, atol=1e-9)
    assert list(found["stage"].values)[:3] == ["0_pre", "0_mid", "1_pre"]
    assert found["stage"].values[-1] == "final"


def test_attribution_is_linear_in_what_each_component_wrote(tiny, batch):
    model = tiny.module
    streams, direction = reference(model, batch)
    norm, final = model.transformer.ln_f, streams[:, -1]
    scale = (final.var(1, unbiased=False, keepdim=True) + norm.eps).sqrt()

    def read(x):
        centred = x - x.mean(-1, keepdim=True)
        return ((centred / scale * norm.weight) * direction).sum(-1).detach().numpy()

    found = attribution(tiny, batch, chunk=3)
    for layer in range(3):
        wrote = streams[:, 2 * layer + 1] - streams[:, 2 * layer]
        ours = found["heads"].isel(layer=layer).sum("head") + found["attn_bias"].isel(layer=layer)
        np.testing.assert_allclose(ours.values, read(wrote), rtol=1e-8, atol=1e-9)
        wrote = streams[:, 2 * layer + 2] - streams[:, 2 * layer + 1]
        np.testing.assert_allclose(found["mlp"].isel(layer=layer).values, read(wrote), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found["embed"].sum("embedding").values, read(streams[:, 0]), rtol=1e-8, atol=1e-9)
    terms = sum(
        found[name].sum([d for d in found[name].dims if d != "pair"])
        for name in ("heads", "attn_bias", "mlp", "embed", "bias")
    )
    np.testing.assert_allclose(terms.values, found["total"].values, rtol=1e-9, atol=1e-9)


def test_one_head_equals_its_own_ablation_in_the_linear_part(tiny, batch):
    """Removing a head from the final residual, norm frozen, loses exactly its attribution."""
    model = tiny.module
    streams, direction = reference(model, batch)
    final, norm = streams[:, -1], model.transformer.ln_f
    scale = (final.var(1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    inputs = {}
    projection = model.transformer.h[1].attn.c_proj
    hook = projection.register_forward_pre_hook(lambda m, x: inputs.setdefault("z", []).append(x[0]))
    for tokens, end in zip(batch.clean, batch.end, strict=True):
        model(tokens[None, : int(end) + 1])
    hook.remove()
    z = torch.stack([x[0, -1] for x in inputs["z"]])[:, 16:24]
    wrote = z @ model.transformer.h[1].attn.c_proj.weight[16:24]
    without = ((final - wrote) - (final - wrote).mean(1, keepdim=True)) / scale * norm.weight
    whole = (final - final.mean(1, keepdim=True)) / scale * norm.weight
    lost = ((whole - without) * direction).sum(1).detach().numpy()
    np.testing.assert_allclose(
        attribution(tiny, batch)["heads"].sel(layer=1, head=2).values, lost, rtol=1e-8, atol=1e-9
    )


def test_evaluate_against_plain_logits(tiny, batch):
    found = evaluate(tiny, batch, chunk=2)
    for i in range(len(batch)):
        logits = tiny.module(batch.clean[i : i + 1, : int(batch.end[i]) + 1]).logits[0, -1].detach()
        answer, foils = logits[batch.answer[i]], logits[batch.foils[i]]
        assert found["accuracy"].values[i] == int(logits.argmax() == batch.answer[i])
        assert found["choice"].values[i] == int((answer > foils).all())
        assert found["logit_diff"].values[i] == pytest.approx(float(answer - foils.mean()), rel=1e-9)
        assert found["probability"].values[i] == pytest.approx(float(logits.softmax(0)[batch.answer[i]]), rel=1e-9)


def test_naming_and_choosing_are_log_p_of_the_answer_apart(tiny, batch):
    """Against plain logits in float64, a prompt at a time. A foil that stands twice counts once, and padding never."""
    foils = torch.cat([batch.foils, batch.foils[:, :1], torch.full((len(batch), 1), -1)], 1)
    found = evaluate(tiny, replace(batch, foils=foils), chunk=2)
    for i in range(len(batch)):
        p = tiny.module(batch.clean[i : i + 1, : int(batch.end[i]) + 1]).logits[0, -1].detach().double().softmax(0)
        candidates = [int(batch.answer[i]), *{int(f) for f in batch.foils[i] if f >= 0}]
        naming, answer = float(p[candidates].sum().log()), float(p[batch.answer[i]].log())
        assert found["naming"].values[i] == pytest.approx(naming, abs=1e-12)
        assert found["choosing"].values[i] == pytest.approx(answer - naming, abs=1e-12)
        assert found["named"].values[i] == int(int(p.argmax()) in candidates)
    np.testing.assert_allclose(found["naming"] + found["choosing"], found["log_probability"], rtol=0, atol=1e-12)
    both = found["named"].values * evaluate(tiny, batch)["choice"].values
    np.testing.assert_array_equal(found["accuracy"].values, both)
    assert found["naming"].dtype == np.float64 and found.attrs["choosing_undefined"] == 0


def test_naming_and_choosing_of_hand_set_logits(tiny, batch, monkeypatch):
    """Closed form, and logits that a plain softmax in float32 would lose; one candidate is nothing to choose from."""
    from instar.measure import evaluate as module

    logits = torch.full((len(batch), 101), -200.0, dtype=torch.float64)
    rows = torch.arange(len(batch))
    other = [
        next(t for t in range(101) if t not in (int(a), int(f)))
        for a, f in zip(batch.answer, batch.foils[:, 0], strict=True)
    ]
    for ids, odds in ((batch.answer, 3.0), (batch.foils[:, 0], 1.0), (torch.tensor(other), 4.0)):
        logits[rows, ids] = math.log(odds)
    monkeypatch.setattr(module, "clean_logits", lambda layout, part: logits[: len(part)])
    alone = replace(batch, foils=batch.foils[:, :1])
    found = evaluate(tiny, alone)
    np.testing.assert_allclose(found["naming"], math.log(4 / 8), atol=1e-12)
    np.testing.assert_allclose(found["choosing"], math.log(3 / 4), atol=1e-12)
    assert found["named"].sum() == 0 and found["choice"].all()
    logits -= 1000.0
    logits[rows, batch.answer] = -1e4
    deep = evaluate(tiny, alone)
    assert np.isfinite(deep["choosing"]).all() and (deep["choosing"] < -8000).all() and (deep["naming"] <= 0).all()
    one = evaluate(tiny, replace(batch, foils=torch.full_like(batch.foils[:, :1], -1)))
    assert one["choosing"].isnull().all() and one.attrs["choosing_undefined"] == len(batch)
    np.testing.assert_allclose(one["naming"], one["log_probability"], atol=1e-12)


@pytest.mark.parametrize("name", [*TASKS])
def test_the_candidates_of_the_librarys_tasks_are_the_introduced_names(name, embedded):
    """Whoever a prompt introduces (the slots say it), and nobody else: `room2_noise` has a third who only goes out."""
    introduces = ("intro", "in", "holder", "to", "buyer")
    for pair in TASKS[name].pairs(12, 5):
        slots = {s.slot.rstrip("0123456789"): [] for s in pair.spans}
        for s in pair.spans:
            slots[s.slot.rstrip("0123456789")].append(pair.clean[s.start : s.stop])
        assert {w for slot in introduces for w in slots.get(slot, [])} == {pair.answer, *pair.foils}


def test_permuting_pairs_permutes_results_and_nothing_else(tiny, batch):
    order = [3, 0, 4, 1, 2]
    shuffled = type(batch)(
        **{
            k: getattr(batch, k)[order]
            for k in ("clean", "corrupted", "mask", "end", "answer", "foils", "contrast", "slots")
        },
        slot_names=batch.slot_names,
    )
    for measure, name in (
        (lens, "logit_diff"),
        (evaluate, "probability"),
        (evaluate, "naming"),
        (attribution, "heads"),
    ):
        a, b = measure(tiny, batch, chunk=2)[name].values[order], measure(tiny, shuffled, chunk=2)[name].values
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_padded_foils_do_not_count(tiny, batch):
    wider = torch.cat([batch.foils, torch.full((len(batch), 1), -1)], 1)
    from dataclasses import replace

    for measure, name in ((lens, "logit_diff"), (evaluate, "logit_diff"), (attribution, "total")):
        a, b = measure(tiny, batch)[name].values, measure(tiny, replace(batch, foils=wider))[name].values
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_attention_by_slot_is_the_patterns_sum_and_mean(tiny, batch):
    found = attention(tiny, batch, examples=2, chunk=2)
    tiny.module.config._attn_implementation = "eager"
    total, count = 0.0, 0
    for i in range(len(batch)):
        end = int(batch.end[i])
        patterns = tiny.module(batch.clean[i : i + 1, : end + 1], output_attentions=True).attentions
        changed = batch.slots[i, : end + 1] == 1
        expected = torch.stack([p[0, :, end][:, changed].sum(-1) for p in patterns]).detach()
        np.testing.assert_allclose(found["from_end"].sel(key_slot="changed").values[i], expected, rtol=1e-9)
        total, count = total + expected, count + 1
    ours = found["by_slot"].sel(query_slot="end", key_slot="changed").values
    np.testing.assert_allclose(ours, total / count, rtol=1e-6)
    np.testing.assert_allclose(found["by_slot"].sum("key_slot").values, 1, rtol=1e-6)


def test_said_sorts_the_top_token(embedded):
    import instar

    batch = instar.ioi(3).batch(embedded, n=60, seed=3)
    found = evaluate(embedded, batch)
    for i, pair in enumerate(batch.pairs):
        with torch.no_grad():
            logits = embedded.module(batch.clean[i : i + 1, : int(batch.end[i]) + 1]).logits[0, -1]
        word = embedded.tokenizer.decode([int(logits.argmax())]).strip()
        givers = {s.slot: pair.clean[s.start : s.stop] for s in pair.spans if s.slot.startswith("giver")}
        said = SAID[int(found["said"][i])]
        if word == pair.answer:
            assert said == "answer"
        elif word in givers.values():
            assert givers[said.replace(" ", "")] == word
        else:
            assert said in ("another name", "no name", "end of text")


def test_drift_is_zero_to_itself_and_a_known_number_otherwise():
    base, tuned = load(tiny_gpt2()), load(tiny_gpt2())
    with torch.no_grad():
        tuned.module.transformer.h[2].mlp.c_fc.weight[0, 0] += 3.0
    tokens = torch.randint(1, 101, (4, 10), generator=torch.Generator().manual_seed(0))
    still = drift(base, base, tokens)
    assert float(abs(still["kl"]).max()) == 0 and float(still["weight_change"].max()) == 0
    moved = drift(base, tuned, tokens)
    assert float(moved["weight_change"].sel(component="layer 2 mlp")) == pytest.approx(3.0, rel=1e-6)
    assert float(moved["weight_change"].sum()) == pytest.approx(3.0, rel=1e-6)
    p, q = (m.module(tokens).logits.double().log_softmax(-1) for m in (base, tuned))
    expected = (p.exp() * (p - q)).sum(-1).mean(1).detach()
    np.testing.assert_allclose(moved["kl"].values, expected, rtol=1e-3, atol=1e-6)
    assert float(moved["kl"].mean()) > 0
