"""The answer in the terminal: the headline and what it rests on, and the ledger as a table."""

from typing import Any

import xarray as xr

from instar.progress import Screen
from instar.record.config import CONTROLS
from instar.report.tables import Column, show_columns

console = Screen()
MISSING, KEY = 6, 3
"""Lines of each kind that are shown, and key layers; the page has all."""


def show_answer(summary: dict[str, Any]) -> None:
    """The headline, what it rests on, and what is ruled out, mixed and open."""
    found = summary.get("answer")
    if not found:
        console.print("\nNo answer: no checkpoint was tested for reuse of the old circuit.")
        return
    console.print(f"\n{found['headline']}", style="bold")
    for name, own in found["reuse"].items():
        console.print(
            f"  {name}: {own['word']}; reuse {_of(own['reuse'])} with {own['edges']} of {own['of']} edges; alone the old "
            f"circuit does {_of(own['old'])}, the new one {_of(own['new'])}, {own['floor_is'] or 'a floor'} "
            f"{_plain(own['floor'])}"
        )
    _show_written(found["written"], found.get("controls") or {})
    for kind in ("ruled_out", "mixed", "open"):
        for line in found[kind][:MISSING]:
            console.print(f"  {kind.replace('_', ' ')}: {line}")
        if len(found[kind]) > MISSING:
            console.print(f"  … and {len(found[kind]) - MISSING} more")
    console.print(found["caveat"], style="dim")


def _show_written(written: dict[str, Any] | None, controls: dict[str, Any]) -> None:
    """Every part's bookings beside what grafts say."""
    if not written:
        return
    rows = written["parts"]
    columns = [
        Column("written in", [(row["part"],) for row in rows], "left"),
        Column("nats", [_booked(row["booked"])[:1] for row in rows]),
        Column("share", [_booked(row["share"]) for row in rows]),
        Column("by grafts", [_booked(row["shapley"]) for row in rows]),
        Column("‖Δθ‖²", [(_share_of(row["moved"]),) for row in rows]),
        Column("size", [(_share_of(row["parameters"]),) for row in rows]),
    ]
    gain, way = _of(written["gain"]), "one straight line" if written["intervals"] == 1 else "the training's path"
    console.print(f"the gain in {written['metric']}, {gain} nats, booked along {way} (95 %)")
    show_columns(console, "", columns)
    for name, own in controls.items():
        parts = ", ".join(f"{part} {_of(one)}" for part, one in own["parts"].items())
        console.print(f"  the control on {CONTROLS.get(name, name)} gains {_of(own['gain'])}: {parts}")


def _booked(own: dict[str, float | None]) -> tuple[str, ...]:
    value, low, high = (own[k] for k in ("value", "low", "high"))
    if value is None:
        return ("–",)
    return (f"{value:.2f}",) if low is None or high is None else (f"{value:.2f}", f"[{low:.2f}, {high:.2f}]")


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _share_of(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _of(own: dict[str, float | None]) -> str:
    """`0.42 [0.31, 0.53]`, or `not measured`."""
    return " ".join(_booked(own)) if own["value"] is not None else "not measured"


def show_without(summary: dict[str, Any]) -> None:
    """Instead of an answer: that there is none, or what an earlier instar said."""
    if earlier := summary.get("verdict"):
        where = f"instar {summary['instar']}, step {earlier['step']}"
        console.print(f"\nVerdict of {where}: {earlier['kind']}", style="bold")
        console.print(earlier["text"])
    else:
        console.print("\nNo answer: no checkpoint was tested for reuse of the old circuit.")
    show_beside(summary)


def show_beside(summary: dict[str, Any]) -> None:
    """The key layers and heads, and the controls."""
    _show_key((summary.get("dynamics") or {}).get("key"))
    ends = []
    for own in (summary.get("controls") or {}).values():
        if own:
            both = (f"{summary[role]} {_accuracy(own.get(summary[role]))}" for role in ("old", "new"))
            ends.append(f"{own['is']}: {', '.join(both)}")
    if ends:
        console.print(f"accuracy after control fine-tunings, {'; '.join(ends)}")


def _show_key(key: dict[str, Any] | None) -> None:
    """The layers and heads of the largest bookings, and what grafting each alone brings and takes."""
    for kind in ("layers", "heads"):
        rows = (key or {}).get(kind, [])[:KEY]
        if rows:
            columns = [
                Column(f"key {kind}", [(row["name"],) for row in rows], "left"),
                Column("share, booked", [_booked(row["share"]) for row in rows]),
                *(Column(words, [_checked(row[way]) for row in rows]) for way, words in GRAFTED.items()),
            ]
            show_columns(console, "", columns)


GRAFTED = {"into": "grafted alone: returns", "lost": "takes"}


def _checked(own: dict[str, float | None] | None) -> tuple[str, ...]:
    return ("not grafted",) if own is None else _booked(own)


def _accuracy(found: dict[str, float] | None) -> str:
    return "not measured" if found is None else f"{found['accuracy']:.1%}"


def show_ledger(rows: xr.Dataset, task: str, steps: str, most: int) -> None:
    """Bookings by group, the largest first."""
    order = abs(rows["booked"]).values.argsort()[::-1][:most]
    own = [rows.isel(group=int(i)) for i in order]
    columns = [
        Column("booked on", [(str(row["group"].values),) for row in own], "left"),
        Column("booked", [_interval(row, "booked") for row in own]),
        Column("share", [_interval(row, "share") for row in own]),
    ]
    unit = "logits" if rows.attrs["metric"] == "logit_diff" else "nats"
    gain = " ".join(_interval(rows, "gain"))
    console.print(f"{task}: the gain in {rows.attrs['metric']}, {gain} {unit}, {steps} (95 %)")
    show_columns(console, "", columns)


def _interval(row: xr.Dataset, name: str) -> tuple[str, ...]:
    return _booked(
        {k: _plain_number(row[f"{name}{end}"]) for k, end in (("value", ""), ("low", "_low"), ("high", "_high"))}
    )


def _plain_number(value: Any) -> float | None:
    return None if float(value) != float(value) else float(value)
