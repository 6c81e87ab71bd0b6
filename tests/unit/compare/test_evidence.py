"""Evidence from per-pair values: closed forms, denominators that are no gain, what is one draw, overlaps, stable verdicts."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from instar.between.causal import TRANSFERRED
from instar.between.graft import sets_of
from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.circuits.selection import grid_sizes
from instar.circuits.sets import heads_of, matched
from instar.compare.evidence import Measured, evidence, items
from instar.compare.floors import Scores
from instar.compare.verdict import verdict
from instar.record.netcdf import plain_attrs
from remade import remade

GRAPH = Graph(3, 6, 6)
NAMES = GRAPH.names(GRAPH.exists)
SHARE = np.array([8 / GRAPH.n_edges, 0.1, 0.3, 1.0])
PAIRS, KINDS = 60, 2
OLD = ("input->a0.h1<v>", "a0.h1->a1.h2<q>", "a0.h1->logits", "input->a1.h2<v>", "a1.h2->a2.h3<k>", "input->a2.h3<v>",
       "a1.h2->logits", "a2.h3->logits")  # fmt: skip
ELSEWHERE = ("input->a0.h4<v>", "a0.h4->a1.h5<q>", "a0.h4->logits", "input->a1.h5<v>", "a1.h5->a2.h0<k>", "input->a2.h0<v>",
             "a1.h5->logits", "a2.h0->logits")  # fmt: skip
INSIDE = ("a0.h1", "a1.h2", "a2.h3")


def circuit(strong=OLD, noise=0.0, seed=0, from_size=0):
    """A `circuit` measurement as the run stores it, of one group; its circuit is made of its own scores."""
    rng, n = np.random.default_rng(seed), KINDS * PAIRS
    true = rng.permutation(np.geomspace(1e-4, 1e-6, GRAPH.n_edges))
    true[[NAMES.index(name) for name in strong]] = -np.linspace(2, 3, len(strong))
    scores = true + noise * rng.normal(size=(KINDS, PAIRS, GRAPH.n_edges))
    prompt = np.stack([np.arange(PAIRS), rng.permutation(PAIRS)])
    f = np.where(np.arange(len(SHARE)) >= from_size, 0.95, 0.2)[:, None]
    grid = grid_sizes(GRAPH, SHARE)
    assert grid[0] == len(strong)
    evaluated = np.repeat(np.arange(PAIRS), KINDS)
    own = remade(Scores(
        GRAPH, scores, prompt, prompt % 4, SHARE, 4 * f - 1 + 0.1 * rng.normal(size=(len(grid), n)), np.full(n, 3.0),
        np.full(n, -1.0), evaluated, evaluated % 4, np.zeros(GRAPH.n_edges, bool),
    ))  # fmt: skip
    return stored(own)


def stored(own):
    data = {
        "score": (("counterfactual", "pair", "edge"), own.scores),
        "prompt": (("counterfactual", "pair"), own.prompt),
        "wording": (("counterfactual", "pair"), own.wording),
        "curve_metric": (("group", "size", "evaluated"), own.metric[None]),
        "curve_clean": (("group", "evaluated"), own.clean[None]),
        "curve_corrupted": (("group", "evaluated"), own.corrupted[None]),
        "evaluated_prompt": (("group", "evaluated"), own.evaluated_prompt[None]),
        "evaluated_wording": (("group", "evaluated"), own.evaluated_wording[None]),
        "in_circuit": (("group", "edge"), own.circuit[None]),
    }
    coords = {"counterfactual": ["giver1", "giver2"], "group": ["givers"], "share": ("size", SHARE)}
    return xr.Dataset(data, coords=coords).assign_attrs(n_layers=3, n_heads=6, n_kv_heads=6, parallel=0)


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


def measured(new=None, **options):
    """A checkpoint whose old heads write more of the same."""
    both = {
        "new": (behaviour(0.4, 1.0), behaviour(0.9, 3.0, seed=1)),
        "old": (behaviour(0.98, 3.0), behaviour(0.98, 3.1)),
    }
    return Measured(both, circuit(), circuit(seed=1), circuit(seed=2) if new is None else new, causal(**options))


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
        if name not in ("heads chance", "heads floor", "edges floor") and "beyond" not in name:
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
    assert verdict(evidence(measured(gain=gain))).kind == "undetermined"


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
    own = evidence(measured(noise=0.0, shares=some))
    found = items(own)
    for kind in ("graft", "carry"):
        for way, first in (("into", 0.0), ("lost", 0.5)):
            null, values = found[f"{kind} null {way}"], first + np.arange(3) / 10
            assert null.value == pytest.approx(values.mean())
            assert (null.low, null.high) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])))
    assert "bring 0.10 (5 to 95 % 0.01 to 0.19) and take 0.60 (0.51 to 0.69)" in verdict(own).text
    without = measured(noise=0.0)
    without = replace(without, causal=without.causal.isel(set=slice(-3), carried=slice(-3)))
    assert np.isnan(of(without)["graft null into"].value) and "Random sets" not in verdict(evidence(without)).text


def permuted(own, seed=0):
    """The same pairs in another order, in every measurement but the circuits'."""
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


