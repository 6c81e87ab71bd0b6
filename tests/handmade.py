"""Evidence made by hand, each kind of change from what defines it."""

import math

import numpy as np
import xarray as xr

NAN = (math.nan, math.nan, math.nan)
MUCH, LITTLE, SPANS = (0.9, 0.8, 1.0), (0.05, -0.05, 0.15), (0.3, 0.1, 0.5)
SAME, BELOW, NEARLY = (0.0, -0.05, 0.05), (-0.6, -0.7, -0.5), (-0.2, -0.4, 0.0)
SETS = ("inside", "inside<qk>", "inside<vo>", "outside", "heads", "mlps", "embeddings", "norms")
WAYS = ("into", "lost")

# The old heads write more of the same: all of the gain is in their W_V and W_O, and nothing else moved.
AMPLIFIED = {
    "gain accuracy": (0.4, 0.3, 0.5), "gain logits": (2.0, 1.8, 2.2), "gain logits here": (2.0, 1.7, 2.3),
    "accuracy base": (0.5, 0.4, 0.6), "accuracy tuned": (0.9, 0.85, 0.95),
    "old accuracy": (0.0, -0.005, 0.005), "old logits": (0.1, 0.0, 0.2),
    "old accuracy base": (0.98, 0.96, 1.0), "old accuracy tuned": (0.98, 0.96, 1.0),
    "necessity": (0.8, 0.7, 0.9), "necessity null": (0.1, -0.05, 0.2), "old necessity": (0.9, 0.8, 1.0),
    "transfer": (0.9, 0.8, 1.0), "transfer base": (0.7, 0.6, 0.8), "transfer random": (0.0, -0.1, 0.1),
    "heads inside": (1.0, 0.9, 1.0), "heads floor": (1.0, 0.9, 1.0), "heads beyond floor": SAME, "heads beyond task": SAME,
    "edges inside": (0.9, 0.8, 1.0), "edges floor": (0.95, 0.8, 1.0), "edges beyond floor": SAME, "edges beyond task": SAME,
    "heads chance": (1.2, math.nan, 2.0), "heads shared": (4.0, 4.0, 4.0),
    **{f"graft {name} {way}": LITTLE for name in SETS for way in WAYS},
    **{f"carry {name} {way}": LITTLE for name in ("inside", "outside", "heads", "mlps") for way in WAYS},
    **{f"{name} {way}": MUCH for name in ("graft inside", "graft inside<vo>", "graft heads", "carry inside", "carry heads")
       for way in WAYS},
}  # fmt: skip
# Rules that need no circuit, of which the tuned model is well above the nearest.
BESIDE = {
    "choice accuracy tuned": (0.92, 0.88, 0.96),
    "baseline chance": (1 / 3, 1 / 3, 1 / 3), "beyond chance": (0.59, 0.55, 0.63),
    "baseline commonest answer": (0.0, 0.0, 0.05), "beyond commonest answer": (0.92, 0.88, 0.96),
    "baseline best place": (0.55, 0.45, 0.65), "beyond best place": (0.37, 0.27, 0.47),
    "baseline best name prior": (0.38, 0.3, 0.46), "beyond best name prior": (0.54, 0.44, 0.64),
}  # fmt: skip
SAYS = {
    "chance": "any candidate",
    "commonest answer": "Ann",
    "best place": "place 2",
    "best name prior": "the candidate …",
}
ATTRS = {"inside": '["a0.h1", "a1.h2"]', "permuted": "{}", "matched_possible": 200, "matched_overlap": 0.2, "pairs": 60,
         "empty": "[]"}  # fmt: skip


def both(*names, at):
    return {f"{name} {way}": at for name in names for way in WAYS}


OUT_OF = {f"{what} beyond {which}": BELOW for what in ("edges",) for which in ("floor", "task")}
HEADS_OUT = {f"heads beyond {which}": BELOW for which in ("floor", "task")}
ATTENDED = both("graft inside<qk>", at=MUCH) | both("graft inside<vo>", at=LITTLE)
OUTSIDE = both("graft inside", "graft inside<vo>", "carry inside", at=LITTLE) | both(
    "graft outside", "carry outside", at=MUCH
)
REPLACED = OUTSIDE | {"necessity": LITTLE, "heads shared": (1.0, 1.0, 1.0), "transfer": LITTLE} | HEADS_OUT | OUT_OF


def made(items=None, **attrs):
    """The evidence of an amplified circuit, with these items and attributes instead."""
    own = AMPLIFIED | (items or {})
    assert set(AMPLIFIED) <= set(own) <= {*AMPLIFIED, *BESIDE}
    rows = {k: ("item", np.array([v[i] for v in own.values()])) for i, k in enumerate(("value", "low", "high"))}
    return xr.Dataset(rows, coords={"item": np.array(list(own), dtype=str)}).assign_attrs(ATTRS | attrs)
