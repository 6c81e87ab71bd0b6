"""float32 means float32: on processors that can multiply faster with fewer digits, a measurement's products are whole.

NVIDIA's TF32 keeps ten bits of each factor, and some CPUs do the like with bfloat16. torch leaves both off; a training script
often puts them on for the whole process (`allow_tf32`, `set_float32_matmul_precision`, `fp32_precision`), and measuring in
the same process would then be off by 1e-3 without a word. So they are off while instar measures or trains, and as before
afterwards. Convolutions (cuDNN) are in none of the families, and are left alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

WHOLE = ("none", "ieee")
"""What torch 2.9 and later call whole products; "none": by default."""
_backends: Any = torch.backends


def _nothing() -> None:
    pass


_guard = Lock()
_inside = 0
_restore: Callable[[], None] = _nothing


@contextmanager
def whole_products() -> Iterator[None]:
    """Inside, products of float32 numbers are whole; the process's setting is as before when the last thread leaves."""
    global _inside, _restore
    with _guard:
        _restore = _restore if _inside else _made_whole()
        _inside += 1
    try:
        yield
    finally:
        with _guard:
            _inside -= 1
            if not _inside:
                _restore()


def _made_whole() -> Callable[[], None]:
    """Make products whole. Returns what undoes it."""
    every = (_backends.cuda.matmul, getattr(_backends.mkldnn, "matmul", None))
    parts: list[Any] = [part for part in every if _said(part) is not None]
    before, older = [_said(part) for part in parts], _older()
    if older == "highest" and all(said in WHOLE for said in before):
        return _nothing
    # torch has two ways to say this, and reading the one raises where the other says something else: so both are set.
    torch.set_float32_matmul_precision("highest")

    def undo() -> None:
        torch.set_float32_matmul_precision(older)
        for part, said in zip(parts, before, strict=True):
            # What a part had only from the setting for all is left to that again.
            part.fp32_precision = "none" if said == _backends.fp32_precision else said

    return undo


def _said(part: Any) -> str | None:
    return getattr(part, "fp32_precision", None)


def _older() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # said in the newer way alone, which the older one has no word for
        return "highest"
