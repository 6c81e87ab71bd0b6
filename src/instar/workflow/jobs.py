"""Which measurements a run consists of: one `Job` a file, with a key that says by what it was decided.

1. A key hashes the checkpoint's weights and what decides how they are read, the task's data, the stage's options and the
   version of its numbers; a file with the same key is not made again.
2. Tests between step 0 and a checkpoint are jobs of their own; causal tests need the circuits of both, and are known only
   once these are there.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from instar.models.organism import FOLDERS
from instar.models.organism.corpus import stories
from instar.record.config import RunConfig
from instar.record.keys import digest
from instar.record.store import SHARED, Tuning
from instar.workflow.experiment import Experiment
from instar.workflow.schedule import by_layer, compared_at, depth_of, is_large, ledger_prompts, measured_at
from instar.workflow.stages import NUMERICS, options

GENERAL_TEXTS = 64
CONTROLLED = ("evaluate", "circuit", "drift", "ledger")
"""What is measured of a control fine-tuning."""


@dataclass(frozen=True)
class Job:
    """One measurement to make."""

    stage: str
    task: str
    seed: Tuning
    step: int
    path: Path
    key: str
    at_an_end: bool
    """Whether this is the first or the last step."""
    weights: bool = True
    """Whether the checkpoint's weights were kept."""


def jobs(experiment: Experiment, tasks: Iterable[str], data_key: str) -> list[Job]:
    """Every measurement of one checkpoint each, done or not."""
    store, config, tasks = experiment.store, experiment.config, list(tasks)
    every = []
    for seed in experiment.tunings:
        if isinstance(seed, str) and store.index(seed) is None:
            continue
        index, stages = experiment.index(seed), config.measure.stages
        rows = index["steps"]
        if isinstance(seed, str):
            # Of a control only the end is wanted: what a fine-tuning of that length does by itself.
            rows, stages = rows[-1:], tuple(s for s in stages if s in CONTROLLED)

        # While a training is being recorded, what stands last is not yet its end.
        base = (index["steps"][0]["sha256"], experiment.read_by(seed, index["steps"][0]))
        ends = (index["steps"][0]["step"], index["steps"][-1]["step"] if index.get("ended", True) else None)
        chosen = {stage: _options(stage, config) for stage in stages}
        foreign = config.series is not None and not config.recorded
        first = seed == config.train.seeds[0]
        places = {stage: set(measured_at(stage, config.measure, index["steps"], seed, first)) for stage in stages}
        intervals = begins(places.get("ledger", ()), index["steps"])
        for row in rows:
            at_an_end, weights = row["step"] in ends, (row["sha256"], experiment.read_by(seed, row))
            for stage in (s for s in stages if row["step"] in places[s]):
                choices = [chosen[stage], *([at_an_end] if stage == "circuit" else [])]
                if stage == "ledger":
                    before = intervals[row["step"]]
                    choices += [before["step"], before["sha256"], ledger_prompts(config.measure, index["steps"])]
                # Of two models that somebody else made, the new task's gain is what is asked.
                booked = tasks[1:] if len(index["steps"]) == 2 and foreign else tasks
                for task in [SHARED] if stage == "drift" else booked if stage == "ledger" else tasks:
                    decides = [*base, *weights, choices]
                    key = digest([NUMERICS[stage], stage, task, data_key, *decides])
                    path = store.measurement(stage, task, seed, row["step"])
                    # Of weights that were not kept there is what was measured in time, and no more.
                    kept = row.get("kept", True)
                    if kept or path.exists():
                        every.append(Job(stage, task, seed, row["step"], path, key, at_an_end, kept))
    # The base is every seed's, and measured once.
    once: dict[Path, Job] = {}
    for job in every:
        once.setdefault(job.path, job)
    return list(once.values())


