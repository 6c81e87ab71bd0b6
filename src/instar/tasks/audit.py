"""What is wrong with a training file, before it costs a night.

Errors (exit 1): a test prompt in the training data; more than 1 % ill-formed rows. Warnings: duplicates, one prompt with
different answers, imbalance of answer place or names (chi-square against uniform), multi-token answers. Notes: what was
repaired on reading, answers that are not copied from the prompt, lengths.

An answer that is not in its prompt is ill-formed only where the task copies (`task`). Pairs are looked at as a run does: what
it would not use is counted by its reason.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from scipy import stats

from instar.record.config import DataConfig
from instar.tasks.custom import load_task
from instar.tasks.finding import Finding, Severity
from instar.tasks.fitting import Lacking
from instar.tasks.freetext import Reading, UnparsableError, read_ioi
from instar.tasks.given import holds_pairs
from instar.tasks.lengths import lengths, several_tokens
from instar.tasks.pair import normalised, word_ids
from instar.tasks.ready import CONTRADICTORY, Entry, PairSource, contradicted
from instar.tasks.records import read_records
from instar.tasks.rows import REPAIRS, Columns, DataRow, read_training_file, refuse_several_splits

ILL_FORMED_SHARE = 0.01
SIGNIFICANT = 0.001
LONG_ANSWERS = "multi-token answers"


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
    test: "Audit | None" = None
    """The test data's own."""

    @property
    def ok(self) -> bool:
        """No finding is an error, nor one of the test data's own."""
        return not any(f.severity == "error" for f in self.findings) and (self.test is None or self.test.ok)

    @property
    def leaks(self) -> int:
        """Training rows that are also test prompts."""
        return sum(f.count for f in self.findings if f.kind == "train/test overlap")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"ok": self.ok, **asdict(self)}


def audit(
    train: Sequence[DataRow], test: Iterable[str | Sequence[str]] = (), tokenizer: Any = None, task: str | None = None
) -> Audit:
    """Audit training rows against test prompts.

    Args:
        train: the rows, as `read_training_file` gives them.
        test: prompts that must not be in them; or for each test row its prompts, clean and corrupted.
        tokenizer: for token counts; without one they are left out.
        task: "ioi" or "ioi3" to read each prompt as N-object IOI (with N given, other N are ill-formed).

    Raises:
        ValueError: for another task.
    """
    if task is not None and not (task.startswith("ioi") and task[3:] in ("", "2", "3", "4", "5")):
        raise ValueError(f"task takes ioi or ioi2 … ioi5, got {task!r}")
    findings = [*_contradictory(train), *_duplicates(train), *overlap(train, test), *repairs(train)]
    broken, readings = _ill_formed(train, task)
    findings += broken
    lengths: dict[str, float] = {}
    if tokenizer is not None:
        findings += _multi_token(train, readings, tokenizer)
        lengths = _lengths(train, tokenizer)
    balance = _balances(train, list(readings.values()))
    findings += _imbalance(balance, len(train))
    return Audit(len(train), _worst_first(findings), balance, lengths)


def audit_data(
    train: str, test: str | None = None, columns: Columns | None = None, tokenizer: Any = None, task: str | None = None
) -> Audit:
    """Audit a user's data, and their test data beside them.

    Raises:
        ValueError: naming the file, what was found and what is expected.
    """
    held, own = ([], None) if test is None else _own(test, (), columns or {}, tokenizer, task)
    _, report = _own(train, [row.prompt for row in held], columns or {}, tokenizer, task)
    return replace(report, test=own)


