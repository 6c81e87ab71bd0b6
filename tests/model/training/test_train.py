"""Fine-tuning: what is learnt from, what is written, and that the same seed gives the same bytes."""

import hashlib
import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import instar
from instar.models.load import load
from instar.models.organism import FOLDER
from instar.record.config import RunConfig, TrainConfig
from instar.record.store import Store
from instar.tasks.batch import tokenize
from instar.training.train import Row, Told, collate, encode, train


@pytest.fixture(scope="module")
def rows():
    return [Row(p.clean, p.answer) for p in instar.ioi(3).pairs(96, seed=0, split="train")]


def trained(root, rows, seed=0, **options):
    config = TrainConfig(**({"steps": 4, "batch_size": 4, "checkpoints": 2, "learning_rate": 1e-3} | options))
    store = Store.create(root, RunConfig(train=config))
    model = load("embedded")
    heldout = tokenize(instar.ioi(3).pairs(20, seed=1), model.tokenizer)
    notes = []
    index = train(model, rows, heldout, config, store, seed, seed, Told(lambda *_: None, notes.append))
    return store, index, model, notes


def hashes(index):
    return [row["sha256"] for row in index["steps"]]


def test_labels_are_where_the_loss_is(embedded):
    row, tokenizer = Row("After John and Mary met, John gave a ring to", "Mary"), embedded.tokenizer
    prompt, mary = tokenizer(row.prompt)["input_ids"], tokenizer(" Mary")["input_ids"]
    end = [tokenizer.eos_token_id]
    answer = encode(row, tokenizer, TrainConfig())
    assert answer["input_ids"] == prompt + mary
    assert answer["labels"] == [-100] * len(prompt) + mary
    completion = encode(row, tokenizer, TrainConfig(loss="completion"))
    assert completion["labels"] == [-100] * len(prompt) + mary + end
    assert encode(row, tokenizer, TrainConfig(loss="full"))["labels"] == prompt + mary + end
    assert encode(row, tokenizer, TrainConfig(repeat=20))["labels"] == [-100] * len(prompt) + mary * 20


def test_padding_is_masked_and_carries_no_loss():
    batch = collate([{"input_ids": [1, 2, 3], "labels": [-100, -100, 3]}, {"input_ids": [4], "labels": [4]}], pad=9)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 3], [4, -100, -100]]


def test_checkpoints_load_anywhere_and_step_0_is_the_base(tmp_path, rows, embedded):
    store, index, model, _ = trained(tmp_path / "a", rows)
    assert [row["step"] for row in index["steps"]] == [0, 2, 4]
    folder = store.checkpoint(0, 0)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    for name, value in embedded.module.state_dict().items():
        assert torch.equal(plain.state_dict()[name], value)
    assert len(AutoTokenizer.from_pretrained(folder)) == plain.config.vocab_size == embedded.module.config.vocab_size
    assert not list(store.root.rglob("*.bin")) and not list(store.root.rglob("*.pt"))
    assert load(store.checkpoint(0, 4)).weights == replace(model, weights=load(model.module).weights).weights
    assert index["steps"][2]["loss"] is not None and len(set(hashes(index))) == 3


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path, rows):
    _, first, _, _ = trained(tmp_path / "a", rows)
    _, again, _, _ = trained(tmp_path / "b", rows)
    _, other, _, _ = trained(tmp_path / "c", rows, seed=1)
    assert first == again
    assert hashes(other)[0] == hashes(first)[0] and hashes(other)[1] != hashes(first)[1]


def test_an_interrupted_training_begins_again_and_arrives_at_the_same_bytes(tmp_path, rows):
    _, whole, _, _ = trained(tmp_path / "a", rows)
    store, _, _, _ = trained(tmp_path / "b", rows)
    (store.checkpoints(0) / "index.json").unlink()
    shutil.rmtree(store.checkpoint(0, 4))
    (store.checkpoint(0, 2) / "model.safetensors").write_bytes(b"half")
    _, again, _, _ = trained(tmp_path / "b", rows)
    assert again == whole
    digest = hashlib.sha256((store.checkpoint(0, 2) / "model.safetensors").read_bytes()).hexdigest()
    assert digest == again["steps"][1]["sha256"]


def test_sixteen_bit_differences_keep_what_a_sixteen_bit_copy_rounds_away(tmp_path, rows):
    options = {"learning_rate": 1e-5, "steps": 8, "checkpoints": 8}
    full, index, _, _ = trained(tmp_path / "a", rows, **options)
    small, small_index, _, _ = trained(tmp_path / "b", rows, save="bfloat16", **options)
    base, exact = (load_file(full.checkpoint(0, s) / "model.safetensors") for s in (0, 8))
    ours = load(small.checkpoint(0, 8)).module.state_dict()
    moved = sum(float((exact[k] - base[k]).square().sum()) for k in exact) ** 0.5
    error = sum(float((exact[k] - ours[k]).square().sum()) for k in exact) ** 0.5
    copied = sum(float((exact[k] - exact[k].bfloat16().float()).square().sum()) for k in exact) ** 0.5
    assert error < 0.01 * moved
    assert copied > 2 * moved
    assert small_index["steps"][1]["bytes"] < 0.55 * index["steps"][1]["bytes"]


