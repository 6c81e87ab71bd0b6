"""Commands beside a run: which tasks to begin with, its ledger, two circuits, the embedded model, calibration."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from instar.calibrate import BASES, QUICK
from instar.cli.named import joining
from instar.cli.runs import Address, Executor
from instar.progress import say

app = typer.Typer()


@app.command()
def screen(
    model: Annotated[str, typer.Option("--model", help='"embedded", a folder, or a hub id')] = "embedded",
    tasks: Annotated[str, typer.Option(help="comma-separated; all of the library by default")] = "",
    pairs: Annotated[int, typer.Option(help="held-out pairs a task")] = 200,
    seed: Annotated[int, typer.Option(help="seed of the prompts")] = 0,
    device: Annotated[str, typer.Option(help="torch device")] = "cpu",
    by_wording: Annotated[bool, typer.Option("--by-wording", help="print every wording's numbers")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Which tasks a model has mastered, which not, and which of them are neighbours."""
    import json

    from instar.models.load import load
    from instar.progress import bar, settled
    from instar.report.terminal import show_screen
    from instar.tasks.library import TASKS
    from instar.workflow.screen import neighbours
    from instar.workflow.screen import screen as screen_tasks

    with bar("screening") as tell:
        screened = screen_tasks(
            load(model, device=device), tasks.split(",") if tasks else list(TASKS), pairs, seed, tell
        )
    settled()
    if as_json:
        rows: Any = {"tasks": [s.as_dict() for s in screened], "neighbours": neighbours(screened)}
        say(json.dumps(rows, indent=1))
    else:
        show_screen(model, screened, neighbours(screened), by_wording)


