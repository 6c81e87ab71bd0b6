"""Rows of a user's data in every form, as dicts: the one place that opens such files.

1. Forms: `.json` (a list of objects, or `{"train": [...], "test": [...]}`), `.jsonl`, `.csv`, `.parquet`, `.arrow`; a folder
   that `datasets` wrote with `save_to_disk` (a Dataset or a DatasetDict); a folder of data files with the split in the
   name, such as `data/train-00000-of-00001.parquet`. The `datasets` library itself is not needed: its folders are Arrow
   streams and two JSON files that list them.
2. A split becomes the row's `split`, as if it had been written in a column of that name. `path#split` keeps one.
3. Rows are numbered from 1 in their file, or in their split of a folder.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".parquet", ".arrow")
# What `datasets` and the hub put beside the data.
_BESIDE = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_SPLIT_IN_NAME = re.compile(r"(?:^|[/_.\-])(train|test|validation|valid|val|dev|eval)(?=[/_.\-]|$)")


@dataclass(frozen=True)
class Record:
    """One row as it stands in the file."""

    number: int
    values: dict[str, Any]
    split: str | None = None


def is_data(spec: str) -> bool:
    """Whether this names data (a file of a known form, or a folder), and not a task of the library or a Python file."""
    path, _ = split_off(spec)
    return path.suffix.lower() in SUFFIXES or path.is_dir()


def split_off(spec: str | Path) -> tuple[Path, str | None]:
    """`data#test` as its path and split. A file whose own name has a `#` is taken whole."""
    if Path(spec).exists() or "#" not in str(spec):
        return Path(spec), None
    path, _, split = str(spec).rpartition("#")
    return Path(path), split


def read_records(spec: str | Path, split_column: str = "split") -> list[Record]:
    """All rows of a file or folder, or of one split of it.

    Raises:
        ValueError: naming the file, what was found and what is expected; for a missing split, the splits there are.
    """
    path, split = split_off(spec)
    if not path.exists():
        raise ValueError(f"no file {path}")
    records = []
    for file_split, rows in _parts(path):
        for number, values in enumerate(rows, 1):
            own = values.get(split_column) or file_split
            records.append(Record(number, values, None if own is None else str(own)))
    if not records:
        raise ValueError(f"{path} has no rows")
    if split is not None:
        splits = splits_of(records)
        records = [r for r in records if r.split == split]
        if not records:
            known = f"splits: {', '.join(splits)}" if splits else "it has no splits"
            raise ValueError(f"{path} has no split {split!r}; {known}")
    return records


def splits_of(records: list[Record]) -> list[str]:
    """The splits that rows name, in their order."""
    return list(dict.fromkeys(r.split for r in records if r.split is not None))


def fingerprint(spec: str | Path) -> str:
    """sha256 of the files that `spec` names, their names included."""
    path, _ = split_off(spec)
    found = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        found.update(file.relative_to(path).as_posix().encode() if path.is_dir() else b"")
        found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def _parts(path: Path) -> Iterator[tuple[str | None, list[dict[str, Any]]]]:
    """Rows by split (None: the form names none)."""
    if path.is_dir():
        yield from _folder(path)
        return
    found = _content(path)
    if isinstance(found, dict) and found and all(isinstance(rows, list) for rows in found.values()):
        yield from ((name, _objects(path, rows)) for name, rows in found.items())
    else:
        yield None, _objects(path, found)


def _folder(path: Path) -> Iterator[tuple[str | None, list[dict[str, Any]]]]:
    if (path / "dataset_dict.json").exists():
        for split in _content(path / "dataset_dict.json")["splits"]:
            yield split, _saved(path / split)
    elif (path / "state.json").exists():
        yield None, _saved(path)
    else:
        yield from _files(path)


def _saved(folder: Path) -> list[dict[str, Any]]:
    """What `Dataset.save_to_disk` wrote: `state.json` names the Arrow streams."""
    state = _content(folder / "state.json")
    return [row for file in state["_data_files"] for row in _content(folder / file["filename"])]


def _files(path: Path) -> Iterator[tuple[str | None, list[dict[str, Any]]]]:
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES and p.name not in _BESIDE)
    kinds = sorted({p.suffix.lower() for p in files})
    if len(kinds) != 1:
        found = f"{' and '.join(kinds)} files" if kinds else f"none of {', '.join(SUFFIXES)}"
        raise ValueError(f"{path} holds {found}; name one file of it, or a folder with files of one form")
    by_split: dict[str | None, list[dict[str, Any]]] = {}
    for file in files:
        named = _SPLIT_IN_NAME.findall(file.relative_to(path).with_suffix("").as_posix())
        by_split.setdefault(named[-1] if named else None, []).extend(_objects(file, _content(file)))
    if None in by_split and len(by_split) > 1:
        plain = [f.name for f in files if not _SPLIT_IN_NAME.search(f.relative_to(path).with_suffix("").as_posix())]
        raise ValueError(f"{path}: {', '.join(plain[:3])} names no split and other files do; name one file of it")
    yield from by_split.items()


def _content(path: Path) -> Any:
    """What one file holds."""
    kind = path.suffix.lower()
    try:
        if kind == ".json":
            return json.loads(path.read_text(encoding="utf-8-sig"))
        if kind in (".jsonl", ".ndjson"):
            # Not splitlines: a string in JSON may hold U+2028 as it is.
            return [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        if kind == ".csv":
            return _csv(path)
        if kind == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_table(path).to_pylist()
        if kind == ".arrow":
            import pyarrow as pa

            with pa.memory_map(str(path)) as stream:
                return pa.ipc.open_stream(stream).read_all().to_pylist()
    except (ValueError, csv.Error) as error:  # JSON's, Unicode's and Arrow's errors are ValueErrors
        raise ValueError(f"{path} cannot be read as {kind[1:]}: {error}") from None
    raise ValueError(f"{path}: {kind or 'no'} suffix; expected {', '.join(SUFFIXES)}, or a folder")


def _csv(path: Path) -> list[dict[str, Any]]:
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    for number, row in enumerate(rows, 1):
        if None in row:  # where DictReader puts what the header has no name for: a prompt cut at its first comma
            raise ValueError(f"row {number} has more fields than the header; a text with commas needs quotes around it")
    return rows


def _objects(path: Path, found: Any) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        what = type(found).__name__ if not isinstance(found, list) else "a list of other things"
        raise ValueError(f"{path} holds {what}, expected a list of objects")
    return found
