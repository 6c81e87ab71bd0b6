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
    checkpoints/step-000008/                 a folder that transformers loads
    measure/STAGE/TASK/step-000008.nc        one measurement (netCDF, opens with xarray)
    compare/evidence/step-000184.nc          what a verdict is made of: every number with its interval
    report/                                  the page and its figures

Further seeds and controls have a folder of their own (`checkpoints/seed-1/…`, `measure/STAGE/TASK/control-old/…`).

1. Every path is made of checked names and has no link in it; every file is there whole or not at all.
2. Who writes holds the directory (`instar.record.lock`), lists what is written (`instar.record.contents`), and removes or
   replaces nothing else. What is read is compared with the list.
3. A measurement carries the `key` of what decided it, and is skipped exactly when the key is the same.
4. A run that is only read (`out`): what is made of it goes into another directory, and is read from there.
"""

import errno
import json
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import xarray as xr
from safetensors import SafetensorError

from instar.record import netcdf
from instar.record.config import RunConfig
from instar.record.contents import NAME as CONTENTS
from instar.record.contents import PARTIAL, Contents, Damaged, Entry, entries_of, refuse_links
from instar.record.files import as_json, read_json, read_rows
from instar.record.keys import made_with
from instar.record.lock import HELD, held
from instar.record.lock import NAME as LOCK
from instar.record.names import LONGEST_FILE, file_name

Tuning = int | str
"""One fine-tuning: a seed of the main one, or the name of a control."""
SHARED = "shared"
"""The task name of measurements that belong to no task."""
SCHEMA = 3
"""Of summary.json."""
PARTS = ("data", "checkpoints", "measure", "compare", "report")
_MEASURED = re.compile(r"step-(\d{6,})\.nc")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NoRoom(OSError):  # noqa: N818 — the disk has none
    """The disk is full, or will be."""


@cache
def _contents(root: Path) -> Contents:
    return Contents(root)


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
    def contents(self) -> Contents:
        """What instar wrote into the directory that is written."""
        return _contents(self.out or self.root)

    # Writing

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the directory that is written: nobody else writes there in this block.

        Raises:
            ValueError: where another process does, or the directory holds other things than a run.
        """
        root, contents = self.out or self.root, self.contents
        if contents.alone is not None:
            yield
            return
        _refuse_foreign(root)
        for name in (LOCK, HELD, CONTENTS, PARTIAL):
            refuse_links(root, root / name)
        root.mkdir(parents=True, exist_ok=True)
        with held(root) as first:
            if first:
                self._begin(root)
            try:
                yield
            finally:
                if first:
                    with suppress(OSError):
                        contents.settle()
                        shutil.rmtree(root / PARTIAL, ignore_errors=True)

    def _begin(self, root: Path) -> None:
        """Clear what an interrupted writer left; list what an instar before format 1 wrote."""
        shutil.rmtree(root / PARTIAL, ignore_errors=True)
        if not self.contents.entries and not self.contents.header:
            older = [p for part in PARTS for p in sorted((root / part).rglob("*")) if _is_own(root, p)]
            older += [root / name for name in ("config.yaml", "summary.json") if _is_own(root, root / name)]
            made = (
                replace(e, **_facts(file))
                for file in older
                for e in entries_of(file, file.relative_to(root).as_posix())
            )
            self.contents.add(made, **({"older": True} if older else {}))

    @contextmanager
    def writing(self, path: Path, *, folder: bool = False, **facts: Any) -> Iterator[Path]:
        """A scratch path that becomes `path` when the block ends without an exception, and vanishes otherwise.

        `facts` are what its entry says beside size and sha256.

        Raises:
            ValueError: where a link is in the way, or a file that instar did not write.
            OSError: on a full disk, naming the file and the space that there is.
        """
        root, target = self.out or self.root, self._written(path)
        with self.owned():
            refuse_links(root, target)
            home = root / PARTIAL / secrets.token_hex(6)
            scratch = home if folder else home / target.name
            with self._room_for(target):
                home.mkdir(parents=True)
            try:
                with self._room_for(target):
                    yield scratch
                    self._put(scratch, target, facts)
            finally:
                shutil.rmtree(home, ignore_errors=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for what a library writes on its way; gone after the block, and after a kill with the next command."""
        with self.owned():
            home = (self.out or self.root) / PARTIAL / secrets.token_hex(6)
            home.mkdir(parents=True)
            try:
                yield home
            finally:
                shutil.rmtree(home, ignore_errors=True)

    def _put(self, scratch: Path, target: Path, facts: dict[str, Any]) -> None:
        contents = self.contents
        old = contents.below(target) if scratch.is_dir() else []
        if target.is_file() and contents.of(target) is None and contents.alone is None:
            raise ValueError(f"{target} is there, and instar did not write it: move it away, or give another --out")
        place = target.relative_to(self.out or self.root).as_posix()
        contents.add(replace(entry, **facts) for entry in entries_of(scratch, place))
        target.parent.mkdir(parents=True, exist_ok=True)
        contents.forget(old)
        if target.is_dir() and any(target.iterdir()):
            raise ValueError(f"{target} holds files that instar did not write: move them away, or give another --out")
        scratch.replace(target)

    @contextmanager
    def _room_for(self, target: Path) -> Iterator[None]:
        """A full disk in words. safetensors has an error of its own."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            full = getattr(error, "errno", None) in _FULL or re.search(
                r"No space left|File too large|quota", str(error)
            )
            if not full:
                raise
            raise NoRoom(f"{target} could not be written ({_reason(error)}): {self.room()}") from None

    def room(self) -> str:
        """What the disk has, in words."""
        root = self.out or self.root
        there = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free
        return f"{free / 1e6:,.1f} MB are free there. What is finished is kept; make room, and the same command goes on"

    def need(self, size: float, what: str) -> None:
        """Ask for free space before it is needed.

        Raises:
            OSError: naming what is needed and what there is.
        """
        root = self.out or self.root
        there = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free
        if size > free:
            raise NoRoom(
                f"{root}: {what} needs about {size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free there: make room, or "
                "give another --out"
            )

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
        self.contents.add((), config=config.model_dump(mode="json"))

    def made_by(self) -> dict[str, Any] | None:
        """The configuration that the results here were made by."""
        return _contents(self.root).header.get("config") if _contents(self.root).entries else None

    def forget(self, *paths: Path) -> None:
        """Remove files and folders, as far as instar wrote them."""
        if not any(self._written(path).exists() for path in paths):
            return
        with self.owned():
            places = [self._written(path) for path in paths]
            found = [self.contents.of(path) for path in places]
            self.contents.forget([*(entry for entry in found if entry is not None), *self.contents.below(*places)])

    def has_results(self) -> bool:
        """Whether anything is here that took time: checkpoints or measurements."""
        return bool(_contents(self.root).below(self.root / "checkpoints", self.root / "measure"))

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
            _contents(self._owner(path)).check(path)
        except Damaged:
            if not self.lenient:
                raise
        return path

    def unverified(self, *folders: str) -> list[Damaged]:
        """The files of some folders, and summary.json, that are not those that were written."""
        found = []
        for root in (root for root in (self.root, self.out) if root is not None):
            files = [
                p for part in folders for p in sorted((root / part).rglob("*")) if p.is_file() and p.name[0] != "."
            ]
            for path in [*files, root / "summary.json"]:
                try:
                    _contents(root).check(path)
                except Damaged as damaged:
                    found.append(damaged)
                except FileNotFoundError:
                    continue
        return found

    def _owner(self, path: Path) -> Path:
        return self.out if self.out is not None and path.is_relative_to(self.out) else self.root

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
        if schema != SCHEMA:
            raise ValueError(
                f"{self.summary} has schema {str(schema)[:40]}, and this instar reads {SCHEMA}; `instar compare {self.root}` "
                "makes one"
            )
        return found

    def listed(self, root: Path, part: str) -> list[Entry]:
        """What instar wrote into a folder of this run, or of what is made of it."""
        return _contents(root).below(root / part)

    def is_whole(self, part: str) -> bool:
        """Whether all that instar wrote into a folder is there, by sizes."""
        contents = self.contents
        return all(contents.is_sound(contents.place(e), deeply=False) for e in self.listed(contents.root, part))

    def prepared(self) -> dict[str, Any] | None:
        """What the data are: their key, and each task's counterfactuals, the old task first; None before they are made."""
        path = self.data("prepared.json")
        if not path.exists():
            return None
        return _shaped(path, self.read_json(path), counterfactuals=dict)

    # Places

    def place(self, *parts: str) -> Path:
        """A path inside the directory: of names alone, without a link. Of what is in `out` it is there."""
        names = [file_name(part, f"{self.root}: path", LONGEST_FILE) for part in parts]
        for root in (self.out, self.root):
            if root is not None:
                path = root.joinpath(*names)
                refuse_links(root, path)
                if path.exists():
                    return path
        return self.root.joinpath(*names)

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
        return self._seeded(("checkpoints",), seed, step_name(step))

    def measurement(self, stage: str, task: str, seed: Tuning, step: int) -> Path:
        """One measurement's file."""
        return self._seeded(("measure", stage, task), seed, f"{step_name(step)}.nc")

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

    # Checkpoints

    def index(self, seed: Tuning | None = None) -> dict[str, Any] | None:
        """The record of a finished fine-tuning."""
        path = self.checkpoints(self.first_seed if seed is None else seed) / "index.json"
        return _shaped(path, self.read_json(path), steps=list, health=list) if path.exists() else None

    def write_index(self, seed: Tuning, index: dict[str, Any]) -> None:
        """The record of a fine-tuning, written last."""
        self.write_json(self.checkpoints(seed) / "index.json", index)

    def check_checkpoint(self, seed: Tuning, step: int) -> None:
        """That the files of a checkpoint that was trained here are those that were written.

        Raises:
            Damaged: naming the first that is not, or is missing.
        """
        folder, contents = self.checkpoint(seed, step), _contents(self.root)
        if not contents.header:
            return
        listed = {contents.place(entry) for entry in contents.below(folder)}
        found = {path for path in folder.rglob("*") if not path.is_dir() and not path.name.startswith(".")}
        for path in sorted(listed | found):
            refuse_links(self.root, path)
            if not path.exists():
                raise Damaged(path, "it is missing")
            contents.check(path)

    def check_kept(self, seed: Tuning) -> None:
        """That all checkpoints of a fine-tuning are as they were written, by their sizes; errors as of `check_checkpoint`."""
        folder, contents = self.checkpoints(seed), _contents(self.root)
        starts = f"{folder.relative_to(self.root).as_posix()}/step-"
        for entry in [entry for entry in contents.entries.values() if entry.path.startswith(starts)]:
            path = contents.place(entry)
            if not path.exists():
                raise Damaged(path, "it is missing")
            contents.check(path, deeply=False)

    # Measurements

    def write_measurement(self, path: Path, dataset: xr.Dataset, key: str) -> None:
        """A dataset with the key of what decided it and the versions that made it.

        Attributes that are not text or numbers are written as JSON.
        """
        content = netcdf.as_bytes(dataset.assign_attrs(key=key, made_with=made_with()))
        with self.writing(path, key=key, made_with=made_with()) as scratch:
            scratch.write_bytes(content)

    def has_measurement(self, path: Path, key: str) -> bool:
        """Whether this very measurement is already there."""
        contents = _contents(self._owner(path))
        entry = contents.of(path)
        return entry is not None and entry.key == key and contents.is_sound(path, deeply=False)

    def key_of(self, path: Path) -> str | None:
        """The key of what decided a measurement; None where it is not known."""
        entry = _contents(self._owner(path)).of(path)
        return None if entry is None else entry.key

    def made_with(self) -> Counter[str]:
        """How many measurements there are of each set of versions; "" for those that do not say."""
        both = [_contents(root).below(root / "measure") for root in (self.root, self.out) if root is not None]
        known = {entry.path: entry for entries in both for entry in entries if entry.path.endswith(".nc")}
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
        folder = self._seeded(("measure", stage, task), self.first_seed if seed is None else seed)
        inside = folder.relative_to(self._owner(folder))
        files = (
            p.name for root in (self.root, self.out) if root is not None for p in (root / inside).glob("step-*.nc")
        )
        return sorted({int(found[1]) for name in files if (found := _MEASURED.fullmatch(name))})

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


