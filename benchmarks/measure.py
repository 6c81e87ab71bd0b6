"""One measurement, in a process of its own: seconds, peak memory, and the values that the two sides are compared by."""

import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks import resume, shapes
from benchmarks.floor import Floor

import instar
from instar.measure.direct_attribution import decomposed
from instar.models.taps import record

SITES = ("resid_pre", "attn_out", "mlp_out", "z", "v", "pattern")
CIRCUIT = 200
LONG, REPEATS = 8.0, 5
"""A measurement that takes longer than LONG seconds is made once, others REPEATS times after one that does not count."""


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """The median of the repeats, and what came out."""
    seconds, result = _once(function)
    if seconds < LONG:
        seconds = statistics.median(_once(function)[0] for _ in range(REPEATS))
    return seconds, result


def _once(function: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = function()
    return time.perf_counter() - began, result


def peak_mb() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_gflops() -> float:
    """What this processor reaches on a product of the size that the sweeps are made of, at its best."""
    left, right = torch.randn(1536, 768), torch.randn(768, 3072)
    times = [_once(lambda: left @ right)[0] for _ in range(30)]
    return 2 * 1536 * 768 * 3072 / min(times) / 1e9


def measure(
    what: str, shape: str = "", first: int = 10, more: Any = None, sites: tuple[str, ...] = SITES
) -> dict[str, Any]:
    """The entry point of a fresh process: one of the measurements below, by name; `more`: a sample, or a folder."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if what == "peak":
        return {"gflops": peak_gflops()}
    if what == "resume":
        return resume.measured()
    module = shapes.build(shape)
    batch = shapes.pairs(module.config.vocab_size, first)
    floor = Floor.of(module.config, shapes.PAIRS, shapes.LENGTH, first)
    if what.startswith("theirs "):
        return _theirs(what.removeprefix("theirs "), module, batch, more)
    if what == "written":
        return _written(module, batch, Path(more))
    if what == "forward":
        return _measured(lambda: _forward(module, batch))
    return _ours(what, instar.load(module), batch, floor, sites)


@torch.no_grad()
def _forward(module: Any, batch: instar.Batch) -> torch.Tensor:
    """A plain pass: all logits of all positions, as `model(tokens)` gives them."""
    return module(input_ids=batch.clean, use_cache=False).logits


def _measured(function: Callable[[], Any]) -> dict[str, Any]:
    loaded = peak_mb()
    seconds, result = timed(function)
    return {"seconds": seconds, "loaded_mb": loaded, "peak_mb": peak_mb(), "result": result}


def _written(module: Any, batch: instar.Batch, folder: Path) -> dict[str, Any]:
    """What `benchmarks.others` reads."""
    module.save_pretrained(folder / "model")
    tokens = {"clean": batch.clean, "corrupted": batch.corrupted, "answer": batch.answer, "foil": batch.foils[:, 0]}
    (folder / "pairs.json").write_text(json.dumps({name: values.tolist() for name, values in tokens.items()}))
    own = module.config
    return {"layers": own.num_hidden_layers, "heads": own.num_attention_heads, "length": batch.clean.shape[1]}


def _ours(what: str, model: instar.Model, batch: instar.Batch, floor: Floor, sites: tuple[str, ...]) -> dict[str, Any]:
    if what == "faithfulness":
        return _faithfulness(model, batch, floor)
    jobs: dict[str, tuple[int, Callable[[], Any]]] = {
        "sweeps": (floor.sweeps(), lambda: instar.patching(model, batch, sites)),
        "attribution": (floor.attribution(), lambda: instar.patching(model, batch, SITES, method="attribution")),
        "direct": (floor.direct(), lambda: instar.attribution(model, batch)),
        "heads": (0, _heads_alone(model, batch)),
        "eap": (floor.edges(), lambda: instar.edges(model, batch, "eap")),
        "eap-ig-5 midpoint": (floor.edges(5, False), lambda: instar.edges(model, batch, "eap-ig", rule="midpoint")),
        "eap-ig-5 left": (floor.edges(5), lambda: instar.edges(model, batch, "eap-ig", rule="left")),
    }
    flops, function = jobs[what]
    # Before and after: a machine that others share is not as fast at one time as at another.
    before = peak_gflops()
    found = _measured(function)
    found["gflops"] = (before + peak_gflops()) / 2
    result = found.pop("result")
    if what == "sweeps":
        found["values"] = {site: result[site].values for site in sites}
    if what == "direct":
        found["values"] = result["heads"].values
    if what == "heads":
        return found | {"values": result["heads"].numpy()}
    return found | {"flops": flops}


def _heads_alone(model: instar.Model, batch: instar.Batch) -> Callable[[], Any]:
    """The decomposition of a run that has been recorded already, as the other side's of a run that is in its cache."""
    with torch.no_grad():
        seen = record(model.layout, batch.clean, batch.mask, keep=("embed", "mlp_out", "attn_raw", "z"))
    return torch.no_grad()(lambda: decomposed(model, batch, seen))


def _faithfulness(model: instar.Model, batch: instar.Batch, floor: Floor) -> dict[str, Any]:
    scored = instar.edges(model, batch, "eap")
    circuit = scored.circuit(n=CIRCUIT)
    found = _measured(lambda: instar.faithfulness(model, batch, circuit))
    edges = int(found.pop("result")["edges"][0])
    return found | {"flops": floor.circuit(scored.graph, circuit.mask), "edges": edges}


def _theirs(what: str, module: Any, batch: instar.Batch, sample: int | None) -> dict[str, Any]:
    from benchmarks import theirs

    model = theirs.hooked(module)
    if what in ("direct", "heads"):
        cache = theirs.cached(model, batch) if what == "heads" else None
        found = _measured(lambda: theirs.direct_attribution(model, batch, cache))
        return found | {"values": found.pop("result")}
    loaded = peak_mb()
    theirs.sweeps(model, batch, 1)
    found = theirs.sweeps(model, batch, sample)
    return found | {"loaded_mb": loaded, "peak_mb": peak_mb()}
