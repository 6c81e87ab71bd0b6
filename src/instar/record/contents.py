"""What instar wrote into a run directory: a list with the size and sha256 of every file, `contents.jsonl`.

1. A file is listed before it is put in its place, so what is there is listed, whenever a process was killed. An entry without
   its file, or with another file, is one that has to be made again.
2. The list is a journal: entries are added at its end, the last of a path counts. Whoever ends work on
   a run leaves it sorted.
3. Its first line has the version of the run directory's format, and the configuration that its results were made by.
4. Keys of measurements stand in it, so that what is missing is known without opening a file.
"""

import hashlib
import json
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from instar.record.names import LONGEST_FILE, file_name

NAME, PARTIAL = "contents.jsonl", ".partial"
LISTING = ".contents.lock"
"""Held for a line of the list; the empty file stays, as that of the directory's lock does."""
FORMAT = 1
"""Of the run directory. Raised when a directory of before cannot be read as one of now."""
_STAMP = tuple[int, int, int]


class Damaged(ValueError):  # noqa: N818 — it is the file that is
    """A file is not the one that instar wrote."""

    def __init__(self, path: Path, why: str):
        super().__init__(f"{path} is damaged or was changed: {why}")
        self.path = path


@dataclass(frozen=True)
class Entry:
    """One file."""

    path: str
    """From the run directory, with slashes."""
    size: int
    sha256: str
    key: str | None = None
    """What decided it, where it is made anew by that."""
    made_with: str | None = None


