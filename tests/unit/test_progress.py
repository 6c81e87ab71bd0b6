"""Library calls draw a bar when they are slow, and none beside a stage's own."""

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from instar import progress


@pytest.fixture
def terminal(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(progress, "console", console)
    return console.file


def test_a_slow_call_shows_how_far_it_is(terminal, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    with progress.slow("patching", 4) as advance:
        advance(1)
        advance(2)
    assert "patching" in terminal.getvalue() and "3/4" in terminal.getvalue()


def test_a_quick_call_and_one_inside_a_stage_show_nothing_of_their_own(terminal, monkeypatch):
    with progress.slow("quick", 1) as advance:
        advance(1)
    assert terminal.getvalue() == ""
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    with progress.bar("stage") as tell:
        tell(1, 2, "")
        with progress.slow("patching", 4) as advance:
            advance(4)
    assert "stage" in terminal.getvalue() and "patching" not in terminal.getvalue()


def test_a_pipe_that_is_asked_for_colours_is_no_terminal():
    code = "from instar.progress import bar\nwith bar('stage') as tell: tell(1, 2, 'note')"
    asked = {**os.environ, "FORCE_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=asked)
    assert done.returncode == 0 and done.stderr.startswith("stage: 1/2") and "\x1b" not in done.stderr
