"""The course of a training and the checkpoints that it places: against saved weights, a hand computation, and itself."""

import json
import math
import os
import signal
import warnings

import pytest
import torch
from safetensors.torch import load_file

import instar
from instar.measure.common import candidates_of, in_nats
from instar.models.load import load
from instar.record.config import RunConfig, TrainConfig
from instar.record.store import Store
from instar.tasks.batch import tokenize
from instar.training.learning import affordable
from instar.training.train import Row, Told, collate, encode, train

OPTIONS = {"steps": 8, "batch_size": 16, "checkpoints": {"learning": 3}, "learning_rate": 3e-4}


@pytest.fixture(scope="module")
def rows():
    return [Row(p.clean, p.answer) for p in instar.ioi(3).pairs(48, seed=0, split="train")]


def trained(root, rows, tell=lambda *_: None, **options):
    config = TrainConfig(**(OPTIONS | options))
    store, model, said = Store.create(root, RunConfig(train=config)), load("embedded-shallow"), []
    heldout, probed = (tokenize(instar.ioi(3).pairs(20, seed=seed), model.tokenizer) for seed in (1, 3))
    index = train(model, rows, heldout, config, store, 0, 0, Told(tell, lambda _: None, {}, said.append), probed)
    return store, index, said


def course(store):
    return store.read_rows(store.course(0))


def folders(store):
    return sorted(int(path.name[5:]) for path in store.checkpoints(0).glob("step-*"))


def test_choosing_by_hand():
    """Three of five tokens are candidates; a foil that stands twice counts once; without a foil there is no choice."""
    p = torch.tensor([[0.1, 0.2, 0.3, 0.25, 0.15]] * 3)
    candidates = candidates_of(torch.tensor([1, 1, 1]), torch.tensor([[0, 2], [2, 2], [-1, -1]]))
    found = in_nats(p.log(), candidates)["choosing"]
    assert found[:2].tolist() == pytest.approx([math.log(0.2 / 0.6), math.log(0.2 / 0.5)]) and found[2].isnan()


@pytest.mark.parametrize(
    ("training", "probe", "there", "due"),
    [
        (320, 20, 64, (9, 1)),
        (640, 20, 64, (19, 1)),
        (64, 16, 64, (9, 4)),
        (9999, 16, 40, (40, 1)),
        (1, 16, 8, (8, 214)),
    ],
)
def test_a_probe_takes_a_fifth_of_the_training(training, probe, there, due):
    found = affordable(training, probe, there)
    assert (found.pairs, found.every) == due
    # A forward pass of the probe against forward and backward, three forward passes, of the training.
    assert found.pairs * probe <= 0.2 * 3 * training * found.every


@pytest.fixture(scope="module")
def placed(tmp_path_factory, rows):
    """A fine-tuning that places its checkpoints, and what lay on the disk after each step."""
    root, most = tmp_path_factory.mktemp("placed"), []

    def watch(step, steps, note):
        most.append({path.name for path in (root / "checkpoints").glob("step-*")})

    return *trained(root, rows, watch), most


def test_the_change_is_that_of_the_saved_weights(placed):
    store = placed[0]
    base, last = (load_file(store.checkpoint(0, step) / "model.safetensors") for step in (0, 8))
    saved = sum(float((last[n].double() - base[n].double()).square().sum()) for n in base)
    lines = course(store)
    assert [line["step"] for line in lines] == list(range(9)) and lines[0]["change"] == 0.0
    assert lines[-1]["change"] == pytest.approx(saved**0.5, rel=1e-7)


def test_of_adapters_it_is_that_of_the_merged_weights(tmp_path, rows):
    own = {
        "lora": {"rank": 2},
        "learning_rate": 1e-2,
        "steps": 3,
        "checkpoints": {"learning": 3},
        "freeze_embeddings": True,
    }
    store, index, _ = trained(tmp_path, rows, **own)
    base, merged = (dict(load(store.checkpoint(0, step)).module.named_parameters()) for step in (0, 3))
    saved = sum(float((merged[n] - base[n]).detach().double().square().sum()) for n in base)
    # Merging rounds to float32.
    assert course(store)[-1]["change"] == pytest.approx(saved**0.5, rel=1e-4) and saved > 0
    assert [row["step"] for row in index["steps"]] == folders(store)


