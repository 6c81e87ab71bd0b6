"""The ledger in every family: what it books is the gain, and each part's is what a derivative by hand says."""

import copy
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import families
from instar.between.ledger import ledger, line, read
from instar.compare.booking import booked as of_a_ledger
from instar.measure.common import METRICS
from instar.models.load import load
from instar.models.organism import FOLDER
from instar.models.parts import apart, shares
from instar.tasks.library import ioi
from saved import adapter, tuned
from twins import named, noisy, prompts

# Families whose norms or rotations are in float32 whatever the model is in; a relu has corners.
MISSED = {"gpt2": 1e-8, "opt": 1e-2, "gpt2.scaled": 1e-2}


def pair(row, size=0.02, **more):
    base = families.tiny(row, **more)
    return named(base, "base"), named(noisy(base, size), "tuned")


def booked(found, metric="choosing"):
    """Means over the prompts, by part."""
    own = found["booked"].sel(metric=metric)
    own = own.sum("interval") if "interval" in own.dims else own
    return own.weighted(found["prompts"]).mean("block")


def partly(base, tuned, chosen):
    """The base with the tuned model's parameters whose name holds a word."""
    module = copy.deepcopy(base.module)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if chosen in name:
                value.copy_(tuned.module.get_parameter(name))
    return named(module, "partly")


@pytest.mark.parametrize("row", families.ROWS)
def test_the_bookings_are_the_gain_in_every_family(row):
    base, tuned = pair(row)
    before = {k: v.clone() for k, v in base.module.state_dict().items()}
    found = ledger([base, tuned], prompts(), METRICS)
    gain = (found["after"] - found["before"]).isel(interval=0)
    missed = float(np.abs(found["booked"].isel(interval=0).sum("part") - gain).max())
    assert float(np.abs(gain).min()) > 1e-4 and missed < MISSED.get(row, 1e-5)
    assert all(torch.equal(v, before[k]) for k, v in base.module.state_dict().items())
    values = {name: read(tuned, prompts(), METRICS)[name] - read(base, prompts(), METRICS)[name] for name in METRICS}
    np.testing.assert_allclose(gain.mean("block"), [values[name] for name in METRICS], atol=1e-6)


@pytest.mark.parametrize("row", families.ROWS)
def test_every_number_is_in_one_part_and_the_copy_computes_what_the_model_does(row):
    module = families.tiny(row)
    made = apart(named(module, "m").layout)
    for name, own in shares(made.layout).items():
        value = made.layout.module.get_parameter(name)
        count = torch.zeros(value.shape)
        for share in own:
            assert len(share.parts) == len(share.cut(count))
            share.cut(count).add_(1)
        assert bool((count == 1).all()), name
    ids = families.tokens(2, 7)
    with torch.no_grad():
        torch.testing.assert_close(made.layout.module(ids).logits, module(ids).logits, rtol=1e-5, atol=1e-5)


WHERE = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "self_attn.o_proj": "o",
    "self_attn.dense.weight": "o",
    "gate_proj": "mlp gate",
    "up_proj": "mlp in",
    "down_proj": "mlp out",
    "fc1": "mlp in",
    "fc2": "mlp out",
    "norm": "norm",
    "lm_head": "unembedding",
}


@pytest.mark.parametrize("row", ["llama", "qwen2", "gemma2", "phi", "opt"])
def test_a_change_of_one_matrix_is_booked_on_its_kind_alone(row):
    base, tuned = pair(row)
    seen = 0
    for word, kind in WHERE.items():
        changed = partly(base, tuned, word)
        if not any(word in name for name, _ in changed.module.named_parameters()):
            continue
        found = booked(ledger([base, changed], prompts(), "logit_diff"), "logit_diff")
        own = found["kind"] == kind
        assert float(abs(found.where(~own)).sum()) == 0 and float(abs(found.where(own)).sum()) > 1e-6, word
        seen += 1
    assert seen >= 5