@dataclass
class Contents:
    """The list of one run directory, as it is now."""

    root: Path
    _header: dict[str, Any] = field(default_factory=dict)
    _entries: dict[str, Entry] = field(default_factory=dict)
    _ordered: list[str] | None = None
    """Its paths, sorted, once somebody asked for a folder's."""
    _read: tuple[int, int] = (0, 0)
    """The list's inode, and how much of it was read."""
    _verified: dict[str, _STAMP] = field(default_factory=dict)
    _since: int | None = None
    """The list's time when it was first read: what is younger is not known to be what was listed."""

    @property
    def file(self) -> Path:
        """Where it is kept."""
        return self.root / NAME

    @property
    def header(self) -> dict[str, Any]:
        """The format, and the configuration that the results here were made by; empty where there is no list."""
        self._refresh()
        return self._header

    @property
    def entries(self) -> dict[str, Entry]:
        """Every file by its path."""
        self._refresh()
        return self._entries

    def of(self, path: Path) -> Entry | None:
        """A file's entry."""
        return self.entries.get(self._inside(path))

    def below(self, *folders: Path) -> list[Entry]:
        """The entries of some folders, by path."""
        entries = self.entries
        if self._ordered is None:
            self._ordered = sorted(entries)
        found = []
        for start in sorted({f"{self._inside(folder)}/" for folder in folders}):
            first, end = (bisect_left(self._ordered, start[:-1] + sign) for sign in ("/", chr(ord("/") + 1)))
            found += [entries[path] for path in self._ordered[first:end]]
        return found

    def place(self, entry: Entry) -> Path:
        """Where an entry's file is. The list may be a stranger's, so its paths are looked at, too."""
        parts = (file_name(part, f"{self.file}: path", LONGEST_FILE) for part in entry.path.split("/"))
        return self.root.joinpath(*parts)

    def add(self, entries: Iterable[Entry], **header: Any) -> None:
        """List files that are about to be put in their places; what of the header is to be changed."""
        self._refresh()
        lines = [head] if (head := {**self.header, "format": FORMAT, **header}) != self.header else []
        self._append([*lines, *map(_plain, entries)])

    def _append(self, values: list[dict[str, Any]]) -> None:
        # Several processes write into one list: shards, and workers for who sent them.
        with FileLock(self.root / LISTING):
            self._refresh()
            with self.file.open("a", encoding="utf-8") as stream:
                # A line that a full disk cut off is ended first.
                stream.write("\n" * (stream.tell() > self._read[1]) + "".join(map(_line, values)))

    def forget(self, entries: Iterable[Entry]) -> None:
        """Remove files that are listed here, and folders that are empty then."""
        gone = []
        for entry in entries:
            path = self.place(entry)
            gone.append({"gone": entry.path})
            refuse_links(self.root, path)
            path.unlink(missing_ok=True)
            for folder in path.relative_to(self.root).parents:
                if folder == Path() or not (self.root / folder).is_dir() or any((self.root / folder).iterdir()):
                    break
                (self.root / folder).rmdir()
        if gone:
            self._append(gone)

    def settle(self) -> None:
        """Sort the list: equal runs have equal lists, however often interrupted."""
        there = [entry for _, entry in sorted(self.entries.items())]
        text = _line({**self.header, "format": FORMAT}) + "".join(_line(_plain(entry)) for entry in there)
        if self.file.exists() and text != self.file.read_text(encoding="utf-8"):
            new = self.root / PARTIAL / NAME
            new.parent.mkdir(exist_ok=True)
            new.write_text(text, encoding="utf-8")
            if any(map(self._is_strange, there)):
                os.utime(new, ns=(self._since or 0, self._since or 0))
            new.replace(self.file)

    def trust(self, path: Path) -> None:
        """That a file has just been put in its place."""
        self._verified[self._inside(path)] = _stamp(path)

    def _is_strange(self, entry: Entry) -> bool:
        """Whether a file was changed since the list was written, and not by this process."""
        path = self.place(entry)
        if not path.exists() or path.stat().st_mtime_ns <= (self._since or 0):
            return False
        return self._verified.get(entry.path) != _stamp(path)

    def check(self, path: Path, deeply: bool = True) -> None:
        """That a file is the one that is listed; not `deeply`: by its size alone, unless it is younger than the list.

        Of a directory that has no list nothing is known, and nothing refused.

        Raises:
            Damaged: where it is another one, or is not listed.
        """
        self._refresh()
        if not self.header:
            return
        entry, found = self.of(path), path.stat()
        if entry is None:
            raise Damaged(path, f"{NAME} does not list it, so instar did not write it")
        stamp = _stamp(path)
        if self._verified.get(entry.path) == stamp:
            return
        if found.st_size != entry.size:
            raise Damaged(path, f"it has {found.st_size:,} bytes, and was written with {entry.size:,}")
        if not deeply and found.st_mtime_ns <= (self._since or 0):
            return
        if sha256(path) != entry.sha256:
            raise Damaged(path, f"its sha256 is not the one it was written with ({entry.sha256[:12]}…)")
        self._verified[entry.path] = stamp

    def is_sound(self, path: Path, deeply: bool = True) -> bool:
        """Whether a file is there and is the one that is listed."""
        try:
            self.check(path, deeply)
        except (Damaged, FileNotFoundError):
            return False
        return True

    def _inside(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _refresh(self) -> None:
        """Read what was added to the list since it was read."""
        try:
            now = self.file.stat()
        except FileNotFoundError:
            self._header, self._entries, self._read, self._since = {}, {}, (0, 0), 0
            return
        self._since = now.st_mtime_ns if self._since is None else self._since
        inode, done = self._read
        if inode != now.st_ino or now.st_size < done:
            self._header, self._entries, done = {}, {}, 0
        if now.st_size > done:
            with self.file.open("rb") as stream:
                stream.seek(done)
                added = stream.read()
            whole = added[: added.rfind(b"\n") + 1]
            self._ordered = None
            for line in whole.splitlines():
                self._take(line)
            done += len(whole)
        self._read = now.st_ino, done

    def _take(self, line: bytes) -> None:
        try:
            value = json.loads(line)
            if "format" in value:
                self._header = value
            elif "gone" in value:
                self._entries.pop(value["gone"], None)
            else:
                entry = Entry(**value)
                self._entries[str(entry.path)] = entry
        except (ValueError, TypeError, AttributeError, RecursionError):
            # A line that was cut off, and what was added behind it: its file is not listed, and is named as such.
            return
        if self._header.get("format", FORMAT) != FORMAT:
            raise ValueError(
                f"{self.root} has format {str(self._header['format'])[:40]} of run directories, and this instar reads format "
                f"{FORMAT}: use the instar that made it, or one that is newer"
            )


def entries_of(folder: Path, place: str) -> Iterator[Entry]:
    """The entries of a file, or of a folder's files, that is to be at `place`."""
    for file in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
        if file.is_file():
            inside = file.relative_to(folder).as_posix() if folder.is_dir() else ""
            yield Entry("/".join(filter(None, (place, inside))), file.stat().st_size, sha256(file))


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _stamp(path: Path) -> _STAMP:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def refuse_links(root: Path, path: Path) -> None:
    """Refuse a path of which a part is a link.

    Raises:
        ValueError: naming the link.
    """
    here = root
    for part in path.relative_to(root).parts:
        here = here / part
        if here.is_symlink():
            raise ValueError(
                f"{here} is a link: the parts of a run directory are its own files and folders. Put what it leads to in its "
                "place, or link the whole directory"
            )


def _plain(entry: Entry) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if value is not None}


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False) + "\n"


def shaped(path: Path, value: Any, **kinds: type) -> dict[str, Any]:
    """What a file holds, if it is an object with these parts.

    Raises:
        Damaged: where it is not.
    """
    wrong = [
        name for name, kind in kinds.items() if not isinstance(value, dict) or not isinstance(value.get(name), kind)
    ]
    if wrong:
        raise Damaged(path, f"expected an object that holds {' and '.join(kinds)}")
    return value
