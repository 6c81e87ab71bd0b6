"""The data of a run: rows to train on, held-out pairs to measure on, and the audit of one against the other."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from instar.record.config import DataConfig, TasksConfig
from instar.record.contents import Damaged
from instar.record.keys import digest
from instar.record.store import Store
from instar.tasks.audit import Audit, audit, overlap, repairs, used_rows
from instar.tasks.baselines import Baseline, baselines, of_pair, of_row, of_task
from instar.tasks.custom import files_of, is_custom
from instar.tasks.finding import Finding
from instar.tasks.lengths import by_tokens
from instar.tasks.library import TASKS, ioi
from instar.tasks.library import task as find_task
from instar.tasks.pair import Pair, Span, normalised, word_ids
from instar.tasks.ready import PairSource, Rejected, said
from instar.tasks.records import fingerprint
from instar.tasks.rows import DataRow, read_training_file
from instar.tasks.task import Split, Task
from instar.tasks.wordings import FILE as WORDINGS
from instar.tasks.wordings import Chosen, by_name, check
from instar.tasks.words import TEMPLATES

NUMERICS = 2
"""Raised when the same choices would make other rows or pairs."""
SHOWN = 5
TRAIN_FILE = "data.train_file"


@dataclass(frozen=True)
class Prepared:
    """What a run trains and measures on."""

    train: list[dict[str, str]]
    counterfactuals: dict[str, list[str]]
    """Of each task by name, the old one first."""
    key: str
    """Hash of every row and pair."""
    make: Callable[[], dict[str, Task]]
    """The tasks themselves: their files are read again for it, and their code is run."""

    @property
    def names(self) -> list[str]:
        """The tasks' names, the old one first."""
        return list(self.counterfactuals)

    @property
    def tasks(self) -> dict[str, Task]:
        """By name, the old one first."""
        return self.make()

    @property
    def new(self) -> Task:
        """The task that is fine-tuned on."""
        return list(self.tasks.values())[1]


def prepare(
    store: Store,
    tasks: TasksConfig,
    data: DataConfig,
    tokenizer: Any,
    trained: bool = True,
    replace: bool = False,
    chosen: Chosen | None = None,
) -> Prepared:
    """Write `data/` (or find it there) and audit it. Not `trained` here: rows to train on are audited if they are given.

    Args:
        chosen: the wordings that the base answers, where `tasks.wordings` asks for them.

    Raises:
        ValueError: if test prompts are in the training data and `data.allow_leaks` is not set; where other data are there
            with results of theirs, and they are not to be replaced; where a task has no wording left.
    """
    with store.owned():
        return _prepared(store, tasks, data, tokenizer, trained, replace, chosen)


def stored(store: Store, tasks: TasksConfig, data: DataConfig, tokenizer: Callable[[], Any]) -> Prepared | None:
    """The data that are there, whatever their files say now; None where they are not there, or not whole."""
    try:
        found = store.prepared()
        kinds = {} if found is None else found["counterfactuals"]
        if len(kinds) != 2 or not store.data("baselines.jsonl").exists():
            return None

        def make() -> dict[str, Task]:
            return {t.name: t for t in _fitted(tasks, data, tokenizer(), False, Chosen.read(store)).values()}

        return _read(store, kinds, make)
    except Damaged:
        return None


def _read(store: Store, kinds: dict[str, list[str]], make: Callable[[], dict[str, Task]]) -> Prepared:
    train = store.read_rows(store.data("train.jsonl"))
    files = [store.check(store.pairs(name, kind)) for name, own in kinds.items() for kind in own]
    return Prepared(train, kinds, digest([train, [file.read_text(encoding="utf-8") for file in files]]), make)


def fitted(tasks: TasksConfig, data: DataConfig, tokenizer: Any) -> dict[str, Task]:
    """Both tasks in all their wordings, by what the configuration calls them."""
    return {name: find_task(name, data).fit(tokenizer) for name in (tasks.old, tasks.new)}


def _fitted(
    tasks: TasksConfig, data: DataConfig, tokenizer: Any, trained: bool = True, chosen: Chosen | None = None
) -> dict[str, Task]:
    """Both tasks in the wordings that they are restricted to."""
    found = fitted(tasks, data, tokenizer)
    if tasks.wordings is None:
        return found
    old, new = (found[name].name for name in (tasks.old, tasks.new))
    needed: list[tuple[str, Split]] = [(old, "test"), (new, "test")]
    if trained and data.train_file is None:
        needed.append((new, "train"))
    if tasks.wordings != "answered":
        return dict(zip(found, by_name(list(found.values()), tasks.wordings, needed), strict=True))
    if chosen is None:
        raise ValueError("tasks.wordings: answered is a choice that the base makes: it is made by a run (instar run)")
    check(chosen, needed)
    return {name: chosen.restrict(task) for name, task in found.items()}


