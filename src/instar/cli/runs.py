"""Commands of a run: everything, or one stage at a time. Each takes a run directory, or a YAML file and `--out`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from instar.cli.limits import fitted, limits
from instar.cli.named import joining, named, only_given

app = typer.Typer()
Run = Annotated[
    Path, typer.Argument(help="a run directory, or a run's YAML file with --out", metavar="RUN", show_default=False)
]
Out = Annotated[Path | None, typer.Option("--out", help="the run directory that a YAML file is for")]
Device = Annotated[str | None, typer.Option("--device", help="torch device: cpu, cuda, cuda:1, mps")]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="type that is measured in: float32, float64, bfloat16, float16")
]
Lora = Annotated[
    str | None, typer.Option("--lora", help='train low-rank adapters: "rank=8", "rank=8,alpha=16,dropout=0.05"')
]
Checkpoints = Annotated[
    str | None,
    typer.Option(
        "--checkpoints", help="which steps are kept: 8 (every 8), log, 1,2,4, or learning=24 (where it learns)"
    ),
]
Seeds = Annotated[str | None, typer.Option("--seeds", help="one fine-tuning each: 0,1,2")]
Remeasure = Annotated[bool, typer.Option("--remeasure", help="measure anew what is there, by the versions of today")]
Replace = Annotated[
    bool, typer.Option("--replace", help="make anew what was made by another configuration; what is there is lost")
]
TrustRemote = Annotated[
    bool, typer.Option("--trust-remote-code", help="run code that comes with the model: you trust where it is from")
]
TrustTasks = Annotated[
    bool, typer.Option("--trust-tasks", help="run the task files that a run directory's configuration names")
]
Beside = Annotated[
    Path | None,
    typer.Option("--out", help="the run directory that a YAML file is for; of a run directory: where to write instead"),
]
Budget = Annotated[
    str | None, typer.Option("--budget", help="time that it may take: 60m, 2h; what is given up for it is said")
]
MaxMemory = Annotated[str | None, typer.Option("--max-memory", help="memory that it may take: 6G, 800M")]
Executor = Annotated[
    Literal["serial", "ray"] | None,
    typer.Option("--executor", help="ray: measurements and further trainings side by side, on many machines"),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="of a running Ray cluster, host:port or auto; left out: this machine's cores"),
]
Controls = Annotated[str | None, typer.Option("--controls", help="control fine-tunings: old,shuffled")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="the run directory")] = Path("runs/demo"), replace: Replace = False
) -> None:
    """The whole way on the embedded model: fine-tune on 3-object IOI, measure, report."""
    from instar.workflow.demo import demo_config, side_by_side
    from instar.workflow.experiment import Experiment

    _run(Experiment.create(out, side_by_side(demo_config()), replace))


@app.command()
def run(
    run: Run,
    out: Out = None,
    lora: Lora = None,
    device: Device = None,
    dtype: Dtype = None,
    checkpoints: Checkpoints = None,
    seeds: Seeds = None,
    controls: Controls = None,
    budget: Budget = None,
    max_memory: MaxMemory = None,
    remeasure: Remeasure = False,
    executor: Executor = None,
    address: Address = None,
    replace: Replace = False,
    trust_remote_code: TrustRemote = False,
    trust_tasks: TrustTasks = False,
) -> None:
    """Everything a configuration says: data, training, measurements, comparison, report."""
    consent = (trust_remote_code, trust_tasks, replace)
    experiment = named(
        run,
        out,
        consent,
        lora=lora,
        checkpoints=checkpoints,
        device=device,
        dtype=dtype,
        seeds=seeds,
        controls=controls,
        executor=joining(executor, address),
    )
    _run(fitted(experiment, budget, max_memory), remeasure)


@app.command()
def plan(
    run: Run,
    out: Out = None,
    lora: Lora = None,
    device: Device = None,
    checkpoints: Checkpoints = None,
    seeds: Seeds = None,
    controls: Controls = None,
    budget: Budget = None,
    max_memory: MaxMemory = None,
    on: Annotated[
        str | None,
        typer.Option("--on", help="GPUs that are not here, by arithmetic: gpus=8,teraflops=40 (an H100 does some 40)"),
    ] = None,
    executor: Executor = None,
    trust_remote_code: TrustRemote = False,
) -> None:
    """What a run will take, before it is begun: time, memory and disk by stage, and what other choices would save."""
    from instar.report.planned import show_plan
    from instar.workflow.budget import savings, within
    from instar.workflow.elsewhere import Elsewhere
    from instar.workflow.plan import Known
    from instar.workflow.plan import plan as planned

    allowed = limits(budget, max_memory)
    # A plan needs no place; where there is none yet, all is still to be done.
    place = Path("runs") / run.stem if out is None and not run.is_dir() else out
    consent = (trust_remote_code, False, False)
    experiment = named(
        run,
        place,
        consent,
        lora=lora,
        checkpoints=checkpoints,
        device=device,
        seeds=seeds,
        controls=controls,
        executor=executor,
    )
    elsewhere = None if on is None else Elsewhere.checked(on, "--on")
    known = Known.of(experiment, own_tasks=True, elsewhere=elsewhere)
    experiment, given = within(experiment, known, *allowed)
    show_plan(planned(experiment, known), savings(experiment, known), given)


@app.command()
def train(
    run: Run,
    out: Out = None,
    lora: Lora = None,
    device: Device = None,
    checkpoints: Checkpoints = None,
    seeds: Seeds = None,
    controls: Controls = None,
    executor: Executor = None,
    address: Address = None,
    replace: Replace = False,
    trust_remote_code: TrustRemote = False,
    trust_tasks: TrustTasks = False,
) -> None:
    """Make the data and fine-tune, with dense checkpoints."""
    from instar.workflow.pipeline import train_stage

    consent = (trust_remote_code, trust_tasks, replace)
    experiment = named(
        run,
        out,
        consent,
        lora=lora,
        checkpoints=checkpoints,
        device=device,
        seeds=seeds,
        controls=controls,
        executor=joining(executor, address),
    )
    train_stage(experiment)
    end(experiment)


@app.command()
def evaluate(
    run: Run,
    out: Beside = None,
    by_wording: Annotated[
        bool, typer.Option("--by-wording", help="print every wording's numbers, at both ends")
    ] = False,
    replace: Replace = False,
    trust_remote_code: TrustRemote = False,
    trust_tasks: TrustTasks = False,
) -> None:
    """Behaviour of every checkpoint on both tasks, as a table; by wording at the last."""
    from instar.report.terminal import show_accuracy, show_wordings
    from instar.workflow.pipeline import compare_stage, measure_stage

    experiment = named(run, out, (trust_remote_code, trust_tasks, replace), beside=True).trained()
    measure_stage(experiment, ("evaluate",))
    summary = compare_stage(experiment)

    def show() -> None:
        show_accuracy(summary)
        show_wordings(summary, by_wording)

    end(experiment, show)


@app.command()
def measure(
    run: Run,
    out: Out = None,
    remeasure: Remeasure = False,
    replace: Replace = False,
    trust_remote_code: TrustRemote = False,
    trust_tasks: TrustTasks = False,
    executor: Executor = None,
    address: Address = None,
    shard: Annotated[
        str | None, typer.Option("--shard", help="one of several commands at once: 2/8 is the second of eight")
    ] = None,
) -> None:
    """Every missing measurement of every checkpoint."""
    from instar.workflow.pipeline import measure_stage
    from instar.workflow.shards import Shard

    own = None if shard is None else Shard.read(shard)
    if own is not None and not run.is_dir():
        raise ValueError(f"--shard: {run} is a file; shards take the run directory that `instar train` made of it")
    executor = joining(executor, address)
    experiment = named(run, out, (trust_remote_code, trust_tasks, replace), executor=executor).trained()
    failures = measure_stage(experiment, remeasure=remeasure, told=own is not None, shard=own)
    end(experiment, failed=bool(failures))


@app.command()
def compare(
    run: Annotated[
        Path | None, typer.Argument(help="a run directory, or a run's YAML file with --out", metavar="RUN")
    ] = None,
    base: Annotated[str | None, typer.Option(help='without RUN: the base, "embedded", a folder, or a hub id')] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            help="without RUN: glob of folders that end in their step, or hub revisions: org/name@step{1,2,4}"
        ),
    ] = None,
    old: Annotated[str, typer.Option(help="without RUN: the task the base has mastered")] = "ioi2",
    new: Annotated[str, typer.Option(help="without RUN: the task it was fine-tuned on")] = "ioi3",
    train_file: Annotated[Path | None, typer.Option(help="without RUN: what it was trained on, to find leaks")] = None,
    pairs: Annotated[int | None, typer.Option(help="without RUN: held-out prompts a task")] = None,
    stages: Annotated[str | None, typer.Option(help="without RUN: what is measured: evaluate,attribution,…")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="the run directory to make, or that a file is for")] = None,
    evict: Annotated[
        bool, typer.Option("--evict", help="without RUN: remove fetched checkpoints from the hub's cache once measured")
    ] = False,
    device: Device = None,
    dtype: Dtype = None,
    executor: Executor = None,
    address: Address = None,
    remeasure: Remeasure = False,
    replace: Replace = False,
    trust_remote_code: TrustRemote = False,
    trust_tasks: TrustTasks = False,
) -> None:
    """What changed, and the answer: of a run, or of checkpoints that somebody else trained."""
    from instar.record.config import DataConfig, RunConfig
    from instar.report.terminal import show_summary
    from instar.workflow.experiment import Experiment
    from instar.workflow.pipeline import compare_stage, measure_stage

    if run is not None:
        if base or checkpoints or device or dtype or pairs or stages:
            raise ValueError("compare takes a RUN, or --base, --checkpoints and --out with their options; not both")
        consent = (trust_remote_code, trust_tasks, replace)
        experiment = named(run, out, consent, beside=True, executor=joining(executor, address)).trained()
        failures = measure_stage(experiment, remeasure=remeasure)
        summary = compare_stage(experiment, failures)
        end(experiment, lambda: show_summary(summary), failed=bool(failures))
        return
    if not (base and checkpoints and out):
        raise ValueError("compare takes a RUN, or all of --base, --checkpoints and --out")
    inside = pairs and min(pairs, DataConfig().measure_pairs)
    chosen: dict[str, Any] = {
        "model": {
            "source": base,
            **only_given(device=device, dtype=dtype, trust_remote_code=trust_remote_code or None),
        },
        "tasks": {"old": old, "new": new},
        "series": {"checkpoints": checkpoints, "evict": evict},
        "data": only_given(train_file=train_file and str(train_file), test_size=pairs, measure_pairs=inside),
        "measure": only_given(stages=stages and stages.split(","), executor=joining(executor, address)),
    }
    _run(Experiment.create(out, RunConfig.checked(chosen, "compare"), replace), remeasure)


@app.command()
def answer(
    base: Annotated[str, typer.Argument(help='the base: "embedded", a folder, a GGUF file, or a hub id')],
    tuned: Annotated[str, typer.Argument(help="what it was fine-tuned to: a folder, a file, or a hub revision")],
    old: Annotated[
        str, typer.Option(help="the task the base has mastered: of the library, or a file of pairs")
    ] = "ioi2",
    new: Annotated[str, typer.Option(help="the task it was fine-tuned on")] = "ioi3",
    pairs: Annotated[int, typer.Option(help="held-out prompts a task, at most")] = 128,
    out: Annotated[Path | None, typer.Option("--out", help="the run directory; left out: runs/answer-TUNED")] = None,
    device: Device = None,
    dtype: Dtype = None,
    remeasure: Remeasure = False,
    replace: Replace = False,
    trust_remote_code: TrustRemote = False,
) -> None:
    """Transformed, extended or formed, and how it was written: from two models and pairs of both tasks."""
    from instar.record.config import RunConfig
    from instar.report.answered import show_answer
    from instar.workflow.answering import there_are
    from instar.workflow.experiment import Experiment
    from instar.workflow.pipeline import run_all

    count = there_are((old, new), base, pairs)
    chosen: dict[str, Any] = {
        "model": {
            "source": base,
            **only_given(device=device, dtype=dtype, trust_remote_code=trust_remote_code or None),
        },
        "tasks": {"old": old, "new": new},
        "series": {"checkpoints": tuned},
        "data": {"test_size": count, "measure_pairs": min(count, 96)},
        "measure": {"stages": ["evaluate", "ledger"]},
        "compare": {"tests": ["reuse", "shapley"], "controls": []},
        "report": {"gifs": False, "static": False},
    }
    place = out or Path("runs") / f"answer-{Path(tuned).stem or 'tuned'}"
    experiment = Experiment.create(place, RunConfig.checked(chosen, "answer"), replace)
    summary = run_all(experiment, remeasure)
    end(experiment, lambda: show_answer(summary), failed=bool(summary["failed"]))


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="a run directory", metavar="RUN", show_default=False)],
    sample: Annotated[int, typer.Option(help="measurements that are made again and compared; 0: none")] = 4,
    seed: Annotated[int, typer.Option(help="of which measurements these are")] = 0,
    trust_remote_code: TrustRemote = False,
) -> None:
    """Whether every file of a run is as it was written, and a sample of measurements comes out again. Writes nothing."""
    from instar.progress import bar, settled
    from instar.report.terminal import show_verified
    from instar.workflow.verify import verified

    with bar("verifying") as tell:
        found = verified(named(run, None, (trust_remote_code, False, False)), sample, seed, tell)
    settled()
    show_verified(run, found)
    raise typer.Exit(0 if found.ok else 1)


def _run(experiment: Any, remeasure: bool = False) -> None:
    from instar.report.terminal import show_summary
    from instar.workflow.pipeline import run_all

    summary = run_all(experiment, remeasure)
    end(experiment, lambda: show_summary(summary), failed=bool(summary["failed"]))


def end(experiment: Any, show: Callable[[], None] = lambda: None, failed: bool = False) -> None:
    """A command's last words: its results, where things are, what comes next. Exits with 1 where something failed."""
    from instar.progress import settled
    from instar.report.terminal import show_ending
    from instar.workflow.ending import ending

    settled()
    show()
    last = ending(experiment)
    show_ending(last.files, last.commands)
    if failed:
        raise typer.Exit(1)