def test_identical_circuits_lie_in_each_other_and_disjoint_ones_do_not():
    same = of(measured(new=circuit()))
    for what in ("heads", "edges"):
        for name, expected in (("inside", 1), ("floor", 1), ("beyond floor", 0), ("beyond task", 0)):
            one = same[f"{what} {name}"]
            assert (one.value, one.low, one.high) == (expected,) * 3, (what, name)
    assert same["heads shared"].value == 3 and same["heads chance"].value == pytest.approx(3 * 3 / 18)
    assert same["heads chance"].high == 2
    apart = of(measured(new=circuit(ELSEWHERE)))
    for what in ("heads", "edges"):
        for name, expected in (("inside", 0), ("floor", 1), ("beyond floor", -1), ("beyond task", 0)):
            one = apart[f"{what} {name}"]
            assert (one.value, one.low, one.high) == (expected,) * 3, (what, name)
    assert apart["heads shared"].value == 0
    half = of(measured(new=circuit(OLD[:1] + OLD[2:4] + OLD[6:7] + ELSEWHERE[:1] + ELSEWHERE[2:4] + ELSEWHERE[6:7])))
    assert half["heads inside"].value == half["edges inside"].value == 0.5 and half["heads shared"].value == 2


def test_noise_lowers_the_floor_and_not_what_is_beyond_it():
    """Most of these 48 edges are chosen by noise: the circuit is as far from another draw as from its own resamples."""
    own = measured()
    loud = of(replace(own, old_base=circuit(noise=1.0, from_size=1), new_tuned=circuit(noise=1.0, from_size=1)))
    assert loud["edges floor"].value < 0.95 and loud["edges floor"].low < loud["edges floor"].high
    assert loud["edges beyond floor"].low < 0 < loud["edges beyond floor"].high


def test_beyond_the_task_is_beside_the_old_task_of_the_same_checkpoint():
    """Elsewhere than both old circuits: the tasks differ; there too where the old task's circuit moved: the models do."""
    own = measured(new=circuit(ELSEWHERE))
    for tuned, beyond in ((OLD, 0), (ELSEWHERE, -1)):
        found = of(replace(own, old_tuned=circuit(tuned)))
        for what in ("heads", "edges"):
            assert found[f"{what} inside"].value == 0 and found[f"{what} beyond floor"].value == -1
            assert found[f"{what} beyond task"].value == beyond
    # Sharing nothing with either is not lying in the old one.
    assert verdict(evidence(own)).conditions["heads in"] is verdict(evidence(own)).conditions["edges in"] is False


@pytest.mark.parametrize("name", ["old_base", "old_tuned", "new_tuned"])
def test_an_empty_circuit_is_named_and_compared_with_nothing(name):
    own = evidence(replace(measured(), **{name: circuit(from_size=9)}))
    assert own.attrs["empty"] == f'["{name}"]' and verdict(own).conditions["circuits"] == (name == "old_tuned")
    found, compared = items(own), name == "old_tuned"
    for what in ("heads", "edges"):
        assert (
            np.isnan(found[f"{what} inside"].value) != compared
            and np.isnan(found[f"{what} beyond floor"].low) != compared
        )
        assert np.isnan(found[f"{what} beyond task"].value)
    assert np.isnan(found["heads shared"].value) != compared
    assert evidence(measured()).attrs["empty"] == "[]"


def by_hand(heads):
    """A circuit of these edges, whatever its scores."""
    own = circuit()
    own["in_circuit"][0] = [name in heads for name in NAMES]
    return own


def test_chance_tells_nothing_where_it_could_give_all():
    """Identical circuits of most heads are not `at chance`, and circuits without heads cannot share any."""
    every = [n for n in NAMES if n.startswith("input->a") and n.endswith("<v>")] + [
        n for n in NAMES if n.endswith("h0->logits")
    ]
    own = measured()
    for strong in (every, ("input->m0", "m0->logits")):
        same = of(replace(own, old_base=by_hand(strong), new_tuned=by_hand(strong)))
        assert np.isnan(same["heads chance"].high)
        low = own.causal.assign(ablated_new=own.causal["ablated_new"] * 0 + own.causal["ablated_new_clean"])
        found = verdict(evidence(replace(own, old_base=by_hand(strong), new_tuned=by_hand(strong), causal=low)))
        assert found.conditions["not necessary"] and found.conditions["overlap at chance"] is None
        assert found.kind == "undetermined"
    # One head each, not the same one: that none is shared needs no test.
    one, other = ("input->a0.h1<v>", "a0.h1->logits"), ("input->a0.h2<v>", "a0.h2->logits")
    apart = of(replace(own, old_base=by_hand(one), new_tuned=by_hand(other)))
    assert apart["heads shared"].value == 0 and apart["heads chance"].high >= 0


