"""Ray's processes leave what the serial loop leaves, also where they are killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from instar.calibrate.instances import Instance, made, make_all, read
from instar.workflow.cluster import TRIES, Asks, Lost, spread
from small_run import INSTAR, SMALL, contents, instar, results, write_config

ray = pytest.importorskip("ray")


def begun(*arguments: object, log: Path) -> subprocess.Popen:
    """A command that goes on; Ray's own start-up warns of its future defaults."""
    with log.open("w") as said:
        command = [*INSTAR[:1], *INSTAR[3:], *map(str, arguments)]
        return subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"})


def workers(of: subprocess.Popen) -> list[psutil.Process]:
    """Ray's processes that are at a unit now."""
    found = []
    with suppress(psutil.Error):
        for one in psutil.Process(of.pid).children(recursive=True):
            with suppress(psutil.Error):
                found += [one] if "ray::_made" in " ".join(one.cmdline()) else []
    return found


def kill_one(of: subprocess.Popen, when) -> None:
    """A worker, once there is something."""
    while not (when() and workers(of)):
        assert of.poll() is None, "it ended before anything was killed"
        time.sleep(0.02)
    with suppress(psutil.Error):
        workers(of)[0].send_signal(signal.SIGKILL)


def test_a_killed_worker_changes_nothing(small_run, tmp_path):
    root = tmp_path / "run"
    config = write_config(tmp_path)
    instar("train", config, "--out", root)
    run = begun("compare", config, "--out", root, "--executor", "ray", log=tmp_path / "log")
    for count in (2, 9):
        kill_one(run, lambda count=count: len(list((root / "measure").rglob("*.nc"))) >= count)
    assert run.wait() == 0, (tmp_path / "log").read_text()
    ours, theirs = results(root), results(small_run)
    measured = {name for name in theirs if name.startswith(("measure/", "checkpoints/", "data/"))}
    assert measured == {name for name in ours if name.startswith(("measure/", "checkpoints/", "data/"))}
    assert [name for name in sorted(measured) if ours[name] != theirs[name]] == []
    assert json.loads(ours["measure/failed.json"]) == []
    assert not (root / ".partial").exists() and not list(root.glob("lock*"))
    instar("verify", root)


def test_trainings_side_by_side_are_those_one_by_one(tmp_path):
    train = SMALL["train"] | {"steps": 12, "checkpoints": 4, "seeds": [0, 1]}
    config = write_config(tmp_path, train=train, model="embedded-shallow")
    instar("train", config, "--out", tmp_path / "serial")
    run = begun("train", config, "--out", tmp_path / "ray", "--executor", "ray", log=tmp_path / "log")
    kill_one(run, lambda: list((tmp_path / "ray" / "checkpoints").glob("*/step-000004")))
    assert run.wait() == 0, (tmp_path / "log").read_text()
    one, other = (contents(tmp_path / name / "checkpoints") for name in ("serial", "ray"))
    assert one.keys() == other.keys() and {"seed-1/index.json", "control-old/index.json"} < {*one}
    assert [name for name in one if one[name] != other[name]] == []
    instar("verify", tmp_path / "ray", "--sample", "0")


@pytest.fixture(scope="module")
def cluster():
    """Two workers in this process."""
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    here = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
    ray.init(address="local", _node_ip_address="127.0.0.1", num_cpus=2, include_dashboard=False, log_to_driver=False,
             runtime_env=here)  # fmt: skip
    yield
    ray.shutdown()


def unit(folder: Path, what: str) -> str:
    """Counts how often it was tried."""
    with (folder / what).open("a") as stream:
        stream.write(".")
    tries = len((folder / what).read_text())
    if what == "dies" or (what == "dies once" and tries == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "cannot":
        raise OSError("a disk that is not there")
    if what == "refuses":
        raise ValueError("these two do not fit")
    return what.upper()


def test_what_fails_is_tried_again_and_listed_and_the_rest_goes_on(cluster, tmp_path):
    asked = ["a", "dies", "dies once", "b", "cannot", "refuses", "c"]
    found = dict(spread(unit, tmp_path, [(what, what) for what in asked], Asks()))
    assert sorted(found) == list(range(len(asked)))
    by = dict(zip(asked, (found[n] for n in range(len(asked))), strict=True))
    assert [by[what] for what in ("a", "b", "c", "dies once")] == ["A", "B", "C", "DIES ONCE"]
    assert isinstance(by["dies"], Lost) and by["dies"].reason == f"tried {TRIES} times; the last time: its worker died"
    assert "a disk that is not there" in by["cannot"].reason and 'raise OSError("a disk' in by["cannot"].traceback
    assert by["refuses"].reason == "these two do not fit"
    tries = {what: len((tmp_path / what).read_text()) for what in asked}
    assert tries == {**dict.fromkeys(asked, 1), "dies": TRIES, "cannot": TRIES, "dies once": 2}


def test_a_gpu_that_no_machine_has_is_asked_for_in_words(cluster, tmp_path):
    with pytest.raises(ValueError, match=r"no machine of the cluster has 0\.25 GPU"):
        list(spread(unit, tmp_path, [("a", "a")], Asks(1, 0.25)))


def test_planted_instances_are_spread_and_what_cannot_be_made_is_said(cluster, tmp_path):
    todo, told = [Instance("embedded-shallow", kind, 3) for kind in ("more of the old task", "no such kind")], []
    with pytest.raises(
        RuntimeError, match=r"1 of 2 instances were not made; the first: embedded-shallow: no such kind"
    ):
        make_all(tmp_path, todo, lambda done, total, what: told.append((done, total)), "ray")
    assert made(tmp_path, todo[0]) and not made(tmp_path, todo[1]) and told == [(0, 2), (1, 2), (2, 2)]
    assert "no such kind" in (tmp_path / "tracebacks.txt").read_text()
    found, record = read(tmp_path, todo[0])
    assert record["took"] and found is not None


def test_an_address_is_a_clusters(tmp_path):
    said = instar("train", write_config(tmp_path), "--out", tmp_path / "run", "--executor", "serial",
                  "--address", "127.0.0.1:1", ok=False).stderr  # fmt: skip
    assert "--address is that of a Ray cluster" in said
