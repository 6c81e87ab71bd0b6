"""A user's Trainer with the callback: the same weights, numbers on the boards, and a directory that instar reads."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments, set_seed

import instar
from instar.models import organism
from instar.record.config import RunConfig, TrainConfig
from instar.training.train import Row, collate, encode
from small_run import instar as run_command
from small_run import told

TASKS = ("ioi2", "ioi3")
SMALL = RunConfig.model_validate(
    {
        "data": {"test_size": 40, "measure_pairs": 8},
        "measure": {
            "stages": ["evaluate", "circuit"], "patching": "attribution", "patching_pairs": 4, "circuit_pairs": 4,
            "edges": "eap", "exact_ends": False,
        },
        "compare": {"checkpoints": 1, "pairs": 8, "random_sets": 2, "exchanged_sets": 2, "single": False},
        "report": {"gifs": False, "static": False},
        "threads": 1,
    }
)  # fmt: skip
pytestmark = [
    # Others' own, in their own code: peft and TRL ask transformers for names that it is about to drop.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def trained(folder: Path, callbacks=(), **options):
    """A fine-tuning of the embedded model with dropout and accumulated gradients. Returns its weights."""
    tokenizer = AutoTokenizer.from_pretrained(organism.FOLDER)
    rows = [Row(p.clean, p.answer) for p in instar.ioi(3).pairs(64, seed=0, split="train")]
    set_seed(3)
    defaults = {"max_steps": 6, "report_to": "none", "logging_steps": 1, "save_strategy": "no"}
    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-3, seed=3,
        use_cpu=True, disable_tqdm=True, **(defaults | options),
    )  # fmt: skip
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(organism.FOLDER, resid_pdrop=0.1),
        args=args,
        train_dataset=[encode(row, tokenizer, TrainConfig()) for row in rows],
        data_collator=lambda batch: collate(batch, 0),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    return trainer


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    trainer = trained(tmp_path_factory.mktemp("alone"))
    trainer.train()
    return weights(trainer)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    callback = instar.CircuitCallback(tasks=TASKS, every=3, out=folder / "run", max_overhead=1e9, config=SMALL)
    trainer = trained(folder / "trainer", [callback], report_to="tensorboard")
    trainer.train()
    return folder, trainer, callback


def test_weights_are_bit_identical_with_and_without_the_callback(alone, recorded):
    _, trainer, callback = recorded
    assert [row["step"] for row in callback.recorder.rows] == [0, 3, 6]
    assert all(row["stages"] == ["attribution", "evaluate", "patching"] for row in callback.recorder.rows)
    assert same(alone, weights(trainer))
    assert trainer.model.training and trainer.model.config._attn_implementation != "instar"


def test_the_index_has_the_trainers_losses(recorded):
    folder, trainer, _ = recorded
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    rows = json.loads((folder / "run/checkpoints/index.json").read_text())["steps"]
    assert rows[0]["loss"] is None
    # The Trainer logs a step after its end: the loss of step 3 belongs to what follows its record.
    assert rows[1]["loss"] == pytest.approx(sum(losses[:2]) / 2)
    assert rows[2]["loss"] == pytest.approx(sum(losses[2:]) / 4)


def test_tensorboard_shows_the_numbers_of_every_record(recorded):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder, _, callback = recorded
    boards = list((folder / "trainer" / "runs").glob("*/instar"))
    assert len(boards) == 1
    found = accumulator.EventAccumulator(str(boards[0])).Reload()
    accuracy = found.Scalars("instar/ioi3/accuracy")
    assert [event.step for event in accuracy] == [0, 3, 6]
    assert accuracy[-1].value == pytest.approx(callback.recorder.log["instar/ioi3/accuracy"])
    assert {"instar/ioi2/logit_diff", "instar/ioi3/patching/best_head", "instar/overhead"} < set(
        found.Tags()["scalars"]
    )
    theirs = accumulator.EventAccumulator(str(boards[0].parent)).Reload().Tags()["scalars"]
    assert "train/loss" in theirs and not [name for name in theirs if "instar" in name]


@pytest.mark.slow
def test_instar_compare_and_report_read_the_directory(recorded, tmp_path):
    folder, _, _ = recorded
    run = tmp_path / "moved"
    shutil.copytree(folder / "run", run)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*.nc")}
    for name in ("compare", "report"):
        run_command(name, run)
    after = {p: p.stat().st_mtime_ns for p in run.rglob("*.nc")}
    assert before.items() <= after.items(), "what was recorded was made again"
    assert (run / "measure/causal/shared/step-000006.nc") in after
    summary = json.loads((run / "summary.json").read_text())
    assert summary["causal"]["step"] == 6 and summary["answer"]["step"] == 6
    assert summary["tasks"]["ioi3"]["steps"] == [0, 3, 6] and summary["failed"] == []
    page = told(run / "report/index.html")
    assert "how it was trained is not known here" in page


def test_it_stops_early(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2

    callback = instar.CircuitCallback(TASKS, every=10, out=tmp_path / "run", config=SMALL, stages=["evaluate"])
    trainer = trained(tmp_path / "trainer", [callback, Stop()], max_steps=5)
    trainer.train()
    assert [row["step"] for row in callback.recorder.rows] == [0, 2]
    index = json.loads((tmp_path / "run/checkpoints/index.json").read_text())
    assert index["ended"]
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "run/checkpoints/step-000002").state_dict()
    assert same(stored, weights(trainer))


def test_a_resumed_training_goes_on_in_the_same_record(alone, tmp_path):
    def callback():
        return instar.CircuitCallback(
            TASKS, every=2, out=tmp_path / "run", config=SMALL, stages=["evaluate"], max_overhead=1e9
        )

    class Die(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise RuntimeError("the machine goes down")

    saving = {"save_strategy": "steps", "save_steps": 3}
    with pytest.raises(RuntimeError, match="goes down"):
        trained(tmp_path / "trainer", [callback(), Die()], **saving).train()
    trainer = trained(tmp_path / "trainer", [callback()], **saving)
    trainer.train(resume_from_checkpoint=True)
    assert same(alone, weights(trainer))
    rows = json.loads((tmp_path / "run/checkpoints/index.json").read_text())["steps"]
    assert [row["step"] for row in rows] == [0, 2, 4, 6]


def test_mistakes_end_it_before_the_first_step(tmp_path):
    with pytest.raises(TypeError, match="evry"):
        instar.CircuitCallback(TASKS, evry=3)
    trainer = trained(tmp_path / "trainer", [instar.CircuitCallback(("ioi2", "ioi33"), out=tmp_path / "run")])
    with pytest.raises(ValueError, match="no task 'ioi33'"):
        trainer.train()
    assert trainer.state.global_step == 0 and not (tmp_path / "run").exists()


BOARDS = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[2], str(Path(sys.argv[2]).parent)]
import instar
from test_callback import SMALL, TASKS, trained
folder = Path(sys.argv[1])
callback = instar.CircuitCallback(TASKS, every=2, out=folder / "run", config=SMALL, stages=["evaluate"], max_overhead=1e9)
trained(folder / "trainer", [callback], report_to=["wandb", "trackio"], max_steps=2, run_name="here").train()
import wandb
print("SUMMARY", dict(wandb.run.summary)["instar/ioi3/accuracy"], callback.recorder.log["instar/ioi3/accuracy"])
wandb.finish()
"""


