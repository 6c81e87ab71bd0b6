"""`instar.load_run` on a real run, whole and in parts; every file of it opens with plain xarray and pandas."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml

import instar
from instar.workflow.opened import STAGES, Run


@pytest.fixture(scope="module")
def run(small_run) -> Run:
    return instar.load_run(small_run)


@pytest.mark.parametrize("stage", STAGES)
def test_every_dataset_opens_with_plain_xarray_and_pandas(small_run, stage):
    files = sorted((small_run / "measure" / stage).rglob("*.nc"))
    assert files
    for file in files[:1] + files[-1:]:
        with xr.open_dataset(file) as dataset:
            for name in dataset.data_vars:
                table = dataset[name].to_dataframe()
                assert isinstance(table, pd.DataFrame) and len(table) == dataset[name].size
            assert all(isinstance(value, str | int | float | np.number) for value in dataset.attrs.values())


def test_evidence_opens_too(run, small_run):
    with xr.open_dataset(small_run / "compare" / "evidence" / "step-000008.nc") as dataset:
        assert {"value", "low", "high"} <= set(dataset.to_dataframe().columns)
        assert run.evidence().identical(dataset.load()) and run.evidence(8).identical(run.evidence())


def test_each_piece_is_one_line(run):
    assert run.tasks == {"old": "ioi2", "new": "ioi3"} and run.steps == [0, 4, 8]
    assert run.seeds == [0] and run.controls == ["old"] and run.config.train.steps == 8
    assert run.measured["lens"] == {"ioi2": [0, 4, 8], "ioi3": [0, 4, 8]} and run.measured["causal"] == {"shared": [8]}
    assert run.page.read_text().startswith("<!doctype html>") and run.missing == []
    pairs = run.pairs("ioi3", "giver2", 3)
    assert len(pairs) == 3 and all(p.clean != p.corrupted and p.counterfactual == "giver2" for p in pairs)
    heads = run.heads
    assert set(heads["task"]) == {"ioi2", "ioi3"} and len(heads) == 2 * 32
    assert heads[heads.task == "ioi3"].change.abs().is_monotonic_decreasing


def test_a_measurement_is_the_files_along_steps(run, small_run):
    series = run.measure("circuit", "ioi3")
    assert series["step"].values.tolist() == [0, 4, 8]
    with xr.open_dataset(small_run / "measure" / "circuit" / "ioi3" / "step-000004.nc") as one:
        np.testing.assert_array_equal(series["score"].sel(step=4).transpose(*one["score"].dims), one["score"])
    assert run.measure("evaluate", "ioi3", seed="old")["step"].values.tolist() == [8]


def test_a_stored_circuit_has_its_scores_and_its_sign(run):
    circuit, file = run.circuit("ioi3", 8), run.measure("circuit", "ioi3", steps=[8]).isel(step=0)
    assert circuit.edges == tuple(file["edge"].values[file["in_circuit"].sel(group="givers").values.astype(bool)])
    mean = file["score"].mean(("counterfactual", "pair"))
    assert circuit.known == pytest.approx({e: float(mean.sel(edge=e)) for e in circuit.edges})
    alone = run.circuit("ioi3", 4, "giver2")
    assert alone.how.startswith("eap-ig, giver2") and run.circuit("ioi3").edges == circuit.edges


def test_frames_are_tidy_and_hold_the_means(run):
    behaviour, summary = run.frame("evaluate", "ioi3"), run.summary["tasks"]["ioi3"]
    assert behaviour["accuracy_low"].tolist() == pytest.approx(summary["accuracy_low"])
    heads = run.frame("attribution", "ioi3", "heads")
    assert list(heads.columns) == ["step", "layer", "head", "heads"] and len(heads) == 3 * 4 * 8
    row = heads[(heads.step == 4) & (heads.layer == 2) & (heads["head"] == 5)]["heads"].item()
    own = run.measure("attribution", "ioi3")["heads"].sel(step=4, layer=2, head=5)
    assert row == pytest.approx(float(own.mean()), rel=1e-4)
    assert list(run.frame("drift", variable="kl").columns) == ["step", "kl"]
    with pytest.raises(ValueError, match=r"variable=None: attribution has heads \(layer × head\)"):
        run.frame("attribution", "ioi3")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: run.measure("lense", "ioi3"), "no stage 'lense'; there are evaluate, lens"),
        (lambda run: run.measure("lens", "ioi9"), "no task 'ioi9'; this run has ioi2, ioi3"),
        (lambda run: run.measure("lens"), "takes a task: ioi2, ioi3"),
        (lambda run: run.measure("drift", "ioi3"), "takes no task"),
        (lambda run: run.measure("lens", "ioi3", seed=7), "seed=7: this run has 0, 'old'"),
        (lambda run: run.circuit("ioi3", 3), r"steps=\[3\]: circuit of ioi3 is there at steps 0, 4, 8"),
        (lambda run: run.circuit("ioi3", group="giver9"), "no circuit of 'giver9'; there are givers, giver1"),
        (lambda run: run.pairs("ioi3", "giver9"), "no counterfactual 'giver9' of ioi3; there are giver1"),
        (lambda run: run.model(5), "no checkpoint of step 5; there are 0, 4, 8"),
        (lambda run: run.frame("lens", "ioi3", "heads"), "variable='heads': lens has logit_diff"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(run, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(run)


def test_a_run_under_way_says_what_makes_the_rest(small_run, tmp_path):
    part = tmp_path / "a run"
    part.mkdir()
    shutil.copy(small_run / "config.yaml", part)
    run = instar.load_run(part)
    for ask, command in (
        (lambda: run.tasks, f"instar train '{part}'"),
        (lambda: run.steps, f"instar train '{part}'"),
        (lambda: run.summary, f"instar compare '{part}'"),
        (lambda: run.page, f"instar report '{part}'"),
    ):
        with pytest.raises(FileNotFoundError) as error:
            ask()
        assert command in str(error.value)
    assert "seed 0 is not trained" in repr(run) and "not measured: evaluate" in run._repr_html_()
    # Trained, not measured.
    shutil.copytree(small_run / "data", part / "data")
    shutil.copytree(small_run / "checkpoints", part / "checkpoints")
    assert run.steps == [0, 4, 8] and run.measured == {} and run.pairs("ioi2")
    with pytest.raises(
        FileNotFoundError, match="lens of ioi3, seed 0, is not measured yet; there is none.*instar measure"
    ):
        run.measure("lens", "ioi3")
    # Measured, not compared.
    shutil.copytree(small_run / "measure", part / "measure")
    assert run.circuit("ioi3").edges and len(run.missing) == 2
    with pytest.raises(FileNotFoundError, match="no evidence on step 8 of seed 0.*instar compare"):
        run.evidence()
    shutil.copy(small_run / "summary.json", part)
    assert run.answer["kind"] and run.missing == [f"no report/index.html: instar report '{part}'"]
    summary = json.loads((part / "summary.json").read_text())
    (part / "summary.json").write_text(json.dumps(summary | {"answer": None}))
    with pytest.raises(FileNotFoundError, match="there is no answer"):
        _ = run.answer
    assert "none: no checkpoint was tested" in repr(run)
    # Of a run that an instar without the answer made.
    earlier = summary | {"answer": None, "schema": 3, "verdict": {"kind": "rewired", "step": 8, "text": "x"}}
    (part / "summary.json").write_text(json.dumps(earlier))
    assert f"rewired (step 8, instar {summary['instar']})" in repr(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a run directory"):
        instar.load_run(tmp_path)


def test_checkpoints_load_also_those_that_lie_elsewhere(run, small_run, tmp_path):
    model = run.model(4)
    assert model.weights == str(run.measure("lens", "ioi3", steps=[4]).attrs["weights"])
    # As a run on somebody else's checkpoints leaves it: nothing is copied, and these have no tokenizer of their own.
    theirs, part = tmp_path / "theirs" / "checkpoint-4", tmp_path / "out"
    shutil.copytree(small_run / "checkpoints" / "step-000004", theirs, ignore=shutil.ignore_patterns("tokenizer*"))
    config = yaml.safe_load((small_run / "config.yaml").read_text())
    config |= {"series": {"checkpoints": str(tmp_path / "theirs" / "checkpoint-*")}}
    config["compare"]["controls"] = []
    (part / "checkpoints").mkdir(parents=True)
    (part / "config.yaml").write_text(yaml.safe_dump(config))
    base = small_run / "checkpoints" / "step-000000"
    rows = [{"step": 0, "source": str(base)}, {"step": 4, "source": str(theirs)}]
    (part / "checkpoints" / "index.json").write_text(json.dumps({"key": "adopted", "seed": 0, "steps": rows}))
    adopted = instar.load_run(part).model()
    assert adopted.weights == model.weights and adopted.tokenizer is not None


def test_no_piece_but_the_model_needs_torch(small_run):
    code = (
        "import sys, instar\nrun = instar.load_run(sys.argv[1])\n"
        "print(run)\nrun.answer, run.heads, run.pairs('ioi3'), run.circuit('ioi3').graphml(), run.frame('lens', 'ioi3')\n"
        "print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(small_run)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Run of embedded\n") and done.stdout.strip().endswith("[]")
