"""How often the answer is right on planted truths, and how often it cries wolf: limits fixed on half of the seeds.

1. Even seeds are for fixing: over `GRID` the limits with the most instances right, a wrong one costing three. Where many do
   equally well, those in the middle of the tied values are taken, the least extreme. ρ_high, ρ_low and the share that
   recruits are fixed on the words, δ on the named parts.
2. Odd seeds are held out: by kind and base, with Wilson intervals, and pooled last. Instances whose manipulation check
   failed are set aside in both halves, and counted.
3. What nothing was planted in counts whole: no limit was fixed on it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from instar import __version__
from instar.calibrate import nulls
from instar.calibrate.bases import weights_of
from instar.calibrate.instances import NEW, OLD, Executor, Instance, Tell, instances, made, make_all, read
from instar.calibrate.planted import KINDS
from instar.compare.answer import Answer, answer, judged_by
from instar.compare.diff import plain
from instar.compare.reused import LIMITS, Limits
from instar.compare.written import PARTS, PartOf
from instar.record.files import write_json, write_rows
from instar.stats.intervals import Interval, wilson

WORDS = {"high": (0.6, 0.7, 0.8, 0.9), "low": (0.1, 0.2, 0.3, 0.4, 0.5), "recruited": (0.3, 0.4, 0.5, 0.6, 0.7)}
NAMED = {"named": (0.05, 0.1, 0.15, 0.2, 0.3)}
GRID = WORDS | NAMED
COST = 3
UNDETERMINED = "undetermined"
ROWS = Path(__file__).parent / "rows.jsonl"
"""Every instance of the calibration that comes with the software: its numbers, from which all tables can be made again."""


@dataclass(frozen=True)
class Judged:
    """One instance and its answer."""

    instance: Instance
    record: Mapping[str, Any]
    """What was checked when it was planted."""
    answer: Answer | None
    """None where the plant did not take."""

    @property
    def held_out(self) -> bool:
        """Whether it is kept from fixing limits."""
        return self.instance.seed % 2 == 1

    @property
    def planted(self) -> bool:
        """Whether it is one of the kinds with a known answer."""
        return self.instance.kind in KINDS

    def word(self, limits: Limits) -> str:
        """What the answer says."""
        assert self.answer is not None
        return judged_by(self.answer, limits)

    def named(self, limits: Limits) -> tuple[str, ...]:
        """Parts that it names."""
        how = None if self.answer is None else self.answer.written
        return () if how is None else tuple(one.part for one in how.told if one.carries(limits.named))

    def right(self, limits: Limits) -> bool:
        """Whether the word is the planted one."""
        return self.word(limits) == KINDS[self.instance.kind].word

    def named_right(self, limits: Limits) -> bool | None:
        """Whether all parts named are of those that were trained; None where none is, or where that is not known."""
        parts, named = KINDS[self.instance.kind].parts, self.named(limits)
        return None if not parts or not named else set(named) <= set(parts)


def calibrated(out: Path, seeds: int, bases: Sequence[str], tell: Tell, executor: Executor) -> dict[str, Any]:
    """Make what is missing, fix limits, count. Written to `OUT/calibration.json` and `OUT/rows.jsonl` too."""
    every = instances(seeds, bases)
    make_all(out, every, tell, executor)
    return counted(out, every)


def counted(out: Path, every: Sequence[Instance]) -> dict[str, Any]:
    """The calibration of the instances that are there."""
    rows = []
    for one in every:
        if made(out, one):
            found, record = read(out, one)
            rows.append(Judged(one, record, None if found is None else answer(found)))
    bases = list(dict.fromkeys(row.instance.base for row in rows))
    write_rows(out / ROWS.name, [_row(row) for row in rows])
    more = {"bases": {base: weights_of(base, out) for base in bases}, "missing": len(every) - len(rows)}
    own = plain(calibration(rows)) | more
    write_json(out / "calibration.json", own)
    return own


def calibration(rows: Sequence[Judged]) -> dict[str, Any]:
    """Everything that is told of these instances."""
    limits = fixed(rows)
    held = [row for row in rows if row.planted and row.held_out]
    there = [row for row in held if row.answer is not None]
    return {
        "instar": __version__,
        "tasks": [OLD, NEW],
        "seeds": sorted({row.instance.seed for row in rows}),
        "shipped": asdict(LIMITS),
        "fixed": {name: getattr(limits, name) for name in GRID},
        "words": _table(there, LIMITS),
        "set aside": dict(Counter(row.instance.kind for row in held if row.answer is None)),
        "fixing half": _cell(_fixing_half(rows), LIMITS),
        "sensitivity": list(_sensitivity(there)),
        "nothing changed": false_alarms([row for row in rows if row.instance.kind in nulls.SINGLE]),
        "nearly nothing": false_alarms([row for row in rows if row.instance.kind == nulls.NEAR], near=True),
        "moved afterwards": list(_afterwards(rows)),
        "power": list(_power(rows)),
    }  # fmt: skip


def fixed(rows: Sequence[Judged]) -> Limits:
    """The limits that do best on the fixing half; the shipped ones where there is nothing to fix them on."""
    own = _fixing_half(rows)
    if not own:
        return LIMITS

    def of_words(limits: Limits) -> int:
        words = [(row.word(limits), KINDS[row.instance.kind].word) for row in own]
        return sum(word == truth or -COST * (word != UNDETERMINED) for word, truth in words)

    def of_parts(limits: Limits) -> int:
        return sum({True: 1, False: -COST, None: 0}[row.named_right(limits)] for row in own)

    return _best(NAMED, of_parts, _best(WORDS, of_words, LIMITS))


def _fixing_half(rows: Sequence[Judged]) -> list[Judged]:
    return [row for row in rows if row.planted and not row.held_out and row.answer is not None]


def _best(grid: Mapping[str, Sequence[float]], score: Any, limits: Limits) -> Limits:
    values = list(product(*grid.values()))
    each = [replace(limits, **dict(zip(grid, value, strict=True))) for value in values]
    scores = [score(one) for one in each]
    best = [i for i, own in enumerate(scores) if own == max(scores)]
    places = np.array([[grid[name].index(v) for name, v in zip(grid, values[i], strict=True)] for i in best])
    return each[best[int(np.abs(places - np.median(places, axis=0)).sum(1).argmin())]]


# --- The matrix -------------------------------------------------------------------------------------------------------


def _table(rows: Sequence[Judged], limits: Limits) -> list[dict[str, Any]]:
    """By kind and base, by kind, by base, and pooled last."""
    kinds, bases = ([*dict.fromkeys(getattr(row.instance, name) for row in rows)] for name in ("kind", "base"))
    kinds = [kind for kind in KINDS if kind in kinds]
    cells = [(kind, base) for kind in kinds for base in [*bases, None]] + [(None, base) for base in [*bases, None]]
    return [
        {"kind": kind, "base": base, "truth": None if kind is None else KINDS[kind].word}
        | _cell([r for r in rows if kind in (None, r.instance.kind) and base in (None, r.instance.base)], limits)
        for kind, base in cells
    ]


def _cell(rows: Sequence[Judged], limits: Limits) -> dict[str, Any]:
    words = [row.word(limits) for row in rows]
    decided = [row for row, word in zip(rows, words, strict=True) if word != UNDETERMINED]
    parts = [found for row in rows if (found := row.named_right(limits)) is not None]
    return {
        "words": dict(Counter(words)),
        "decided": share(len(decided), len(rows)),
        "right": share(sum(row.right(limits) for row in decided), len(decided)),
        "named right": share(sum(parts), len(parts)),
    }


def _sensitivity(rows: Sequence[Judged]) -> Iterable[dict[str, Any]]:
    """How the pooled numbers move with each limit, the others as shipped."""
    for name, values in GRID.items():
        for value in values:
            own = _cell(rows, replace(LIMITS, **{name: value}))
            yield {"limit": name, "value": value} | {k: own[k] for k in ("decided", "right", "named right")}


# --- Where nothing, or nothing else, may be said ----------------------------------------------------------------------


def false_alarms(rows: Sequence[Judged], near: bool = False) -> dict[str, Any]:
    """How often anything was claimed, and what; by kind too. `near`: weights did change; heads and edges do not count."""
    there = [(row, claims(row, near)) for row in rows if row.answer is not None]
    kinds = [*dict.fromkeys(row.instance.kind for row, _ in there)]
    by = {k: [bool(own) for row, own in there if row.instance.kind == k] for k in kinds}
    return {
        "any": share(sum(bool(own) for _, own in there), len(there)),
        "what": dict(Counter(one for _, own in there for one in own)),
        "by kind": {kind: share(sum(own), len(own)) for kind, own in by.items()},
        "skipped": len(rows) - len(there),
    }


def claims(row: Judged, near: bool) -> list[str]:
    """What is said of an instance in which nothing changed."""
    own, changed = row.answer, row.record["changed"]
    assert own is not None
    found = [f"answer: {own.kind}"] if own.kind != "no new ability" else []
    found += ["circuit"] if changed["claimed"] else []
    if near:
        return found
    found += [f"old task: {own.old[0]}"] if own.old[0] != "kept" else []
    return found + [what for what in ("heads", "edges") if changed["shared"] and changed[what]]


def _afterwards(rows: Sequence[Judged]) -> Iterable[dict[str, Any]]:
    """A planted truth's word before and after moves that change nothing."""
    words = {row.instance: row.word(LIMITS) for row in rows if row.answer is not None}
    for row in rows:
        one = row.instance
        if row.answer is None or not one.kind.endswith(nulls.AFTER):
            continue
        before, after = words.get(replace(one, kind=one.kind.removesuffix(nulls.AFTER))), words[one]
        if before is not None:
            same = after in (before, UNDETERMINED)
            yield {"instance": _name(one), "before": before, "after": after, "same or undetermined": same}


