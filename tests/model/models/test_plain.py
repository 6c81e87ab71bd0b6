"""A model in memory is seen whole by every function, or refused by every function with one sentence."""

import copy
import inspect
import json
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from peft import LoraConfig, get_peft_model
from tokenizers.processors import TemplateProcessing
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForSequenceClassification,
    LlamaModel,
)
from transformers.models.llama import modeling_llama

import families
import instar
from conftest import random_batch, tiny_gpt2
from instar.between.reuse import Draws
from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.models.load import Model, fingerprint, load
from instar.models.organism import FOLDER
from instar.models.taps import record

HEADS = ["a0.h1", "a1.h0"]


def whole(model):
    return Circuit(Graph.of(model.layout), tuple(Graph.of(model.layout).names(Graph.of(model.layout).exists)[::3]))


# Every public function that measures a model, by name.
MEASURE = {
    "attention": lambda m, b: instar.attention(m, b),
    "attribution": lambda m, b: instar.attribution(m, b),
    "completeness": lambda m, b: instar.completeness(m, b, whole(m), random=2),
    "curve": lambda m, b: instar.curve(m, b, instar.edges(m, b, "eap"), shares=(0.1, 1.0)),
    "edges": lambda m, b: instar.edges(m, b, "eap-ig", steps=2).dataset,
    "evaluate": lambda m, b: instar.evaluate(m, b),
    "exchange": lambda m, b: instar.exchange(m, m, b, {"one": HEADS}),
    "faithfulness": lambda m, b: instar.faithfulness(m, b, whole(m)),
    "graft": lambda m, b: instar.graft(m, m, b, {"one": HEADS}),
    "interpolate": lambda m, b: instar.interpolate(m, m, b, {"one": HEADS}, shares=(0.5,)),
    "lens": lambda m, b: instar.lens(m, b),
    "minimality": lambda m, b: instar.minimality(m, b, whole(m), random=2, limit=3),
    "patching": lambda m, b: instar.patching(m, b, ("z", "resid_pre"), method="attribution"),
    "path_patching": lambda m, b: instar.path_patching(m, b, HEADS[:1], ["logits"]),
    "residual_learning": lambda m, b: instar.residual_learning(m, m, b),
    "reuse": lambda m, b: instar.reuse(m, m, b, random_batch(pairs=12), draws=Draws(2, 2, 2), method="eap"),
    "roles": lambda m, b: instar.roles(m, {"corrupted": b}, repeats=4),
    "set_patching": lambda m, b: instar.set_patching(m, b, {"one": HEADS}),
    "shapley": lambda m, b: instar.shapley(m, m, b, HEADS),
}


@pytest.fixture(scope="module")
def batch():
    return random_batch()


@pytest.fixture(scope="module")
def single():
    return load(tiny_gpt2())


def same(a: xr.Dataset, b: xr.Dataset) -> None:
    xr.testing.assert_identical(a.drop_attrs(), b.drop_attrs())


def test_the_table_has_every_public_function_that_takes_a_model():
    public = {name: getattr(instar, name) for name in instar.__all__}
    functions = {name: value for name, value in public.items() if not isinstance(value, type)}
    signatures = {name: inspect.signature(f).parameters.values() for name, f in functions.items() if callable(f)}
    takes = {name for name, given in signatures.items() if Model in [own.annotation for own in given]}
    assert takes == {*MEASURE}


@pytest.mark.parametrize("name", MEASURE)
def test_a_result_does_not_depend_on_the_callers_modes(name, single, batch):
    expected = MEASURE[name](single, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same(MEASURE[name](single, batch), expected)
        assert torch.is_autocast_enabled("cpu")
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            same(MEASURE[name](single, random_batch()), expected)
            assert not torch.is_grad_enabled()


@pytest.mark.parametrize("name", MEASURE)
def test_a_result_can_be_saved_as_it_is(name, single, batch, tmp_path):
    result = MEASURE[name](single, batch)
    result.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "x.nc", engine="h5netcdf") as read:
        same(read.load(), result)
        # As text, in which one NaN equals another; a list comes back as an array.
        assert {k: str(list(np.atleast_1d(v))) for k, v in read.attrs.items()} == {
            k: str(list(np.atleast_1d(v))) for k, v in result.attrs.items()
        }


def hooked(model):
    return model.transformer.h[1].register_forward_hook(lambda module, inputs, output: output)


def adapted(model):
    get_peft_model(model, LoraConfig(target_modules=["c_attn"], r=2, fan_in_fan_out=True))


def steering(model):
    return model.transformer.h[0].mlp.act.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))


def backwards(model):
    return model.transformer.ln_f.register_full_backward_hook(lambda module, grad_in, grad_out: None)


def own_forward(model):
    model.transformer.h[0].mlp.forward = lambda x: 0 * x


