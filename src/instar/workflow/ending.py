"""What a command says last: where things are, and which commands would bring what the answer misses."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice

from instar.record.config import CONTROLS
from instar.workflow.experiment import Experiment

SEEDS = 3
"""Fewer say nothing of another training."""


@dataclass(frozen=True)
class Ending:
    """Labels and what they stand for, in order: paths that are there, commands by what they bring."""

    files: dict[str, str]
    commands: dict[str, str]


def ending(experiment: Experiment) -> Ending:
    """Of a run, whatever of it is there."""
    return Ending(dict(_files(experiment)), dict(_commands(replace(experiment, file=None))))


def _files(experiment: Experiment) -> Iterator[tuple[str, str]]:
    store = experiment.store
    figures = store.report("figures")
    for label, path, shown in (
        ("page", store.report("index.html"), "{}"),
        ("figures", figures, "{}/*.png, *.svg"),
        ("animations", next(store.report().glob("*.gif"), store.root / "none"), f"{store.report()}/*.gif"),
        ("poster", store.report("poster.png"), "{}"),
        ("summary", store.summary, "{}"),
        ("netCDF", store.root / "measure", "{}/STAGE/TASK/*.nc (xarray, or instar.load_run)"),
        ("checkpoints", store.root / "checkpoints", "{}"),
    ):
        if path.exists():
            yield label, shown.format(path)


def _commands(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """The stages that are still to come, or else what the answer would need more of the same training for."""
    store, config = experiment.store, experiment.config
    if not all(store.index(seed) for seed in config.train.seeds):
        yield "training goes on", experiment.command("train")
        return
    for label, path, stage in (
        ("measurements", store.root / "measure", "measure"),
        ("summary", store.summary, "compare"),
        ("page", store.report("index.html"), "report"),
    ):
        if not path.exists():
            yield label, experiment.command(stage)
            return
    if config.series is not None:
        # Somebody else's training: nothing here can train another seed of it, or a control.
        return
    summary = replace(store, lenient=True).read_summary()
    if not summary.get("answer"):
        return
    seeds, controls = config.train.seeds, config.compare.controls
    if len(seeds) < SEEDS:
        fresh = (n for n in count() if n not in seeds)
        wanted = [*seeds, *islice(fresh, SEEDS - len(seeds))]
        yield "three seeds", experiment.command("run", "--seeds", ",".join(map(str, wanted)))
    for name in CONTROLS:
        if name not in controls:
            both = ",".join(n for n in CONTROLS if n in controls or n == name)
            yield f"{name} control", experiment.command("run", "--controls", both)
