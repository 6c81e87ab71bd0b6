"""The answer of a real run and of two models, and the ledger's table: by the commands that a user types."""

import csv
import json
from collections import defaultdict

import numpy as np
import pytest

import instar as library
from small_run import instar


@pytest.fixture(scope="module")
def run(small_run):
    return library.load_run(small_run)


def test_a_run_has_its_answer_and_says_it(run, small_run):
    found = run.answer
    assert found["step"] == 8 and found["headline"] and len(found["headline"].split()) <= 30
    assert [row["step"] for row in found["series"]] == [8] and found["seeds"] == {"0": found["kind"]}
    assert json.loads((small_run / "summary.json").read_text())["schema"] == 4
    assert found["headline"] in repr(run).replace("\n  ", " ") or found["headline"][:40] in repr(run)
    page = (small_run / "report" / "index.html").read_text()
    assert found["headline"].split(";")[0] in page


def test_bookings_of_the_run_add_up_to_what_was_gained(run):
    steps = run.measured["ledger"]["ioi3"]
    assert steps == [4, 8] and run.measured["reuse"] == run.measured["shapley"] == {"shared": [8]}
    told = run.answer["ledger"]
    for metric in ("choosing", "logit_diff"):
        booked = sum(np.array(values) for values in told[metric]["booked"].values())
        np.testing.assert_allclose(booked + np.array(told[metric]["residual"]), told[metric]["gain"], atol=1e-5)
    parts = run.answer["written"]["parts"][:4]
    whole = run.answer["written"]["gain"]["value"]
    assert sum(p["booked"]["value"] for p in parts) == pytest.approx(whole, abs=0.02 * abs(whole) + 1e-4)


def test_the_ledger_is_a_table_and_a_file(small_run, tmp_path):
    file = tmp_path / "ledger.csv"
    done = instar("ledger", small_run, "--by", "head", "--csv", file)
    assert "ioi3: the gain in choosing" in done.stdout and "a0.h" in done.stdout
    sums = defaultdict(float)
    for row in csv.DictReader(file.read_text().splitlines()):
        sums[row["interval"]] += float(row["booked"])
    assert set(sums) == {"4", "8"}
    gain = library.load_run(small_run).answer["ledger"]["choosing"]["gain"]
    assert [sums["4"], sums["8"]] == pytest.approx(gain, abs=1e-2)
    lost = instar("ledger", small_run, "--step", "6", ok=False)
    assert "there are steps 4, 8" in lost.stderr


def test_two_models_are_enough(small_run, tmp_path):
    rows = {name: tmp_path / f"{name}.jsonl" for name in ("old", "new")}
    for name, task in (("old", "ioi2"), ("new", "ioi3")):
        pairs = library.task(task).pairs(24, 7)
        own = [{"prompt": p.clean, "corrupted": p.corrupted, "answer": p.answer, "foils": list(p.foils),
                "contrast": list(p.contrast)} for p in pairs]  # fmt: skip
        rows[name].write_text("\n".join(map(json.dumps, own)))
    tuned, out = small_run / "checkpoints" / "step-000008", tmp_path / "out"
    words = ("answer", "embedded", tuned, "--old", rows["old"], "--new", rows["new"], "--out", out)
    done = instar(*words)
    found = library.load_run(out).answer
    assert found["headline"].split(";")[0][:50] in done.stdout.replace("\n", " ")
    assert found["written"] is None or found["written"]["intervals"] == 1
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.nc")}
    instar(*words)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.nc")} == before and before
