"""The command line: one command a stage. Nothing heavy is imported until a command runs."""

import os
import re
import signal
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from instar.cli import beside, data, drawn, runs
from instar.notebook import clean
from instar.progress import foreseen, in_words, say, settled, shortened

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What did fine-tuning do inside? Circuits of a language model, checkpoint by checkpoint.",
)
for commands in (runs, drawn, beside):
    app.add_typer(commands.app)
app.add_typer(data.app, name="data")
ENDINGS = {130: "interrupted", 143: "ended by SIGTERM", 129: "ended by SIGHUP"}
"""What a signal's exit code is called."""
_debug = False


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="of an error, show where it arose")] = False) -> None:
    global _debug
    _debug = debug


def main() -> None:
    """The entry point: however it ends, it ends in a sentence, not a traceback (`instar --debug …` shows one).

    A warning is a sentence, too.
    """
    # Threads that wait sleep, rather than turn round and round: beside other work, training took six times as long by that.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.formatwarning = lambda message, *_, **__: f"warning: {clean(shortened(str(message)))}\n"
    signalled = _heed_signals()
    # A shell expands `~` only where a word begins with it: not in --out=~/runs, nor in quotes.
    words = [re.sub(r"^(--[\w-]+=)?~(?=/)", lambda m: (m[1] or "") + str(Path.home()), word) for word in sys.argv[1:]]
    try:
        code = app(words, standalone_mode=False) or 0
    except BaseException as error:
        code = _ended(error, bool(signalled))
    code = signalled[0] if signalled else code
    if code in ENDINGS:
        # Where the terminal itself is gone (SIGHUP), nobody can be told.
        with suppress(OSError):
            settled()
            say(f"{ENDINGS[code]}; what is finished is kept, and the same command goes on from there", err=True)
    sys.exit(code)


def _heed_signals() -> list[int]:
    """Ctrl-C, SIGTERM and SIGHUP raise, so that `with` blocks clean up; the exit code is put into the list.

    A second one ends the process at once. What is ignored (by `nohup`) stays ignored.
    """
    signalled: list[int] = []
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    heeded = [n for name in names if (n := getattr(signal, name, None)) and signal.getsignal(n) is not signal.SIG_IGN]

    def end(number: int, _: Any) -> None:
        signalled.append(128 + number)
        for own in heeded:
            signal.signal(own, signal.SIG_DFL)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for number in heeded:
        signal.signal(number, end)
    return signalled


def _ended(error: BaseException, signalled: bool) -> int:
    """Says what ended a command, unless a signal did; the exit code."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if signalled or isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return error.code or 0
    if isinstance(error, SystemExit):
        text, code = shortened(str(error.code)), 1
    elif (usage := getattr(error, "format_message", None)) is not None:  # typer's, of a wrong command line
        text, code = shortened(usage()), getattr(error, "exit_code", 2)
        # Without a message the help was asked for, and printed.
        if text and (context := getattr(error, "ctx", None)) is not None:
            text += f"\n{context.get_usage()}\nTry '{context.command_path} --help'."
    elif _debug:
        raise error
    else:
        text, code = said(error), 1
    if text:
        say(f"error: {text}", err=True)
    return code


def said(error: BaseException) -> str:
    """An error in words, with what to do about one that nobody foresaw."""
    more = "" if foreseen(error) else " (nobody foresaw this; please report it with what `instar --debug …` shows)"
    return in_words(error) + more
