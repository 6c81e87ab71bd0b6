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


def test_key_heads_are_those_of_the_largest_bookings_with_their_causal_check(run, small_run):
    from instar.compare.answered import ledger_of

    key = json.loads((small_run / "summary.json").read_text())["dynamics"]["key"]
    rows = library.booked(ledger_of(run.store, "ioi3", 0, 8), "head", "choosing")
    mine = {str(name): float(value) for name, value in zip(rows["group"].values, rows["booked"].values, strict=True)}
    heads = sorted((name for name in mine if ".h" in name), key=lambda name: -abs(mine[name]))[:5]
    assert [row["name"] for row in key["heads"]] == heads
    assert [row["booked"]["value"] for row in key["heads"]] == pytest.approx([mine[name] for name in heads], abs=1e-6)
    assert all(row["into"] and row["lost"] and row["direct"] is not None for row in key["layers"])
    assert {row["name"][0] for row in key["layers"]} <= {"a", "m"}
    # The control's ledger stands beside: what a fine-tuning on more of the old task writes.
    control = run.answer["controls"]["old"]
    assert set(control["parts"]) == {"Q,K", "V,O", "MLPs", "the rest"}
    total = sum(part["value"] for part in control["parts"].values())
    assert total == pytest.approx(control["gain"]["value"], abs=0.02 * abs(control["gain"]["value"]) + 1e-3)


def test_a_circuit_may_be_of_any_size(run):
    graph = run.circuit("ioi3").graph
    for edges in (5, 60, graph.n_edges):
        own = run.circuit("ioi3", step=8, group="giver1", edges=edges)
        assert edges <= len(own) <= max(1.5 * edges, edges + 8) and own.mask[graph.exists].sum() == len(own)
    with pytest.raises(ValueError, match="between 1 and"):
        run.circuit("ioi3", edges=0)


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
