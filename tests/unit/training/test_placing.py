"""Where checkpoints are placed: held against the promise of `instar.training.placing`, on curves of every kind."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.training.placing import Placing

STEPS = np.arange(401)
LOGISTIC = 1 / (1 + np.exp(-(STEPS - 200) / 20))
CURVES = {
    "linear": STEPS / 400,
    "logistic": LOGISTIC,
    "reversed": 1 - LOGISTIC,
    "in the first eight steps": np.minimum(STEPS / 8, 1),
    "in the last eight steps": np.maximum((STEPS - 392) / 8, 0),
    "one jump": (STEPS > 137) * 1.0,
    "there and back": 1 - np.abs(STEPS - 200) / 200,
    "flat": 0.0 * STEPS,
}


def placed(values, most: int):
    """The kept steps, how many were written on the way, and the largest jitter."""
    placing, written, jitter, there = Placing(most, len(values) - 1), 0, 0.0, set()
    for step, value in enumerate(values):
        gone = placing.add(step, float(value))
        jitter = max(jitter, placing.jitter)
        assert gone is None or (gone in there and gone not in placing.kept)
        there = (there | {step} if step in placing.kept else there) - {gone}
        written += step in placing.kept
        # One place is free for the last step, so the disk never holds more than `most`.
        assert there == set(placing.kept) and len(there) <= most - (step < len(values) - 1)
    return placing.kept, written, jitter


def promise(values, most: int, jitter: float) -> float:
    steps = np.abs(np.diff(values))
    reach, variation, jump = np.ptp(values), steps.sum(), steps.max()
    return max(2 * (variation + reach / 4) / (most - 2) + 2 * jitter, reach / (most - 1) + jitter + jump)


def largest_gap(values, kept) -> float:
    return float(np.abs(np.diff(np.asarray(values)[kept])).max())


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("most", [6, 24])
def test_checkpoints_are_spread_over_the_change(curve, most):
    values = CURVES[curve]
    kept, written, _ = placed(values, most)
    assert kept[0] == 0 and kept[-1] == 400 and len(kept) <= most
    jump = np.abs(np.diff(values)).max()
    turns = 2 if curve == "there and back" else 1
    assert largest_gap(values, kept) <= max(2.5 * turns / (most - 2), 1 / (most - 1) + jump) + 1e-9
    assert np.diff(kept).max() <= 400 * 8 * (turns + 1 / 4) / (most - 2)  # the promise, read for time
    assert written <= 10 * most


def test_a_change_of_eight_steps_in_four_hundred_has_all_its_steps():
    kept, _, _ = placed(CURVES["in the first eight steps"], 24)
    assert kept[:9] == list(range(9)) and len(kept) >= 14
    kept, _, _ = placed(CURVES["in the last eight steps"], 24)
    assert kept[-8:] == list(range(393, 401))


def test_a_flat_probe_with_jitter_floods_nothing():
    rng = np.random.default_rng(0)
    flat = 0.01 * rng.normal(size=401)
    _, written, _ = placed(flat, 24)
    assert written <= 60
    # Jitter on top of learning takes no checkpoint away from it: the learning alone is covered nearly as well.
    for sigma in (0.01, 0.03):
        kept, written, _ = placed(LOGISTIC + sigma * rng.normal(size=401), 24)
        assert largest_gap(LOGISTIC, kept) < 0.25 and written <= 60
    # A flat line without jitter: evenly in time.
    kept, _, _ = placed(CURVES["flat"], 24)
    assert len(kept) == 7 and np.diff(kept)[:-1].tolist() == [70] * 5


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=80), st.integers(3, 12), st.booleans())
def test_the_promise_holds_for_any_curve(changes, most, monotone):
    values = np.cumsum(np.abs(changes) if monotone else changes)
    kept, _, jitter = placed(values, most)
    assert kept[0] == 0 and kept[-1] == len(values) - 1 and kept == sorted(set(kept)) and len(kept) <= most
    assert largest_gap(values, kept) <= promise(values, most, jitter) + 1e-9
    assert placed(values, most)[0] == kept


def test_what_is_no_number_counts_as_no_change():
    placing = Placing(4, 100)
    for step, value in enumerate([float("nan"), 1.0, float("inf"), float("nan")]):
        placing.add(step, value)
    assert placing.kept == [0, 1]
    with pytest.raises(ValueError, match="most=2"):
        Placing(2, 10)
