"""The last stage: the page, the figures and the animations of a run, or panels of them in files of their own.

What does not verify is drawn, and marked. Drawing reads the run directory and writes into its `report/` alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from instar.progress import bar, console
from instar.record.contents import Damaged
from instar.record.keys import digest, made_with
from instar.record.store import Store
from instar.record.times import timed
from instar.workflow.experiment import Experiment

Value = TypeVar("Value")


def made_of(experiment: Experiment, *parts: str) -> list[Any]:
    """What decides a summary or a page: every file that it may be made of, the configuration, and the versions."""
    store = experiment.store
    listed = (entry for directory in store.directories for part in parts for entry in directory.listed(part))
    files = [(entry.path, entry.sha256, entry.made_with) for entry in listed]
    return [made_with(), experiment.config.model_dump(mode="json"), files]


def report_stage(experiment: Experiment) -> list[Path]:
    """The page, the figures and the animations. Returns what was written: nothing where it is there already."""
    store = replace(experiment.store, lenient=True)
    with store.owned():
        unverified = store.unverified("data", "measure", "compare")
        key = digest([*made_of(experiment, "data", "checkpoints", "measure", "compare"), *map(str, unverified)])
        page = store.here.place("report", "index.html")
        if not unverified and store.has_measurement(page, key) and store.here.is_whole("report"):
            return []
        with timed(store.here.root, "report"):
            return _marked(unverified, lambda: [*_draw(experiment, store, key, unverified)])


def runs_stage(experiments: Sequence[Experiment]) -> Path:
    """One page of several runs, written into the first one's report.

    Raises:
        ValueError: for runs of other tasks, or of one name.
    """
    from instar.report.numbers.beside import beside
    from instar.report.numbers.made import fine_tuning
    from instar.report.page import write_runs

    stores = [replace(one.store, lenient=True) for one in experiments]
    names = _apart([store.root.resolve() for store in stores])
    how = [fine_tuning(one.config.train, one.config.series) for one in experiments]
    with stores[0].owned(), bar("runs") as tell:
        tell(0, 2, "reading")
        unverified = [damaged for store in stores for damaged in store.unverified("data", "measure", "compare")]
        found = _marked(unverified, lambda: beside(list(zip(names, stores, how, strict=True))))
        tell(1, 2, "drawing")
        path = write_runs(stores[0], found)
        tell(2, 2, "")
    return path


def _apart(roots: Sequence[Path]) -> list[str]:
    """Names that tell directories apart: their last parts, as many as it takes."""
    if len({*roots}) < len(roots):
        raise ValueError(f"{next(root for root in roots if roots.count(root) > 1)} is named twice")
    parts = 1
    while len({"/".join(root.parts[-parts:]) for root in roots}) < len(roots):
        parts += 1
    return ["/".join(root.parts[-parts:]) for root in roots]


def panels_stage(experiment: Experiment, wanted: Any) -> list[Path]:
    """Some panels in files of their own, as `instar.report.figures.Wanted` says. Returns what was written.

    Raises:
        ValueError: for what there is not to draw.
    """
    from instar.report.figures import roles_of, write_panels
    from instar.report.numbers.panels import panels

    store = replace(experiment.store, lenient=True)
    with store.owned(), bar("panels") as tell:
        unverified = store.unverified("data", "measure", "compare")

        def draw() -> list[Path]:
            # Reading takes long: what cannot be is refused before it.
            roles_of(store.read_summary(), wanted.task)
            tell(0, 2, "reading")
            read = panels(store)
            tell(1, 2, "drawing")
            return [*write_panels(store, read, wanted)]

        found = _marked(unverified, draw)
        tell(2, 2, "")
        return found


def _marked(unverified: list[Damaged], draw: Callable[[], Value]) -> Value:
    """Drawn, once it is said what does not verify."""
    for damaged in unverified:
        console.print(f"not verified: {damaged}", style="yellow", soft_wrap=True)
    try:
        return draw()
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        # What does not verify may be of any shape.
        if not unverified:
            raise
        raise ValueError(f"{unverified[0]}; it cannot be drawn ({type(error).__name__}: {error})") from None


def _draw(experiment: Experiment, store: Store, key: str, unverified: list[Damaged]) -> Iterator[Path]:
    from instar.report.figures import write_animations, write_figures
    from instar.report.numbers.made import made
    from instar.report.numbers.panels import panels
    from instar.report.page import write_page

    config = experiment.config
    with bar("report") as tell:
        tell(0, 2, "reading")
        drawn = panels(store)
        notices = [("not verified", str(damaged)) for damaged in unverified]
        tell(1, 2, "figures")
        if config.report.static:
            yield from write_figures(store, drawn)
        tell(2, 2, "")
    if config.report.gifs:
        with bar("animations") as tell:
            yield from write_animations(store, drawn, tell)
    # Last, so that its key says that all of the report is there.
    how = [*notices, *made(drawn, store, config.train, config.series)]
    write_page(store, drawn, how, config.yaml(), key)
    yield store.report("index.html")