def _is_whole(store: Store) -> bool:
    return not store.unverified("data")


def _prepared(
    store: Store,
    tasks: TasksConfig,
    data: DataConfig,
    tokenizer: Any,
    trained: bool,
    replaced: bool,
    chosen: Chosen | None,
) -> Prepared:
    own = _fitted(tasks, data, tokenizer, trained, chosen)
    named = {task.name: task for task in own.values()}
    if len(named) != 2:
        raise ValueError(f"tasks.old and tasks.new are both {tasks.old!r}; name two different tasks")
    new = own[tasks.new]
    wanted = digest([_key(tasks, data, named, chosen), trained])
    there = _key_there(store)
    if there not in (None, wanted) and store.has_results():
        if not replaced:
            raise ValueError(
                f"{store.root}: the results here are of other data than the configuration and its files give now "
                "(data/prepared.json): give another --out; --replace makes everything anew"
            )
        store.forget(store.place("checkpoints"), store.place("measure"), store.place("compare"), store.summary)
    if there != wanted or not _is_whole(store):
        for name in ("prepared.json", "baselines.jsonl", WORDINGS):
            store.forget(store.data(name))
        if chosen is not None:
            chosen.write(store)
        for task in named.values():
            for counterfactual in task.counterfactuals:
                pairs = [_stored(asdict(pair)) for pair in _test_pairs(task, data, counterfactual)]
                store.write_rows(store.pairs(task.name, counterfactual), pairs)
        rows, refused = _training_rows(new, data, tokenizer) if trained or data.train_file else ([], [])
        every = {t.name: {kind: read_pairs(store, t.name, kind) for kind in t.counterfactuals} for t in named.values()}
        tokens = [by_tokens(task, every[task.name], tokenizer) for task in named.values()]
        unused = _set_aside(store, named, refused, len(rows)) + [f for own in tokens for f in own.findings]
        store.forget(store.data("audit.json"))
        if rows or unused:
            report = audit(rows, _tested(store, new), tokenizer, _shape(new)) if rows else Audit(0, ())
            other = overlap(rows, _tested(store, own[tasks.old])) if rows else []
            report = replace(report, findings=(*report.findings, *other, *unused))
            store.write_json(store.data("audit.json"), report.as_dict())
            _refuse_leaks(report, data)
        store.write_rows(store.data("train.jsonl"), [_taught(row.prompt, row) for row in rows])
        _copy_code(store, tasks, named)
        kinds = {name: list(task.counterfactuals) for name, task in named.items()}
        aligned = {name: own.aligned for name, own in zip(named, tokens, strict=True) if own.aligned}
        few = {"aligned": aligned} if aligned else {}
        store.write_json(store.data("prepared.json"), {"key": wanted, "counterfactuals": kinds, **few})
    if not store.data("baselines.jsonl").exists():
        beside = [(task, b) for task in named.values() for b in _baselines(store, task, new, data, trained)]
        store.write_rows(store.data("baselines.jsonl"), [{"task": task.name, **asdict(b)} for task, b in beside])
    kinds = {name: list(task.counterfactuals) for name, task in named.items()}
    return _read(store, kinds, lambda: named)


def _key_there(store: Store) -> str | None:
    """The key of the data that are there; "" where it cannot be believed."""
    try:
        found = store.prepared()
    except Damaged:
        return ""
    return None if found is None else str(found.get("key"))


def _copy_code(store: Store, tasks: TasksConfig, named: dict[str, Task]) -> None:
    """The code of own tasks, as text: what was measured can be read without it, and is never run from there."""
    for spec, name in zip((tasks.old, tasks.new), named, strict=True):
        code = [Path(file) for file in files_of(spec) if file.endswith(".py")]
        if code:
            text = "".join(f"# {file.name}\n{file.read_text(encoding='utf-8')}\n" for file in code)
            store.write_text(store.data(f"{name}.py.txt"), text)