def _own(
    spec: str, held: Iterable[str], columns: Columns, tokenizer: Any, task: str | None
) -> tuple[list[DataRow], Audit]:
    records = read_records(spec, columns.get("split", "split"))
    if not holds_pairs(records, columns):
        rows = read_training_file(spec, columns, tokenizer=tokenizer)
        return rows, audit(rows, held, tokenizer, task)
    refuse_several_splits(spec, records)
    source = load_task(spec, DataConfig(columns=dict(columns)))
    source = source if tokenizer is None else source.fit(tokenizer)
    assert isinstance(source, PairSource)
    first = source.counterfactuals[0]
    rows = used_rows([e for e in source.used if e.pairs[0].counterfactual == first])
    report = audit(rows, held, tokenizer, task)
    # What is said of answers alone is said of answers and foils together.
    findings = [*(f for f in report.findings if f.kind != LONG_ANSWERS), *_unused(source)]
    findings += [] if tokenizer is None else _by_tokens(source, tokenizer)
    return rows, replace(report, rows=source.rows or 0, findings=_worst_first(findings))


def _by_tokens(source: PairSource, tokenizer: Any) -> list[Finding]:
    """Rows that a run uses with words of several tokens, or with prompts that differ in length."""
    numbers = {pair: e.number for e in source.used for pair in e.pairs}
    pairs = {kind: [pair for pair in numbers if pair.counterfactual == kind] for kind in source.counterfactuals}
    first = pairs[source.counterfactuals[0]]
    return [*several_tokens(first, tokenizer, numbers), *lengths(pairs, tokenizer, numbers)]


def used_rows(entries: Iterable[Entry]) -> list[DataRow]:
    """Rows of a task's file as prompts and answers."""
    pairs = ((e, e.pairs[0]) for e in entries)
    return [DataRow(e.number, p.clean, p.answer, e.notes, e.split, p.between) for e, p in pairs]


def _unused(source: PairSource) -> list[Finding]:
    """Rows of pairs that a run would not use, by their reason."""
    total, found = source.rows or 1, []
    for kind in dict.fromkeys(r.kind for r in source.rejected):
        rows = [r for r in source.rejected if r.kind == kind]
        severity: Severity = "error" if len(source.rejected) > ILL_FORMED_SHARE * total else "warning"
        text = f"a run leaves such rows out, {len(source.rejected)} of {total} in all"
        reasons = tuple(f"row {r.number}: {r.reason} in {r.prompt!r}" for r in rows)
        found.append(Finding(kind, severity, len(rows), len(rows) / total, text, reasons))
    return found


def _worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    order = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(findings, key=lambda f: order[f.severity]))


def _finding(
    kind: str, severity: Severity, rows: Sequence[tuple[DataRow, str]], total: int, text: str
) -> list[Finding]:
    if not rows:
        return []
    reasons = tuple(f"row {row.number}: {why}" for row, why in rows)
    return [Finding(kind, severity, len(rows), len(rows) / total, text, reasons)]


def _contradictory(train: Sequence[DataRow]) -> list[Finding]:
    found = contradicted([(row.number, row.prompt, row.answer) for row in train])
    rows = [(train[place], f"{reason}: {train[place].prompt!r}") for place, reason in sorted(found.items())]
    text = "one of the answers is wrong, or each is right half of the time: keep one row a prompt"
    return _finding(CONTRADICTORY, "warning", rows, len(train), text)


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


def overlap(train: Sequence[DataRow], test: Iterable[str | Sequence[str]]) -> list[Finding]:
    """Training rows that are test prompts, and how many of the test rows they are."""
    held = [{normalised(p) for p in ((row,) if isinstance(row, str) else row)} for row in test]
    every, trained = set().union(*held), {normalised(row.prompt) for row in train}
    leaked = [(row, repr(row.prompt)) for row in train if normalised(row.prompt) in every]
    tested = sum(bool(row & trained) for row in held)
    text = "test prompts in the training data: a test score would measure memory"
    found = _finding("train/test overlap", "error", leaked, len(train), text)
    return [replace(f, tested=f"{tested} of {len(held)} test prompts ({tested / len(held):.1%})") for f in found]


