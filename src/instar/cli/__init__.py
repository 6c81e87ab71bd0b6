"""The command line: one command a stage. Nothing heavy is imported until a command runs."""

import re
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from instar.cli import beside, data, runs

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What did fine-tuning do inside? Circuits of a language model, checkpoint by checkpoint.",
)
for commands in (runs, beside):
    app.add_typer(commands.app)
app.add_typer(data.app, name="data")
INTERRUPTED = 130
"""What typer makes of Ctrl-C, without a word."""


OURS = (ValueError, OSError, ArithmeticError, MemoryError)
"""Errors that are sentences for a user already."""
_debug = False


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="of an error, show where it arose")] = False) -> None:
    global _debug
    _debug = debug


def main() -> None:
    """The entry point: errors are one message, not a traceback (`instar --debug …` shows it); a warning is a sentence."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        # A shell expands `~` only where a word begins with it: not in --out=~/runs, nor in quotes.
        app([re.sub(r"^(--[\w-]+=)?~(?=/)", lambda m: (m[1] or "") + str(Path.home()), word) for word in sys.argv[1:]])
    except Exception as error:
        if _debug:
            raise
        typer.echo(f"error: {said(error)}", err=True)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            typer.echo("interrupted; what is finished is kept, and the same command goes on from there", err=True)
        raise


def said(error: Exception) -> str:
    """An error in words; one that nobody foresaw by its kind, too."""
    if isinstance(error, OURS):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error} (nobody foresaw this; please report it with what `instar --debug …` shows)"
