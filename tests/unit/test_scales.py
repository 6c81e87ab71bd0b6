"""Ratios against their closed forms, and masks where a ratio says nothing."""

import numpy as np
import pytest

from instar.stats.intervals import Interval, bootstrap_ratio, rank_correlation
from instar.stats.scales import change, effect, ratio, usable


def test_recovery_and_loss_are_the_two_directions_of_one_ratio():
    clean, corrupted, patched = np.array([3.0, 5.0]), np.array([1.0, -1.0]), np.array([2.0, 0.0, 4.0])
    np.testing.assert_allclose(ratio(patched, clean, corrupted, "denoising"), [0.5, 0.0, 1.0])
    np.testing.assert_allclose(ratio(patched, clean, corrupted, "noising"), [0.5, 1.0, 0.0])
    assert change(2.0, 4.0, 0.0, "noising") == 2.0


def test_a_denominator_that_spans_zero_is_masked():
    draw = np.random.default_rng(0)
    clean = draw.normal(size=50)
    assert np.isnan(ratio(np.ones(3), clean, draw.normal(size=50), "denoising")).all()
    assert not usable(effect(-clean - 5, clean))  # clearly below 0 is no effect either


def test_a_tenth_of_the_reference_is_the_limit():
    own = effect(np.full(20, 0.5), np.zeros(20))
    assert usable(own) and usable(own, Interval(4.9, 4, 6)) and not usable(own, Interval(5.1, 4, 6))


def test_ratio_of_means_covers_the_truth():
    draw, inside = np.random.default_rng(1), 0
    for i in range(200):
        below = 2 + draw.normal(size=60)
        found = bootstrap_ratio(0.5 * below[:, None] + 0.3 * draw.normal(size=(60, 1)), below, seed=i)
        inside += int(found.low[0] <= 0.5 <= found.high[0])
    assert 180 <= inside <= 200


def test_rank_correlation_is_spearmans():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert np.isnan(rank_correlation([1, 2, 3], [5, 5, 5]))
    # With a tie: ranks 1.5, 1.5, 3 against 1, 2, 3.
    assert rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(np.sqrt(3) / 2)
