"""Measurements over many checkpoints: one model in memory at a time, what exists skipped, serial or with Ray.

1. A `Job` is one file (`instar.workflow.jobs`); a file with the same key is not made again.
2. Checkpoints with anything missing are loaded one by one, and all their missing jobs are done.
3. With `executor: ray` jobs are fanned out over processes (`instar.workflow.cluster`); the serial loop is the oracle.
4. What cannot be made is reported and the rest goes on.
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from instar.between.causal import causal
from instar.between.drift import drift
from instar.between.ledger import NODES, NODES_OF_ONE_LINE, line, read
from instar.between.reuse import Draws, reuse
from instar.between.shapley import shapley
from instar.circuits.circuit import Circuit
from instar.models.coordinates import Coordinates, in_coordinates_of
from instar.models.hub import evict, holds_weights
from instar.models.load import Model
from instar.models.memory import resting
from instar.progress import Tell
from instar.record.directory import NoRoom
from instar.record.lock import lent
from instar.record.store import SHARED, Store, Tuning, tuning_name
from instar.record.times import timed
from instar.tasks.batch import Batch
from instar.workflow.cluster import Asks, Lost, spread
from instar.workflow.experiment import Experiment
from instar.workflow.jobs import Job, begins, general_texts
from instar.workflow.mastered import mastered
from instar.workflow.schedule import by_layer, depth_of, ledger_prompts, measured_at
from instar.workflow.stages import STAGES, Pairs, causal_prompts


@dataclass(frozen=True)
class Failure:
    """A checkpoint that could not be measured, or not wholly, and why."""

    seed: Tuning
    step: int
    reason: str


def sweep(experiment: Experiment, todo: list[Job], tell: Tell, anew: bool = False) -> list[Failure]:
    """Make what is missing, or `anew` all of which there are weights. Returns what could not be made."""
    store = experiment.store
    missing = [job for job in todo if (anew and job.weights) or not store.has_measurement(job.path, job.key)]
    # What is there was decided by something else, or is damaged; it must not stand in for what fails now.
    store.forget(*(job.path for job in missing))
    units = _units(missing, whole=experiment.config.series is not None and experiment.config.series.evict)
    done = len(todo) - len(missing)
    tell(done, len(todo), "")
    lost: dict[int, Failure] = {}
    room = _Room(store)
    executed = _with_ray if experiment.config.measure.executor == "ray" else _serial
    for count, (number, why) in enumerate(executed(experiment, units), 1):
        first = units[number][0]
        done += len(units[number])
        if why is not None:
            lost[number] = Failure(first.seed, first.step, why.reason)
            why.note(store.here.root, f"{tuning_name(first.seed)}, step {first.step}: {_said(units[number])}")
        room.ask(units[number], len(units) - count)
        tell(done, len(todo), f"step {first.step}")
    # In one order, however they came; what cannot be loaded fails in each of its units, and is said once.
    return list(dict.fromkeys(lost[number] for number in sorted(lost)))


def _units(jobs: Iterable[Job], whole: bool) -> list[list[Job]]:
    """What is done in one go: one file; Shapley shares behind the reuse of their checkpoint, which they read.

    Args:
        whole: all of a checkpoint in one, as it goes when it has been measured.
    """
    found: dict[Any, list[Job]] = {}
    for job in jobs:
        stage = "reuse" if job.stage == "shapley" else job.stage
        found.setdefault((job.seed, job.step) if whole else (job.seed, job.step, stage, job.task), []).append(job)
    # By checkpoint, in the order in which these come first.
    places = {
        place: n for n, place in enumerate(dict.fromkeys((unit[0].seed, unit[0].step) for unit in found.values()))
    }
    return sorted(found.values(), key=lambda unit: places[unit[0].seed, unit[0].step])


def _said(unit: Sequence[Job]) -> str:
    return ", ".join(f"{job.stage} {'' if job.task == SHARED else job.task}".strip() for job in unit)


@dataclass
class _Room:
    """Whether what is still to be measured will fit on the disk, by what was so far."""

    store: Store
    size: int = 0
    units: int = 0

    def ask(self, unit: Sequence[Job], left: int) -> None:
        """After a unit, with so many left."""
        entries = [self.store.contents.of(job.path) for job in unit] if self.store.out is None else []
        self.size += sum(entry.size for entry in entries if entry is not None)
        self.units += 1
        if left and self.size:
            self.store.need(self.size / self.units * left, f"measuring {left} more files")


def _serial(experiment: Experiment, units: list[list[Job]]) -> Iterator[tuple[int, Lost | None]]:
    worker = Worker(experiment)
    for number, unit in enumerate(units):
        yield number, worker.tried(unit)


def asked_of(experiment: Experiment, whole_gpu: bool = False) -> Asks:
    """What one of its units takes."""
    config = experiment.config
    gpus = 1.0 if whole_gpu else config.measure.gpus
    # A core for each process where threads are not given: more threads than that would wait for each other.
    return Asks(config.threads or 1, gpus if config.model.device.startswith("cuda") else 0.0)


def _with_ray(experiment: Experiment, units: list[list[Job]]) -> Iterator[tuple[int, Lost | None]]:
    common, placed = (secrets.token_hex(8), experiment), [((unit[0].seed, unit[0].step), unit) for unit in units]
    for number, found in spread(_measured, common, placed, asked_of(experiment)):
        if found is None:
            for job in units[number]:
                experiment.store.contents.trust(job.path)
        yield number, found


_worker: dict[str, "Worker"] = {}
"""Of a process that measures for another: what it keeps of the sweep that it is in."""


def _measured(common: tuple[str, Experiment], unit: list[Job]) -> None:
    """One unit, in a process of Ray's."""
    sweep_, experiment = common
    if sweep_ not in _worker:
        _worker.clear()
        lent(experiment.store.here.root)
        _worker[sweep_] = Worker(experiment)
    _worker[sweep_].measure(unit)


