"""Verdicts on evidence made by hand: each kind from what defines it, each condition alone, words that claim no more."""

import json
import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from handmade import (
    AMPLIFIED,
    ATTENDED,
    BELOW,
    BESIDE,
    HEADS_OUT,
    LITTLE,
    MUCH,
    NAN,
    NEARLY,
    OUT_OF,
    OUTSIDE,
    REPLACED,
    SAME,
    SAYS,
    SPANS,
    WAYS,
    both,
    made,
)
from instar.compare.verdict import KINDS, NEEDED, Thresholds, verdict
from instar.compare.words import FAILS, LEAD
from instar.record.config import RunConfig
from instar.record.files import read_json, write_json
from instar.record.store import Store

CASES = {
    "amplified": {},
    "rewired": OUT_OF,
    "rewired ": ATTENDED,
    "extended": OUTSIDE | HEADS_OUT | OUT_OF,
    "replaced": REPLACED,
    "no new ability": {"gain accuracy": (0.0, -0.02, 0.02), "gain logits": (0.1, 0.0, 0.2)},
}


def told(one):
    """Everything that a verdict says; its numbers may be NaN, which equal nothing."""
    return (
        one.kind,
        one.text,
        one.conditions,
        one.missing,
        one.would_change,
        {k: str(v) for k, v in one.evidence.items()},
    )


def undetermined(evidence, *named):
    found = verdict(evidence)
    assert found.kind == "undetermined" and found.text.startswith(LEAD["undetermined"])
    for words in named:
        assert any(words in line for line in found.missing), (words, found.missing)
    return found


@pytest.mark.parametrize("case", CASES)
def test_each_kind_comes_from_what_defines_it(case):
    found = verdict(made(CASES[case]))
    assert found.kind == case.strip() and found.text.startswith(LEAD[case.strip()])
    assert found.missing == ()


def test_the_first_kind_whose_conditions_hold_names_the_verdict():
    """What is replaced has its gain outside too; what is extended may be in the old heads' attention too."""
    assert verdict(made(REPLACED | {"necessity": MUCH})).kind == "extended"
    # All that rewired and amplified need, and not necessary, at chance: overlap is told by heads, not by shares.
    assert verdict(made({"necessity": LITTLE, "heads shared": (1.0, 1.0, 1.0)})).kind == "replaced"
    assert verdict(made(both("graft outside", "carry outside", at=MUCH) | OUT_OF | ATTENDED)).kind == "extended"
    assert verdict(made(ATTENDED | OUT_OF)).kind == "rewired"
    assert verdict(made(REPLACED | CASES["no new ability"])).kind == "no new ability"


@pytest.mark.parametrize(
    ("items", "named"),
    [
        ({"transfer": (0.2, 0.1, 0.3)}, "by itself does not do"),
        ({"transfer": (0.5, 0.4, 0.6)}, "whether the old circuit by itself"),
        ({"transfer": NAN}, "whether the old circuit by itself"),
        (HEADS_OUT, "heads that the old one has not"),
        ({"heads beyond floor": NEARLY, "heads beyond task": NEARLY}, "heads lie in the old circuit (the interval"),
        ({"heads beyond floor": BELOW, "heads beyond task": NAN}, "new circuit's heads lie in the old circuit"),
        ({"heads floor": (0.7, 0.6, 0.9)}, "resampled old circuits share 0.70 with it, less than 0.8"),
        ({"heads floor": NAN, "heads inside": NAN}, "one of them has no heads"),
        ({"edges beyond floor": NEARLY, "edges beyond task": NEARLY}, "edges lie in the old circuit (the interval"),
        ({"edges floor": (0.7, 0.6, 0.9)}, "new circuit's edges lie in the old circuit"),
        (both("graft inside", at=SPANS), "whether heads of the old circuit carry"),
        (both("graft inside", at=NAN), "whether heads of the old circuit carry"),
        ({"graft inside lost": LITTLE}, "the heads inside bring more of the gain than they take"),
        ({"graft inside into": LITTLE}, "the heads inside bring more of the gain than they take, or the reverse"),
        ({"graft inside lost": LITTLE, "graft inside into": SPANS}, "whether they carry little is open"),
        (both("graft inside", at=LITTLE), "heads carry little of the gain"),
        ({"graft outside into": SPANS}, "whether other heads carry little"),
        ({"graft outside into": NAN}, "whether other heads carry little"),
        ({"graft outside into": MUCH}, "the heads outside bring more of the gain than they take"),
        (both("graft outside", at=SPANS), "whether other heads carry a share"),
        (both("graft inside<qk>", at=MUCH) | both("graft inside<vo>", at=MUCH), "not there alone"),
        (both("graft inside<qk>", at=MUCH) | both("graft inside<vo>", at=SPANS), "whether only there is open"),
        (both("graft inside<qk>", at=SPANS), "whether the gain was written in what the old circuit's heads attend to"),
        (both("carry inside", at=LITTLE), "the heads inside hold the gain by grafting but carry little of it by patching"),
        (OUTSIDE | both("carry outside", at=LITTLE), "the heads outside hold the gain by grafting but"),
        (OUTSIDE | {"necessity": LITTLE}, "not replaced: old and new circuit share more heads"),
        (OUTSIDE | {"necessity": LITTLE}, "not extended: the old circuit's heads are not necessary"),
        (OUTSIDE | {"necessity": (0.25, 0.2, 0.3)}, "whether the old circuit's heads are necessary"),
        (OUTSIDE | {"necessity": NAN}, "whether the old circuit's heads are necessary"),
        (REPLACED | {"heads chance": NAN}, "whether old and new circuit share more heads than chance"),
        (REPLACED | {"heads chance": (4.0, math.nan, math.nan)}, "whether old and new circuit share more heads than chance"),
        (REPLACED | {"heads shared": NAN}, "whether old and new circuit share more heads than chance"),
        ({"gain accuracy": NAN}, "whether there is a gain"),
        ({"gain logits": NAN}, "whether there is a gain"),
    ],
)  # fmt: skip
def test_one_condition_false_or_open_is_named(items, named):
    undetermined(made(items), named)


