"""The stages in their order. Each reads the run directory and writes its own folder of it; none calls a later one.

`run_all` is all of them: data → train → measure → compare → report. What is done is skipped, and what an interrupted run left
half-written is removed first, so a rerun ends with the results of an unbroken run.
"""

import copy
from dataclasses import asdict
from itertools import product
from typing import Any, get_args

import torch

from instar.compare.summary import summarise
from instar.models.accounts import read_by
from instar.models.load import Model, load_tokenizer, local
from instar.progress import Tell, bar, console, untold
from instar.record.config import Stage, Test
from instar.record.contents import Damaged
from instar.record.keys import digest
from instar.record.store import SHARED, Tuning, tuning_name
from instar.record.times import timed
from instar.tasks.frame import framed
from instar.tasks.lengths import refuse_too_few
from instar.tasks.prepare import Prepared, prepare, stored
from instar.workflow.adopt import adopt
from instar.workflow.clock import foreseen
from instar.workflow.experiment import Experiment
from instar.workflow.jobs import jobs, pairwise_jobs
from instar.workflow.reporting import made_of, report_stage
from instar.workflow.shards import Shard
from instar.workflow.sweep import Failure, sweep
from instar.workflow.tunings import Tunings
from instar.workflow.underway import UnderWay, compared_of
from instar.workflow.wordings import answered


def run_all(experiment: Experiment, remeasure: bool = False) -> dict[str, Any]:
    """All stages. Returns the summary."""
    with experiment.store.owned(), foreseen(experiment, remeasure):
        train_stage(experiment)
        # Findings on the data are said once: where there is training, before it.
        told, shown = experiment.config.series is None, UnderWay(experiment)
        failures = measure_stage(experiment, remeasure=remeasure, told=told, after=shown)
        summary = compare_stage(experiment, failures)
        report_stage(experiment)
    return summary


def data_stage(
    experiment: Experiment, tokenizer: Any = None, told: bool = False, base: Model | None = None
) -> Prepared:
    """Rows to train on and pairs to measure on, audited; what was found is printed, unless it was `told` already.

    Args:
        base: the untrained model, where it is loaded: it may be asked which wordings it answers.
    """
    store, config = experiment.store, experiment.config
    own = config.model

    def read() -> Any:
        # No weights are read for this: measuring loads its checkpoints one at a time, and the base may be large.
        source = str(store.checkpoint(config.train.seeds[0], 0)) if config.recorded else own.source
        remote = {"revision": None if config.recorded else own.revision, "trust_remote_code": experiment.remote_code()}
        return framed(load_tokenizer(source, **remote), own.chat)

    if experiment.file is None and not experiment.consent.tasks:
        # Named by its directory: what it holds is measured, and no file or code that its configuration names is opened.
        again = stored(store, config.tasks, config.data, read)
        if again is not None:
            refuse_too_few(store, config.measure.stages)
            return again
    tokenizer = read() if tokenizer is None else tokenizer
    prepared = prepare(
        store,
        config.tasks,
        config.data,
        tokenizer,
        trained=config.series is None,
        replace=experiment.consent.replace,
        chosen=answered(experiment, tokenizer, base),
    )
    audited = store.data("audit.json")
    for finding in store.read_json(audited)["findings"] if audited.exists() and not told else ():
        if finding["severity"] != "note":
            tested = f"{finding['tested']}, " if finding.get("tested") else ""
            count = f"{tested}{finding['count']} {finding.get('unit', 'rows')}"
            console.print(f"data: {finding['severity']}: {finding['kind']}, {count}: {finding['text']}", style="yellow")
    refuse_too_few(store, config.measure.stages)
    return prepared


def train_stage(experiment: Experiment) -> None:
    """One fine-tuning a seed, and the controls, unless their indices say that these very ones are done."""
    with experiment.store.owned():
        _train_all(experiment)


def _train_all(experiment: Experiment) -> None:
    store, config = experiment.store, experiment.config
    experiment.claim()
    _pin(config.threads)
    if config.series is not None:
        if config.recorded:
            if store.index() is None:
                raise ValueError(
                    f"{store.root}: nothing is recorded here; instar.recorder and CircuitCallback write it"
                )
            return
        store.write_config(config)
        adopt(experiment)
        return
    base = experiment.untrained()
    # How it is read is more than its weights: its activation function, say.
    read = base.weights, read_by(local(config.model.source))
    # Training gives its own a padding token, and saves it.
    prepared = data_stage(experiment, copy.deepcopy(base.tokenizer), base=base)
    # The first fine-tuning takes it, the others begin with what that one wrote; a large one does not fit twice.
    unused = [base]
    del base
    store.write_config(config)
    own = Tunings(experiment, (*read, prepared.key), prepared)
    first, *further = experiment.tunings
    own.tune(first, unused.pop)
    unused.clear()
    # The others side by side, now that the base is there as the first fine-tuning wrote it.
    left = [tuning for tuning in further if config.measure.executor == "ray" and not own.is_done(tuning)]
    if len(left) > 1:
        own.tune_side_by_side(left)
    for tuning in further:
        own.tune(tuning, experiment.begun)


