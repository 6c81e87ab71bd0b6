"""Seconds of each stage of a run, from what the run itself has noted: `python -m benchmarks.stages RUN [OUT.json]`.

Means over checkpoints, of the clock and of all cores, beside what the same stages took before (`BEFORE`).
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from instar.record.times import times

BEFORE = {
    **{"evaluate ioi2": 9.6, "evaluate ioi3": 12.8, "circuit ioi2": 38, "circuit ioi3": 150},
    **{"patching ioi2": 40, "patching ioi3": 98, "roles ioi2": 31},
}
"""CPU seconds of one checkpoint of SmolLM2-135M, one thread, 8 pairs (evaluation: 160), before the work on real models."""


def seconds(run: Path) -> dict[str, dict[str, Any]]:
    """By stage and task: how often it was done, and the means."""
    found = defaultdict(list)
    for took in times(run):
        found[f"{took.stage} {took.task}".strip()].append(took)
    return {
        name: {
            "times": len(own),
            "seconds": round(mean(took.seconds for took in own), 1),
            "cpu": round(mean(took.cpu for took in own), 1),
            **({"cpu_before": BEFORE[name]} if name in BEFORE else {}),
        }
        for name, own in found.items()
    }


def main() -> None:
    """Print the table; write it where a place is given."""
    run, *out = map(Path, sys.argv[1:])
    found = seconds(run)
    print(f"{'stage':18}{'times':>6}{'seconds':>9}{'cpu':>8}{'before':>8}")
    for name, row in found.items():
        print(f"{name:18}{row['times']:6}{row['seconds']:9}{row['cpu']:8}{row.get('cpu_before', ''):>8}")
    for place in out:
        place.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
