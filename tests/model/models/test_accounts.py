"""Every tensor of a checkpoint is read, noticed by rule, or an error that names it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import instar
from instar.models.load import load
from instar.models.organism import FOLDER
from saved import logits, tuned


def llama(folder, **choices):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2, **choices,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.normal_()
    model.save_pretrained(folder)
    return model


def bare(folder, like):
    """Read as one of a series: the folder needs no tokenizer."""
    return load(folder, like=load(like))


def edit(folder, change):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def configured(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("made", "said", "message"),
    [
        ({"attention_bias": True}, {"attention_bias": False}, r"8 tensors .*self_attn\.k_proj\.bias \[16\]"),
        ({"mlp_bias": True}, {"mlp_bias": False}, r"6 tensors .*mlp\.down_proj\.bias \[32\]"),
        ({}, {"num_hidden_layers": 1}, r"9 tensors .*model\.layers\.1\."),
        ({}, {"intermediate_size": 40}, r"do not fit .*mlp\.\w+\.weight is \[.*48.*\], expected \[.*40"),
        ({}, {"num_hidden_layers": 3}, r"9 weights are not in its files and would be random"),
    ],
)
def test_what_config_json_denies_is_named(tmp_path, made, said, message):
    model = llama(tmp_path / "model", **made)
    assert torch.equal(logits(bare(tmp_path / "model", model).module), logits(model))
    configured(tmp_path / "model", **said)
    with pytest.raises(ValueError, match=message):
        bare(tmp_path / "model", model)


def test_what_is_harmless_by_rule_is_said_in_the_measurement(tmp_path, embedded):
    tuned().save_pretrained(tmp_path)
    extra = {"v_head.summary.weight": torch.ones(1, 128), "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    edit(tmp_path, lambda state: state | extra)
    found = load(tmp_path, like=embedded)
    assert "a value or reward head (v_head.summary.weight)" in found.facts["left_over"]
    result = instar.evaluate(found, instar.ioi(2).batch(found, n=4))
    assert result.attrs["left_over"] == found.facts["left_over"]
    # A name that only begins like a harmless one is not one.
    edit(tmp_path, lambda state: state | {"transformer.rotary_emb.inv_freq_scale": torch.ones(2)})
    with pytest.raises(ValueError, match=r"1 tensors in its files have no place .*inv_freq_scale"):
        load(tmp_path, like=embedded)
    edit(tmp_path, lambda state: {n: v for n, v in state.items() if not n.endswith("inv_freq_scale")})
    edit(tmp_path, lambda state: state | {"v_headless.weight": torch.ones(2, 3)})
    with pytest.raises(ValueError, match=r"1 tensors in its files have no place .*v_headless.weight \[2, 3\]"):
        load(tmp_path, like=embedded)


def test_integers_are_no_floats(tmp_path):
    model = llama(tmp_path / "model")
    edit(
        tmp_path / "model", lambda state: {n: (100 * v).to(torch.int8) if "proj" in n else v for n, v in state.items()}
    )
    with pytest.raises(ValueError, match=r"14 of 21 tensors are no floats .*: I8\), as quantised weights are"):
        bare(tmp_path / "model", model)


def test_a_tensor_in_two_files(tmp_path, embedded):
    state = {name: value.clone() for name, value in tuned().state_dict().items() if name != "lm_head.weight"}
    names = sorted(state)
    save_file({n: state[n] for n in names[:50]}, tmp_path / "a.safetensors")
    save_file({n: state[n] for n in names[49:]}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=rf"{names[49]} is in two files, .*a.safetensors and .*b.safetensors"):
        load(tmp_path, like=embedded)
    save_file({n: state[n] for n in names[50:]}, tmp_path / "b.safetensors")
    assert torch.equal(logits(load(tmp_path, like=embedded).module), logits(tuned()))


def test_whole_weights_beside_shards(tmp_path, embedded):
    tuned().save_pretrained(tmp_path, max_shard_size="1MB")
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds model.safetensors and the shards of model.safetensors.index.json"):
        load(tmp_path, like=embedded)


def test_a_shell_without_values(tmp_path, embedded):
    tuned().save_pretrained(tmp_path)
    edit(tmp_path, lambda state: {n: torch.zeros(0) for n in state})
    with pytest.raises(ValueError, match=r"52 of 52 tensors have no values .*ZeRO-3"):
        load(tmp_path, like=embedded)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(tmp_path, embedded, value):
    tuned().save_pretrained(tmp_path)
    edit(tmp_path, lambda state: state | {"transformer.ln_f.bias": torch.full((192,), value)})
    with pytest.raises(ValueError, match=r"not finite numbers .*transformer\.ln_f\.bias") as refused:
        load(tmp_path, like=embedded)
    assert "report" not in str(refused.value)


def test_a_difference_that_does_not_fit(tmp_path, embedded):
    tuned().save_pretrained(tmp_path / "step-0")
    AutoTokenizer.from_pretrained(FOLDER).save_pretrained(tmp_path / "step-0")
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / "instar-delta.json").write_text(json.dumps({"base": "../step-0"}))
    wrong = {"transformer.ln_f.bias": torch.ones(1), "transformer.h.9.ln_1.bias": torch.ones(192)}
    save_file(wrong, tmp_path / "step-1" / "difference.safetensors")
    with pytest.raises(ValueError, match=r"2 tensors do not fit its base .*ln_f.bias \[1\]"):
        load(tmp_path / "step-1", like=embedded)