def quantised(model):
    class Packed(type(model.transformer.h[0].attn.c_proj)):
        pass

    model.transformer.h[0].attn.c_proj.__class__ = Packed


def compiled(model):
    model.transformer.h[0] = torch.compile(model.transformer.h[0], backend="eager")


def compiled_in_place(model):
    model.transformer.h[0].compile(backend="eager")


def replaced(model):
    model.transformer.h[1] = copy.deepcopy(model.transformer.h[1])


def offloaded(model):
    model.transformer.h[0].mlp.c_fc.to("meta")


def shells(model):
    model.transformer.h[0].mlp.c_fc.weight = torch.nn.Parameter(torch.empty(0))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (hooked, r"transformer\.h\.1 has a hook \(hooked.*remove it"),
        (steering, r"transformer\.h\.0\.mlp\.act has a hook"),
        (backwards, r"ln_f has a hook"),
        (adapted, r"c_attn.* is an adapter of peft .*merge_and_unload"),
        (own_forward, r"h\.0\.mlp has had its forward method replaced"),
        (quantised, r"h\.0\.attn\.c_proj is a .*Packed, and instar reads the weights"),
        (compiled, r"h\.0 is compiled"),
        (compiled_in_place, r"h\.0 is compiled"),
        (replaced, r"blocks are other ones than when it was loaded"),
        (offloaded, r"c_fc.weight has no values in memory"),
        (shells, r"c_fc.weight has no values: sharded training"),
    ],
)
def test_what_is_not_plain_is_refused_by_every_function_also_after_loading(spoil, said, batch):
    module = tiny_gpt2()
    model = load(module)
    spoil(module)
    for measure in MEASURE.values():
        with pytest.raises(ValueError, match=said):
            measure(model, batch)
    if spoil is not replaced:
        with pytest.raises(ValueError, match=said):
            load(module)


@pytest.mark.parametrize("where", ["LlamaAttention.forward", "apply_rotary_pos_emb", "attention", "is_causal"])
def test_what_a_model_is_computed_by_may_not_change_after_loading(where, monkeypatch):
    module = families.tiny("llama")
    model, tokens = load(module), batch_of(families.tokens(3, 8))
    expected = instar.evaluate(model, tokens)
    before = module.config._attn_implementation
    if where == "LlamaAttention.forward":
        own = modeling_llama.LlamaAttention.forward
        monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", lambda *a, **k: own(*a, **k))
    elif where == "apply_rotary_pos_emb":
        monkeypatch.setattr(modeling_llama, where, lambda q, k, *rest, **how: (q, k))
    elif where == "attention":
        AttentionInterface.register("mine", lambda *a, **k: modeling_llama.eager_attention_forward(*a, **k))
        module.set_attn_implementation("mine")
    else:
        module.model.layers[0].self_attn.is_causal = False
    for measure in (instar.evaluate, instar.lens, instar.patching):
        with pytest.raises(ValueError, match="is not what it was when it was loaded"):
            measure(model, tokens)
    monkeypatch.undo()
    module.set_attn_implementation(before)
    module.model.layers[0].self_attn.is_causal = True
    same(instar.evaluate(model, tokens), expected)


def test_an_attention_function_of_ones_own_is_asked_at_load():
    module = families.tiny("llama")

    def doubled(part, query, *rest, **how):
        return modeling_llama.eager_attention_forward(part, 2 * query, *rest, **how)

    AttentionInterface.register("doubled", doubled)
    module.set_attn_implementation("doubled")
    with pytest.raises(ValueError, match="its attention function 'doubled' gives other logits than eager attention"):
        load(module)


def test_a_norm_that_is_no_plain_norm_is_refused():
    module = families.tiny("llama")

    class Twice(type(module.model.norm)):
        def forward(self, x):
            return 2 * super().forward(x)

    module.model.layers[1].input_layernorm.__class__ = Twice
    with pytest.raises(ValueError, match="a norm is not what its weights say"):
        load(module)


def test_results_name_the_weights_that_they_are_of(batch):
    model = load(tiny_gpt2())
    assert instar.evaluate(model, batch).attrs["weights"] == model.weights
    with torch.no_grad():
        model.module.transformer.h[0].mlp.c_fc.weight.mul_(2)
    changed = instar.evaluate(model, batch).attrs["weights"]
    assert changed == fingerprint(model.module) != model.weights


def test_a_hook_on_every_module_is_refused(single, batch):
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output)
    try:
        for measure in MEASURE.values():
            with pytest.raises(ValueError, match="a hook is registered for all modules"):
                measure(single, batch)
    finally:
        handle.remove()


def test_hooks_that_are_taken_away_again_leave_the_model_measurable(batch):
    model = load(tiny_gpt2())
    expected = instar.evaluate(model, batch)
    hooked(model.module).remove()
    same(instar.evaluate(model, batch), expected)


