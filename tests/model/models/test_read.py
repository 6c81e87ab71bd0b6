"""Checkpoints as other people's scripts leave them: each is read as the weights that were saved, or refused in words."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config

from instar.models import memory
from instar.models.load import fingerprint, load
from instar.models.organism import FOLDER
from saved import tuned


def test_shards_are_put_together(tmp_path, embedded):
    model = tuned()
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert load(tmp_path, like=embedded).weights == fingerprint(model)


def test_a_missing_shard_and_a_damaged_index_are_named(tmp_path, embedded):
    tuned().save_pretrained(tmp_path, max_shard_size="1MB")
    gone = sorted(tmp_path.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ValueError, match=rf"lacks 1 of \d shards .*{gone.name}"):
        load(tmp_path, like=embedded)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index\.json cannot be read as json"):
        load(tmp_path, like=embedded)


@pytest.mark.parametrize("before", ["", "module.", "module._orig_mod.", "_orig_mod."])
@pytest.mark.parametrize("place", ["step-20.safetensors", "step-20/weights.safetensors"])
def test_bare_tensors_take_their_base_s_configuration(tmp_path, embedded, before, place):
    model, path = tuned(), tmp_path / place
    path.parent.mkdir(exist_ok=True)
    # Tied weights are saved once, or twice, as the script happens to do it.
    state = {before + name: value.clone() for name, value in model.state_dict().items()}
    if before:
        state.pop(f"{before}lm_head.weight", None)
    save_file(state, path)
    source = path if place.count("/") == 0 else path.parent
    assert load(source, like=embedded).weights == fingerprint(model)
    with pytest.raises(ValueError, match=r"holds tensors and no config.json.*like=BASE"):
        load(source)


def test_weights_that_the_files_lack_are_not_made_up(tmp_path, embedded):
    state = {name: value.clone() for name, value in tuned().state_dict().items() if ".1.mlp." not in name}
    save_file(state, tmp_path / "step-1.safetensors")
    with pytest.raises(ValueError, match=r"4 weights are not in its files and would be random \(transformer.h.1.mlp"):
        load(tmp_path / "step-1.safetensors", like=embedded)
    save_file({f"student.{k}": v for k, v in state.items()}, tmp_path / "step-1.safetensors")
    with pytest.raises(ValueError, match=r"that the model does not know \(student"):
        load(tmp_path / "step-1.safetensors", like=embedded)


def test_weights_of_another_shape_are_refused(tmp_path, embedded):
    config = AutoConfig.from_pretrained(FOLDER)
    config.n_inner = 48
    model = AutoModelForCausalLM.from_config(config)
    save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "step-1.safetensors")
    with pytest.raises(ValueError, match="do not fit its configuration"):
        load(tmp_path / "step-1.safetensors", like=embedded)


def test_what_a_trainer_leaves_beside_the_weights_is_not_opened(tmp_path, embedded):
    model = tuned()
    model.save_pretrained(tmp_path)
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (tmp_path / name).write_bytes(b"a pickle that must not be read")
    assert load(tmp_path, like=embedded).weights == fingerprint(model)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no \*.safetensors; it has .*optimizer.pt"):
        load(tmp_path, like=embedded)


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(tmp_path):
    GPT2Config(n_embd=16384, n_layer=120, n_head=128).save_pretrained(tmp_path)
    # No weights at all would be another error: the size is asked for first.
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ValueError, match=r"does not fit: its weights in float32 take 1,\d\d\d.\d GiB and cpu has"):
        load(tmp_path)


def test_parameters_are_counted_without_making_them(embedded):
    assert memory.parameters(embedded.module.config) == sum(p.numel() for p in embedded.module.parameters())
    with pytest.raises(ValueError, match="4000000 times its weights"):
        memory.require("this", embedded.module.config, "float32", "cpu", copies=4_000_000)


def test_quantised_weights_are_refused(tmp_path):
    tuned().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="quantised"):
        load(tmp_path)


def test_marks_of_a_chat_are_cut_with_a_notice(tmp_path, embedded):
    model, tokenizer = tuned(), AutoTokenizer.from_pretrained(FOLDER)
    before = fingerprint(model)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"the 2 extra.*<\|im_start\|>, <\|im_end\|>"):
        assert load(tmp_path, like=embedded).weights == before


def test_sixteen_bit_weights_beside_their_tokenizer_only(tmp_path, embedded):
    model = tuned().to(torch.float16)
    model.save_pretrained(tmp_path)
    found = load(tmp_path, like=embedded)
    assert found.module.dtype == torch.float32
    assert torch.equal(found.module.transformer.wpe.weight, model.transformer.wpe.weight.float())
    assert load(tmp_path, like=embedded, dtype="float64").module.dtype == torch.float64
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder here"):
        load(tmp_path, like=embedded)