def test_heads_that_share_keys_and_values_are_booked_as_if_each_had_its_own():
    """The twin has four key-value heads, two by two the same: grouped queries written out by hand."""
    base, tuned = pair("llama")
    twins = []
    for model in (base, tuned):
        twin, state = families.tiny("llama", num_key_value_heads=4), model.module.state_dict()
        for name in state:
            if "k_proj" in name or "v_proj" in name:
                state[name] = torch.cat([state[name][i // 2 * 8 : i // 2 * 8 + 8] for i in range(4)])
        twin.load_state_dict(state)
        twins.append(named(twin, model.name))
    grouped, single = (booked(ledger(both, prompts())) for both in ((base, tuned), twins))
    np.testing.assert_array_equal(grouped["part"], single["part"])
    np.testing.assert_allclose(grouped, single, atol=1e-7)
    keys = grouped.where(grouped["kind"] == "k", drop=True)
    assert len(keys) == 8 and float(abs(keys).min()) > 1e-7


def test_a_gradient_by_hand_at_a_small_change():
    """For a change near 0 a booking is the gradient times the change, of the model's own parameters."""
    base, tuned = pair("gpt2", size=1e-6)
    batch, module = prompts(), copy.deepcopy(base.module)
    total = 0.0
    for i in range(len(batch)):
        logits = module(batch.clean[i : i + 1, : int(batch.end[i]) + 1]).logits[0, -1]
        foils = logits[batch.foils[i]].mean()
        total = total + (logits[batch.answer[i]] - foils) / len(batch)
    total.backward()
    found = booked(ledger([base, tuned], batch, "logit_diff"), "logit_diff")
    for name, kind in (("h.0.mlp.c_fc", "mlp in"), ("h.0.mlp.c_proj", "mlp out")):
        by_hand = sum(
            float((value.grad * (tuned.module.get_parameter(own) - value)).detach().sum())
            for own, value in module.named_parameters()
            if name in own
        )
        mine = float(found.where((found["kind"] == kind) & (found["layer"] == 0), drop=True).sum())
        assert mine == pytest.approx(by_hand, rel=1e-4)
    # One matrix at both ends of the model: its two bookings add up to the gradient of the one.
    value = module.get_parameter("transformer.wte.weight")
    ends = found.where(found["kind"].isin(["token", "unembedding"]), drop=True)
    by_hand = float((value.grad * (tuned.module.get_parameter("transformer.wte.weight") - value)).detach().sum())
    assert len(ends) == 2 and float(ends.sum()) == pytest.approx(by_hand, rel=1e-4)


def test_a_change_in_the_unembedding_alone_has_a_closed_form():
    """With the stream as it is, the logit difference is linear in the unembedding: one booking, exact with one node."""
    base, tuned = pair("llama")
    changed, batch = partly(base, tuned, "lm_head"), prompts()
    found = ledger([base, changed], batch, "logit_diff", nodes=1)
    with torch.no_grad():
        hidden = base.module.model(batch.clean, attention_mask=batch.mask.long()).last_hidden_state
        delta = changed.module.lm_head.weight - base.module.lm_head.weight
        rows = hidden[torch.arange(len(batch)), batch.end]
        expected = (rows * (delta[batch.answer] - delta[batch.foils].mean(1))).sum(1)
    own = found["booked"].isel(interval=0, metric=0).sel(part="unembedding")
    np.testing.assert_allclose(own, expected, atol=1e-6)


def test_two_halves_of_a_line_are_the_line_and_a_poor_interval_gets_more_nodes_or_is_cut(monkeypatch):
    base, tuned = pair("gpt2", size=0.1)
    middle = copy.deepcopy(base.module)
    with torch.no_grad():
        for name, value in middle.named_parameters():
            value.copy_((value + tuned.module.get_parameter(name)) / 2)
    whole = ledger([base, tuned], prompts(), nodes=24)
    halves = ledger([base, named(middle, "middle"), tuned], prompts(), nodes=24)
    np.testing.assert_allclose(booked(whole), booked(halves), atol=1e-6)
    refined = line(base, tuned, prompts(), ["choosing"], nodes=1, gain={"choosing": 1e-3})
    assert int(refined["pieces"][0]) == 1 and abs(float(refined["residual"][0])) <= float(refined["allowed"][0])
    monkeypatch.setattr("instar.between.ledger.MANY_NODES", 1)
    cut = line(base, tuned, prompts(), ["choosing"], nodes=1, gain={"choosing": 1e-3})
    assert int(cut["pieces"][0]) > 1
    assert abs(float(cut["residual"][0])) <= float(cut["allowed"][0]) or int(cut["pieces"][0]) == 16


def test_a_fused_input_of_an_mlp_is_gate_first_and_input_second():
    """As the family's own MLP takes it apart (transformers' Phi3MLP: the gate is the first half)."""
    base = families.tiny("phi3")
    module = copy.deepcopy(base)
    with torch.no_grad():
        weight = module.model.layers[1].mlp.gate_up_proj.weight
        weight[: len(weight) // 2] *= 1.2
    found = booked(ledger([named(base, "base"), named(module, "gate")], prompts(), nodes=2))
    gate = found.sel(part="m1.gate")
    assert float(abs(gate).max()) > 0 and float(abs(found.drop_sel(part="m1.gate")).max()) == 0


def test_what_does_not_change_is_booked_nothing_and_prompts_count_once():
    base, tuned = pair("gpt2")
    same = ledger([base, base], prompts())
    assert float(abs(same["booked"]).max()) == 0
    changed = partly(base, tuned, "h.1.attn.c_attn")
    found = booked(ledger([base, changed], prompts()))
    inside = (found["layer"] == 1) & found["kind"].isin(["q", "k", "v"])
    assert float(abs(found.where(~inside, drop=True)).max()) == 0 < float(abs(found.where(inside, drop=True)).min())
    batch = prompts()
    twice = ledger([base, tuned], batch[np.array([0, 1, 1, 2, 0])])
    np.testing.assert_allclose(booked(twice), booked(ledger([base, tuned], batch)), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: ledger([a], prompts()), "needs what was before"),
        (lambda a, b: ledger([a, b], prompts(), "accuracy"), "accuracy.* is none of choosing"),
        (lambda a, b: ledger([a, named(families.tiny("llama"), "llama")], prompts()), "not of one shape"),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(*pair("gpt2"))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A base, an adapter on it, and two more in which only one of its factors moved on."""
    folder = tmp_path_factory.mktemp("adapters")
    tuned().save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(FOLDER).save_pretrained(folder / "base")
    adapter(folder / "first", target_modules=["c_attn", "c_fc"], use_rslora=True)
    for factor in "AB":
        shutil.copytree(folder / "first", folder / factor)
        file = folder / factor / "adapter_model.safetensors"
        tensors = load_file(file)
        torch.manual_seed(5)
        moved = {k: v + 0.02 * torch.randn_like(v) if f"lora_{factor}" in k else v for k, v in tensors.items()}
        save_file(moved, file)
    base = load(folder / "base")
    return base, {name: load(folder / name, like=base) for name in ("first", "A", "B")}


def test_of_an_adapter_each_factor_has_its_share_of_every_booking(adapters):
    base, own = adapters
    batch = ioi(3).batch(base, 6, 3)
    for start, end in ((base, own["first"]), (own["first"], own["A"]), (own["A"], own["B"])):
        found = line(start, end, batch, ("choosing",), nodes=8, blocks=2)
        there = ~np.isnan(found["by_factor"].values).any((0, 1, 2))
        parts = found.isel(part=np.flatnonzero(there))
        assert {str(k) for k in parts["kind"].values} == {"q", "k", "v", "mlp in"}
        np.testing.assert_allclose(parts["by_factor"].sum("factor"), parts["booked"], atol=2e-6)
        assert float(np.abs(found["booked"].drop_sel(part=parts["part"].values)).max()) == 0


def test_what_one_factor_did_is_booked_on_it(adapters):
    base, own = adapters
    batch = ioi(3).batch(base, 6, 3)
    # Before there was an adapter its B was 0.
    for start, end, all_of_it in (
        (base, own["first"], "B"),
        (own["first"], own["A"], "A"),
        (own["first"], own["B"], "B"),
    ):
        found = line(start, end, batch, ("choosing",), nodes=8, blocks=2)
        other = "A" if all_of_it == "B" else "B"
        assert float(np.abs(found["by_factor"].sel(factor=other)).max()) == 0
        assert float(np.abs(found["by_factor"].sel(factor=all_of_it)).max()) > 1e-3


def test_a_series_of_adapters_is_read_by_factor(adapters):
    base, own = adapters
    whole = ledger([base, own["first"], own["A"]], ioi(3).batch(base, 6, 3), "choosing", nodes=8, blocks=2)
    found, gain = of_a_ledger(whole, "factor"), of_a_ledger(whole, "kind")
    assert found["group"].values.tolist() == ["adapters' A", "adapters' B", "no adapter"]
    np.testing.assert_allclose(found["booked"].sum(), gain["booked"].sum(), atol=1e-6)
    assert float(found["booked"][2]) == 0 and abs(float(found["booked"][0])) > 1e-4
    intervals = of_a_ledger(whole, "factor", over_time=True)["booked"]
    assert float(intervals.isel(interval=0, group=0)) == 0 and float(intervals.isel(interval=1, group=1)) == 0


def test_without_an_adapter_there_are_no_factors():
    base, tuned = pair("gpt2")
    found = ledger([base, tuned], prompts(), nodes=2)
    assert "by_factor" not in found
    with pytest.raises(ValueError, match="low-rank"):
        of_a_ledger(found, "factor")
