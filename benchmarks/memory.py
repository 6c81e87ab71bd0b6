"""Peak memory and seconds of each measurement on models of real sizes, each in a process of its own.

`python -m benchmarks.memory [xl 1b small]` makes a base and a tuned model of random weights (bfloat16 on disk, measured in
float32 on the CPU) and adds to `benchmarks/memory.json`. Random weights take what real ones of the shape take.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import instar

PAIRS, LENGTH, FIRST = 4, 16, 8
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "small": ("gpt2", {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257, "n_positions": 1024}),
    "xl": ("gpt2", {"n_layer": 48, "n_head": 25, "n_embd": 1600, "vocab_size": 50257, "n_positions": 1024}),
    "1b": (
        "llama",
        {
            **{"num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 2048},
            **{"intermediate_size": 8192, "vocab_size": 128256, "max_position_embeddings": 2048},
            "tie_word_embeddings": True,
        },
    ),
}
STAGES = ("load", "lens", "patching", "edges", "faithfulness", "graft", "ledger")


def make(shape: str, root: Path) -> None:
    """A base, and one whose every weight is a little different."""
    kind, sizes = SHAPES[shape]
    config = AutoConfig.for_model(kind, bos_token_id=0, eos_token_id=0, **sizes)
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    tokenizer = instar.load("embedded-shallow").tokenizer
    module.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    with torch.no_grad():
        for value in module.parameters():
            value.add_(torch.randn_like(value), alpha=0.002)
    module.save_pretrained(root / "tuned")


def measure(stage: str, root: Path) -> None:
    """Prints one row; runs in a process of its own."""
    torch.set_num_threads(2)
    base = instar.load(root / "base")
    tuned = instar.load(root / "tuned", like=base) if stage in ("graft", "ledger") else base
    draw = torch.Generator().manual_seed(0)
    vocabulary = base.module.config.vocab_size
    clean = torch.randint(1, vocabulary, (PAIRS, LENGTH), generator=draw)
    corrupted = clean.clone()
    corrupted[:, FIRST] = clean[:, FIRST] % (vocabulary - 1) + 1
    answer = torch.randint(1, vocabulary, (PAIRS,), generator=draw)
    batch = instar.Batch.from_tokens(clean, corrupted, answer, answer % (vocabulary - 1) + 1)
    layer = base.layout.n_layers // 2
    jobs: dict[str, Callable[[], Any]] = {
        "load": lambda: None,
        "lens": lambda: instar.lens(base, batch),
        "patching": lambda: instar.patching(base, batch, ("resid_pre", "z"), method="attribution"),
        "edges": lambda: instar.edges(base, batch, "eap-ig"),
        "faithfulness": lambda: instar.faithfulness(base, batch, instar.edges(base, batch, "eap").circuit(n=1000)),
        "graft": lambda: instar.graft(base, tuned, batch, {"a head": [f"a{layer}.h0"], "an MLP": [f"m{layer}"]}),
        "ledger": lambda: instar.ledger([base, tuned], batch, of="choosing", nodes=3),
    }
    began = time.perf_counter()
    jobs[stage]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row = {"seconds": round(time.perf_counter() - began, 1), "peak_gib": round(peak, 2)}
    print(json.dumps(row | {"parameters": sum(p.numel() for p in base.module.parameters())}))


def main() -> None:
    """All stages of the shapes that are asked for."""
    place = Path(__file__).with_name("memory.json")
    found = json.loads(place.read_text()) if place.exists() else {}
    for shape in sys.argv[1:] or SHAPES:
        with tempfile.TemporaryDirectory() as scratch:
            make(shape, Path(scratch))
            for stage in STAGES:
                command = [sys.executable, "-m", "benchmarks.memory", "--one", stage, scratch]
                done = subprocess.run(command, capture_output=True, text=True)
                last = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
                row = json.loads(done.stdout) if done.returncode == 0 else {"failed": last[0]}
                found.setdefault(shape, {})[stage] = row
                print(f"{shape:6} {stage:14} {row}", flush=True)
                place.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
