"""The sweeps beside other programs, each in an environment of its own: `python -m benchmarks.others --shapes small`.

All in one run, one thread each, one after another; ours once more with two threads. Of the others a random sample of each
site's patches is run and scaled. Environments are made once, under `.bench/`.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.__main__ import alone, disagreement, machine
from rich.console import Console

HERE = Path(__file__).parent
SITES = ("resid_pre", "attn_out", "mlp_out", "z", "v", "pattern")
OTHERS = {
    "transformer-lens": ("4.3.0", "bridge.py", SITES),
    # No pattern there (`traces`).
    "nnsight": ("0.8.1", "traces.py", SITES[:-1]),
}
TORCH = "torch==2.13.0"
SAMPLE = 12
"""Patches a site that the others run."""


def environment(name: str, version: str) -> Path:
    """Its Python."""
    folder = Path(".bench") / f"{name}-{version}"
    if not (folder / "whole").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", TORCH, f"{name}=={version}"], check=True)
        (folder / "whole").touch()
    return (folder / "bin/python").absolute()


def places(layers: int, heads: int, length: int) -> dict[str, list[list[int]]]:
    """By site, a sample of its patches."""
    draw, found = np.random.default_rng(0), {}
    for site in SITES:
        count = length if site in SITES[:3] else heads
        every = [[layer, place] for layer in range(layers) for place in range(count)]
        found[site] = [every[i] for i in sorted(draw.choice(len(every), min(SAMPLE, len(every)), replace=False))]
    return found


def run(name: str, folder: Path, sampled: dict[str, list[list[int]]], totals: dict[str, int]) -> dict[str, Any]:
    """Another program's seconds of all patches, and the values of those that it ran."""
    version, script, sites = OTHERS[name]
    (folder / "places.json").write_text(json.dumps({site: sampled[site] for site in sites}))
    done = subprocess.run(
        [environment(name, version), HERE / script, folder, name], check=True, capture_output=True, text=True
    )
    said = json.loads(done.stdout.splitlines()[-1])
    found = said["found"]
    seconds = found["read"] + sum(found[site]["seconds"] * totals[site] / len(sampled[site]) for site in sites)
    values = {site: (np.array(sampled[site]), np.array(found[site]["values"])) for site in sites}
    return {"seconds": seconds, "values": values, "peak_mb": said["peak_mb"], "versions": said["versions"]}


def compared(shape: str, first: int, console: Console) -> dict[str, Any]:
    """One shape's row: ours by one and two threads, and every other's."""
    with tempfile.TemporaryDirectory() as kept:
        sizes = alone("written", shape, first, kept)
        sampled = places(sizes["layers"], sizes["heads"], sizes["length"])
        totals = {site: sizes["layers"] * (sizes["length"] if site in SITES[:3] else sizes["heads"]) for site in SITES}
        ours = {sites: alone("sweeps", shape, first, None, sites) for sites in (SITES, SITES[:-1])}
        os.environ["OMP_NUM_THREADS"] = "2"
        both = alone("sweeps", shape, first, None, SITES)
        os.environ["OMP_NUM_THREADS"] = "1"
        row: dict[str, Any] = {"shape": shape, "first": first, "forward": alone("forward", shape)["seconds"]}
        own = ours[SITES]
        row |= {"peak_gflops": own["gflops"], "floor": own["flops"] / 1e9 / own["gflops"] / own["seconds"]}
        row |= {"seconds": own["seconds"], "two_threads": both["seconds"], "peak_mb": own["peak_mb"]}
        found = {"HookedTransformer, transformer-lens": (alone("theirs sweeps", shape, first, SAMPLE), SITES)}
        found |= {name: (run(name, Path(kept), sampled, totals), sites) for name, (*_, sites) in OTHERS.items()}
    row["others"] = [
        {
            "name": name, "versions": its.get("versions"), "sites": sites, "seconds": its["seconds"],
            "ours": ours[sites]["seconds"], "ratio": its["seconds"] / ours[sites]["seconds"],
            "disagreement": disagreement(ours[sites]["values"], its["values"]), "peak_mb": its["peak_mb"],
        }
        for name, (its, sites) in found.items()
    ]  # fmt: skip
    console.print(
        f"{shape}, first = {first}: {row['seconds']:.3g} s, {row['seconds'] / row['forward']:.0f} forward passes, "
        f"{row['floor']:.0%} of what the products take at best; two threads {both['seconds']:.3g} s"
    )
    for its in row["others"]:
        console.print(
            f"  {its['name']}, {len(its['sites'])} sweeps: {its['seconds']:.3g} s, ours {its['ours']:.3g} s, ratio "
            f"{its['ratio']:.1f}, largest difference {its['disagreement']:.1e} of the largest effect"
        )
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=("mini", "embedded-shallow", "small"), default=["small"])
    parser.add_argument("--first", nargs="+", type=int, default=[10, 2])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/others.json"))
    options = parser.parse_args(arguments)
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    console = Console(width=150)
    result = {"date": datetime.date.today().isoformat(), "machine": machine(), "sample": SAMPLE, "rows": []}
    for shape in options.shapes:
        for first in options.first:
            result["rows"].append(compared(shape, first, console))
            # A killed one keeps what is done.
            options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
