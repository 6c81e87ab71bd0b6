"""While a run goes on: what it was thought to take, how much of that is left, and how it came out."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

from instar.progress import console, whole
from instar.record.config import Stage
from instar.record.times import NAME
from instar.report.planned import in_short, line
from instar.workflow.experiment import Experiment
from instar.workflow.plan import Known, Plan, plan

MADE = {"training", "causal", *get_args(Stage)}
"""Work that is planned for; the rest comes with it."""


@dataclass
class Clock:
    """How long the run that goes on will take yet."""

    experiment: Experiment
    known: Known
    remeasure: bool = False
    _plan: Plan | None = None
    _stamp: tuple[Any, ...] = ()
    _since: float = 0.0

    def __call__(self) -> float:
        """Seconds; a piece that is under way has as much less as has passed since the last one was done."""
        store = self.experiment.store
        noted = store.here.root / NAME
        trained = [store.checkpoints(tuning) / "index.json" for tuning in self.experiment.tunings]
        stamp = (noted.stat().st_size if noted.exists() else 0, *(path.exists() for path in trained))
        if self._plan is None or stamp != self._stamp:
            self._plan, self._stamp = plan(self.experiment, self.known, self.remeasure), stamp
            self._since = time.monotonic()
        missing = self._plan.missing
        longest = max(map(self._plan.wall, missing), default=0.0)
        return self._plan.left - min(longest, time.monotonic() - self._since)


@contextmanager
def foreseen(experiment: Experiment, remeasure: bool) -> Iterator[None]:
    """The first line says what the run will take, bars say what is left of it, and the last how it came out."""
    store = experiment.store
    if store.summary.exists() and not remeasure and all(store.index(tuning) for tuning in experiment.tunings):
        # Nothing is missing, or little.
        yield
        return
    try:
        clock = Clock(experiment, Known.of(experiment), remeasure)
        thought = plan(experiment, clock.known, remeasure)
    except (ValueError, OSError):
        # What is wrong with its model or tasks is said by what needs them.
        yield
        return
    if not any(piece.stage in MADE for piece in thought.missing):
        yield
        return
    console.print(line(thought), soft_wrap=True)
    began = time.monotonic()
    with whole(clock):
        yield
    console.print(f"it took {in_short(time.monotonic() - began)}; {in_short(thought.left)} were thought")