def test_the_hooks_of_transformers_own_outputs_are_no_ones(batch):
    module = families.tiny("llama")
    expected = instar.evaluate(load(module), batch_of(families.tokens(3, 8)))
    module(families.tokens(2, 5), output_hidden_states=True, output_attentions=True)
    same(instar.evaluate(load(module), batch_of(families.tokens(3, 8))), expected)


def batch_of(tokens):
    corrupted = tokens.clone()
    corrupted[:, 2] = 3 + (tokens[:, 2] + 5) % 90
    return instar.Batch.from_tokens(tokens, corrupted, torch.arange(len(tokens)) + 5, torch.arange(len(tokens)) + 50)


def test_wrappers_of_several_devices_and_of_compiling_are_looked_through(batch):
    module = tiny_gpt2()
    expected = instar.evaluate(load(module), batch)
    for wrapped in (torch.nn.DataParallel(module), torch.compile(module, backend="eager")):
        loaded = load(wrapped)
        assert loaded.module is module
        same(instar.evaluate(loaded, batch), expected)


def test_what_is_no_language_model_is_named():
    config = families.tiny("llama").config
    for kind, said in (
        (LlamaModel(config), "LlamaModel has no lm_head"),
        (LlamaForSequenceClassification(config), "LlamaForSequenceClassification has no lm_head"),
        (torch.nn.Linear(2, 2), "Linear is not a transformers model"),
    ):
        with pytest.raises(ValueError, match=said):
            load(kind)


def test_nothing_of_the_users_own_model_is_changed_rows_included(embedded):
    module, tokenizer = AutoModelForCausalLM.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    module.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    before, rows = fingerprint(module), module.config.vocab_size
    for like in (None, embedded):
        model = load(module, tokenizer, like=like)
        values = instar.evaluate(model, instar.ioi(2).batch(model, n=4))["logit_diff"]
        own = instar.evaluate(embedded, instar.ioi(2).batch(embedded, n=4))["logit_diff"]
        np.testing.assert_allclose(values, own, rtol=1e-5)
        assert fingerprint(module) == before and module.config.vocab_size == rows
        assert module.get_input_embeddings().weight.shape[0] == rows


def test_ids_beyond_the_vocabulary_are_named(single):
    wide = random_batch()
    for field, said in (("clean", "clean has token id 101"), ("foils", "foils has token id 101")):
        tokens = getattr(wide, field).clone()
        tokens[1, 0] = 101
        with pytest.raises(ValueError, match=f"{said} and the model has 101 rows"):
            instar.patching(single, replace(wide, **{field: tokens}), ("z",))


def test_a_model_without_a_tokenizer_says_so(single):
    with pytest.raises(ValueError, match="came without a tokenizer: instar.load"):
        instar.ioi(2).batch(single)


def test_a_tokenizer_may_be_given_by_where_it_is():
    model = load(AutoModelForCausalLM.from_pretrained(FOLDER), "embedded")
    assert len(instar.ioi(2).batch(model, n=2)) == 2


# Threads


def in_threads(works):
    results, errors = {}, []

    def do(key, work):
        try:
            results[key] = [work() for _ in range(4)]
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=do, args=own) for own in works.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    return results


def test_threads_do_not_see_each_other(batch):
    models = [load(tiny_gpt2(seed)) for seed in range(2)]
    chosen = ("attention", "attribution", "edges", "graft")
    alone = {(i, name): MEASURE[name](models[i], batch) for i in range(2) for name in chosen}
    works = {
        (i, name, copy): lambda i=i, name=name: MEASURE[name](models[i], batch)
        for i in range(2)
        for name in chosen
        for copy in range(2)
    }
    for (i, name, _), found in in_threads(works).items():
        for one in found:
            same(one, alone[i, name])
    assert all(m.module.config._attn_implementation != "instar" for m in models)


def test_two_threads_with_the_same_two_models_do_not_wait_for_each_other(batch):
    one, other = load(tiny_gpt2(0)), load(tiny_gpt2(1))
    sets = {"all": HEADS}
    found = in_threads(
        {
            "there": lambda: instar.graft(one, other, batch, sets),
            "back": lambda: instar.graft(other, one, batch, sets),
        }
    )
    same(found["there"][0], instar.graft(one, other, batch, sets))


# Neighbours


