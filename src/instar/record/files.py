"""Files that are there whole or not at all: each is written to a temporary name and renamed. JSON and JSON Lines."""

import json
import math
import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from instar.record.foreign import bytes_of, json_of, json_text, reading


class whole:  # noqa: N801 — reads as a word: `with whole(path) as scratch`
    """A scratch path that becomes `path` when the block ends without an exception, and vanishes otherwise."""

    def __init__(self, path: Path, folder: bool = False):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        # Not tempfile: its folders are closed to everyone else, and these stay.
        self.scratch = path.parent / f".partial-{secrets.token_hex(6)}"
        self.scratch.mkdir()
        if not folder:
            self.scratch = self.scratch / path.name

    def __enter__(self) -> Path:
        return self.scratch

    def __exit__(self, kind: Any, *_: Any) -> None:
        holder = self.scratch if self.scratch.is_dir() else self.scratch.parent
        if kind is None:
            if self.scratch.is_dir() and self.path.exists():
                shutil.rmtree(self.path)
            self.scratch.replace(self.path)
        shutil.rmtree(holder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    with whole(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """A JSON file, whole or not at all; NaN becomes null."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """A JSON file's text; NaN becomes null."""
    return json.dumps(finite(value), indent=1, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        ValueError: for one that is damaged, naming it.
    """
    return json_of(path)


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """JSON Lines from dicts or dataclasses."""
    write_text(
        path, "".join(json.dumps(r if isinstance(r, dict) else asdict(r), ensure_ascii=False) + "\n" for r in rows)
    )


def read_rows(path: Path, make: Callable[[dict[str, Any]], Any] = lambda row: row) -> list[Any]:
    """JSON Lines, each row through `make`.

    Raises:
        ValueError: for a damaged file, naming it and the line.
    """
    with reading(path, "rows"):
        lines = bytes_of(path).decode("utf-8").split("\n")
    # Not splitlines: a string in JSON may hold U+2028 as it is.
    return [make(json_text(line, f"{path}, line {i}")) for i, line in enumerate(lines, 1) if line.strip()]


def finite(value: Any) -> Any:
    """A value for JSON, which has no NaN: that becomes null."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
