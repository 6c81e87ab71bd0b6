"""One process at a time writes into a run directory; the others are told whose it is.

The system releases a dead process's hold, so what it left is taken over. Who holds a run stands in `lock`: host, process,
when it began, and its command. A process of another machine cannot be asked whether it lives: there its name decides.

Shards of one command may write side by side, each holding a lock of its own (`lock-2-of-8`): nobody else while one does.
"""

import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

NAME, HELD = "lock", ".lock"
PATIENCE = 10.0
"""Seconds that a shard waits while others take their locks."""
_held: dict[Path, int] = {}
"""How often this process holds each directory: a stage asks for what its command has already."""


class InUse(ValueError):  # noqa: N818 — it is the directory that is
    """Another process is writing there."""


@contextmanager
def held(root: Path, shard: str = "") -> Iterator[bool]:
    """Hold a directory, made if need be, for this block. Gives whether it was not held before.

    Args:
        shard: `2-of-8`: hold it beside other shards.

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
    with ExitStack() as stack:
        # Shards hold the whole only while they take their own, so that a command that wants it meets either all or none.
        with ExitStack() as whole:
            _take(root, whole, HELD, NAME, PATIENCE if shard else 0)
            if shard:
                _take(root, stack, f"{HELD}-{shard}", f"{NAME}-{shard}")
            else:
                for other in sorted(root.glob(f"{HELD}-*-of-*")):
                    with ExitStack() as tried:
                        _take(root, tried, other.name, other.name.removeprefix("."))
                stack.enter_context(whole.pop_all())
        own = root / (f"{NAME}-{shard}" if shard else NAME)
        with suppress(OSError):  # a full disk: nothing is written there then, and who it is matters little
            own.write_text(json.dumps(_owner()) + "\n", encoding="utf-8")
        _held[root] = 1
        try:
            yield True
        finally:
            del _held[root]
            own.unlink(missing_ok=True)


def lent(root: Path) -> None:
    """From here on this process writes for the one that holds the directory, and asks for no lock of its own."""
    _held[root.resolve()] = 1


def _take(root: Path, stack: ExitStack, held: str, name: str, patience: float = 0) -> None:
    """One lock. The empty file stays: removed, it could be held by one process and made anew by another."""
    lock = FileLock(root / held, thread_local=False)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise InUse(_sentence(root, name)) from None
    stack.callback(lock.release)
    # Held here, and named by a process of another machine, whose hold this system may not see.
    if _read(root / name).get("host", socket.gethostname()) != socket.gethostname():
        raise InUse(f"{_sentence(root, name)}. If that process has ended, remove {root / name}")


def _owner() -> dict[str, str | int]:
    began = datetime.fromtimestamp(psutil.Process().create_time()).astimezone().isoformat(timespec="seconds")
    # A program's own name, without the folder that it lies in.
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"host": socket.gethostname(), "process": os.getpid(), "began": began, "command": command[:500]}


def _read(file: Path) -> dict[str, str | int]:
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(file.read_text(encoding="utf-8"))
        return (
            {name: found[name] for name in ("host", "process", "began", "command")} if isinstance(found, dict) else {}
        )
    return {}


def _sentence(root: Path, name: str) -> str:
    owner = _read(root / name)
    who = (
        f"process {owner['process']} on {owner['host']}, since {owner['began']} ({owner['command']})"
        if owner
        else "another process"
    )
    return f"{root} is being written by {who}: wait until it ends, or give another --out"
