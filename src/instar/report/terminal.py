"""What a command prints: tables that a person reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from instar.progress import Screen
from instar.record.names import wording_name
from instar.report.answered import show_answer, show_beside, show_without
from instar.report.tables import NATS, Column, show_columns

console = Screen()


SHOWN, ROWS = 4, 5
"""Checkpoints, and rows of a finding printed; the page, or JSON, has all."""


def show_accuracy(summary: dict[str, Any], most: int | None = None) -> None:
    """Behaviour on both tasks at every checkpoint, or at `most` of them, the ends among them; then what was gained."""
    for name in (summary["old"], summary["new"]):
        own = summary["tasks"][name]
        places = _spread(len(own["steps"]), most)
        steps = [(f"{own['steps'][i]}" if own["steps"][i] else "0 (base)",) for i in places]
        last = Column("logit diff", [(f"{own['logit_diff'][i]:+.2f}",) for i in places])
        columns = [Column("step", steps), *_numbers([own] * len(places), places), last]
        show_columns(console, f"{name} accuracy, and what it is made of, on held-out prompts (95 %)", columns)
        _show_gain(name, own)
        if beside := own.get("baselines"):
            console.print(f"{name} without any circuit: {', '.join(map(_rule, beside))}{_learnt(beside)}")
    _show_undefined(summary)


NUMBERS = {"accuracy": "accuracy", "choice_accuracy": "choice", "naming": "naming", "choosing": "choosing"}
"""Numbers of behaviour that are printed, and as what; the last two are in nats."""
WORDINGS = 20
"""Of so many wordings each is printed unasked."""


def _numbers(
    rows: Sequence[Mapping[str, Any]], places: Sequence[int | None], more: Mapping[str, str] = {}
) -> list[Column]:
    """A column for each number, and for `more`: of each row as it is, or at its place where it has lists."""
    return [
        Column(head, [_cell(own, name, at) for own, at in zip(rows, places, strict=True)], number=name)
        for name, head in (NUMBERS | dict(more)).items()
    ]


def _cell(own: Mapping[str, Any], number: str, at: int | None = None) -> tuple[str, ...]:
    """A number and its interval: `38.0%`, `[35.0, 41.1]`; `-0.75`, `[-0.80, -0.70]`; `–` where it is not there or defined."""
    found = [own.get(f"{number}{end}") for end in ("", "_low", "_high")]
    value, low, high = (x[at] if isinstance(x, list) and at is not None else x for x in found)
    if value is None or low is None or high is None or value != value:
        return ("–",)
    if number in NATS:
        return f"{value:.2f}", f"[{low:.2f}, {high:.2f}]"
    return f"{value:.1%}", f"[{100 * low:.1f}, {100 * high:.1f}]"


def _show_gain(name: str, own: Mapping[str, Any]) -> None:
    """What of the gain in log p(answer) is saying a name, and what is choosing the right one."""
    gained = own.get("gain")
    if not gained or len(own["steps"]) < 2:
        return
    whole, naming, choosing = (_nats(gained[k]) for k in ("log_probability", "naming", "choosing"))
    first, last = own["steps"][0], own["steps"][-1]
    console.print(
        f"{name}, step {first} to {last}: log p(answer) {whole} nats = naming a name {naming} + choosing it {choosing}"
    )


def _nats(found: Mapping[str, float | None]) -> str:
    value, low, high = (found[k] for k in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "not defined"
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def _show_undefined(summary: dict[str, Any]) -> None:
    for name in (summary["old"], summary["new"]):
        if count := summary["tasks"][name].get("choosing_undefined"):
            pairs = summary["tasks"][name]["pairs"]
            console.print(
                f"{name}: {count} of {pairs} pairs have fewer than two candidates: choosing is not defined there"
            )


def show_wordings(summary: dict[str, Any], both_ends: bool = False) -> None:
    """The numbers of each wording at the last checkpoint, and at the first."""
    steps = summary["tasks"][summary["new"]]["steps"]
    for at in dict.fromkeys((0, len(steps) - 1) if both_ends else (len(steps) - 1,)):
        found = {name: summary["tasks"][name]["by_wording"] for name in (summary["old"], summary["new"])}
        several = {name: own for name, own in found.items() if len(own) > 1}
        show_by_wording(several, both_ends, f" at step {steps[at]}", at)


def show_by_wording(
    found: Mapping[str, Mapping[str, Any]], always: bool = False, when: str = "", at: int | None = None
):
    """The numbers of each wording of each task (`by_wording`), where they are few or wanted; `at` a place in lists."""
    for task, wordings in found.items():
        if not always and len(wordings) > WORDINGS:
            console.print(f"{task} has {len(wordings)} wordings: --by-wording prints them")
            continue
        names = Column("wording", [(wording_name(wording),) for wording in wordings], "left")
        rows = list(wordings.values())
        columns = [names, *_numbers(rows, [at] * len(rows), {"named": "names somebody"})]
        show_columns(console, f"{task} by wording{when} (95 %)", columns)


def _rule(row: dict[str, Any]) -> str:
    """A rule that needs no circuit, and how often it is right: `best place (place 2) 41.0% [38.0, 44.1]`."""
    says = f" ({row['says']})" if row["kind"] in ("commonest answer", "best place") else ""
    bounds = "" if row["kind"] == "chance" else f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    return f"{row['kind']}{says} {row['accuracy']:.1%}{bounds}"


def _learnt(rows: list[dict[str, Any]]) -> str:
    count = max(row["trained_on"] for row in rows)
    return (
        f"; from {count:,} {rows[0]['learnt_on']}, the best on them first"
        if count
        else "; no rows to learn others from"
    )


def _spread(count: int, most: int | None) -> list[int]:
    """At most `most` (two or more) of `count` rows, evenly, with both ends."""
    if most is None or count <= most:
        return list(range(count))
    return [i * (count - 1) // (most - 1) for i in range(most)]


def show_summary(summary: dict[str, Any]) -> None:
    """Behaviour, the answer, what moved, and health: about a screenful; the page has the rest."""
    show_accuracy(summary, most=SHOWN)
    if summary.get("answer"):
        show_answer(summary)
        show_beside(summary)
    else:
        show_without(summary)
    new = summary["new"]
    moved = [row for kind in ("layers", "heads") for row in summary["changed"][kind][new] if row["moved"]]
    moved = sorted(moved, key=lambda row: -abs(row["change"]))[:2]
    if summary["changed"]["heads"][new]:
        rows = "; ".join(_moved(row) for row in moved) or "nothing beyond its interval"
        console.print(f"direct contribution to {new}, base → last: {rows}")
    _show_circuits(summary)
    errors = [row["merge_error"] for row in summary["checkpoints"] if row["merge_error"] is not None]
    if errors:
        console.print(f"adapters were merged in float32: logits moved by up to {max(errors):.1e} of the largest")
    for notice in summary.get("notices", ()):
        console.print(f"notice: {notice['text']}", style="yellow")
    for finding in summary["health"]:
        text = f"health: seed {finding['seed']}, step {finding['step']}: {finding['kind']}: {finding['text']}"
        console.print(text, style="yellow")
    for failure in summary["failed"]:
        text = f"failed: seed {failure['seed']}, step {failure['step']}: {failure['reason']}"
        console.print(text, style="red")


def _show_circuits(summary: dict[str, Any]) -> None:
    """How large the circuits are at both ends; of all givers pooled, or of the only corruption."""
    sizes = []
    for task, groups in summary["circuits"].items():
        for found in list((groups or {}).values())[:1]:
            sizes.append(f"{task} {_size(found, 0)} → {_size(found, -1)}")
    if sizes:
        text = f"smallest circuit that keeps 85 % of b − c (edges, base → last): {', '.join(sizes)}"
        console.print(text)


def _size(found: dict[str, Any], at: int) -> str:
    if why := found.get("not_measured", {at: None})[at]:
        return f"not measured ({why})"
    return "none" if found["size"][at] is None else f"{found['size'][at]:.0f}"


def _moved(row: dict[str, Any]) -> str:
    name = row["head"] if "head" in row else f"layer {row['layer']} {row['part']}"
    return f"{name} {row['change']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"


def show_ending(files: Mapping[str, str], commands: Mapping[str, str]) -> None:
    """Where things are, and what would bring more: each on a line that can be copied."""
    width = max((len(label) for label in (*files, *commands)), default=0) + 2
    console.print()
    for label, path in files.items():
        console.print(f"{label:<{width}}{path}", soft_wrap=True)
    if commands:
        console.print("\nnext:")
    for label, command in commands.items():
        console.print(f"{label:<{width}}{command}", soft_wrap=True)


def show_screen(model: str, found: list[Any], neighbours: list[tuple[str, str]], by_wording: bool = False) -> None:
    """Every task's standing, and the pairs to begin with."""
    tried = [s for s in found if s.accuracy is not None]
    rules = []
    for best in (s.baselines[0] for s in tried):
        rule = best["says"] if best["kind"] == "best place" else best["kind"].removeprefix("best ")
        rules.append((f"{best['accuracy']:.1%}", rule))
    columns = [
        Column("task", [(s.task,) for s in tried], "left"),
        *_numbers([s.as_bounds() for s in tried], [None] * len(tried)),
        Column("no circuit", rules, "left"),
        Column("standing", [(s.standing,) for s in tried], "left"),
    ]
    show_columns(console, f"Tasks on {model}", columns)
    for s in found:
        if s.accuracy is None:
            console.print(f"{s.task}: not tried: {s.reason}")
    console.print(
        "\naccuracy: the answer is the likeliest of all tokens; choice: it beats the other candidates. naming, choosing: "
        "nats of log p(answer) for saying a candidate, and for its being the right one"
    )
    console.print(
        "no circuit: whichever is best on training rows of chance, commonest answer, best place and best name prior"
    )
    wordings = {s.task: s.by_wording for s in found if len(s.by_wording) > 1}
    count = sum(map(len, wordings.values()))
    if by_wording or count <= WORDINGS:
        show_by_wording(wordings, always=True)
    else:
        console.print(f"\n{count} wordings: --by-wording prints them")
    if not neighbours:
        console.print("\nno neighbours of which one is mastered and one failed")
    for easier, harder in neighbours:
        names = (easier, "bold"), " is mastered, ", (harder, "bold"), " is failed"
        console.print(Text.assemble("\nneighbours: ", *names))


