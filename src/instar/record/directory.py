"""One directory that instar writes: the only door to it.

1. Its paths are made of checked names and have no link in them.
2. Who writes holds it (`instar.record.lock`), lists what is written before it is put in its place
   (`instar.record.contents`), and removes or replaces nothing else. A folder of other things is not adopted.
3. A file is there whole or not at all: it is made in `.partial` and renamed. What a killed process left there goes with the
   next command. A full disk is a sentence.
4. What is read is compared with the list.
"""

import errno
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from instar.record import netcdf
from instar.record.contents import NAME as CONTENTS
from instar.record.contents import PARTIAL, Contents, Damaged, Entry, entries_of, refuse_links
from instar.record.lock import HELD, held
from instar.record.lock import NAME as LOCK
from instar.record.names import LONGEST_FILE, file_name

PARTS = ("data", "checkpoints", "measure", "compare", "report")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NoRoom(OSError):  # noqa: N818 — the disk has none
    """The disk is full, or will be."""


@cache
def _contents(root: Path) -> Contents:
    return Contents(root)


@dataclass(frozen=True)
class Directory:
    """One directory, there or not yet."""

    root: Path

    @property
    def contents(self) -> Contents:
        """What instar wrote into it."""
        return _contents(self.root)

    def place(self, *parts: str) -> Path:
        """A path inside it: of names alone, without a link."""
        path = self.root.joinpath(*(file_name(part, f"{self.root}: path", LONGEST_FILE) for part in parts))
        refuse_links(self.root, path)
        return path

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the directory that is written: nobody else writes there in this block.

        Raises:
            ValueError: where another process does, or the directory holds other things than a run.
        """
        root, contents = self.root, self.contents
        _refuse_foreign(root)
        for name in (LOCK, HELD, CONTENTS, PARTIAL):
            refuse_links(root, root / name)
        with self._room_for(root), held(root) as first:
            if first:
                self._begin(root)
            try:
                yield
            finally:
                if first:
                    with suppress(OSError):
                        contents.settle()
                        shutil.rmtree(root / PARTIAL, ignore_errors=True)

    @contextmanager
    def shared(self, shard: str) -> Iterator[None]:
        """Hold it beside other shards: nothing that others write is cleared, and the list stays as it grows."""
        _refuse_foreign(self.root)
        with self._room_for(self.root), held(self.root, shard):
            yield

    def _begin(self, root: Path) -> None:
        """Clear what an interrupted writer left; list what an instar before format 1 wrote."""
        shutil.rmtree(root / PARTIAL, ignore_errors=True)
        if not self.contents.entries and not self.contents.header:
            older = [p for part in PARTS for p in sorted((root / part).rglob("*")) if _is_own(root, p)]
            older += [root / name for name in ("config.yaml", "summary.json") if _is_own(root, root / name)]
            made = (
                replace(e, **_facts(file))
                for file in older
                for e in entries_of(file, file.relative_to(root).as_posix())
            )
            self.contents.add(made, **({"older": True} if older else {}))

    @contextmanager
    def writing(self, path: Path, *, folder: bool = False, **facts: Any) -> Iterator[Path]:
        """A scratch path that becomes `path` when the block ends without an exception, and vanishes otherwise.

        `facts` are what its entry says beside size and sha256.

        Raises:
            ValueError: where a link is in the way, or a file that instar did not write.
            OSError: on a full disk, naming the file and the space that there is.
        """
        root, target = self.root, path
        with self.owned():
            refuse_links(root, target)
            home = root / PARTIAL / secrets.token_hex(6)
            scratch = home if folder else home / target.name
            try:
                with self._room_for(target):
                    home.mkdir(parents=True)
                    yield scratch
                    self._put(scratch, target, facts)
            finally:
                shutil.rmtree(home, ignore_errors=True)

    def note(self, **header: Any) -> None:
        """Say something of the whole directory, at the head of the list."""
        with self.owned():
            self.contents.add((), **header)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for what a library writes on its way; gone after the block, and after a kill with the next command."""
        with self.owned():
            home = self.root / PARTIAL / secrets.token_hex(6)
            home.mkdir(parents=True)
            try:
                yield home
            finally:
                shutil.rmtree(home, ignore_errors=True)

    def _put(self, scratch: Path, target: Path, facts: dict[str, Any]) -> None:
        contents = self.contents
        old = contents.below(target) if scratch.is_dir() else []
        if target.is_file() and contents.of(target) is None:
            raise ValueError(f"{target} is there, and instar did not write it: move it away, or give another --out")
        contents.forget(old)
        place = target.relative_to(self.root).as_posix()
        contents.add(replace(entry, **facts) for entry in entries_of(scratch, place))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and any(target.iterdir()):
            raise ValueError(f"{target} holds files that instar did not write: move them away, or give another --out")
        scratch.replace(target)
        for file in [target] if target.is_file() else filter(Path.is_file, target.rglob("*")):
            contents.trust(file)

    @contextmanager
    def _room_for(self, target: Path) -> Iterator[None]:
        """A full disk in words. safetensors has an error of its own."""
        try:
            yield
        except NoRoom:
            raise
        except (OSError, SafetensorError) as error:
            full = getattr(error, "errno", None) in _FULL or re.search(
                r"No space left|File too large|quota", str(error)
            )
            if not full:
                raise
            raise NoRoom(f"{target} could not be written ({_reason(error)}): {self.room()}") from None

    def room(self) -> str:
        """What the disk has, in words."""
        kept = "What is finished is kept; make room, and the same command goes on"
        return f"{self._free() / 1e6:,.1f} MB are free there. {kept}"

    def _free(self) -> int:
        """Bytes, of the disk that it is on or will be on."""
        there = next(folder for folder in (self.root, *self.root.absolute().parents) if folder.exists())
        return shutil.disk_usage(there).free

    def need(self, size: float, what: str) -> None:
        """Ask for free space before it is needed.

        Raises:
            OSError: naming what is needed and what there is.
        """
        free = self._free()
        if size > free:
            raise NoRoom(
                f"{self.root}: {what} needs about {size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free there: make room, "
                "or give another --out"
            )

    def forget(self, *paths: Path) -> None:
        """Remove files and folders, as far as instar wrote them."""
        if any(path.exists() for path in paths):
            with self.owned():
                found = [self.contents.of(path) for path in paths]
                self.contents.forget([*(entry for entry in found if entry is not None), *self.contents.below(*paths)])

    def listed(self, part: str) -> list[Entry]:
        """What instar wrote into a folder of it."""
        return self.contents.below(self.root / part)

    def is_whole(self, part: str) -> bool:
        """Whether all that instar wrote into a folder is there, by sizes."""
        return all(self.contents.is_sound(self.contents.place(entry), deeply=False) for entry in self.listed(part))

    def unverified(self, *parts: str) -> list[Damaged]:
        """The files of some folders, and summary.json, that are not those that were written."""
        found = []
        for part in parts:
            refuse_links(self.root, self.root / part)
        files = [p for part in parts for p in sorted((self.root / part).rglob("*")) if p.is_file() and p.name[0] != "."]
        for path in [*files, self.root / "summary.json"]:
            try:
                self.contents.check(path)
            except Damaged as damaged:
                found.append(damaged)
            except FileNotFoundError:
                continue
        return found