def test_differences_are_placed_too(tmp_path, rows):
    store, index, _ = trained(tmp_path, rows, save="bfloat16", steps=3, checkpoints={"learning": 3})
    assert [row["step"] for row in index["steps"]] == folders(store) and len(folders(store)) == 3
    assert (store.checkpoint(0, 3) / "difference.safetensors").exists()


def test_loss_and_gradient_norm_by_hand(tmp_path, rows):
    store, _, _ = trained(tmp_path, rows[:4], steps=1, checkpoints=1, batch_size=4)
    model = load("embedded-shallow")
    encoded = [encode(row, model.tokenizer, TrainConfig()) for row in rows[:4]]
    batch = collate(encoded, 0)
    module = model.module.double()
    logits = module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)
    loss.backward()
    norm = sum(float(p.grad.square().sum()) for p in module.parameters()) ** 0.5
    line = course(store)[1]
    assert line["loss"] == pytest.approx(loss.item(), rel=1e-5) and line["choosing"] is None
    assert norm > 1 and line["gradient_norm"] == pytest.approx(norm, rel=1e-4)  # before it is clipped to 1


def test_checkpoints_are_placed_by_the_probe(placed, tmp_path, rows):
    store, index, said, seen = placed
    steps, every = [row["step"] for row in index["steps"]], index["probe"]["every"]
    assert steps[0] == 0 and steps[-1] == 8 and steps == folders(store) and every == 1
    # Some gave way to others, and never were there more than three.
    assert max(map(len, seen)) <= 3 < len(set().union(*seen))
    probed = {line["step"] for line in course(store) if line["choosing"] is not None}
    assert probed == {step for step in range(9) if step % every == 0} and set(steps) <= probed
    assert [row["choosing"] for row in index["steps"]] == [course(store)[step]["choosing"] for step in steps]
    assert len(said) == 1 and "s of training" in said[0]
    losses = [line["loss"] for line in course(store)]
    assert index["steps"][1]["loss"] == pytest.approx(sum(losses[1 : steps[1] + 1]) / steps[1])
    # The same training without a probe ends in the same weights.
    _, plain, _ = trained(tmp_path, rows, checkpoints=8)
    assert plain["steps"][-1]["sha256"] == index["steps"][-1]["sha256"]


def test_killed_and_begun_again_it_arrives_at_the_same_bytes(placed, tmp_path, rows):
    store, index = placed[:2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # no thread here holds a lock that the child needs
        pid = os.fork()
    if not pid:
        trained(tmp_path, rows, lambda step, *_: os.kill(os.getpid(), signal.SIGKILL) if step == 6 else None)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL and len(folders(Store(tmp_path))) > 1
    again, same, _ = trained(tmp_path, rows)
    assert same == index and json.dumps(course(again)) == json.dumps(course(store))
    lists = [{path: entry for path, entry in s.contents.entries.items() if "/" in path} for s in (store, again)]
    assert lists[0] == lists[1] and folders(again) == folders(store)


def test_a_task_without_foils_is_refused(tmp_path, rows):
    model = load("embedded-shallow")
    probed = tokenize(instar.ioi(3).pairs(12, seed=3), model.tokenizer)
    object.__setattr__(probed, "foils", torch.full_like(probed.foils, -1))
    config = TrainConfig(**OPTIONS)
    store = Store.create(tmp_path, RunConfig(train=config))
    with pytest.raises(ValueError, match="no pair has a foil: give checkpoints as steps"):
        train(model, rows, probed, config, store, 0, 0, Told(lambda *_: None, lambda _: None), probed)
