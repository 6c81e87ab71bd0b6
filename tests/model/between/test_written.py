"""How a gain was written, of changes whose place is known; and the whole answer of two models."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import instar
from instar.between.reuse import Draws
from instar.compare.answer import MOST_WORDS, _with, headline
from instar.compare.reused import LIMITS, Reuse
from instar.compare.written import PARTS, written
from instar.measure.common import clean_logits, metrics
from instar.stats.intervals import Interval
from instar.tasks.library import task
from twins import named

INSIDE = ["a0.h0", "a1.h0", "m1"]


@pytest.fixture(scope="module")
def base():
    return instar.load("embedded")


@pytest.fixture(scope="module")
def prompts(base):
    return task("ioi3").batch(base, 24, 3)


def towards(base, prompts, *names, size=0.02):
    """The base with these parameters moved up the gradient of choosing: a gain that they alone hold."""
    module = copy.deepcopy(base.module)
    model = instar.Model(**{**vars(base), "module": module, "layout": type(base.layout)(module, base.layout.arch)})
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    with torch.enable_grad():
        metrics(clean_logits(model.layout, prompts), prompts, ["choosing"])["choosing"].mean().backward()
    with torch.no_grad():
        for name, own in module.named_parameters():
            gradient, own.grad = own.grad, None
            if any(part in name for part in names):
                own.add_(size * gradient / gradient.abs().max())
            own.requires_grad_(False)
    return named(module, "tuned")


def of(base, tuned, prompts, **options):
    ledger = instar.ledger([base, tuned], prompts, "choosing", nodes=4, blocks=6)
    return written(ledger, INSIDE, instar.shapley(base, tuned, prompts, INSIDE, ("choosing",)), **options)


def test_a_gain_in_mlps_is_named_so_and_nothing_else_is(base, prompts):
    own = of(base, towards(base, prompts, "mlp"), prompts)
    parts = {one.part: one for one in own.parts}
    assert own.named == ("MLPs",) and own.gain.low > 0
    assert parts["MLPs"].share.value == pytest.approx(1, abs=0.01) and parts["MLPs"].shapley.value == pytest.approx(
        1, abs=1e-6
    )
    assert all(parts[p].booked.value == 0 for p in PARTS if p != "MLPs")
    assert parts["MLPs"].moved == pytest.approx(1) and own.residual < 0.01
    inside, outside = parts["MLPs inside"], parts["MLPs outside"]
    assert inside.share.value + outside.share.value == pytest.approx(parts["MLPs"].share.value)


def test_parts_add_up_and_so_do_layers_and_steps(base, prompts):
    middle, end = (towards(base, prompts, "attn", size=s) for s in (0.0003, 0.0006))
    ledger = instar.ledger([base, middle, end], prompts, "choosing", blocks=6)
    own = written(ledger, INSIDE, None)
    assert sum(one.booked.value for one in own.parts[: len(PARTS)]) == pytest.approx(
        own.gain.value, abs=0.01 * own.gain.value
    )
    assert sum(row["booked"].value for row in own.layers) == pytest.approx(own.gain.value, abs=0.01 * own.gain.value)
    assert own.intervals == 2 and own.half is None
    assert all(np.isnan(one.shapley.value) for one in own.parts) and 1 <= own.churn < 3


@pytest.fixture(scope="module")
def found(base):
    return instar.answer(base, base, "ioi2", "ioi3", prompts=24, draws=Draws(20, 5, 20), grafts=False)


def test_grafts_of_a_part_are_those_of_its_groups(base, prompts):
    tuned = towards(base, prompts, "attn", "ln_", size=0.0006)
    grafts = instar.shapley(base, tuned, prompts, INSIDE, ("choosing",))
    own = written(instar.ledger([base, tuned], prompts, "choosing", nodes=4, blocks=6), INSIDE, grafts)
    found = grafts.sel(metric="choosing")
    gain = float((found["tuned"] - found["base"]).mean())
    for one in own.parts:
        mine = [g for g in grafts["group"].values.tolist() if g == one.part or g.startswith(f"{one.part} ")]
        assert one.shapley.value == pytest.approx(
            float(found["value"].sel(group=mine).mean("pair").sum()) / gain, abs=1e-6
        )
        assert one.moved == pytest.approx(float(grafts["moved"].sel(group=mine).sum() / grafts["moved"].sum()))
    four = own.parts[: len(PARTS)]
    assert sum(one.shapley.value for one in four) == pytest.approx(1) and all(one.shapley.value < 0.99 for one in four)


def test_the_answer_of_a_model_that_learnt_nothing(found):
    assert found.kind == "no new ability" and found.reuse == () and "No new ability" in found.headline
    assert len(found.headline.split()) <= MOST_WORDS and found.as_dict()["kind"] == "no new ability"
    # Of what was not learnt it is not open when, and of next to nothing any booking is many times as much.
    assert not [text for text in found.open if "coordinates" in text or "when it was" in text]


def runs(kind, word, value):
    share = Interval(value, value - 0.05, value + 0.05)
    return Reuse(
        kind, word, 40, 400, share, share, share, share, 0.0, "its heads permuted", 0.1, 0.9, share, share, share, share,
        share, (), {}, [],
    )  # fmt: skip


def test_a_headline_keeps_to_its_length_and_says_what_differs(found):
    can = replace(found.ability, new=True)
    both = replace(
        found, kind="extended", ability=can, reuse=(runs("giver1", "formed", 0.1), runs("giver2", "transformed", 0.95))
    )
    text = headline(both)
    assert (
        text.startswith("Extended: giver 2 on the old circuit, giver 1 on new edges")
        and len(text.split()) <= MOST_WORDS
    )
    alone = headline(replace(both, kind="transformed", reuse=both.reuse[1:]))
    assert alone.startswith("Transformed: the new skill runs on the old circuit (reuse 0.95)")


def test_what_runs_on_the_old_circuit_and_was_written_outside_extends_it(base, prompts, found):
    """Only heads outside the circuit changed: a booking in MLPs or inside would not do."""
    tuned = towards(base, prompts, "attn", size=0.0006)
    outside, inside = ["a3.h7", "m0"], [f"a{layer}.h{head}" for layer in range(4) for head in range(8)]
    for nodes, recruits in ((outside, True), (inside, False)):
        how = written(
            instar.ledger([base, tuned], prompts, "choosing", nodes=4, blocks=6), nodes,
            instar.shapley(base, tuned, prompts, nodes, ("choosing",)),
        )  # fmt: skip
        assert how.recruits(0.5) is recruits
        assert how.recruited.share.value == pytest.approx(1 if recruits else 0, abs=0.1)
        use = runs("giver1", "transformed", 0.95)
        own = tuple(_with(how, [use], LIMITS))
        assert own[0].word == ("extended" if recruits else "transformed")
    text = headline(
        replace(
            found,
            kind="extended",
            ability=replace(found.ability, new=True),
            reuse=(replace(use, word="extended", recruits=True),),
        )
    )
    assert text.startswith(
        "Extended: the new skill runs on the old circuit (reuse 0.95), and was written in heads outside"
    )


def test_a_straight_line_of_much_to_and_fro_names_no_part(base, prompts):
    own = of(base, towards(base, prompts, "mlp"), prompts)
    assert own.named and not own.mixed_up
    far = replace(own, churn=6.0)
    assert far.mixed_up and far.named == () and far.told == () and not far.recruits(-9.0)
    assert not replace(far, intervals=5).mixed_up


def test_naming_is_learnt_only_where_a_candidate_is_said_more_often(found):
    can = replace(found.ability, new=False, naming=Interval(0.02, 0.01, 0.03), named=Interval(0.0, 0.0, 0.0))
    assert not can.only_named and replace(can, named=Interval(0.3, 0.2, 0.4)).only_named
    assert not replace(can, named=Interval(0.3, 0.2, 0.4), choosing=Interval(0.2, 0.1, 0.3)).only_named


def test_a_part_is_named_and_heads_recruit_only_where_grafts_agree(base, prompts):
    own = of(base, towards(base, prompts, "attn", size=0.0006), prompts)
    part = replace(own.recruited, share=Interval(0.8, 0.7, 0.9), shapley=Interval(0.8, 0.6, 0.9))
    far = replace(own, recruited=part, churn=2.0)
    assert part.carries(0.5) and far.recruits(0.5) and not far.recruits(0.65)
    for grafts in (Interval(0.2, -0.1, 0.6), Interval(np.nan, np.nan, np.nan)):
        without = replace(part, shapley=grafts)
        assert not without.carries(0.5) and not replace(far, recruited=without).recruits(0.5)
        # Where none were made the ledger speaks alone.
        assert replace(without, moved=np.nan).carries(0.5)


def course(*means: float, pairs: int = 60, noise: float = 0.2) -> xr.DataArray:
    rng = np.random.default_rng(0)
    values = np.array(means)[:, None] + noise * rng.normal(size=(len(means), pairs))
    return xr.DataArray(values, dims=("step", "pair"), coords={"step": [10 * i for i in range(len(means))]})


def half(base, tuned, prompts, of):
    return written(instar.ledger([base, tuned], prompts, "choosing", nodes=2, blocks=6), INSIDE, None, course=of).half


def test_half_is_the_checkpoint_from_which_on_it_stays(base, prompts):
    """It is there at 10, gone at 20, and there to stay from 30 on; where the gain may be nothing, there is no half."""
    tuned = towards(base, prompts, "mlp", size=0.0003)
    assert half(base, tuned, prompts, course(-2, -0.5, -1.9, -0.4, 0)) == (30, 30, 30)
    loose = half(base, tuned, prompts, course(-2, -1.0, -0.9, 0, noise=0.8))
    assert loose is not None and loose[1] == 10 < loose[2]
    assert half(base, tuned, prompts, course(-2, -2, -2.01, -2)) is None
    undefined = course(-2, -0.5, 0)
    undefined[0, :40] = np.nan
    assert half(base, tuned, prompts, undefined) is None
