"""Intervals against closed forms and simulations."""

import numpy as np
import pytest
from scipy import stats

from instar.stats.intervals import bootstrap_mean, simultaneous_mean, wilson


@pytest.mark.parametrize(("right", "total"), [(0, 10), (5, 10), (97, 100), (1000, 1000)])
def test_wilson_equals_scipys(right, total):
    ours = wilson(right, total)
    theirs = stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_bootstrap_of_a_mean_is_near_the_normal_interval():
    values = np.random.default_rng(0).normal(2.0, 1.0, size=(400, 3))
    interval = bootstrap_mean(values)
    half = 1.96 * values.std(0, ddof=1) / 20
    np.testing.assert_allclose(interval.high - interval.value, half, rtol=0.1)
    np.testing.assert_allclose(interval.value, values.mean(0))


def test_simultaneous_intervals_hold_for_the_whole_list():
    """Of 48 components that did not move, the whole list covers 0 in about 95 % of experiments; pointwise ones do not."""
    rng, whole, pointwise = np.random.default_rng(1), 0, 0
    for _ in range(100):
        noise = rng.normal(size=(60, 48))
        wide, narrow = simultaneous_mean(noise), bootstrap_mean(noise)
        whole += bool(((wide.low <= 0) & (wide.high >= 0)).all())
        pointwise += bool(((narrow.low <= 0) & (narrow.high >= 0)).all())
    assert whole >= 88
    assert pointwise < 50
