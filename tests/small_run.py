"""One small run for every test that reads one: made once, also where several workers run."""

import base64
import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

import commands
from instar.record.times import NAME as TIMES

SMALL = {
    "model": "embedded",
    "data": {"train_size": 128, "test_size": 60, "measure_pairs": 24},
    "train": {"steps": 8, "checkpoints": 4, "learning_rate": 3e-4, "seeds": [0]},
    "measure": {"patching_pairs": 4, "circuit_pairs": 6, "role_pairs": 4, "ledger_prompts": 4, "exact_ends": False},
    "compare": {
        "checkpoints": 1,
        "pairs": 8,
        "random_sets": 4,
        "exchanged_sets": 2,
        "single": False,
        "reuse_prompts": 12,
        "draws": 20,
        "controls": ["old"],
    },
    "threads": 1,
}
INSTAR = [sys.executable, "-W", "error", "-m", "instar.cli"]


def instar(*arguments: object, ok: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """A command in a process of its own that has imported already; `INSTAR` is one from the very beginning."""
    done = commands.run([*map(str, arguments)], {**os.environ, "COLUMNS": "140"}, cwd)
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done


def write_config(folder: Path, **changes: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return path


def contents(root: Path) -> dict[str, bytes]:
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.name != TIMES]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


def results(root: Path) -> dict[str, bytes]:
    """What must be the same however often a run was interrupted: netCDF files hold no time stamps either."""
    return {name: data for name, data in contents(root).items() if not name.endswith((".png", ".svg", ".gif"))}


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    """A run directory that nobody may change."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder = root / "small-run"
    with FileLock(root / "small-run.lock"):
        if not (folder / "done").exists():
            folder.mkdir(exist_ok=True)
            instar("run", write_config(folder), "--out", folder / "out")
            (folder / "done").touch()
    return folder / "out"


@pytest.fixture(scope="module")
def finished(small_run, tmp_path_factory) -> Path:
    """A module's own copy of it, times included."""
    folder = tmp_path_factory.mktemp("run") / "out"
    shutil.copytree(small_run, folder)
    return folder


def told(page: Path) -> str:
    """All that a page says, also what it unpacks by itself."""
    text = page.read_text()
    packed = re.search(r'id="rest">([^<]*)<', text)
    return text + gzip.decompress(base64.b64decode(packed.group(1))).decode("utf-8", "replace") if packed else text
