"""A run on the wordings that its base answers: asked once, recorded, kept apart, and taken again by a run that goes on."""

import json

import pytest

from instar.record.config import RunConfig
from instar.record.names import wording_name
from instar.tasks.pair import normalised
from instar.tasks.prepare import read_pairs
from instar.tasks.wordings import HALF, PAIRS
from instar.workflow import wordings
from instar.workflow.experiment import Experiment
from instar.workflow.pipeline import compare_stage, measure_stage, train_stage
from small_run import SMALL, contents, instar

FEW = {
    "tasks": {"wordings": "answered"},
    "data": {"train_size": 64, "test_size": 40, "measure_pairs": 8},
    "measure": {"stages": ["evaluate"], "circuit_pairs": 4, "patching_pairs": 4},
    "compare": {"controls": []},
    "train": {"steps": 2, "checkpoints": 2, "seeds": [0]},
}


def test_a_run_asks_its_base_once_and_keeps_apart_what_it_asked(tmp_path, monkeypatch, embedded):
    config = RunConfig.checked(SMALL | FEW, "test")
    experiment = Experiment.create(tmp_path / "run", config)
    train_stage(experiment)
    record = json.loads((tmp_path / "run/data/wordings.json").read_text())
    rows = record["wordings"]
    assert {(r["task"], r["split"]) for r in rows} == {(t, s) for t in ("ioi2", "ioi3") for s in ("train", "test")}
    assert record["weights"] == embedded.weights and all(r["pairs"] == PAIRS for r in rows)
    refused = {r["wording"] for r in rows if r["share"] < HALF}
    assert all(r["kept"] == (r["wording"] not in refused) for r in rows)
    asked, kept = {normalised(p) for p in record["prompts"]}, {r["wording"] for r in rows if r["kept"]}
    store, made = experiment.store, []
    for task, kinds in store.prepared()["counterfactuals"].items():
        for pair in (p for kind in kinds for p in read_pairs(store, task, kind)):
            assert wording_name(pair.wording) in kept
            made += [pair.clean, pair.corrupted]
    made += [row["prompt"] for row in store.read_rows(store.data("train.jsonl"))]
    assert len(asked) > 500 and not asked & set(map(normalised, made))

    before = contents(tmp_path / "run")

    def again(*_, **__):
        raise AssertionError("the base is asked again")

    monkeypatch.setattr(wordings, "evaluate", again)
    for opened in (Experiment.create(tmp_path / "run", config), Experiment.open(tmp_path / "run")):
        train_stage(opened)
    measure_stage(Experiment.open(tmp_path / "run"))
    there = contents(tmp_path / "run")
    assert all(there[name] == data for name, data in before.items() if name.startswith(("data/", "checkpoints/")))
    # Measured of these wordings alone, and said.
    summary = compare_stage(Experiment.open(tmp_path / "run"))
    own = summary["tasks"]["ioi3"]
    assert {wording_name(w) for w in own["by_wording"]} <= kept and summary["wordings"] == rows
    whole, naming, choosing = (own["gain"][k]["value"] for k in ("log_probability", "naming", "choosing"))
    assert whole == pytest.approx(naming + choosing, abs=1e-12)
    # Another base is another choice.
    other = type(embedded)(**{**vars(embedded), "weights": "other"})
    with pytest.raises(AssertionError, match="asked again"):
        wordings.answered(experiment, embedded.tokenizer, other)


def test_screen_tells_naming_and_choosing_by_wording():
    (row,) = json.loads(instar("screen", "--tasks", "ioi2", "--pairs", "24", "--json").stdout)["tasks"]
    assert len(row["by_wording"]) == 6 and all(len(row[n]) == 3 for n in ("naming", "choosing", "accuracy"))
