"""One run: its directory, and every choice that decides it. What each stage of the workflow is handed.

A command names it in one of two ways: the run directory, or a configuration and the directory that it is for.
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar.record.config import RunConfig
from instar.record.contents import NAME as CONTENTS
from instar.record.directory import PARTS
from instar.record.store import Store, Tuning
from instar.tasks.custom import code_runs_by
from instar.tasks.library import task

if TYPE_CHECKING:
    from instar.models.load import Model

Changes = Mapping[str, dict[str, Any]]
"""What a command line says instead of the file, by the configuration's parts."""
OF_TRAINING, OF_MEASURING = ("model", "tasks", "series", "data", "train"), ("measure", "compare")
OF_NUMBERS_ALONE = {"model": {"dtype"}, "data": {"measure_pairs", "general_text"}}
"""Keys of the parts that decide a training which decide what is measured of it."""
OF_NEITHER = {
    "model": {"trust_remote_code"},
    "series": {"checkpoints", "evict"},  # a series may grow; what it would lose is asked for where it is read
    "train": {"report_to"},
    "measure": {"stages", "executor", "gpus", "checkpoints", "further_seeds"},
    "compare": {"checkpoints", "controls"},
}
"""Keys that decide no number that is there: which there are, and how they are made."""


@dataclass(frozen=True)
class Consent:
    """What this user's command line allows. A file in a run directory allows nothing."""

    remote: bool = True
    """Run code that comes with a model, where the configuration asks for it."""
    tasks: bool = True
    """Run the Python files of tasks that the configuration names."""
    replace: bool = False
    """Make anew what was made by another configuration."""


