"""Rows of a user's data in every form, as dicts: the one place that opens such files.

1. Forms: `.json` (a list of objects, or `{"train": [...], "test": [...]}`), `.jsonl`, `.csv`, `.tsv`, `.parquet`, `.arrow`,
   and the texts among them compressed (`.csv.gz`); a folder that `datasets` wrote with `save_to_disk` (a Dataset or a
   DatasetDict); a folder of data files with the split in the name, such as `data/train-00000-of-00001.parquet`. The
   `datasets` library itself is not needed: its folders are Arrow streams and two JSON files that list them.
2. A split becomes the row's `split`, as if it had been written in a column of that name. `path#split` keeps one.
3. Rows are numbered from 1 in their file, or in their split of a folder.
4. Nothing is believed: sizes are bounded before anything is unpacked (`columnar`, `foreign`), and a name or a link that leads
   out of the folder is refused.
5. A table of text is told apart by its header: of comma, semicolon and tab the one that finds the known columns there.
"""

import codecs
import csv
import gzip
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from instar.record.config import Column
from instar.record.foreign import BYTES, bytes_of, json_text, object_of, reading
from instar.tasks.cells import hole
from instar.tasks.columnar import columnar_rows

TABLES = (".csv", ".tsv")
TEXTS = (".json", ".jsonl", ".ndjson", *TABLES)
SUFFIXES = (*TEXTS, ".parquet", ".arrow")
DELIMITERS = (",", ";", "\t")
_KNOWN = {*get_args(Column), "question", "clean", "completion", "correct_idx", "incorrect_idx"}
# What `datasets` and the hub put beside the data.
_BESIDE = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_SPLIT_IN_NAME = re.compile(r"(?:^|[/_.\-])(train|test|validation|valid|val|dev|eval)(?=[/_.\-]|$)")


@dataclass(frozen=True)
class Record:
    """One row as it stands in the file."""

    number: int
    values: dict[str, Any]
    split: str | None = None
    typed: bool = True
    """Whether its form tells a number from a text, as a table of text does not."""


def is_data(spec: str) -> bool:
    """Whether this names data (a file of a known form, or a folder), and not a task of the library or a Python file."""
    path, _ = split_off(spec)
    return form(path) in SUFFIXES or path.is_dir()


def form(path: Path) -> str:
    """A file's suffix in lower case, that of a compressed text without its `.gz`."""
    suffix = path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return inner if suffix == ".gz" and inner in TEXTS else suffix


def bare_name(path: Path) -> str:
    """A file's name without its suffixes."""
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


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
    with reading(path):
        parts = list(_parts(path))
    for file_split, rows in parts:
        for number, values in enumerate(rows, 1):
            own = values.get(split_column)
            own = file_split if hole(own) else own
            records.append(Record(number, values, None if own is None else str(own), not isinstance(values, _Cells)))
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
        listed = path / "dataset_dict.json"
        with reading(listed, '{"splits": ["train", …]}'):
            splits = [str(split) for split in object_of(_inside(path, listed))["splits"]]
        for split in splits:
            yield split, _saved(_inside(path, path / split))
    elif (path / "state.json").exists():
        yield None, _saved(path)
    else:
        yield from _files(path)


def _saved(folder: Path) -> list[dict[str, Any]]:
    """What `Dataset.save_to_disk` wrote: `state.json` names the Arrow streams."""
    listed = folder / "state.json"
    with reading(listed, '{"_data_files": [{"filename": …}, …]}'):
        names = [str(file["filename"]) for file in object_of(_inside(folder, listed))["_data_files"]]
    return [row for name in names for row in _objects(folder / name, _content(_inside(folder, folder / name)))]


def _inside(folder: Path, path: Path) -> Path:
    """The path, which has to lead into the folder.

    Raises:
        ValueError: where it, or a link in it, leads out. The hub's cache keeps its files beside: `snapshots/…`, `blobs/…`.
    """
    root, real = folder.resolve(), path.resolve()
    blobs = [p.parent / "blobs" for p in root.parents if p.name == "snapshots"]
    if not any(real.is_relative_to(place) for place in (root, *blobs)):
        raise ValueError(f"{path}: leads out of {folder} (to {real}): put the file itself there")
    return path


