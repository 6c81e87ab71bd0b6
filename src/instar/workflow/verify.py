"""Whether a run is as it was written: every file by its sha256, and a sample of its measurements made again."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from instar.progress import Tell
from instar.record.contents import NAME as CONTENTS
from instar.record.contents import Damaged
from instar.record.directory import PARTS
from instar.record.netcdf import plain_attrs
from instar.workflow.experiment import Experiment
from instar.workflow.jobs import jobs, pairwise_jobs
from instar.workflow.pipeline import data_stage
from instar.workflow.sweep import Worker

CLOSE = 1e-4
"""Of a variable's largest value: what another processor or another version of torch may differ by."""


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what is not as it was written."""

    files: int
    measured: int = 0
    broken: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.broken


def verified(experiment: Experiment, sample: int, seed: int, tell: Tell) -> Verified:
    """Look at everything, and measure `sample` of the measurements again, drawn by `seed`. Nothing is written.

    Raises:
        ValueError: for a directory without a list of its files.
    """
    store = experiment.store
    contents = store.contents
    if not contents.header:
        raise ValueError(
            f"{store.root} has no {CONTENTS}: it was made before there was one. Any command that writes into it lists its "
            "files as they are then"
        )
    entries = [entry for entry in contents.entries.values() if entry.path != "config.yaml"]
    missing = [f"{contents.place(e)} is missing" for e in entries if not contents.place(e).exists()]
    tell(0, 1 + sample, f"{len(entries)} files")
    broken = [*missing, *map(str, store.unverified(*PARTS))]
    notes = (
        ["its files were listed as they were found: they are older than the list"]
        if contents.header.get("older")
        else []
    )
    if not contents.is_sound(store.root / "config.yaml"):
        notes.append("config.yaml was edited since it was written")
    again = list(_again(experiment, sample, seed, tell)) if sample and not broken else []
    return Verified(len(entries), len(again), (*broken, *filter(None, again)), tuple(notes))


def _again(experiment: Experiment, sample: int, seed: int, tell: Tell) -> Iterator[str]:
    """For each measurement that is made again: how it differs; "" where it comes out as it is."""
    store = experiment.store
    try:
        prepared = data_stage(experiment, told=True)
        todo = [
            *jobs(experiment, prepared.names, prepared.key),
            *pairwise_jobs(experiment, prepared.names, prepared.key),
        ]
    except (Damaged, FileNotFoundError) as error:
        yield str(error)
        return
    kept = [job for job in todo if job.weights and job.path.exists()]
    worker = Worker(experiment)
    for number, job in enumerate(random.Random(seed).sample(kept, min(sample, len(kept))), 1):
        if store.key_of(job.path) != job.key:
            yield f"{job.path} was decided by something else than the configuration says now"
            continue
        yield difference(str(job.path), store.read_dataset(job.path), worker.one(job))
        tell(1 + number, 1 + min(sample, len(kept)), job.stage)


def difference(name: str, there: xr.Dataset, made: xr.Dataset) -> str:
    """How two measurements differ, in words; nothing where they are close."""
    made = plain_attrs(made)
    if set(there.variables) != set(made.variables):
        return f"{name}: it has other variables than come out now"
    for variable in there.data_vars:
        a, b = there[variable].values, made[variable].values
        if a.shape != b.shape:
            return f"{name}: {variable} has shape {a.shape}, and now {b.shape} comes out"
        if a.dtype.kind != "f":
            if not np.array_equal(a, b):
                return f"{name}: {np.mean(a != b):.1%} of {variable} come out otherwise"
            continue
        size = float(np.nanmax(np.abs(b), initial=0.0)) or 1.0
        apart = np.abs(np.nan_to_num(a) - np.nan_to_num(b)).max(initial=0.0) / size
        if (np.isnan(a) != np.isnan(b)).any() or apart > CLOSE:
            return f"{name}: {variable} differs from what comes out now by {apart:.2g} of its largest value"
    return ""