def test_the_evidence_keeps_what_is_no_number():
    own = measured()
    found = evidence(own)
    assert found.attrs["inside"] == '["a0.h1", "a1.h2", "a2.h3"]' and found.attrs["permuted"] == "{}"
    assert found.attrs["pairs"] == PAIRS and found.attrs["matched_possible"] == 6**3 - 1
    assert 0.05 < found.attrs["matched_overlap"] < 0.3
    assert heads_of(Circuit.of(GRAPH, _mask(own.old_base)).nodes) == INSIDE
    # Straight from `causal`, before it was ever in a file.
    fresh = own.causal.assign_attrs(inside=list(INSIDE), permuted={"a0.h1": "a0.h2"})
    unstored = evidence(replace(own, causal=fresh))
    assert unstored.attrs["permuted"] == '{"a0.h1": "a0.h2"}' and "a0.h1 is the base's a0.h2" in verdict(unstored).text


def _mask(own):
    mask = np.zeros(GRAPH.exists.shape, bool)
    mask[GRAPH.exists] = own["in_circuit"].values[0]
    return mask


MUCH, NONE = (0.9, 0.9), (0.0, 0.0)
KINDS_OF = {
    "amplified": lambda: measured(),
    "rewired": lambda: measured(shares={"inside<qk>": MUCH, "inside<vo>": NONE}),
    "extended": lambda: measured(circuit((*OLD[:3], *ELSEWHERE[:5]), seed=2),
                                 shares={"inside": NONE, "inside<vo>": NONE, "outside": MUCH}),
    "replaced": lambda: measured(circuit(ELSEWHERE, seed=2), necessity=0.0, transfer=0.0,
                                 shares={"inside": NONE, "inside<vo>": NONE, "outside": MUCH}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS_OF)
def test_from_measurements_to_the_verdict(kind):
    own = KINDS_OF[kind]()
    found, again = verdict(evidence(own)), verdict(evidence(own))
    assert found.kind == kind, (found.text, found.missing)
    assert (found.text, found.conditions) == (again.text, again.conditions)
    same = replace(own, evaluate={**own.evaluate, "new": (behaviour(0.4, 1.0), behaviour(0.4, 1.0))})
    assert verdict(evidence(same)).kind == "no new ability"


def halved(own, rng):
    """A random half of the pairs of every measurement; of prompts, with all their counterfactuals."""

    def some(count):
        return np.sort(rng.choice(count, count // 2, replace=False))

    both = {}
    for role, ends in own.evaluate.items():
        half = some(ends[0].sizes["pair"])
        both[role] = tuple(end.isel(pair=half) for end in ends)
    prompts = {d: np.isin(own.causal[f"{p}_prompt"], some(PAIRS)).nonzero()[0] for d, p in (
        ("new_ablated", "ablated_new"), ("old_ablated", "ablated_old"), ("evaluated", "transfer"))}  # fmt: skip
    circuits = {}
    for name in ("old_base", "old_tuned", "new_tuned"):
        one = Scores.of(getattr(own, name))
        rows = np.isin(one.evaluated_prompt, some(PAIRS))
        keep = some(PAIRS)
        wanted = [np.isin(row, keep).nonzero()[0] for row in one.prompt]
        picked = {k: np.stack([v[i, w] for i, w in enumerate(wanted)]) for k, v in
                  (("scores", one.scores), ("prompt", one.prompt), ("wording", one.wording))}  # fmt: skip
        ends = {k: getattr(one, k)[rows] for k in ("clean", "corrupted", "evaluated_prompt", "evaluated_wording")}
        circuits[name] = stored(remade(replace(one, **picked, **ends, metric=one.metric[:, rows])))
    return replace(own, evaluate=both, causal=own.causal.isel(pair=some(PAIRS), **prompts), **circuits)


@pytest.mark.parametrize("kind", KINDS_OF)
def test_a_clear_verdict_holds_on_any_half_of_the_pairs(kind):
    own, rng = KINDS_OF[kind](), np.random.default_rng(0)
    assert {verdict(evidence(halved(own, rng))).kind for _ in range(20)} == {kind}


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


@pytest.mark.parametrize("case", ["always place 2", "any name"])
def test_a_model_that_does_what_a_rule_does_has_no_new_ability(case):
    """A base that says no names (accuracy 0) is taught to say the second one, or any: accuracy rises by 60 or 33 points."""
    n, rng = 3 * PAIRS, np.random.default_rng(5)
    place = rng.permutation(np.arange(n) % 5 < 3)
    right = place if case == "always place 2" else rng.random(n) < 1 / 3
    rules = [rule("chance", np.full(n, 1 / 3)), rule("best place", place), rule("best name prior", rng.random(n) < 0.3)]
    own = measured()
    assert verdict(evidence(choosing(own, np.ones(n), rules))).kind == verdict(evidence(own)).kind == "amplified"
    before, after = behaviour(0.0, 1.0), behaviour(0.0, 3.0).assign(accuracy=("pair", right.astype(np.int8)))
    own = choosing(replace(own, evaluate={**own.evaluate, "new": (before, after)}), right, rules)
    found = verdict(evidence(own))
    assert found.conditions["gain"] is True and found.kind == "no new ability"
    assert "not above what “always the one introduced at place 2” gets without any circuit (60.0 %" in found.text
    # Before it had to be above a rule, it was called amplified.
    assert verdict(evidence(replace(own, baselines=()))).kind == "amplified"
