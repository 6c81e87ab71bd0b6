"""Adapters: what is measured is the model that was trained, or nothing."""

import json
import shutil
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from instar.live.undisturbed import plain
from instar.models.load import fingerprint, load
from instar.models.organism import FOLDER
from saved import adapter, logits, renamed, run_printed, tuned


@pytest.fixture
def base(tmp_path):
    """The base that the adapters were trained on, and name."""
    tuned().save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(FOLDER).save_pretrained(tmp_path / "base")
    return load(tmp_path / "base")


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "all"},
        {"modules_to_save": ["ln_f"]},
        {"target_modules": ["c_attn"], "init_lora_weights": "pissa"},
    ],
)
def test_an_adapter_is_merged_and_the_error_is_kept(tmp_path, base, choices):
    wanted = adapter(tmp_path / "adapter", **choices)
    found = load(tmp_path / "adapter", like=base)
    assert torch.allclose(logits(found.module), logits(wanted), atol=2e-4)
    assert not torch.allclose(logits(found.module), logits(base.module), atol=0.1)
    assert found.facts["adapter"] == "lora rank 4" and 0 < found.facts["merge_error"] < 1e-5
    assert "adapter_base" not in found.facts
    assert fingerprint(base.module) == base.weights, "the base was changed"


def test_an_adapter_by_itself_finds_its_base_beside_it(tmp_path, base):
    wanted = adapter(tmp_path / "adapter")
    found = load(tmp_path / "adapter")
    assert torch.allclose(logits(found.module), logits(wanted), atol=2e-4)
    assert len(found.tokenizer) == found.module.config.vocab_size


@pytest.mark.parametrize(
    "choices",
    [
        {"target_modules": ["wte"]},
        {"target_modules": ["lm_head"]},
        {"target_modules": ["wte", "c_attn"]},
        {"target_modules": ["c_attn"], "modules_to_save": ["wte"]},
        {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]},
    ],
)
def test_one_end_of_a_tied_embedding(tmp_path, base, choices):
    """Training changed one end, so the two ends are two matrices."""
    wanted = adapter(tmp_path / "adapter", **choices)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load(tmp_path / "adapter", like=base)
    assert torch.allclose(logits(found.module), logits(wanted), atol=2e-4)
    assert found.facts["merge_error"] < 1e-5
    ends = found.layout.embeddings[0].weight, found.layout.unembed.weight
    assert not torch.equal(*ends) and torch.equal(ends[0], base.layout.embeddings[0].weight) is (
        "lm_head" in str(choices)
    )
    # It stays untied when it is saved, and nothing of the base was untied.
    found.module.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again), logits(found.module))
    assert base.layout.embeddings[0].weight is base.layout.unembed.weight and base.module.config.tie_word_embeddings


@pytest.mark.parametrize(
    "choices", [{"target_modules": ["wte"]}, {"target_modules": ["c_attn"], "modules_to_save": ["wte"]}]
)
def test_a_recorded_training_writes_the_model_that_is_trained(tmp_path, choices):
    wanted = adapter(tmp_path / "adapter", **choices)
    before = {name: value.clone() for name, value in wanted.state_dict().items()}
    plain(wanted).save_pretrained(tmp_path / "written")
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "written")
    assert torch.allclose(logits(written), logits(wanted), atol=2e-4)
    assert all(torch.equal(value, before[name]) for name, value in wanted.state_dict().items())
    assert wanted.config.tie_word_embeddings


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_one_end_of_a_tied_embedding_of_a_llama(tmp_path, target):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    base = load(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    wanted = adapter(tmp_path / "adapter", fresh, target_modules=[target, "q_proj"], fan_in_fan_out=False)
    found = load(tmp_path / "adapter", like=base)
    assert torch.allclose(logits(found.module), logits(wanted), atol=2e-4)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: name.replace(".h.0.", ".h.0._orig_mod."),
    ],
)
def test_wrappers_in_the_names_are_looked_through(tmp_path, base, wrapped):
    wanted = adapter(tmp_path / "adapter")
    renamed(tmp_path / "adapter", wrapped)
    assert torch.allclose(logits(load(tmp_path / "adapter", like=base).module), logits(wanted), atol=2e-4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (lambda name: name.replace("transformer", "language_model.transformer"), r"lacks 32 of 32 .* and holds 32"),
        (lambda name: name if ".h.0." in name else None, r"lacks 24 of 32 tensors .*transformer\.h\.1"),
        (lambda name: None if "lora_B" in name else name, r"lacks 16 of 32 .*lora_B"),
        (
            lambda name: name.replace(".h.3.", ".h.6."),
            r"lacks 8 of 32 .* and holds 8 that match nothing .*\.h\.6.*\[4, ",
        ),
    ],
)
def test_an_adapter_that_does_not_match_is_not_the_base(tmp_path, base, name, said):
    adapter(tmp_path / "adapter")
    renamed(tmp_path / "adapter", name)
    with pytest.raises(ValueError, match=f"adapter_model.safetensors: {said}"):
        load(tmp_path / "adapter", like=base)


