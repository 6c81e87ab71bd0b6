"""Whether a model fits, asked before it is read: a machine that swaps for an hour, or kills the run, says nothing."""

import ctypes
import gc
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import psutil
import torch
from transformers import AutoModelForCausalLM

from instar.record.foreign import shown

CGROUP = Path("/sys/fs/cgroup")
RESTED = 2**30
"""Bytes of weights from which on a model that is not needed is given up rather than kept."""
TRAINED = 4
"""Copies of the weights that training holds: themselves, gradients, and AdamW's two moments."""


_LIMITS = (
    (r"layer|depth|n_block", 512),
    (r"expert", 4_096),
    (r"label", 100_000),
    (r"theta|base|position|length|ctx|window|max_|_ids?$|seed|factor", 2**40),
    (r"", 2**24),
)
"""The largest number that a configuration may have under such a name: every layer is made before one is counted."""


def bounded(config: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration whose numbers are out of all reason, before anything is made of it.

    Raises:
        ValueError: naming the number and its limit.
    """
    for name, value in config.items():
        most = next(limit for rule, limit in _LIMITS if re.search(rule, name))
        for one in (value, *value) if isinstance(value, list) else (value,):
            if isinstance(one, Mapping):
                bounded(one, where)
            size = len(one) if isinstance(one, list) else one
            if isinstance(size, int | float) and not abs(size) <= most:
                raise ValueError(f"{where}: {shown(name)} is {size:.6g}, and the most that is read is {most:,}")


def require(name: str, config: Any, dtype: str, device: str, copies: int = 1) -> None:
    """Refuse a model that does not fit.

    Args:
        copies: how many times its weights have to be in memory.

    Raises:
        ValueError: naming what is needed, what is free, and what to change.
    """
    needed = copies * parameters(config) * getattr(torch, dtype).itemsize
    free = available(device)
    if needed > free:
        times = f"{copies} times " if copies > 1 else ""
        raise ValueError(
            f"{name} does not fit: {times}its weights in {dtype} take {needed / 2**30:,.1f} GiB and {device} has "
            f"{free / 2**30:,.1f} GiB free. Use a smaller model, a larger machine or device, or, for measuring only, "
            "model.dtype: bfloat16"
        )


def parameters(config: Any) -> int:
    """How many parameters a configuration has; nothing is allocated."""
    return sum(p.numel() for p in empty(config).parameters())


def empty(config: Any) -> Any:
    """A model of a configuration whose weights have shapes and nothing else."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


P = ParamSpec("P")
R = TypeVar("R")


def halving(measure: Callable[P, R]) -> Callable[P, R]:
    """A measurement that takes half as many pairs a pass, its `chunk`, where memory runs out. A dataset says so."""
    signature = inspect.signature(measure)

    @wraps(measure)
    def measured(*args: P.args, **kwargs: P.kwargs) -> R:
        bound, halved = signature.bind(*args, **kwargs), False
        bound.apply_defaults()
        own = bound.arguments
        while True:
            try:
                found = measure(*bound.args, **bound.kwargs)
            except Exception as error:
                if not ran_out(error):
                    raise
                if own["chunk"] <= 1:
                    raise MemoryError(
                        f"{measure.__name__}: no memory for one pair at a time: use a larger machine or device, or "
                        "model.dtype: bfloat16"
                    ) from error
            else:
                if halved and hasattr(found, "attrs"):
                    found.attrs["chunk"] = own["chunk"]  # pyright: ignore[reportAttributeAccessIssue] — a dataset's
                return found
            # What the failed pass held goes with its exception, and that with the block above.
            release()
            tried = min(own["chunk"], max(1, len(own["batch"]))) if "batch" in own else own["chunk"]
            own["chunk"], halved = max(1, tried // 2), True
            warnings.warn(f"{measure.__name__}: no memory for {tried} pairs a pass; {own['chunk']} now", stacklevel=2)

    return measured


def ran_out(error: Exception) -> bool:
    """Whether memory ran out. torch has an error of its own for GPUs, and a sentence for the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(re.search(r"(?i)can't allocate memory|out of memory", str(error)))


def release() -> None:
    """Give back to the system what nothing refers to any more: a training, say, whose parts refer to each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        # glibc keeps what is freed for itself; other C libraries have no such function.
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def resting(model: Any, again: Callable[[], Any]) -> Iterator[None]:
    """A large model's weights given up for a while, and read anew behind it; a smaller one stays.

    Args:
        model: a `Model`. Within, its parameters are empty.
        again: reads the same model.
    """
    own = dict(model.module.named_parameters())
    if sum(p.numel() * p.element_size() for p in own.values()) < RESTED:
        yield
        return
    for parameter in own.values():
        parameter.data = parameter.data.new_empty(0)
    release()
    try:
        yield
    finally:
        release()
        for name, parameter in again().module.named_parameters():
            own[name].data = parameter.data


def available(device: str) -> int:
    """Bytes that can still be had on a device; on the CPU no more than this container is allowed."""
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        # What torch keeps of the memory that it was given back is free too.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    free = psutil.virtual_memory().available
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        cache = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        # Pages of files that were read count as used and are given back when they are needed.
        return min(free, limit - used + int(cache["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return free
