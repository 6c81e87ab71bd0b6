"""The command line: one command a stage. Nothing heavy is imported until a command runs."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What did fine-tuning do inside? Circuits of a language model, checkpoint by checkpoint.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at training data before it costs a night.")
app.add_typer(data_app, name="data")

Config = Annotated[Path, typer.Argument(help="the run's YAML file", metavar="CONFIG.yaml")]
RunDir = Annotated[Path, typer.Argument(help="a run directory", metavar="RUN")]
Out = Annotated[Path, typer.Option("--out", help="the run directory")]
Device = Annotated[str | None, typer.Option("--device", help="torch device: cpu, cuda, cuda:1, mps")]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="type that is measured in: float32, float64, bfloat16, float16")
]
Lora = Annotated[
    str | None, typer.Option("--lora", help='train low-rank adapters: "rank=8", "rank=8,alpha=16,dropout=0.05"')
]
INTERRUPTED = 130
"""What typer makes of Ctrl-C, without a word."""
ModelName = Annotated[str, typer.Option("--model", help='"embedded", a folder, or a hub id')]


@app.command()
def demo(out: Out = Path("runs/demo")) -> None:
    """The whole way on the embedded model: fine-tune on 3-object IOI, measure, report."""
    from instar.workflow.demo import demo_config

    _run(demo_config(), out)


@app.command()
def run(config: Config, out: Out, lora: Lora = None, device: Device = None, dtype: Dtype = None) -> None:
    """Everything a configuration says: data, training, measurements, comparison, report."""
    _run(_chosen(config, lora, device, dtype), out)


@app.command()
def screen(
    model: ModelName = "embedded",
    tasks: Annotated[str, typer.Option(help="comma-separated; all of the library by default")] = "",
    pairs: Annotated[int, typer.Option(help="held-out pairs a task")] = 200,
    seed: Annotated[int, typer.Option(help="seed of the prompts")] = 0,
    device: Annotated[str, typer.Option(help="torch device")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Which tasks a model has mastered, which not, and which of them are neighbours."""
    import json

    from instar.models.load import load
    from instar.progress import bar
    from instar.report.terminal import show_screen
    from instar.tasks.library import TASKS
    from instar.workflow.screen import neighbours
    from instar.workflow.screen import screen as screen_tasks

    with bar("screening") as tell:
        found = screen_tasks(load(model, device=device), tasks.split(",") if tasks else list(TASKS), pairs, seed, tell)
    if as_json:
        rows: Any = {"tasks": [s.as_dict() for s in found], "neighbours": neighbours(found)}
        typer.echo(json.dumps(rows, indent=1))
    else:
        show_screen(model, found, neighbours(found))