def test_an_adapter_is_put_on_the_base_that_it_names_or_says_so(tmp_path, base, embedded):
    adapter(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"was trained on .*base \(adapter_config.json says so\)"):
        load(tmp_path / "adapter", like=embedded)
    # The same weights elsewhere are the same base.
    tuned().save_pretrained(tmp_path / "copy")
    copy = load(tmp_path / "copy", like=embedded)
    assert "adapter_base" not in load(tmp_path / "adapter", like=copy).facts
    adapter(tmp_path / "theirs", named="org/elsewhere")
    assert "org/elsewhere, which is not here" in load(tmp_path / "theirs", like=base).facts["adapter_base"]


def test_the_whole_base_is_compared_and_its_configuration(tmp_path, base):
    """A base that differs behind its first rows only, and one that is configured otherwise."""
    adapter(tmp_path / "adapter")
    other = tuned()
    with torch.no_grad():
        other.transformer.h[0].attn.c_proj.weight[1:] = 0
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="whose weights are not those of"):
        load(tmp_path / "adapter", like=load(tmp_path / "other", like=base))
    shutil.copytree(tmp_path / "base", tmp_path / "relu")
    config = json.loads((tmp_path / "relu" / "config.json").read_text()) | {"activation_function": "relu"}
    (tmp_path / "relu" / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match="configured otherwise .*activation_function is 'gelu_new' there and 'relu' here"
    ):
        load(tmp_path / "adapter", like=load(tmp_path / "relu"))


