"""Measurements over many checkpoints: one model in memory at a time, what exists skipped, serial or with Ray.

1. A `Job` is one file (`instar.workflow.jobs`); a file with the same key is not made again.
2. Checkpoints with anything missing are loaded one by one, and all their missing jobs are done.
3. With `executor: ray` checkpoints are fanned out over the cluster; the serial loop is the oracle.
4. A checkpoint that cannot be loaded is reported and the rest goes on.
"""

import json
import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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
from instar.progress import Tell, in_words
from instar.record.contents import Entry
from instar.record.directory import NoRoom
from instar.record.store import SHARED, Store, Tuning, tuning_name
from instar.record.times import timed
from instar.tasks.batch import Batch
from instar.workflow.experiment import Experiment
from instar.workflow.jobs import Job, begins, general_texts
from instar.workflow.mastered import mastered
from instar.workflow.schedule import by_layer, depth_of, ledger_prompts, measured_at
from instar.workflow.stages import STAGES, Pairs, causal_prompts


@dataclass(frozen=True)
class Failure:
    """A checkpoint that could not be measured, and why."""

    seed: Tuning
    step: int
    reason: str


def sweep(experiment: Experiment, todo: list[Job], tell: Tell, anew: bool = False) -> list[Failure]:
    """Make what is missing, or `anew` all of which there are weights. Returns what could not be made."""
    store = experiment.store
    missing = [job for job in todo if (anew and job.weights) or not store.has_measurement(job.path, job.key)]
    # What is there was decided by something else, or is damaged; it must not stand in for what fails now.
    store.forget(*(job.path for job in missing))
    groups: dict[tuple[Tuning, int], list[Job]] = {}
    for job in missing:
        groups.setdefault((job.seed, job.step), []).append(job)
    done = len(todo) - len(missing)
    tell(done, len(todo), "")
    failures: list[Failure] = []
    executed = _with_ray if experiment.config.measure.executor == "ray" else _serial
    for number, (group, failure) in enumerate(executed(experiment, list(groups.values())), 1):
        done += len(group)
        _ask_for_room(store, group, len(groups) - number)
        failures += [failure] if failure else []
        tell(done, len(todo), f"step {group[0].step}")
    return failures


def _ask_for_room(store: Store, group: list[Job], left: int) -> None:
    """Whether what is still to be measured will fit on the disk, by what the last checkpoint took."""
    entries = [store.contents.of(job.path) for job in group] if left and store.out is None else []
    if size := sum(entry.size for entry in entries if entry is not None):
        store.need(left * size, f"measuring {left} more checkpoints")


def _serial(experiment: Experiment, groups: list[list[Job]]) -> Iterable[tuple[list[Job], Failure | None]]:
    worker = Worker(experiment)
    for group in groups:
        yield group, worker.measure(group)


def _with_ray(experiment: Experiment, groups: list[list[Job]]) -> Iterable[tuple[list[Job], Failure | None]]:
    # A cluster is joined only where this user's environment names it. What is started here listens on this machine only:
    # Ray takes "127.0.0.1" for the address of the network, unless it is told, before its import, that there is no cluster.
    own: dict[str, Any] = {}
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        own = {"address": "local", "_node_ip_address": "127.0.0.1"}
    try:
        import ray  # pyright: ignore[reportMissingImports] — an extra
    except ImportError:
        raise ValueError("measure.executor: ray needs the extra: pip install 'instar[ray]'") from None
    # A process for each core: more threads than that would wait for each other.
    threads = experiment.config.threads or 1
    if not ray.is_initialized():
        with _own_sigterm():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **own)

    contents = experiment.store.contents

    # Ray hides the GPUs from what does not ask for one.
    @ray.remote(num_cpus=1, num_gpus=int(experiment.config.model.device.startswith("cuda")))
    def remote(group: list[Job]) -> tuple[Failure | None, list[Entry]]:
        # Equal thread counts make the sums, and so the bytes, equal to the serial loop's.
        torch.set_num_threads(threads)
        # Ray's processes outlive a sweep, and what was planned then may be there now.
        made = experiment.store.contents.lent()
        return Worker(experiment).measure(group), made

    contents.plan(job.path for group in groups for job in group)
    waiting = {remote.remote(group): group for group in groups}
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1)
        failure, made = ray.get(ready[0])
        contents.add(made)
        for entry in made:
            contents.trust(contents.place(entry))
        yield waiting.pop(ready[0]), failure


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """What SIGTERM does stays as it was: Ray puts a handler of its own in its place."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


class Worker:
    """Measures checkpoints one after another, keeping each seed's base and the tokenised pairs."""

    def __init__(self, experiment: Experiment):
        self.experiment, self.store, self.config = experiment, experiment.store, experiment.config
        self.bases: dict[Tuning, Model] = {}
        self.pairs: dict[str, Pairs] = {}
        self.others: dict[str, Batch] | None = None
        self.matched: tuple[str, str, Model, Coordinates] | None = None
        self.gains: dict[tuple[Tuning, str, int], dict[str, float]] = {}

    def measure(self, group: list[Job]) -> Failure | None:
        seed, step = group[0].seed, group[0].step
        with self._evicting(seed, step):
            return self._measured(group, seed, step)

    def _measured(self, group: list[Job], seed: Tuning, step: int) -> Failure | None:
        try:
            for _ in self.make(group):
                pass
        except NoRoom:
            raise
        except Exception as error:
            # Whatever one checkpoint is, the others go on. What nobody foresaw is named by its kind, too.
            return Failure(seed, step, in_words(error))
        return None

    def make(self, group: list[Job]) -> Iterator[str]:
        """Make the jobs of one checkpoint; says what has just been done: "load", then each job's stage."""
        seed, step = group[0].seed, group[0].step
        with timed(self.store.here.root, "loading", tuning=tuning_name(seed), step=step):
            base = self.base(seed)
            model = base if step == 0 else self.experiment.checkpoint(seed, step, like=base)
        yield "load"
        # A checkpoint that its own tokenizer reads otherwise has pairs of its own.
        pairs = self.pairs if model.tokenizer is base.tokenizer else {}
        for job in group:
            with timed(self.store.here.root, job.stage, job.task, tuning_name(job.seed), job.step):
                self.store.write_measurement(job.path, self._made(base, model, pairs, job), job.key)
            yield job.stage

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
        start = base if before == rows[0]["step"] else self.experiment.checkpoint(job.seed, before, like=base)
        if self.config.series is not None:
            start, model = (self._matched(base, one)[0] for one in (start, model))
        batch = pairs.batch(count=ledger_prompts(self.config.measure, rows))
        # While a training is recorded its whole gain and its length are not known: an interval is judged by its own.
        one_line = before == rows[0]["step"] and len(rows) == 2 and not self.config.recorded
        of = ("choosing", "logit_diff") if job.task == self.experiment.tasks["new"] else ("logit_diff",)
        nodes = NODES_OF_ONE_LINE if one_line else NODES
        gain = None if self.config.recorded else self._gain(base, job, batch, of)
        found = line(start, model, batch, of, gain=gain, nodes=nodes)
        return found.assign_attrs(from_step=before)

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
