"""The run directory: the only thing that two stages share, and the only module that knows its paths and formats.

    config.yaml                              the resolved configuration
    summary.json                             what was found (schema: docs/formats.md)
    data/train.jsonl                         what was trained on
    data/TASK.COUNTERFACTUAL.jsonl           held-out pairs
    data/audit.json                          the audit of training against test data
    data/baselines.jsonl                     what needs no circuit: a rule a line, with how right it is on each pair
    checkpoints/index.json                   step, loss, tokens, hash and health; written last, so its presence means done
    checkpoints/step-000008/                 a folder that transformers loads
    measure/STAGE/TASK/step-000008.nc        one measurement (netCDF, opens with xarray)
    compare/evidence/step-000184.nc          what a verdict is made of: every number with its interval
    report/                                  the page and its figures

Further seeds and controls have a folder of their own (`checkpoints/seed-1/…`, `measure/STAGE/TASK/control-old/…`). Every
file is there whole or not at all (`instar.record.files`). A measurement carries the `key` of what
decided it, and is skipped exactly when the key is the same.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5netcdf
import xarray as xr

from instar.record.config import RunConfig
from instar.record.files import read_json, whole, write_text
from instar.record.keys import made_with

Tuning = int | str
"""One fine-tuning: a seed of the main one, or the name of a control."""
SHARED = "shared"
"""The task name of measurements that belong to no task."""


@dataclass(frozen=True)
class Store:
    """One run directory."""

    root: Path
    first_seed: int = 0

    @classmethod
    def create(cls, root: Path, config: RunConfig) -> "Store":
        """Make or open the directory, and clear what an interrupted writer left there."""
        root.mkdir(parents=True, exist_ok=True)
        store = cls(root, config.train.seeds[0])
        store.sweep_up()
        if not (root / "config.yaml").exists():
            store.write_config(config)
        return store

    @classmethod
    def open(cls, root: Path) -> tuple["Store", RunConfig]:
        """An existing directory and its configuration."""
        if not (root / "config.yaml").exists():
            raise ValueError(f"{root} is not a run directory: it has no config.yaml")
        config = RunConfig.read(root / "config.yaml")
        return cls(root, config.train.seeds[0]), config

    def write_config(self, config: RunConfig) -> None:
        """The resolved configuration; training writes it once its data are accepted."""
        write_text(self.root / "config.yaml", config.yaml())

    def sweep_up(self) -> None:
        """Remove what an interrupted writer left behind."""
        for leftover in self.root.rglob(".partial-*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    # Places

    def data(self, name: str) -> Path:
        """A file of `data/`."""
        return self.root / "data" / name

    def checkpoints(self, seed: Tuning) -> Path:
        """The folder of one fine-tuning."""
        return self._seeded(self.root / "checkpoints", seed)

    def checkpoint(self, seed: Tuning, step: int) -> Path:
        """The folder of a checkpoint that was trained here."""
        return self.checkpoints(seed) / step_name(step)

    def origin(self, seed: Tuning, step: int) -> tuple[str, str | None]:
        """Where a checkpoint is read from, and at which hub revision: its index says so if somebody else trained it."""
        for row in (self.index(seed) or {"steps": []})["steps"]:
            if row["step"] == step and "source" in row:
                return row["source"], row.get("revision")
        return str(self.checkpoint(seed, step)), None

    def measurement(self, stage: str, task: str, seed: Tuning, step: int) -> Path:
        """One measurement's file."""
        return self._seeded(self.root / "measure" / stage / task, seed) / f"{step_name(step)}.nc"

    def compared(self, what: str, seed: Tuning, step: int) -> Path:
        """One checkpoint's file of `compare/`."""
        return self._seeded(self.root / "compare" / what, seed) / f"{step_name(step)}.nc"

    def forget_compared(self) -> None:
        """Remove what an earlier comparison left: its checkpoints may be other ones."""
        shutil.rmtree(self.root / "compare", ignore_errors=True)

    def report(self, name: str = "") -> Path:
        """A file of `report/`."""
        return self.root / "report" / name

    def _seeded(self, folder: Path, seed: Tuning) -> Path:
        if isinstance(seed, str):
            return folder / f"control-{seed}"
        return folder if seed == self.first_seed else folder / f"seed-{seed}"

    # Measurements

    def write_measurement(self, path: Path, dataset: xr.Dataset, key: str) -> None:
        """A dataset with the key of what decided it and the versions that made it.

        Attributes that are not text or numbers are written as JSON.
        """
        dataset = plain_attrs(dataset).assign_attrs(key=key, made_with=made_with())
        with whole(path) as scratch:
            dataset.to_netcdf(scratch, engine="h5netcdf")

    def has_measurement(self, path: Path, key: str) -> bool:
        """Whether this very measurement is already there."""
        return path.exists() and self.key_of(path) == key

    def key_of(self, path: Path) -> str | None:
        """The key of what decided a measurement; None where it cannot be read."""
        return _attributes(path).get("key")

    def made_with(self) -> Counter[str]:
        """How many measurements there are of each set of versions; "" for those that do not say."""
        return Counter(str(_attributes(file).get("made_with", "")) for file in (self.root / "measure").rglob("*.nc"))

    def attributes(self, stage: str, task: str, seed: Tuning, step: int) -> dict[str, Any]:
        """How one measurement was made; nothing where there is none."""
        return _attributes(self.measurement(stage, task, seed, step))

    def read_measurement(self, stage: str, task: str, seed: Tuning, step: int) -> xr.Dataset | None:
        """One measurement; None where there is none."""
        path = self.measurement(stage, task, seed, step)
        if not path.exists():
            return None
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            return dataset.load()

    def forget_all_but(self, wanted: set[Path]) -> None:
        """Remove measurements of checkpoints, tasks or stages that the run no longer has."""
        for file in (self.root / "measure").rglob("*.nc"):
            if file not in wanted:
                file.unlink()

    def measured_steps(self, stage: str, task: str, seed: Tuning | None = None) -> list[int]:
        """The steps that one measurement has."""
        folder = self.measurement(stage, task, self.first_seed if seed is None else seed, 0).parent
        return sorted(int(file.stem.removeprefix("step-")) for file in folder.glob("step-*.nc"))

    def series(
        self,
        stage: str,
        task: str,
        seed: Tuning | None = None,
        steps: Sequence[int] | None = None,
        only: Callable[[xr.Dataset], xr.Dataset] = lambda dataset: dataset,
    ) -> xr.Dataset | None:
        """All checkpoints (or those of `steps`) of one measurement along a `step` axis; None where there are none.

        `only` takes what is needed of each file before it is read: per-pair scores of all edges are large.
        """
        seed = self.first_seed if seed is None else seed
        steps = [s for s in self.measured_steps(stage, task, seed) if steps is None or s in steps]
        if not steps:
            return None
        files = [self.measurement(stage, task, seed, step) for step in steps]
        loaded = []
        for file in files:
            with xr.open_dataset(file, engine="h5netcdf") as dataset:
                loaded.append(only(dataset).load().assign_attrs(dataset.attrs))
        attrs = loaded[0].attrs
        series = xr.concat(
            loaded,
            dim="step",
            combine_attrs="override",
            data_vars="all",
            coords="minimal",
            compat="override",
            join="outer",
        )
        return series.assign_coords(step=steps).assign_attrs(attrs)

    # Training index

    def index(self, seed: Tuning | None = None) -> dict[str, Any] | None:
        """The record of a finished fine-tuning."""
        path = self.checkpoints(self.first_seed if seed is None else seed) / "index.json"
        return read_json(path) if path.exists() else None


def _attributes(path: Path) -> dict[str, Any]:
    # Not through xarray, which would decode every variable first.
    with suppress(OSError, ValueError), h5netcdf.File(path, "r") as file:
        return dict(file.attrs)
    return {}


def tuning_name(tuning: Tuning) -> str:
    """`seed 0`, `control old`."""
    return f"seed {tuning}" if isinstance(tuning, int) else f"control {tuning}"


def plain_attrs(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset as it will be read back: attributes that are not text or numbers are JSON."""
    plain = {k: v if isinstance(v, str | int | float) else json.dumps(v) for k, v in dataset.attrs.items()}
    return dataset.assign_attrs(plain)


def step_name(step: int) -> str:
    """`step-000008`."""
    return f"step-{step:06d}"