def measure_stage(
    experiment: Experiment,
    stages: tuple[str, ...] | None = None,
    remeasure: bool = False,
    told: bool = False,
    after: Tell = untold,
    shard: Shard | None = None,
) -> list[Failure]:
    """Every missing measurement of every checkpoint; with `remeasure` also those that are there.

    Args:
        told: findings on the data are printed already.
        after: called after each checkpoint.
        shard: only these, while other processes do the others.
    """
    here = experiment.store.here
    with here.owned() if shard is None else here.shared(str(shard)):
        return _measure_all(experiment, stages, remeasure, told, after, shard)


def _measure_all(
    experiment: Experiment,
    stages: tuple[str, ...] | None,
    remeasure: bool,
    told: bool,
    after: Tell,
    shard: Shard | None,
) -> list[Failure]:
    store = experiment.store
    _pin(experiment.config.threads)
    prepared = data_stage(experiment, told=told)
    todo = jobs(experiment, prepared.names, prepared.key)
    base = {(seed, 0) for seed in experiment.tunings}
    if shard is None:
        _forget_vanished(experiment, base | {(job.seed, job.step) for job in todo})
    todo = todo if shard is None else shard.of_these(todo)
    todo = [job for job in todo if stages is None or job.stage in stages]
    with bar("measuring") as tell:
        failures = sweep(experiment, todo, _both(tell, after), remeasure)
    pairwise = pairwise_jobs(experiment, prepared.names, prepared.key) if stages is None else []
    pairwise = pairwise if shard is None else shard.of_these(pairwise)
    if pairwise:
        with bar("tests between checkpoints") as tell:
            # What cannot be read fails each time that it is tried, and is said once.
            found = sweep(experiment, pairwise, _both(tell, after), remeasure)
            failures += [own for own in found if own not in failures]
    for failure in failures:
        console.print(
            f"{tuning_name(failure.seed)}, step {failure.step} failed: {failure.reason}",
            style="bold red",
            soft_wrap=True,
        )
    if shard is None:
        store.write_json(store.failed, [asdict(f) for f in failures])
    return failures


def _both(tell: Tell, after: Tell) -> Tell:
    def said(done: int, total: int, note: str) -> None:
        tell(done, total, note)
        after(done, total, note)

    return said


def _forget_vanished(experiment: Experiment, there: set[tuple[Tuning, int]]) -> None:
    """Remove measurements of checkpoints that a series no longer has: they would stand in it as if they were there."""
    store, stages, gone = experiment.store, (*get_args(Stage), *get_args(Test)), []
    tasks = [*(store.prepared() or {"counterfactuals": {}})["counterfactuals"], SHARED]
    for seed, stage, task in product(experiment.tunings, stages, tasks):
        steps = [step for step in store.measured_steps(stage, task, seed) if (seed, step) not in there]
        gone += [store.measurement(stage, task, seed, step) for step in steps]
    if gone and store.out is None:
        console.print(f"removed: {len(gone)} measurements of checkpoints that are no longer there")
        store.forget(*gone)


def compare_stage(experiment: Experiment, failures: list[Failure] | None = None) -> dict[str, Any]:
    """summary.json from the measurements; those that turn out to be damaged are made again first."""
    store, of = experiment.store, compared_of(experiment)
    with store.owned():
        if failures is None:
            known = store.read_json(store.failed) if store.failed.exists() else []
        else:
            known = [asdict(f) for f in failures]
        key = digest([*made_of(experiment, "data", "checkpoints", "measure"), known])
        if store.has_measurement(store.here.place("summary.json"), key) and store.here.is_whole("compare"):
            return store.read_summary()
        try:
            with timed(store.here.root, "comparing"):
                return summarise(store, of, known, key)
        except Damaged as damaged:
            if (broken := _measured_again(experiment)) == 0:
                raise
            console.print(f"{damaged}: {broken} measurements are made again", style="yellow", soft_wrap=True)
        known = [asdict(f) for f in measure_stage(experiment, told=True)]
        return summarise(store, of, known, digest([*made_of(experiment, "data", "checkpoints", "measure"), known]))


def _measured_again(experiment: Experiment) -> int:
    """Remove the measurements that are damaged, so that they are missing; how many."""
    store = experiment.store
    if store.out is not None:
        return 0
    broken = [damaged.path for damaged in store.unverified("measure") if damaged.path.suffix == ".nc"]
    store.forget(*broken)
    return len([path for path in broken if not path.exists()])


def _pin(threads: int | None) -> None:
    """Equal thread counts make equal bytes."""
    if threads is not None:
        torch.set_num_threads(threads)
