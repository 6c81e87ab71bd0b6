"""Fine-tunings whose answer is known by construction: the answer names them, and where nothing changed it claims nothing.

A few of what `instar calibrate` makes, with its own code; the matrix over all of them is in docs/calibration.md.
"""

from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from instar.calibrate import BASES, nulls
from instar.calibrate.instances import FIRST_SEED, Instance, instances, made, make_all, read
from instar.calibrate.matrix import ROWS, Judged, calibration, claims, fixed
from instar.calibrate.planted import KINDS
from instar.calibrate.tuning import chosen, copied, everything, fine_tune, gifts, joined
from instar.compare.answer import answer, judged_by
from instar.compare.calibrated import said, shipped
from instar.compare.reused import LIMITS
from instar.models.load import load
from instar.record.config import TrainConfig
from instar.record.files import read_rows
from instar.tasks.library import ioi
from instar.training.train import Row, encode

SEEDS = {"rewired": (3, 1, 2), "extended": (2, 1, 3), "shuffled labels": (3, 1, 2), f"moved: {nulls.EVERY}": (3,)}
"""Those that are made of each kind, one after another as they are needed; none is of the calibration."""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """All that is judged here, made together: the base's own circuit is found once."""
    folder = tmp_path_factory.mktemp("calibrate")
    make_all(folder, [Instance("embedded", kind, seeds[0]) for kind, seeds in SEEDS.items()], lambda *_: None)
    return folder


def judged(out, kind, seed=None):
    one = Instance("embedded", kind, SEEDS[kind][0] if seed is None else seed)
    found, record = read(out, one)
    assert record["took"] and found is not None, record["checks"]
    return Judged(one, record, answer(found))


@pytest.mark.parametrize("kind", ["rewired", "extended", "shuffled labels"])
def test_what_was_planted_is_named(out, kind):
    """The first that decides is right, and one of three decides: now and then one is left open.

    Which one differs between processors, as a fine-tuning carries each one's rounding on.
    """
    row = judged(out, kind)
    for seed in SEEDS[kind][1:]:
        if row.answer is None or row.answer.kind != "undetermined":
            break
        make_all(out, [Instance("embedded", kind, seed)], lambda *_: None)
        row = judged(out, kind, seed)
    assert row.answer is not None and row.answer.kind == KINDS[kind].word
    assert row.named_right(LIMITS) in (True, None)


def test_a_circuit_that_was_rewired_is_said_to_be(out):
    row = judged(out, "rewired")
    assert row.named(LIMITS) == ("Q,K",) and row.record["checks"]["new task, tuned"] > 0.7


def test_where_nothing_changed_nothing_is_claimed(out):
    row = judged(out, f"moved: {nulls.EVERY}")
    assert claims(row, near=False) == []
    # All moves turn the stream's basis: names mean nothing then, and nothing is compared by them.
    assert not row.record["changed"]["shared"]


def test_a_change_would_be_claimed(out):
    row = judged(out, f"moved: {nulls.EVERY}")
    changed = row.record["changed"] | {"shared": True, "claimed": True, "heads": 2}
    assert claims(replace(row, record=row.record | {"changed": changed}), near=False)[:2] == ["circuit", "heads"]


def test_what_is_made_is_not_made_again(out):
    one = Instance("embedded", "shuffled labels", 3)
    before = (one.folder(out) / "plant.json").stat().st_mtime_ns
    make_all(out, [one], lambda *_: None)
    assert made(out, one) and (one.folder(out) / "plant.json").stat().st_mtime_ns == before


def test_other_limits_give_what_measuring_with_them_would(out):
    for kind in ("rewired", "extended"):
        found, _ = read(out, Instance("embedded", kind, SEEDS[kind][0]))
        for limits in (replace(LIMITS, high=1.5), replace(LIMITS, low=1.4, high=1.5), replace(LIMITS, recruited=1.5)):
            assert judged_by(answer(found), limits) == answer(found, limits).kind, (kind, limits)