def repairs(rows: Sequence[DataRow]) -> list[Finding]:
    """What was repaired on reading, with its rows."""
    by_note: dict[str, list[tuple[DataRow, str]]] = defaultdict(list)
    for row in rows:
        for note in row.notes:
            by_note[note].append((row, repr(row.answer)))
    return [
        found
        for note, own in by_note.items()
        for found in _finding(note, "note", own, len(rows), REPAIRS.get(note, "repaired on reading"))
    ]


def _ill_formed(train: Sequence[DataRow], task: str | None) -> tuple[list[Finding], dict[int, Reading]]:
    """Rows without a usable answer, by kind, and the readings of the others by their number."""
    by_kind: dict[str, list[tuple[DataRow, str]]] = defaultdict(list)
    missing, readings = [], {}
    wanted = int(task[3:]) if task and task[3:].isdigit() else None
    for row in train:
        if not row.answer:
            by_kind["no answer"].append((row, repr(row.prompt)))
        elif not re.search(rf"(?<!\w){re.escape(row.answer)}(?!\w)", row.prompt):
            missing.append((row, f"{row.answer!r} not in {row.prompt!r}"))
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
    notes = []
    if task:
        by_kind["answer missing from the prompt"] = missing
    else:
        text = "ill-formed only where a task copies its answer from the prompt (--task ioi)"
        notes = _finding("answer missing from the prompt", "note", missing, len(train), text)
    broken = sum(map(len, by_kind.values()))
    severity = "error" if broken > ILL_FORMED_SHARE * len(train) else "warning"
    text = f"ill-formed; {broken} of {len(train)} rows are, allowed {ILL_FORMED_SHARE:.0%}"
    found = [f for kind, rows in by_kind.items() for f in _finding(kind, severity, rows, len(train), text)]
    return [*found, *notes], readings


def _multi_token(train: Sequence[DataRow], readings: Mapping[int, Reading], tokenizer: Any) -> list[Finding]:
    """Answers, and where prompts were read as IOI all introduced names, that are not one token."""
    sizes = _Sizes(tokenizer)
    long, joining, others = [], [], []
    for row in train:
        size = sizes.of(row.answer, row)
        if size is None:
            joining.append((row, f"{row.answer!r} joins with the end of {row.prompt!r}"))
        elif size > 1:
            long.append((row, f"{row.answer!r} is {size} tokens"))
        introduced = readings[row.number].introduced if row.number in readings else ()
        if split := [(name, n) for name in introduced if name != row.answer and (n := sizes.of(name)) and n > 1]:
            others.append((row, ", ".join(f"{name!r} is {n} tokens" for name, n in split)))
    lacks = f"; {sizes.lacking()}"
    left = "where one takes the place of another the pair is patched slot by slot, and left out of edges, circuits and roles"
    names = _finding("multi-token names", "warning", others, len(train), f"names of several tokens: {left}")
    answers = "trained on with all tokens, and measured at the first that differs from a foil's"
    found = [*_finding(LONG_ANSWERS, "warning", long, len(train), answers), *names]
    border = "the tokenizer reads prompt + answer with other tokens where they meet; a run leaves such rows out"
    return [
        *(replace(f, text=f.text + lacks) for f in found),
        *_finding("answers that join with the prompt", "warning", joining, len(train), border),
    ]


class _Sizes:
    """How many tokens words are, each looked up once."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.known: dict[str, int] = {}

    def of(self, word: str, row: DataRow | None = None) -> int | None:
        """Tokens of a word with its leading space, or as it follows the row's prompt; None where it joins with that."""
        if not word:
            return 0
        try:
            if row is not None and not row.between:
                self.known[word] = len(word_ids(self.tokenizer, word, row.prompt, ""))
            elif word not in self.known:
                self.known[word] = len(word_ids(self.tokenizer, word))
        except ValueError:
            return None
        return self.known[word]

    def lacking(self) -> Lacking:
        """The words that are several."""
        return Lacking(tuple(sorted(word for word, size in self.known.items() if size > 1)), len(self.known))


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
