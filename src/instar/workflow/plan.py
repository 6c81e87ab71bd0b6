"""What a run will take, before it is begun and while it goes on: time, memory and disk, stage by stage.

1. The model's configuration and tokenizer are read, no weights. `instar.workflow.rates` times blocks of its shape on this
   machine, `instar.workflow.costs` counts each stage's work; `BESIDE` is what a stage was found to take for each second so
   counted, fitted once (docs/plan.md) and not on the run that is planned.
2. What is there already takes nothing. What this run has noted of its own times (`instar.record.times`) corrects the rest.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from instar.circuits.graph import Graph
from instar.models import gguf
from instar.models.accounts import gguf_file
from instar.models.arch import Layout, row
from instar.models.load import load_tokenizer, local
from instar.models.memory import TRAINED, empty
from instar.models.organism import FOLDERS
from instar.models.read import Source, configuration
from instar.record.config import RunConfig
from instar.record.store import SHARED, Store, Tuning, tuning_name
from instar.record.times import Work, times
from instar.tasks.align import intervened
from instar.tasks.batch import tokenize
from instar.tasks.custom import is_custom
from instar.tasks.frame import framed
from instar.tasks.library import task as find_task
from instar.tasks.prepare import read_pairs
from instar.workflow.costs import Asked, Costs, Shape, fixed
from instar.workflow.elsewhere import Elsewhere
from instar.workflow.experiment import Experiment
from instar.workflow.jobs import CONTROLLED, GENERAL_TEXTS
from instar.workflow.rates import Rates, rates
from instar.workflow.schedule import (
    by_layer,
    compared_at,
    depth_of,
    is_large,
    ledger_prompts,
    measured_at,
    trained_by,
)
from instar.workflow.stages import MANY_EDGES

BESIDE = {
    **{"training": 1.1, "loading": 1.5, "evaluate": 1.15, "lens": 1.05, "attribution": 1.1, "attention": 1.3},
    **{"patching": 0.8, "circuit": 1.2, "roles": 0.75, "drift": 1.6, "causal": 1.5},
    **dict.fromkeys(("ledger", "reuse", "shapley"), 1.0),
}
"""Seconds for each that is counted."""
REPORT, COMPARING, EDGE, READ_GGUF = 45.0, 4.0, 8e-5, 2e-7
"""Seconds of the page with its animations; of comparing one checkpoint, and for each edge; of a parameter out of a GGUF."""
ASKED = 16
"""Prompts that are drawn to know how long they are."""


@dataclass(frozen=True)
class Known:
    """What decides the times of a run beside its configuration."""

    shape: Shape
    rates: Rates
    asked: dict[str, Asked]
    """Both tasks, by `old` and `new`."""
    names: dict[str, str]
    cores: int
    trained: Rates | None = None
    """Where training has other threads than measuring."""
    elsewhere: Elsewhere | None = None

    @classmethod
    def of(cls, experiment: Experiment, own_tasks: bool = False, elsewhere: Elsewhere | None = None) -> "Known":
        """Of this machine and the run's model and tasks; takes some seconds.

        Args:
            elsewhere: GPUs in the place of this machine; nothing is timed.
            own_tasks: whether files of tasks are read where the run's data are not made yet. A run reads them once, itself.

        Raises:
            ValueError: where the model's shape or a task's prompts cannot be known yet.
        """
        config, own = experiment.config, experiment.config.model
        source = str(experiment.store.checkpoint(config.train.seeds[0], 0)) if config.recorded else own.source
        remote = {"revision": None if config.recorded else own.revision, "trust_remote_code": experiment.remote_code()}
        read, tokenizer = _configured(source, remote), framed(load_tokenizer(source, **remote), own.chat)
        found = dict(_drawn(experiment, tokenizer, own_tasks))
        threads, shape = config.threads or (1 if config.measure.executor == "ray" else None), _shape(read)
        alike = elsewhere is not None or threads == config.threads or config.series is not None
        return cls(
            shape,
            rates(read, own.device, threads) if elsewhere is None else elsewhere.rates(shape),
            {role: asked for role, (_, asked) in found.items()},
            {role: name for role, (name, _) in found.items()},
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            None if alike else rates(read, own.device, config.threads),
            elsewhere,
        )


def _drawn(experiment: Experiment, tokenizer: Any, own_tasks: bool) -> Iterator[tuple[str, tuple[str, Asked]]]:
    """Both tasks by role: their names, and what a few of their prompts are like."""
    store, config = experiment.store, experiment.config
    made = list((store.prepared() or {"counterfactuals": {}})["counterfactuals"].items())
    for i, (role, spec) in enumerate((("old", config.tasks.old), ("new", config.tasks.new))):
        if made:
            name, kinds = made[i]
            pairs = read_pairs(store, name, intervened(kinds)[0], ASKED)
        elif is_custom(spec) and not own_tasks:
            raise ValueError(f"{spec}: its prompts are not known before the run's data are made")
        else:
            task = find_task(spec, config.data).fit(tokenizer)
            name, kinds = task.name, list(task.counterfactuals)
            pairs = task.pairs(ASKED, counterfactual=intervened(kinds)[0])
        batch = tokenize(pairs, tokenizer, task=name)
        width = batch.clean.shape[1]
        changed = (width - batch.differs.double().argmax(1)).double().mean()
        yield role, (name, Asked(len(intervened(kinds)), width, float(changed), len(batch.slot_names)))


def _configured(source: str, remote: dict[str, Any]) -> Any:
    where = Source(local(source), remote["revision"], trust_remote_code=remote["trust_remote_code"])
    quantised = gguf_file(where.path)
    return configuration(where) if quantised is None else gguf.configuration_of(gguf.head_of(quantised))


def _shape(config: Any) -> Shape:
    module = empty(config)
    layout = Layout(module, row(config))
    numbers = sum(p.numel() for p in module.parameters())
    return Shape(Graph.of(layout), layout.d_model, layout.unembed.weight.shape[0], numbers)


@dataclass(frozen=True)
class Plan:
    """What a run takes."""

    pieces: list[Work]
    """All of it, what is done with the seconds that it took."""
    done: frozenset[tuple[str, str, str, int | None]]
    side_by_side: int
    """How many files are measured at once."""
    memory: float
    """Bytes resident at the most."""
    disk: float
    """Bytes of the run directory at its end."""
    elsewhere: Elsewhere | None = None
    """Where it is thought to be done, if not here."""

    @property
    def left(self) -> float:
        """Seconds, from now on."""
        return sum(map(self.wall, self.missing))

    @property
    def missing(self) -> list[Work]:
        """What is not done."""
        return [piece for piece in self.pieces if piece.work not in self.done]

    @property
    def seconds(self) -> float:
        """Seconds of all of it."""
        return sum(map(self.wall, self.pieces))

    def by_stage(self) -> dict[str, tuple[int, float]]:
        """How many pieces each stage has, and seconds of all of them."""
        found: dict[str, tuple[int, float]] = {}
        for piece in self.pieces:
            count, seconds = found.get(piece.stage, (0, 0.0))
            found[piece.stage] = count + 1, seconds + self.wall(piece)
        return found

    def wall(self, piece: Work) -> float:
        """Seconds that a piece adds to the run."""
        if piece.step is None:
            return piece.seconds / (min(self.side_by_side, self._further) if self._is_further(piece) else 1)
        return piece.seconds / self.side_by_side

    @cached_property
    def _further(self) -> int:
        """How many fine-tunings wait for the first one's base alone."""
        return sum(self._is_further(piece) for piece in self.pieces)

    def _is_further(self, piece: Work) -> bool:
        return piece.stage == "training" and piece.tuning != self._first

    @cached_property
    def _first(self) -> str:
        return next((piece.tuning for piece in self.pieces if piece.stage == "training"), "")


