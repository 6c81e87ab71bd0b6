"""Series of checkpoints: planted curves are named, orders are claimed only where draws agree, noise is not."""

from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.special import expit

from instar.compare.series import (
    Gap,
    Moment,
    _prepare,
    agreed,
    change_points,
    moment,
    order,
    over_seeds,
    reversals,
    shape,
)
from instar.stats.curves import SMOOTH, logistic, segments

EVEN = np.arange(0, 200, 8.0)
LOG = np.array([0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 90, 128, 184.0])
CURVES = {
    "smooth": lambda t: expit((t - 40) / 15),
    "falling": lambda t: -expit((t - 40) / 15),
    "saturating": lambda t: 1 - np.exp(-t / 40),
    "step": lambda t: 1.0 * (t > 32),
    "flat": lambda t: 0.0 * t,
}


def planted(curve, steps=EVEN, pairs=200, seed=0, noise=0.5, offset=1.0, wobble=0.0):
    """`values [step, pair]`: the curve, a level of each pair's own, noise, and what moves all pairs at a checkpoint."""
    rng = np.random.default_rng(seed)
    mean = CURVES[curve](steps) if isinstance(curve, str) else np.asarray(curve, float)
    mean = mean + rng.normal(scale=wobble, size=len(steps))
    return mean[:, None] + offset * rng.normal(size=pairs) + rng.normal(scale=noise, size=(len(steps), pairs))


@pytest.mark.parametrize("steps", [EVEN, LOG], ids=["even", "logarithmic"])
@pytest.mark.parametrize(
    ("curve", "kind"),
    [("smooth", "smooth"), ("falling", "smooth"), ("saturating", "smooth"), ("step", "sudden"), ("flat", "none")],
)
def test_the_planted_shape_is_named(curve, kind, steps):
    found = shape(steps, planted(curve, steps))
    assert found.kind == kind
    if kind == "sudden":
        assert found.jump == found.largest_gap == Gap(32, 40 if steps is EVEN else 45)
        assert found.largest_share.low < 1 < found.largest_share.high
    if kind == "smooth":
        assert found.largest_share.high < SMOOTH and found.bic["smooth"] < found.bic["sudden"] < found.bic["none"]
    if kind == "none":
        assert np.isnan(found.largest_share.value) and found.change.low < 0 < found.change.high


def test_shapes_of_accuracies_although_every_pair_is_wrong_at_first():
    rng = np.random.default_rng(3)
    learnt = rng.logistic(100, 12, size=500)  # the step at which a pair is learnt: the mean is a logistic curve
    found = shape(EVEN, EVEN[:, None] >= learnt)
    assert found.kind == "smooth"
    assert (found.centre, found.rise) == pytest.approx((100, 2 * np.log(9) * 12), rel=0.1)
    assert shape(EVEN, (EVEN[:, None] > 96) & (rng.random(500) < 0.9)).kind == "sudden"


def test_little_evidence_is_undetermined_and_wobbling_checkpoints_are_no_evidence():
    few = [shape(EVEN, planted("step", pairs=12, noise=0.8, seed=s)).kind for s in range(20)]
    assert "smooth" not in few and few.count("undetermined") >= 8
    wobbling = [shape(EVEN, planted(EVEN / 184, seed=s, wobble=0.4, noise=0.1)).kind for s in range(20)]
    assert wobbling.count("undetermined") >= 18


def test_noise_is_no_change_and_neither_is_a_bump():
    found = [shape(EVEN, planted("flat", pairs=60, seed=s)) for s in range(100)]
    moved = sum(not f.change.low < 0 < f.change.high for f in found)
    assert (
        1 <= moved <= 12 and sum(f.kind != "none" for f in found) < moved
    )  # the constant wins where ends differ by luck
    bump = planted(1.0 * ((EVEN > 40) & (EVEN < 120)))
    assert shape(EVEN, bump).kind == "none" and len(change_points(EVEN, bump).points) == 2


def test_what_pairs_have_in_common_over_steps_hides_nothing():
    """Errors of 0.3 a step, of which the pairs' own levels are nearly all: a change of 0.2 is plain within pairs."""
    values = planted(0.2 * CURVES["smooth"](EVEN), offset=4.0, noise=0.2)
    assert shape(EVEN, values).kind == "smooth"


@pytest.mark.parametrize("middle", [40, -20, 200])
def test_the_logistic_is_least_squares(middle):
    mean = planted(10 * expit((EVEN - middle) / 30)).mean(1)
    weight = np.random.default_rng(1).uniform(0.5, 2, len(EVEN))

    def curve(t, level, change, centre, width):
        return level + change * expit((t - centre) / width)

    best, _ = curve_fit(curve, EVEN, mean, p0=[mean[0], 10, middle, 30], sigma=weight**-0.5, maxfev=10000)
    ours = logistic(EVEN, mean[None], weight)
    assert ours.rss[0] == pytest.approx((weight * (mean - curve(EVEN, *best)) ** 2).sum(), rel=1e-4)
    assert (ours.centre[0], ours.width[0]) == pytest.approx(tuple(best[2:]), rel=0.02)


