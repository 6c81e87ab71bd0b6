"""The stages in their order. Each reads the run directory and writes its own folder of it; none calls a later one.

`run_all` is all of them: data → train → measure → compare → report. What is done is skipped, and what an interrupted run left
half-written is removed first, so a rerun ends with the results of an unbroken run.
"""

from dataclasses import asdict
from typing import Any

import torch

from instar.models.accounts import read_by
from instar.models.load import load_tokenizer, local
from instar.progress import bar, console
from instar.record.config import CONTROLS
from instar.record.files import read_json, write_json
from instar.record.keys import digest
from instar.record.store import Tuning, tuning_name
from instar.tasks.batch import tokenize
from instar.tasks.frame import framed
from instar.tasks.prepare import Prepared, control_rows, prepare, read_pairs
from instar.training.health import Finding
from instar.training.train import Row, train
from instar.workflow.adopt import adopt
from instar.workflow.experiment import Experiment
from instar.workflow.sweep import Failure, causal_jobs, jobs, sweep

NUMERICS = 1
"""Raised when the same training would come out otherwise."""


def run_all(experiment: Experiment, remeasure: bool = False) -> dict[str, Any]:
    """All stages. Returns the summary."""
    train_stage(experiment)
    # Findings on the data are said once: where there is training, before it.
    failures = measure_stage(experiment, remeasure=remeasure, told=experiment.config.series is None)
    summary = compare_stage(experiment, failures)
    report_stage(experiment)
    return summary


def data_stage(experiment: Experiment, tokenizer: Any = None, told: bool = False) -> Prepared:
    """Rows to train on and pairs to measure on, audited; what was found is printed, unless it was `told` already."""
    store, config = experiment.store, experiment.config
    own = config.model
    # No weights are read for this: measuring loads its checkpoints one at a time, and the base may be large.
    if tokenizer is None:
        recorded = config.series is not None and config.series.recorded
        source = str(store.checkpoint(config.train.seeds[0], 0)) if recorded else own.source
        remote = {"revision": None if recorded else own.revision, "trust_remote_code": own.trust_remote_code}
        tokenizer = framed(load_tokenizer(source, **remote), own.chat)
    prepared = prepare(store, config.tasks, config.data, tokenizer, trained=config.series is None)
    audited = store.data("audit.json")
    for finding in read_json(audited)["findings"] if audited.exists() and not told else ():
        if finding["severity"] != "note":
            tested = f"{finding['tested']}, " if finding.get("tested") else ""
            console.print(
                f"data: {finding['severity']}: {finding['kind']}, {tested}{finding['count']} rows: {finding['text']}",
                style="yellow",
                markup=False,
            )
    return prepared


def train_stage(experiment: Experiment) -> None:
    """One fine-tuning a seed, and the controls, unless their indices say that these very ones are done."""
    store, config = experiment.store, experiment.config
    store.sweep_up()
    _pin(config.threads)
    if config.series is not None:
        if config.series.recorded:
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
    weights, tokenizer = (base.weights, read_by(local(config.model.source))), base.tokenizer
    del base  # every fine-tuning begins with a fresh one, and a large one does not fit twice
    prepared = data_stage(experiment, tokenizer)
    store.write_config(config)
    new = prepared.new
    heldout = tokenize(read_pairs(store, new.name, new.counterfactuals[0], 200), tokenizer, task=new.name)
    main = [Row(**row) for row in prepared.train]
    for seed in config.train.seeds:
        label = f"training (seed {seed})"
        _tune(experiment, seed, seed, label, (weights, main, heldout, config.train, prepared.key))
    ends = config.train.model_copy(update={"checkpoints": (config.train.steps,)})
    for name in config.compare.controls:
        rows = [Row(**row) for row in control_rows(store, config.data, prepared, name)]
        label = f"training (control: {CONTROLS[name]})"
        _tune(experiment, name, config.train.seeds[0], label, (weights, rows, heldout, ends, prepared.key))


