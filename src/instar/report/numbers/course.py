"""The course of the first seed's fine-tuning, step by step, and which of its steps were kept."""

from typing import Any

from instar.record.store import Store

SHOWN = 2000
"""Steps that are drawn; of more, every second, third, … and those that were kept."""
COLUMNS = ("loss", "gradient_norm", "change", "choosing")


def course(store: Store) -> dict[str, Any] | None:
    """Lists over steps, and `kept`; None where the course was not kept (an earlier instar, somebody else's training)."""
    path, index = store.course(store.first_seed), store.index()
    if index is None or not path.exists():
        return None
    kept = [row["step"] for row in index["steps"]]
    rows, there = store.read_rows(path), set(kept)
    every = 1 + len(rows) // SHOWN
    rows = [row for row in rows if row["step"] % every == 0 or row["step"] in there]
    found = {name: [_short(row[name]) for row in rows] for name in COLUMNS}
    probe = index.get("probe")
    return {"steps": [row["step"] for row in rows], "kept": kept, "pairs": probe and probe["pairs"], **found}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
