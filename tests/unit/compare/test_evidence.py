"""Evidence from per-pair values: closed forms, denominators that are no gain, what is one draw."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from instar.between.causal import TRANSFERRED
from instar.between.graft import sets_of
from instar.circuits.graph import Graph
from instar.circuits.sets import matched
from instar.compare.evidence import Measured, evidence, items
from instar.record.netcdf import plain_attrs

GRAPH = Graph(3, 6, 6)
PAIRS = 60
INSIDE = ("a0.h1", "a1.h2", "a2.h3")


def behaviour(accuracy, logit_diff, noise=0.3, seed=0, pairs=3 * PAIRS):
    """An `evaluate` measurement: so many right, and a logit difference around its mean."""
    rng = np.random.default_rng(seed)
    right = rng.permutation((np.arange(pairs) < accuracy * pairs).astype(np.int8))
    return xr.Dataset(
        {"accuracy": ("pair", right), "logit_diff": ("pair", logit_diff + noise * rng.normal(size=pairs))}
    )


def causal(shares=None, base=1.0, gain=2.0, noise=0.3, necessity=0.8, transfer=0.9, seed=0, **attrs):
    """A `causal` measurement with the given shares of the gain by grafting, (into, lost) by set; 0 where not said.

    Noise of a pair is its own gain's, so that shares hold pair by pair; `jitter` is not.
    """
    rng = np.random.default_rng(seed)
    null = matched(GRAPH, INSIDE, 100)
    shares = {"inside": (0.9, 0.9), "inside<vo>": (0.9, 0.9), "heads": (0.9, 0.9)} | (shares or {})
    random = [f"random {i}" for i in range(3)]
    sets = [*sets_of(GRAPH, INSIDE, single=False), *random]
    carried = ["inside", "outside", "heads", "mlps", *random]
    first = base + noise * rng.normal(size=PAIRS)
    last = first + gain + noise * rng.normal(size=PAIRS)
    data, tasks = {}, ["old", "new"]
    for kind, axis, names in (("graft", "set", sets), ("carry", "carried", carried)):
        by = np.array([shares.get(name, (0.0, 0.0)) for name in names])
        jitter = 0.05 * noise * rng.normal(size=(2, len(names), PAIRS))
        into = first + by[:, :1] * (last - first) + jitter[0]
        lost = last - by[:, 1:] * (last - first) - jitter[1]
        for way, values in (("into", into), ("lost", lost)):
            # The old task's grafts must not be taken for the new one's.
            whole = np.stack([values + 7 * rng.normal(size=values.shape), values])
            data[f"{kind}_{way}"] = (("task", axis, "pair"), whole) if kind == "graft" else ((axis, "pair"), values)
    data |= {
        f"graft_{k}": (("task", "pair"), np.stack([rng.normal(size=PAIRS), v]))
        for k, v in (("base", first), ("tuned", last))
    }
    n = 2 * PAIRS
    for task, some in (("new", [INSIDE, *null.sets]), ("old", [INSIDE])):
        clean, corrupted = 3 + noise * rng.normal(size=n), -1 + noise * rng.normal(size=n)
        gone = np.array([necessity, *np.linspace(-0.1, 0.1, len(some) - 1)])[:, None]
        axis = f"{task}_ablated"
        data[f"ablated_{task}"] = ((f"{task}_knocked", axis), clean - gone * (clean - corrupted))
        data[f"ablated_{task}_clean"], data[f"ablated_{task}_corrupted"] = (axis, clean), (axis, corrupted)
        data[f"ablated_{task}_prompt"] = (axis, np.tile(np.arange(PAIRS), 2))
    clean, corrupted = (m + noise * rng.normal(size=(3, n)) for m in (3.0, -1.0))
    data["transfer"] = (
        ("transferred", "evaluated"),
        corrupted + np.array([transfer, 0.6, 0.1])[:, None] * (clean - corrupted),
    )
    data["transfer_clean"], data["transfer_corrupted"] = (
        (("transferred", "evaluated"), clean),
        (("transferred", "evaluated"), corrupted),
    )
    data["transfer_prompt"] = ("evaluated", np.tile(np.arange(PAIRS), 2))
    coords = {"task": tasks, "set": sets, "carried": carried, "transferred": list(TRANSFERRED)}
    own = {"inside": list(INSIDE), "permuted": {}, "matched_possible": null.possible, "matched_overlap": null.overlap}
    return plain_attrs(xr.Dataset(data, coords=coords).assign_attrs(own | attrs))


def rule(kind, right, says="place 2"):
    return {
        "kind": kind,
        "says": says,
        "right": [float(x) for x in right],
        "rows": 60,
        "learnt_on": "rows",
        "best": False,
    }


def choosing(own, right, rules):
    """The same checkpoint, with these pairs chosen right and these rules beside it."""
    before, after = own.evaluate["new"]
    said = after.assign(choice=("pair", np.asarray(right, np.int8)))
    return replace(own, evaluate={**own.evaluate, "new": (before, said)}, baselines=rules)


def measured(**options):
    """A checkpoint whose old heads write more of the same."""
    both = {
        "new": (behaviour(0.4, 1.0), behaviour(0.9, 3.0, seed=1)),
        "old": (behaviour(0.98, 3.0), behaviour(0.98, 3.1)),
    }
    return Measured(both, causal(**options))


def of(own):
    return items(evidence(own))


def test_shares_are_closed_forms():
    """Base 1, tuned 3: 2 after grafting is half of the gain, and 2.5 after stripping a quarter less."""
    own = measured(noise=0.0, shares={"inside": (0.5, 0.25), "mlps": (-1.0, 1.5)})
    at = own.causal.sel(task="new")
    assert (at["graft_base"] == 1).all() and (at["graft_tuned"] == 3).all()
    assert (at["graft_into"].sel(set="inside") == 2).all() and (at["graft_lost"].sel(set="inside") == 2.5).all()
    found = of(own)
    for name, expected in (
        ("inside into", 0.5),
        ("inside lost", 0.25),
        ("mlps into", -1),
        ("mlps lost", 1.5),
        ("outside into", 0),
    ):
        for kind in ("graft", "carry"):
            one = found[f"{kind} {name}"]
            assert (one.value, one.low, one.high) == pytest.approx((expected,) * 3, abs=1e-12)
    assert found["gain logits here"].value == pytest.approx(2)
    assert found["necessity"].value == pytest.approx(0.8) and found["old necessity"].value == pytest.approx(0.8)
    assert found["transfer"].value == pytest.approx(0.9) and found["transfer base"].value == pytest.approx(0.6)
    assert found["transfer random"].value == pytest.approx(0.1)


def test_every_interval_is_that_of_its_pairs():
    """Ratios of means, beside a plain recomputation; behaviour is paired."""
    own = measured()
    found, at = of(own), own.causal.sel(task="new")
    base, tuned = at["graft_base"].values, at["graft_tuned"].values
    for name in at["set"].values:
        into, lost = (at[f"graft_{way}"].sel(set=name).values for way in ("into", "lost"))
        assert found[f"graft {name} into"].value == pytest.approx((into - base).mean() / (tuned - base).mean())
        assert found[f"graft {name} lost"].value == pytest.approx((tuned - lost).mean() / (tuned - base).mean())
    for name, one in found.items():
        assert one.low - 1e-12 <= one.value <= one.high + 1e-12, name
    before, after = own.evaluate["new"]
    difference = (after["logit_diff"] - before["logit_diff"]).values
    gain = found["gain logits"]
    assert gain.value == pytest.approx(difference.mean())
    assert gain.high - gain.low == pytest.approx(2 * 1.96 * difference.std() / np.sqrt(len(difference)), rel=0.1)
    assert found["gain accuracy"].value == pytest.approx(0.5)
    assert found["accuracy base"].value == pytest.approx(0.4) and found["accuracy tuned"].value == pytest.approx(0.9)
    assert found["old accuracy"].value == 0 and found["old accuracy"].low == found["old accuracy"].high == 0
    assert found["old accuracy base"].value == pytest.approx(0.98, abs=0.01)
    assert found["old logits"].value == pytest.approx(0.1)


@pytest.mark.parametrize("gain", [0.0, -2.0, 0.02])
def test_no_share_has_a_denominator_that_may_be_none(gain):
    found = of(measured(gain=gain))
    assert found["gain logits here"].low <= 0
    for name, one in found.items():
        if name.startswith(("graft", "carry")):
            assert np.isnan([one.value, one.low, one.high]).all()
    assert not np.isnan(found["necessity"].value) and not np.isnan(found["transfer"].value)


def test_a_base_that_hardly_tells_prompts_apart_is_masked_by_the_tuned_model():
    """b − c of 0.3 is certain in the base, and less than a tenth of the tuned model's 4."""
    own = measured()
    for apart, there in ((0.3, False), (0.5, True)):
        clean = own.causal["transfer_clean"].copy(deep=True)
        clean[1] = own.causal["transfer_corrupted"][1] + apart
        found = of(replace(own, causal=own.causal.assign(transfer_clean=clean)))
        assert np.isnan(found["transfer base"].value) != there
        assert found["transfer"].value == pytest.approx(0.9) and found["transfer random"].value == pytest.approx(0.1)