class Worker:
    """Measures checkpoints one after another, keeping each seed's base and the tokenised pairs."""

    def __init__(self, experiment: Experiment):
        self.experiment, self.store, self.config = experiment, experiment.store, experiment.config
        self.bases: dict[Tuning, Model] = {}
        self.pairs: dict[str, Pairs] = {}
        self.others: dict[str, Batch] | None = None
        self.matched: tuple[str, str, Model, Coordinates] | None = None
        self.gains: dict[tuple[Tuning, str, int], dict[str, float]] = {}
        self.now: tuple[tuple[Tuning, int], Model | Exception] | None = None

    def tried(self, unit: list[Job]) -> Lost | None:
        """Make the jobs of a unit, and keep the checkpoint for the next. Whatever one is, the others go on."""
        try:
            self.measure(unit)
        except NoRoom:
            raise
        except Exception as error:
            return Lost.of(error)
        return None

    def measure(self, unit: list[Job]) -> None:
        """Make the jobs of a unit, and keep the checkpoint for the next."""
        with self._evicting(unit[0].seed, unit[0].step):
            for _ in self._make(unit):
                pass

    def make(self, group: list[Job]) -> Iterator[str]:
        """Make the jobs of one checkpoint; says what has just been done: "load", then each job's stage."""
        try:
            yield from self._make(group)
        finally:
            self.now = None

    def _make(self, group: list[Job]) -> Iterator[str]:
        base, model = self._at(group[0].seed, group[0].step)
        yield "load"
        # A checkpoint that its own tokenizer reads otherwise has pairs of its own.
        pairs = self.pairs if model.tokenizer is base.tokenizer else {}
        for job in group:
            with timed(self.store.here.root, job.stage, job.task, tuning_name(job.seed), job.step):
                self.store.write_measurement(job.path, self._made(base, model, pairs, job), job.key)
            yield job.stage

    def _at(self, seed: Tuning, step: int) -> tuple[Model, Model]:
        """A base and its checkpoint; what could not be loaded is not tried again for the next job of it."""
        if self.now is None or self.now[0] != (seed, step):
            self.now = None
            with timed(self.store.here.root, "loading", tuning=tuning_name(seed), step=step):
                base = self.base(seed)
                try:
                    found = base if step == 0 else self.experiment.checkpoint(seed, step, like=base)
                except ValueError as error:
                    found = error
            self.now = (seed, step), found
        if isinstance(self.now[1], Exception):
            raise self.now[1]
        return self.base(seed), self.now[1]

    def one(self, job: Job) -> Any:
        """One measurement, not written."""
        base = self.base(job.seed)
        model = base if job.step == 0 else self.experiment.checkpoint(job.seed, job.step, like=base)
        return self._made(base, model, self.pairs if model.tokenizer is base.tokenizer else {}, job)

    def _made(self, base: Model, model: Model, pairs: dict[str, Pairs], job: Job) -> Any:
        if job.stage == "drift":
            return drift(base, model, *self._general(base))
        if job.stage in ("causal", "reuse", "shapley"):
            return self._pairwise(base, model, job)
        if job.stage == "ledger":
            return self._ledger(base, model, self._pairs(job.task, model.tokenizer, pairs), job)
        own = self._pairs(job.task, model.tokenizer, pairs)
        return STAGES[job.stage](model, own, self.config.measure, job.at_an_end)

    @contextmanager
    def _evicting(self, seed: Tuning, step: int) -> Iterator[None]:
        """What a checkpoint brought into the hub's cache is removed behind it, where that is wanted; never the base."""
        name, revision = self.experiment.origin(seed, step)
        series = self.config.series
        ours = series is not None and series.evict and step > 0 and not Path(name).exists()
        ours = ours and not holds_weights(name, revision)
        try:
            yield
        finally:
            if ours and holds_weights(name, revision):
                evict(name, revision)

    def _pairs(self, task: str, tokenizer: Any, kept: dict[str, Pairs]) -> Pairs:
        """A task's pairs, tokenised once for what shares `kept`."""
        return kept.setdefault(task, Pairs(self.store, task, tokenizer, self.config.data.measure_pairs))

    def _ledger(self, base: Model, model: Model, pairs: Pairs, job: Job) -> Any:
        if model.tokenizer is not base.tokenizer:
            raise ValueError(
                "the ledger goes from one model to the other on the same tokens, and this checkpoint's own tokenizer reads "
                "prompts otherwise than its base's: none is made of it"
            )
        rows, first = self.experiment.index(job.seed)["steps"], job.seed == self.store.first_seed
        before = begins(measured_at("ledger", self.config.measure, rows, job.seed, first), rows)[job.step]["step"]
        batch = pairs.batch(count=ledger_prompts(self.config.measure, rows))
        # While a training is recorded its whole gain and its length are not known: an interval is judged by its own.
        one_line = before == rows[0]["step"] and len(rows) == 2 and not self.config.recorded
        of = ("choosing", "logit_diff") if job.task == self.experiment.tasks["new"] else ("logit_diff",)
        nodes = NODES_OF_ONE_LINE if one_line else NODES
        gain = None if self.config.recorded else self._gain(base, job, batch, of)
        start = base if before == rows[0]["step"] else self.experiment.checkpoint(job.seed, before, like=base)
        if self.config.series is not None:
            start, model = (self._matched(base, one)[0] for one in (start, model))
        # A line holds both its ends and a copy; of later ones the base is neither.
        with nullcontext() if start is base else self._away(base, job.seed):
            found = line(start, model, batch, of, gain=gain, nodes=nodes)
        return found.assign_attrs(from_step=before)

    @contextmanager
    def _away(self, base: Model, seed: Tuning) -> Iterator[None]:
        """Without the base's weights, where they are large; one that could not be read anew is no base any more."""
        try:
            with resting(base, lambda: self.experiment.checkpoint(seed, 0)):
                yield
        except BaseException:
            self.bases.pop(seed, None)
            raise

    def _matched(self, base: Model, model: Model) -> tuple[Model, Coordinates]:
        """The checkpoint in its base's coordinates; the last that was matched is kept."""
        if model is base:
            return base, Coordinates()
        if self.matched is None or self.matched[:2] != (base.weights, model.weights):
            self.matched = (base.weights, model.weights, *in_coordinates_of(base, model))
        return self.matched[2:]

    def _gain(self, base: Model, job: Job, batch: Batch, of: Sequence[str]) -> dict[str, float]:
        """The whole training's, over √intervals: what a residual is compared with."""
        rows = self.experiment.index(job.seed)["steps"]
        last = next(row["step"] for row in reversed(rows) if row.get("kept", True))
        if (known := self.gains.get((job.seed, job.task, last))) is None:
            end = base if last == rows[0]["step"] else self.experiment.checkpoint(job.seed, last, like=base)
            before, after = (read(one, batch, of) for one in (base, end))
            known = {name: abs(after[name] - before[name]) / max(1, len(rows) - 1) ** 0.5 for name in of}
            self.gains[job.seed, job.task, last] = known
        return known

    def _pairwise(self, base: Model, model: Model, job: Job) -> Any:
        """Tests between the base and a checkpoint."""
        if model.tokenizer is not base.tokenizer:
            raise ValueError(
                "causal tests put one model's activations and weights into the other, and this checkpoint's own tokenizer "
                "reads prompts otherwise than its base's: none are made of it"
            )
        names = (self.store.prepared() or {})["counterfactuals"]
        old, new = (self._pairs(name, base.tokenizer, self.pairs) for name in names)
        if job.stage == "causal":
            return self._causal(base, model, old, new, job)
        model, coordinates = self._matched(base, model)
        rows, how = self.experiment.index(job.seed)["steps"], self.config.measure
        if job.stage == "shapley":
            known = self.store.read_measurement("reuse", SHARED, job.seed, job.step)
            if known is None:
                raise ValueError("Shapley shares are of the old task's circuit, and reuse, which has it, is not there")
            batch = new.batch(count=ledger_prompts(how, rows))
            return shapley(base, model, batch, json.loads(known.attrs["inside"]), chunk=how.chunk)
        depth = depth_of(self.config.compare, rows)
        count, draws = depth.reuse_prompts, depth.draws
        found = reuse(
            base, model, old.batch(0, count // 3, tuple(old.givers), aligned=True),
            {kind: new.batch(0, count, (kind,), aligned=True) for kind in new.givers}, others=self._others(base),
            draws=Draws.of(draws), method=how.edges, chunk=how.replay_chunk,
        )  # fmt: skip
        return found.assign_attrs(coordinates=coordinates.said, coordinates_shared=int(coordinates.shared))

    def _others(self, base: Model) -> dict[str, Batch]:
        """Pairs of other tasks that the base has mastered."""
        if self.others is None:
            asked = self.config.compare.others
            count = depth_of(self.config.compare, self.experiment.index(self.store.first_seed)["steps"]).reuse_prompts
            self.others = mastered(base, asked, (self.store.prepared() or {})["counterfactuals"], max(12, count // 3))
        return self.others

    def _causal(self, base: Model, model: Model, old: Pairs, new: Pairs, job: Job) -> Any:
        measured = [
            self.store.read_measurement("circuit", pairs.task, job.seed, step)
            for pairs, step in ((old, 0), (new, job.step))
        ]
        circuits = [Circuit.stored(dataset) for dataset in measured if dataset is not None]
        own = self.config.compare
        rows, first = self.experiment.index(job.seed)["steps"], job.seed == self.store.first_seed
        tests, deep = depth_of(own, rows), by_layer(self.config, rows, first, job.at_an_end)
        return causal(
            base, model, causal_prompts(old, own.pairs), causal_prompts(new, own.pairs), *circuits,
            random=own.random_sets, exchanged=tests.exchanged_sets, single=tests.single and job.at_an_end,
            by_layer=deep, chunk=self.config.measure.chunk,
        )  # fmt: skip

    def base(self, seed: Tuning) -> Model:
        """Step 0 of one fine-tuning, kept in memory."""
        if seed not in self.bases:
            self.bases[seed] = self.experiment.checkpoint(seed, 0)
        return self.bases[seed]

    def _general(self, base: Model) -> tuple[Any, Any]:
        texts = general_texts(self.config.data.general_text, self.config.model.source)
        if not texts:
            return None, None
        limit = getattr(base.module.config, "max_position_embeddings", 512)
        rows = base.tokenizer(texts, truncation=True, max_length=min(limit, 256))["input_ids"]
        width = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        return tokens, torch.arange(width)[None] < torch.tensor([[len(row)] for row in rows])
