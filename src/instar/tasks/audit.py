"""What is wrong with a training file, before it costs a night.

Errors (exit 1): a test prompt in the training data; more than 1 % ill-formed rows. Warnings: duplicates, imbalance of
answer place or names (chi-square against uniform), multi-token answers. Notes: what was repaired on reading, lengths.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from scipy import stats

from instar.tasks.freetext import Reading, UnparsableError, read_ioi
from instar.tasks.pair import normalised, word_ids
from instar.tasks.rows import DataRow

ILL_FORMED_SHARE = 0.01
SIGNIFICANT = 0.001
SHOWN = 5
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One kind of trouble: how many rows have it, and the first few."""

    kind: str
    severity: Severity
    count: int
    share: float
    text: str
    rows: tuple[str, ...] = ()
    """The first few; all of them where each has a reason of its own."""


@dataclass(frozen=True)
class Balance:
    """Counts of what should be uniform, and the chi-square test against uniform."""

    counts: dict[str, int]
    p_value: float
    largest_share: float


@dataclass(frozen=True)
class Audit:
    """The whole report; `ok` is false where a run must not go on."""

    rows: int
    findings: tuple[Finding, ...]
    balance: dict[str, Balance] = field(default_factory=dict)
    prompt_tokens: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """No finding is an error."""
        return not any(f.severity == "error" for f in self.findings)

    @property
    def leaks(self) -> int:
        """Training rows that are also test prompts."""
        return sum(f.count for f in self.findings if f.kind == "train/test overlap")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"ok": self.ok, **asdict(self)}


def audit(train: Sequence[DataRow], test: Iterable[str] = (), tokenizer: Any = None, task: str | None = None) -> Audit:
    """Audit training rows against test prompts.

    Args:
        train: the rows, as `read_training_file` gives them.
        test: prompts that must not be in them.
        tokenizer: for token counts; without one they are left out.
        task: "ioi" or "ioi3" to read each prompt as N-object IOI (with N given, other N are ill-formed).

    Raises:
        ValueError: for another task.
    """
    if task is not None and not (task.startswith("ioi") and task[3:] in ("", "2", "3", "4", "5")):
        raise ValueError(f"task takes ioi or ioi2 … ioi5, got {task!r}")
    findings = [*_duplicates(train), *_overlap(train, test), *_repairs(train)]
    broken, readings = _ill_formed(train, task)
    findings += broken
    lengths: dict[str, float] = {}
    if tokenizer is not None:
        findings += _multi_token(train, readings, tokenizer)
        lengths = _lengths(train, tokenizer)
    balance = _balances(train, list(readings.values()))
    findings += _imbalance(balance, len(train))
    order = {"error": 0, "warning": 1, "note": 2}
    return Audit(len(train), tuple(sorted(findings, key=lambda f: order[f.severity])), balance, lengths)


def _finding(
    kind: str, severity: Severity, rows: Sequence[tuple[DataRow, str]], total: int, text: str, shown: int | None = SHOWN
) -> list[Finding]:
    if not rows:
        return []
    reasons = tuple(f"row {row.number}: {why}" for row, why in rows[:shown])
    return [Finding(kind, severity, len(rows), len(rows) / total, text, reasons)]


def _duplicates(train: Sequence[DataRow]) -> list[Finding]:
    found = []
    seen: dict[str, int] = {}
    keys: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("exact duplicates", str),
        ("normalised duplicates", normalised),
    )
    exact: set[int] = set()
    for kind, key in keys:
        seen.clear()
        repeated = []
        for row in train:
            first = seen.setdefault(key(row.prompt), row.number)
            if first != row.number and row.number not in exact:
                repeated.append((row, f"the same prompt as row {first}: {row.prompt!r}"))
        exact |= {row.number for row, _ in repeated}
        found += _finding(kind, "warning", repeated, len(train), "prompts that occur more than once")
    return found


def _overlap(train: Sequence[DataRow], test: Iterable[str]) -> list[Finding]:
    held = {normalised(prompt) for prompt in test}
    leaked = [(row, repr(row.prompt)) for row in train if normalised(row.prompt) in held]
    text = "test prompts in the training data: a test score would measure memory"
    return _finding("train/test overlap", "error", leaked, len(train), text)


def _repairs(train: Sequence[DataRow]) -> list[Finding]:
    by_note: dict[str, list[tuple[DataRow, str]]] = defaultdict(list)
    for row in train:
        for note in row.notes:
            by_note[note].append((row, repr(row.answer)))
    return [
        f for note, rows in by_note.items() for f in _finding(note, "note", rows, len(train), "repaired on reading")
    ]


