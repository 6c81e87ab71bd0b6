"""Does LoRA move the same heads as full fine-tuning? Two runs in, one table out.

    instar run examples/lora/full.yaml --out runs/full
    instar run examples/lora/lora.yaml --out runs/lora
    python examples/lora/same_heads.py runs/full runs/lora

Heads are ranked by how much their direct contribution to the new task changed (attribution), and by how much of the new
ability their tuned weights bring into the base (grafting). Agreement is Spearman's rank correlation over all heads. Beside it
stand two yardsticks: what a second seed of full fine-tuning agrees to, and what random orders reach (p, one-sided).
"""

import sys

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

import instar

ORDERS = 10_000


def by_attribution(run: instar.Run, seed: int) -> pd.Series:
    """Each head's change of direct contribution to the new task, in logits, base to last."""
    heads = run.measure("attribution", run.tasks["new"], seed=seed)["heads"].mean("pair")
    change = heads.isel(step=-1) - heads.isel(step=0)
    return change.stack(at=("layer", "head")).to_series().rename("change")


def by_grafting(run: instar.Run, seed: int) -> pd.Series:
    """What each head's tuned weights alone bring into the base, in logits of the new task."""
    found = run.measure("causal", seed=seed).isel(step=-1).sel(task="new")
    gain = (found["graft_into"] - found["graft_base"]).mean("pair").to_series()
    return gain[[name for name in gain.index if str(name).startswith("a") and ".h" in str(name)]]


def agreement(one: pd.Series, other: pd.Series) -> tuple[float, float]:
    """Spearman's correlation, and the share of random orders that reach it."""
    rho = spearmanr(one, other.loc[one.index]).statistic
    ranks, rng = one.rank().to_numpy(), np.random.default_rng(0)
    by_chance = [spearmanr(rng.permutation(ranks), other.loc[one.index]).statistic for _ in range(ORDERS)]
    return float(rho), (1 + sum(r >= rho for r in by_chance)) / (1 + ORDERS)


def main(full_dir: str, lora_dir: str) -> pd.DataFrame:
    """The table: LoRA against full fine-tuning, beside full against itself with another seed."""
    full, lora = instar.load_run(full_dir), instar.load_run(lora_dir)
    rows = []
    for name, ranking in (("attribution", by_attribution), ("grafting", by_grafting)):
        first = ranking(full, full.seeds[0])
        others = {"LoRA against full": (lora, lora.seeds[0])}
        others |= {f"full, seed {s} against seed {full.seeds[0]}": (full, s) for s in full.seeds[1:]}
        for what, (run, seed) in others.items():
            rho, p = agreement(first, ranking(run, seed))
            rows.append({"by": name, "pair": what, "heads": len(first), "Spearman": rho, "p": p})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    print(main(*sys.argv[1:3]).to_string(index=False, float_format="{:.3f}".format))
    for place in sys.argv[1:3]:
        behaviour = instar.load_run(place).summary["tasks"]["ioi3"]
        print(f"{place}: ioi3 {behaviour['accuracy'][0]:.1%} → {behaviour['accuracy'][-1]:.1%}")
