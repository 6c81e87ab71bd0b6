"""The data of a run: rows to train on, held-out pairs to measure on, and the audit of one against the other."""

import random
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

from instar.record.config import DataConfig, TasksConfig
from instar.record.files import read_json, read_rows, write_json, write_rows
from instar.record.keys import digest
from instar.record.store import Store
from instar.tasks.audit import SHOWN, Audit, Finding, audit
from instar.tasks.baselines import Baseline, baselines, of_pair, of_row, of_task
from instar.tasks.custom import files_of
from instar.tasks.library import TASKS, ioi
from instar.tasks.library import task as find_task
from instar.tasks.pair import Pair, Span
from instar.tasks.ready import PairSource, said
from instar.tasks.records import fingerprint
from instar.tasks.rows import DataRow, read_training_file
from instar.tasks.task import Task

NUMERICS = 1
"""Raised when the same choices would make other rows or pairs."""


@dataclass(frozen=True)
class Prepared:
    """What a run trains and measures on."""

    train: list[dict[str, str]]
    tasks: dict[str, Task]
    """By name, the old one first."""
    key: str
    """Hash of every row and pair."""

    @property
    def new(self) -> Task:
        """The task that is fine-tuned on."""
        return list(self.tasks.values())[1]


def prepare(store: Store, tasks: TasksConfig, data: DataConfig, tokenizer: Any, trained: bool = True) -> Prepared:
    """Write `data/` (or find it there) and audit it. Not `trained` here: rows to train on are audited if they are given.

    Raises:
        ValueError: if test prompts are in the training data and `data.allow_leaks` is not set.
    """
    fitted = {name: find_task(name, data).fit(tokenizer) for name in (tasks.old, tasks.new)}
    named = {task.name: task for task in fitted.values()}
    if len(named) != 2:
        raise ValueError(f"tasks.old and tasks.new are both {tasks.old!r}; name two different tasks")
    new = fitted[tasks.new]
    wanted = digest([_key(tasks, data, named), trained])
    if not (store.data("prepared.json").exists() and read_json(store.data("prepared.json")).get("key") == wanted):
        for name in ("prepared.json", "baselines.jsonl"):
            store.data(name).unlink(missing_ok=True)
        for task in named.values():
            for counterfactual in task.counterfactuals:
                write_rows(store.data(f"{task.name}.{counterfactual}.jsonl"), _test_pairs(task, data, counterfactual))
        rows = _training_rows(new, data) if trained or data.train_file else []
        unused = _set_aside(store, named)
        store.data("audit.json").unlink(missing_ok=True)
        if rows or unused:
            report = audit(rows, _test_prompts(store, named), tokenizer, _shape(new)) if rows else Audit(0, ())
            report = replace(report, findings=(*report.findings, *unused))
            write_json(store.data("audit.json"), report.as_dict())
            _refuse_leaks(report, data)
        write_rows(store.data("train.jsonl"), [{"prompt": row.prompt, "answer": row.answer} for row in rows])
        kinds = {name: list(task.counterfactuals) for name, task in named.items()}
        write_json(store.data("prepared.json"), {"key": wanted, "counterfactuals": kinds})
    if not store.data("baselines.jsonl").exists():
        beside = [(task, b) for task in named.values() for b in _baselines(store, task, new, data, trained)]
        write_rows(store.data("baselines.jsonl"), [{"task": task.name, **asdict(b)} for task, b in beside])
    train = read_rows(store.data("train.jsonl"))
    pairs = [
        store.data(f"{t.name}.{c}.jsonl").read_text(encoding="utf-8") for t in named.values() for c in t.counterfactuals
    ]
    return Prepared(train, named, digest([train, pairs]))


def control_rows(store: Store, data: DataConfig, prepared: Prepared, control: str) -> list[dict[str, str]]:
    """Rows of a control fine-tuning, as many as the main one has.

    `old`: pairs of the old task, of its training names. `shuffled`: the new task's prompts with a random introduced name as
    the answer; the answers of other rows, where the rows are a file's and who is introduced is not known.
    """
    count, rng = len(prepared.train), random.Random(data.seed)
    if control == "old":
        task = next(iter(prepared.tasks.values()))
        return [{"prompt": p.clean, "answer": p.answer} for p in task.training(count, data.seed + 2)]
    if data.train_file is None:
        kept = {row["prompt"] for row in prepared.train}
        pairs = [p for p in prepared.new.training(data.train_size, data.seed) if p.clean in kept]
        return [{"prompt": p.clean, "answer": rng.choice((p.answer, *p.foils))} for p in pairs]
    answers = [row["answer"] for row in prepared.train]
    rng.shuffle(answers)
    return [{"prompt": row["prompt"], "answer": a} for row, a in zip(prepared.train, answers, strict=True)]


