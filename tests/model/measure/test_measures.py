"""Measurements against references that share no code with them: plain Hugging Face forwards, in float64."""

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


def test_permuting_pairs_permutes_results_and_nothing_else(tiny, batch):
    order = [3, 0, 4, 1, 2]
    shuffled = type(batch)(
        **{
            k: getattr(batch, k)[order]
            for k in ("clean", "corrupted", "mask", "end", "answer", "foils", "contrast", "slots")
        },
        slot_names=batch.slot_names,
    )
    for measure, name in ((lens, "logit_diff"), (evaluate, "probability"), (attribution, "heads")):
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