def _files(path: Path) -> Iterator[tuple[str | None, list[dict[str, Any]]]]:
    files = sorted(p for p in path.rglob("*") if p.is_file() and form(p) in SUFFIXES and p.name not in _BESIDE)
    kinds = sorted({form(p) for p in files})
    if len(kinds) != 1:
        found = f"{' and '.join(kinds)} files" if kinds else f"none of {', '.join(SUFFIXES)}"
        raise ValueError(f"{path} holds {found}; name one file of it, or a folder with files of one form")
    by_split: dict[str | None, list[dict[str, Any]]] = {}
    for file in files:
        named = _SPLIT_IN_NAME.findall(file.relative_to(path).with_suffix("").as_posix())
        rows = _objects(file, _content(_inside(path, file)))
        by_split.setdefault(named[-1] if named else None, []).extend(rows)
    if None in by_split and len(by_split) > 1:
        plain = [f.name for f in files if not _SPLIT_IN_NAME.search(f.relative_to(path).with_suffix("").as_posix())]
        raise ValueError(f"{path}: {', '.join(plain[:3])} names no split and other files do; name one file of it")
    yield from by_split.items()


def _content(path: Path) -> Any:
    """What one file holds."""
    kind = form(path)
    with reading(path, kind[1:]):
        if kind == ".json":
            return json_text(_text(path), str(path))
        if kind in (".jsonl", ".ndjson"):
            # Not splitlines: a string in JSON may hold U+2028 as it is.
            lines = enumerate(_text(path).split("\n"), 1)
            return [json_text(line, f"{path}, line {number}") for number, line in lines if line.strip()]
        if kind in TABLES:
            return _table(_text(path))
        if kind in (".parquet", ".arrow"):
            return columnar_rows(path)
    raise ValueError(f"{path}: {kind or 'no'} suffix; expected {', '.join(SUFFIXES)} (texts also as .gz), or a folder")


def _text(path: Path) -> str:
    raw = bytes_of(path)
    if path.suffix.lower() == ".gz":
        try:
            with gzip.open(io.BytesIO(raw)) as stream:
                raw = stream.read(BYTES + 1)
        except gzip.BadGzipFile as error:  # an OSError, though it is the file's fault
            raise ValueError(f"{path} cannot be read as {form(path)[1:]}: {error}") from None
        if len(raw) > BYTES:
            raise ValueError(f"{path}: more than {BYTES:,} bytes once unpacked, which is the most that is read")
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as spreadsheets save "Unicode text"
    return raw.decode("utf-16" if wide else "utf-8-sig")


class _Cells(dict[str, Any]):
    """A row whose values are all text."""


def _table(text: str) -> list[dict[str, Any]]:
    named = re.match(r"sep=(.)\r?\n", text)  # what a spreadsheet writes to say it
    text = text[named.end() :] if named else text
    top = text[: re.search(r"[\r\n]|$", text).start()]  # pyright: ignore[reportOptionalMemberAccess] — $ always matches
    tried = [named[1]] if named else [d for d in DELIMITERS if d in top] or [","]
    header, rows = _best(text, tried)
    twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if twice:
        raise ValueError(f"column {twice[0]!r} stands twice in the header")
    for number, row in enumerate(rows, 1):
        if len(row) > len(header):  # a prompt cut at its first comma
            raise ValueError(
                f"row {number} has more fields than the header ({len(row)}, expected {len(header)}); a text that holds the "
                "delimiter needs quotes around it"
            )
    return [_Cells(dict.fromkeys(header) | dict(zip(header, row, strict=False))) for row in rows]


def _fields(text: str, delimiter: str) -> tuple[list[str], list[list[str]]]:
    # Strict: a quotation mark that opens or closes in the middle of a cell would swallow rows, or vanish.
    reader, lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), []
    try:
        lines.extend(reader)
    except csv.Error as error:
        raise ValueError(
            f"line {reader.line_num}: {error}; a cell with quotation marks is written in quotes, and each mark in it twice"
        ) from None
    header, *rows = lines or [[]]
    return [name.strip() for name in header], [row for row in rows if row]


def _best(text: str, tried: list[str]) -> tuple[list[str], list[list[str]]]:
    """The table by its likeliest delimiter."""
    found, errors = [], {}
    for delimiter in tried:
        try:
            found.append(_fields(text, delimiter))
        except ValueError as error:
            errors[delimiter] = error
    if errors and not any(_KNOWN & set(header) for header, _ in found):
        # Of the delimiter that is really there: another one may stand in the middle of a quoted cell.
        raise errors[max(errors, key=text.count)]
    return max(found, key=_likely)


def _likely(found: tuple[list[str], list[list[str]]]) -> tuple[int, bool, int]:
    """How much speaks for a delimiter: known columns, then rows as long as the header, then columns."""
    header, rows = found
    return len(_KNOWN & set(header)), all(len(row) == len(header) for row in rows), len(header)


def _objects(path: Path, found: Any) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        what = type(found).__name__ if not isinstance(found, list) else "a list of other things"
        raise ValueError(f"{path} holds {what}, expected a list of objects")
    return found