def begins(booked: Collection[int], rows: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """By the step at which an interval of the ledger ends, the checkpoint at which it begins: the booked one before."""
    found, before = {}, rows[0]
    for row in rows:
        if row["step"] in booked:
            found[row["step"]] = before
            before = row if row.get("kept", True) else before
    return found


def pairwise_jobs(experiment: Experiment, tasks: Iterable[str], data_key: str) -> list[Job]:
    """All tests between the base and a checkpoint, of every chosen checkpoint: of further seeds the last one only."""
    tasks, tests = list(tasks), experiment.config.compare.tests
    found = causal_jobs(experiment, tasks, data_key) if "causal" in tests else []
    # Where neither circuits nor the ledger are asked for, no answer is.
    asked = "reuse" in tests and {"circuit", "ledger"} & {*experiment.config.measure.stages}
    return found + (_answer_jobs(experiment, data_key) if asked else [])


def _answer_jobs(experiment: Experiment, data_key: str) -> list[Job]:
    """Reuse and Shapley shares: the second takes the old task's circuit from the first."""
    store, config, every = experiment.store, experiment.config, []
    for seed in config.train.seeds:
        rows, first = experiment.index(seed)["steps"], seed == config.train.seeds[0]
        steps, last = compared_at(config, rows, seed, first), rows[-1]["step"]
        for row in (r for r in rows if r["step"] in steps and r.get("kept", True)):
            depth = depth_of(config.compare, rows)
            own = {"others": config.compare.others, "prompts": depth.reuse_prompts, "draws": depth.draws}
            own |= {"edges": config.measure.edges, "chunk": config.measure.replay_chunk} | reading(config)
            read = [experiment.read_by(seed, one) for one in (rows[0], row)]
            decides: list[Any] = [data_key, config.threads, rows[0]["sha256"], row["sha256"], read, own]
            for stage in ("reuse", "shapley"):
                # The grafts of a large model are made where its training ended.
                if stage not in config.compare.tests or (stage == "shapley" and is_large(rows) and row["step"] != last):
                    continue
                decides += [ledger_prompts(config.measure, rows)] if stage == "shapley" else []
                key = digest([NUMERICS[stage], stage, *decides])
                path = store.measurement(stage, SHARED, seed, row["step"])
                every.append(Job(stage, SHARED, seed, row["step"], path, key, row["step"] == last))
    return every


def causal_jobs(experiment: Experiment, tasks: Iterable[str], data_key: str) -> list[Job]:
    """The causal tests of every chosen checkpoint whose circuits are there: of further seeds the last one only."""
    store, config = experiment.store, experiment.config
    every, own = [], config.compare
    old, new = tasks
    for seed in config.train.seeds if "circuit" in config.measure.stages else ():
        rows, first = experiment.index(seed)["steps"], seed == config.train.seeds[0]
        last = rows[-1]["step"]
        steps, tests = compared_at(config, rows, seed, first), depth_of(own, rows)
        for row in (r for r in rows if r["step"] in steps and r.get("kept", True)):
            files = [store.measurement("circuit", old, seed, 0), store.measurement("circuit", new, seed, row["step"])]
            if not all(file.exists() for file in files):
                continue
            choices = own.model_dump(include={"pairs", "random_sets", "exchanged_sets", "single"}) | reading(config)
            choices |= {"exchanged_sets": tests.exchanged_sets, "single": tests.single}
            choices |= {} if by_layer(config, rows, first, row["step"] == last) else {"by_layer": False}
            read = [experiment.read_by(seed, own) for own in (rows[0], row)]
            decides = [*map(store.key_of, files), rows[0]["sha256"], row["sha256"], *read, choices, row["step"] == last]
            key = digest([NUMERICS["causal"], "causal", data_key, config.threads, *decides])
            path = store.measurement("causal", SHARED, seed, row["step"])
            every.append(Job("causal", SHARED, seed, row["step"], path, key, row["step"] == last))
    return every


def _options(stage: str, config: RunConfig) -> dict[str, Any]:
    """What, beside weights and pairs, decides a stage's numbers."""
    own: dict[str, Any] = {**reading(config), "threads": config.threads}
    if stage == "drift":
        return own | {"text": general_texts(config.data.general_text, config.model.source)}
    return own | options(stage, config.measure, config.data.measure_pairs)


def reading(config: RunConfig) -> dict[str, Any]:
    """How a model is read and run, where that decides numbers."""
    return config.model.model_dump(include={"device", "dtype", "chat"})


@lru_cache(maxsize=1)
def general_texts(file: str | None, model: str) -> list[str]:
    """Text that has nothing to do with the tasks: the user's file, or the embedded models' own corpus."""
    if file is not None:
        text = Path(file).read_text(encoding="utf-8")
        return [block for block in text.split("\n\n") if block.strip()][:GENERAL_TEXTS]
    if model in FOLDERS:
        source = stories(seed=7)
        return [" ".join(next(source)) for _ in range(GENERAL_TEXTS)]
    return []