def plan(experiment: Experiment, known: Known, remeasure: bool = False) -> Plan:
    """What the run takes on this machine, as far as it is known by now."""
    config, store = experiment.config, experiment.store
    thought = list(_pieces(experiment, known))
    noted = {took.work: took for took in times(store.here.root)}
    done = frozenset(w.work for w in thought if _is_done(store, w, noted) and not (remeasure and w.step is not None))
    files = sum(w.step is not None and w.stage != "loading" for w in thought)
    workers = max(1, min(_room(config, known), files))
    memory, disk = _memory(config, known.shape, workers, known.elsewhere is not None), _disk(experiment, known, thought)
    return Plan(_corrected(thought, noted, done), done, workers, memory, disk, known.elsewhere)


def _room(config: RunConfig, known: Known) -> int:
    """How many files can be measured at once."""
    if known.elsewhere is not None:
        return int(known.elsewhere.gpus / config.measure.gpus)
    return known.cores // (config.threads or 1) if config.measure.executor == "ray" else 1


def _is_done(store: Store, work: Work, noted: Mapping[Any, Work]) -> bool:
    if work.stage in ("loading", "comparing", "report"):
        return work.work in noted
    if work.stage == "reading":
        return store.index() is not None
    if work.stage == "training":
        return store.index(_tuning(work.tuning)) is not None
    assert work.step is not None
    return store.measurement(work.stage, work.task, _tuning(work.tuning), work.step).exists()