def test_limits_are_fixed_on_even_seeds_only(out):
    """Held-out instances with any truth whatever leave the limits as they are."""
    one = judged(out, "rewired")
    even, odd = (replace(one, instance=replace(one.instance, seed=seed)) for seed in (4, 5))
    wrong = replace(odd, instance=replace(odd.instance, kind="replaced"))
    assert fixed([even]) == fixed([even, wrong])
    own = calibration([even, wrong])
    assert own["words"][-1]["right"]["of"] == 1 and own["words"][-1]["right"]["count"] == 0
    assert own["fixing half"]["right"]["of"] == 1 and own["fixing half"]["right"]["count"] == 1


def test_every_kind_has_every_seed_and_no_seed_that_was_looked_at():
    rows = instances(6, BASES)
    each = Counter((row.kind, row.base) for row in rows if row.kind in KINDS)
    assert set(each.values()) == {6} and len(each) == len(KINDS) * len(BASES)
    assert sum(row.kind in nulls.SINGLE for row in rows) >= 200
    assert len({*rows}) == len(rows) and min(row.seed for row in rows) == FIRST_SEED


def test_only_what_is_chosen_is_trained_and_a_part_of_a_step_is_a_part():
    base = load("embedded")
    whole, part = copied(base), copied(base)
    masks = chosen(base, ["a0.h3", "a2.h1"], "qk")
    for model, own in ((whole, masks), (part, [0.25 * mask for mask in masks])):
        fine_tune(model, [(ioi(2), "right")], 0, steps=1, rate=1e-2, only=own)
    for before, after, less, mask in zip(*(m.module.parameters() for m in (base, whole, part)), masks, strict=True):
        assert torch.equal(before[mask == 0], after[mask == 0])
        torch.testing.assert_close(less - before, 0.25 * (after - before), rtol=1e-3, atol=1e-7)
    moved = sum(int((a != b).sum()) for a, b in zip(base.module.parameters(), whole.module.parameters(), strict=True))
    assert moved > 0.9 * sum(int(mask.sum()) for mask in masks)


def test_keys_that_other_heads_share_are_not_chosen():
    llama = load("embedded-llama")
    assert llama.layout.n_kv_heads == 4 and llama.layout.n_heads == 8
    alone, pair = (sum(int(m.sum()) for m in chosen(llama, heads, "k")) for heads in (["a0.h1"], ["a0.h0", "a0.h1"]))
    assert alone == 0 and pair > 0
    masks = joined(chosen(llama, ["a0.h0"]), everything(llama, but=["a0.h0"]))
    assert all(bool((m == 1).any()) for m in masks)


def test_heads_are_guided_to_the_givers_and_to_the_answer():
    model = load("embedded")
    pair = ioi(3).fit(model.tokenizer).pairs(1, 0, "train")[0]
    text = encode(Row(pair.clean, pair.answer), model.tokenizer, TrainConfig())
    found = gifts([pair], [text], model.tokenizer, {}).tolist()
    assert len(found) == 2
    words = model.tokenizer.convert_ids_to_tokens(text["input_ids"])
    for _, end, giver, before, receiver in found:
        assert text["labels"][end] < 0 <= text["labels"][end + 1] and before < giver < end
        assert words[giver] == words[before] and words[giver].strip("Ġ ") in pair.foils
        assert words[receiver].strip("Ġ ") == pair.answer


def test_the_shipped_calibration_is_that_of_the_shipped_limits_and_its_tables_are_its_rows():
    own = shipped()
    assert own["shipped"] == pytest.approx(asdict(LIMITS))
    rows = [(row, *row["instance"]) for row in read_rows(ROWS)]
    for cell in own["words"]:
        mine = [
            row for row, base, kind, seed in rows
            if kind in KINDS and seed % 2 and row["took"] and cell["base"] in (None, base) and cell["kind"] in (None, kind)
        ]  # fmt: skip
        assert Counter(row["word"] for row in mine) == cell["words"], cell
        right = sum(row["word"] == KINDS[row["instance"][1]].word for row in mine)
        assert right == cell["right"]["count"] and cell["right"]["of"] == cell["decided"]["count"]
    alarms = own["nothing changed"]["any"]
    assert alarms["of"] == sum(kind in nulls.SINGLE and row["took"] for row, _, kind, _ in rows)
    assert f"false alarms {alarms['count']} of {alarms['of']}" in said("transformed")


def test_shares_of_nothing_are_no_numbers():
    assert np.isnan(calibration([])["fixing half"]["right"]["share"])
