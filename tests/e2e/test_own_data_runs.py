"""A user's own data and own task through the command line: audit, training, measurement, summary."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from conftest import tiny_gpt2
from freewriting import rows
from instar.record.config import DataConfig, TasksConfig
from instar.record.store import Store
from instar.tasks.lengths import refuse_too_few
from instar.tasks.prepare import prepare
from instar.workflow.opened import load_run
from small_run import instar
from vocabularies import splitting

ROOT = Path(__file__).parents[2]
SMALL = {
    "data": {"test_size": 24, "measure_pairs": 8},
    "train": {"steps": 2, "checkpoints": 2, "learning_rate": 1e-3, "seeds": [0]},
    "measure": {
        "stages": ["evaluate", "attribution", "attention", "patching", "circuit", "roles"],
        "patching_pairs": 4,
        "circuit_pairs": 4,
        "role_pairs": 4,
        "exact_ends": False,
    },
    "compare": {"checkpoints": 1, "pairs": 8, "random_sets": 2, "exchanged_sets": 1, "single": False, "controls": []},
    "report": {"gifs": False, "static": False},
    "threads": 1,
}


def test_three_hundred_rows_in_free_wording_from_audit_to_summary(tmp_path):
    mine = tmp_path / "mine.json"
    content = rows(300, odd=True)
    content[0]["completion"] *= 20  # the log's way to a longer completion
    mine.write_text(json.dumps(content))
    audited = json.loads(instar("data", "audit", mine, "--task", "ioi3", "--json").stdout)
    refused = [r for f in audited["findings"] if f["severity"] == "warning" for r in f["rows"]]
    assert sorted(r.split(":")[0] for r in refused) == ["row 301", "row 302", "row 304"]
    run = tmp_path / "run.yaml"
    new = {"model": "embedded", "tasks": {"new": str(mine)}, "data": SMALL["data"] | {"holdout": 0.2}}
    run.write_text(yaml.safe_dump(SMALL | new))
    done = instar("run", run, "--out", tmp_path / "out")
    assert "mine: rows not used, 3 rows" in done.stderr + done.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["tasks"]["mine"]["pairs"] == 24 and summary["answer"]["kind"]
    assert set(summary["circuits"]["mine"]) == {"givers", "giver1", "giver2"}
    unused = next(f for f in summary["audit"]["findings"] if f["kind"] == "mine: rows not used")
    assert unused["count"] == 3 and 236 <= summary["audit"]["rows"] <= 243
    listed = [json.loads(line) for line in (tmp_path / "out" / "data" / "rejected.jsonl").read_text().splitlines()]
    assert [row["number"] for row in listed] == [301, 302, 304]


def given_pairs(path: Path, first: str, names: tuple[str, ...]) -> None:
    """Every two of the names and every thing, with the giver's name put right."""
    things, found = ("ring", "key", "lamp", "park"), []
    for number, (a, b, thing) in enumerate(itertools.product(names, names, things)):
        text = f"{first} {a} and {b} met , {{}} gave a {thing} to"
        row = {"clean": text.format(a), "corrupted": text.format(b), "answer": b, "foils": [a]}
        split = "test" if number % 3 else "train"
        found += [row | {"counterfactual": "giver1", "split": split}] if a != b else []
    path.write_text(json.dumps(found))


def test_a_run_with_prompts_of_different_lengths_goes_to_its_end(tmp_path):
    names = ("Mary", "John", "Tom", "Jim", "Rebecca", "William")
    tokenizer = splitting(*names[:4])
    model = tiny_gpt2(layers=2)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    given_pairs(tmp_path / "old.json", "When", names[:4])
    given_pairs(tmp_path / "new.json", "Then", names)
    run, one = tmp_path / "run.yaml", SMALL["train"] | {"steps": 1, "checkpoints": 1}
    tasks = {name: str(tmp_path / f"{name}.json") for name in ("old", "new")}
    run.write_text(yaml.safe_dump(SMALL | {"model": str(tmp_path / "model"), "tasks": tasks, "train": one}))
    done = instar("run", run, "--out", tmp_path / "out")
    said = " ".join((done.stdout + done.stderr).split())
    assert "new: prompts that differ in length" in said and "new: words of several tokens" in said
    assert "old: prompts" not in said
    found = load_run(tmp_path / "out")
    tested = [r for r in json.loads((tmp_path / "new.json").read_text()) if r["split"] == "test"]
    longer = [r for r in tested if sum(x in ("Rebecca", "William") for x in (r["answer"], *r["foils"])) == 1]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    (finding,) = (f for f in summary["audit"]["findings"] if f["kind"] == "new: prompts that differ in length")
    assert 0 < finding["count"] <= len(longer) and finding["unit"] == "prompts" and not summary["failed"]
    circuits, patched = (found.store.series(stage, "new") for stage in ("circuit", "patching"))
    assert "whose clean and corrupted prompts differ" in circuits.attrs["left_out"]
    assert circuits.sizes["pair"] == 4 and not np.isnan(circuits["score"]).all()
    assert patched.attrs["unequal"] and np.isnan(patched["pattern"]).any() and not np.isnan(patched["z"]).any()
    # Nothing that goes position by position: one sentence, where the data are made.
    only = [r for r in json.loads((tmp_path / "new.json").read_text()) if r in longer or r["split"] == "train"]
    (tmp_path / "new.json").write_text(json.dumps(only))
    store, data = Store(tmp_path / "none"), DataConfig(test_size=24, measure_pairs=8)
    prepare(store, TasksConfig(**tasks), data, tokenizer)
    refuse_too_few(store, ("evaluate", "patching"))
    with pytest.raises(ValueError, match="new: 24 of 24 pairs have .*; circuit and roles need 2 that can"):
        refuse_too_few(store, ("patching", "circuit", "roles"))


def test_the_example_that_is_not_ioi_runs(tmp_path):
    folder = ROOT / "examples" / "greater_than"
    model = tmp_path / "model"
    made = subprocess.run(
        [sys.executable, folder / "make_model.py", model, "--steps", "20"], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    config = yaml.safe_load((folder / "run.yaml").read_text())
    config |= SMALL | {"model": str(model)}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    instar("run", tmp_path / "run.yaml", "--out", tmp_path / "out", cwd=ROOT)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(summary["tasks"]) == {"two", "three"} and summary["tasks"]["three"]["steps"] == [0, 2]
    assert set(summary["circuits"]["three"]) == {"greatest"} and (tmp_path / "out" / "report" / "index.html").exists()
    pair = json.loads((tmp_path / "out" / "data" / "three.greatest.jsonl").read_text().splitlines()[0])
    numbers = [int(pair["clean"][s["start"] : s["stop"]]) for s in pair["spans"]]
    assert pair["answer"] == str(max(numbers)) and pair["contrast"] == [str(sorted(numbers)[-2])]