@app.command()
def ledger(
    run: Annotated[Path, typer.Argument(help="a run directory", metavar="RUN", show_default=False)],
    task: Annotated[str | None, typer.Option(help="of which task; the new one by default")] = None,
    by: Annotated[
        Literal["slice", "kind", "layer", "head", "part", "factor"], typer.Option(help="what bookings are added up by")
    ] = "slice",
    metric: Annotated[str, typer.Option(help="choosing or logit_diff; of the old task logit_diff")] = "",
    step: Annotated[int | None, typer.Option(help="up to this step; the last by default")] = None,
    rows: Annotated[int, typer.Option(help="how many are shown, the largest first")] = 20,
    csv: Annotated[Path | None, typer.Option(help="write all of them, interval by interval, to this file")] = None,
) -> None:
    """Where and when a run's gain was written: bookings by part of the model, with intervals."""
    from instar.compare.answered import ledger_of
    from instar.compare.booking import booked
    from instar.report.answered import show_ledger
    from instar.workflow.opened import load_run

    own = load_run(run)
    name, first = task or own.tasks["new"], own.seeds[0]
    steps = own.store.measured_steps("ledger", name, first)
    last = step if step is not None else (steps or [0])[-1]
    whole = ledger_of(own.store, name, first, last)
    if whole is None:
        there = ", ".join(map(str, steps)) or "none"
        raise ValueError(
            f"{run}: no ledger of {name} up to step {last}; there are steps {there} (instar measure {run})"
        )
    chosen = metric or str(whole["metric"].values[0])
    if csv is not None:
        booked(whole, by, chosen, over_time=True).to_dataframe().reset_index().to_csv(csv, index=False)
        say(f"written: {csv}")
    show_ledger(booked(whole, by, chosen), name, f"step 0 to {last}", rows)


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="a circuit's JSON, ours or the EAP-IG package's", metavar="A")],
    after: Annotated[Path, typer.Argument(help="another, of the same model shape", metavar="B")],
    sign: Annotated[
        str | None,
        typer.Option(
            help="which scores help in files of others: positive (default), negative; of A,B where they differ"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """What two saved circuits share and what changed from A to B, with chance beside it."""
    import json

    from instar.circuits.circuit import Circuit
    from instar.compare.chance import NO_PAIRS, beside
    from instar.compare.diff import diff as compare_circuits
    from instar.report.terminal import show_diff

    signs: Any = (sign.split(",") * 2)[:2] if sign else (None, None)
    a, b = (Circuit.read(path, sign=own) for path, own in zip((before, after), signs, strict=True))
    found = compare_circuits(a, b)
    by_chance = beside(a, b)
    if as_json:
        value = found.as_dict() | {"chance": {k: c.as_dict() for k, c in by_chance.items()}, "floors": NO_PAIRS}
        say(json.dumps(value, indent=1))
    else:
        show_diff(str(before), str(after), found, by_chance, NO_PAIRS)


@app.command()
def organism(
    out: Annotated[Path, typer.Option("--out", help="folder of the new model")] = Path("organism"),
    family: Annotated[Literal["gpt2", "llama"], typer.Option(help="gpt2 is embedded, llama embedded-llama")] = "gpt2",
    seed: Annotated[int | None, typer.Option(help="seed of weights and text; without: the embedded model's")] = None,
    threads: Annotated[int, typer.Option(help="torch threads; the embedded models were made with 1")] = 1,
) -> None:
    """Retrain an embedded model from nothing (about 15 minutes)."""
    from instar.models.organism.recipe import RECIPES, make
    from instar.progress import bar, settled

    recipe = replace(RECIPES[family], threads=threads)
    with bar("training the organism") as tell:
        facts = make(out, recipe if seed is None else replace(recipe, seed=seed), tell)
    settled()
    scores = ", ".join(f"{name} {value:.1%}" for name, value in facts["accuracy"].items())
    say(f"{out}: {scores} on {facts['pairs']:,} held-out pairs; sha256 {facts['sha256 of model.safetensors']}")


@app.command()
def check(
    base: Annotated[
        str, typer.Option("--base", help='what was before: "embedded", a folder, a GGUF file, or a hub id')
    ],
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="what is asked about: a folder, a file, a hub id")],
    config: Annotated[Path | None, typer.Option("--config", help="gate.yaml: skills, prompts, what is allowed")] = None,
    skill: Annotated[
        str | None, typer.Option("--skill", help="skills instead of the file's: tasks, or files of pairs")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="write JUnit XML there")] = None,
    sarif: Annotated[Path | None, typer.Option("--sarif", help="write SARIF 2.1.0 there")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Has the circuit of a skill changed, and what change would have been seen? For other people's CI.

    Exit code 0: not beyond what is allowed; 3: changed; 4: undetermined; 1: an error.
    """
    import json

    from instar.compare.diff import plain
    from instar.progress import bar, settled
    from instar.record.config.gate import GateConfig
    from instar.record.files import write_text
    from instar.report import gated
    from instar.tasks.custom import code_runs_by
    from instar.workflow.gate import check as checked

    own = GateConfig() if config is None else GateConfig.read(config)
    if skill is not None:
        own = GateConfig.checked({**own.model_dump(), "skills": skill}, "--skill")
    elif config is not None:
        # A file is no consent to run code that it names.
        again = ["instar", "check", "--base", base, "--checkpoint", checkpoint, "--config", str(config)]
        code_runs_by.set(shlex.join([*again, "--skill", ",".join(own.skills)]))
    with bar("checking") as tell:
        found = checked(base, checkpoint, own, tell)
    told = plain(found.as_dict())
    for place, text in ((junit, gated.junit), (sarif, gated.sarif)):
        if place is not None:
            write_text(place, text(told))
    settled()
    say(json.dumps(told, indent=1)) if as_json else gated.show_checked(told)
    raise typer.Exit(gated.ENDS[found.verdict])


@app.command()
def calibrate(
    out: Annotated[Path, typer.Option("--out", help="folder of the planted instances")] = Path("runs/calibrate"),
    seeds: Annotated[int, typer.Option(help="fine-tuning seeds of each kind, on each base", min=2)] = 6,
    quick: Annotated[
        bool, typer.Option("--quick", help="two seeds on two bases (by ray under 40 minutes on 2 cores)")
    ] = False,
    bases: Annotated[str, typer.Option(help="comma-separated names of bases")] = ",".join(BASES),
    executor: Executor = None,
    address: Address = None,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="print what the software was calibrated with; make nothing")
    ] = False,
    gate: Annotated[
        bool, typer.Option("--gate", help="what `instar check` allows instead: from 18 seeds, half an hour on one core")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """How often the answer is right on planted truths, and claims something where nothing changed.

    What is made is kept: the same command goes on.
    """
    import json

    from instar.compare.calibrated import shipped as calibrated_with
    from instar.report.calibration import show_calibration

    if gate:
        from instar.calibrate.gating import SEEDS, gating
        from instar.progress import bar

        out.mkdir(parents=True, exist_ok=True)
        with bar("planting and checking") as tell:
            gating(out, SEEDS, tell)
        say(f"{out / 'gated.json'}")
        return
    if shipped:
        result = calibrated_with()
    else:
        from instar.calibrate.matrix import calibrated
        from instar.progress import bar, settled

        asked = QUICK if quick else tuple(bases.split(","))
        with bar("planting and measuring") as tell:
            result = calibrated(out, 2 if quick else seeds, asked, tell, joining(executor, address) or "serial")
        settled()
    say(json.dumps(result, indent=1)) if as_json else show_calibration(result)
