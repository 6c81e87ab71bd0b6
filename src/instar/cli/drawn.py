"""The command that draws: a whole report, or panels of it in files of their own."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from instar.cli.named import named
from instar.cli.runs import Beside, Run, end
from instar.progress import say, settled

app = typer.Typer()


@app.command()
def report(
    run: Run,
    others: Annotated[
        list[Path] | None,
        typer.Argument(help="more runs of the same two tasks: one page with all of them", metavar="RUN …"),
    ] = None,
    out: Beside = None,
    panel: Annotated[
        list[str] | None,
        typer.Option(
            "--panel", help="only this drawing (circuit, gaze, ledger, behaviour, stream, …), into report/figures"
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="of old, new, a task's name, or both")] = None,
    kinds: Annotated[
        list[str] | None, typer.Option("--format", help="svg, pdf, png, gif, mp4 or html; svg by default")
    ] = None,
    step: Annotated[int | None, typer.Option(help="at this step; the last by default")] = None,
    width: Annotated[
        str | None,
        typer.Option(help="inches (papers: 3.3, 6.9): text of 8 points, the caption in a .txt beside"),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="show the page in a browser, and anew whenever a run under way changes it")
    ] = False,
) -> None:
    """The page, the figures and the animations, or single panels; of several runs, one page with all of them side by side."""
    from instar.workflow.reporting import panels_stage, report_stage, runs_stage

    given = (panel, task, kinds, step, width)
    if watch:
        if others or any(one is not None for one in given):
            raise ValueError("--watch shows the page of one run: leave the other runs and options out")
        _watched(run, out)
        return
    if others:
        if any(one is not None for one in given):
            raise ValueError("--panel, --task, --format, --step and --width draw one run: give one, or leave them out")
        written = runs_stage(
            [named(path, out if path == run else None, beside=True).trained() for path in (run, *others)]
        )
        settled()
        say(str(written))
        return
    if all(one is None for one in given):
        experiment = named(run, out, beside=True).trained()
        written = report_stage(experiment)
        end(experiment, lambda: _told(written))
        return
    from instar.report.figures import Wanted

    chosen = {"panels": tuple(panel or ()), "task": task, "formats": tuple(kinds) if kinds else None, "step": step}
    wanted = Wanted(
        **{k: v for k, v in chosen.items() if v is not None}, width=None if width is None else _inches(width)
    )
    written = panels_stage(named(run, out, beside=True).trained(), wanted)
    settled()
    for path in written:
        say(str(path))


def _watched(run: Path, out: Path | None) -> None:
    """The page, served to this machine until Ctrl-C; drawn first, where there is a summary and no other process is at it."""
    from instar.record.lock import NAME, InUse
    from instar.report.watch import Watched
    from instar.workflow.reporting import report_stage

    place = out or run
    # A run that has just begun has no configuration yet; it is held, though.
    if (place / "summary.json").exists() or not (place / NAME).exists():
        experiment = named(run, out, beside=True)
        if experiment.store.summary.exists():
            with suppress(InUse):
                report_stage(experiment.trained())
    settled()
    with Watched(place / "report" / "index.html") as server, suppress(KeyboardInterrupt):
        say(f"{server.address} (Ctrl-C ends it)")
        server.serve_forever()


def _inches(width: str) -> float:
    try:
        return float(width.strip().removesuffix("in"))
    except ValueError:
        raise ValueError(f"--width {width}: expected inches, as 3.3 or 6.9in") from None


def _told(written: Sequence[Path]) -> None:
    """What was written, by kind, in a line or two."""
    if not written:
        say("report: nothing has changed since it was drawn")
        return
    names: dict[str, list[str]] = {}
    for path in written:
        names.setdefault(path.stem, []).append(path.suffix[1:])
    say(f"report: {len(written)} files: " + ", ".join(f"{stem} ({' '.join(kinds)})" for stem, kinds in names.items()))