def test_patching_that_says_nothing_does_not_contradict():
    assert verdict(made(both("carry inside", at=SPANS))).kind == "amplified"
    assert verdict(made(both("carry inside", at=NAN))).kind == "amplified"


@pytest.mark.parametrize(
    "items",
    [
        {"gain accuracy": (0.1, 0.05, 0.15)},
        # 5 points but for rounding.
        {"gain accuracy": (0.1, 0.15 - 0.1, 0.15)},
        {"gain accuracy": (0.1, -0.01, 0.2)},
        {"gain accuracy": (-0.3, -0.4, -0.2)},
        {"gain logits": (0.2, -0.1, 0.5)},
        {"gain logits": (0.2, 0.0, 0.5)},
        {"gain logits": (-1.0, -1.2, -0.8)},
        {"gain accuracy": (0.0, 0.0, 0.0), "gain logits": NAN},
        {"gain logits": (0.0, 0.0, 0.0), "gain accuracy": NAN},
    ],
)
def test_what_is_no_gain(items):
    for own in (items, REPLACED | items):
        found = verdict(made(own))
        assert found.kind == "no new ability" and found.conditions["gain"] is False and found.missing == ()
    assert verdict(made({"gain accuracy": (0.1, 0.051, 0.15)})).kind == "amplified"


def beside(items=None, **attrs):
    return made(BESIDE | (items or {}), says=json.dumps(SAYS), **attrs)


@pytest.mark.parametrize("case", CASES)
def test_rules_that_need_no_circuit_change_no_verdict_that_is_above_them(case):
    found = verdict(beside(CASES[case]))
    assert found.kind == case.strip() == verdict(made(CASES[case])).kind and found.conditions["above baselines"] is True
    plain_words(found)
    assert (
        "chooses the answer in 92.0 % [88.0, 96.0] of prompts, more than any rule that needs no circuit (the nearest, "
        "“always the one introduced at place 2”, gets 55.0 %; difference +37.0 points [+27.0, +47.0])."
    ) in found.text


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("chance", "“any of them” gets without any circuit (33.3 %"),
        ("commonest answer", "“always Ann” gets without any circuit (0.0 %"),
        ("best place", "“always the one introduced at place 2” gets without any circuit (55.0 %"),
        ("best name prior", "“always the one most often right in training” gets without any circuit (38.0 %"),
    ],
)
def test_what_a_rule_without_a_circuit_gets_too_is_no_ability(case, kind, words):
    """Of every rule: which of them does best on what is tested is known afterwards only."""
    for interval in ((0.04, -0.01, 0.09), (0.0, 0.0, 0.0), (-0.2, -0.3, -0.1)):
        found = verdict(beside(CASES[case] | {f"beyond {kind}": interval}))
        assert found.kind == "no new ability" and found.conditions["above baselines"] is False and found.missing == ()
        assert f"which is not above what {words}; difference" in found.text and "than any rule" not in found.text
        assert "more often than any rule without a circuit" in found.would_change
        plain_words(found)


