"""Ratios against their closed forms, and masks where a ratio says nothing."""

import numpy as np
import pytest

from instar.stats.intervals import Interval, bootstrap_ratio, rank_correlation
from instar.stats.scales import change, effect, mean_change, share, usable


def test_recovery_and_loss_are_the_two_directions_of_one_ratio():
    clean, corrupted, patched = np.array([3.0, 5.0]), np.array([1.0, -1.0]), np.array([2.0, 0.0, 4.0])
    own, rows = effect(clean, corrupted), np.stack([patched, patched])
    np.testing.assert_allclose(share(mean_change(rows, clean, corrupted, "denoising"), own), [0.5, 0.0, 1.0])
    np.testing.assert_allclose(share(mean_change(rows, clean, corrupted, "noising"), own), [0.5, 1.0, 0.0])
    assert change(2.0, 4.0, 0.0, "noising") == 2.0


def test_a_denominator_that_spans_zero_is_masked():
    draw = np.random.default_rng(0)
    clean = draw.normal(size=50)
    assert np.isnan(share(np.ones(3), effect(clean, draw.normal(size=50)))).all()
    assert not usable(effect(-clean - 5, clean))  # clearly below 0 is no effect either
    # A difference of equal runs is all rounding, and its interval may well exclude 0.
    assert not usable(effect(np.full(50, 4e-6), np.zeros(50))) and usable(effect(np.full(50, 4e-3), np.zeros(50)))


def test_pairs_of_one_prompt_are_one_draw():
    draw = np.random.default_rng(0)
    own = draw.normal(size=20)
    four, alone = effect(np.repeat(own, 4), np.zeros(80), np.repeat(np.arange(20), 4)), effect(own, np.zeros(20))
    np.testing.assert_allclose([four.value, four.low, four.high], [alone.value, alone.low, alone.high])


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


def test_a_pair_without_the_place_counts_on_neither_side():
    """x − c is over the pairs that have it: an unpatched entry changes nothing, whoever is missing."""
    clean, corrupted = np.array([10.0, 2.0, 6.0]), np.array([0.0, 1.0, -3.0])
    patched = np.stack([corrupted, np.array([0.0, np.nan, 6.0])], 1)
    np.testing.assert_allclose(mean_change(patched, clean, corrupted, "denoising"), [0.0, 4.5])
