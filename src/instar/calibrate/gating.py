"""What the gate's numbers are where nothing has changed, and how often planted changes are seen (`instar.compare.gate`).

1. *Nearly nothing*: two short trainings on general text in two orders; and *nothing*: moves that leave a model's function
   as it is. What is allowed is fixed on the first two thirds of the seeds of the first, and false alarms are counted on the
   others: the tolerance bound below which 95 % of such trainings stay in all three numbers, with 95 % confidence, of normal
   numbers and log-normal distances, base by base; the largest base's.
2. *Planted*: the base's circuit of the skill is rewired, all of it and a part of the way: how often that is seen.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import nct, norm

from instar import __version__
from instar.calibrate import nulls
from instar.calibrate.bases import base_of
from instar.calibrate.instances import OLD, Instance, Tell, planted, subject_of
from instar.calibrate.matrix import share
from instar.compare import gate
from instar.record.config.gate import GateConfig
from instar.record.files import write_json
from instar.workflow.gate import check

SEEDS = 18
BASES, FIRST = ("embedded", "embedded-shallow", "embedded-llama"), 40
GROWN = (0.1, 0.4, 1.0)
OPEN = GateConfig(skills=(OLD,), allowed=dict.fromkeys(gate.STATISTICS, 1e-9))
"""Nothing is allowed: what is measured is what is asked."""


def gating(out: Path, seeds: int, tell: Tell) -> dict[str, Any]:
    """Measure, fix and count; written to `OUT/gated.json`."""
    kinds = (nulls.NEAR, *nulls.SINGLE, *(f"{nulls.GROWING}{amount:g}" for amount in GROWN))
    every = [
        Instance(base, kind, FIRST + seed)
        for seed in range(seeds)
        for base in BASES
        for kind in kinds
        # Moves are exact, and planted changes large: a few of each tell.
        if kind == nulls.NEAR or seed < 2
    ]
    rows = list[dict[str, Any]]()
    for done, row in enumerate(_measured(out, every)):
        rows.append(row)
        tell(done + 1, len(every), f"{row['base']}: {row['kind']}, seed {row['seed']}")
    own = counted(rows)
    write_json(out / "gated.json", own)
    return own


def _measured(out: Path, every: Sequence[Instance]) -> Iterator[dict[str, Any]]:
    subjects: dict[str, Any] = {}
    for one in every:
        if one.base not in subjects:
            subjects[one.base] = subject_of(base_of(one.base, out))
        plant = planted(subjects[one.base], one)
        found = check(plant.base, plant.tuned, OPEN)
        numbers = {
            test.statistic: [test.change.value, test.change.low, test.change.high, test.detectable]
            for test in found.tests
            if not np.isnan(test.change.value)
        }
        yield {"base": one.base, "kind": one.kind, "seed": one.seed, "numbers": numbers}


def counted(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is allowed, false alarms on seeds that did not fix it, and how often planted changes were seen."""
    nothing = [row for row in rows if row["kind"] in (nulls.NEAR, *nulls.SINGLE)]
    near = [row for row in nothing if row["kind"] == nulls.NEAR]
    seeds = sorted({row["seed"] for row in near})
    first = set(seeds[: -(-2 * len(seeds) // 3)])
    fixing, held = ([row for row in near if (row["seed"] in first) is one] for one in (True, False))
    allowed = {
        name: max(
            _bound(np.array([row["numbers"][name][0] for row in fixing if row["base"] == base]), name == "edges")
            for base in dict.fromkeys(row["base"] for row in fixing)
        )
        for name in gate.STATISTICS
    }

    def seen(row: dict[str, Any]) -> bool:
        return any(low > allowed[n] or high < -allowed[n] for n, (_, low, high, _) in row["numbers"].items())

    def counts(of: Sequence[dict[str, Any]]) -> dict[str, float]:
        return share(sum(map(seen, of)), len(of))

    planted_ = [*dict.fromkeys(row["kind"] for row in rows if row not in nothing)]
    return {
        "instar": __version__,
        "allowed": {name: float(f"{value:.2g}") for name, value in allowed.items()},
        "false alarms": {nulls.NEAR: counts(held), "moves": counts([row for row in nothing if row not in near])},
        "seen": {kind: counts([row for row in rows if row["kind"] == kind]) for kind in planted_},
        "rows": [
            {**row, "numbers": {k: [float(f"{x:.3g}") for x in v] for k, v in row["numbers"].items()}} for row in rows
        ],
    }


def _bound(values: np.ndarray, positive: bool) -> float:
    """Below which nearly all stay, with confidence 95 %: one-sided normal tolerance factors by the noncentral t."""
    missed, n = 0.05 / len(gate.STATISTICS), len(values)
    own = np.log(values) if positive else values
    share_ = 1 - missed / (1 if positive else 2)
    factor = float(nct.ppf(0.95, n - 1, norm.ppf(share_) * n**0.5)) / n**0.5
    spread = factor * float(own.std(ddof=1))
    return float(np.exp(own.mean() + spread)) if positive else abs(float(own.mean())) + spread
