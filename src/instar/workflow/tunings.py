"""A run's fine-tunings: one a seed, and the controls; what is done is not done again.

The first is trained here. The others begin with the base as that one wrote it, one after another, or side by side in
processes of Ray's: the same bytes, at equal threads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from instar.models.load import Model
from instar.models.memory import release
from instar.progress import Tell, bar, console, untold
from instar.record.config import CONTROLS, LearningConfig, TrainConfig
from instar.record.contents import Damaged
from instar.record.keys import digest
from instar.record.lock import lent
from instar.record.store import Tuning, tuning_name
from instar.record.times import timed
from instar.tasks.batch import tokenize
from instar.tasks.pair import Pair
from instar.tasks.prepare import Prepared, control_rows, probe_pairs, read_pairs
from instar.training.health import Finding
from instar.training.learning import LEAST, MOST
from instar.training.train import Row, Told, train
from instar.workflow.cluster import Lost, spread
from instar.workflow.experiment import Experiment
from instar.workflow.schedule import trained_by
from instar.workflow.sweep import asked_of

NUMERICS = 1
"""Raised when the same training would come out otherwise."""


@dataclass(frozen=True)
class Tuned:
    """One fine-tuning that is asked for, with all that it reads beside the base."""

    tuning: Tuning
    seed: int
    config: TrainConfig
    rows: list[Row]
    heldout: list[Pair]
    probed: list[Pair] | None
    """Pairs that say where learning happens."""
    task: str
    decided_by: dict[str, Any]

    def of(self, model: Model, experiment: Experiment, tell: Tell, warn: Callable[[Finding], None]) -> list[str]:
        """Train. Returns what is to be said of it."""
        store, said = experiment.store, list[str]()
        told = Told(
            tell, warn, {"key": digest([*self.decided_by.values()]), "decided_by": self.decided_by}, said.append
        )
        # Training gives the model's own a padding token; what is read before that is read without.
        heldout, probed = (
            None if pairs is None else tokenize(pairs, model.tokenizer, task=self.task)
            for pairs in (self.heldout, self.probed)
        )
        assert heldout is not None
        with timed(store.here.root, "training", tuning=tuning_name(self.tuning)):
            index = train(model, self.rows, heldout, self.config, store, self.tuning, self.seed, told, probed)
        if self.config.save != "float32":
            sizes = [row["bytes"] for row in index["steps"]]
            saved = 1 - sum(sizes) / (sizes[0] * len(sizes))
            said.append(f"{self.config.save} differences: {sum(sizes) / 1e6:.0f} MB of weights, {saved:.0%} saved")
        return said


@dataclass(frozen=True)
class Tunings:
    """A run's fine-tunings."""

    experiment: Experiment
    read: tuple[str, str, str]
    """The base's weights, how it is read, the data."""
    prepared: Prepared

    def config(self, tuning: Tuning) -> TrainConfig:
        """How one is trained."""
        own = self.experiment
        is_first = tuning == own.store.first_seed
        return trained_by(own.config, tuning, [] if is_first else own.index(own.store.first_seed)["steps"])

    def decided_by(self, tuning: Tuning) -> dict[str, Any]:
        """All that decides it."""
        config, own = (
            self.experiment.config,
            self.config(tuning).model_dump(mode="json", exclude={"seeds", "report_to"}),
        )
        names = ("weights", "how the base is read", "data")
        return {
            **{"numerics": NUMERICS, **dict(zip(names, self.read, strict=True)), "train": own, "tuning": tuning},
            **{"threads": config.threads, "device": config.model.device, "chat": config.model.chat},
        }

    def is_done(self, tuning: Tuning) -> bool:
        """Whether its index says so, by the same decisions."""
        return _is_done(self.experiment, tuning, self.decided_by(tuning))

    def asked(self, tuning: Tuning) -> Tuned:
        """What is to be trained."""
        store, config, prepared, how = self.experiment.store, self.experiment.config, self.prepared, self.config(tuning)
        new, probes = prepared.names[1], isinstance(how.checkpoints, LearningConfig)
        rows = control_rows(store, config.data, prepared, tuning) if isinstance(tuning, str) else prepared.train
        return Tuned(
            tuning, config.train.seeds[0] if isinstance(tuning, str) else tuning, how, [Row(**row) for row in rows],
            read_pairs(store, new, prepared.counterfactuals[new][0], 200),
            probe_pairs(store, config.data, prepared, LEAST, MOST) if probes else None, new, self.decided_by(tuning),
        )  # fmt: skip

    def tune(self, tuning: Tuning, base: Callable[[], Model]) -> None:
        """One fine-tuning of `base`, unless it is done."""
        if self.is_done(tuning):
            return
        own, label, warn = self.asked(tuning), f"seed {tuning}", _warn
        if isinstance(tuning, str):
            # A control is meant not to learn the new task: its health is not news.
            label, warn = f"control: {CONTROLS[tuning]}", lambda finding: None
        with bar(f"training ({label})") as tell:
            said = own.of(base(), self.experiment, tell, warn)
        release()
        for text in said:
            console.print(text)

    def tune_side_by_side(self, tunings: list[Tuning]) -> None:
        """Those in processes of Ray's, as many at once as fit. What was given up there is tried by the loop behind this."""
        experiment = self.experiment
        store, asks = experiment.store, asked_of(experiment, whole_gpu=True)
        folders = [store.checkpoints(tuning) for tuning in tunings]
        total = sum(self.config(tuning).most_checkpoints for tuning in tunings)
        with bar(f"training {len(tunings)} side by side") as tell:

            def told() -> None:
                tell(min(total, sum(len(list(folder.glob("step-*"))) for folder in folders)), total, "checkpoints")

            told()
            units = [(tuning, self.asked(tuning)) for tuning in tunings]
            for number, found in spread(_trained, experiment, units, asks, told):
                name = tuning_name(tunings[number])
                if isinstance(found, Lost):
                    found.note(store.here.root, name)
                    console.print(f"{name}: {found.reason}; it is trained here now", style="yellow", soft_wrap=True)
                    continue
                for text in found:
                    console.print(f"{name}: {text}")
                for finding in [] if isinstance(tunings[number], str) else experiment.index(tunings[number])["health"]:
                    _warn(Finding(**finding), f"{name}, ")


