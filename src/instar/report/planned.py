"""What a run will take, as a table, and in one line."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from instar.progress import spoken
from instar.report.terminal import console

SMALL = 0.02
"""Of the whole: what would save less than that is not worth a line."""


def show_plan(plan: Any, savings: Iterable[tuple[str, Any]], given: Sequence[str] = ()) -> None:
    """Every stage, then all of it, then what other choices would save, the largest first."""
    table = Table(title="what this run takes, stage by stage", box=None, pad_edge=False)
    table.add_column("stage")
    for head in ("times", "seconds each", "minutes"):
        table.add_column(head, justify="right", no_wrap=True)
    for stage, (count, seconds) in plan.by_stage().items():
        table.add_row(stage, f"{count}", f"{seconds / count * _beside(plan, stage):.1f}", f"{seconds / 60:.1f}")
    console.print(table)
    console.print(line(plan))
    if plan.elsewhere is not None:
        own = plan.elsewhere
        console.print(
            f"reckoned for {own.gpus} GPU of {own.teraflops:g} teraflops each; nothing was timed there, and a factor of two "
            "or three either way is no surprise (docs/scaling.md)"
        )
    show_given(given)
    saved = [(text, plan.left - other.left, plan.memory - other.memory) for text, other in savings]
    worth = [row for row in saved if row[1] > SMALL * plan.left or row[2] > SMALL * plan.memory]
    if worth:
        console.print("\nwhat other choices would save, each by itself:")
    for text, seconds, memory in sorted(worth, key=lambda row: -row[1]):
        parts = [f"{seconds / 60:.0f} min"] if seconds > SMALL * plan.left else []
        parts += [f"{memory / 2**30:.1f} GiB of memory"] if memory > SMALL * plan.memory else []
        console.print(f"  {text}: {', '.join(parts)}")


def _beside(plan: Any, stage: str) -> int:
    """How many of a stage's pieces go on at once."""
    return plan.side_by_side if any(p.stage == stage and p.step is not None for p in plan.pieces) else 1


def line(plan: Any) -> str:
    """`about 43 min (2 files side by side), 4.1 GiB of memory, 3.2 GB of disk`."""
    done = plan.seconds - plan.left
    beside = f" ({plan.side_by_side} files side by side)" if plan.side_by_side > 1 else ""
    left = f"; {in_short(done)} of it is done, {in_short(plan.left)} are left" if done > 0 else ""
    each = " each" if plan.elsewhere else ""
    return (
        f"this run takes about {in_short(plan.seconds)}{beside}, {plan.memory / 2**30:.1f} GiB of memory{each} and "
        f"{plan.disk / 1e9:.1f} GB of disk{left}"
    )


def show_given(given: Sequence[str]) -> None:
    """What is given up to stay within a budget."""
    for text in given:
        console.print(f"  to fit: {text}")


def in_short(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    return spoken(seconds) if seconds < 5400 else f"{seconds / 3600:.1f} h"
