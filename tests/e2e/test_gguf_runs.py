"""A run whose base is a GGUF file, and what the real language model's file is read as."""

import json

import pytest
import torch
import xarray as xr
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import families
import ggufs
from instar.models.load import load
from instar.models.taps import record
from instar.tasks.batch import tokenize
from instar.tasks.library import task
from instar.tasks.words import OBJECTS, PLACES, TEST_NAMES, TRAIN_NAMES
from instar.workflow.experiment import Experiment
from instar.workflow.pipeline import run_all
from instar.workflow.verify import verified
from small_run import told

FEW = {
    "model": "base/tiny.gguf",
    "data": {"train_size": 16, "test_size": 20, "measure_pairs": 8},
    "train": {"steps": 2, "checkpoints": 1, "batch_size": 4, "seeds": [0]},
    "measure": {"stages": ["evaluate"]},
    "compare": {"controls": []},
    "report": {"gifs": False, "static": False},
    "threads": 1,
}


def whole_words() -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every word of the tasks is one token."""
    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    texts = [f" {word}" for word in (*TRAIN_NAMES, *TEST_NAMES, *PLACES, *OBJECTS)] * 3
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    own.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=4000, initial_alphabet=alphabet, special_tokens=["<end>"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=own, eos_token="<end>")


def test_a_run_from_a_file_holds_plain_checkpoints_that_say_what_they_were(tmp_path, monkeypatch):
    tokenizer = whole_words()
    model = families.tiny(
        "llama", dtype=torch.float32, vocab_size=len(tokenizer), intermediate_size=64, pad_token_id=None
    )
    (tmp_path / "base").mkdir()
    ggufs.write(tmp_path / "base" / "tiny.gguf", model, "Q8_0", tokenizer)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(FEW))
    root = tmp_path / "run"
    assert not run_all(Experiment.named(tmp_path / "run.yaml", root))["failed"]
    # Named by its directory, with the place of the base as it was written; nothing is made again.
    again = Experiment.named(root)
    before = [row["sha256"] for row in again.index(0)["steps"]]
    summary = run_all(again)
    assert [row["sha256"] for row in again.index(0)["steps"]] == before
    base = load("base/tiny.gguf")
    assert summary["checkpoints"][0]["weights"] == base.weights
    for step in (0, 1, 2):
        folder = again.store.checkpoint(0, step)
        config = json.loads((folder / "config.json").read_text())
        assert "quantization_config" not in config and (folder / "model.safetensors").exists()
        measured = xr.open_dataset(again.store.measurement("evaluate", "ioi3", 0, step), engine="h5netcdf")
        said = {config["dequantised_from"], measured.attrs["dequantised_from"], base.facts["dequantised_from"]}
        assert said == {summary["checkpoints"][step]["dequantised_from"]}
    theirs = AutoModelForCausalLM.from_pretrained(again.store.checkpoint(0, 0))
    for name, value in base.module.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], value)
    assert "weights began as" in told(root / "report" / "index.html")
    assert verified(again, 1, 0, lambda *_: None).ok


@pytest.mark.real
def test_the_real_model_is_read_as_transformers_reads_it(real_model, tmp_path):
    own = load(real_model)
    named = {"pretrained_model_name_or_path": real_model.parent, "gguf_file": real_model.name}
    theirs = AutoModelForCausalLM.from_pretrained(**named, config=own.module.config, dtype=torch.float32).eval()
    state = own.module.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(state[name], value)
    pairs = task("ioi2").fit(own.tokenizer).pairs(100, seed=0, split="test")
    batch = tokenize(pairs, own.tokenizer, task="ioi2")
    # Beginnings of five to nine tokens, padded.
    lengths = 5 + torch.arange(100) % 5
    mask, worst = torch.arange(9)[None] < lengths[:, None], 0.0
    with torch.no_grad():
        ours = own.layout.logits(record(own.layout, batch.clean[:, :9], mask).final)
        for row, tokens, length in zip(ours, batch.clean, lengths.tolist(), strict=True):
            # Alone, without padding, and by its own attention.
            expected = theirs(tokens[None, :length]).logits[0]
            worst = max(worst, float((row[:length] - expected).abs().max() / expected.abs().max()))
    assert worst <= 1e-5
    own.module.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dequantised_from"].startswith("Q4_1 (GGUF; tensors: 210 Q4_1, 61 F32, 1 Q8_0; sha256 ")