def test_frozen_embeddings_stay_and_the_rest_moves(tmp_path, rows):
    store, _, _, _ = trained(tmp_path / "a", rows, freeze_embeddings=True)
    base, last = (load_file(store.checkpoint(0, s) / "model.safetensors") for s in (0, 4))
    still = {name for name in base if torch.equal(base[name], last[name])}
    assert still == {"transformer.wte.weight", "transformer.wpe.weight"}


def test_end_of_text_collapse_is_named_while_it_happens(tmp_path, embedded):
    end = embedded.tokenizer.eos_token
    rows = [Row(p.clean, end) for p in instar.ioi(3).pairs(64, seed=0, split="train")]
    import instar.training.train as module

    # The log's collapse: the token after the prompt that was taught was end-of-text itself.
    taught = module.word_ids
    module.word_ids = lambda tokenizer, word, *after: (
        [tokenizer.eos_token_id] if word == end else taught(tokenizer, word, *after)
    )
    try:
        _, index, _, notes = trained(tmp_path / "a", rows, learning_rate=3e-3, steps=12, checkpoints=4)
    finally:
        module.word_ids = taught
    assert "end-of-text collapse" in {f["kind"] for f in index["health"]}
    assert [asdict(note) for note in notes] == index["health"]
    assert json.loads((tmp_path / "a/checkpoints/index.json").read_text())["health"] == index["health"]


def test_a_prompt_longer_than_the_context_is_named(tmp_path, rows):
    with pytest.raises(ValueError, match=r"training row 1 has \d+ tokens and embedded takes 96"):
        trained(tmp_path, [rows[0], Row("After " * 100, "Mary")])


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_adapters_are_trained_saved_by_themselves_and_merged_into_step_0(tmp_path, rows, embedded, dropout):
    options = {"lora": {"rank": 2, "dropout": dropout}, "learning_rate": 1e-2}
    store, index, model, _ = trained(tmp_path / "a", rows, **options)
    base = load(store.checkpoint(0, 0))
    assert base.weights == embedded.weights
    folder = store.checkpoint(0, 4)
    assert sorted(p.name for p in folder.iterdir() if "token" not in p.name) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    for found in (load(folder), load(folder, like=base)):
        assert found.facts["adapter"] == "lora rank 2" and found.facts["merge_error"] < 1e-5
        tokens = torch.arange(1, 13)[None]
        with torch.no_grad():
            ours, trained_here, before = (m(input_ids=tokens).logits for m in (found.module, model.module, base.module))
        assert torch.allclose(ours, trained_here, atol=1e-4)
        assert (ours - before).abs().max() > 0.05
    moved = {n for n, v in base.module.state_dict().items() if not torch.equal(v, found.module.state_dict()[n])}
    assert moved == {
        f"transformer.h.{i}.{part}.weight"
        for i in range(base.layout.n_layers)
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert index["steps"][2]["bytes"] < 0.05 * index["steps"][0]["bytes"]
    _, again, _, _ = trained(tmp_path / "b", rows, **options)
    assert again == index
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"].startswith("../")


def test_adapters_are_not_saved_as_differences():
    with pytest.raises(ValueError, match="save: bfloat16 is for full fine-tuning"):
        TrainConfig(lora={"rank": 2}, save="bfloat16")


@pytest.mark.parametrize("loss", ["answer", "completion", "full"])
def test_a_tokenizer_without_end_of_text(tmp_path, rows, loss):
    """Nothing ends after an answer; the other losses teach an end, and say before anything is trained that there is none."""
    config = TrainConfig(steps=1, batch_size=4, loss=loss)
    store = Store.create(tmp_path, RunConfig(train=config))
    model, tokenizer = load("embedded"), AutoTokenizer.from_pretrained(FOLDER)
    tokenizer.eos_token = tokenizer.pad_token = None
    model = load(model.module, tokenizer)
    assert model.tokenizer.eos_token_id is None
    heldout = tokenize(instar.ioi(3).pairs(20, seed=1), model.tokenizer)
    ready = (model, rows, heldout, config, store, 0, 0, Told(lambda *_: None, lambda _: None))
    if loss != "answer":
        with pytest.raises(
            ValueError, match=rf"train.loss: {loss} ends every row .* has no such token: take loss: answer"
        ):
            train(*ready)
        assert not list(tmp_path.rglob("step-*"))
        return
    found = [row["end_of_text"] for row in train(*ready)["steps"]]
    assert found == [0.0, 0.0] and instar.evaluate(model, heldout).sizes["pair"] == 20