def test_without_an_effect_nothing_is_necessary():
    own = measured()
    found = of(replace(own, causal=own.causal.assign(ablated_new_corrupted=own.causal["ablated_new_clean"])))
    assert np.isnan(found["necessity"].value) and np.isnan(found["necessity null"].high)
    assert found["old necessity"].value == pytest.approx(0.8)


def test_counterfactuals_of_a_prompt_are_one_draw():
    """What a prompt's two pairs have with opposite signs is no uncertainty, and what they share is not halved."""
    own, rng = measured(noise=0.0), np.random.default_rng(3)
    shift, signs = rng.normal(size=PAIRS), np.repeat([1.0, -1.0], PAIRS)

    def width(by, prompt):
        ablated = own.causal["ablated_new"] + by
        apart = own.causal.assign(ablated_new=ablated, ablated_new_prompt=("new_ablated", prompt))
        one = of(replace(own, causal=apart))["necessity"]
        assert one.value == pytest.approx(0.8 - by.mean() / 4)
        return one.high - one.low

    same, apart = np.tile(np.arange(PAIRS), 2), np.arange(2 * PAIRS)
    assert width(signs * np.tile(shift, 2), same) == pytest.approx(0, abs=1e-12)
    assert width(signs * np.tile(shift, 2), apart) > 0.05
    assert width(np.tile(shift, 2), same) == pytest.approx(np.sqrt(2) * width(np.tile(shift, 2), apart), rel=0.1)