def test_nothing_is_said_of_the_heads_of_a_circuit_that_is_not_there():
    found = verdict(made(both("graft inside", "graft inside<qk>", "graft inside<vo>", at=(0.0, 0.0, 0.0)), inside="[]"))
    assert "The base has no circuit of the old task to graft." in found.text
    assert "(none)" not in found.text and "()" not in found.text and "0.00 [0.00, 0.00] of the gain" not in found.text
    assert "Ablating the old circuit's heads" not in found.text


def test_evidence_of_before_there_were_baselines_says_so_and_gives_what_it_gave():
    for case in CASES:
        found = verdict(made(CASES[case]))
        assert found.conditions["above baselines"] is None and found.kind == case.strip()
        assert "Whether a rule that needs no circuit would do as well was not measured." in found.text


@pytest.mark.parametrize("case", [c for c in CASES if c != "no new ability"])
def test_nothing_is_said_of_heads_in_another_order(case):
    found = undetermined(
        made(CASES[case], permuted='{"a0.h1": "a0.h2"}'), "heads in one order", "a0.h1 is the base's a0.h2"
    )
    assert "a0.h1 is the base's a0.h2" in found.text and "no head can be told by its name" in found.text
    assert verdict(made(CASES["no new ability"], permuted='{"a0.h1": "a0.h2"}')).kind == "no new ability"


@pytest.mark.parametrize("case", [c for c in CASES if c != "no new ability"])
def test_without_a_circuit_or_an_old_task_nothing_is_said(case):
    for empty in ('["old_base"]', '["new_tuned"]', '["old_base", "old_tuned", "new_tuned"]'):
        found = undetermined(made(CASES[case], empty=empty), "a faithful circuit")
        assert "one of them does not exist" in found.text
    assert verdict(made(CASES[case], empty='["old_tuned"]')).kind == case.strip()
    for accuracy in ((0.3, 0.2, 0.4), (0.5, 0.4, 0.6), NAN):
        undetermined(made(CASES[case] | {"old accuracy base": accuracy}), "a base that can do the old task")


def test_a_circuit_without_heads_is_not_said_not_to_exist():
    none = dict.fromkeys(("heads inside", "heads floor", "heads beyond floor", "heads beyond task"), NAN)
    found = undetermined(
        made(none | {"heads shared": (0.0,) * 3, "heads chance": (0.0, math.nan, math.nan)}), "has no heads"
    )
    assert "does not exist" not in found.text and "not measurable lie in" in found.text


def test_a_null_with_power_decides_necessity_and_one_without_does_not():
    above = OUTSIDE | {"necessity null": (0.7, 0.6, 0.85)}
    powerful = verdict(made(above))
    assert powerful.conditions["necessary"] is None and powerful.kind == "undetermined"
    below = verdict(made(above | {"necessity": (0.5, 0.4, 0.6)}))
    assert below.conditions["necessary"] is False and below.conditions["not necessary"] is True
    assert verdict(made(above | {"necessity": (0.5, 0.4, 0.6), "heads shared": (2.0,) * 3})).kind == "replaced"
    assert verdict(made(OUTSIDE)).conditions["necessary"] is True
    for attrs, said in (
        ({"matched_overlap": 0.31}, "share 31% of its heads"),
        ({"matched_possible": 19}, "only 19 of them"),
    ):
        powerless = verdict(made(above, **attrs))
        assert powerless.conditions["necessary"] is True and powerless.kind == "extended" and said in powerless.text
        assert "cannot decide" in powerless.text
    assert "cannot decide" not in verdict(made(above, matched_overlap=0.3, matched_possible=20)).text
    # Powerful or not, a share below the threshold is not necessary.
    assert verdict(made({"necessity": LITTLE, "necessity null": (-0.5, -0.6, -0.4)})).conditions["necessary"] is False
    none = verdict(made(OUTSIDE | {"necessity null": NAN}, matched_possible=0, matched_overlap=math.nan))
    assert none.kind == "extended" and "no other sets to compare with" in none.text