def _trained(experiment: Experiment, own: Tuned) -> list[str]:
    """One fine-tuning, in a process of Ray's."""
    lent(experiment.store.here.root)
    return own.of(experiment.begun(), experiment, untold, lambda finding: None)


def _is_done(experiment: Experiment, tuning: Tuning, decided_by: dict[str, Any]) -> bool:
    """Whether a fine-tuning is there, was decided by the same, and is whole.

    Raises:
        ValueError: where it was decided by something else, or a file of it is damaged, unless it is to be replaced.
    """
    store, replace = experiment.store, experiment.consent.replace
    again = f"give another --out; or train it again: {experiment.command('train', '--replace')}"
    try:
        index = store.index(tuning)
        if index is None:
            return False
        store.check_kept(tuning)
    except Damaged as damaged:
        if replace:
            return False
        raise ValueError(f"{damaged}. {again}") from None
    there = index.get("decided_by")
    if index.get("key") == digest([*decided_by.values()]) or there == decided_by or _keeps_more(index, decided_by):
        return True
    if there is None:
        # Written before there was such a record. Its configuration and its data are the same, so what it gave is kept.
        console.print(f"{tuning_name(tuning)} was trained by an earlier instar and is used as it is")
        return True
    other = [name for name in decided_by if there.get(name) != decided_by[name]]
    if not replace:
        raise ValueError(f"{store.checkpoints(tuning)} was trained by other {' and '.join(other)}: {again}")
    return False


def _keeps_more(index: dict[str, Any], decided_by: dict[str, Any]) -> bool:
    """Whether a fine-tuning of which the ends are asked for is there with more checkpoints, which change nothing."""
    there, wanted = (dict(d) for d in (index.get("decided_by") or {}, decided_by))
    own, asked = (dict(d.pop("train", {})) for d in (there, wanted))
    own.pop("checkpoints", None)
    return asked.pop("checkpoints", None) == [index["steps"][-1]["step"]] and (own, there) == (asked, wanted)


def _warn(finding: Finding, of: str = "") -> None:
    note = f"health: {of}step {finding.step}: {finding.kind}: {finding.text}"
    console.print(note, style="bold yellow")
