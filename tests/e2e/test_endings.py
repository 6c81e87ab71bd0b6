"""How a command ends: by a signal, with an error nobody foresaw, into a closed pipe. In processes of their own."""

import os
import signal
import subprocess
import sys
import time

import pytest

from small_run import INSTAR, SMALL, write_config

GOES_ON = "what is finished is kept, and the same command goes on from there"
SAYS = {"SIGINT": (130, "interrupted; "), "SIGTERM": (143, "ended by SIGTERM; "), "SIGHUP": (129, "ended by SIGHUP; ")}
COMMANDS = """
import sys, time
from tempfile import TemporaryDirectory
from instar import cli

@cli.app.command()
def waits():
    with TemporaryDirectory():
        print("up", flush=True)
        time.sleep(60)

@cli.app.command()
def hang():
    try:
        print("up", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(60)

@cli.app.command()
def fails(how: str):
    inner = {"group": ExceptionGroup("two", [ExceptionGroup("in", [ValueError("the first")]), OSError("x")]),
             "interrupt": BaseExceptionGroup("one", [KeyboardInterrupt()]),
             "exit": SystemExit("gone\\x1b[31m"), "long": ValueError("a" * 3_000_000 + "the end"),
             "odd": RuntimeError("odd\\x1b]0;PWNED\\x07"), "disk": OSError(28, "No space left on device"),
             "file": OSError(13, "Permission denied", "a\\x1b[31m")}
    raise inner[how]

cli.main()
"""


def default_signals() -> None:
    """A test's own process may have been started with these ignored, and children would inherit it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def command(*arguments: str, before=default_signals) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", COMMANDS, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before,
    )  # fmt: skip


@pytest.mark.slow
def test_a_signal_ends_a_training_as_ctrl_c_does(tmp_path):
    """In order, with how to go on, and without the Trainer's folder."""
    config = write_config(tmp_path, train=SMALL["train"] | {"steps": 4000, "checkpoints": 4})
    (scratch := tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [*INSTAR, "train", str(config), "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(scratch)}, preexec_fn=default_signals,
    )  # fmt: skip
    try:
        # A checkpoint behind the first: the Trainer is at work, and its folder is there.
        second = tmp_path / "out" / "checkpoints" / "step-000004"
        while not second.exists() and process.poll() is None:
            time.sleep(0.05)
        process.terminate()
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 143 and said.strip().endswith("ended by SIGTERM; " + GOES_ON), said
    assert "Traceback" not in said and not list((tmp_path / "out").rglob(".partial*"))
    # torch's import makes a cache there, of one name for all processes.
    assert [p.name for p in scratch.iterdir() if not p.name.startswith("torchinductor_")] == []


@pytest.mark.parametrize("name", SAYS)
def test_a_signal_has_its_code_and_leaves_no_folder(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with command("waits") as process:
        assert process.stdout.readline() == "up\n" and any(tmp_path.iterdir())
        process.send_signal(getattr(signal, name))
        said = process.communicate(timeout=30)[1]
    code, beginning = SAYS[name]
    assert process.returncode == code and said.strip() == beginning + GOES_ON
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_second_signal_ends_at_once(name):
    with command("hang") as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(getattr(signal, name))
        assert process.stdout.readline() == "cleaning\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM


def test_what_nohup_ignores_stays_ignored():
    def nohup() -> None:
        default_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with command("hang", before=nohup) as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "cleaning\n"
        process.kill()


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("group", 1, "error: the first\n"),
        ("interrupt", 130, f"interrupted; {GOES_ON}\n"),
        ("exit", 1, "error: gone\ufffd[31m\n"),
        ("odd", 1, "error: RuntimeError: odd\ufffd]0;PWNED\ufffd (nobody foresaw this; please report it"),
        ("long", 1, "[2,998,007 characters are left out here]"),
        ("disk", 1, "error: no space left on device\n"),
        ("file", 1, "error: a\ufffd[31m: permission denied\n"),
    ],
)
def test_any_error_is_one_bounded_sentence(how, code, says):
    with command("fails", how) as process:
        said = process.communicate(timeout=60)[1]
    assert process.returncode == code and says in said
    assert "Traceback" not in said and "\x1b" not in said and len(said) < 2200


def test_debug_shows_where_an_error_arose():
    with command("--debug", "fails", "odd") as process:
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "Traceback" in said and "RuntimeError: odd" in said


def test_a_pipe_that_closes_early_is_no_error():
    for more in ((), ("--json",)):
        with subprocess.Popen(
            [*INSTAR, "calibrate", "--shipped", *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            process.stdout.close()
            assert process.stderr.read() == b""


def test_a_wrong_command_line_is_a_sentence_too():
    with command("hang", "no\x1b[31msuch\x9b") as process:
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 2 and said.startswith("error: Got unexpected extra argument")
    assert "--help'" in said and "\x1b" not in said and "\x9b" not in said
