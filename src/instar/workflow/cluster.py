"""Units of work side by side, on this machine's cores or a cluster's (Ray, an extra): each done, whatever befalls its worker.

1. A worker is told what to make, by paths and keys, and writes it itself; no tensor travels. Every machine sees the same
   files, under the same paths, and has the same instar.
2. What may pass (a worker that died, a lost machine, no memory, what nobody foresaw) is tried again, `TRIES` times in all,
   and then given up with its traceback; a refusal in plain words would be the same again. The other units go on.
3. A worker that has finished gets what lies at the same place next (of the same checkpoint, which it has in memory), then
   what nobody is at.
4. Interrupted, it ends what is under way; what is finished is kept.
"""

import logging
import os
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar import __version__
from instar.notebook import clean
from instar.progress import in_words
from instar.record.directory import NoRoom
from instar.record.tracebacks import keep

TRIES = 3
POLL = 1.0
"""Seconds after which a caller that waits is called, though nothing was finished."""


@dataclass(frozen=True)
class Asks:
    """What one unit takes of its machine."""

    threads: int = 1
    gpus: float = 0.0


@dataclass(frozen=True)
class Lost:
    """Why a unit was given up."""

    reason: str
    traceback: str
    again: bool = True
    """Whether another try may end otherwise."""
    full: bool = False
    """Whether a disk is full: nothing else would go on either."""

    @classmethod
    def of(cls, error: Exception) -> "Lost":
        """Of what was raised just now."""
        again = not isinstance(error, ValueError | ArithmeticError)
        return cls(in_words(error), traceback.format_exc(), again, isinstance(error, NoRoom))

    def note(self, root: Path, what: str) -> None:
        """Keep its traceback in a run directory."""
        keep(root, clean(what), clean(self.traceback))


def spread(
    make: Callable[[Any, Any], Any], common: Any, units: Sequence[tuple[Hashable, Any]], asks: Asks, wait: Any = None
) -> Iterator[tuple[int, Any | Lost]]:
    """`make(common, unit)` of every unit, in another process: its number and what was returned, as they are finished.

    Args:
        make: of a module, so that another process finds it.
        units: each with its place.
        wait: called every second or so while nothing is finished.

    Raises:
        ValueError: without Ray, or where no machine has what a unit asks for.
        OSError: where the cluster cannot be reached, or a disk is full.
    """
    ray = _joined()
    cpus = _cpus(ray, asks)
    remote = ray.remote(num_cpus=cpus, num_gpus=asks.gpus, max_retries=0)(_made)
    about = (__version__, str(Path.cwd()), asks.threads)
    shared, queue = ray.put(common), _Queue(units)
    running: dict[Any, int] = {}
    tries = Counter[int]()
    try:
        while queue or running:
            # A machine may join, and one may be lost: then what it had stands in line until there is room again.
            while queue and len(running) < max(1, _room(ray, cpus, asks.gpus)):
                number = queue.next()
                running[remote.remote(about, make, shared, units[number][1])] = number
            ready, _ = ray.wait(list(running), num_returns=1, timeout=POLL)
            if not ready and wait is not None:
                wait()
            for done in ready:
                number, found = running.pop(done), _got(ray, done)
                queue.left(number)
                tries[number] += 1
                if isinstance(found, Lost) and found.full:
                    raise NoRoom(found.reason)
                if isinstance(found, Lost) and found.again:
                    if tries[number] < TRIES:
                        queue.back(number)
                        continue
                    found = Lost(f"tried {TRIES} times; the last time: {found.reason}", found.traceback)
                yield number, found
    finally:
        for one in running:
            with suppress(Exception):  # the cluster may be what was lost
                ray.cancel(one, force=True)


def _made(about: tuple[str, str, int], make: Callable[[Any, Any], Any], common: Any, unit: Any) -> Any:
    """In the worker."""
    import torch

    version, folder, threads = about
    try:
        if version != __version__:
            raise ValueError(f"a machine of the cluster has instar {__version__}, and this one {version}")
        if not Path(folder).is_dir():
            raise ValueError(f"a machine of the cluster has no {folder}: all of them must see the same files")
        os.chdir(folder)
        # Equal thread counts make the sums, and so the bytes, equal to the serial loop's.
        torch.set_num_threads(threads)
        return make(common, unit)
    except Exception as error:
        return Lost.of(error)


def _got(ray: Any, done: Any) -> Any:
    """What a unit came to; of a worker that could not say so itself, what befell it."""
    try:
        return ray.get(done)
    except ray.exceptions.RayError as error:
        kinds = {
            "WorkerCrashedError": "its worker died",
            "OutOfMemoryError": "its machine had no memory left, and Ray ended it",
            "NodeDiedError": "its machine was lost",
        }
        name = type(error).__name__
        return Lost(kinds.get(name, in_words(error)), f"{name}: {error}")


class _Queue:
    """Numbers of units that are to be done, by their places."""

    def __init__(self, units: Sequence[tuple[Hashable, Any]]):
        self.places = [place for place, _ in units]
        self.busy = Counter[Hashable]()
        self.waiting: dict[Hashable, deque[int]] = {}
        self.last: Hashable = None
        for number in range(len(units)):
            self.back(number)

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def back(self, number: int) -> None:
        """It is to be done, after the others of its place."""
        self.waiting.setdefault(self.places[number], deque()).append(number)

    def left(self, number: int) -> None:
        """Its worker has nothing to do now."""
        self.last = self.places[number]
        self.busy[self.last] -= 1

    def next(self) -> int:
        """The one to begin with now."""
        idle = (place for place in self.waiting if self.busy[place] <= 0)
        place = self.last if self.last in self.waiting else next(idle, next(iter(self.waiting)))
        number = self.waiting[place].popleft()
        if not self.waiting[place]:
            del self.waiting[place]
        self.busy[place] += 1
        self.last = None
        return number


def _joined() -> Any:
    """Ray, on the cluster that `RAY_ADDRESS` names or else on this machine alone."""
    # A cluster is joined only where this user's environment or command names it. What is started here listens on this
    # machine only: Ray takes "127.0.0.1" for the address of the network, unless it is told, before its import, that there is
    # no cluster.
    own: dict[str, Any] = {}
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        own = {"address": "local", "_node_ip_address": "127.0.0.1"}
    try:
        import ray  # pyright: ignore[reportMissingImports] — an extra
    except ImportError:
        raise ValueError("executor: ray needs the extra: pip install 'instar[ray]'") from None
    if not ray.is_initialized():
        with _own_sigterm():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **own)
    return ray


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """What SIGTERM does stays as it was: Ray puts a handler of its own in its place."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _cpus(ray: Any, asks: Asks) -> int:
    """Cores of a unit: its threads, or as many as the largest machine has.

    Raises:
        ValueError: where no machine has the GPU that is asked for.
    """
    there = _machines(ray)
    if asks.gpus and not any(one.get("GPU", 0) >= asks.gpus for one in there):
        raise ValueError(f"no machine of the cluster has {asks.gpus:g} GPU for model.device: cuda")
    return max(1, min(asks.threads, int(max((one.get("CPU", 0) for one in there), default=0))))


def _room(ray: Any, cpus: int, gpus: float) -> int:
    """How many units fit at once."""
    asked = {"CPU": cpus, "GPU": gpus}
    # Shares of a GPU add up to a whole but for rounding.
    return sum(
        int(min(one.get(what, 0) / count + 1e-9 for what, count in asked.items() if count)) for one in _machines(ray)
    )


def _machines(ray: Any) -> list[dict[str, float]]:
    """What each machine that is there has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
