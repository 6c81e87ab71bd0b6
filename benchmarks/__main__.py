"""Our seconds, theirs, and the least that the products would take: `python -m benchmarks --shapes mini embedded-shallow`.

Every measurement runs in a fresh process with one thread, so that peak memory is its own. This process imports neither
torch nor transformers: a child's peak would begin at the size of its parent.
"""

import argparse
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

SHAPES = ("mini", "embedded-shallow", "small", "llama")
SAMPLED = {"small": 24}
"""Patches a site that TransformerLens runs, where all of them take half an hour."""
KINDS = ("sweeps", "attribution", "direct", "edges", "faithfulness")
EDGES = ("eap", "eap-ig-5 midpoint", "eap-ig-5 left")
NAMES = {
    "sweeps": "six exact sweeps", "attribution": "six sweeps estimated",
    "direct": "direct attribution, run included", "heads": "direct attribution of a recorded run",
    "faithfulness": "faithfulness, one circuit of 200",
}  # fmt: skip
EAP_NOTE = (
    "The EAP-IG package is not on PyPI: what is there under its name, eap (1.1.14.1), is for empirical asset pricing. "
    "Edge attribution and faithfulness are therefore compared with plain forward passes only."
)


def alone(*arguments: Any) -> dict[str, Any]:
    """One measurement in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_child, *arguments).result()


def _child(*arguments: Any) -> dict[str, Any]:
    from benchmarks.measure import measure

    return measure(*arguments)


def disagreement(ours: Any, theirs: Any) -> float:
    """The largest difference over the largest value, over the patches that the other side ran."""
    if not isinstance(theirs, dict):
        return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    both = [(ours[site][tuple(index.T)], values) for site, (index, values) in theirs.items()]
    return float(max(np.abs(a - b).max() for a, b in both) / max(np.abs(b).max() for _, b in both))


class Bench:
    """One run: rows as they come."""

    def __init__(self, console: Console):
        self.console, self.rows = console, []
        self.gflops = alone("peak")["gflops"]
        self.forward: dict[str, float] = {}

    def shape(self, shape: str, kinds: list[str]) -> None:
        """All rows of one shape."""
        plain = alone("forward", shape)
        self.forward[shape] = plain["seconds"]
        self._row(shape, "one plain forward pass", None, plain)
        wanted = [("sweeps", first) for first in (10, 2)] + [("attribution", 10), ("direct", 10)]
        wanted += [("heads", 10)] + [(name, first) for first in (10, 2) for name in (*EDGES, "faithfulness")]
        if shape == "llama":
            wanted = [("sweeps", 10), ("eap", 10), ("faithfulness", 10)]
        for what, first in wanted:
            kind = {"heads": "direct"}.get(what, what)
            if (kind if kind in KINDS else "edges") in kinds:
                self._compared(shape, what, first)

    def _compared(self, shape: str, what: str, first: int) -> None:
        ours, theirs = alone(what, shape, first), None
        if shape != "llama" and what in ("sweeps", "direct", "heads"):
            theirs = alone(f"theirs {what}", shape, first, SAMPLED.get(shape))
            theirs["off"] = disagreement(ours["values"], theirs["values"])
        self._row(shape, NAMES.get(what, what), first, ours, theirs)

    def _row(self, shape: str, what: str, first: int | None, ours: dict[str, Any], theirs: Any = None) -> None:
        row = {"shape": shape, "what": what, "first": first, "seconds": ours["seconds"]}
        row |= {"forwards": ours["seconds"] / self.forward[shape]}
        row |= {k: ours[k] for k in ("loaded_mb", "peak_mb", "edges") if k in ours}
        if "flops" in ours:
            peak = ours.get("gflops", self.gflops)
            row |= {"gflop": ours["flops"] / 1e9, "floor": ours["flops"] / 1e9 / peak / ours["seconds"]}
        if theirs is not None:
            row |= {"theirs_seconds": theirs["seconds"], "ratio": theirs["seconds"] / ours["seconds"]}
            row |= {"disagreement": theirs["off"], "theirs_loaded_mb": theirs["loaded_mb"]}
            row |= {"theirs_peak_mb": theirs["peak_mb"]}
            if "patches" in theirs:
                row |= {"theirs_patches": theirs["patches"], "theirs_of": theirs["of"]}
        self.rows.append(row)
        self.console.print(
            f"  {shape}: {what}" + ("" if first is None else f" from {first}") + f", {row['seconds']:.3g} s"
        )

    def per_flop(self) -> list[dict[str, Any]]:
        """Seconds per FLOP of `llama` over those of `small`, row by row."""
        found = {(r["shape"], r["what"], r["first"]): r["seconds"] / r["gflop"] for r in self.rows if "gflop" in r}
        return [
            {"what": what, "first": first, "llama_over_small_per_flop": cost / found["small", what, first]}
            for (shape, what, first), cost in found.items()
            if shape == "llama" and ("small", what, first) in found
        ]


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor()
    return {"cpu": model, "cores": os.cpu_count(), "threads": 1, "system": platform.system()}


def versions() -> dict[str, str]:
    """Of what was compared and what it runs on."""
    names = ("torch", "transformers", "transformer-lens")
    from instar import __version__

    return {"instar": __version__, "python": platform.python_version()} | {
        n: importlib.metadata.version(n) for n in names
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows as people read them."""
    out = Table(title="one thread; 16 pairs of 20 tokens that differ from one position on", title_justify="left")
    for name in ("shape", "what", "from"):
        out.add_column(name)
    for name in ("ours, s", "theirs, s", "theirs / ours", "× forward", "largest diff.", "floor", "MB", "theirs, MB"):
        out.add_column(name, justify="right")

    def cell(row: dict[str, Any], key: str, form: str) -> str:
        return "" if row.get(key) is None else format(row[key], form)

    for row in rows:
        sampled = "*" if row.get("theirs_patches") != row.get("theirs_of") else ""
        out.add_row(
            row["shape"], row["what"], cell(row, "first", "d"), cell(row, "seconds", ".3g"),
            cell(row, "theirs_seconds", ".3g") + sampled, cell(row, "ratio", ".1f"), cell(row, "forwards", ".1f"),
            cell(row, "disagreement", ".1e"), cell(row, "floor", ".0%"), cell(row, "peak_mb", ".0f"),
            cell(row, "theirs_peak_mb", ".0f"),
        )  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rows", nargs="+", choices=KINDS, default=list(KINDS), help="which kinds of rows")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results.json"))
    options = parser.parse_args()
    # Read when a child's torch starts.
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    bench = Bench(console)
    for shape in options.shapes:
        bench.shape(shape, options.rows)
    console.print(table(bench.rows))
    if any(shape in SAMPLED for shape in options.shapes):
        console.print("* scaled from a random sample of patches: " + str(SAMPLED) + " a site")
    for row in bench.per_flop():
        console.print(f"{row['what']}: llama / small per FLOP {row['llama_over_small_per_flop']:.2f}")
    looked_over = alone("resume")
    console.print("a finished run of {checkpoints} checkpoints is looked over in {seconds:.2f} s".format(**looked_over))
    console.print(f"{bench.gflops:.0f} GFLOP/s at best. {EAP_NOTE}")
    result = {
        "date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions(),
        "peak_gflops": bench.gflops, "sampled": {k: v for k, v in SAMPLED.items() if k in options.shapes},
        "eap_package": EAP_NOTE, "rows": bench.rows, "per_flop": bench.per_flop(),
        "resume": looked_over,
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
