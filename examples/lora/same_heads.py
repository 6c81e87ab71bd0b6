"""Does LoRA move the same heads as full fine-tuning? Two runs in, one table out.

    instar run examples/lora/full.yaml --out runs/full
    instar run examples/lora/lora.yaml --out runs/lora
    python examples/lora/same_heads.py runs/full runs/lora

Heads are ranked by how much their direct contribution to the new task changed (attribution), and by how much of the new
ability their tuned weights bring into the base (grafting). Agreement is Spearman's rank correlation over all heads, with its
95 % interval over prompts. Beside it stand two yardsticks: what another seed of full fine-tuning agrees to, and what random
orders of the heads reach (p, one-sided).
"""

import sys

import numpy as np
import pandas as pd
from scipy.stats import rankdata

import instar

DRAWS = 10_000


def by_attribution(run: instar.Run, seed: int) -> np.ndarray:
    """Each head's change of direct contribution to the new task, base to last: logits, [pair, head]."""
    heads = run.measure("attribution", run.tasks["new"], seed=seed)["heads"]
    change = (heads.isel(step=-1) - heads.isel(step=0)).stack(at=("layer", "head"))
    return change.transpose("pair", "at").values


def by_grafting(run: instar.Run, seed: int) -> np.ndarray:
    """What each head's tuned weights alone bring into the base on the new task: logits, [pair, head]."""
    found = run.measure("causal", seed=seed).isel(step=-1).sel(task="new")
    gain = found["graft_into"] - found["graft_base"]
    heads = [name for name in gain["set"].values if str(name).startswith("a") and ".h" in str(name)]
    return gain.sel(set=heads).transpose("pair", "set").values


def correlations(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Spearman's, of one [head] or [draw, head] with others [draw, head]."""
    one, others = (rankdata(x, axis=-1) - (x.shape[-1] + 1) / 2 for x in (one, others))
    return (one * others).sum(-1) / np.sqrt((one**2).sum(-1) * (others**2).sum(-1))


def agreement(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Of two rankings [pair, head] on the same prompts: the correlation of means, its interval, and random orders."""
    rng, pairs = np.random.default_rng(0), len(one)
    weights = rng.multinomial(pairs, np.full(pairs, 1 / pairs), DRAWS) / pairs
    rho = float(correlations(one.mean(0), other.mean(0)[None])[0])
    low, high = np.quantile(correlations(weights @ one, weights @ other), (0.025, 0.975))
    chance = correlations(one.mean(0), rng.permuted(np.tile(other.mean(0), (DRAWS, 1)), axis=1))
    return {"Spearman": rho, "low": low, "high": high, "p": (1 + (chance >= rho).sum()) / (1 + DRAWS)}


def main(full_dir: str, lora_dir: str) -> pd.DataFrame:
    """The table: LoRA against full fine-tuning, beside full against itself with another seed."""
    full, lora = instar.load_run(full_dir), instar.load_run(lora_dir)
    rows = []
    for name, ranking in (("attribution", by_attribution), ("grafting", by_grafting)):
        first = ranking(full, full.seeds[0])
        others = {"LoRA against full": (lora, lora.seeds[0])}
        others |= {f"full, seed {s} against seed {full.seeds[0]}": (full, s) for s in full.seeds[1:]}
        rows += [
            {"by": name, "pair": what, "heads": first.shape[1], **agreement(first, ranking(run, seed))}
            for what, (run, seed) in others.items()
        ]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    print(main(*sys.argv[1:3]).to_string(index=False, float_format="{:.3g}".format))
    for place in sys.argv[1:3]:
        run = instar.load_run(place)
        behaviour = run.summary["tasks"][run.tasks["new"]]
        ends = (f"{behaviour['accuracy'][i]:.1%}" for i in (0, -1))
        print(f"{place}: {run.tasks['new']} {' → '.join(ends)}")
