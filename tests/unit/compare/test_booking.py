"""Views of a ledger, against sums by hand."""

import numpy as np
import pytest
import xarray as xr

from instar.compare.booking import booked

PARTS = [
    ("a0.h0.q", "q", 0, 0),
    ("a0.h0.o", "o", 0, 0),
    ("a1.h1.v", "v", 1, 1),
    ("m1.in", "mlp in", 1, -1),
    ("norm", "norm", -1, -1),
]


def made(prompts=(3,) * 16, scale=1.0, seed=0):
    draw = np.random.default_rng(seed)
    means = np.array([[0.5, 0.1, -0.2, 0.3, 0.0], [0.1, 0.4, 0.0, -0.1, 0.05]])
    pages = scale * (means + 0.05 * draw.normal(size=(len(prompts), 2, 5)))
    ends = pages.sum(2)
    data = {
        "booked": (("metric", "interval", "block", "part"), pages.transpose(1, 0, 2)[None]),
        "before": (("metric", "interval", "block"), np.zeros((1, 2, len(prompts)))),
        "after": (("metric", "interval", "block"), ends.T[None]),
        "prompts": ("block", np.array(prompts)),
    }
    labels = {name: ("part", [part[i] for part in PARTS]) for i, name in enumerate(("part", "kind", "layer", "head"))}
    return xr.Dataset(data, coords={"metric": ["choosing"], **labels}).assign_attrs(convention="so"), pages


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("part", {"a0.h0.q": [0], "a0.h0.o": [1], "a1.h1.v": [2], "m1.in": [3], "norm": [4]}),
        ("layer", {"0": [0, 1], "1": [2, 3], "norm": [4]}),
        ("head", {"a0.h0": [0, 1], "a1.h1": [2], "m1": [3], "norm": [4]}),
        ("slice", {"Q,K": [0], "V,O": [1, 2], "MLPs": [3], "norm": [4]}),
        ({"inside": ["a0.h0", "m1"]}, {"inside": [0, 1, 3], "elsewhere": [2, 4]}),
        ({"queries": ["a0.h0.q"]}, {"queries": [0], "elsewhere": [1, 2, 3, 4]}),
    ],
)
def test_views_are_sums_and_shares_of_the_gain(by, groups):
    ledger, pages = made()
    found = booked(ledger, by)
    gain = pages.sum((1, 2)).mean()
    assert list(found["group"].values) == list(groups) and float(found["gain"]) == pytest.approx(gain)
    for group, columns in groups.items():
        own, value = found.sel(group=group), pages[..., columns].sum((1, 2)).mean()
        assert float(own["booked"]) == pytest.approx(value) and float(own["share"]) == pytest.approx(value / gain)
        assert float(own["booked_low"]) <= value <= float(own["booked_high"])
    assert float(found["share"].sum()) == pytest.approx(1)
    over = booked(ledger, by, over_time=True)
    np.testing.assert_allclose(over["booked"].sum("interval"), found["booked"], atol=1e-12)


def test_a_smaller_block_counts_less():
    ledger, pages = made(prompts=(30, 1))
    expected = (30 * pages[0] + pages[1]).sum(0)[0] / 31
    assert float(booked(ledger, "part")["booked"][0]) == pytest.approx(expected)


def test_no_share_of_a_gain_that_may_be_nothing_and_no_interval_of_few_prompts():
    ledger, _ = made()
    draw = np.random.default_rng(1).normal(size=ledger["after"].shape)
    unsure = booked(ledger.assign(after=(ledger["after"].dims, draw)))
    assert unsure["share"].isnull().all() and unsure["booked"].notnull().all()
    few = booked(made(prompts=(1,) * 16)[0])
    assert few["booked"].notnull().all() and few["booked_low"].isnull().all() and few["share_high"].isnull().all()


def test_errors_name_what_is_wrong():
    ledger, _ = made()
    with pytest.raises(ValueError, match="'naming' is none of this ledger's"):
        booked(ledger, metric="naming")
    with pytest.raises(ValueError, match="no 'a9.h9'"):
        booked(ledger, {"x": ["a9.h9"]})
    with pytest.raises(ValueError, match="by: 'colour'"):
        booked(ledger, "colour")