def _refuse_foreign(root: Path) -> None:
    """Refuse a folder of other things: it is not adopted as a run."""
    if not root.is_dir() or any((root / name).exists() for name in ("config.yaml", "contents.jsonl")):
        return
    found = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    if found:
        raise ValueError(
            f"{root} is no run directory (it has no config.yaml) and not empty ({', '.join(found[:3])}"
            f"{', …' if len(found) > 3 else ''}): give another --out"
        )


_OWN = re.compile(
    r"config\.yaml|summary\.json|data/[^/]+\.jsonl?|(measure|compare)/([^/]+/){1,3}step-\d{6,}\.nc|measure/failed\.json|"
    r"checkpoints/([\w-]+/)?(index\.json|step-\d{6,}/[^/]+)|report/index\.html|report/[\w-]+\.gif|report/figures/[^/]+\.(png|svg)"
)


def _is_own(root: Path, path: Path) -> bool:
    """Whether an instar before format 1 wrote it, by its place."""
    return (
        bool(_OWN.fullmatch(path.relative_to(root).as_posix()))
        and path.is_file()
        and path.resolve().is_relative_to(root.resolve())
    )


def _facts(file: Path) -> dict[str, str]:
    """What the list holds of a measurement that was made before there was a list."""
    if file.suffix != ".nc":
        return {}
    with suppress(ValueError, OSError):
        own = netcdf.attributes(file)
        return {name: str(own[name]) for name in ("key", "made_with") if name in own}
    return {}


def _shaped(path: Path, value: Any, **kinds: type) -> dict[str, Any]:
    """What a file holds, if it is an object with these parts.

    Raises:
        Damaged: where it is not.
    """
    wrong = [
        name for name, kind in kinds.items() if not isinstance(value, dict) or not isinstance(value.get(name), kind)
    ]
    if wrong:
        raise Damaged(path, f"expected an object that holds {' and '.join(kinds)}")
    return value


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def tuning_name(tuning: Tuning) -> str:
    """`seed 0`, `control old`."""
    return f"seed {tuning}" if isinstance(tuning, int) else f"control {tuning}"


def step_name(step: int) -> str:
    """`step-000008`."""
    return f"step-{step:06d}"
