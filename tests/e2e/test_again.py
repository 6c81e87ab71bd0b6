"""A second run: it does nothing again, goes on after a kill, forgets what is stale, and is the same on several workers."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
import torch
import yaml

from instar import load
from instar.record.store import Store
from small_run import INSTAR, SMALL, contents, instar, results, write_config


def test_a_second_run_does_nothing_again(finished):
    before = {
        p: p.stat().st_mtime_ns for sub in ("data", "checkpoints", "measure") for p in (finished / sub).rglob("*.nc")
    }
    before |= {p: p.stat().st_mtime_ns for p in (finished / "checkpoints").rglob("*") if p.is_file()}
    instar("run", finished / "config.yaml", "--out", finished)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())


def test_only_what_is_missing_is_made(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    gone = copy / "measure" / "lens" / "ioi3" / "step-000004.nc"
    kept = copy / "measure" / "lens" / "ioi3" / "step-000008.nc"
    original, time_before = gone.read_bytes(), kept.stat().st_mtime_ns
    gone.unlink()
    instar("measure", copy)
    assert gone.read_bytes() == original and kept.stat().st_mtime_ns == time_before


def test_measurements_of_several_versions_are_said_and_made_anew_when_asked(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["measure"]["stages"] = ["evaluate"]
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    old = copy / "measure" / "evaluate" / "ioi3" / "step-000004.nc"
    original = old.read_bytes()
    store, _ = Store.open(copy)
    with store.writing(old, key=store.key_of(old), made_with="instar 0.1.0, torch 2.0.0") as scratch:
        scratch.write_bytes(original)
    time_before = old.stat().st_mtime_ns
    said = " ".join(instar("compare", copy).stdout.split())
    assert "measurements of several versions are compared" in said and "1 with instar 0.1.0, torch 2.0.0" in said
    assert old.stat().st_mtime_ns == time_before, "another version makes nothing anew by itself"
    assert "several versions" not in instar("compare", copy, "--remeasure").stdout
    assert old.read_bytes() == original


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.storm)])
def test_kill_minus_nine_at_any_moment_and_run_again(finished, tmp_path, seed):
    """Wherever it dies, the rerun ends with the unbroken run's results, byte for byte."""
    out, rng = tmp_path / "out", random.Random(seed)
    command = [*INSTAR, "run", str(finished / "config.yaml"), "--out", str(out)]
    for _ in range(3):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(rng.uniform(2.0, 12.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    instar("run", finished / "config.yaml", "--out", out)
    assert not list(out.rglob(".partial*"))
    ours, theirs = results(out), results(finished)
    assert set(ours) == set(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_several_seeds_have_their_own_series_and_one_base(tmp_path):
    train = SMALL["train"] | {"seeds": [0, 5], "save": "bfloat16"}
    measure = {
        "stages": ["evaluate", "roles"],
        "role_pairs": 4,
        "further_seeds": "ends",
        "checkpoints": {"roles": "ends"},
    }
    report, compare = {"gifs": False, "static": False}, {"controls": []}
    config = write_config(tmp_path, train=train, measure=measure, report=report, compare=compare)
    out = tmp_path / "out"
    instar("run", config, "--out", out)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["tasks"]["ioi3"]["steps"] == [0, 4, 8] and summary["tasks"]["ioi3"]["seeds"]["5"]["steps"] == [0, 8]
    # Where it is not measured, nothing is said of when it happened.
    assert {len(event["seeds"]["values"]) for event in summary["dynamics"]["events"] if "seeds" in event} <= {1}
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert "checkpoints/seed-5/step-000008/difference.safetensors" in there
    assert not [name for name in there if "seed-5/step-000000" in name], "the base is kept and measured once"
    assert not [name for name in there if "seed-5/step-000004" in name], "what is not measured is not kept"
    assert {n for n in there if n.startswith("measure/roles/ioi3/")} == {
        f"measure/roles/ioi3/{name}.nc" for name in ("step-000000", "step-000008", "seed-5/step-000008")
    }
    base = load(out / "checkpoints/step-000000")
    changed = load(out / "checkpoints/seed-5/step-000008").module.state_dict()
    assert not all(torch.equal(value, changed[name]) for name, value in base.module.state_dict().items())
    again = instar("run", config, "--out", out)
    assert "training (" not in again.stderr and "removed" not in again.stdout, "nothing is made twice or taken away"


def test_another_schedule_leaves_nothing_stale(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    train = SMALL["train"] | {"steps": 4, "checkpoints": 2}
    few = {"measure": {"stages": ["evaluate", "lens"]}, "compare": {"controls": []}}
    config = write_config(tmp_path, train=train, report={"gifs": False, "static": False}, **few)
    refused = instar("run", config, "--out", copy, ok=False).stderr
    assert "train.checkpoints: 2 (there: 4)" in refused and "train.steps: 4 (there: 8)" in refused
    assert contents(copy) == contents(finished), "nothing is lost without a question"
    instar("run", config, "--out", copy, "--replace")
    found = {p.stem for p in (copy / "measure").rglob("*.nc")}
    assert found == {"step-000000", "step-000002", "step-000004"}
    assert json.loads((copy / "summary.json").read_text())["tasks"]["ioi3"]["steps"] == [0, 2, 4]


def test_a_refused_configuration_leaves_no_trace(finished, tmp_path):
    few = {"measure": {"stages": ["evaluate", "lens"]}, "compare": {"controls": []}}
    few |= {"report": {"gifs": False, "static": False}}
    copy, first = tmp_path / "copy", write_config(tmp_path, **few).rename(tmp_path / "first.yaml")
    instar("run", first, "--out", copy)
    before = results(copy)
    rows = [json.loads(line) for line in (finished / "data" / "ioi3.giver1.jsonl").read_text().splitlines()]
    leak = tmp_path / "leak.jsonl"
    leak.write_text(json.dumps({"prompt": rows[0]["clean"], "answer": rows[0]["answer"]}))
    data = SMALL["data"] | {"train_file": str(leak)}
    config = write_config(tmp_path, data=data, **few)
    assert "data.train_file" in instar("run", config, "--out", copy, ok=False).stderr
    assert "are test prompts" in instar("run", config, "--out", copy, "--replace", ok=False).stderr
    instar("run", first, "--out", copy)
    assert results(copy) == before