def read_pairs(store: Store, task: str, counterfactual: str, count: int | None = None) -> list[Pair]:
    """Held-out pairs of one task and counterfactual."""
    rows = read_rows(store.data(f"{task}.{counterfactual}.jsonl"))
    return [_pair(row) for row in rows[:count]]


def _pair(row: dict[str, Any]) -> Pair:
    spans = tuple(Span(**span) for span in row["spans"])
    words = {"foils": tuple(row["foils"]), "contrast": tuple(row["contrast"])}
    return Pair(**{**row, **words, "spans": spans})


def _key(tasks: TasksConfig, data: DataConfig, named: dict[str, Task]) -> str:
    """What decides the data: the configuration, the names that the tokenizer keeps whole, and the files' content."""
    files = [data.train_file] if data.train_file else []
    files += [f for name in (tasks.old, tasks.new) for f in files_of(name)]
    content = {f: fingerprint(f) for f in files}
    names = {name: {split: list(words) for split, words in task.names.items()} for name, task in named.items()}
    choices = data.model_dump(exclude={"measure_pairs", "general_text"})
    return digest([NUMERICS, tasks.model_dump(), choices, names, content])


def _test_pairs(task: Task, data: DataConfig, counterfactual: str) -> list[Pair]:
    return task.pairs(data.test_size, data.seed + 1, "test", counterfactual)


def _test_prompts(store: Store, named: dict[str, Task]) -> list[str]:
    """Every held-out prompt, clean and corrupted."""
    found = []
    for name, task in named.items():
        for counterfactual in task.counterfactuals:
            for pair in read_pairs(store, name, counterfactual):
                found += [pair.clean, pair.corrupted]
    return found


def _training_rows(new: Task, data: DataConfig) -> list[DataRow]:
    if data.train_file is not None:
        return read_training_file(data.train_file, data.columns)
    pairs = new.training(data.train_size, data.seed)
    return [DataRow(i, pair.clean, pair.answer) for i, pair in enumerate(pairs, 1)]


def _baselines(store: Store, task: Task, new: Task, data: DataConfig, trained: bool) -> list[Baseline]:
    """What needs no circuit, learnt on what is trained on; where that is not known, or not this task, on its own rows."""
    test = read_pairs(store, task.name, task.counterfactuals[0])
    if task is new and data.train_file is not None:
        rows = [of_row(row, _shape(new) is not None) for row in read_training_file(data.train_file, data.columns)]
        return baselines(rows, test, "rows trained on" if trained else "rows of data.train_file")
    if task is new and trained:
        return baselines([of_pair(p) for p in new.training(data.train_size, data.seed)], test, "rows trained on")
    return of_task(task, test, data.train_size, data.seed)


def _set_aside(store: Store, named: dict[str, Task]) -> list[Finding]:
    """Write `rejected.jsonl`, every row of a user's file that is not used with its reason, and count them for the audit."""
    lines, findings = [], []
    for task in named.values():
        if not isinstance(task, PairSource) or task.rows is None:
            continue
        lines += [{"task": task.name, **asdict(r)} for r in task.rejected]
        if task.rejected:
            count, kinds = len(task.rejected), said(Counter(r.kind for r in task.rejected).most_common())
            text = f"of {task.rows}: {kinds}; each with its reason in data/rejected.jsonl"
            rows = tuple(f"row {r.number}: {r.reason} in {r.prompt!r}" for r in task.rejected[:SHOWN])
            findings.append(Finding(f"{task.name}: rows not used", "warning", count, count / task.rows, text, rows))
    path = store.data("rejected.jsonl")
    write_rows(path, lines) if lines else path.unlink(missing_ok=True)
    return findings


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
            f"{report.leaks} of {report.rows} training rows are test prompts ({leak.rows[0]}). Remove them, or set "
            "data.allow_leaks: true to train all the same; the report will say so. Where one file is both trained and tested "
            "on, give its rows a split, or hold some out: data.holdout: 0.1"
        )
