"""Held-out prompts one by one: their text, and what every checkpoint said and by how much."""

import json
from typing import Any

import numpy as np
import xarray as xr

from instar.record.store import Store
from instar.report.numbers.packed import packed

MOST = 1000
LONGEST = 400
"""Characters of a prompt that are shown, its last ones."""
HUNDREDTHS = 100


def prompts(store: Store, task: str, steps: list[int], some: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Of one task, the first `some` prompts and the first `MOST`; None where those that were measured are not there."""
    series = store.series("evaluate", task, steps=steps, only=_needed)
    kinds = ((store.prepared() or {}).get("counterfactuals") or {}).get(task) or []
    if series is None or not kinds or not store.pairs(task, kinds[0]).exists():
        return None
    rows = store.read_rows(store.pairs(task, kinds[0]))
    if len(rows) != series.sizes["pair"]:
        return None
    few, many = (_told(series.isel(pair=slice(0, most)), rows[:most]) | {"of": len(rows)} for most in (some, MOST))
    return few, many


def _told(series: xr.Dataset, rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = json.loads(str(series.attrs["said_names"]))
    wordings = sorted({row["wording"] for row in rows})
    hundredths = np.rint(HUNDREDTHS * series["logit_diff"].transpose("step", "pair").values).clip(-32768, 32767)
    return {
        "steps": series["step"].values.tolist(),
        "rows": [_row(row, wordings) for row in rows],
        "wordings": wordings,
        "said_names": names,
        "said": packed(series["said"].transpose("step", "pair").values, "uint8", steps=True),
        "right": packed(series["accuracy"].transpose("step", "pair").values, "uint8", steps=True),
        "hundredths": packed(hundredths, "int16", steps=True),
    }


def _needed(dataset: xr.Dataset) -> xr.Dataset:
    return dataset[["said", "accuracy", "logit_diff"]]


def _row(row: dict[str, Any], wordings: list[str]) -> list[Any]:
    """Text, answer, foils, the answer's place, the wording's number, and spans `[slot, start, stop]`."""
    text = row["clean"]
    cut = max(0, len(text) - LONGEST)
    spans = [[s["slot"], s["start"] - cut, s["stop"] - cut] for s in row["spans"] if s["start"] >= cut]
    own = ("…" if cut else "") + text[cut:]
    shift = 1 if cut else 0
    spans = [[slot, start + shift, stop + shift] for slot, start, stop in spans]
    return [own, row["answer"], row["foils"], row["place"], wordings.index(row["wording"]), spans]
