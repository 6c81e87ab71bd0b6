"""Several commands measure one run at once: what they leave is what one alone leaves, also when one was killed on the way."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from instar.workflow.jobs import Job
from instar.workflow.shards import Shard
from small_run import INSTAR, instar, results


def trained(small_run, tmp_path):
    """The run as it was before anything was measured; the list names what is there alone."""
    root = tmp_path / "run"
    root.mkdir()
    shutil.copy(small_run.parent / "run.yaml", tmp_path / "run.yaml")
    instar("train", tmp_path / "run.yaml", "--out", root)
    return root


def shard(root, which: str) -> subprocess.Popen:
    with (root.parent / f"{which[0]}.log").open("w") as said:
        command = [*INSTAR, "measure", str(root), "--shard", which]
        return subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"})


def measured(root) -> list:
    return sorted((root / "measure").rglob("*.nc"))


def test_shards_leave_what_one_command_leaves(small_run, tmp_path):
    root = trained(small_run, tmp_path)
    one, two = shard(root, "1/2"), shard(root, "2/2")
    while len(measured(root)) < 3:
        assert one.poll() is None or two.poll() is None
        time.sleep(0.05)
    # Nobody else is let in while they are at it, and each is there once.
    if two.poll() is None:
        for command in (("measure", root), ("measure", root, "--shard", "2/2")):
            assert "is being written by process" in instar(*command, ok=False).stderr.replace("\n", " ")
    one.send_signal(signal.SIGKILL)
    one.wait()
    assert two.wait() == 0, (tmp_path / "2.log").read_text()
    before = {path: path.stat().st_mtime_ns for path in measured(root)}
    instar("measure", root, "--shard", "1/2")
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    # Shapley shares and causal tests of a checkpoint are made by whoever finds what they need; the last command has all.
    instar("compare", root)
    ours, theirs = (
        {n: d for n, d in results(r).items() if n.startswith(("measure/", "summary"))} for r in (root, small_run)
    )
    assert ours == theirs
    assert not [path for path in root.iterdir() if path.name == ".partial" or path.name.startswith("lock")]
    instar("verify", root)


def test_each_checkpoint_is_one_shards(tmp_path):
    jobs = [Job(stage, task, 0, step, tmp_path, "", False) for step in range(7) for stage in "ab" for task in "xy"]
    parts = [Shard(i, 3).of_these(jobs) for i in (1, 2, 3)]
    assert sorted(map(id, jobs)) == sorted(id(job) for part in parts for job in part)
    steps = [{job.step for job in part} for part in parts]
    assert steps == [{0, 3, 6}, {1, 4}, {2, 5}]


@pytest.mark.parametrize("text", ["0/8", "9/8", "1", "1/0", "a/b", "-1/2"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ValueError, match="expected which of how many"):
        Shard.read(text)


def test_a_shard_takes_a_directory(tmp_path):
    (tmp_path / "run.yaml").write_text("model: embedded\n")
    said = instar("measure", tmp_path / "run.yaml", "--out", tmp_path / "out", "--shard", "1/2", ok=False).stderr
    assert "shards take the run directory" in said.replace("\n", " ")
