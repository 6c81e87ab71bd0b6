"""Is a GPU right, and how fast is it: `python -m benchmarks.device --device cuda --out device.json`.

1. `agreement`: every measurement of tiny models of several families and of `embedded-shallow`, on the device, on the CPU in
   float32, and on the CPU in float64: the largest difference, and which of the two is nearer to float64. TF32 is put on, as
   a training script does, and must change nothing.
2. `runs`: whole runs on both (proofs, training, checkpoints, every stage, causal tests, comparison, page): stage by stage
   what step 0 gives, how far the trainings part, what is skipped and verified afterwards, and whether a second run on the
   device gives the same bytes.
3. `callback`: `instar.CircuitCallback` on a Trainer on the device, in float32, with TF32, in bfloat16 with gradient
   checkpointing, and with adapters: the weights must be those without it.
4. `times`: seconds, peak memory and how busy the GPU was, stage by stage, for models of random weights of real sizes.

Every row is caught on its own and written at once: a failure is kept with its traceback, and the others go on. With
`--quick` everything is tiny, for a try on a CPU.
"""

import argparse
import copy
import datetime
import json
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import xarray as xr

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from benchmarks import device_runs, device_times

import families
import instar
import twins
from instar.between.drift import drift
from instar.between.graft import sets_of
from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.measure.patching import SITES

FAMILIES = (
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "qwen3",
    "gemma2",
    "gemma3",
    "olmo2",
    "phi",
    "opt",
    "stablelm.normed",
)
LONGEST = 90
"""Seconds of one row, unless it says otherwise; it is broken off then."""
Result = dict[str, Any]


class Report:
    """The file: rows of every part, written as they come."""

    def __init__(self, path: Path, device: str):
        self.path, self.device = path, torch.device(device)
        self.data = json.loads(path.read_text()) if path.exists() else {}
        self.data |= {
            "date": datetime.date.today().isoformat(),
            "device": self.name(),
            "cuda": torch.version.cuda,
            "python": platform.python_version(),
        }
        self.data |= {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "instar": instar.__version__,
        }

    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)

    def row(self, part: str, name: str, make: Callable[[], Result], seconds: int = LONGEST) -> None:
        began = time.perf_counter()
        signal.alarm(seconds)
        try:
            found = make()
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        finally:
            signal.alarm(0)
        rows = self.data.setdefault(part, {})
        rows[name] = found | {"row_seconds": round(time.perf_counter() - began, 2)}
        self.path.write_text(json.dumps(self.data, indent=1, default=float) + "\n", encoding="utf-8")
        print(
            part,
            name,
            json.dumps({k: v for k, v in found.items() if k != "traceback"}, default=float)[:600],
            flush=True,
        )


def differences(there: xr.Dataset, here: xr.Dataset, exact: xr.Dataset | None = None) -> Result:
    """Largest differences over all numbers of a result: absolute, and of the largest value of its variable.

    `nearer`: the median over variables of the device's distance from float64 over the CPU's; below 1 the device is nearer.
    """
    worst, ratios = {"absolute": 0.0, "relative": 0.0, "in": ""}, []
    for name in here.data_vars:
        a, b = np.asarray(there[name].values), np.asarray(here[name].values)
        if b.dtype.kind not in "fib":
            continue
        a, b = a.astype(float), b.astype(float)
        if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
            return {"absolute": np.inf, "relative": np.inf, "in": f"{name}: other shape, or NaN elsewhere"}
        off, size = float(np.nan_to_num(np.abs(a - b)).max(initial=0)), float(np.nan_to_num(np.abs(b)).max(initial=0))
        if off / (size or 1) >= worst["relative"]:
            worst |= {"relative": off / (size or 1), "in": name}
        worst["absolute"] = max(worst["absolute"], off)
        if exact is not None and here[name].dtype.kind == "f":
            own = [float(np.sqrt(np.nansum((x - exact[name].values.astype(float)) ** 2))) for x in (a, b)]
            ratios += [own[0] / own[1]] if own[1] > 0 else []
    return worst | ({"nearer": float(np.median(ratios))} if ratios else {})


