"""A user's own tasks: from a Python file, or from data in any form that `records` reads.

A Python file holds one of
- `pairs(n, seed, split)`, which returns `instar.Pair`s;
- `TASK = instar.Task(...)`;
- `ROWS = "data.csv"` (prompts and answers, beside the Python file) and `corrupt(prompt, answer, rng)`, which returns the
  row's pair, or one for each counterfactual; where it raises ValueError the row is set aside with the message.

`my.py:NAME` is a task, or a function such as `pairs`, of another name: one file may hold several.

Data with a `corrupted` column hold a pair a row (`clean` or `prompt`, `corrupted`, `answer`, `foils`; and, if wanted,
`contrast`, `counterfactual`, `split`, `place`, `wording`, `spans`). Data without it are N-object IOI in free wording.
`data#test` is one split of the data, `data:ioi3` only its rows with three introduced names.

Running a Python file runs its code: it is the user's own, named by the user.
"""

import ast
import importlib.util
import json
import random
import re
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from instar.record.config import DataConfig
from instar.tasks.pair import Pair, Span
from instar.tasks.ready import Entry, PairSource, Rejected, from_entries, ready
from instar.tasks.records import Record, is_data, read_records, split_off
from instar.tasks.rows import Columns, column, data_rows, read_training_file
from instar.tasks.task import Task
from instar.tasks.written import written_ioi

_PARTS = re.compile(r"(?P<data>.+?)(?::(?P<shape>ioi\d+))?")


def is_custom(spec: str) -> bool:
    """Whether this names a file or folder of the user's."""
    return re.search(r"\.py(:\w+)?$", spec) is not None or is_data(_data_of(spec)[0])


def files_of(spec: str) -> list[str]:
    """The data or Python file that decide a task, and the data that the Python file names."""
    if not is_custom(spec):
        return []
    if not re.search(r"\.py(:\w+)?$", spec):
        return [_data_of(spec)[0]]
    path = Path(re.sub(r":\w+$", "", spec))
    rows = getattr(_module(path), "ROWS", None)
    return [*map(str, _sources(path)), *([_beside(path, rows)] if isinstance(rows, str) else [])]


def _sources(path: Path) -> list[Path]:
    """A Python file and what it imports of the user's own code: not what was installed."""
    todo, known = [path.resolve()], []
    while todo:
        file = todo.pop()
        if file in known:
            continue
        known.append(file)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            todo += [own for name in names if (own := _own_code(name)) is not None]
    return known