def test_two_tensors_that_become_one_are_refused(tmp_path, base):
    adapter(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    own = load_file(file)
    save_file(own | {f"module.{name}": 3 * value for name, value in own.items()}, file)
    with pytest.raises(ValueError, match="are one tensor: which of them is meant"):
        load(tmp_path / "adapter", like=base)
    state = {name: value.clone() for name, value in tuned().state_dict().items() if name != "lm_head.weight"}
    for other in ("_orig_mod.module.", "module."):
        save_file(
            state | {other + name: value.clone() for name, value in state.items()}, tmp_path / "step-1.safetensors"
        )
        with pytest.raises(ValueError, match="are one tensor: which of them is meant"):
            load(tmp_path / "step-1.safetensors", like=base)


def test_rows_that_peft_saved_with_the_adapter(tmp_path, base):
    """A pad token of its own: peft saves the whole embedding beside the adapter, one row longer."""
    model, tokenizer = tuned(), AutoTokenizer.from_pretrained(FOLDER)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.vocab_size = len(tokenizer)
    wanted = adapter(tmp_path / "adapter", model)
    if not any("wte" in name for name in saved_names(tmp_path / "adapter")):
        wanted.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
        described = tmp_path / "adapter" / "adapter_config.json"
        described.write_text(json.dumps(json.loads(described.read_text()) | {"base_model_name_or_path": "../base"}))
    tokenizer.save_pretrained(tmp_path / "adapter")
    with pytest.warns(UserWarning, match=r"the 1 extra.*<\|pad\|>"):
        found = load(tmp_path / "adapter", like=base)
    assert torch.allclose(logits(found.module), logits(wanted)[..., :-1], atol=2e-4)


@pytest.mark.parametrize(
    "choices",
    [
        {"target_modules": ["wte", "c_attn"]},
        {"target_modules": ["lm_head", "c_attn"]},
        {"target_modules": ["c_attn"], "modules_to_save": ["wte"]},
        {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]},
    ],
)
@pytest.mark.parametrize("rows", [3, -5])
def test_a_vocabulary_that_was_resized_before_the_adapter(tmp_path, base, choices, rows):
    model, tokenizer = tuned(), AutoTokenizer.from_pretrained(FOLDER)
    count = len(tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": [f"<|{i}|>" for i in range(max(rows, 0))]})
    model.resize_token_embeddings(count + rows, mean_resizing=False)
    model.config.vocab_size = count + rows
    wanted = adapter(tmp_path / "adapter", model, **choices)
    if rows < 0:
        with pytest.raises(ValueError, match=f"its vocabulary has {count + rows:,} rows and its base's {count:,}"):
            load(tmp_path / "adapter", like=base)
        return
    tokenizer.save_pretrained(tmp_path / "adapter")
    with pytest.warns(UserWarning, match="the 3 extra"):
        found = load(tmp_path / "adapter", like=base)
    assert torch.allclose(logits(found.module), logits(wanted)[..., :count], atol=2e-4)


def test_a_shell_of_an_adapter(tmp_path, base):
    adapter(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: torch.zeros(0) for name in load_file(file)}, file)
    with pytest.raises(ValueError, match=r"32 of 32 tensors have no values .*ZeRO-3"):
        load(tmp_path / "adapter", like=base)


def test_the_command_for_a_pickled_adapter_makes_one_that_loads(tmp_path, base):
    wanted = adapter(tmp_path / "an adapter")
    kept = json.loads((tmp_path / "an adapter" / "adapter_config.json").read_text())
    (tmp_path / "an adapter" / "adapter_model.safetensors").unlink()
    wanted.save_pretrained(tmp_path / "an adapter", safe_serialization=False)
    (tmp_path / "an adapter" / "adapter_config.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"pickle \(adapter_model.bin\)") as refused:
        load(tmp_path / "an adapter", like=base)
    run_printed(str(refused.value))
    assert torch.allclose(logits(load(tmp_path / "an adapter", like=base).module), logits(wanted), atol=2e-4)


def saved_names(folder):
    return list(load_file(folder / "adapter_model.safetensors"))


def test_a_merge_that_is_more_than_rounding_is_refused(tmp_path, base, monkeypatch):
    adapter(tmp_path / "adapter")
    monkeypatch.setattr("instar.models.adapters.ROUNDING", 1e-12)
    with pytest.raises(ValueError, match=r"moves logits by .* more than rounding"):
        load(tmp_path / "adapter", like=base)


def test_whole_weights_beside_an_adapter_are_ambiguous(tmp_path, base):
    adapter(tmp_path / "both")
    tuned().save_pretrained(tmp_path / "both")
    with pytest.raises(ValueError, match=r"holds whole weights \(model.safetensors\) and an adapter"):
        load(tmp_path / "both", like=base)


def test_adapters_that_cannot_be_merged_are_refused(tmp_path, base):
    for name in ("pickled", "half", "foreign"):
        adapter(tmp_path / name, named="embedded")
    whole = tmp_path / "pickled" / "adapter_model.safetensors"
    whole.rename(tmp_path / "pickled" / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"pickle \(adapter_model.bin\)"):
        load(tmp_path / "pickled", like=base)
    half = tmp_path / "half" / "adapter_model.safetensors"
    half.write_bytes(half.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"adapter_model.safetensors: damaged or half-written"):
        load(tmp_path / "half", like=base)
    other = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="this adapter does not fit its base"):
        load(tmp_path / "foreign", like=load(other))


def test_prompt_tuning_has_nothing_to_merge(tmp_path, base):
    described = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    peft.get_peft_model(tuned(), described).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="adds prompts, not weights"):
        load(tmp_path, like=base)