def measurements(base: Any, tuned: Any, batches: dict[str, Any], circuit: Any) -> dict[str, Callable[[], xr.Dataset]]:
    """Every measurement, by name."""
    batch, graph = next(iter(batches.values())), Graph.of(base.layout)
    heads = [n for n in graph.sources if ".h" in n]
    sites = (*SITES, *(() if base.layout.parallel else ("resid_mid",)))
    last = f"a{graph.n_layers - 1}.h1"
    scored = {m: lambda m=m: instar.edges(base, batch, m, per_pair=True).dataset for m in ("eap-ig", "gim", "relp")}
    small = {"exact edges": lambda: instar.edges(base, batch, "exact").dataset} if graph.n_edges < 2000 else {}
    return scored | small | {
        "evaluate": lambda: instar.evaluate(base, batch),
        "lens": lambda: instar.lens(base, batch),
        "attribution": lambda: instar.attribution(base, batch),
        "attention": lambda: instar.attention(base, batch),
        "patching": lambda: instar.patching(base, batch, sites, by="slot", per_pair=True),
        "estimated patching": lambda: instar.patching(base, batch, sites, method="attribution", per_pair=True),
        "path patching": lambda: instar.path_patching(base, batch, ["input", "a0.h1", "m0"], [last, "logits"]),
        "set patching": lambda: instar.set_patching(base, batch, {"some": heads[:3], "mlps": ["m0"]}),
        "faithfulness": lambda: instar.faithfulness(base, batch, circuit),
        "faithfulness, means": lambda: instar.faithfulness(base, batch, circuit, ablation="mean"),
        "roles": lambda: instar.roles(base, batches, repeats=4, length=8),
        "graft": lambda: instar.graft(base, tuned, batch, sets_of(graph, heads[:2])),
        "exchange": lambda: instar.exchange(base, tuned, batch, {"heads": heads[:3], "m0": ["m0"]}),
        "residual learning": lambda: instar.residual_learning(base, tuned, batch),
        "drift": lambda: drift(base, tuned, batch.clean, batch.mask),
    }  # fmt: skip


def agree(
    report: Report, name: str, modules: tuple[Any, Any], batches: dict[str, Any], tokenizer: Any = None
) -> Result:
    """One model: the device against the CPU, and both against float64. The modules are in float32, on the CPU."""
    kinds = {"here": torch.float32, "exact": torch.float64, "there": torch.float32}
    models = {}
    for kind, dtype in kinds.items():
        where = report.device if kind == "there" else "cpu"
        models[kind] = [instar.load(copy.deepcopy(m).to(where, dtype), tokenizer) for m in modules]
    graph = Graph.of(models["exact"][0].layout)
    kept = graph.exists & (np.random.default_rng(0).random(graph.exists.shape) < 0.4)
    made = {kind: measurements(*own, batches, Circuit.of(graph, kept)) for kind, own in models.items()}
    for what in made["here"]:
        row = lambda what=what: differences(*(made[kind][what]() for kind in ("there", "here", "exact")))  # noqa: E731
        report.row("agreement", f"{name}: {what}", row)
    return {}


def agreement(report: Report, quick: bool) -> None:
    for family in FAMILIES[: 2 if quick else None]:
        base = families.tiny(family)
        pair, batch = (base.float(), twins.noisy(base.double(), 0.05).float()), twins.prompts()
        whole = partial(agree, report, family, pair, {"x": batch})
        report.row("agreement", f"{family}: whole", whole)
    own = instar.load("embedded-shallow")
    batches = {
        kind: instar.task("ioi3").batch(own, 4 if quick else 16, 0, counterfactual=kind)
        for kind in ("giver1", "giver2")
    }
    pair = (own.module, twins.noisy(own.module, 0.02))
    report.row(
        "agreement", "embedded-shallow: whole", partial(agree, report, "embedded-shallow", pair, batches, own.tokenizer)
    )
    report.row("agreement", "TF32", lambda: tf32(report, own, batches["giver1"]))


def tf32(report: Report, own: Any, batch: Any) -> Result:
    """The same bits whatever a script has put on; `plain`: how far a plain forward pass is off then."""
    model = instar.load(copy.deepcopy(own.module).to(report.device), own.tokenizer)
    tokens, found = batch.clean.to(report.device), {}
    with torch.no_grad():
        whole = model.module(input_ids=tokens).logits
        before = instar.evaluate(model, batch)
        for way in ("allow_tf32", "fp32_precision", "medium"):
            if way == "allow_tf32":
                torch.backends.cuda.matmul.allow_tf32 = True
            elif way == "fp32_precision":
                torch.backends.cuda.matmul.fp32_precision = "tf32"
            else:
                torch.set_float32_matmul_precision("medium")
            rounded = model.module(input_ids=tokens).logits
            after, again = instar.evaluate(model, batch), model.module(input_ids=tokens).logits
            found[way] = {
                "same": before.drop_attrs().identical(after.drop_attrs()),
                "plain": float((rounded - whole).abs().max() / whole.abs().max()),
                "left as it was": bool(torch.equal(rounded, again)),
            }
            torch.set_float32_matmul_precision("highest")
            torch.backends.cuda.matmul.fp32_precision = "none"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--shapes", nargs="+", choices=device_times.SHAPES, default=["gpt2", "llama-1b", "gpt2-xl"])
    parser.add_argument("--few", action="store_true", help="times of few pairs, to set a CPU beside it")
    parser.add_argument("--quick", action="store_true", help="everything tiny")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/device.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    signal.signal(signal.SIGALRM, _too_long)
    report = Report(options.out, options.device)
    for part in options.parts:
        PARTS[part](report, options)


def _too_long(*_: Any) -> None:
    raise TimeoutError("took too long")


PARTS = {
    "agreement": lambda report, options: agreement(report, options.quick),
    "runs": lambda report, options: device_runs.runs(report, differences, options.quick),
    "callback": lambda report, options: device_runs.callbacks(report),
    "times": lambda report, options: device_times.times(report, options),
}

if __name__ == "__main__":
    main()