def _own_code(name: str) -> Path | None:
    if name.split(".")[0] in {*sys.stdlib_module_names, "instar"}:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    installed = [sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib")]
    file = None if spec is None or spec.origin is None or not spec.has_location else Path(spec.origin).resolve()
    return None if file is None or file.suffix != ".py" or any(file.is_relative_to(p) for p in installed) else file


def load_task(spec: str, data: DataConfig | None = None) -> Task:
    """The task of a Python file (`my.py` or `my.py:NAME`) or of data (`my.json`, `folder#test`, `my.csv:ioi3`).

    Raises:
        ValueError: naming the file, what was found and what is expected.
    """
    data = data or DataConfig()
    if re.search(r"\.py(:\w+)?$", spec):
        path, _, attribute = spec.partition(":")
        if not Path(path).exists():
            raise ValueError(f"no task file {path}")
        return _from_python(Path(path), attribute, data)
    source, shape = _data_of(spec)
    path, split = split_off(source)
    name = "-".join(part for part in (path.resolve().stem, split, shape) if part)
    records = read_records(source, data.columns.get("split", "split"))
    if split is not None:  # the user's own choice: there is nothing left to set apart by it
        records = [Record(r.number, r.values) for r in records]
    given = {"clean", "corrupted", data.columns.get("corrupted")} & set(records[0].values)
    if given:
        return _from_pairs(path, name, records, data)
    rows = data_rows(path, records, data.columns)
    n = int(shape.removeprefix("ioi")) if shape else None
    return written_ioi(path, name, rows, n, data.holdout, data.seed)


def _data_of(spec: str) -> tuple[str, str | None]:
    found = _PARTS.fullmatch(spec)
    return (spec, None) if found is None else (found["data"], found["shape"])


# Python


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"instar_task_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _from_python(path: Path, attribute: str, data: DataConfig) -> Task:
    module = _module(path)
    found = getattr(module, attribute or "TASK", None)
    if isinstance(found, Task):
        return found
    if attribute and callable(found):
        return _from_function(path, attribute, getattr(module, attribute))
    if attribute or found is not None:
        what = f"{attribute or 'TASK'} is {type(found).__name__}"
        raise ValueError(f"{path}: {what}, expected an instar.Task or a function pairs(n, seed, split)")
    if callable(getattr(module, "corrupt", None)) and isinstance(getattr(module, "ROWS", None), str):
        return _from_rule(path, module, data)
    if not callable(getattr(module, "pairs", None)):
        raise ValueError(
            f"{path} has neither TASK, nor pairs(n, seed, split), nor ROWS with corrupt(prompt, answer, rng); write one"
        )
    return _from_function(path, path.stem, module.pairs)


def _from_function(path: Path, name: str, pairs: Callable[..., Sequence[Pair]]) -> PairSource:
    sample = pairs(1, 0, "test")
    if not sample:
        raise ValueError(f"{path}: {name}(1, 0, 'test') returned nothing, expected a list of instar.Pair")
    return ready(name, sample[0].clean, tuple(dict.fromkeys(p.counterfactual for p in sample)), pairs)


def _beside(path: Path, rows: str) -> str:
    return str(path.parent / rows)


def _from_rule(path: Path, module: ModuleType, data: DataConfig) -> PairSource:
    entries, rejected = [], []
    for row in read_training_file(_beside(path, module.ROWS), data.columns, every_split=True):
        try:
            made = module.corrupt(row.prompt, row.answer, random.Random(f"{data.seed} {row.number}"))
            pairs = (made,) if isinstance(made, Pair) else tuple(made)
            if not pairs:
                raise ValueError("corrupt(prompt, answer, rng) returned no pair")
            entries.append(Entry(row.number, row.prompt, pairs, row.split))
        except ValueError as reason:
            rejected.append(Rejected(row.number, str(reason), row.prompt, "refused by the rule", row.split))
    return from_entries(path.stem, entries, rejected, data.holdout, data.seed)


# Pairs in a file


def _from_pairs(path: Path, name: str, records: Sequence[Record], data: DataConfig) -> PairSource:
    keys = _pair_columns(path, records[0].values, data.columns)
    entries, rejected = [], []
    for record in records:
        try:
            pair = _pair(record, keys)
            entries.append(Entry(record.number, pair.clean, (pair,), record.split))
        except ValueError as reason:
            prompt = str(record.values.get(keys["prompt"]) or "")
            rejected.append(Rejected(record.number, str(reason), prompt, "a row that is no pair", record.split))
    return from_entries(name, entries, rejected, data.holdout, data.seed)


def _pair_columns(path: Path, values: dict[str, Any], columns: Columns) -> dict[str, str]:
    """What this file calls each part of a pair."""
    found, missing = {}, []
    for part in ("prompt", "corrupted", "answer", "foils"):
        try:
            found[part] = column(path, values, part, columns)
        except ValueError:
            missing.append(part)
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(values)}. Name its columns in data.columns, such as "
            f"{{{missing[0]}: {list(values)[-1]}}}"
        )
    return found | {
        part: columns.get(part, part) for part in ("contrast", "counterfactual", "place", "wording", "spans")
    }


def _pair(record: Record, keys: dict[str, str]) -> Pair:
    """One row; words with or without their leading space."""
    own: dict[str, Any] = {part: record.values.get(key) for part, key in keys.items()}
    for part in ("prompt", "corrupted", "answer"):
        if not isinstance(own[part], str) or not own[part].strip():
            raise ValueError(f"{keys[part]}: expected text, found {own[part]!r}")
    foils = _words(own["foils"])
    if not foils:
        raise ValueError(f"{keys['foils']}: expected words, found {own['foils']!r}")
    return Pair(
        clean=own["prompt"].rstrip(),
        corrupted=own["corrupted"].rstrip(),
        counterfactual=own["counterfactual"] or "corrupted",
        answer=own["answer"].strip(),
        foils=foils,
        contrast=_words(own["contrast"]),
        spans=_spans(own["spans"]),
        place=int(own["place"] or 0),
        wording=own["wording"] or "",
    )


def _words(value: Any) -> tuple[str, ...]:
    """A list, a list in JSON, or words between commas."""
    if isinstance(value, str):
        value = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
    return tuple(str(word).strip() for word in value or () if str(word).strip())


def _spans(value: Any) -> tuple[Span, ...]:
    value = json.loads(value) if isinstance(value, str) and value.strip() else value
    try:
        return tuple(Span(str(s["slot"]), int(s["start"]), int(s["stop"])) for s in value or ())
    except (TypeError, KeyError):
        raise ValueError(f'spans: expected [{{"slot": "…", "start": 0, "stop": 4}}, …], found {value!r}') from None
