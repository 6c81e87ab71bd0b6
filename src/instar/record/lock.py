"""One process at a time writes into a run directory; the others are told whose it is.

The system releases a dead process's hold, so what it left is taken over. Who holds a run stands in `lock`: host, process,
when it began, and its command. A process of another machine cannot be asked whether it lives: there its name decides.
"""

import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

NAME, HELD = "lock", ".lock"
_held: dict[Path, int] = {}
"""How often this process holds each directory: a stage asks for what its command has already."""


class InUse(ValueError):  # noqa: N818 — it is the directory that is
    """Another process is writing there."""


@contextmanager
def held(root: Path) -> Iterator[bool]:
    """Hold a directory, made if need be, for this block. Gives whether it was not held before.

    Raises:
        InUse: where another process does, naming it.
    """
    root.mkdir(parents=True, exist_ok=True)
    root = root.resolve()
    if _held.get(root):
        _held[root] += 1
        try:
            yield False
        finally:
            _held[root] -= 1
        return
    lock = FileLock(root / HELD, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InUse(_sentence(root)) from None
    try:
        _refuse_elsewhere(root)
        with suppress(OSError):  # a full disk: nothing is written there then, and who it is matters little
            (root / NAME).write_text(json.dumps(_owner()) + "\n", encoding="utf-8")
        _held[root] = 1
        try:
            yield True
        finally:
            del _held[root]
            (root / NAME).unlink(missing_ok=True)
    finally:
        # The empty file stays: removed, it could be held by one process and made anew by another.
        lock.release()


def _owner() -> dict[str, str | int]:
    began = datetime.fromtimestamp(psutil.Process().create_time()).astimezone().isoformat(timespec="seconds")
    # A program's own name, without the folder that it lies in.
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"host": socket.gethostname(), "process": os.getpid(), "began": began, "command": command[:500]}


def _read(root: Path) -> dict[str, str | int]:
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads((root / NAME).read_text(encoding="utf-8"))
        return (
            {name: found[name] for name in ("host", "process", "began", "command")} if isinstance(found, dict) else {}
        )
    return {}


def _refuse_elsewhere(root: Path) -> None:
    """Held here, and named by a process of another machine, whose hold this system may not see."""
    with suppress(KeyError):
        if _read(root)["host"] != socket.gethostname():
            raise InUse(f"{_sentence(root)}. If that process has ended, remove {root / NAME}")


def _sentence(root: Path) -> str:
    owner = _read(root)
    who = (
        f"process {owner['process']} on {owner['host']}, since {owner['began']} ({owner['command']})"
        if owner
        else "another process"
    )
    return f"{root} is being written by {who}: wait until it ends, or give another --out"
