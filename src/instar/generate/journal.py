"""The journal: one JSON object a line, appended and synced before anything else happens.

    {"kind": "settings", …}     first line: what must be the same for a generation to go on
    {"kind": "sent", …}         before a call: request, its plans, the tokens it may take at most
    {"kind": "back", …}         after it: tokens, the problem if there was one, and with `final` the rows and their verdicts
    {"kind": "without", …}      a parameter that the server refuses, sent no more

A call without its `back` was in flight when the process ended: it is counted as spent, since the server may have charged
for it. A torn last line is what a killed writer leaves; it is cut off. Text is ASCII with escapes, so that a
journal can be printed on a terminal whatever a model wrote. One process at a time holds the file.
"""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: nothing keeps a second process away there
    fcntl = None


class Journal:
    """An open journal. `lines` are what an earlier process left, without the first."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        """Open or make the file.

        Args:
            path: the journal.
            settings: what decides the data; must be the same as the first line's.

        Raises:
            ValueError: for a journal of other settings, one that is in use, or a line that is not a record.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: IO[bytes] = path.open("a+b")
        try:
            self._lock()
            self.lines = self._read(settings)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; it is on the disk when this returns."""
        self._file.write(json.dumps(record).encode("ascii") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _lock(self) -> None:
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(f"{self.path} is in use: another process is generating into it") from None

    def _read(self, settings: dict[str, Any]) -> list[dict[str, Any]]:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)
        lines = [_record(self.path, i, line) for i, line in enumerate(content[:whole].splitlines(), 1)]
        if not lines:
            self.write({"kind": "settings", **settings})
            return []
        self._compare(lines[0], settings)
        return lines[1:]

    def _compare(self, first: dict[str, Any], settings: dict[str, Any]) -> None:
        other = [f"{k} is {first.get(k)!r} there and {v!r} here" for k, v in settings.items() if first.get(k) != v]
        if first.get("kind") != "settings":
            raise ValueError(f"{self.path} is not a journal of instar data generate; give another --out")
        if other:
            raise ValueError(
                f"{self.path} belongs to a generation with other settings: {'; '.join(other)}. "
                "Give these settings or another --out."
            )


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(
            f"{path}, line {number} is not a record; the file was changed by something else. Mend it or move it away."
        )
    return value