def _tune(experiment: Experiment, tuning: Tuning, seed: int, label: str, of: tuple[Any, ...]) -> None:
    """One fine-tuning, unless its index says that it is done."""
    store, config = experiment.store, experiment.config
    weights, rows, heldout, train_config, data_key = of
    choices = train_config.model_dump(exclude={"seeds", "report_to"})
    key = digest(
        [NUMERICS, *weights, data_key, choices, tuning, config.threads, config.model.device, config.model.chat]
    )
    if (store.index(tuning) or {}).get("key") == key:
        return
    with bar(label) as tell:
        # A control is meant not to learn the new task: its health is not news.
        warn = _warn if isinstance(tuning, int) else lambda finding: None
        index = train(experiment.untrained(), rows, heldout, train_config, store, tuning, seed, key, tell, warn)
    if train_config.save != "float32":
        sizes = [row["bytes"] for row in index["steps"]]
        saved = 1 - sum(sizes) / (sizes[0] * len(sizes))
        console.print(f"{train_config.save} differences: {sum(sizes) / 1e6:.0f} MB of weights, {saved:.0%} saved")


def _warn(finding: Finding) -> None:
    note = f"health: step {finding.step}: {finding.kind}: {finding.text}"
    console.print(note, style="bold yellow", markup=False)


def measure_stage(
    experiment: Experiment, stages: tuple[str, ...] | None = None, remeasure: bool = False, told: bool = False
) -> list[Failure]:
    """Every missing measurement of every checkpoint; with `remeasure` also those that are there.

    `told`: findings on the data are printed already.
    """
    store = experiment.store
    _pin(experiment.config.threads)
    prepared = data_stage(experiment, told=told)
    todo = jobs(experiment, prepared.tasks, prepared.key)
    known = causal_jobs(experiment, prepared.tasks, prepared.key)
    store.forget_all_but({job.path for job in (*todo, *known)})
    todo = [job for job in todo if stages is None or job.stage in stages]
    with bar("measuring") as tell:
        failures = sweep(experiment, todo, tell, remeasure)
    pairwise = causal_jobs(experiment, prepared.tasks, prepared.key) if stages is None else []
    if pairwise:
        with bar("causal tests between checkpoints") as tell:
            failures += sweep(experiment, pairwise, tell, remeasure)
    for failure in failures:
        console.print(
            f"{tuning_name(failure.seed)}, step {failure.step} failed: {failure.reason}",
            style="bold red",
            markup=False,
            soft_wrap=True,
        )
    write_json(store.root / "measure" / "failed.json", [asdict(f) for f in failures])
    return failures


def compare_stage(experiment: Experiment, failures: list[Failure] | None = None) -> dict[str, Any]:
    """summary.json from the measurements."""
    store, config = experiment.store, experiment.config
    from instar.compare.summary import Compared, summarise

    if failures is None:
        path = store.root / "measure" / "failed.json"
        known = read_json(path) if path.exists() else []
    else:
        known = [asdict(f) for f in failures]
    of = Compared(
        config.model.source, experiment.tasks, config.train.seeds, config.compare.controls, config.measure.stages
    )
    return summarise(store, of, known)


def report_stage(experiment: Experiment) -> None:
    """The page, the figures and the animations."""
    from instar.report.animate import write_animations
    from instar.report.figures import write_figures
    from instar.report.numbers.made import made
    from instar.report.numbers.panels import panels
    from instar.report.page import write_page

    store, config = experiment.store, experiment.config
    with bar("report") as tell:
        tell(0, 2, "reading")
        drawn = panels(store)
        tell(1, 2, "page")
        write_page(store, drawn, made(drawn, store, config.train, config.series), config.yaml())
        if config.report.static:
            tell(1, 2, "figures")
            write_figures(store, drawn)
        tell(2, 2, "")
    if config.report.gifs:
        with bar("animations") as tell:
            write_animations(store, drawn, tell)


def _pin(threads: int | None) -> None:
    """Equal thread counts make equal bytes."""
    if threads is not None:
        torch.set_num_threads(threads)