def test_negative_shares_are_little():
    """Weights that work against the gain carry none of it, whatever their size."""
    negative = (-2.0, -3.0, -1.0)
    found = verdict(made(both("graft outside", "carry outside", at=negative)))
    assert found.kind == "amplified" and "-2.00 [-3.00, -1.00]" in found.text
    assert (
        verdict(made(REPLACED | both("graft inside", "carry inside", at=negative) | {"necessity": negative})).kind
        == "replaced"
    )
    undetermined(made(both("graft inside", at=negative)), "heads carry little of the gain")


def test_gains_outside_of_all_heads_are_said_to_be():
    nothing = both("graft inside", "graft inside<vo>", "graft heads", at=LITTLE)
    mlps = undetermined(
        made(nothing | both("graft mlps", at=MUCH)), "it was written in MLPs, of which these kinds do not speak"
    )
    assert "MLPs 0.90 [0.80, 1.00] in, 0.90 [0.80, 1.00] out" in mlps.text
    some = both("graft mlps", "graft norms", at=MUCH)
    undetermined(made(nothing | some), "it was written in MLPs and norms and output biases")
    undetermined(made(nothing), "no other group is known to carry it alone")


def test_overlap_is_judged_beside_the_old_task_of_the_same_checkpoint_too():
    """What the new circuit lacks in both alike is a difference between tasks."""
    found = verdict(made({"heads beyond floor": BELOW, "heads inside": (0.4, 0.3, 0.5)}))
    assert (
        found.kind == "amplified"
        and "about as many heads lie in the old task's circuit of the same checkpoint" in found.text
    )
    assert "about as many" not in verdict(made()).text
    apart = {"heads beyond floor": BELOW, "heads shared": (2.0,) * 3}
    assert (
        verdict(made(apart)).conditions["heads in"] is False
        and verdict(made({"heads shared": (2.0,) * 3})).kind == "amplified"
    )
    # 3 of 5 against 4 of 5 is within a margin of 0.2, and not only where rounding is kind.
    exactly = dict.fromkeys(("heads beyond floor", "heads beyond task"), (0.6 - 0.8, 0.6 - 0.8, 0.0))
    assert 0.6 - 0.8 < -0.2 and verdict(made(exactly)).kind == "amplified"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ((0.0, -0.005, 0.005), "was kept:"), ((-0.03, -0.08, 0.0), "kept or weakened (its interval does not say)"),
        ((-0.1, -0.15, -0.05), "was weakened:"), ((-0.8, -0.9, -0.7), "was lost:"), ((0.9, 0.8, 1.0), "was improved:"),
        (NAN, "was not measured"),
    ],
)  # fmt: skip
def test_what_became_of_the_old_task_is_part_of_every_verdict(change, word):
    for case in CASES.values():
        assert word in verdict(made(case | {"old accuracy": change})).text


def test_the_same_evidence_gives_the_same_verdict_in_any_order_and_from_a_file(tmp_path):
    store = Store.create(tmp_path, RunConfig())
    rng = np.random.default_rng(0)
    for case in (*CASES.values(), {"transfer": NAN}, OUTSIDE | {"necessity": SPANS}):
        own = made(case)
        before, expected = own.copy(deep=True), told(verdict(own))
        assert told(verdict(own)) == expected
        xr.testing.assert_identical(own, before)
        shuffled = own.isel(item=rng.permutation(own.sizes["item"]))
        assert list(shuffled["item"].values) != list(own["item"].values)
        found = told(verdict(shuffled))
        assert found == expected
        path = store.compared("evidence", 0, 3)
        store.write_measurement(path, own, "key")
        with xr.open_dataset(path, engine="h5netcdf") as file:
            assert told(verdict(file)) == expected


def test_a_verdict_is_plain_values(tmp_path):
    for case in (*CASES.values(), dict.fromkeys(AMPLIFIED, NAN)):
        found = verdict(made(case))
        write_json(tmp_path / "v.json", found.as_dict())
        back = read_json(tmp_path / "v.json")
        assert back["kind"] == found.kind and back["missing"] == list(found.missing)
        assert back["conditions"] == found.conditions


