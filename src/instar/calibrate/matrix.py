"""How often the verdict is right on planted truths: thresholds fixed on half of the seeds, counted on the other half.

1. Even seeds are for fixing: over `GRID`, the thresholds with the most instances right, a wrong one costing three. Where many
   do equally well, those in the middle of the tied values are taken, the least extreme.
2. Odd seeds are held out: the confusion matrix over them, with Wilson intervals, is what is reported. Instances whose
   manipulation check failed are set aside in both halves, and counted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from instar import __version__
from instar.calibrate.instances import Instance, Tell, instances, make_all, read
from instar.calibrate.planted import KINDS, TRAPS
from instar.compare.verdict import Thresholds, verdict
from instar.record.files import write_json
from instar.stats.intervals import wilson

GRID = {"share": (0.1, 0.15, 0.2, 0.25, 0.3, 0.4), "margin": (0.1, 0.2, 0.3), "transfer": (0.3, 0.5, 0.7)}
COST = 3


@dataclass(frozen=True)
class Judged:
    """One instance and its evidence."""

    instance: Instance
    evidence: xr.Dataset
    took: bool

    @property
    def held_out(self) -> bool:
        """Whether it is kept from fixing thresholds."""
        return self.instance.seed % 2 == 1

    @property
    def truth(self) -> str:
        """The right verdict."""
        return KINDS[self.instance.kind][1]


def fixed(rows: Sequence[Judged]) -> Thresholds:
    """The thresholds that do best on the fixing half; the defaults where there is nothing to fix them on."""
    own = _for_fixing(rows)
    if not own:
        return Thresholds()
    scores = {}
    for values in product(*GRID.values()):
        limits = replace(Thresholds(), **dict(zip(GRID, values, strict=True)))
        kinds = [verdict(row.evidence, limits).kind for row in own]
        right = sum(k == row.truth for k, row in zip(kinds, own, strict=True))
        wrong = sum(k not in (row.truth, "undetermined") for k, row in zip(kinds, own, strict=True))
        scores[values] = right - COST * wrong
    best = [values for values, score in scores.items() if score == max(scores.values())]
    chosen = np.array([[GRID[name].index(v) for name, v in zip(GRID, values, strict=True)] for values in best])
    middle = np.abs(chosen - np.median(chosen, axis=0)).sum(1).argmin()
    return replace(Thresholds(), **dict(zip(GRID, best[middle], strict=True)))


def _for_fixing(rows: Sequence[Judged]) -> list[Judged]:
    return [row for row in rows if not row.held_out and row.took and not row.instance.trap]


def confusion(rows: Sequence[Judged], limits: Thresholds) -> dict[str, Any]:
    """Verdicts by planted kind on the held-out half, shares with intervals, traps, and what was set aside."""
    held = [row for row in rows if row.held_out and not row.instance.trap]
    counted = [row for row in held if row.took]
    found = [(row, verdict(row.evidence, limits).kind) for row in counted]
    right = sum(kind == row.truth for row, kind in found)
    sound = sum(kind in (row.truth, "undetermined") for row, kind in found)
    mixed = [(row, kind) for row, kind in found if {row.truth, kind} == {"amplified", "replaced"}]
    return {
        "thresholds": asdict(limits),
        "instances": len(counted),
        "set_aside": len(held) - len(counted),
        "matrix": {name: dict(Counter(k for row, k in found if row.instance.kind == name)) for name in KINDS},
        "right": _share(right, len(found)),
        "right_or_undetermined": _share(sound, len(found)),
        "amplified_replaced_confused": len(mixed),
        "by_base": {
            base: _share(sum(k == r.truth for r, k in found if r.instance.base == base), _count(found, base))
            for base in sorted({row.instance.base for row in counted})
        },
        "traps": [_trap(row, limits) for row in rows if row.instance.trap],
        "fixing_half": _fixing(rows, limits),
    }


def calibrated(out: Path, seeds: int, bases: tuple[str, ...], tell: Tell) -> dict[str, Any]:
    """Make what is missing, fix thresholds, count. Written to `OUT/calibration.json` too."""
    every = instances(seeds, bases)
    make_all(out, every, tell)
    rows = [Judged(one, evidence, bool(plant["took"])) for one in every for evidence, plant in [read(out, one)]]
    limits = fixed(rows)
    found: dict[str, Any] = {
        "instar": __version__,
        "bases": list(bases),
        "seeds": seeds,
        "fixed": confusion(rows, limits),
    }
    if limits != Thresholds():
        # What is shipped is what a user's verdicts are made with.
        found["shipped thresholds"] = confusion(rows, Thresholds())
    write_json(out / "calibration.json", found)
    return found


def _share(count: int, total: int) -> dict[str, float]:
    if total == 0:
        return {"count": 0, "of": 0, "share": float("nan"), "low": float("nan"), "high": float("nan")}
    own = wilson(count, total)
    return {"count": count, "of": total, "share": float(own.value), "low": float(own.low), "high": float(own.high)}


def _count(found: Sequence[Any], base: str) -> int:
    return sum(row.instance.base == base for row, _ in found)


def _trap(row: Judged, limits: Thresholds) -> dict[str, Any]:
    kind = verdict(row.evidence, limits).kind
    return {
        "trap": row.instance.kind,
        "base": row.instance.base,
        "verdict": kind,
        "passed": kind in TRAPS[row.instance.kind][1],
    }


def _fixing(rows: Sequence[Judged], limits: Thresholds) -> dict[str, float]:
    own = _for_fixing(rows)
    return _share(sum(verdict(row.evidence, limits).kind == row.truth for row in own), len(own))
