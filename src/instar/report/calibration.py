"""How often the answer is right on planted truths, and cries wolf: tables in the terminal."""

from collections.abc import Iterable
from typing import Any

from instar.progress import Screen
from instar.report.tables import Column, show_columns

console = Screen()
WORDS = ("no new ability", "naming only", "transformed", "extended", "formed", "undetermined")
KEPT, SHARES = ("decided", "right", "named right"), ("decided", "right", "parts named right")
MATRIX = ("planted", "base", *WORDS, *SHARES)
POWER = ("of the way", "rise, points", "new ability", "changed circuit", "a changed edge")
SENSITIVITY = ("limit", "at", *SHARES)


def show_calibration(found: dict[str, Any]) -> None:
    """The matrix by kind and base, then false alarms, the power curve, and how the numbers move with each limit."""
    seeds = found["seeds"]
    console.print(
        f"Planted truths: fine-tuning seeds {seeds[0]} to {seeds[-1]}, bases {', '.join(found['bases'])}; the odd seeds, "
        "which fixed nothing. Right: of those that were decided."
    )
    if found["missing"]:
        console.print(f"{found['missing']} instances are not made yet")
    _show(MATRIX, map(_cells, found["words"]))
    if found["set aside"]:
        aside = ", ".join(f"{kind} {count}" for kind, count in found["set aside"].items())
        console.print(f"set aside, the plant did not take: {aside}")
    console.print(f"right on the half that limits were fixed on: {share(found['fixing half']['right'])}")
    for name, label in (("nothing changed", "nothing changed"), ("nearly nothing", "another order of general text")):
        own = found[name]
        what = ", ".join(f"{k} {v}" for k, v in own["what"].items())
        console.print(f"false alarms, {label}: {share(own['any'])}" + (f" ({what})" if what else ""))
    moved = found["moved afterwards"]
    same = sum(one["same or undetermined"] for one in moved)
    console.print(f"a planted truth, then moved: the same word or undetermined in {same} of {len(moved)}")
    _show(POWER, map(_grown, found["power"]))
    _show(SENSITIVITY, map(_moved, found["sensitivity"]))
    for name, label in (("shipped", "limits as shipped"), ("fixed", "limits that the even seeds fix")):
        console.print(f"{label}: " + ", ".join(f"{k} {v:g}" for k, v in found[name].items()))


def _show(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Shares stand beside what they are of, or below it where the terminal is narrow; nothing is cut short."""
    cells = zip(
        *([tuple(cell.split(", ", 1)) if " of " in cell else (cell,) for cell in row] for row in rows), strict=True
    )
    kinds = ("planted", "base", "limit")
    columns = [
        Column(name, list(own), "left" if name in kinds else "right") for name, own in zip(head, cells, strict=True)
    ]
    show_columns(console, "", columns)


def as_markdown(found: dict[str, Any]) -> str:
    """The same tables for docs/calibration.md."""
    pooled, moved = found["words"][-1], found["moved afterwards"]
    aside = ", ".join(f"{kind} {count}" for kind, count in found["set aside"].items()) or "none"
    near = found["nearly nothing"]
    same = sum(one["same or undetermined"] for one in moved)
    seeds, half = found["seeds"], found["fixing half"]["right"]
    parts = [
        f"Seeds {seeds[0]} to {seeds[-1]}; instances not made yet: {found['missing']}. On the odd seeds, which fixed "
        f"nothing: decided {share(pooled['decided'])}; of these right {share(pooled['right'])}; parts named right "
        f"{share(pooled['named right'])}. Set aside there: {aside}. Right on the even seeds: {share(half)}.",
        _lines(MATRIX, map(_cells, found["words"])),
        f"False alarms where nothing changed: {share(found['nothing changed']['any'])}; by move:",
        _lines(
            ("move", "something was claimed"), ((k, share(v)) for k, v in found["nothing changed"]["by kind"].items())
        ),
        f"Two trainings on the same general text in another order: {share(near['any'])}. A planted truth and then moves that "
        f"change nothing: the same word or “undetermined” in {same} of {len(moved)}.",
        "A true change, growing:",
        _lines(POWER, map(_grown, found["power"])),
        "How the numbers move with each limit, the others as shipped:",
        _lines(SENSITIVITY, map(_moved, found["sensitivity"])),
        *(
            f"Limits {what}: " + ", ".join(f"`{k}` {v:g}" for k, v in found[name].items()) + "."
            for name, what in (("shipped", "as shipped"), ("fixed", "that the even seeds fix"))
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _cells(row: dict[str, Any]) -> Iterable[str]:
    words = (str(row["words"].get(word, "·")) for word in WORDS)
    return row["kind"] or "all", row["base"] or "all", *words, *(share(row[k]) for k in KEPT)


def _grown(row: dict[str, Any]) -> Iterable[str]:
    rise = "·" if row["rise"] is None else f"{100 * row['rise']:+.0f}"
    return f"{row['of the way']:g}", rise, *(share(row[k]) for k in ("new ability", "circuit", "edges"))


def _moved(row: dict[str, Any]) -> Iterable[str]:
    return row["limit"], f"{row['value']:g}", *(share(row[k]) for k in KEPT)


def _lines(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    every = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in every)


def share(own: dict[str, Any]) -> str:
    """`45 of 48, 93.8 % [83.2, 97.9]`."""
    if not own["of"]:
        return "·"
    low, high = 100 * own["low"], 100 * own["high"]
    return f"{own['count']} of {own['of']}, {100 * own['share']:.0f} % [{low:.0f}, {high:.0f}]"