def _ill_formed(train: Sequence[DataRow], task: str | None) -> tuple[list[Finding], dict[int, Reading]]:
    """Rows without a usable answer, by kind, and the readings of the others by their number."""
    by_kind: dict[str, list[tuple[DataRow, str]]] = defaultdict(list)
    readings = {}
    wanted = int(task[3:]) if task and task[3:].isdigit() else None
    for row in train:
        if not row.answer or not re.search(rf"(?<!\w){re.escape(row.answer)}(?!\w)", row.prompt):
            by_kind["answer missing from the prompt"].append((row, f"{row.answer!r} not in {row.prompt!r}"))
        elif task:
            try:
                reading = read_ioi(row.prompt, row.answer)
                if wanted and len(reading.introduced) != wanted:
                    raise UnparsableError(f"{len(reading.introduced)} introduced names, {task} has {wanted}")
                readings[row.number] = reading
            except UnparsableError as reason:
                among = "is among the givers" in str(reason)
                kind = "answer among the givers" if among else "not readable as IOI"
                by_kind[kind].append((row, f"{reason} in {row.prompt!r}"))
    broken = sum(map(len, by_kind.values()))
    severity = "error" if broken > ILL_FORMED_SHARE * len(train) else "warning"
    text = f"ill-formed; {broken} of {len(train)} rows are, allowed {ILL_FORMED_SHARE:.0%}"
    found = [f for kind, rows in by_kind.items() for f in _finding(kind, severity, rows, len(train), text, None)]
    return found, readings


def _multi_token(train: Sequence[DataRow], readings: Mapping[int, Reading], tokenizer: Any) -> list[Finding]:
    """Answers, and where prompts were read as IOI all introduced names, that are not one token."""
    words = {row.answer for row in train if row.answer} | {n for r in readings.values() for n in r.introduced}
    sizes = {word: len(word_ids(tokenizer, word)) for word in words}
    rows = [(r, f"{r.answer!r} is {sizes[r.answer]} tokens") for r in train if sizes.get(r.answer, 1) > 1]
    text = "answers of several tokens: accuracy and logit difference are of the first token only; instar's tasks refuse them"
    others = []
    for row in train:
        introduced = readings[row.number].introduced if row.number in readings else ()
        if long := [name for name in introduced if sizes[name] > 1 and name != row.answer]:
            others.append((row, ", ".join(f"{name!r} is {sizes[name]} tokens" for name in long)))
    unused = "names of several tokens: such rows can be trained on and not measured"
    return [
        *_finding("multi-token answers", "warning", rows, len(train), text, None),
        *_finding("multi-token names", "warning", others, len(train), unused, None),
    ]


def _lengths(train: Sequence[DataRow], tokenizer: Any) -> dict[str, float]:
    sizes = sorted(len(tokenizer(row.prompt)["input_ids"]) for row in train)
    return {"least": sizes[0], "median": sizes[len(sizes) // 2], "most": sizes[-1]}


def _balances(train: Sequence[DataRow], readings: Sequence[Reading]) -> dict[str, Balance]:
    found = {"answers": _balance(Counter(row.answer for row in train))}
    for n in sorted({len(r.introduced) for r in readings}):
        places = Counter(f"place {r.place + 1}" for r in readings if len(r.introduced) == n)
        found[f"answer place ({n} introduced)"] = _balance(places, [f"place {i + 1}" for i in range(n)])
    if readings:
        found["introduced names"] = _balance(Counter(name for r in readings for name in r.introduced))
    return found


def _balance(counts: Counter[str], expected: Iterable[Hashable] = ()) -> Balance:
    full = {str(key): 0 for key in expected} | dict(counts.most_common())
    values = list(full.values())
    p = float(stats.chisquare(values).pvalue) if len(values) > 1 else 1.0
    return Balance(full, p, max(values) / max(1, sum(values)))


def _imbalance(balance: dict[str, Balance], total: int) -> list[Finding]:
    found = []
    for what, b in balance.items():
        if b.p_value < SIGNIFICANT:
            top = max(b.counts, key=lambda k: b.counts[k])
            text = f"{top} in {b.largest_share:.0%}, {1 / len(b.counts):.0%} expected (chi-square p = {b.p_value:.1g})"
            found.append(Finding(f"unbalanced {what}", "warning", b.counts[top], b.counts[top] / total, text))
    return found