def _tuning(name: str) -> Tuning:
    kind, _, which = name.partition(" ")
    return int(which) if kind == "seed" else which


def _corrected(thought: list[Work], noted: Mapping[Any, Work], done: frozenset[Any]) -> list[Work]:
    """What is done with the seconds that it took; what is left, by how far its stage's estimates were off."""
    off: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for work in thought:
        if work.work in done and work.work in noted:
            for key in (work.stage, ""):
                off[key][0] += noted[work.work].seconds
                off[key][1] += work.seconds

    def times_(stage: str) -> float:
        took, counted = off[stage] if off[stage][1] > 0 else off[""]
        return took / counted if counted > 0 else 1.0

    return [
        replace(work, seconds=noted[work.work].seconds if work.work in noted else 0.0)
        if work.work in done
        else replace(work, seconds=work.seconds * times_(work.stage))
        for work in thought
    ]


def _pieces(experiment: Experiment, known: Known) -> Iterator[Work]:
    """Everything that the run consists of, with the seconds that it is thought to take on one core."""
    config = experiment.config
    has_texts = config.data.general_text is not None or config.model.source in FOLDERS
    costs = Costs(known.shape, known.rates, config.measure, GENERAL_TEXTS if has_texts else 0)
    trained = replace(costs, rates=known.trained or known.rates)
    reading = known.shape.parameters * (READ_GGUF if config.model.source.endswith(".gguf") else 2e-8)
    if config.series is None:
        yield Work("reading", reading, reading)
    main = _rows(experiment, known, config.train.seeds[0], [])
    for tuning in experiment.tunings:
        if config.series is None:
            seconds = trained.training(trained_by(config, tuning, main), known.asked["new"].tokens)
            yield _piece("training", seconds, tuning_name(tuning))
        yield from _of_tuning(config, known, costs, tuning, _rows(experiment, known, tuning, main))
    circuits = measured_at("circuit", config.measure, main, config.train.seeds[0], True)
    compared = (COMPARING + EDGE * known.shape.graph.n_edges) * (1 + len(circuits))
    yield Work("comparing", compared, compared)
    if config.report.gifs or config.report.static:
        yield Work("report", REPORT, REPORT)


def _of_tuning(
    config: RunConfig, known: Known, costs: Costs, tuning: Tuning, rows: list[dict[str, Any]]
) -> Iterator[Work]:
    """What is measured of one fine-tuning."""
    first, how = config.train.seeds[0], config.measure
    main, name = tuning == first, tuning_name(tuning)
    stages = [s for s in how.stages if isinstance(tuning, int) or s in CONTROLLED]
    at = {stage: measured_at(stage, how, rows, tuning, main) for stage in stages}
    for step in sorted({s for steps in at.values() for s in steps}):
        if step == 0 and not main:
            continue  # the base is every seed's
        yield _piece("loading", costs.loading(), name, "", step)
        for stage in (s for s in stages if step in at[s]):
            for role in ("old",) if stage == "drift" else ("old", "new"):
                asked = known.asked[role]
                seconds = costs.of_stage(stage, asked, config.data.test_size, config.data.measure_pairs)
                yield _piece(
                    stage, seconds, name, SHARED if stage == "drift" else known.names[role], step, asked.givers
                )
    if isinstance(tuning, int):
        for step in compared_at(config, rows, tuning, main):
            yield from _tests(config, known, costs, rows, (name, step, main), {*at})


