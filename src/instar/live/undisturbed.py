"""A model that somebody is training: how its weights are taken, and how nothing of the training is disturbed.

1. The model itself is never run, and nothing of it is changed: its weights are read and written to a file, and what is
   measured is the file. So its mode, gradients, hooks, attention function and flags are as they were because nobody touched
   them.
2. What it shares with the process (random numbers, gradient mode, autocast, precision, threads) is put back after every
   call, also after an exception.
3. Adapters are merged in a float32 copy; the wrappers of several devices and of torch.compile are looked through.
"""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from instar.models.adapters import folded
from instar.models.load import Model
from instar.models.plain import unwrapped as out_of_wrappers
from instar.models.precision import whole_products


def unwrapped(model: Any) -> Any:
    """The transformers or peft model itself.

    Raises:
        ValueError: for what cannot be written as a plain model: quantized weights, adapters that cannot be merged, a family
            that instar does not know.
    """
    module = model.module if isinstance(model, Model) else out_of_wrappers(model)
    name = type(module).__name__
    if (
        getattr(module, "hf_quantizer", None) is not None
        or getattr(module.config, "quantization_config", None) is not None
    ):
        raise ValueError(
            f"model: {name} has quantized weights, which instar does not measure; train it in 16 or 32 bits"
        )
    if getattr(module, "_hf_peft_config_loaded", False) or (
        _adapted(module) and not hasattr(module, "merge_and_unload")
    ):
        raise ValueError(
            f"model: the adapters of {name} cannot be merged into its weights; use LoRA through peft.get_peft_model"
        )
    return module


def plain(module: Any) -> Any:
    """What `save_pretrained` can be called on without a trace: parameters are shared, the config is a copy.

    Adapters are merged, in a whole float32 copy.
    """
    if _adapted(module):
        return folded(copy.deepcopy(module).float().eval(), type(module).__name__)[0]
    alone = copy.copy(module)
    # Saving writes the type and the architecture into the config.
    alone.config = copy.deepcopy(module.config)
    return alone


def how(module: Any) -> str | None:
    """In which way what is measured is not the weights as they are; None where it is."""
    if _adapted(module):
        return "adapters merged in float32"
    dtype = str(next(module.parameters()).dtype).removeprefix("torch.")
    return None if dtype == "float32" else f"{dtype} weights"


def _adapted(module: Any) -> bool:
    return getattr(module, "peft_config", None) is not None


@contextmanager
def undisturbed(threads: int | None = None) -> Iterator[None]:
    """Random numbers, gradient mode, autocast, precision and threads of the process are the same afterwards.

    Inside, gradients can be taken, nothing is cast, float32 products are whole (no TF32), and `threads` are used.
    """
    restore = [*_generators(), *_settings()]
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
                stack.enter_context(torch.autocast(device, enabled=False))
            if threads is not None:
                torch.set_num_threads(threads)
            stack.enter_context(whole_products())
            yield
    finally:
        for undo in restore:
            undo()


def _generators() -> Iterator[Callable[[], Any]]:
    python, arrays, torch_cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield lambda: random.setstate(python)
    yield lambda: np.random.set_state(arrays)
    yield lambda: torch.set_rng_state(torch_cpu)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states = torch.cuda.get_rng_state_all()
        yield lambda: torch.cuda.set_rng_state_all(states)
    if torch.backends.mps.is_available():
        state = torch.mps.get_rng_state()
        yield lambda: torch.mps.set_rng_state(state)


def _settings() -> Iterator[Callable[[], Any]]:
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    yield lambda: torch.set_num_threads(threads)
    yield lambda: torch.set_default_dtype(dtype)


def settled() -> None:
    """Wait for the GPU: what the training has still to do there is not instar's time."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
