"""A user's own data and own task through the command line: audit, training, measurement, summary."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from freewriting import rows

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


def instar(*arguments: object, ok: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-m", "instar.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done


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
    assert "mine: rows not used, 4 rows" in done.stderr + done.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["tasks"]["mine"]["pairs"] == 24 and summary["verdict"]["kind"]
    assert set(summary["circuits"]["mine"]) == {"givers", "giver1", "giver2"}
    unused = next(f for f in summary["audit"]["findings"] if f["kind"] == "mine: rows not used")
    assert unused["count"] == 4 and 236 <= summary["audit"]["rows"] <= 243
    listed = [json.loads(line) for line in (tmp_path / "out" / "data" / "rejected.jsonl").read_text().splitlines()]
    assert [row["number"] for row in listed] == [301, 302, 303, 304]


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