def _power(rows: Sequence[Judged]) -> Iterable[dict[str, Any]]:
    """How often a growing change is claimed."""
    for amount in nulls.SHARES:
        own = [row for row in rows if row.instance.kind == f"{nulls.GROWING}{amount:g}" and row.answer is not None]
        rises = [float(row.answer.ability.rise.value) for row in own if row.answer is not None]
        yield {
            "of the way": amount,
            "rise": float(np.mean(rises)) if rises else float("nan"),
            "new ability": share(sum(row.answer is not None and bool(row.answer.ability.new) for row in own), len(own)),
            "circuit": share(sum(bool(row.record["changed"]["claimed"]) for row in own), len(own)),
            "edges": share(sum(row.record["changed"]["edges"] > 0 for row in own), len(own)),
        }


# --- What is kept -----------------------------------------------------------------------------------------------------


def _row(row: Judged) -> dict[str, Any]:
    """One instance's numbers, from which all tables can be made again."""
    own, checks = row.answer, {k: round(v, 4) for k, v in row.record["checks"].items()}
    found: dict[str, Any] = {"instance": _name(row.instance), "took": bool(row.record["took"]), "checks": checks}
    if own is None:
        return found
    found |= {"word": own.kind, "rise": _three(own.ability.rise), "named": list(row.named(LIMITS))}
    found |= {"changed": row.record["changed"]} if "changed" in row.record else {}
    found["reuse"] = {
        one.counterfactual: {
            "word": one.word, "edges": one.edges, "reuse": _three(one.reuse), "at twice": _three(one.reuse_at_twice),
            "conditions": one.conditions, "tells at twice": one.tells_at_twice,
        }
        for one in own.reuse
    }  # fmt: skip
    if own.written is not None:
        every = (*own.written.parts[: len(PARTS)], own.written.recruited)
        found["written"] = {one.part: _both(one) for one in every}
    return plain(found)


def _both(one: PartOf) -> dict[str, list[float]]:
    return {"ledger": _three(one.share), "grafts": _three(one.shapley)}


def _three(own: Interval) -> list[float]:
    return [round(float(getattr(own, k)), 4) for k in ("value", "low", "high")]


def _name(one: Instance) -> list[Any]:
    return [one.base, one.kind, one.seed]


def share(count: int, total: int) -> dict[str, float]:
    """A share with Wilson's interval."""
    if total == 0:
        return {"count": 0, "of": 0, "share": float("nan"), "low": float("nan"), "high": float("nan")}
    own = wilson(count, total)
    return {"count": int(count), "of": total} | {k: float(getattr(own, v)) for k, v in _AS.items()}


_AS = {"share": "value", "low": "low", "high": "high"}
