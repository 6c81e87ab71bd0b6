"""The run directory: the only thing that two stages share, and the only module that knows its paths and formats.

    config.yaml                              the resolved configuration
    contents.jsonl                           size, sha256 and key of every file that instar wrote here
    summary.json                             what was found (schema: docs/formats.md)
    data/train.jsonl                         what was trained on
    data/TASK.COUNTERFACTUAL.jsonl           held-out pairs
    data/audit.json                          the audit of training against test data
    data/baselines.jsonl                     what needs no circuit: a rule a line, with how right it is on each pair
    data/TASK.py.txt                         the code of a task of the user's own, as text
    checkpoints/index.json                   step, loss, tokens, hash and health; written last, so its presence means done
    checkpoints/steps.jsonl                  loss, gradient norm, change of the weights and choosing of every step
    checkpoints/step-000008/                 a folder that transformers loads
    measure/STAGE/TASK/step-000008.nc        one measurement (netCDF, opens with xarray)
    compare/evidence/step-000184.nc          numbers of causal tests, each with its interval
    report/                                  the page and its figures

Further seeds and controls have a folder of their own (`checkpoints/seed-1/…`, `measure/STAGE/TASK/control-old/…`); step 0 of
all of them is one model, and is where the first seed's is.

1. Files are written, read and removed through `instar.record.directory` alone.
2. A measurement carries the `key` of what decided it, and is skipped exactly when the key is the same.
3. A run that is only read (`out`): what is made of it goes into another directory, and is read from there.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from instar.record import netcdf
from instar.record.config import RunConfig
from instar.record.contents import Contents, Damaged, refuse_links, shaped
from instar.record.directory import Directory
from instar.record.files import as_json, read_json, read_rows
from instar.record.keys import made_with
from instar.record.names import file_name

Tuning = int | str
"""One fine-tuning: a seed of the main one, or the name of a control."""
SHARED = "shared"
"""The task name of measurements that belong to no task."""
SCHEMA = 4
"""Of summary.json."""
READ = (3, SCHEMA)
"""What is read of it: 3 has no answer."""
_MEASURED = re.compile(r"step-(\d{6,})\.nc")


@dataclass(frozen=True)
class Store:
    """One run directory."""

    root: Path
    first_seed: int = 0
    out: Path | None = None
    """Where is written, if not there."""
    lenient: bool = False
    """Whether what does not verify is read all the same: a page says so."""

    @classmethod
    def create(cls, root: Path, config: RunConfig) -> "Store":
        """Make or open the directory, and clear what an interrupted writer left there."""
        store = cls(root, config.train.seeds[0])
        with store.owned():
            if not (root / "config.yaml").exists():
                store.write_config(config)
        return store

    @classmethod
    def open(cls, root: Path) -> tuple["Store", RunConfig]:
        """An existing directory and its configuration."""
        if not (root / "config.yaml").exists():
            raise ValueError(f"{root} is not a run directory: it has no config.yaml")
        refuse_links(root, root / "config.yaml")
        config = RunConfig.read(root / "config.yaml")
        return cls(root, config.train.seeds[0]), config

    @property
    def there(self) -> Directory:
        """The run's directory."""
        return Directory(self.root)

    @property
    def here(self) -> Directory:
        """The directory that is written."""
        return Directory(self.out or self.root)

    @property
    def directories(self) -> list[Directory]:
        """The run's, and that of what is made of it."""
        return [self.there] if self.out is None else [self.there, self.here]

    @property
    def contents(self) -> Contents:
        """What instar wrote into the directory that is written."""
        return self.here.contents

    # Writing

    def owned(self) -> AbstractContextManager[None]:
        """Hold the directory that is written: nobody else writes there in this block."""
        return self.here.owned()

    def writing(self, path: Path, *, folder: bool = False, **facts: Any) -> AbstractContextManager[Path]:
        """As of `Directory.writing`."""
        return self.here.writing(self._written(path), folder=folder, **facts)

    def need(self, size: float, what: str) -> None:
        """Ask for free space before it is needed."""
        self.here.need(size, what)

    def write_text(self, path: Path, text: str, **facts: Any) -> None:
        """A text file."""
        with self.writing(path, **facts) as scratch:
            scratch.write_text(text, encoding="utf-8")

    def write_json(self, path: Path, value: Any, **facts: Any) -> None:
        """A JSON file; NaN becomes null."""
        self.write_text(path, as_json(value), **facts)

    def write_rows(self, path: Path, rows: Iterable[Any]) -> None:
        """JSON Lines from dicts or dataclasses."""
        plain = (row if isinstance(row, dict) else asdict(row) for row in rows)
        self.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain))

    def write_config(self, config: RunConfig) -> None:
        """The resolved configuration; training writes it once its data are accepted."""
        self.write_text(self.root / "config.yaml", config.yaml())
        self.here.note(config=config.model_dump(mode="json"))

    def made_by(self) -> dict[str, Any] | None:
        """The configuration that the results here were made by."""
        return self.there.contents.header.get("config")

    def forget(self, *paths: Path) -> None:
        """Remove files and folders, as far as instar wrote them."""
        self.here.forget(*map(self._written, paths))

    def has_results(self) -> bool:
        """Whether anything is here that took time: checkpoints or measurements."""
        return bool(self.there.listed("checkpoints") or self.there.listed("measure"))

    def _written(self, path: Path) -> Path:
        """Where a path of this run is written."""
        return path if self.out is None or path.is_relative_to(self.out) else self.out / path.relative_to(self.root)

    # Reading

    def check(self, path: Path) -> Path:
        """A file that is about to be read, once it is known to be the one that was written.

        Raises:
            Damaged: where it is not.
        """
        try:
            self._of(path).contents.check(path)
        except Damaged:
            if not self.lenient:
                raise
        return path

    def unverified(self, *parts: str) -> list[Damaged]:
        """The files of some folders, and summary.json, that are not those that were written."""
        return [damaged for directory in self.directories for damaged in directory.unverified(*parts)]

    def _of(self, path: Path) -> Directory:
        return self.here if self.out is not None and path.is_relative_to(self.out) else self.there

    def read_json(self, path: Path) -> Any:
        """A JSON file, verified."""
        return read_json(self.check(path))

    def read_rows(self, path: Path, make: Callable[[dict[str, Any]], Any] = lambda row: row) -> list[Any]:
        """JSON Lines, verified, each row through `make`."""
        return read_rows(self.check(path), make)

    def read_summary(self) -> dict[str, Any]:
        """What was found.

        Raises:
            FileNotFoundError: where there is none yet.
            ValueError: for one of another schema, or another file than was written.
        """
        if not self.summary.exists():
            raise FileNotFoundError(f"{self.root} has no summary.json; run `instar compare {self.root}` first")
        found = self.read_json(self.summary)
        schema = found.get("schema") if isinstance(found, dict) else None
        if schema not in READ:
            raise ValueError(
                f"{self.summary} has schema {str(schema)[:40]}, and this instar reads {SCHEMA}; `instar compare {self.root}` "
                "makes one"
            )
        return found

    def prepared(self) -> dict[str, Any] | None:
        """What the data are: their key, and each task's counterfactuals, the old task first; None before they are made."""
        path = self.data("prepared.json")
        if not path.exists():
            return None
        return shaped(path, self.read_json(path), counterfactuals=dict)

    # Places

    def place(self, *parts: str) -> Path:
        """A path inside the directory: of names alone, without a link. Of what is in `out` it is there."""
        for directory in reversed(self.directories):
            path = directory.place(*parts)
            if path.exists():
                return path
        return self.there.place(*parts)

    def data(self, name: str) -> Path:
        """A file of `data/`."""
        return self.place("data", name)

    def pairs(self, task: str, counterfactual: str) -> Path:
        """The held-out pairs of a task."""
        names = file_name(task, "task"), file_name(counterfactual, f"{task}: counterfactual")
        return self.place("data", f"{names[0]}.{names[1]}.jsonl")

    def checkpoints(self, seed: Tuning) -> Path:
        """The folder of one fine-tuning."""
        return self._seeded(("checkpoints",), seed)

    def checkpoint(self, seed: Tuning, step: int) -> Path:
        """The folder of a checkpoint that was trained here."""
        return self._of_all(("checkpoints",), seed, step, step_name(step))

    def course(self, seed: Tuning) -> Path:
        """A fine-tuning's file with a line for every step."""
        return self._seeded(("checkpoints",), seed, "steps.jsonl")

    def measurement(self, stage: str, task: str, seed: Tuning, step: int) -> Path:
        """One measurement's file."""
        return self._of_all(("measure", stage, task), seed, step, f"{step_name(step)}.nc")

    def compared(self, what: str, seed: Tuning, step: int) -> Path:
        """One checkpoint's file of `compare/`."""
        return self._seeded(("compare", what), seed, f"{step_name(step)}.nc")

    def report(self, *names: str) -> Path:
        """A file of `report/`."""
        return self.place("report", *names)

    @property
    def summary(self) -> Path:
        """summary.json."""
        return self.place("summary.json")

    @property
    def failed(self) -> Path:
        """What could not be measured."""
        return self.place("measure", "failed.json")

    def _seeded(self, folder: tuple[str, ...], seed: Tuning, *name: str) -> Path:
        own = f"control-{seed}" if isinstance(seed, str) else f"seed-{seed}"
        return self.place(*folder, *([] if seed == self.first_seed else [own]), *name)

    def _of_all(self, folder: tuple[str, ...], seed: Tuning, step: int, name: str) -> Path:
        """Step 0 is kept once; an earlier instar kept it with every seed."""
        own = self._seeded(folder, seed, name)
        return own if step or own.exists() else self._seeded(folder, self.first_seed, name)

    # Checkpoints

    def index(self, seed: Tuning | None = None) -> dict[str, Any] | None:
        """The record of a finished fine-tuning."""
        path = self.checkpoints(self.first_seed if seed is None else seed) / "index.json"
        return shaped(path, self.read_json(path), steps=list) if path.exists() else None

    def write_index(self, seed: Tuning, index: dict[str, Any]) -> None:
        """The record of a fine-tuning, written last."""
        self.write_json(self.checkpoints(seed) / "index.json", index)

    def check_checkpoint(self, seed: Tuning, step: int, deeply: bool = True) -> None:
        """That a checkpoint that was trained here has the files that were written and no others; `deeply`: `Contents.check`.

        Raises:
            Damaged: naming the first that is not, or is missing.
        """
        folder, contents = self.checkpoint(seed, step), self.there.contents
        if not contents.header:
            return
        listed = {contents.place(entry) for entry in contents.below(folder)}
        found = {path for path in folder.rglob("*") if not path.is_dir() and not path.name.startswith(".")}
        for path in sorted(listed | found):
            refuse_links(self.root, path)
            if not path.exists():
                raise Damaged(path, "it is missing")
            contents.check(path, deeply)

    def check_kept(self, seed: Tuning) -> None:
        """`check_checkpoint` of every checkpoint of a fine-tuning, by sizes."""
        for row in (self.index(seed) or {"steps": []})["steps"]:
            if row.get("kept", True):
                self.check_checkpoint(seed, row["step"], deeply=False)

    # Measurements

    def write_measurement(self, path: Path, dataset: xr.Dataset, key: str) -> None:
        """A dataset with the key of what decided it and the versions that made it."""
        content = netcdf.as_bytes(dataset.assign_attrs(key=key, made_with=made_with()))
        with self.writing(path, key=key, made_with=made_with()) as scratch:
            scratch.write_bytes(content)

    def has_measurement(self, path: Path, key: str) -> bool:
        """Whether this very measurement is already there."""
        contents = self._of(path).contents
        entry = contents.of(path)
        return entry is not None and entry.key == key and contents.is_sound(path, deeply=False)

    def key_of(self, path: Path) -> str | None:
        """The key of what decided a measurement; None where it is not known."""
        entry = self._of(path).contents.of(path)
        return None if entry is None else entry.key

    def made_with(self) -> Counter[str]:
        """How many measurements there are of each set of versions; "" for those that do not say."""
        every = (entry for directory in self.directories for entry in directory.listed("measure"))
        known = {entry.path: entry for entry in every if entry.path.endswith(".nc")}
        return Counter(entry.made_with or "" for entry in known.values())

    def attributes(self, stage: str, task: str, seed: Tuning, step: int) -> dict[str, Any]:
        """How one measurement was made; nothing where there is none."""
        path = self.measurement(stage, task, seed, step)
        return netcdf.attributes(self.check(path)) if path.exists() else {}

    def read_measurement(self, stage: str, task: str, seed: Tuning, step: int) -> xr.Dataset | None:
        """One measurement; None where there is none."""
        path = self.measurement(stage, task, seed, step)
        return self.read_dataset(path) if path.exists() else None

    def read_dataset(self, path: Path) -> xr.Dataset:
        """One of this run's datasets."""
        with netcdf.opened(self.check(path)) as dataset:
            return dataset.load()

    def measured_steps(self, stage: str, task: str, seed: Tuning | None = None) -> list[int]:
        """The steps that one measurement has."""
        seed = self.first_seed if seed is None else seed
        folder = self._seeded(("measure", stage, task), seed)
        inside = folder.relative_to(self._of(folder).root)
        files = (path.name for own in self.directories for path in (own.root / inside).glob("step-*.nc"))
        base = [0] if isinstance(seed, int) and self.measurement(stage, task, seed, 0).exists() else []
        return sorted({*base, *(int(found[1]) for name in files if (found := _MEASURED.fullmatch(name)))})

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
        loaded = []
        for file in (self.measurement(stage, task, seed, step) for step in steps):
            with netcdf.opened(self.check(file)) as dataset:
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


def tuning_name(tuning: Tuning) -> str:
    """`seed 0`, `control old`."""
    return f"seed {tuning}" if isinstance(tuning, int) else f"control {tuning}"


def step_name(step: int) -> str:
    """`step-000008`."""
    return f"step-{step:06d}"
