"""Progress bars, the same everywhere; on a terminal that is none, a plain line every few seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Tell = Callable[[int, int, str], None]
"""`tell(done, total, note)`."""
PLAIN_INTERVAL = 10.0
console = Console(stderr=True, highlight=False)


@contextmanager
def bar(what: str) -> Iterator[Tell]:
    """A progress bar that lives as long as the block."""
    with _rich(what) if console.is_terminal else _plain(what) as tell:
        yield tell


@contextmanager
def _rich(what: str) -> Iterator[Tell]:
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as progress:
        task = progress.add_task(what, total=None, note="")
        yield lambda done, total, note="": progress.update(task, completed=done, total=total, note=note)


@contextmanager
def _plain(what: str) -> Iterator[Tell]:
    started = last = time.monotonic()
    state = [""]

    def tell(done: int, total: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        state[0] = f"{what}: {done}/{total}  {note}"
        if now - last >= PLAIN_INTERVAL:
            print(state[0], file=sys.stderr, flush=True)
            last = now

    yield tell
    if state[0]:
        print(f"{state[0]}  ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)