def control_rows(store: Store, data: DataConfig, prepared: Prepared, control: str) -> list[dict[str, str]]:
    """Rows of a control fine-tuning, as many as the main one has.

    `old`: pairs of the old task, of its training names. `shuffled`: the new task's prompts with a random introduced name as
    the answer; the answers of other rows, where the rows are a file's and who is introduced is not known.
    """
    count, rng = len(prepared.train), random.Random(data.seed)
    if control == "old":
        task = next(iter(prepared.tasks.values()))
        return [_taught(p.clean, p) for p in task.training(count, data.seed + 2)]
    if data.train_file is None:
        kept = {row["prompt"] for row in prepared.train}
        pairs = [p for p in prepared.new.training(data.train_size, data.seed) if p.clean in kept]
        return [_taught(p.clean, p) | {"answer": rng.choice((p.answer, *p.foils))} for p in pairs]
    answers = [row["answer"] for row in prepared.train]
    rng.shuffle(answers)
    return [row | {"answer": a} for row, a in zip(prepared.train, answers, strict=True)]


def probe_pairs(store: Store, data: DataConfig, prepared: Prepared, least: int, most: int) -> list[Pair]:
    """Held-out pairs of the new task for `train.checkpoints: {learning: N}`: a draw of their own, written to `data/`.

    None of their prompts is trained on, tested or measured on, clean or corrupted, in any of the two tasks.

    Raises:
        ValueError: where fewer than `least` are left.
    """
    tested = [p for task, kinds in prepared.counterfactuals.items() for k in kinds for p in read_pairs(store, task, k)]
    seen = {normalised(text) for pair in tested for text in (pair.clean, pair.corrupted)}
    seen |= {normalised(row["prompt"]) for row in prepared.train}
    new, found, asked = prepared.new, list[Pair](), data.test_size + 4 * most
    draw = new.source if isinstance(new, PairSource) else new.pairs
    for pair in draw(asked, data.seed + 3, "test"):
        if pair.counterfactual == new.counterfactuals[0] and normalised(pair.clean) not in seen and len(found) < most:
            seen.add(normalised(pair.clean))
            found.append(pair)
    if len(found) < least:
        raise ValueError(
            f"train.checkpoints: learning probes pairs of {new.name} that are neither trained nor tested on: {least} are "
            f"needed, and {len(found)} are left. Lower data.test_size, hold more out, or give checkpoints as steps"
        )
    store.write_rows(store.data("probe.jsonl"), [_stored(asdict(pair)) for pair in found])
    return found


def _taught(prompt: str, of: Pair | DataRow) -> dict[str, str]:
    """A row to train on."""
    return _stored({"prompt": prompt, "answer": of.answer, "between": of.between})


def _stored(row: dict[str, Any]) -> dict[str, Any]:
    """A space between prompt and words is the rule, and not written."""
    return {key: value for key, value in row.items() if key != "between" or value != " "}


def read_pairs(store: Store, task: str, counterfactual: str, count: int | None = None) -> list[Pair]:
    """Held-out pairs of one task and counterfactual."""
    rows = store.read_rows(store.pairs(task, counterfactual))
    return [_pair(row) for row in rows[:count]]


def _pair(row: dict[str, Any]) -> Pair:
    spans = tuple(Span(**span) for span in row["spans"])
    words = {"foils": tuple(row["foils"]), "contrast": tuple(row["contrast"])}
    return Pair(**{**row, **words, "spans": spans})


def _key(tasks: TasksConfig, data: DataConfig, named: dict[str, Task], chosen: Chosen | None) -> str:
    """What decides the data: the configuration, the names that the tokenizer keeps whole, and the files' content."""
    files = [data.train_file] if data.train_file else []
    files += [f for name in (tasks.old, tasks.new) for f in files_of(name)]
    content = {f: fingerprint(f) for f in files}
    # Another tokenizer leaves other rows of a file out. A function's pairs are asked for: what decides them may be anywhere.
    own = [t for spec, t in zip((tasks.old, tasks.new), named.values(), strict=True) if is_custom(spec)]
    files_rows = [t.used if isinstance(t, PairSource) else () for t in own]
    used = [[repr(e.pairs) for e in rows] or _asked_for(t, data) for t, rows in zip(own, files_rows, strict=True)]
    names = {name: {split: list(words) for split, words in task.names.items()} for name, task in named.items()}
    choices = data.model_dump(exclude={"measure_pairs", "general_text"})
    decided = [NUMERICS, tasks.model_dump(exclude_none=True), choices, names, used, content]
    # Of a task in its first wordings nothing is said: what was made before there were others stays.
    further = {
        n: {s: list(w) for s, w in t.wordings.items()} for n, t in named.items() if t.wordings not in ({}, TEMPLATES)
    }
    return digest([*decided, *([further] if further else []), *(chosen.decides if chosen else [])])


def _asked_for(task: Task, data: DataConfig) -> list[str]:
    pairs = [pair for kind in task.counterfactuals for pair in _test_pairs(task, data, kind)]
    with suppress(ValueError):  # a task that is not trained on may have no rows for it
        pairs += task.training(data.train_size, data.seed)
    return [repr(pair) for pair in pairs]


