"""Progress bars, the same everywhere; on a terminal that is none, a plain line every few seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Tell = Callable[[int, int, str], None]
"""`tell(done, total, note)`."""
Advance = Callable[[int], None]
"""`advance(count)`: so many more are done."""
PLAIN_INTERVAL, PATIENCE = 10.0, 2.0
# A notebook asks its shell commands for colours (FORCE_COLOR), which makes no terminal of a pipe: no bars there.
console = Console(stderr=True, highlight=False, force_terminal=sys.stderr.isatty())


@contextmanager
def bar(what: str) -> Iterator[Tell]:
    """A progress bar that lives as long as the block."""
    _under_way.append(what)
    try:
        with _rich(what) if console.is_terminal else _plain(what) as tell:
            yield tell
    finally:
        _under_way.pop()


# A stage's own bar counts checkpoints; what it calls does not draw a second one.
_under_way: list[str] = []


@contextmanager
def slow(what: str, total: int) -> Iterator[Advance]:
    """For library calls: a bar in a terminal or notebook, once two seconds have passed, unless one is there already."""
    shown = not _under_way and (console.is_terminal or console.is_jupyter)
    began, done = time.monotonic(), 0
    with ExitStack() as stack:
        tell: Tell | None = None

        def advance(count: int) -> None:
            nonlocal tell, done
            done += count
            if shown and tell is None and time.monotonic() - began > PATIENCE:
                tell = stack.enter_context(bar(what))
            if tell is not None:
                tell(done, total, "")

        yield advance


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
