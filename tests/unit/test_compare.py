"""Intervals against closed forms and simulations; what moved against planted changes."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from instar.compare.dynamics import changed_heads, changed_layers
from instar.health import Probe, examine
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


def attribution_series(moved: float) -> xr.Dataset:
    rng = np.random.default_rng(2)
    heads = rng.normal(scale=0.1, size=(2, 50, 3, 4)) + 1.0
    heads[1, :, 2, 1] += moved
    return xr.Dataset(
        {
            "heads": (("step", "pair", "layer", "head"), heads),
            "attn_bias": (("step", "pair", "layer"), np.zeros((2, 50, 3))),
            "mlp": (("step", "pair", "layer"), np.ones((2, 50, 3))),
        }
    )


def test_the_planted_head_is_found_and_only_it():
    rows = changed_heads(attribution_series(-2.0))
    assert rows[0]["head"] == "a2.h1" and rows[0]["change"] == pytest.approx(-2.0, abs=0.1)
    assert rows[0]["low"] < rows[0]["change"] < rows[0]["high"] < 0
    assert [r["head"] for r in rows if r["moved"]] == ["a2.h1"]
    layers = changed_layers(attribution_series(-2.0))
    assert (layers[0]["layer"], layers[0]["part"], layers[0]["moved"]) == (2, "attention", True)


def test_nothing_moved_is_an_answer():
    assert not any(r["moved"] for r in changed_heads(attribution_series(0.0)))


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (Probe(92, 0.5, 0.4, 0.3), "end-of-text collapse"),
        (Probe(92, 0.42, 0.40, 0.0), "not learning"),
        (Probe(16, 0.95, 0.5, 0.0), "overfitting"),
    ],
)
def test_each_failure_is_named(last, kind):
    found = examine([Probe(0, 0.4, 0.38, 0.0), last], steps=184)
    assert [f.kind for f in found] == [kind] and found[0].step == last.step


def test_a_healthy_run_is_not_accused():
    assert examine([Probe(0, 0.5, 0.4, 0.0)], 184) == []
    assert examine([Probe(0, 0.6, 0.4, 0.0), Probe(184, 0.99, 0.95, 0.0)], 184) == []
    assert examine([Probe(0, 0.97, 0.97, 0.0), Probe(184, 0.98, 0.97, 0.0)], 184) == []