@data_app.command("audit")
def data_audit(
    train: Annotated[
        str,
        typer.Argument(help="data: .json, .jsonl, .csv, .parquet, a folder; DATA#train is one split", metavar="DATA"),
    ],
    test: Annotated[str | None, typer.Option(help="test data, in the same forms")] = None,
    model: Annotated[str | None, typer.Option(help="count tokens with this model's tokenizer")] = None,
    task: Annotated[str | None, typer.Option(help='"ioi" (any N) or "ioi3": read each prompt as N-object IOI')] = None,
    columns: Annotated[str, typer.Option(help="what the data call their columns: prompt=text,answer=label")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Leaks, duplicates, ill-formed rows and imbalance. Exits with 1 on a leak or more than 1 % ill-formed rows."""
    import json

    from instar.record.config import DataConfig
    from instar.report.terminal import show_audit
    from instar.tasks.audit import audit
    from instar.tasks.rows import read_training_file

    if task is not None and not (task.startswith("ioi") and task[3:] in ("", "2", "3", "4", "5")):
        raise ValueError(f"--task takes ioi or ioi2 … ioi5, got {task!r}")
    tokenizer = None
    if model is not None:
        from instar.models.load import load_tokenizer

        tokenizer = load_tokenizer(model)
    parts: Any = {key: value for key, _, value in (part.partition("=") for part in columns.split(",") if part)}
    named = DataConfig(columns=parts).columns
    held = [row.prompt for row in read_training_file(test, named)] if test is not None else []
    report = audit(read_training_file(train, named), held, tokenizer, task)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=1, ensure_ascii=False))
    else:
        show_audit(train, report)
    raise typer.Exit(0 if report.ok else 1)


@data_app.command("generate")
def data_generate(
    model: Annotated[str, typer.Option(help="the model's name at the server")],
    out: Annotated[Path, typer.Option(help="the .jsonl file to write; its journal stands beside it")],
    task: Annotated[str, typer.Option(help="ioi2 … ioi5")] = "ioi3",
    rows: Annotated[int, typer.Option(help="rows to make")] = 500,
    base_url: Annotated[str | None, typer.Option(help="an OpenAI-compatible server: http://localhost:8000/v1")] = None,
    seed: Annotated[int, typer.Option(help="seed of the plans, sent along")] = 0,
    rows_per_request: Annotated[int, typer.Option(help="rows asked for in one answer")] = 1,
    temperature: Annotated[float, typer.Option(help="of the model's sampling")] = 1.0,
    answer_tokens: Annotated[int, typer.Option(help="tokens that one answer may have")] = 1000,
    concurrency: Annotated[int, typer.Option(help="requests at a time")] = 4,
    timeout: Annotated[float, typer.Option(help="seconds for one call, its whole answer included")] = 60.0,
    retries: Annotated[int, typer.Option(help="further tries after 429, 5xx, time-outs, lost connections")] = 4,
    first_wait: Annotated[float, typer.Option(help="seconds before the second try; doubles, with jitter")] = 1.0,
    longest_wait: Annotated[float, typer.Option(help="seconds before any try, at most")] = 30.0,
    failures: Annotated[int, typer.Option(help="stop after so many requests without an answer, in a row")] = 5,
    rejects: Annotated[int, typer.Option(help="stop after so many answers in a row without a row that counts")] = 50,
    max_requests: Annotated[int | None, typer.Option(help="calls in all, tries and repairs included")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="tokens in all, as the server counts them")] = None,
    api_key_env: Annotated[str, typer.Option(help="NAME of the variable that holds the key")] = "OPENAI_API_KEY",
) -> None:
    """Training data written by a language model, checked and balanced. The same command goes on where it stopped."""
    chosen = {k: v for k, v in locals().items() if k != "out"}
    from pydantic import ValidationError

    from instar.generate.choices import GenerateConfig
    from instar.generate.generation import generate
    from instar.progress import bar, console
    from instar.report.terminal import show_audit, show_made
    from instar.tasks.audit import audit
    from instar.tasks.rows import DataRow

    try:
        config = GenerateConfig.model_validate(chosen)
    except ValidationError as error:
        # What was given is not repeated: it may be a key in the wrong place.
        options = (f"--{str(e['loc'][0]).replace('_', '-')}: {e['msg']}" for e in error.errors())
        raise ValueError("; ".join(options)) from None
    with bar("generating") as tell:
        made = generate(config, out, tell, lambda text: console.print(text, markup=False, soft_wrap=True))
    if made.rows:
        show_audit(str(out), audit([DataRow(i, r.prompt, r.answer) for i, r in enumerate(made.rows, 1)], task=task))
    show_made(out, made)
    raise typer.Exit(1 if made.failed else 0)


@app.command()
def train(config: Config, out: Out, lora: Lora = None, device: Device = None) -> None:
    """Make the data and fine-tune, with dense checkpoints."""
    from instar.record.store import Store
    from instar.workflow.pipeline import train_stage

    chosen = _chosen(config, lora, device)
    train_stage(Store.create(out, chosen), chosen)
    typer.echo(f"{out / 'checkpoints'}")


@app.command()
def evaluate(run_dir: RunDir) -> None:
    """Behaviour of every checkpoint on both tasks, as a table."""
    from instar.record.store import Store
    from instar.report.terminal import show_accuracy
    from instar.workflow.pipeline import compare_stage, measure_stage

    store, config = Store.open(run_dir)
    measure_stage(store, config, ("evaluate",))
    show_accuracy(compare_stage(store, config))


@app.command()
def measure(run_dir: RunDir) -> None:
    """Every missing measurement of every checkpoint."""
    from instar.record.store import Store
    from instar.workflow.pipeline import measure_stage

    store, config = Store.open(run_dir)
    if measure_stage(store, config):
        raise typer.Exit(1)


@app.command()
def compare(
    run_dir: Annotated[Path | None, typer.Argument(help="a run directory", metavar="RUN")] = None,
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
    out: Annotated[Path | None, typer.Option(help="without RUN: the run directory to make")] = None,
    evict: Annotated[
        bool, typer.Option("--evict", help="without RUN: remove fetched checkpoints from the hub's cache once measured")
    ] = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """What changed, and the verdict: of a run, or of checkpoints that somebody else trained."""
    from instar.record.store import Store
    from instar.report.terminal import show_summary
    from instar.workflow.pipeline import compare_stage, measure_stage

    if run_dir is not None:
        if base or checkpoints or out or device or dtype:
            raise ValueError("compare takes a RUN, or --base, --checkpoints and --out with their options; not both")
        store, config = Store.open(run_dir)
        failures = measure_stage(store, config)
        show_summary(compare_stage(store, config, failures))
        raise typer.Exit(1 if failures else 0)
    if not (base and checkpoints and out):
        raise ValueError("compare takes a RUN, or all of --base, --checkpoints and --out")
    from instar.record.config import RunConfig

    chosen: dict[str, Any] = {
        "model": {"source": base, **_given(device=device, dtype=dtype)},
        "tasks": {"old": old, "new": new},
        "series": {"checkpoints": checkpoints, "evict": evict},
        "data": {"train_file": None if train_file is None else str(train_file)},
    }
    _run(RunConfig.checked(chosen, "compare"), out)


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="a circuit's JSON, ours or the EAP-IG package's", metavar="A")],
    after: Annotated[Path, typer.Argument(help="another, of the same model shape", metavar="B")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """What two saved circuits share and what changed from A to B, with chance beside it."""
    import json

    from instar.circuits.circuit import Circuit
    from instar.compare.chance import NO_PAIRS, beside
    from instar.compare.diff import diff as compare_circuits
    from instar.report.terminal import show_diff

    a, b = Circuit.read(before), Circuit.read(after)
    found = compare_circuits(a, b)
    by_chance = beside(a, b)
    if as_json:
        value = found.as_dict() | {"chance": {k: c.as_dict() for k, c in by_chance.items()}, "floors": NO_PAIRS}
        typer.echo(json.dumps(value, indent=1))
    else:
        show_diff(str(before), str(after), found, by_chance, NO_PAIRS)


@app.command()
def report(run_dir: RunDir) -> None:
    """The page, the figures and the animations."""
    from instar.record.store import Store
    from instar.workflow.pipeline import report_stage

    store, config = Store.open(run_dir)
    report_stage(store, config)
    typer.echo(f"{store.report('index.html')}")


@app.command()
def organism(
    out: Annotated[Path, typer.Option("--out", help="folder of the new model")] = Path("organism"),
    seed: Annotated[int, typer.Option(help="seed of weights and text")] = 1,
    threads: Annotated[int, typer.Option(help="torch threads")] = 2,
) -> None:
    """Retrain the embedded model from nothing (under 15 minutes on 2 cores)."""
    from instar.models.organism.recipe import Recipe, make
    from instar.progress import bar

    with bar("training the organism") as tell:
        facts = make(out, Recipe(seed=seed, threads=threads), tell)
    scores = ", ".join(f"{name} {value:.1%}" for name, value in facts["accuracy"].items())
    typer.echo(f"{out}: {scores} on {facts['pairs']:,} held-out pairs; sha256 {facts['sha256 of model.safetensors']}")


@app.command()
def calibrate(
    out: Annotated[Path, typer.Option("--out", help="folder of the planted instances")] = Path("runs/calibrate"),
    seeds: Annotated[int, typer.Option(help="fine-tuning seeds of each kind, on each base")] = 8,
    quick: Annotated[bool, typer.Option("--quick", help="four seeds (under 45 minutes on 2 cores)")] = False,
    bases: Annotated[str, typer.Option(help="comma-separated: embedded, seed-N (trained first)")] = "embedded,seed-2",
    shipped: Annotated[
        bool, typer.Option("--shipped", help="print what the software was calibrated with; make nothing")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """How often the verdict is right, on planted truths. What is made is kept: the same command goes on."""
    import json

    from instar.calibrate import SHIPPED
    from instar.report.calibration import show_calibration

    if shipped:
        result = json.loads(SHIPPED.read_text(encoding="utf-8"))
    else:
        from instar.calibrate.matrix import calibrated
        from instar.progress import bar

        with bar("planting and measuring") as tell:
            result = calibrated(out, 4 if quick else seeds, tuple(bases.split(",")), tell)
    typer.echo(json.dumps(result, indent=1)) if as_json else show_calibration(result)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _chosen(config: Path, lora: str | None, device: str | None, dtype: str | None = None) -> Any:
    """The configuration of a file, with what the command line says instead."""
    from instar.record.config import RunConfig

    pairs = [part.strip().partition("=") for part in (lora or "").split(",")]
    parts = None if lora is None else {name: value for name, _, value in pairs}
    return RunConfig.read(config, {"model": _given(device=device, dtype=dtype), "train": _given(lora=parts)})


def _run(config: Any, out: Path) -> None:
    from instar.record.store import Store
    from instar.report.terminal import show_summary
    from instar.workflow.pipeline import run as run_all

    store = Store.create(out, config)
    summary = run_all(store, config)
    show_summary(summary)
    typer.echo(f"\nopen {store.report('index.html')}")
    if summary["failed"]:
        raise typer.Exit(1)


def main() -> None:
    """The entry point: errors that a user can mend are one message, not a traceback."""
    try:
        app()
    except (ValueError, OSError, ArithmeticError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            typer.echo("interrupted; what is finished is kept, and the same command goes on from there", err=True)
        raise


if __name__ == "__main__":
    main()
