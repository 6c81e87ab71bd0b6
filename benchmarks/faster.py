"""What other ways of multiplying would bring to exact patching, and cost in digits: `python -m benchmarks.faster`.

Each is tried in the place where most of the time goes, a wavefront's blocks (`instar.models.replay`): attention in one kernel
that keeps no pattern; MLPs compiled by torch; products of bfloat16 factors with float32 sums. One thread, in one process,
turn by turn; the best of three.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import shapes
from benchmarks.__main__ import machine
from rich.console import Console

import instar
from instar.models import replay
from instar.models.block import Block

SITE, TIMES = "z", 3


@contextmanager
def put(owner: Any, name: str, value: Any) -> Iterator[None]:
    """In the place of what is there, for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def one_kernel() -> Iterator[None]:
    """Attention by torch's own function, inside wavefronts."""
    attend, travel, inside = Block.attend, replay._Wave.travel, []

    def own(block: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
        if not inside:
            return attend(block, q, k, v, mask)
        scale = block._options["scaling"]
        return None, torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)

    def carried(wave: Any) -> Any:
        inside.append(1)
        try:
            return travel(wave)
        finally:
            inside.pop()

    with put(Block, "attend", own), put(replay._Wave, "travel", carried):
        yield


@contextmanager
def compiled() -> Iterator[None]:
    """MLPs by torch.compile; the first call, which compiles, does not count."""
    made: dict[Any, Callable[[Any], Any]] = {}
    plain = Block.mlp

    def own(block: Any, x: Any) -> Any:
        key = id(block._mlp[0])
        if key not in made:
            made[key] = torch.compile(lambda y: plain(block, y), dynamic=True)
        return made[key](x)

    with put(Block, "mlp", own):
        yield


@contextmanager
def half() -> Iterator[None]:
    """Products of bfloat16 factors, inside wavefronts."""
    travel = replay._Wave.travel

    def carried(wave: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return travel(wave)

    with put(replay._Wave, "travel", carried):
        yield


WAYS = {"attention in one kernel": one_kernel, "MLPs compiled": compiled, "bfloat16 products": half}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=shapes.NAMES, default="small")
    parser.add_argument("--layers", type=int, help="of the shape, only so many")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/faster.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    module, console = shapes.build(options.shape), Console(width=120)
    if options.layers:
        del module.transformer.h[options.layers :]
        module.config.n_layer = options.layers
    model, batch = instar.load(module), shapes.pairs(module.config.vocab_size, 10)

    def once() -> tuple[float, np.ndarray]:
        began = time.perf_counter()
        found = instar.patching(model, batch, (SITE,))
        return time.perf_counter() - began, (found[SITE] - found["corrupted"].mean()).values

    plain = min((once() for _ in range(TIMES)), key=lambda took: took[0])
    rows = []
    for name, way in WAYS.items():
        row: dict[str, Any] = {"way": name}
        with suppress(KeyboardInterrupt), way():
            try:
                once()
                own = min((once() for _ in range(TIMES)), key=lambda took: took[0])
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {str(error)[:200]}"
            else:
                off = float(np.abs(own[1] - plain[1]).max() / np.abs(plain[1]).max())
                row |= {"seconds": own[0], "of_plain": own[0] / plain[0], "largest_error": off}
        rows.append(row)
        console.print(row)
    result = {"shape": options.shape, "layers": options.layers, "machine": machine(), "plain": plain[0], "rows": rows}
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
