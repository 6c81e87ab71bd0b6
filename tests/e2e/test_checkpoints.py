"""Checkpoints that somebody else trained: of mixed forms in one series, and from a model hub over real HTTP."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

import instar
from hub import Hub, serving
from instar.models.organism import FOLDER
from instar.tasks.batch import tokenize
from instar.workflow.adopt import expanded, sources
from saved import adapter
from small_run import told

SMALL = {
    "data": {"test_size": 20, "measure_pairs": 8},
    "measure": {"stages": ["evaluate", "attribution", "drift"]},
    "report": {"gifs": False, "static": False},
    "threads": 1,
}


def moved(scale: float):
    generator = torch.Generator().manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(scale * torch.randn(value.shape, generator=generator))
    return model


def run(folder: Path, model: str, checkpoints: str, evict: bool = False, **environment: str):
    config = folder / "run.yaml"
    series = {"checkpoints": checkpoints, "evict": evict}
    config.write_text(yaml.safe_dump(SMALL | {"model": model, "series": series}))
    command = [sys.executable, "-W", "error", "-m", "instar.cli", "run", str(config), "--out", str(folder / "out")]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "300", **environment}, timeout=300
    )


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("a/b-*", ["a/b-*"]),
        ("m@step{1,20}", ["m@step1", "m@step20"]),
        ("m@step{1..3}", ["m@step1", "m@step2", "m@step3"]),
        ("m@{0..9..4}", ["m@0", "m@4", "m@8"]),
        ("m@{3..1}", ["m@3", "m@2", "m@1"]),
        ("{a,b}@r{1,2}", ["a@r1", "a@r2", "b@r1", "b@r2"]),
    ],
)
def test_braces_are_a_shell_s(pattern, wanted):
    assert expanded(pattern) == wanted


def test_what_matches_nothing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no folder or .safetensors file matches .*none-\*"):
        sources(str(tmp_path / "none-*"))
    (tmp_path / "notes-1.txt").write_text("")
    with pytest.raises(ValueError, match="no folder"):
        sources(str(tmp_path / "*-1*"))
    assert sources("org/name@v{1,2}") == ["org/name@v1", "org/name@v2"]


def test_a_series_of_mixed_forms_goes_on_past_what_cannot_be_read(tmp_path):
    moved(0.01).save_pretrained(tmp_path / "checkpoint-10", max_shard_size="1MB")
    moved(0.02).bfloat16().save_pretrained(tmp_path / "checkpoint-20")
    save_file(
        {f"module.{k}": v.clone() for k, v in moved(0.03).state_dict().items()}, tmp_path / "checkpoint-30.safetensors"
    )
    (tmp_path / "checkpoint-50").mkdir()
    torch.save(moved(0.0).state_dict(), tmp_path / "checkpoint-50" / "pytorch_model.bin")
    shutil.copytree(tmp_path / "checkpoint-20", tmp_path / "checkpoint-60")
    half = tmp_path / "checkpoint-60" / "model.safetensors"
    half.write_bytes(half.read_bytes()[:1_000_000])
    shutil.copytree(tmp_path / "checkpoint-20", tmp_path / "checkpoint-70")
    strange = json.loads((tmp_path / "checkpoint-70" / "config.json").read_text()) | {"n_layer": "two"}
    (tmp_path / "checkpoint-70" / "config.json").write_text(json.dumps(strange))
    done = run(tmp_path, "embedded", str(tmp_path / "checkpoint-*"))
    assert done.returncode == 1, "checkpoints failed, and the exit code must say so"
    assert "Traceback" not in done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["tasks"]["ioi3"]["steps"] == [0, 10, 20, 30]
    assert {f["step"]: f["reason"] for f in summary["failed"]}.keys() == {50, 60, 70}
    reasons = " ".join(f["reason"] for f in summary["failed"])
    assert "pytorch_model.bin" in reasons and "half-written" in reasons and "half-written" in done.stdout + done.stderr
    # Each was measured as the weights that were saved, whatever the form.
    base = instar.load("embedded")
    for row, scale in zip(summary["checkpoints"][1:4], (0.01, 0.02, 0.03), strict=True):
        saved = moved(scale).bfloat16().float() if row["step"] == 20 else moved(scale)
        assert row["weights"] == instar.load(saved, base.tokenizer).weights
    page = told(tmp_path / "out" / "report" / "index.html")
    assert "half-written" in page and "could not be measured" in page and "somebody else" in page


def test_a_checkpoint_s_own_tokenizer_is_used_and_said(tmp_path):
    """Its prompts begin with a token that the base's do not; each is measured as it would be used."""
    for step in (10, 20):
        moved(0.01).save_pretrained(tmp_path / f"checkpoint-{step}")
        AutoTokenizer.from_pretrained(FOLDER).save_pretrained(tmp_path / f"checkpoint-{step}")
    own = AutoTokenizer.from_pretrained(FOLDER)
    own._tokenizer.post_processor = TemplateProcessing(
        single=f"{own.eos_token} $A", special_tokens=[(own.eos_token, own.eos_token_id)]
    )
    own.save_pretrained(tmp_path / "checkpoint-20")
    done = run(tmp_path, "embedded", str(tmp_path / "checkpoint-*"))
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    [notice] = summary["notices"]
    assert (notice["kind"], notice["steps"]) == ("tokenizer", [20]) and "otherwise than the base's" in notice["text"]
    assert (
        notice["text"][:40] in done.stdout
        and "otherwise than the base" in (tmp_path / "out/report/index.html").read_text()
    )
    # The same weights, read in two ways.
    values = summary["tasks"]["ioi3"]["logit_diff"]
    found = instar.load(tmp_path / "checkpoint-20", like=instar.load("embedded"))
    pairs = instar.load_run(tmp_path / "out").pairs("ioi3", "giver1")
    truth = instar.evaluate(found, tokenize(pairs, found.tokenizer))["logit_diff"]
    assert values[1] != values[2] and values[2] == pytest.approx(float(truth.mean()), rel=1e-4)