def test_the_null_is_between_sets():
    own = measured(noise=0.0)
    null, sets = of(own)["necessity null"], own.causal.sizes["new_knocked"] - 1
    own_share = np.linspace(-0.1, 0.1, sets)
    assert sets == 100 and null.value == pytest.approx(0, abs=1e-12)
    assert (null.low, null.high) == pytest.approx(tuple(np.quantile(own_share, [0.05, 0.95])))
    alone = of(replace(own, causal=own.causal.isel(new_knocked=[0])))
    assert alone["necessity"].value == pytest.approx(0.8) and np.isnan(alone["necessity null"].value)


def test_random_sets_stand_beside_the_shares():
    some = {f"random {i}": (i / 10, 0.5 + i / 10) for i in range(3)}
    found = of(measured(noise=0.0, shares=some))
    for kind in ("graft", "carry"):
        for way, first in (("into", 0.0), ("lost", 0.5)):
            null, values = found[f"{kind} null {way}"], first + np.arange(3) / 10
            assert null.value == pytest.approx(values.mean())
            assert (null.low, null.high) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])))
    without = measured(noise=0.0)
    without = replace(without, causal=without.causal.isel(set=slice(-3), carried=slice(-3)))
    assert np.isnan(of(without)["graft null into"].value)


def permuted(own, seed=0):
    """The same pairs in another order, in every measurement."""
    rng = np.random.default_rng(seed)
    both = {}
    for role, ends in own.evaluate.items():
        order = rng.permutation(ends[0].sizes["pair"])
        both[role] = tuple(end.isel(pair=order) for end in ends)
    orders = {d: rng.permutation(own.causal.sizes[d]) for d in ("pair", "new_ablated", "old_ablated", "evaluated")}
    return replace(own, evaluate=both, causal=own.causal.isel(orders))


def test_the_order_of_pairs_is_nothing_but_bootstrap_noise():
    own = measured()
    one, other = of(own), of(permuted(own))
    assert list(one) == list(other)
    for name in one:
        assert other[name].value == pytest.approx(one[name].value, abs=1e-12, nan_ok=True), name
        assert other[name].low == pytest.approx(one[name].low, abs=0.03, nan_ok=True), name
    assert any(one[name].low != other[name].low for name in one)


def test_the_evidence_keeps_what_is_no_number():
    own = measured()
    found = evidence(own)
    assert found.attrs["inside"] == '["a0.h1", "a1.h2", "a2.h3"]' and found.attrs["permuted"] == "{}"
    assert found.attrs["pairs"] == PAIRS and found.attrs["matched_possible"] == 6**3 - 1
    assert 0.05 < found.attrs["matched_overlap"] < 0.3
    # Straight from `causal`, before it was ever in a file.
    fresh = own.causal.assign_attrs(inside=list(INSIDE), permuted={"a0.h1": "a0.h2"})
    unstored = evidence(replace(own, causal=fresh))
    assert unstored.attrs["permuted"] == '{"a0.h1": "a0.h2"}'


def test_choice_stands_beside_rules_on_the_same_pairs():
    """Half of the pairs where the rule is right, and all others: paired, the rule's own half counts against it."""
    n = 3 * PAIRS
    place = np.arange(n) < n // 2
    right = place & (np.arange(n) % 2 == 0) | ~place
    found = of(choosing(measured(), right, [rule("chance", np.full(n, 1 / 3)), rule("best place", place)]))
    assert (found["baseline chance"].low, found["baseline chance"].high) == pytest.approx((1 / 3, 1 / 3))
    assert found["baseline best place"].value == 0.5 and found["baseline best place"].low < 0.5
    assert found["choice accuracy tuned"].value == 0.75
    assert found["beyond best place"].value == pytest.approx(0.25) and found["beyond chance"].value == pytest.approx(
        5 / 12
    )
    # Of pairs that agree in part a paired difference varies less than two shares of unlike pairs.
    same = of(choosing(measured(), place, [rule("best place", place)]))["beyond best place"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert not [name for name in of(measured()) if name.startswith(("beyond ", "baseline ", "choice"))]