def show_audit(path: str, report: Any, test: str | None = None) -> None:
    """Findings, worst first, and balances; then what is wrong with the test data themselves."""
    _show_findings(path, report)
    for what, b in report.balance.items():
        counts = ", ".join(f"{k} {v}" for k, v in list(b.counts.items())[:8])
        console.print(f"balance  {what}: {counts}  (against uniform: p = {b.p_value:.2g})")
    if report.prompt_tokens:
        lengths = ", ".join(f"{k} {v:g}" for k, v in report.prompt_tokens.items())
        console.print(f"prompt tokens: {lengths}")
    if report.test is not None:
        _show_findings(f"test data {test}", report.test)
    console.print("no errors" if report.ok else "errors found: do not train on this as it is", style="bold")


def _show_findings(path: str, report: Any) -> None:
    console.print(f"{path}: {report.rows} rows")
    styles = {"error": "bold red", "warning": "yellow", "note": "dim"}
    for f in report.findings:
        console.print(f"{f.severity:<8}{f.said}; {f.text}", style=styles[f.severity])
        for row in f.rows[:ROWS]:
            console.print(f"          {row}", style="dim")
        if len(f.rows) > ROWS:
            console.print(f"          … and {len(f.rows) - ROWS} more; --json has all", style="dim")


def show_made(out: Path, made: Any) -> None:
    """What a generation brought, what it took, and how it goes on."""
    facts, missing = made.facts, made.wanted - len(made.rows)
    estimated = facts["calls with estimated tokens"]
    guess = f", estimated for {estimated} calls" if estimated else ""
    console.print(f"{len(made.rows)} of {made.wanted} rows; {facts['calls']} calls, {facts['tokens']:,} tokens{guess}")
    for what in ("rejected", "problems"):
        if facts[what]:
            console.print(f"{what}: " + ", ".join(f"{kind} {n}" for kind, n in facts[what].items()))
    if made.stopped:
        console.print(f"stopped: {made.stopped}", style="yellow")
        console.print(
            f"{missing} rows are missing; the same command goes on from here, with a larger budget if it was that"
        )
    console.print(f"{out}" if made.rows else f"{out} is not written: there are no rows", soft_wrap=True)


