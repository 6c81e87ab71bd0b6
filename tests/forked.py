"""The command line in a forked process: it can be killed, limited and made another user, and imports nothing anew."""

import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import yaml

import instar.report.animate
import instar.report.figures
import instar.report.page
import instar.report.terminal
import instar.workflow.verify
from commands import become
from small_run import contents as files

SMALLEST = {
    "model": "embedded",
    "data": {"train_size": 64, "test_size": 40, "measure_pairs": 8},
    "train": {"steps": 4, "checkpoints": 2, "learning_rate": 3e-4, "seeds": [0]},
    "measure": {"stages": ["evaluate", "attribution", "drift"]},
    "compare": {"controls": []},
    "report": {"gifs": False, "static": False},
    "threads": 1,
}
"""Data, three checkpoints, 15 measurements, summary and page in about ten seconds."""


@dataclass
class Started:
    """A command that is running."""

    pid: int
    output: IO[bytes]
    code: int | None = None
    text: str = ""

    def poll(self, options: int = os.WNOHANG) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.code, self.text = os.waitstatus_to_exitcode(status), self.said
                self.output.close()
        return self.code

    def wait(self) -> "Started":
        self.poll(0)
        return self

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def until(self, there: Callable[[], bool]) -> bool:
        """Wait for something to be there; False where the command ended before."""
        while not there():
            if self.poll() is not None:
                return False
            time.sleep(0.002)
        return True

    @property
    def said(self) -> str:
        """Everything it printed, in one line."""
        if self.output.closed:
            return self.text
        self.output.seek(0)
        return " ".join(self.output.read().decode().split())


def start(*words: object, before: Callable[[], None] = lambda: None) -> Started:
    """`instar WORDS`, after `before` in the new process."""
    output = tempfile.TemporaryFile()  # noqa: SIM115 — lives as long as the command
    sys.stdout.flush(), sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # no thread here holds a lock that a command needs
        pid = os.fork()
    if pid:
        return Started(pid, output)

    def own() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(output.fileno(), 1), os.dup2(output.fileno(), 2)
        before()

    become(list(map(str, words)), own)
    raise AssertionError


def instar(*words: object, ok: bool | None = True, before: Callable[[], None] = lambda: None) -> Started:
    """A command to its end; it is `ok`, or ends in one sentence with exit code 1, or, of None, either."""
    done = start(*words, before=before).wait()
    assert done.code in (0, 1), (done.code, done.said)
    assert "Traceback" not in done.said and "nobody foresaw" not in done.said, done.said
    assert ok is None or (done.code == 0) is ok, done.said
    return done


def configured(folder: Path, **changes: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(SMALLEST | changes))
    return path


def differing(root: Path, other: Path) -> list[str]:
    """The files that two directories do not have alike."""
    a, b = files(root), files(other)
    return sorted(name for name in {*a, *b} if a.get(name) != b.get(name))


def copy(run: Path, to: Path) -> Path:
    """A copy of it, times and links included."""
    shutil.copytree(run, to, symlinks=True)
    return to
