"""How fast this machine is with a model of a shape: blocks of that shape, their weights all zero, timed for some seconds.

No weights are read, and a model that would not fit can be timed.
"""

import copy
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from instar.models.arch import Layout, row
from instar.models.replay import Engine

BLOCKS, PROMPTS, TOKENS = 2, 32, 20
"""What is timed."""
NUMBERS = 4_000_000
"""Numbers that are read and written once, and bytes that are hashed."""


@dataclass(frozen=True)
class Rates:
    """Seconds on this machine."""

    call: float
    """A block, however few its rows."""
    row: float
    """A row in a block, forwards: one token of one prompt."""
    back: float
    """A row in a block, forwards and backwards."""
    word: float
    """The logits of one position."""
    mac: float
    """A multiplication and addition, where edges are summed."""
    number: float
    """A float32 number that is read, changed and written."""
    byte: float
    """A byte that is hashed."""


def rates(config: Any, device: str = "cpu", threads: int | None = None) -> Rates:
    """Seconds of a block of this shape, and of other kinds of work.

    Args:
        config: the transformers configuration of a model.
        threads: of torch; as they are where left out.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return _rates(_few_blocks(config, device), device)
    finally:
        torch.set_num_threads(before)


def _rates(layout: Layout, device: str) -> Rates:
    engine, width = Engine(layout), layout.d_model

    def timed(prompts: int, back: bool = False) -> float:
        tokens = torch.zeros(prompts, TOKENS, dtype=torch.long, device=device)
        frame = engine.frame(tokens, torch.ones_like(tokens, dtype=torch.bool))

        def work() -> None:
            with torch.set_grad_enabled(back):
                run = engine.run(frame, x=frame.x.detach().requires_grad_(back))
                if back:
                    run.final.sum().backward()

        return _least(work) / len(engine.blocks)

    few, many, both = timed(1), timed(PROMPTS), timed(PROMPTS, back=True)
    per_row, rows = max(many - few, 0.0) / ((PROMPTS - 1) * TOKENS), PROMPTS * TOKENS
    x, numbers = torch.zeros(PROMPTS, width, device=device), torch.zeros(NUMBERS, device=device)
    a, b = torch.zeros(32, 256, device=device), torch.zeros(256, 16 * width, device=device)
    call = max(few - TOKENS * per_row, 0.0)
    with torch.no_grad():
        word = _least(lambda: layout.logits(x)) / PROMPTS
        mac = _least(lambda: a @ b) / (a.numel() * b.shape[1])
        number = _least(lambda: numbers.add_(1)) / NUMBERS
    byte = _least(lambda: hashlib.sha256(bytes(NUMBERS))) / NUMBERS
    return Rates(call, per_row, max(both - call, 0.0) / rows, word, mac, number, byte)


def _few_blocks(config: Any, device: str) -> Layout:
    own, layers = copy.deepcopy(config), config.num_hidden_layers
    for name, value in vars(config).items():
        # What each layer is, where they differ.
        if isinstance(value, list) and len(value) == layers:
            setattr(own, name, value[:BLOCKS])
    own.num_hidden_layers = min(BLOCKS, layers)
    with torch.device("meta"):
        module: Any = AutoModelForCausalLM.from_config(own)
    module = module.to_empty(device=device).eval()
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.zero_()
    return Layout(module, row(own))


def _least(work: Callable[[], Any], times: int = 3) -> float:
    """On whatever device: what it is asked to do is done before the clock is read."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found)
