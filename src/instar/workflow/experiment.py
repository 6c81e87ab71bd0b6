"""One run: its directory, and every choice that decides it. What each stage of the workflow is handed.

A command names it in one of two ways: the run directory, or a configuration and the directory that it is for.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar.record.config import RunConfig
from instar.record.store import Store, Tuning
from instar.tasks.library import task

if TYPE_CHECKING:
    from instar.models.load import Model

Changes = Mapping[str, dict[str, Any]]
"""What a command line says instead of the file, by the configuration's parts."""
NOT_OF_TRAINING = {
    "model": {"dtype", "trust_remote_code"},
    "data": {"measure_pairs", "general_text"},
    "series": {"evict"},
    "train": {"report_to"},
}
"""Keys of the parts that decide a training which do not decide it."""


@dataclass(frozen=True)
class Experiment:
    """A run directory and its configuration."""

    store: Store
    config: RunConfig
    file: Path | None = None
    """The YAML file that names it, where it was not named by its directory."""

    @classmethod
    def create(cls, root: Path, config: RunConfig) -> "Experiment":
        """Make or open the directory, and clear what an interrupted writer left there."""
        return cls(Store.create(root, config), config)

    @classmethod
    def open(cls, root: Path) -> "Experiment":
        """An existing directory with its own configuration."""
        return cls(*Store.open(root))

    @classmethod
    def named(cls, run: Path, out: Path | None = None, instead: Changes | None = None) -> "Experiment":
        """The run that a command means: a directory, or a YAML file and `out`. Nothing is written.

        Raises:
            ValueError: for a file without `out`, a directory with another one, or one that is no run directory.
        """
        if run.is_dir():
            if out is not None and out.resolve() != run.resolve():
                raise ValueError(
                    f"{run} is a run directory, so --out {out} has no place: leave it out, or give a YAML file"
                )
            Store.open(run)
            file, root = run / "config.yaml", run
        elif out is None:
            needed = "a YAML file needs --out, the run directory that it is for"
            raise ValueError(f"{run}: {needed if run.exists() else 'no such file or directory'}")
        else:
            file, root = run, out
        config = RunConfig.read(file, instead)
        return cls(Store(root, config.train.seeds[0]), config, None if run.is_dir() else run)

    def trained(self) -> "Experiment":
        """Itself, to measure or compare: what its directory holds was trained by this configuration.

        Other parts may have changed since; the directory's own configuration is then written anew.

        Raises:
            ValueError: where nothing was trained there, or by other choices, naming them.
        """
        root = self.store.root
        if not (root / "config.yaml").exists():
            raise ValueError(f"{root} holds no run yet; train it first: {self.command('train')}")
        there = Experiment.open(root).config
        other = [f"{key}: {_short(b)} (there: {_short(a)})" for key, a, b in _differing(there, self.config)]
        if other:
            raise ValueError(
                f"{root} was trained by another configuration: {'; '.join(other)}. "
                f"Train by this one, {self.command('train')}, or give another --out"
            )
        if there != self.config:
            self.store.write_config(self.config)
        return self

    @property
    def tunings(self) -> list[Tuning]:
        """Every fine-tuning that is asked for: the seeds of the main one, then the controls."""
        return [*self.config.train.seeds, *self.config.compare.controls]

    @property
    def tasks(self) -> dict[str, str]:
        """The tasks' names by role, `old` and `new`."""
        own = self.config.tasks
        return {role: task(name, self.config.data).name for role, name in (("old", own.old), ("new", own.new))}

    def index(self, tuning: Tuning) -> dict[str, Any]:
        """The record of a finished fine-tuning.

        Raises:
            ValueError: where it is not finished, with the command that goes on.
        """
        index = self.store.index(tuning)
        if index is None:
            raise ValueError(
                f"{self.store.checkpoints(tuning)} has no finished fine-tuning; train it: {self.command('train')}"
            )
        return index

    def read_by(self, tuning: Tuning, row: dict[str, Any]) -> str:
        """What decides, beside the weights, how a row's checkpoint is read; as it was noted where weights are not kept."""
        from instar.models.accounts import read_by

        return read_by(self.store.origin(tuning, row["step"])[0]) if row.get("kept", True) else row.get("read_by", "")

    def untrained(self) -> "Model":
        """The base as the configuration names it."""
        own = self.config.model
        return self._load(own.source, own.revision)

    def checkpoint(self, tuning: Tuning, step: int, like: "Model | None" = None) -> "Model":
        """A checkpoint, loaded and proven, read as `like` is where that is given."""
        source, revision = self.store.origin(tuning, step)
        model = self._load(source, revision, dtype=self.config.model.dtype, like=like)
        # Results are the same wherever the run directory lies, so they do not name it.
        return replace(model, name=f"{self.config.model.source}, seed {tuning}, step {step}")

    def _load(self, source: str, revision: str | None, **options: Any) -> "Model":
        from instar.models.load import load  # torch: reading a run does without

        own = self.config.model
        choices = {"device": own.device, "chat": own.chat, "trust_remote_code": own.trust_remote_code}
        return load(source, revision=revision, **choices, **options)

    def command(self, stage: str, *options: str) -> str:
        """The command line of a stage of this run."""
        root = str(self.store.root)
        named = [root] if self.file is None else [str(self.file), "--out", root]
        return shlex.join(["instar", stage, *named, *options])


def _differing(there: RunConfig, here: RunConfig) -> list[tuple[str, Any, Any]]:
    """What decides a training and is not the same: key, there, here."""
    found = []
    for part in ("model", "tasks", "series", "data", "train"):
        a, b = ({} if own is None else own.model_dump() for own in (getattr(there, part), getattr(here, part)))
        for key in sorted({*a, *b} - NOT_OF_TRAINING.get(part, set())):
            one, other = a.get(key), b.get(key)
            # Further seeds are trainings of their own; the first says where each is kept.
            if key == "seeds":
                one, other = (None if seeds is None else seeds[0] for seeds in (one, other))
            found += [(f"{part}.{key}", one, other)] if one != other else []
    return found + ([("threads", there.threads, here.threads)] if there.threads != here.threads else [])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
