"""A run that is under way, on its page: made again as checkpoints are measured.

It says how far the run is, and of what it is made; the run's own end writes the last one. No summary is written on the way:
one that stands in a run directory is of all that was to be measured.
"""

import time
from dataclasses import dataclass, field, replace

from instar.compare.summary import Compared, found
from instar.progress import console, in_words
from instar.workflow.experiment import Experiment
from instar.workflow.schedule import measured_at

SHARE = 0.1
"""Of a run's time, for pages that are made again later."""


@dataclass
class UnderWay:
    """Called after each unit of measuring; writes a page where no more than a tenth of the time has gone into pages."""

    experiment: Experiment
    _began: float = field(default_factory=time.monotonic)
    _spent: float = 0.0
    _last: float = 0.0
    _given_up: bool = False

    def __call__(self, done: int, total: int, note: str) -> None:
        """`done` of `total` measurements are there; `note` says what was the last."""
        begin = time.monotonic()
        if not note or self._given_up or self._spent + self._last > SHARE * (begin - self._began):
            return
        try:
            page(self.experiment, f"{done} of {total} measurements are there; the last: {note}")
        except Exception as error:
            # Measuring goes on, whatever a page stumbles over; the end says it again where it is still so.
            self._given_up = True
            console.print(
                f"the page of the run under way was not written: {in_words(error)}", style="yellow", soft_wrap=True
            )
        self._last = time.monotonic() - begin
        self._spent += self._last


def page(experiment: Experiment, under_way: str = "") -> bool:
    """The page of what is measured so far; whether there was anything to show."""
    from instar.report.numbers.made import made
    from instar.report.numbers.panels import panels
    from instar.report.page import write_page

    # What another process has just made is listed a moment later, and read all the same; the end verifies everything.
    store, config, of = replace(experiment.store, lenient=True), experiment.config, compared_of(experiment)
    if not all(store.measured_steps("evaluate", task) for task in of.tasks.values()):
        return False
    drawn = panels(store, found(store, of, []))
    said = f"under way, {time.strftime('%Y-%m-%d %H:%M')}: {under_way}" if under_way else ""
    write_page(store, drawn, made(drawn, store, config.train, config.series), config.yaml(), under_way=said)
    return True


def compared_of(experiment: Experiment) -> Compared:
    """What a summary is of."""
    config = experiment.config
    seeds, rows = config.train.seeds, (experiment.store.index() or {"steps": []})["steps"]
    places = {s: measured_at(s, config.measure, rows, seeds[0], True) for s in config.measure.stages if rows}
    tasks, controls = experiment.tasks, config.compare.controls
    return Compared(config.model.source, tasks, seeds, controls, places, config.series is None)