@pytest.fixture
def hub(tmp_path):
    revisions = {"main": FOLDER, "step0": FOLDER}
    for step, scale in ((10, 0.01), (20, 0.02)):
        folder = tmp_path / "hub" / f"step{step}"
        moved(scale).save_pretrained(folder, **({"max_shard_size": "2MB"} if step == 10 else {}))
        revisions[f"step{step}"] = folder
    return Hub({"org/tiny": revisions})


def test_an_adapter_of_another_revision_is_not_put_on_this_one(tmp_path, hub):
    own = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "PYTHONWARNINGS": "ignore"}
    for step, revision in ((5, "step10"), (6, "step0")):
        adapter(tmp_path / f"checkpoint-{step}", AutoModelForCausalLM.from_pretrained(FOLDER), named="org/tiny")
        file = tmp_path / f"checkpoint-{step}" / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"revision": revision}))
    with serving(hub):
        done = run(tmp_path, "org/tiny@step0", str(tmp_path / "checkpoint-*"), **own, HF_ENDPOINT=hub.url)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [f["step"] for f in summary["failed"]] == [5], done.stderr
    assert "trained on revision 'step10' of org/tiny" in summary["failed"][0]["reason"]
    assert "another commit" in summary["failed"][0]["reason"]


def test_hub_revisions_are_fetched_measured_and_evicted(tmp_path, hub):
    home = tmp_path / "home"
    # huggingface_hub of this version warns of its own HTTP library, so warnings are not errors here.
    own = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "PYTHONWARNINGS": "ignore"}
    pattern = "org/tiny@step{10..30..10}"
    with serving(hub):
        done = run(tmp_path, "org/tiny@step0", pattern, evict=True, **own, HF_ENDPOINT=hub.url)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["tasks"]["ioi2"]["steps"] == [0, 10, 20]
    assert [f["step"] for f in summary["failed"]] == [30]
    assert "'org/tiny' at revision 'step30'" in summary["failed"][0]["reason"]
    base = instar.load("embedded")
    for row, scale in zip(summary["checkpoints"][1:], (0.01, 0.02), strict=False):
        assert (row["source"], row["revision"]) == ("org/tiny", f"step{row['step']}")
        assert row["weights"] == instar.load(moved(scale), base.tokenizer).weights
    kept = {p.parent.name for p in home.rglob("*.safetensors") if ".no_exist" not in p.parts}
    assert len(kept) == 1, f"only the base stays in the cache, found {kept}"
    # Out of reach, and evicted: what was measured stays, and nothing is fetched or measured again.
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "measure").rglob("*.nc")}
    again = run(tmp_path, "org/tiny@step0", pattern, evict=True, **own | {"HF_HUB_OFFLINE": "1"})
    assert again.returncode == 1
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["tasks"] == summary["tasks"]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "measure").rglob("*.nc")} == before


def test_what_a_hub_cannot_give_says_why(tmp_path, hub):
    """A connection that breaks, a pickle, empty tensors, no such revision: each is named as what it is."""
    folders = hub.revisions["org/tiny"] | {name: tmp_path / "hub" / name for name in ("pickle", "shell")}
    for name in ("pickle", "shell"):
        shutil.copytree(folders["step20"], folders[name])
    (folders["pickle"] / "model.safetensors").rename(folders["pickle"] / "pytorch_model.bin")
    state = load_file(folders["shell"] / "model.safetensors")
    save_file({name: torch.zeros(0) for name in state}, folders["shell"] / "model.safetensors")
    hub.revisions["org/tiny"] = folders
    hub.cut.add("step20/model.safetensors")
    code = (
        "import instar, json\nbase = instar.load('embedded')\nfor r in ('step20', 'pickle', 'shell', 'none'):\n"
        "    try:\n        instar.load('org/tiny', revision=r, like=base)\n"
        "    except (ValueError, OSError) as error:\n        print(json.dumps(str(error)))"
    )
    own = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "PYTHONWARNINGS": "ignore"}
    with serving(hub):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=os.environ | own | {"HF_ENDPOINT": hub.url},
        )
    cut, pickle, shell, none = done.stdout.splitlines()
    assert "org/tiny@step20: model.safetensors could not be fetched (" in cut and "tries again" in cut
    assert "org/tiny@pickle holds no model.safetensors. If it has a .bin" in pickle and "revision='pickle'" in pickle
    assert "52 of 52 tensors have no values" in shell and "ZeRO-3" in shell
    assert "'org/tiny' at revision 'none'" in none


def test_what_was_in_the_cache_before_is_not_evicted(tmp_path, hub):
    home = tmp_path / "home"
    own = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "PYTHONWARNINGS": "ignore"}
    with serving(hub):
        for pattern, evicted in (("org/tiny@step{20}", False), ("org/tiny@step{10,20}", True)):
            done = run(tmp_path, "org/tiny@step0", pattern, evict=evicted, **own, HF_ENDPOINT=hub.url)
            assert done.returncode == 0, done.stderr
    kept = {p.parent.name for p in home.rglob("*.safetensors") if ".no_exist" not in p.parts}
    assert len(kept) == 2


def test_an_unreachable_base_is_one_clear_error(tmp_path):
    done = run(tmp_path, "org/nothing@v1", "org/nothing@v{2,3}", HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "org/nothing" in done.stderr
