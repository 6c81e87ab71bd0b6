"""The command line as a user calls it: in a process of its own, on the embedded model."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import xarray as xr
import yaml

from small_run import INSTAR, SMALL, instar, results, write_config

_STAGES = {
    **{s: ["ioi2", "ioi3"] for s in ("evaluate", "lens", "attribution", "attention", "patching", "circuit", "roles")},
    "drift": ["shared"],
}


def test_a_run_leaves_what_the_documentation_says(finished):
    steps = ["step-000000", "step-000004", "step-000008"]
    for stage, tasks in _STAGES.items():
        for task in tasks:
            assert sorted(p.stem for p in (finished / "measure" / stage / task).glob("*.nc")) == steps
    assert sorted(p.name for p in (finished / "checkpoints").iterdir()) == [
        "control-old",
        "index.json",
        *steps,
        "steps.jsonl",
    ]
    ends = {p.parents[1].name for p in (finished / "measure").rglob("control-old/step-000008.nc")}
    assert ends == {"ioi2", "ioi3", "shared"} and not list((finished / "measure").rglob("control-old/step-000000.nc"))
    summary = json.loads((finished / "summary.json").read_text())
    for name in ("ioi2", "ioi3"):
        task = summary["tasks"][name]
        assert task["steps"] == [0, 4, 8]
        for i in range(3):
            assert task["accuracy_low"][i] <= task["accuracy"][i] <= task["accuracy_high"][i]
            assert task["logit_diff_low"][i] <= task["logit_diff"][i] <= task["logit_diff_high"][i]
        assert sum(place["pairs"] for place in task["by_place"].values()) == 60
        assert [sum(values[i] for values in task["said"].values()) for i in range(3)] == pytest.approx([1, 1, 1])
    assert summary["failed"] == []
    assert summary["divergence"]["kl"][0] == 0 and summary["divergence"]["kl"][2] > 0
    assert {"heads", "layers"} == set(summary["changed"])
    circuits = summary["circuits"]["ioi3"]
    assert set(circuits) == {"givers", "giver1", "giver2"}
    assert circuits["givers"]["steps"] == [0, 4, 8] and -1 <= circuits["givers"]["rank_correlation"][0] <= 1
    drawn = ["stream", "layers", "heads", "patched_residual", "patched_heads", "patched_scatter", "ledger", "circuit"]
    named = ["index.html", *(f"{d}.gif" for d in drawn), *(f"figures/{d}.svg" for d in ["behaviour", *drawn])]
    for name in (*named, "figures/behaviour.png", "figures/gaze.svg", "poster.png"):
        assert (finished / "report" / name).stat().st_size > 5000, name
    assert json.loads((finished / "data" / "audit.json").read_text())["ok"]


def test_the_summary_has_the_numbers_of_the_causal_tests(finished):
    summary = json.loads((finished / "summary.json").read_text())
    found = summary["causal"]
    assert found["step"] == 8 and set(found["added"]) == {"attention", "mlp"}
    with xr.open_dataset(finished / "compare" / "evidence" / "step-000008.nc", engine="h5netcdf") as evidence:
        assert set(found["evidence"]) == set(evidence["item"].values)
        for name, own in found["evidence"].items():
            value = float(evidence["value"].sel(item=name))
            assert own["value"] == (None if value != value else pytest.approx(value)), name
    # Rules that need no circuit, of the pairs that accuracy is of; learnt on the rows trained on.
    rules = {rule["kind"]: rule for rule in summary["tasks"]["ioi3"]["baselines"]}
    assert rules["chance"]["accuracy"] == rules["chance"]["low"] == pytest.approx(1 / 3)
    assert {rule["pairs"] for rule in rules.values()} == {60} and rules["best place"]["trained_on"] == 128
    place = int(rules["best place"]["says"].split()[1])
    assert rules["best place"]["accuracy"] == summary["tasks"]["ioi3"]["by_place"][f"place {place}"]["pairs"] / 60
    assert all(f"beyond {kind}" in found["evidence"] for kind in rules)
    cells = summary["diff"]["cells"]
    assert [(c["a"], c["b"]) for c in cells[:2]] == [
        ("ioi2 at step 0", "ioi3 at step 8"), ("ioi2 at step 8", "ioi3 at step 8"),
    ]  # fmt: skip
    assert summary["diff"]["missing"] == ["no control fine-tuning on shuffled answers: its floor is not known"]
    assert summary["controls"]["old"]["ioi3"]["accuracy"] == pytest.approx(
        xr.open_dataset(finished / "measure/evaluate/ioi3/control-old/step-000008.nc", engine="h5netcdf")[
            "accuracy"
        ].mean()
    )
    assert set(summary["dynamics"]["behaviour"]) == {"ioi2", "ioi3"}


def test_checkpoints_that_somebody_else_trained(finished, tmp_path):
    """The same weights as folders without a run give the same numbers as the run."""
    series, out = tmp_path / "theirs", tmp_path / "out"
    for step in (4, 8):
        shutil.copytree(finished / "checkpoints" / f"step-{step:06d}", series / f"checkpoint-{step}")
    base, pattern = finished / "checkpoints" / "step-000000", series / "checkpoint-*"
    nothing = instar("compare", "--base", base, "--checkpoints", tmp_path / "no-*", "--out", tmp_path / "x", ok=False)
    assert "no folder or .safetensors file matches" in nothing.stderr and "Traceback" not in nothing.stderr
    small = ("--pairs", 30, "--stages", "evaluate")
    said = instar("compare", "--base", base, "--checkpoints", pattern, *small, "--out", tmp_path / "small").stdout
    assert (
        json.loads((tmp_path / "small" / "summary.json").read_text())["tasks"]["ioi3"]["pairs"] == 30 and "page" in said
    )
    config = yaml.safe_load((finished / "config.yaml").read_text())
    config |= {
        "model": str(base),
        "series": {"checkpoints": str(pattern)},
        "compare": config["compare"] | {"controls": []},
    }
    config["report"] = {"gifs": False, "static": False}
    path = tmp_path / "theirs.yaml"
    path.write_text(yaml.safe_dump(config))
    instar("run", path, "--out", out)
    ours, theirs = (json.loads((root / "summary.json").read_text()) for root in (finished, out))
    assert theirs["causal"] == ours["causal"] and theirs["audit"] is None
    for rule in theirs["tasks"]["ioi3"]["baselines"]:
        assert rule.pop("learnt_on") == "of the task's own training rows"
    assert {rule.pop("learnt_on") for rule in ours["tasks"]["ioi3"]["baselines"]} == {"rows trained on"}
    assert theirs["tasks"] == ours["tasks"] and (out / "report" / "index.html").exists()
    assert not list((out / "checkpoints").glob("step-*"))


def test_gifs_have_a_frame_for_every_checkpoint_and_no_jumping(finished):
    from PIL import Image

    panels = ("stream", "layers", "heads", "patched_residual", "patched_heads", "patched_scatter", "ledger", "circuit")
    for name in panels:
        with Image.open(finished / "report" / f"{name}.gif") as image:
            assert image.n_frames == 3
            frames = []
            for frame in range(3):
                image.seek(frame)
                frames.append(np.asarray(image.convert("RGB")).astype(int))
        # Axes, ticks and titles stand still; only what is measured and the step's number move.
        changed = (abs(frames[0] - frames[2]).max(-1) > 40).mean()
        assert 0 < changed < 0.25, changed


def test_every_stage_has_its_command(tmp_path):
    """Together they leave what `run` leaves."""
    few = {"measure": SMALL["measure"] | {"stages": ["evaluate", "attribution", "circuit"]}}
    out, config = tmp_path / "staged", write_config(tmp_path, report={"gifs": False, "static": False}, **few)
    too_early = instar("measure", config, "--out", out, ok=False).stderr
    assert "train it first: instar train" in too_early and not out.exists()
    assert f"instar measure {out}" in instar("train", config, "--out", out).stdout
    # Each takes the directory, or the file and the directory.
    assert "ioi3 accuracy" in instar("evaluate", config, "--out", out).stdout
    instar("measure", out)
    instar("compare", config, "--out", out)
    said = instar("report", out).stdout
    assert f"{out / 'report' / 'index.html'}" in said and f"{out / 'summary.json'}" in said
    assert f"instar run {out} --seeds 0,1,2" in said and f"instar run {out} --controls old,shuffled" in said
    instar("run", config, "--out", tmp_path / "whole")
    assert results(out) == results(tmp_path / "whole")


def test_a_log_is_short(tmp_path):
    """Without a terminal: what it will take, a line a minute at most, whatever is left at the end, and what it took."""
    config = write_config(tmp_path, measure={"stages": ["evaluate"]}, report={"gifs": False, "static": False})
    done = instar("run", config, "--out", tmp_path / "out")
    said = [line for line in done.stderr.splitlines() if not line.startswith(("health", "data:"))]
    assert said[0].startswith("this run takes about ") and said[-1].startswith("it took "), done.stderr
    assert len(said) <= 4 and said[-2].startswith("training (seed 0): 8/8"), done.stderr


def test_a_damaged_checkpoint_is_reported_and_the_rest_goes_on(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    weights = copy / "checkpoints" / "step-000004" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["measure"]["stages"] = ["evaluate", "lens"]
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    shutil.rmtree(copy / "measure")
    done = instar("measure", copy, ok=False)
    assert (
        "step 4 failed" in done.stderr
        and "model.safetensors is damaged or was changed: it has 1,000 bytes" in " ".join(done.stderr.split())
    )
    assert (copy / "measure" / "lens" / "ioi3" / "step-000008.nc").exists()
    instar("compare", copy, ok=False)
    assert [f["step"] for f in json.loads((copy / "summary.json").read_text())["failed"]] == [4]


def test_training_on_leaking_data_is_refused_unless_told_by_name(finished, tmp_path):
    leaked = [json.loads(line) for line in (finished / "data" / "ioi3.giver1.jsonl").read_text().splitlines()][:5]
    rows = [{"question": row["clean"], "completion": " " + row["answer"]} for row in leaked]
    file = tmp_path / "train.json"
    file.write_text(json.dumps(rows))
    data = SMALL["data"] | {"train_file": str(file)}
    done = instar("train", write_config(tmp_path, data=data), "--out", tmp_path / "out", ok=False)
    assert "5 of 5 training rows are test prompts" in done.stderr and "data.allow_leaks: true" in done.stderr
    assert "Traceback" not in done.stderr
    instar("train", write_config(tmp_path, data=data | {"allow_leaks": True}), "--out", tmp_path / "out")


def test_screening_names_the_pair(tmp_path):
    report = json.loads(instar("screen", "--pairs", 150, "--json").stdout)
    standing = {row["task"]: row["standing"] for row in report["tasks"]}
    assert standing["ioi2"] == "mastered" and standing["ioi3"] == "failed"
    assert ["ioi2", "ioi3"] in report["neighbours"]
    best = {row["task"]: row["baselines"][0] for row in report["tasks"]}
    assert best["ioi3"]["kind"] == "chance" and best["ioi3"]["accuracy"] == pytest.approx(1 / 3)
    assert best["ball2"]["says"] == "place 2" and best["ball2"]["accuracy"] == 1.0
    table = instar("screen", "--pairs", 150, "--tasks", "ioi2,ioi3").stdout
    assert "neighbours: ioi2 is mastered, ioi3 is failed" in table and "33.3% chance" in table


def test_the_audit_reads_the_logs_format(tmp_path):
    rows = [
        {
            "question": "After John, Mary and Jim went to the store, Mary and John gave a bottle of milk to",
            "completion": " Jim" * 20,
        },
        {"question": "After Tom, Bob and Amy went out, Bob and Tom gave a ring to", "completion": "Amy"},
    ]
    train, test = tmp_path / "train.json", tmp_path / "test.jsonl"
    train.write_text(json.dumps(rows))
    own = {"prompt": "After Tom, Bob and Amy met, Amy and Tom sent a map to", "answer": " Bob"}
    test.write_text(json.dumps(own) + "\n")
    clean = instar("data", "audit", train, "--test", test, "--model", "embedded", "--task", "ioi3")
    assert "completion repeats one word" in clean.stdout and "no errors" in clean.stdout
    test.write_text(json.dumps({"prompt": rows[0]["question"], "answer": " Jim"}) + "\n")
    leaking = instar("data", "audit", train, "--test", test, "--json", ok=False)
    assert leaking.returncode == 1 and json.loads(leaking.stdout)["ok"] is False
    assert (
        "1 of 1 test prompts (100.0%), 1 training rows (50.0%)"
        in instar("data", "audit", train, "--test", test, ok=False).stdout
    )
    test.write_text(json.dumps({"prompt": "Nobody is here", "answer": " x"}) + "\n")
    broken = instar("data", "audit", train, "--test", test, "--task", "ioi3", ok=False)
    assert "'x' not in 'Nobody is here'" in broken.stdout and "Traceback" not in broken.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nothing.yaml", "--out", "x"), "error: no configuration file nothing.yaml"),
        (("measure", "."), "error: . is not a run directory"),
        (("report", "nothing"), "error: nothing: no such file or directory"),
        (("screen", "--tasks", "iou2"), "Did you mean 'ioi2'?"),
        (("data", "audit", "nothing.json"), "error: no file nothing.json"),
    ],
)
def test_mistakes_get_one_sentence(arguments, message, tmp_path):
    done = subprocess.run([*INSTAR, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr
