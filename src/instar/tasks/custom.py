"""A user's own tasks: from a Python file, or from data in any form that `records` reads.

A Python file holds one of
- `pairs(n, seed, split)`, which returns `instar.Pair`s;
- `TASK = instar.Task(...)`;
- `ROWS = "data.csv"` (prompts and answers, beside the Python file) and `corrupt(prompt, answer, rng)`, which returns the
  row's pair, or one for each counterfactual; where it raises ValueError the row is set aside with the message.

`my.py:NAME` is a task, or a function such as `pairs`, of another name: one file may hold several.

Data with a `corrupted` column hold a pair a row (`given`). Data without it are N-object IOI in free wording.
`data#test` is one split of the data, `data:ioi3` only its rows with three introduced names.

Running a Python file runs its code: it is the user's own, named by the user.
"""

import ast
import importlib.util
import random
import re
import sys
import sysconfig
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from instar.record.config import DataConfig
from instar.record.foreign import reading
from instar.record.names import as_file_name
from instar.tasks.given import from_pairs, holds_pairs
from instar.tasks.pair import Pair
from instar.tasks.ready import Entry, PairSource, Rejected, from_entries, ready
from instar.tasks.records import bare_name, is_data, read_records, split_off
from instar.tasks.rows import data_rows, read_training_file
from instar.tasks.task import Task
from instar.tasks.written import written_ioi

code_runs_by: ContextVar[str | None] = ContextVar("code_runs_by", default=None)
"""The command that lets a task's Python file run, where nobody has allowed it: a run directory's configuration names it."""
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
    name = as_file_name("-".join(part for part in (bare_name(path.resolve()), split, shape) if part))
    records = read_records(source, data.columns.get("split", "split"))
    with reading(path):
        if split is not None:  # the user's own choice: there is nothing left to set apart by it
            records = [replace(r, split=None) for r in records]
        if holds_pairs(records, data.columns):
            return from_pairs(path, name, records, data)
        rows = data_rows(path, records, data.columns)
        n = int(shape.removeprefix("ioi")) if shape else None
        return written_ioi(path, name, rows, n, data.holdout, data.seed)
    raise AssertionError  # for type checkers: `reading` swallows nothing


def _data_of(spec: str) -> tuple[str, str | None]:
    found = _PARTS.fullmatch(spec)
    return (spec, None) if found is None else (found["data"], found["shape"])


# Python


def _module(path: Path) -> ModuleType:
    if command := code_runs_by.get():
        raise ValueError(
            f"{path} is Python code that the run directory's configuration names, and a file is no consent to run it. If you "
            f"trust it: {command}"
        )
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
    return _from_function(path, as_file_name(path.stem), module.pairs)


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
            if not row.between:  # the rule knows words, and not how the file's follow the prompt
                pairs = tuple(replace(pair, between="") for pair in pairs)
            entries.append(Entry(row.number, row.prompt, pairs, row.split, notes=row.notes))
        except ValueError as reason:
            rejected.append(Rejected(row.number, str(reason), row.prompt, "refused by the rule", row.split))
    return from_entries(as_file_name(path.stem), entries, rejected, data.holdout, data.seed)
