"""While a run goes on: what it was thought to take, how much of that is left, and how it came out."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, get_args

from instar.progress import console, settled, whole
from instar.record.config import Stage, Test
from instar.record.times import NAME
from instar.report.planned import in_short, line
from instar.workflow.experiment import Experiment
from instar.workflow.plan import Known, Plan, plan

MADE = {"training", *get_args(Test), *get_args(Stage)}
"""Work that is planned for; the rest comes with it."""


@dataclass
class Clock:
    """How long the run that goes on will take yet."""

    experiment: Experiment
    known: Known
    now: Plan
    """As far as it is known."""
    remeasure: bool = False
    _stamp: tuple[Any, ...] = ()
    _since: float = 0.0

    def __call__(self) -> float:
        """Seconds; a piece that is under way has as much less as has passed since the last one was done."""
        store = self.experiment.store
        noted = store.here.root / NAME
        trained = [store.checkpoints(tuning) / "index.json" for tuning in self.experiment.tunings]
        stamp = (noted.stat().st_size if noted.exists() else 0, *(path.exists() for path in trained))
        if stamp != self._stamp:
            # What is damaged is said by what needs it.
            with suppress(ValueError, OSError):
                self.now = plan(self.experiment, self.known, self.remeasure)
            self._stamp, self._since = stamp, time.monotonic()
        missing = self.now.missing
        longest = max(map(self.now.wall, missing), default=0.0)
        return self.now.left - min(longest, time.monotonic() - self._since)


@contextmanager
def foreseen(experiment: Experiment, remeasure: bool) -> Iterator[None]:
    """The first line says what the run will take, bars say what is left of it, and the last how it came out."""
    known, thought = None, None
    # What is wrong with its model or tasks, or damaged, is said by what needs them.
    with suppress(ValueError, OSError):
        if remeasure or not _is_summarised(experiment):
            known = Known.of(experiment)
            thought = plan(experiment, known, remeasure)
    if known is None or thought is None or not any(piece.stage in MADE for piece in thought.missing):
        yield
        return
    console.print(line(thought), soft_wrap=True)
    began = time.monotonic()
    with whole(Clock(experiment, known, thought, remeasure)):
        yield
    settled()
    console.print(f"it took {in_short(time.monotonic() - began)}; {in_short(thought.left)} were thought")


def _is_summarised(experiment: Experiment) -> bool:
    """Whether there is a summary of all that is trained: what is missing then is little."""
    store = experiment.store
    return store.summary.exists() and all(store.index(tuning) for tuning in experiment.tunings)
