"""Seconds, memory and how busy the GPU was, stage by stage, on models of random weights: a part of `benchmarks.device`.

Prompts are the library's, of about twenty tokens by `embedded-shallow`'s tokenizer; the vocabulary has the real size. What a
random model answers means nothing, what it costs is what a trained one would.
"""

import gc
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import instar
from instar.between.causal import causal
from instar.between.drift import drift
from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.models import replay
from instar.record.config import MeasureConfig, RunConfig, TrainConfig
from instar.training.train import Row, Told, train
from instar.workflow.experiment import Experiment
from instar.workflow.pipeline import data_stage
from instar.workflow.stages import STAGES, Pairs, causal_prompts

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2-xl": ("gpt2", {"n_layer": 48, "n_head": 25, "n_embd": 1600}),
    "llama-1b": ("llama", {
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 2048,
        "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True, "max_position_embeddings": 2048,
    }),
    "quick": ("gpt2", {"n_layer": 2, "n_head": 4, "n_embd": 64}),
}  # fmt: skip
FEW = {"patching_pairs": 4, "circuit_pairs": 4, "role_pairs": 4}
"""So many that a CPU can be set beside it."""
SIZES = ((1, 16), (8, 16), (8, 64), (64, 64))
"""How much is computed at once, in what it is on a CPU; and how many pairs."""
Result = dict[str, Any]


def times(report: Any, options: Any) -> None:
    """Every shape that was asked for."""
    with tempfile.TemporaryDirectory() as scratch:
        config = RunConfig.checked({"data": {"test_size": 200} if options.few or options.quick else {}}, "benchmark")
        experiment = Experiment.create(Path(scratch) / "data", config)
        with experiment.store.owned():
            data_stage(experiment, told=True)
        how = MeasureConfig(exact_ends=False, **(FEW if options.few or options.quick else {}))
        for shape in options.shapes:
            _Shape(report, experiment, how, shape, options).all()
            gc.collect()


class _Shape:
    """The rows of one shape."""

    def __init__(self, report: Any, experiment: Experiment, how: MeasureConfig, shape: str, options: Any):
        self.report, self.experiment, self.how, self.options = report, experiment, how, options
        self.tokenizer = instar.load("embedded-shallow").tokenizer
        self.shape = shape
        few, threads = (
            " few" if options.few else "",
            f" {options.threads} threads" if report.device.type == "cpu" else "",
        )
        self.name = shape + few + threads
        self.models: list[Any] = []
        self.pairs = Pairs(experiment.store, "ioi3", self.tokenizer, 32 if options.few or options.quick else 96)

    def all(self) -> None:
        """Load, every stage, and for the small shape training, causal tests and other sizes of what is done at once."""
        self._row("load", lambda: self.models.append(self._made(0)))
        for stage, measurement in STAGES.items():
            self._row(stage, lambda m=measurement: m(self.models[0], self.pairs, self.how, False))
        if self.shape not in ("gpt2", "quick"):
            if self.shape == "llama-1b":
                self._row("training, 20 steps", self._trained)
            self.models.clear()
            return
        self._row("load a second", lambda: self.models.append(self._made(1)))
        text = self.pairs.batch(count=64)
        self._row("drift", lambda: drift(*self.models, text.clean, text.mask))
        self._row("causal", self._causal)
        if not self.options.few:
            for factor, chunk in SIZES:
                for stage in ("patching", "circuit", "roles"):
                    self._row(f"{stage}, {factor} x, chunk {chunk}", partial(self._sized, stage, factor, chunk))
            self._row("training, 20 steps", self._trained)
            self._row("training again", lambda: self.models.append(self._made(0)) or self._trained())
        self.models.clear()

    def _row(self, what: str, work: Callable[[], Any]) -> None:
        self.report.row("times", f"{self.name}: {what}", lambda: self._measured(work))

    def _measured(self, work: Callable[[], Any]) -> Result:
        own = self.report.device.type == "cuda"
        if own:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with _busy(own) as seen:
            wall, processor = time.perf_counter(), time.process_time()
            more = work()
            if own:
                torch.cuda.synchronize()
            found = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}
        found["host_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if own:
            found |= {
                "gpu_gib": torch.cuda.max_memory_allocated() / 2**30,
                "gpu_busy": float(np.mean(seen)) if seen else None,
            }
        return found | (more if isinstance(more, dict) else {})

    def _made(self, seed: int) -> Any:
        kind, sizes = SHAPES[self.shape]
        config = AutoConfig.for_model(kind, bos_token_id=0, eos_token_id=0, **sizes)
        torch.manual_seed(seed)
        with self.report.device:
            module = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
        return instar.load(module, self.tokenizer)

    def _causal(self) -> None:
        graph = Graph.of(self.models[0].layout)
        draw = np.random.default_rng(0).random((2, *graph.exists.shape))
        circuits = [Circuit.of(graph, graph.exists & (d < 0.02)) for d in draw]
        old, new = (causal_prompts(self.pairs, 16 if self.options.few or self.options.quick else 64) for _ in range(2))
        small = {"random": 10, "exchanged": 4, "single": False} if self.options.few or self.options.quick else {}
        causal(*self.models, old, new, *circuits, **small)

    def _sized(self, stage: str, factor: int, chunk: int) -> None:
        before, replay.ON_GPU = replay.ON_GPU, factor
        try:
            STAGES[stage](self.models[0], self.pairs, self.how.model_copy(update={"replay_chunk": chunk}), False)
        finally:
            replay.ON_GPU = before

    def _trained(self) -> Result:
        """Twenty steps of the newest model that was made with seed 0."""
        model = self.models[0] if len(self.models) < 3 else self.models[-1]
        rows = [Row(p.clean, p.answer) for p in instar.task("ioi3").fit(self.tokenizer).pairs(320, 0, "train")]
        config = TrainConfig(steps=20, checkpoints=(20,))
        store = self.experiment.store
        with store.owned():
            heldout = self.pairs.batch(count=96)
            index = train(model, rows, heldout, config, store, 0, 0, Told(lambda *_: None, lambda _: None))
        return {"weights": index["steps"][-1]["sha256"][:16]}


@contextmanager
def _busy(wanted: bool):
    """Samples of how busy the GPU was, in per cent, while this is open."""
    seen, stop = [], threading.Event()

    def look() -> None:
        while not stop.wait(0.1):
            seen.append(torch.cuda.utilization())

    thread = threading.Thread(target=look, daemon=True)
    if wanted:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        if wanted:
            thread.join()
