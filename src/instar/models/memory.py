"""Whether a model fits, asked before it is read: a machine that swaps for an hour, or kills the run, says nothing."""

from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM

CGROUP = Path("/sys/fs/cgroup")
TRAINED = 4
"""Copies of the weights that training holds: themselves, gradients, and AdamW's two moments."""


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


def available(device: str) -> int:
    """Bytes that can still be had on a device; on the CPU no more than this container is allowed."""
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        cache = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        # Pages of files that were read count as used and are given back when they are needed.
        return min(free, limit - used + int(cache["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return free