def test_thresholds_are_those_given():
    assert verdict(made(), Thresholds(share=0.95)).kind == "undetermined"
    assert verdict(made(), Thresholds(rise=0.31)).kind == "no new ability"
    assert verdict(made({"transfer": (0.4, 0.35, 0.45)}), Thresholds(transfer=0.3)).kind == "amplified"
    assert verdict(made(HEADS_OUT), Thresholds(margin=0.8)).kind == "amplified"
    assert verdict(made({"heads floor": (0.7, 0.6, 0.8)}), Thresholds(floor=0.7)).kind == "amplified"
    assert "exceeds 31 points" in verdict(made(), Thresholds(rise=0.31)).would_change


def plain_words(found):
    """No number that is none, no brace that nobody filled."""
    for text in (found.text, found.would_change, *found.missing):
        words = text.replace(",", " ").replace("[", " ").replace("]", " ").lower().split()
        assert "{" not in text and "}" not in text and "None" not in text, text
        assert not [w for w in words if w.strip("().;:%+-") in ("nan", "inf", "nan%")], text
        assert "  " not in text and text[0] != " " and ".." not in text and text.count("(") == text.count(")"), text


@pytest.mark.parametrize("case", CASES)
def test_the_words_hold_the_numbers_with_their_intervals(case):
    found = verdict(made(CASES[case]))
    plain_words(found)
    assert found.text.count("[") == found.text.count("]") >= 6 and found.text.endswith(".")
    gain = CASES[case].get("gain logits", AMPLIFIED["gain logits"])
    assert "{:+.2f} [{:+.2f}, {:+.2f}]".format(*gain) in found.text
    rise = [100 * x for x in CASES[case].get("gain accuracy", AMPLIFIED["gain accuracy"])]
    assert "{:+.1f} points [{:+.1f}, {:+.1f}]".format(*rise) in found.text
    assert "50.0 % [40.0, 60.0] to 90.0 % [85.0, 95.0]" in found.text
    if case == "no new ability":
        # Shares of no gain are none.
        assert "grafting" not in found.text
        return
    items = found.evidence
    for name in ("graft inside into", "graft inside lost", "graft outside into", "graft outside lost"):
        assert "{value:.2f} [{low:.2f}, {high:.2f}]".format(**items[name]) in found.text
    assert "a0.h1, a1.h2" in found.text and found.would_change.startswith("It would change with ")


def test_into_and_lost_are_not_confused():
    shares = {f"graft {name} {way}": (0.5 + i / 10 + j / 100, 0.5, 0.9)
              for i, name in enumerate(("inside", "inside<qk>", "inside<vo>")) for j, way in enumerate(WAYS)}  # fmt: skip
    text = verdict(made(shares | {"graft outside into": (0.11, 0, 0.2), "graft outside lost": (0.12, 0, 0.2)})).text
    assert "bring 0.50 [0.50, 0.90] of the gain into the base, and the base's take 0.51 [0.50, 0.90]" in text
    assert "other heads bring 0.11 [0.00, 0.20] and take 0.12 [0.00, 0.20]" in text
    assert "brings 0.60 [0.50, 0.90] and takes 0.61 [0.50, 0.90]" in text
    assert "0.70 [0.50, 0.90] and 0.71 [0.50, 0.90]." in text


def test_nothing_measured_is_undetermined():
    attrs = {"matched_overlap": math.nan, "matched_possible": 0, "inside": "[]", "empty": '["old_base", "new_tuned"]'}
    for own in ({}, attrs):
        found = undetermined(made(dict.fromkeys(AMPLIFIED, NAN), **own), "whether there is a gain")
        plain_words(found)
        assert "was kept" not in found.text
    for name in AMPLIFIED:
        for case in CASES.values():
            found = verdict(made(case | {name: NAN}))
            plain_words(found)
            assert found.missing or found.kind != "undetermined"


def test_every_condition_that_a_kind_needs_has_its_words():
    conditions = verdict(made()).conditions
    assert {c for some in NEEDED.values() for c in some} == set(FAILS) <= set(conditions)
    assert set(LEAD) == set(KINDS)