def test_the_largest_share_covers_a_straight_line():
    """Its largest interval holds 1/24 of the change. A noisy maximum is more, and plain percentiles never cover it."""
    bounds = [shape(EVEN, planted(EVEN / 184, seed=s)).largest_share for s in range(30)]
    assert sum(b.low <= 1 / 24 <= b.high for b in bounds) >= 18
    assert all(b.value > 1 / 24 for b in bounds)


@pytest.mark.parametrize("points", [1, 2, 3])
def test_segmentation_equals_brute_force(points):
    rng = np.random.default_rng(points)
    for _ in range(5):
        values = rng.normal(size=(9, 4)) * rng.uniform(0.2, 3, size=(9, 1))
        series = _prepare(np.arange(9), values)

        def residual(cut, own=series):
            parts = zip(np.split(own.mean, cut), np.split(own.weight, cut), strict=True)
            return sum((w * (m - np.average(m, weights=w)) ** 2).sum() for m, w in parts)

        brute = min(combinations(range(1, 9), points), key=residual)
        cuts, rss = segments(series.mean, series.weight, points)
        assert cuts[points] == list(brute) and rss[points] == pytest.approx(residual(brute))


def test_change_points_find_the_planted_jumps():
    found = change_points(LOG, planted(1.0 * (LOG > 3) - 2.0 * (LOG > 45), LOG))
    assert [(g.after, g.by) for g in found.points] == [(3, 4), (45, 64)]
    assert found.levels == pytest.approx([0, 1, -1], abs=0.25) and int(np.argmin(found.bic)) == 2
    flat = change_points(EVEN, planted("flat", seed=1))
    assert flat.points == [] and len(flat.levels) == 1


def test_a_jump_is_told_from_a_trend_and_trends_seldom_pass_for_jumps():
    assert change_points(EVEN, planted("step")).p == pytest.approx(1 / 200)
    steps = EVEN[:16]
    for wobble in (0.0, 0.1):
        values = [planted("smooth", steps, pairs=60, seed=s, noise=0.4, wobble=wobble) for s in range(60)]
        p = [change_points(steps, v, simulations=59, seed=s).p for s, v in enumerate(values)]
        assert np.sum(np.array(p) <= 0.05) <= 8, wobble
        assert 0.2 < np.median(p) < 0.8  # uniform under a trend: compared with a constant they would all be 1


def test_moment_on_a_closed_form():
    """0, 0, 2, 4, 4 at 0, 10, 20, 40, 80: half is made at 20, three quarters at 30; falling is the same."""
    mean = np.array([0, 0, 2, 4, 4.0])[:, None]
    spread = 0.01 * np.random.default_rng(0).normal(size=(5, 50))
    values = mean + spread - spread.mean(1, keepdims=True)
    for sign in (1, -1):
        half, most = (moment([0, 10, 20, 40, 80], sign * values, share) for share in (0.5, 0.75))
        assert (half.value, most.value) == pytest.approx((20, 30), abs=1e-9)
        assert half.low < 20 < half.high and half.high - half.low < 0.2
        assert most.gap == Gap(20, 40) and str(most) == "step 30 [20, 40]"
    with pytest.raises(ValueError, match="share"):
        moment([0, 1], values[:2], share=0.0)