def _tests(
    config: RunConfig,
    known: Known,
    costs: Costs,
    rows: list[dict[str, Any]],
    at: tuple[str, int, bool],
    stages: set[str],
) -> Iterator[Work]:
    """What is tested between the base and one checkpoint."""
    name, step, main = at
    last, tests, how = step == rows[-1]["step"], depth_of(config.compare, rows), config.compare
    if "circuit" in stages and "causal" in how.tests:
        deep = by_layer(config, rows, main, last)
        seconds = costs.causal(known.asked, how, tests.exchanged_sets, tests.single and last, deep)
        yield _piece("causal", seconds, name, SHARED, step)
    if "reuse" in how.tests and {"circuit", "ledger"} & stages:
        yield _piece("reuse", costs.reuse(known.asked, tests.reuse_prompts, tests.draws), name, SHARED, step)
        if "shapley" in how.tests and (last or not is_large(rows)):
            seconds = costs.shapley(known.asked["new"], ledger_prompts(config.measure, rows))
            yield _piece("shapley", seconds, name, SHARED, step)


def _piece(stage: str, seconds: float, tuning: str, task: str = "", step: int | None = None, givers: int = 1) -> Work:
    seconds = seconds * BESIDE[stage] + fixed(stage, givers)
    return Work(stage, seconds, seconds, task, tuning, step)


def _rows(experiment: Experiment, known: Known, tuning: Tuning, main: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Checkpoints of a fine-tuning as its index has them, or will; where learning decides, evenly spread."""
    index = experiment.store.index(tuning)
    if index is not None:
        return index["steps"]
    how = trained_by(experiment.config, tuning, main)
    steps = how.checkpoint_steps()
    if how.most_checkpoints > len(steps):
        count = how.most_checkpoints - 1
        steps = sorted({0, *(max(1, round(how.steps * (i + 1) / count)) for i in range(count))})
    return [{"step": step, "bytes": 4 * known.shape.parameters} for step in steps]


def _memory(config: RunConfig, shape: Shape, workers: int, elsewhere: bool) -> float:
    """Of a process, on GPUs elsewhere. Training holds weights, gradients and two moments (of adapters
    next to nothing), and the base and the difference where it writes one; measuring two
    models, and what passes hold (`LIVE_BYTES`); the ledger both ends of an interval and a copy in which nothing is shared."""
    numbers, process = shape.parameters, PROCESS
    logits = 3 * 4 * shape.vocabulary
    copies = (TRAINED if config.train.lora is None else 1) + 1.5
    trained = 0.0 if config.series is not None else 4 * copies * numbers + logits * config.train.batch_size * 32
    models = 4 if "ledger" in config.measure.stages else 3
    measured = (
        models * getattr(torch, config.model.dtype).itemsize * numbers
        + WORKSPACE
        + 4 * shape.vocabulary * config.measure.chunk
    )
    if config.measure.executor != "ray" or elsewhere:
        return process + max(trained, measured)
    return max(process + trained, 2 * process + workers * (process + measured))


def _disk(experiment: Experiment, known: Known, pieces: list[Work]) -> float:
    config, numbers = experiment.config, known.shape.parameters
    circuits = sum(1 for p in pieces if p.stage == "circuit")
    # Of a large graph, packed.
    each = 2.0 if known.shape.graph.n_edges >= MANY_EDGES else 4.0
    scores = each * known.shape.graph.n_edges * config.measure.circuit_pairs * known.asked["new"].givers
    kept = 0.0
    if config.series is None:
        how, main = config.train, _rows(experiment, known, config.train.seeds[0], [])
        each = 0.02 if how.lora is not None else 4 if how.save == "float32" else 2
        later = sum(trained_by(config, tuning, main).most_checkpoints - 1 for tuning in experiment.tunings)
        kept = numbers * (4 + each * later)
    return kept + circuits * scores + 30e6


PROCESS, WORKSPACE = 0.5 * 2**30, 0.5 * 2**30
"""Bytes of a process that has torch, and of what a pass holds."""