def test_prompts_on_both_sides_of_a_longrope_limit_do_not_depend_on_each_other():
    factors = {"long_factor": [3.0] * 4, "short_factor": [1.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 8, **factors}
    module = families.tiny("phi3", rope_parameters=rope, original_max_position_embeddings=8)
    model = load(module)
    lengths = torch.tensor([6, 12, 8, 9])
    tokens = families.tokens(4, 12)
    mask = torch.arange(12)[None] < lengths[:, None]
    corrupted = tokens.clone()
    corrupted[:, 2] = 3 + (tokens[:, 2] + 5) % 90
    answer, foils = torch.arange(4) + 5, torch.arange(4) + 50
    together = instar.Batch.from_tokens(tokens, corrupted, answer, foils, mask)
    with torch.no_grad():
        truth = []
        for row, length in enumerate(lengths):
            logits = module(tokens[row : row + 1, :length]).logits[0, -1]
            truth.append(float(logits[answer[row]] - logits[foils[row]]))
    assert instar.evaluate(model, together)["logit_diff"].values == pytest.approx(truth, abs=2e-6)
    assert instar.patching(model, together, ("z",))["clean"].values == pytest.approx(truth, abs=2e-6)
    for chunk in (1, 2, 3):
        assert instar.lens(model, together, chunk=chunk)["logit_diff"][:, -1].values == pytest.approx(truth, abs=2e-6)
    with pytest.raises(ValueError, match="run the long ones by themselves"):
        record(model.layout, together.clean, together.mask)


# Sent to another process


def sent(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301 — made here


def test_models_and_edges_can_be_pickled(single, batch):
    for model in (single, load("embedded")):
        again = sent(model)
        assert (again.weights, again.name) == (model.weights, model.name)
    by_place = pickle.dumps(load("embedded"))
    assert len(by_place) < 10_000
    edges = sent(instar.edges(single, batch, "eap"))
    assert edges.rank_correlation == instar.edges(single, batch, "eap").rank_correlation


def test_a_model_that_was_changed_in_memory_is_sent_by_value():
    model = load("embedded")
    with torch.no_grad():
        model.module.get_input_embeddings().weight[0, 0] += 1
    again = sent(model)
    assert fingerprint(again.module) == fingerprint(model.module)


def test_a_series_keeps_its_base_when_it_is_sent(tmp_path, embedded):
    module = AutoModelForCausalLM.from_pretrained(FOLDER)
    module.save_pretrained(tmp_path)
    again = sent(load(tmp_path, like=embedded))
    assert again.weights == embedded.weights and again.tokenizer is not None


# A checkpoint's own tokenizer


def with_beginning_of_text(folder):
    """The embedded tokenizer, but putting its end-of-text before every text, as a BOS."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    marked = TemplateProcessing(
        single=f"{tokenizer.eos_token} $A", special_tokens=[(tokenizer.eos_token, tokenizer.eos_token_id)]
    )
    tokenizer._tokenizer.post_processor = marked
    tokenizer.save_pretrained(folder)


def test_a_checkpoint_is_read_by_its_own_tokenizer_where_that_reads_otherwise(tmp_path, embedded):
    AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(FOLDER).save_pretrained(tmp_path)
    alike = load(tmp_path, like=embedded)
    assert alike.tokenizer is embedded.tokenizer and "tokenizer" not in alike.facts
    with_beginning_of_text(tmp_path)
    own = load(tmp_path, like=embedded)
    assert "reads prompts otherwise than the base's" in own.facts["tokenizer"]
    batch = instar.ioi(2).batch(own, n=3)
    assert bool((batch.clean[:, 0] == embedded.tokenizer.eos_token_id).all())
    tokens = own.tokenizer(batch.pairs[0].clean)["input_ids"]
    with torch.no_grad():
        logits = own.module(torch.tensor([tokens])).logits[0, -1]
    truth = float(logits[batch.answer[0]] - logits[batch.foils[0]].mean())
    result = instar.evaluate(own, batch)
    assert float(result["logit_diff"][0]) == pytest.approx(truth, rel=1e-4)
    assert "its own" in result.attrs["tokenizer"]


def test_a_checkpoint_whose_tokens_stand_in_another_order_is_read_by_its_own_tokenizer(tmp_path, embedded):
    """Two names' ids and rows are swapped: by its own tokenizer it is the same model."""
    module = AutoModelForCausalLM.from_pretrained(FOLDER)
    content = json.loads((FOLDER / "tokenizer.json").read_text())
    names = instar.ioi(2).batch(embedded, n=1).pairs[0]
    pair = [embedded.tokenizer(f"to {name}")["input_ids"][-1] for name in (names.answer, names.foils[0])]
    words = {index: word for word, index in content["model"]["vocab"].items()}
    for index, other in (pair, pair[::-1]):
        content["model"]["vocab"][words[index]] = other
    with torch.no_grad():
        weight = module.get_input_embeddings().weight
        weight[pair] = weight[pair[::-1]].clone()
    module.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(FOLDER).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    own = load(tmp_path, like=embedded)
    assert "token" in own.facts["tokenizer"]
    found = instar.evaluate(own, instar.ioi(2).batch(own, n=8))["logit_diff"]
    np.testing.assert_allclose(
        found, instar.evaluate(embedded, instar.ioi(2).batch(embedded, n=8))["logit_diff"], atol=1e-4
    )