def _refuse_foreign(root: Path) -> None:
    """Refuse a folder of other things: it is not adopted as a run."""
    if not root.is_dir() or any((root / name).exists() for name in ("config.yaml", CONTENTS)):
        return
    found = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    if found:
        raise ValueError(
            f"{root} is no run directory (it has no config.yaml) and not empty ({', '.join(found[:3])}"
            f"{', …' if len(found) > 3 else ''}): give another --out"
        )


_OWN = re.compile(
    r"config\.yaml|summary\.json|data/[^/]+\.jsonl?|(measure|compare)/([^/]+/){1,3}step-\d{6,}\.nc|measure/failed\.json|"
    r"checkpoints/([\w-]+/)?(index\.json|step-\d{6,}/[^/]+)|report/index\.html|report/[\w-]+\.gif|report/figures/[^/]+\.(png|svg)"
)


def _is_own(root: Path, path: Path) -> bool:
    """Whether an instar before format 1 wrote it, by its place."""
    return (
        bool(_OWN.fullmatch(path.relative_to(root).as_posix()))
        and path.is_file()
        and path.resolve().is_relative_to(root.resolve())
    )


def _facts(file: Path) -> dict[str, str]:
    """What the list holds of a measurement that was made before there was a list."""
    if file.suffix != ".nc":
        return {}
    with suppress(ValueError, OSError):
        own = netcdf.attributes(file)
        return {name: str(own[name]) for name in ("key", "made_with") if name in own}
    return {}


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