@dataclass(frozen=True)
class Experiment:
    """A run directory and its configuration."""

    store: Store
    config: RunConfig
    file: Path | None = None
    """The YAML file that names it, where it was not named by its directory."""
    consent: Consent = Consent()

    @classmethod
    def create(cls, root: Path, config: RunConfig, replace: bool = False) -> "Experiment":
        """Make or open the directory, and clear what an interrupted writer left there.

        Raises:
            ValueError: where it holds the results of another configuration, unless they are to be replaced.
        """
        found = cls(Store.create(root, config), config, consent=Consent(replace=replace))
        found.claim()
        return found

    @classmethod
    def open(cls, root: Path) -> "Experiment":
        """An existing directory with its own configuration."""
        return cls(*Store.open(root))

    @classmethod
    def named(
        cls,
        run: Path,
        out: Path | None = None,
        instead: Changes | None = None,
        consent: Consent = Consent(),
        beside: bool = False,
    ) -> "Experiment":
        """The run that a command means: a directory, or a YAML file and `out`. Nothing is written.

        Args:
            beside: whether a directory's run may be read alone, and what is made of it written to `out`.

        Raises:
            ValueError: for a file without `out`, a directory with another one, or one that is no run directory.
        """
        elsewhere = None
        if run.is_dir():
            if out is not None and out.resolve() != run.resolve():
                if not beside:
                    raise ValueError(
                        f"{run} is a run directory, so --out {out} has no place: leave it out, or give a YAML file"
                    )
                elsewhere = out
            Store.open(run)
            file, root = run / "config.yaml", run
        elif out is None:
            needed = "a YAML file needs --out, the run directory that it is for"
            raise ValueError(f"{run}: {needed if run.exists() else 'no such file or directory'}")
        else:
            file, root = run, out
        config = RunConfig.read(file, instead)
        found = cls(Store(root, config.train.seeds[0], elsewhere), config, None if run.is_dir() else run, consent)
        # A configuration in a run directory may be somebody else's.
        strange = (run.is_dir() or (run.parent / CONTENTS).exists()) and not consent.tasks
        code_runs_by.set(found.command("train", "--trust-tasks") if strange else None)
        return found

    def trained(self) -> "Experiment":
        """Itself, to measure or compare: what its directory holds was trained by this configuration.

        Other parts may have changed since; the directory's own configuration is then written anew.

        Raises:
            ValueError: where nothing was trained there, or by other choices, naming them.
        """
        root = self.store.root
        if not (root / "config.yaml").exists():
            raise ValueError(f"{root} holds no run yet; train it first: {self.command('train')}")
        there = self._there()
        other = [] if there is None else _said(_differing(there, self.config, _training))
        if other:
            raise ValueError(
                f"{root} was trained by another configuration: {'; '.join(other)}. "
                f"Train by this one, {self.command('train')}, or give another --out"
            )
        self.claim()
        if self.store.out is None and there != self.config:
            self.store.write_config(self.config)
        return self

    def claim(self) -> None:
        """Make sure that nothing that is there is made anew, unless that is wanted; then what was trained is removed.

        Raises:
            ValueError: where results were made by another configuration, naming the keys.
        """
        there = self._there()
        if there is None or self.store.out is not None:
            return
        training, numbers = (_differing(there, self.config, which) for which in (_training, _measuring))
        trained = training if self.store.has_results() else []
        measured = numbers if any(self.store.contents.below(self.store.place("measure"))) else []
        if (trained or measured) and not self.consent.replace:
            raise ValueError(
                f"{self.store.root} was made by another configuration: {'; '.join(_said([*trained, *measured]))}. Give "
                "another --out; --replace makes anew what these decide, and what is there is lost"
            )
        if trained:
            self.store.forget(*(self.store.place(part) for part in PARTS), self.store.summary)

    def _there(self) -> RunConfig | None:
        """What the results that are there were made by."""
        made_by, file = self.store.made_by(), self.store.root / "config.yaml"
        if made_by is not None:
            return RunConfig.checked(made_by, str(self.store.contents.file))
        return RunConfig.read(file) if file.exists() else None

    @property
    def tunings(self) -> list[Tuning]:
        """Every fine-tuning that is asked for: the seeds of the main one, then the controls."""
        return [*self.config.train.seeds, *self.config.compare.controls]

    @property
    def tasks(self) -> dict[str, str]:
        """The tasks' names by role, `old` and `new`."""
        prepared, own = self.store.prepared(), self.config.tasks
        if prepared is not None:
            # No code of a task is run to know its name.
            return dict(zip(("old", "new"), prepared["counterfactuals"], strict=True))
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

        if not row.get("kept", True):
            return row.get("read_by", "")
        source, folder = self.origin(tuning, row["step"])[0], self.store.checkpoint(tuning, row["step"])
        # What was trained here is listed with its hashes, and compared with them when it is loaded.
        listed = self.store.there.contents.below(folder) if source == str(folder) else []
        return read_by(source, {entry.path.rpartition("/")[2]: entry.sha256 for entry in listed} or None)

    def origin(self, tuning: Tuning, step: int) -> tuple[str, str | None]:
        """Where a checkpoint is read from, and at which hub revision: of a series its index says so."""
        if self.config.series is not None and not self.config.recorded:
            for row in (self.store.index(tuning) or {"steps": []})["steps"]:
                if row["step"] == step and "source" in row:
                    return row["source"], row.get("revision")
        return str(self.store.checkpoint(tuning, step)), None

    def untrained(self) -> "Model":
        """The base as the configuration names it."""
        own = self.config.model
        return self._load(own.source, own.revision)

    def begun(self) -> "Model":
        """The base, in float32, as the first fine-tuning wrote it: sooner read than some of what a configuration may name.

        Raises:
            Damaged: where it is not as it was written.
        """
        first = self.store.first_seed
        self.store.check_checkpoint(first, 0)
        return self._load(str(self.store.checkpoint(first, 0)), None)

    def checkpoint(self, tuning: Tuning, step: int, like: "Model | None" = None) -> "Model":
        """A checkpoint, loaded and proven, read as `like` is where that is given.

        Raises:
            Damaged: for one that was trained here, and is not as it was written.
        """
        source, revision = self.origin(tuning, step)
        if source == str(self.store.checkpoint(tuning, step)):
            self.store.check_checkpoint(tuning, step)
        model = self._load(source, revision, dtype=self.config.model.dtype, like=like)
        # Results are the same wherever the run directory lies, so they do not name it.
        return replace(model, name=f"{self.config.model.source}, seed {tuning}, step {step}")

    def _load(self, source: str, revision: str | None, **options: Any) -> "Model":
        from instar.models.load import load  # torch: reading a run does without

        own = self.config.model
        choices = {"device": own.device, "chat": own.chat, "trust_remote_code": self.remote_code()}
        return load(source, revision=revision, **choices, **options)

    def remote_code(self) -> bool:
        """Whether code that comes with the model is run.

        Raises:
            ValueError: where the configuration asks for it and the command line does not allow it.
        """
        if self.config.model.trust_remote_code and not self.consent.remote:
            raise ValueError(
                "model.trust_remote_code asks to run code that comes with the model, and a file is no consent. If you trust "
                f"it: {self.command('run', '--trust-remote-code')}"
            )
        return self.config.model.trust_remote_code

    def command(self, stage: str, *options: str) -> str:
        """The command line of a stage of this run."""
        root = str(self.store.root)
        named = [root] if self.file is None else [str(self.file), "--out", root]
        return shlex.join(["instar", stage, *named, *options])


def _training(part: str, key: str) -> bool:
    """Whether a key decides a training."""
    return part in OF_TRAINING and key not in OF_NUMBERS_ALONE.get(part, ())


def _measuring(part: str, key: str) -> bool:
    """Whether a key decides what is measured, and no training."""
    return part in OF_MEASURING or key in OF_NUMBERS_ALONE.get(part, ())


def _differing(there: RunConfig, here: RunConfig, decides: Callable[[str, str], bool]) -> list[tuple[str, Any, Any]]:
    """What decides and is not the same: key, there, here."""
    found = []
    for part in (*OF_TRAINING, *OF_MEASURING):
        a, b = ({} if own is None else own.model_dump() for own in (getattr(there, part), getattr(here, part)))
        for key in sorted({*a, *b} - OF_NEITHER.get(part, set())):
            if not decides(part, key):
                continue
            one, other = a.get(key), b.get(key)
            # Further seeds are trainings of their own; the first says where each is kept.
            if key == "seeds":
                one, other = (None if seeds is None else seeds[0] for seeds in (one, other))
            found += [(f"{part}.{key}", one, other)] if one != other else []
    same = there.threads == here.threads or decides is not _training
    return found if same else [*found, ("threads", there.threads, here.threads)]


def _said(differing: list[tuple[str, Any, Any]]) -> list[str]:
    return [f"{key}: {_short(b)} (there: {_short(a)})" for key, a, b in differing]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