OVERLAPS = ("jaccard", "a_in_b", "b_in_a")


def show_diff(before: str, after: str, diff: Any, chance: dict[str, Any], floors: str) -> None:
    """What two circuits share with chance beside it, what changed by reader, and the nodes and edges that did."""
    alike = diff.similarity
    console.print(f"A  {before}\nB  {after}\n")
    sizes, shares = (
        Table(title="How many A and B have", box=None),
        Table(title="\nHow alike they are (by chance, its 95 % quantile)", box=None),
    )
    for table, names in (
        (sizes, ("in A", "in B", "in both", "only A", "only B")),
        (shares, ("Jaccard", "A in B", "B in A")),
    ):
        table.add_column("", no_wrap=True)
        for name in names:
            table.add_column(name, justify="right", no_wrap=True)
    for what in ("nodes", "heads", "edges"):
        own, by_chance, title = getattr(alike, what), chance[what], {"nodes": "heads and MLPs"}.get(what, what)
        counts = own.a, own.b, own.shared, own.a - own.shared, own.b - own.shared
        sizes.add_row(title, *(f"{count:,}" for count in counts))
        floors_of = [
            (k, f"({_share(getattr(by_chance, k))}, {_share(getattr(by_chance, f'{k}_high'))})") for k in OVERLAPS
        ]
        shares.add_row(title, *(f"{_share(getattr(own, kind))} {floor}" for kind, floor in floors_of))
    console.print(sizes)
    console.print(shares)
    console.print(f"weighted Jaccard {_share(alike.weighted_jaccard)} ({alike.weighted_over})")
    _show_readers(diff)
    for title, names in (("nodes gained", diff.nodes.gained), ("nodes lost", diff.nodes.lost)):
        console.print(f"{title}: {_some(names)}")
    for title, names in (("edges gained", diff.edges.gained), ("edges lost", diff.edges.lost)):
        console.print(f"{title}: {_some(names)}")
    for kind in ("strengthened", "weakened", "sign_changed"):
        rows = [f"{row.edge} {row.before:+.3g} → {row.after:+.3g}" for row in getattr(diff, kind)]
        console.print(f"{kind.replace('_', ' ')} ({diff.how}): {_some(rows)}")
    console.print(f"\n{floors}", style="yellow")


def _show_readers(diff: Any) -> None:
    kinds = ("kept", "gained", "lost", "strengthened", "weakened", "sign_changed")
    table = Table(title="\nEdges by what reads them", box=None)
    for name in ("reader", *kinds):
        table.add_column(name.replace("_", " "), justify="left" if name == "reader" else "right")
    for reader, counts in diff.by_reader.items():
        table.add_row(reader, *(f"{counts[kind]}" for kind in kinds))
    console.print(table)


def _some(names: Any, most: int = 12) -> str:
    """The first few names, and how many more there are."""
    more = f" … and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)}" + (": " + ", ".join(names[:most]) + more if names else "")


def _share(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"


def show_verified(run: Path, found: Any) -> None:
    """What `instar verify` found."""
    for text in (*found.broken, *(f"note: {note}" for note in found.notes)):
        console.print(text, markup=False, soft_wrap=True)
    again = f", {found.measured} measurements made again" if found.measured else ""
    word = "all as they were written" if found.ok else f"{len(found.broken)} not as they were written"
    console.print(f"{run}: {found.files} files{again}: {word}", markup=False, soft_wrap=True)
