"""A user's own tasks.

A Python file holds either `TASK = instar.Task(...)` or a function `pairs(n, seed, split)` that returns `instar.Pair`s.
A JSON Lines file holds one pair a line:

    {"clean": "...", "corrupted": "...", "answer": "Jim", "foils": ["Mary", "John"], "split": "test"}

`counterfactual` (default "corrupted"), `split` (default: in both) and `contrast` (the names that the corruption makes
right; default: the foils) are optional. Running a Python file runs its code: it is the user's own, named by the user.
"""

import importlib.util
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from instar.tasks.task import Pair, Scene, Split, Task


@dataclass(frozen=True)
class PairSource(Task):
    """A task whose pairs come ready-made rather than from scenes."""

    source: Callable[[int, int, Split], Sequence[Pair]] = lambda n, seed, split: ()

    def pairs(self, n: int, seed: int = 0, split: Split = "test", counterfactual: str | None = None) -> list[Pair]:
        """`n` pairs with one counterfactual."""
        wanted = counterfactual or self.counterfactuals[0]
        found = [p for p in self.source(n, seed, split) if p.counterfactual == wanted][:n]
        if len(found) < n:
            raise ValueError(
                f"{self.name}: {n} {split} pairs with counterfactual {wanted!r} asked for, {len(found)} found; "
                "lower the size in the configuration or write more"
            )
        return [replace(p, base=i) for i, p in enumerate(found)]

    def fit(self, tokenizer: Any) -> Task:
        """The task itself: its words are the user's, and are checked when they are tokenised."""
        return self


def load_task(spec: str) -> Task:
    """The task of a `.py` file (`my.py` or `my.py:NAME`) or a `.jsonl` file."""
    path, _, attribute = spec.partition(":")
    if not Path(path).exists():
        raise ValueError(f"no task file {path}")
    return _from_python(Path(path), attribute) if path.endswith(".py") else _from_jsonl(Path(path))


def _ready(name: str, example: str, counterfactuals: Sequence[str], source: Callable) -> PairSource:
    return PairSource(name, example, _no_scene, tuple(counterfactuals), people=0, source=source)


def _no_scene(dealer: Any) -> Scene:
    raise TypeError("this task has ready-made pairs and deals no scenes")


def _from_python(path: Path, attribute: str) -> Task:
    spec = importlib.util.spec_from_file_location(f"instar_task_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if attribute or hasattr(module, "TASK"):
        found = getattr(module, attribute or "TASK", None)
        if not isinstance(found, Task):
            raise ValueError(f"{path}: {attribute or 'TASK'} is {type(found).__name__}, expected an instar.Task")
        return found
    if not callable(getattr(module, "pairs", None)):
        raise ValueError(f"{path} has neither TASK nor pairs(n, seed, split); write one of them")
    sample = module.pairs(1, 0, "test")
    kinds = dict.fromkeys(p.counterfactual for p in sample)
    return _ready(path.stem, sample[0].clean, tuple(kinds), module.pairs)


def _from_jsonl(path: Path) -> Task:
    rows: list[tuple[str | None, Pair]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            rows.append(_row(path, number, line))
    if not rows:
        raise ValueError(f"{path} has no rows")

    def source(n: int, seed: int, split: Split) -> list[Pair]:
        mine = [pair for where, pair in rows if where in (None, split)]
        random.Random(seed).shuffle(mine)
        return mine

    return _ready(path.stem, rows[0][1].clean, tuple(dict.fromkeys(p.counterfactual for _, p in rows)), source)


def _row(path: Path, number: int, line: str) -> tuple[str | None, Pair]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{number} is not JSON: {error}") from None
    missing = [key for key in ("clean", "corrupted", "answer", "foils") if key not in row]
    if missing:
        raise ValueError(f"{path}:{number} lacks {', '.join(missing)}; it has {', '.join(row)}")
    foils = [row["foils"]] if isinstance(row["foils"], str) else row["foils"]
    contrast = row.get("contrast", foils)
    pair = Pair(
        clean=row["clean"],
        corrupted=row["corrupted"],
        counterfactual=row.get("counterfactual", "corrupted"),
        answer=row["answer"].strip(),
        foils=tuple(f.strip() for f in foils),
        contrast=tuple(c.strip() for c in ([contrast] if isinstance(contrast, str) else contrast)),
    )
    return row.get("split"), pair
