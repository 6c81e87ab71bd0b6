"""Fine-tunings whose answer is known by construction: the verdict names them, and the traps are not fallen into.

A few of what `instar calibrate` makes, with its own code; the confusion matrix over all of them is in docs/calibration.md.
"""

import json

import numpy as np
import pytest
import torch

from instar.calibrate import SHIPPED
from instar.calibrate.instances import FIRST_SEED, Instance, instances, made, make_all, read
from instar.calibrate.matrix import Judged, confusion, fixed
from instar.calibrate.planted import KINDS, TRAPS, chosen, copied, fine_tune, shuffled_heads
from instar.compare.verdict import Thresholds, verdict
from instar.models.load import fingerprint, load
from instar.models.taps import logits_at, record
from instar.models.weights import permuted
from instar.tasks.library import ioi

SEED = 3
"""No seed of the calibration."""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """All that is judged here, made together: the base's own data and circuit are made once."""
    folder = tmp_path_factory.mktemp("calibrate")
    every = [Instance("embedded-shallow", kind, SEED) for kind in ("rewired", "amplified", *TRAPS)]
    make_all(folder, every, lambda *_: None)
    return folder


def judged(out, kind):
    one = Instance("embedded-shallow", kind, SEED)
    evidence, plant = read(out, one)
    return Judged(one, evidence, plant["took"]), plant


def test_a_rewired_circuit_is_named(out):
    row, plant = judged(out, "rewired")
    assert row.took, plant["checks"]
    assert verdict(row.evidence).kind == "rewired"


def test_an_amplified_circuit_is_never_called_anything_else(out):
    """Undetermined is right too: what is left of an attenuated circuit may be too little to call it the same."""
    row, plant = judged(out, "amplified")
    assert row.took, plant["checks"]
    found = verdict(row.evidence)
    assert found.kind in ("amplified", "undetermined")
    assert found.conditions["inside carries"] and found.conditions["attention little"]


@pytest.mark.parametrize("trap", list(TRAPS))
def test_no_trap_is_fallen_into(out, trap):
    row, _ = judged(out, trap)
    assert verdict(row.evidence).kind in TRAPS[trap][1]


def test_what_is_made_is_not_made_again(out):
    one = Instance("embedded-shallow", "tuned = base", SEED)
    before = (one.folder(out) / "evidence.nc").stat().st_mtime_ns
    make_all(out, [one], lambda *_: None)
    assert made(out, one) and (one.folder(out) / "evidence.nc").stat().st_mtime_ns == before


def test_only_the_chosen_slices_are_trained():
    base = load("embedded-shallow")
    tuned = copied(base)
    masks = chosen(tuned, ["a0.h3", "a2.h1"], "qk")
    fine_tune(tuned, [ioi(2)], 0, steps=2, rate=1e-2, only=masks)
    pairs = zip(base.module.parameters(), tuned.module.parameters(), masks, strict=True)
    moved = [((a != b), mask.bool()) for a, b, mask in pairs]
    assert not any((changed & ~mask).any() for changed, mask in moved)
    assert sum(int((changed & mask).sum()) for changed, mask in moved) > 0.9 * sum(int(m.sum()) for _, m in moved)


def test_heads_in_another_order_are_the_same_function():
    base = load("embedded-shallow")
    other = shuffled_heads(base, 0)
    batch = ioi(3).batch(base, n=8)
    logits = [logits_at(m.layout, record(m.layout, batch.clean, batch.mask).final, batch.end) for m in (base, other)]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
    assert fingerprint(base.module) != fingerprint(other.module)
    assert len(permuted(base.layout, other.layout)) > 30 and permuted(base.layout, base.layout) == {}


def test_the_shipped_calibration_is_the_one_of_the_shipped_thresholds():
    shipped = json.loads(SHIPPED.read_text())
    found = shipped["fixed"]
    assert found["thresholds"] == {k: pytest.approx(v) for k, v in vars(Thresholds()).items()}
    assert sum(sum(row.values()) for row in found["matrix"].values()) == found["instances"] == found["right"]["of"]
    right = sum(row.get(KINDS[kind][1], 0) for kind, row in found["matrix"].items())
    assert right == found["right"]["count"]
    assert len(found["traps"]) == len(TRAPS) * len(shipped["bases"])


def test_thresholds_are_fixed_on_even_seeds_only(out):
    """Held-out instances with any truth whatever leave the thresholds as they are."""
    row, _ = judged(out, "rewired")
    even = Judged(Instance("embedded-shallow", "rewired", 4), row.evidence, True)
    odd = Judged(Instance("embedded-shallow", "replaced", 5), row.evidence, True)
    assert fixed([even]) == fixed([even, odd])
    assert confusion([even, odd], Thresholds())["right"]["of"] == 1


def test_every_kind_has_every_seed_and_no_seed_that_was_looked_at():
    rows = instances(8, ("embedded-shallow", "seed-2"))
    assert len(rows) == 2 * (8 * len(KINDS) + len(TRAPS)) == len(set(rows))
    assert min(np.array([row.seed for row in rows])) == FIRST_SEED