@pytest.mark.slow
def test_weights_and_biases_offline_and_trackio(tmp_path):
    """In a process of its own: both keep their run, and their folders, for the whole process."""
    pytest.importorskip("wandb"), pytest.importorskip("trackio")
    places = {
        name: str(tmp_path / name) for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR")
    }
    for place in places.values():
        Path(place).mkdir()
    places |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": str(tmp_path / "trackio")}
    command = [sys.executable, "-c", BOARDS, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **places, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    shown, logged = next(line for line in done.stdout.splitlines() if line.startswith("SUMMARY")).split()[1:]
    assert float(shown) == float(logged)
    assert [f.stat().st_size > 0 for f in Path(places["WANDB_DIR"]).rglob("*.wandb")] == [True]
    database = next((tmp_path / "trackio").rglob("*.db"))
    with sqlite3.connect(database) as connection:
        rows = [json.loads(row[0]) for row in connection.execute("SELECT metrics FROM metrics")]
    seen = [row["train/global_step"] for row in rows if "instar/ioi3/accuracy" in row]
    assert seen == [0, 2]


def test_trl(tmp_path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": p.clean, "completion": " " + p.answer} for p in instar.ioi(3).pairs(32, seed=0, split="train")]

    def finetuned(name, callbacks):
        set_seed(3)
        args = trl.SFTConfig(
            output_dir=str(tmp_path / name), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-3, seed=3,
            use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True, max_length=96,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(organism.FOLDER, resid_pdrop=0.1)
        tokenizer = AutoTokenizer.from_pretrained(organism.FOLDER)
        data = datasets.Dataset.from_list(rows)
        trainer = trl.SFTTrainer(
            model=model, args=args, train_dataset=data, processing_class=tokenizer, callbacks=callbacks
        )
        trainer.train()
        return weights(trainer)

    alone = finetuned("alone", [])
    callback = instar.CircuitCallback(TASKS, every=1, out=tmp_path / "run", config=SMALL, max_overhead=1e9)
    assert same(alone, finetuned("recorded", [callback]))
    assert [row["step"] for row in callback.recorder.rows] == [0, 1, 2]
