"""One small run for every test that reads one: made once, also where several workers run."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    """A run directory that nobody may change."""
    from test_cli import instar, write_config

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