def _test_pairs(task: Task, data: DataConfig, counterfactual: str) -> list[Pair]:
    return task.pairs(data.test_size, data.seed + 1, "test", counterfactual)


def _tested(store: Store, task: Task) -> list[list[str]]:
    """The held-out prompts of a task, each with what it is corrupted to."""
    found: dict[str, list[str]] = {}
    for counterfactual in task.counterfactuals:
        for pair in read_pairs(store, task.name, counterfactual):
            found.setdefault(pair.clean, [pair.clean]).append(pair.corrupted)
    return list(found.values())


def _training_rows(new: Task, data: DataConfig, tokenizer: Any) -> tuple[list[DataRow], list[Rejected]]:
    """Rows to train on, and those that nothing can be taught with."""
    if data.train_file is None:
        pairs = new.training(data.train_size, data.seed)
        return [DataRow(i, p.clean, p.answer, between=p.between) for i, p in enumerate(pairs, 1)], []
    rows, refused = [], []
    for row in read_training_file(data.train_file, data.columns, tokenizer=tokenizer):
        try:
            if not row.answer:
                raise ValueError("there is no answer")
            word_ids(tokenizer, row.answer, row.prompt, row.between)
            rows.append(row)
        except ValueError as reason:
            kind = "an answer that joins with its prompt" if row.answer else "no answer"
            refused.append(Rejected(row.number, str(reason), row.prompt, kind, row.split))
    return rows, refused


def _baselines(store: Store, task: Task, new: Task, data: DataConfig, trained: bool) -> list[Baseline]:
    """What needs no circuit, learnt on what is trained on; where that is not known, or not this task, on its own rows."""
    test = read_pairs(store, task.name, task.counterfactuals[0])
    if task is new and data.train_file is not None:
        rows = (DataRow(i, **row) for i, row in enumerate(store.read_rows(store.data("train.jsonl")), 1))
        asked = [of_row(row, _shape(new) is not None) for row in rows]
        return baselines(asked, test, "rows trained on" if trained else "rows of data.train_file")
    if task is new and trained:
        return baselines([of_pair(p) for p in new.training(data.train_size, data.seed)], test, "rows trained on")
    return of_task(task, test, data.train_size, data.seed)


def _set_aside(store: Store, named: dict[str, Task], refused: list[Rejected], trained: int) -> list[Finding]:
    """Write `rejected.jsonl`, every row of a user's files that is not used; count these, and what was repaired."""
    lines, findings = [], []
    for task in named.values():
        if isinstance(task, PairSource) and task.rows is not None:
            lacks = f"; {task.lacking}" if task.lacking else ""
            lines += [{"task": task.name, **asdict(r)} for r in task.rejected]
            findings += _not_used(task.name, task.rejected, task.rows, lacks)
            findings += [replace(f, kind=f"{task.name}: {f.kind}") for f in repairs(used_rows(task.used))]
    lines += [{"task": TRAIN_FILE, **asdict(r)} for r in refused]
    findings += _not_used(TRAIN_FILE, refused, trained + len(refused), "")
    path = store.data("rejected.jsonl")
    store.write_rows(path, lines) if lines else store.forget(path)
    return findings


def _not_used(name: str, rejected: Sequence[Rejected], total: int, more: str) -> list[Finding]:
    if not rejected:
        return []
    count, kinds = len(rejected), said(Counter(r.kind for r in rejected).most_common())
    text = f"of {total}: {kinds}; each with its reason in data/rejected.jsonl{more}"
    rows = tuple(f"row {r.number}: {r.reason} in {r.prompt!r}" for r in rejected[:SHOWN])
    return [Finding(f"{name}: rows not used", "warning", count, count / total, text, rows)]


def _shape(task: Task) -> str | None:
    """As what the audit should read the prompts: N-object IOI, where the task is that."""
    for n in range(2, 6):
        if task.counterfactuals == ioi(n).counterfactuals:
            return f"ioi{n}"
    return "ioi" if task.name.startswith("ioi") and task.name in TASKS else None


def _refuse_leaks(report: Audit, data: DataConfig) -> None:
    if report.leaks and not data.allow_leaks:
        leak = next(f for f in report.findings if f.kind == "train/test overlap")
        raise ValueError(
            f"{leak.tested} are in the training data: {leak.count} of {report.rows} training rows are test prompts "
            f"({leak.rows[0]}). Remove them, or set "
            "data.allow_leaks: true to train all the same; the report will say so. Where one file is both trained and tested "
            "on, give its rows a split, or hold some out: data.holdout: 0.1"
        )
