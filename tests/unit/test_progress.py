"""Library calls draw a bar when they are slow, and none beside a stage's own."""

import io
import os
import subprocess
import sys

import pytest

from instar import progress
from instar.progress import Screen


@pytest.fixture
def terminal(monkeypatch):
    console = Screen(file=io.StringIO(), force_terminal=True, width=100)
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


@pytest.fixture
def lines(monkeypatch):
    """A log and a clock that stands still: `clock[0] += 10` is ten seconds later."""
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress, "_lines", progress._Lines(last=clock[0]))
    monkeypatch.setattr(progress, "console", Screen(file=io.StringIO(), force_terminal=False))
    return clock


def test_without_a_terminal_there_is_one_line_a_minute_at_most(lines, capsys):
    for what in ("training", "measuring"):
        with progress.bar(what) as tell:
            for done in range(20):
                tell(done + 1, 20, f"step {done}")
                lines[0] += 7
    seconds = 2 * 20 * 7
    said = capsys.readouterr().err.splitlines()
    assert 1 < len(said) <= seconds // 60
    # What was finished in between is not lost: it begins the next line.
    assert any(line.startswith("training: 20/20 (2 min); measuring: ") for line in said)
    progress.settled()
    assert capsys.readouterr().err == "measuring: 20/20 (2 min)\n"
    progress.settled()
    assert capsys.readouterr().err == ""


def test_the_time_left_is_from_what_was_done_here(lines, capsys):
    with progress.bar("measuring") as tell:
        tell(50, 100, "")  # found done
        lines[0] += 80
        tell(60, 100, "step 8")
    assert capsys.readouterr().err.splitlines()[0] == "measuring: 60/100, step 8, 5 min left"


def test_a_bar_that_fails_says_how_far_it_was(lines, capsys):
    with pytest.raises(ZeroDivisionError), progress.bar("measuring") as tell:
        tell(3, 10, "")
        raise ZeroDivisionError
    progress.settled()
    assert capsys.readouterr().err == "measuring: 3/10 (0 s)\n"


def test_bars_say_what_is_left_of_the_whole_and_no_less_than_of_themselves(lines, capsys):
    for whole, said in ((3000.0, "50 min"), (10.0, "5 min")):
        with progress.whole(lambda left=whole: left), progress.bar("measuring") as tell:
            tell(50, 100, "")
            lines[0] += 80
            tell(60, 100, "step 8")
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.endswith(f"measuring: 60/100, step 8, 5 min left, whole run: {said} left")
    with progress.bar("measuring") as tell:
        lines[0] += 80
        tell(1, 100, "")
    assert "whole run" not in capsys.readouterr().err
