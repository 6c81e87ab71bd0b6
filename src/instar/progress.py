"""What a user is told while commands run: progress, errors in words, and every word free of what a terminal obeys.

Progress bars are the same everywhere; where there is no terminal, there is one line a minute at most.
"""

import atexit
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from instar.notebook import clean

Tell = Callable[[int, int, str], None]
"""`tell(done, total, note)`."""
Advance = Callable[[int], None]
"""`advance(count)`: so many more are done."""
PLAIN_INTERVAL, PATIENCE = 60.0, 2.0
"""Seconds between two lines without a terminal; seconds after which a library call shows that it is slow."""
FORESEEN = (ValueError, OSError, ArithmeticError, MemoryError)
"""Errors whose message is a sentence for a user already."""
LONGEST = 2000
"""Characters of an error that are shown."""


def untold(done: int, total: int, note: str) -> None:
    """A `Tell` where nobody asked."""


class Screen(Console):
    """A console that shows foreign text as it stands: it reads no markup in it, and a terminal obeys none of it."""

    def __init__(self, **options: Any):
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **options})

    def render(self, *args: Any, **kwargs: Any) -> Iterable[Segment]:
        for segment in super().render(*args, **kwargs):
            yield segment if segment.control else segment._replace(text=clean(segment.text))


def say(text: str, err: bool = False) -> None:
    """One line to standard output, or to standard error."""
    print(clean(text), file=sys.stderr if err else sys.stdout, flush=True)


def foreseen(error: BaseException) -> bool:
    """Whether an error says by itself what is wrong."""
    # torch's own MemoryError is no MemoryError, and nothing here imports torch.
    return isinstance(error, FORESEEN) or type(error).__name__ == "OutOfMemoryError"


def in_words(error: BaseException) -> str:
    """An error as a sentence of bounded length; one that nobody foresaw by its kind, too."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and text.startswith("[Errno"):
        files = " → ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        text = ": ".join(part for part in (files, error.strerror.lower()) if part)
    text = text if foreseen(error) and text else f"{type(error).__name__}: {text}".removesuffix(": ")
    return shortened(text)


def shortened(text: str) -> str:
    """The text, or where it is long its beginning and its end, and how much is not shown."""
    if len(text) <= LONGEST:
        return text
    ends = LONGEST * 3 // 4, LONGEST // 4
    return f"{text[: ends[0]]} … [{len(text) - LONGEST:,} characters are left out here] … {text[-ends[1] :]}"


# A notebook asks its shell commands for colours (FORCE_COLOR), which makes no terminal of a pipe: no bars there.
console = Screen(stderr=True, force_terminal=sys.stderr.isatty())


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
_whole: list[Callable[[], float]] = []


@contextmanager
def whole(left: Callable[[], float]) -> Iterator[None]:
    """While this block lasts, bars also say how many seconds are left of all of it."""
    _whole.append(left)
    try:
        yield
    finally:
        _whole.pop()


def _of_all(own: float | None = None) -> str:
    """`whole run: 38 min left`; no less than is left of a bar that counts by itself."""
    return f"whole run: {spoken(max(_whole[-1](), own or 0.0))} left" if _whole else ""


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
    columns = (
        TextColumn("{task.description:<22}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False), console=console
    ) as progress:
        task = progress.add_task(what, total=None, note="")

        def tell(done: int, total: int, note: str = "") -> None:
            left = progress.tasks[task].time_remaining
            said = ", ".join(filter(None, (note, _of_all(left))))
            progress.update(task, completed=done, total=total, note=said)

        yield tell


@dataclass
class _Lines:
    """Lines for a log: at most one a minute, which begins with what was finished since the last one."""

    finished: list[str] = field(default_factory=list)
    last: float = field(default_factory=time.monotonic)

    def show(self, now: Callable[[], str] = str) -> None:
        """Print what there is to say, unless the last line is too young."""
        if time.monotonic() - self.last >= PLAIN_INTERVAL:
            self.flush(now())

    def flush(self, now: str = "") -> None:
        """Print it, whenever the last line was."""
        if text := "; ".join([*self.finished, *([now] if now else [])]):
            say(text, err=True)
        self.finished.clear()
        self.last = time.monotonic()


_lines = _Lines()


def settled() -> None:
    """What is still to be said is said: call it before results are printed."""
    if _lines.finished:
        _lines.flush()


atexit.register(settled)


@contextmanager
def _plain(what: str) -> Iterator[Tell]:
    began, first, state = time.monotonic(), -1, ""

    def tell(done: int, total: int, note: str = "") -> None:
        nonlocal first, state
        first = done if first < 0 else first
        state = f"{what}: {done}/{total}"
        # What was done before this began says nothing of the speed.
        left = (time.monotonic() - began) * (total - done) / (done - first) if done > first else None
        rest = f"{spoken(left)} left" if left else ""
        _lines.show(lambda: ", ".join(filter(None, (state, note, rest, _of_all(left)))))

    try:
        yield tell
    finally:
        if state:
            _lines.finished.append(f"{state} ({spoken(time.monotonic() - began)})")
            _lines.show()


def spoken(seconds: float) -> str:
    """`40 s`, `12 min`."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