def test_moment_bounds_are_the_bootstraps():
    values = planted(EVEN / 184, pairs=100, noise=1.0)
    found, rng = moment(EVEN, values), np.random.default_rng(9)
    draws = []
    for _ in range(1000):
        mean = values[:, rng.integers(0, 100, 100)].mean(1)
        at = np.argmax((mean - mean[0]) / (mean[-1] - mean[0]) >= 0.5)
        draws.append(np.interp((mean[0] + mean[-1]) / 2, mean[[at - 1, at]], EVEN[[at - 1, at]]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=8)
    assert found.low < found.value < found.high


def test_no_moment_without_a_change():
    found = moment(EVEN, planted("flat"))
    assert np.isnan([found.value, found.low, found.high, *found.draws]).all()
    assert found.gap is None and str(found) == "not established"


def at(step, scale=10.0, pairs=200, seed=0):
    return moment(EVEN, planted(expit((EVEN - step) / scale), pairs=pairs, noise=0.5, seed=seed))


def test_order_is_claimed_only_where_draws_agree():
    early, late, near = at(40), at(120, seed=1), at(124, seed=2)
    events = order({"near": near, "none": moment(EVEN, planted("flat")), "late": late, "early": early})
    assert (events[0].name, events[-1].name) == ("early", "none")
    assert [e.before_next for e in events] == [True, False, None, None]
    assert events[0].agreement == 1.0 and events[2].agreement is None


def test_no_events_have_no_order():
    assert order({}) == []


def test_two_events_inside_one_interval_have_no_order():
    """Interpolated moments differ in every draw, but no checkpoint lies between them."""
    first, second = (moment(EVEN, planted(1.0 * (EVEN > 32) + k * (EVEN > 40), noise=0.1)) for k in (0.0, 0.6))
    assert (first.draws < second.draws).all() and first.gap == second.gap
    assert [e.before_next for e in order({"first": first, "second": second})] == [False, None]


def test_seeds_agree_or_do_not():
    seeds = [{"a": at(40, seed=s), "b": at(100, seed=s), "c": at(104 - 60 * (s == 2), seed=s)} for s in range(3)]
    rows = {(row.first, row.second): row for row in agreed([order(m) for m in seeds])}
    odd, even = order({"a": at(40), "b": at(100)}), order({"b": at(40), "a": at(100)})
    assert [(r.first, r.second, r.before, r.after) for r in agreed([odd, even, even])] == [("b", "a", 2, 1)]
    assert rows["a", "b"].every and rows["a", "b"].before == 3
    mixed = rows.get(("b", "c")) or rows["c", "b"]
    assert not mixed.every and mixed.before + mixed.after + mixed.undecided == 3 and mixed.undecided == 2
    over = over_seeds([m["a"] for m in seeds] + [moment(EVEN, planted("flat"))])
    assert over["established"] == 3 and len(over["values"]) == 4
    assert over["min"] == min(m["a"].value for m in seeds) and over["max"] == max(m["a"].value for m in seeds)
    assert np.isnan(over_seeds([])["min"]) and agreed([]) == []


def test_a_reversal_needs_both_sides():
    rng = np.random.default_rng(5)
    means = np.zeros((4, 2, 3))
    means[:, 0, 0] = [-1, -1, 1, 1]  # reverses at the third step
    means[:, 0, 1] = [0, -1, 1, 1]  # unsure at first
    means[:, 0, 2] = [1, 1, 0.5, 0]  # only vanishes
    means[:, 1, 0] = [1, -1, 1, 1]  # there and back: reverses, at the second step
    means[:, 1, 1] = [-1, -1, -1, 0.03]  # a positive mean that says nothing
    rows = {r.component: r for r in reversals([0, 2, 4, 8], means[:, None] + rng.normal(scale=0.5, size=(4, 80, 2, 3)))}
    assert {c: r.at for c, r in rows.items() if r.reverses} == {(0, 0): 4.0, (1, 0): 2.0}
    assert rows[0, 0].before.high < 0 < rows[0, 0].after.low
    assert rows[0, 2].at is None and rows[0, 2].after.value == pytest.approx(0, abs=0.2)


def test_searching_many_components_finds_no_reversal_in_noise():
    found = 0
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(size=(5, 40, 60))
        found += any(row.reverses for row in reversals(range(5), noise))
    assert found <= 2


def test_a_pair_with_a_gap_is_dropped_and_counted():
    values = planted("step")
    holed = np.concatenate([values, values[:, :3] + 100], axis=1)
    holed[[0, 5, 9], [200, 201, 202]] = np.nan
    for function in (shape, moment, change_points):
        assert (function(EVEN, holed).dropped, function(EVEN, values).dropped) == (3, 0)
    assert shape(EVEN, holed).change == shape(EVEN, values).change
    with pytest.raises(ValueError, match="0 of 200 pairs"):
        shape(EVEN, np.full_like(values, np.nan))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_checkpoints_are_answered_as_far_as_they_go(count):
    steps, values = EVEN[:count], planted(np.arange(count), EVEN[:count])
    found, points, half = shape(steps, values), change_points(steps, values), moment(steps, values)
    assert found.kind == "undetermined" and np.isnan(list(found.bic.values())).all()
    assert points.points == [] and np.isnan(points.p)
    if count == 1:
        assert np.isnan(found.change.value) and half.gap is None
    else:
        assert half.value == pytest.approx(steps[-1] / 2, abs=2) and found.largest_share.low >= 1 / (count - 1) - 1e-12
        assert shape(steps, planted(np.zeros(count), steps)).kind == "none"
    assert not any(row.reverses for row in reversals(steps, values))


def test_series_without_any_variation():
    constant, exact = np.ones((25, 10)), np.repeat(1.0 * (EVEN > 32)[:, None], 10, axis=1)
    assert shape(EVEN, constant).kind == "none" and change_points(EVEN, constant).points == []
    assert change_points(EVEN, constant).p == 1.0
    found = change_points(EVEN, exact)
    assert shape(EVEN, exact).kind == "sudden" and found.levels == pytest.approx([0, 1]) and found.p < 0.01


def test_results_do_not_depend_on_the_call_and_wrong_shapes_are_refused():
    values = planted("smooth")
    assert change_points(EVEN, values) == change_points(EVEN, values) and shape(EVEN, values) == shape(EVEN, values)
    assert isinstance(moment(EVEN, values), Moment)
    for steps in (EVEN[::-1], EVEN[:-1], np.zeros(25)):
        with pytest.raises(ValueError, match="increasing steps"):
            shape(steps, values)
