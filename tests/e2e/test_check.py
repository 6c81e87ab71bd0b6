"""`instar check` on checkpoints with a known difference and with none; and a training that it stops."""

import json
from xml.etree import ElementTree

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

import instar
from instar.models.organism import FOLDERS
from instar.record.config import TrainConfig
from instar.training.train import Row, collate, encode
from small_run import instar as command

BASE = "embedded-shallow"


def saved(folder, change):
    """The base, changed, as somebody's checkpoint."""
    module = AutoModelForCausalLM.from_pretrained(FOLDERS[BASE], dtype=torch.float32)
    with torch.no_grad():
        change(module)
    module.save_pretrained(folder)
    AutoTokenizer.from_pretrained(FOLDERS[BASE]).save_pretrained(folder)
    return folder


def heads_swapped(module):
    """The first two heads of a layer in the other order: the same function."""
    own, width = module.transformer.h[1].attn, module.config.n_embd // module.config.n_head
    order = torch.arange(module.config.n_embd)
    order[: 2 * width] = torch.cat([order[width : 2 * width], order[:width]])
    weight, bias = own.c_attn.weight, own.c_attn.bias
    every = torch.cat([order + i * module.config.n_embd for i in range(3)])
    weight.copy_(weight[:, every].clone())
    bias.copy_(bias[every].clone())
    own.c_proj.weight.copy_(own.c_proj.weight[order].clone())


def broken(module):
    """All that attention writes, the other way round."""
    for block in module.transformer.h:
        block.attn.c_proj.weight.neg_()


@pytest.mark.parametrize(("change", "code"), [(heads_swapped, 0), (broken, 3)])
def test_a_known_difference_is_a_red_build_and_none_a_green_one(change, code, tmp_path):
    folder = saved(tmp_path / "tuned", change)
    files = [tmp_path / "junit.xml", tmp_path / "found.sarif"]
    done = command("check", "--base", BASE, "--checkpoint", folder, "--junit", files[0], "--sarif", files[1], "--json",
                   ok=code == 0)  # fmt: skip
    assert done.returncode == code, done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"] == ("changed" if code else "unchanged")
    suite = ElementTree.parse(files[0]).getroot()
    assert len(suite.findall("testcase")) == len(found["tests"]) == 3
    assert len(suite.findall("testcase/failure")) == int(suite.attrib["failures"]) == (3 if code else 0)
    value = json.loads(files[1].read_text())
    rules = [rule["id"] for rule in value["runs"][0]["tool"]["driver"]["rules"]]
    results = value["runs"][0]["results"]
    assert value["version"] == "2.1.0" and len(results) == (3 if code else 0)
    assert all(row["ruleId"] in rules and row["level"] == "error" for row in results)


def test_a_gates_file_is_no_consent_to_run_code(tmp_path):
    (tmp_path / "mine.py").write_text("raise SystemExit('ran')\n")
    (tmp_path / "gate.yaml").write_text(f"skills: ['{tmp_path / 'mine.py'}:task']\n")
    said = command("check", "--base", BASE, "--checkpoint", BASE, "--config", tmp_path / "gate.yaml", ok=False).stderr
    assert "--skill" in said and "ran" not in said.split()


def test_a_training_that_breaks_an_old_skill_is_stopped(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS[BASE])
    # Wrong answers: the skill goes.
    rows = [Row(pair.clean, pair.foils[0]) for pair in instar.ioi(2).pairs(64, seed=0, split="train")]
    own = instar.CircuitCallback(
        ("ioi2", "ioi3"), out=tmp_path / "run", every=20, max_overhead=1e9, stages=["evaluate"], save=None,
        stop_when=True, on_error="raise",
    )  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"), per_device_train_batch_size=16, learning_rate=3e-4, seed=0, disable_tqdm=True,
        max_steps=200, report_to="none", save_strategy="no", use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(FOLDERS[BASE], dtype=torch.float32), args=arguments,
        train_dataset=[encode(row, tokenizer, TrainConfig()) for row in rows],
        data_collator=lambda batch: collate(batch, 0), processing_class=tokenizer, callbacks=[own],
    )  # fmt: skip
    trainer.train()
    assert own.recorder is not None and own.recorder.checked is not None
    assert own.recorder.checked.verdict == "changed" and trainer.state.global_step < 200
    assert "instar/ioi2/gate/choosing" in own.recorder.log