# Where each item can stand: above its threshold, below it, across it, not measured.
SHARE = (MUCH, LITTLE, SPANS, NAN, (-2.0, -3.0, -1.0))
REGIMES = (
    {k: SHARE for k in AMPLIFIED if k.startswith(("graft", "carry"))}
    | {k: (SAME, BELOW, NEARLY, NAN) for k in AMPLIFIED if "beyond" in k}
    | {k: ((1.0, 0.9, 1.0), (0.7, 0.6, 0.9), NAN) for k in AMPLIFIED if "floor" in k and "beyond" not in k}
    | {
        "necessity": ((0.8, 0.7, 0.9), LITTLE, (0.25, 0.2, 0.3), NAN),
        "transfer": ((0.9, 0.8, 1.0), LITTLE, (0.5, 0.4, 0.6), NAN),
        "necessity null": ((0.1, -0.05, 0.2), (0.85, 0.7, 0.95), NAN), "heads shared": ((4.0,) * 3, (1.0,) * 3, NAN),
        "heads chance": ((1.2, math.nan, 2.0), (1.2, math.nan, math.nan), NAN), "heads inside": (MUCH, LITTLE, NAN),
        "edges inside": (MUCH, LITTLE, NAN), "old accuracy": ((0.0, -0.01, 0.01), (-0.7, -0.8, -0.6), NAN),
    }
)  # fmt: skip
RARE = {
    "gain accuracy": ((0.1, 0.05, 0.2), NAN),
    "gain logits": ((0.1, -0.1, 0.3), NAN),
    "old accuracy base": ((0.5, 0.4, 0.6), NAN),
}
WORDED = {
    kind: LEAD[kind].removeprefix("The old circuit ") for kind in ("replaced", "extended", "rewired", "amplified")
}


def claims_no_more_than_it_knows(found):
    plain_words(found)
    assert found.kind in KINDS and (len(found.missing) > 0) == (found.kind == "undetermined"), found.conditions
    assert len(set(found.missing)) == len(found.missing)
    for kind, words in WORDED.items():
        assert (words in found.text) == (found.kind == kind)


def test_all_that_is_undetermined_says_why():
    """Draws over where each item can stand."""
    rng, seen = np.random.default_rng(0), dict.fromkeys(KINDS, 0)
    truths = set()
    for i in range(3000):
        # From as if amplified, extended … with a few changes, to anything.
        base = CASES[str(rng.choice(list(CASES)))] if rng.random() < 0.8 else {}
        changed = rng.choice(list(REGIMES), size=rng.integers(0, 6 if i % 2 else len(REGIMES)), replace=False)
        own = base | {str(k): REGIMES[str(k)][rng.integers(len(REGIMES[str(k)]))] for k in changed}
        own |= {k: v[rng.integers(len(v))] for k, v in RARE.items() if rng.random() < 0.03}
        attrs = {"permuted": '{"a0.h1": "a0.h2"}'} if rng.random() < 0.03 else {}
        attrs |= {"empty": '["new_tuned"]'} if rng.random() < 0.03 else {}
        attrs |= {"matched_overlap": math.nan, "matched_possible": 0} if rng.random() < 0.2 else {}
        found = verdict(made(own, **attrs))
        claims_no_more_than_it_knows(found)
        seen[found.kind] += 1
        truths.add(tuple(found.conditions.values()))
    assert min(seen.values()) > 30 and len(truths) > 500, (seen, len(truths))


@given(data=st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_numbers_give_a_verdict_that_claims_no_more_than_it_knows(data):
    """Intervals of any width anywhere, NaN in any place."""
    middle, half = st.floats(-3, 3), st.floats(0, 1)
    interval = st.one_of(st.just(NAN), st.tuples(middle, half, half).map(lambda x: (x[0], x[0] - x[1], x[0] + x[2])))
    names = data.draw(st.lists(st.sampled_from(list(AMPLIFIED)), unique=True, max_size=len(AMPLIFIED)))
    base = CASES[data.draw(st.sampled_from(list(CASES)))]
    permuted = data.draw(st.sampled_from([{}, {}, {"a0.h1": "a0.h2"}]))
    empty = data.draw(st.sampled_from([[], [], ["old_tuned"], ["old_base"]]))
    overlap, possible = data.draw(st.sampled_from([(0.2, 200), (0.9, 200), (0.2, 5), (math.nan, 0)]))
    own = base | {name: data.draw(interval) for name in names}
    found = verdict(
        made(
            own,
            permuted=json.dumps(permuted),
            empty=json.dumps(empty),
            matched_overlap=overlap,
            matched_possible=possible,
        )
    )
    claims_no_more_than_it_knows(found)
    if permuted or "old_base" in empty:
        assert found.kind in ("undetermined", "no new ability")
    gain = AMPLIFIED | own
    if not (gain["gain accuracy"][1] > 0.05 and gain["gain logits"][1] > 0):
        assert found.kind in ("undetermined", "no new ability")
