"""Prompts of different lengths and words of several tokens, against whole forward passes of transformers."""

import numpy as np
import pytest
import torch

import families
import instar
from instar.models.load import load
from instar.tasks.batch import tokenize
from instar.tasks.pair import Pair, Span
from vocabularies import splitting

NAMES = ("Mary", "John", "Tom")
TEMPLATE = "When {} and {} met , {} gave a ring to"


def pair(first, second, giver, other, answer, foils, contrast=()):
    clean = TEMPLATE.format(first, second, giver)
    spans, at = [], 0
    for slot, name in (("intro1", first), ("intro2", second), ("giver1", giver)):
        at = clean.index(name, at)
        spans.append(Span(slot, at, at + len(name)))
        at += len(name)
    return Pair(
        clean, TEMPLATE.format(first, second, other), "giver1", answer, foils, contrast, spans=tuple(spans), wording="w"
    )


# Clean: When Rebe cca and John met , Rebe cca gave a ring to. Corrupted: one token less, from "gave" on.
SHORTER = pair("Rebecca", "John", "Rebecca", "John", "John", ("Rebecca",))
LONGER = pair("John", "Rebecca", "John", "Rebecca", "Rebecca", ("John",))
EQUAL = pair("Mary", "John", "Mary", "John", "John", ("Mary",))
# By hand: of each clean position the corrupted one. Of "Rebe cca" against "John" (and back) the last tokens belong together.
BY_HAND = {
    SHORTER: {**{i: i for i in range(7)}, **{i: i - 1 for i in range(8, 13)}},
    LONGER: {**{i: i for i in range(7)}, **{i: i + 1 for i in range(7, 12)}},
}
GIVER = {SHORTER: (7, 8), LONGER: (7,)}
"""Where the giver stands in the clean prompt."""


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    tokenizer = splitting(*NAMES)
    assert len(tokenizer) < families.VOCABULARY
    return load(families.tiny(request.param), tokenizer)


def off(model):
    """Llama's norms are made in float32 whatever the model is in."""
    return 1e-9 if hasattr(model.module, "transformer") else 1e-5


def ids(model, text):
    return model.tokenizer(text, return_tensors="pt")["input_ids"]


def difference(model, logits, one):
    own, other = (ids(model, f" {word}")[0, 0] for word in (one.answer, one.contrast[0]))
    return float(logits[0, -1, own] - logits[0, -1, other])


def runs(module, tokens, where=None, change=None):
    """The logits, and what goes in or out of the hooked part; `change` puts values in its place."""
    seen = []

    def hook(part, args, out):
        own = out[0] if isinstance(out, tuple) else out
        seen.append(own.detach().clone())
        return (change(own), *out[1:]) if isinstance(out, tuple) and change else change(own) if change else None

    def before(part, args):
        seen.append(args[0].detach().clone())
        return (change(args[0]), *args[1:]) if change else None

    kind, part = where or ("out", module.get_input_embeddings())
    handle = part.register_forward_pre_hook(before) if kind == "in" else part.register_forward_hook(hook)
    with torch.no_grad():
        logits = module(tokens).logits
    handle.remove()
    return logits, seen[0]


def parts_of(model, layer):
    """What stands at a block's input, at its MLP's output, and z: by hand, for both families."""
    if hasattr(model.module, "transformer"):
        block = model.module.transformer.h[layer]
        return {"resid_pre": ("in", block), "mlp_out": ("out", block.mlp), "z": ("in", block.attn.c_proj)}
    block = model.module.model.layers[layer]
    return {
        "resid_pre": ("in", block), "mlp_out": ("out", block.mlp), "z": ("in", block.self_attn.o_proj),
        "v": ("out", block.self_attn.v_proj),
    }  # fmt: skip


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("one", [SHORTER, LONGER], ids=["shorter", "longer"])
def test_slots_of_different_lengths_are_patched_at_their_last_token(model, one, direction):
    mixed = tokenize([EQUAL, one, EQUAL], model.tokenizer)
    assert mixed.unequal.tolist() == [False, True, False]
    found = instar.patching(
        model, mixed, ("resid_pre", "mlp_out", "z", "v", "pattern"), by="slot", per_pair=True, direction=direction
    )
    clean, corrupted = ids(model, one.clean), ids(model, one.corrupted)
    by_hand = BY_HAND[one]
    if direction == "denoising":
        base, source, there = corrupted, clean, {b: a for a, b in by_hand.items()}
        giver = [by_hand[a] for a in GIVER[one] if a in by_hand]
    else:
        base, source, there, giver = clean, corrupted, by_hand, [a for a in GIVER[one] if a in by_hand]
    slot = list(found["slot"].values).index("giver1")
    for layer in range(2):
        for site, where in parts_of(model, layer).items():
            _, values = runs(model.module, source, where)
            every = sorted(there) if site in ("z", "v") else giver

            def change(x, every=every, site=site, values=values):
                x = x.clone()
                width = slice(8, 16) if site in ("z", "v") else slice(None)  # the second head
                for at in every:
                    x[0, at, width] = values[0, there[at], width]
                return x

            logits, _ = runs(model.module, base, where, change)
            entry = found[site].isel(pair=1, layer=layer)
            here = entry.isel(slot=slot) if "slot" in entry.dims else entry.isel({entry.dims[0]: 1})
            assert float(here) == pytest.approx(difference(model, logits, one), abs=off(model)), (site, layer)
    for name, tokens in (("clean", clean), ("corrupted", corrupted)):
        expected = difference(model, runs(model.module, tokens)[0], one)
        assert float(found[name][1]) == pytest.approx(expected, abs=off(model))
    assert found["pattern"].isel(pair=1).isnull().all() and not found["pattern"].isel(pair=0).isnull().any()
    assert found.attrs["unequal"].startswith("1 of 3 pairs")
    # Beside it the others are what they are alone.
    by_itself = tokenize([EQUAL], model.tokenizer)
    alone = instar.patching(
        model, by_itself, ("resid_pre", "z", "pattern"), by="slot", per_pair=True, direction=direction
    )
    for site in ("resid_pre", "z", "pattern"):
        np.testing.assert_allclose(found[site].isel(pair=0), alone[site].isel(pair=0), atol=off(model))


def test_estimates_leave_out_what_has_no_counterpart(model):
    mixed = tokenize([SHORTER, EQUAL, LONGER], model.tokenizer)
    exact, estimated = (
        instar.patching(model, mixed, ("resid_pre", "pattern"), by="slot", per_pair=True, method=how)
        for how in ("exact", "attribution")
    )
    np.testing.assert_array_equal(np.isnan(exact["pattern"]), np.isnan(estimated["pattern"]))
    # The last stream before the last block, at a slot before the end, changes nothing but through attention; at the end all.
    assert not estimated["resid_pre"].isnull().all("pair").any()
    by_position = instar.patching(model, mixed, ("resid_pre",), per_pair=True)["resid_pre"]
    assert by_position.isel(pair=[0, 2]).isnull().all() and not by_position.isel(pair=1).isnull().all()


def test_what_goes_position_by_position_leaves_them_out_and_says_so(model):
    mixed, plain = (tokenize(pairs, model.tokenizer) for pairs in ([SHORTER, EQUAL, LONGER, EQUAL], [EQUAL, EQUAL]))
    found, expected = (instar.edges(model, batch, "eap") for batch in (mixed, plain))
    np.testing.assert_allclose(found.scores, expected.scores, atol=off(model))
    assert found.dataset.attrs["left_out"].startswith(
        f"2 of 4 pairs, whose clean and corrupted prompts differ in tokens: {SHORTER.clean}"
    )
    assert "left_out" not in expected.dataset.attrs
    circuit = found.circuit(n=20)
    assert instar.faithfulness(model, mixed, circuit)["metric"].shape == (1, 2)
    assert instar.roles(model, {"giver1": mixed}, repeats=2, length=8).sizes["pair"] == 2
    assert len(instar.evaluate(model, mixed)["pair"]) == 4  # behaviour is of all
    with pytest.raises(ValueError, match="2 of 2 pairs have clean and corrupted prompts whose slots"):
        instar.edges(model, tokenize([SHORTER, LONGER], model.tokenizer))


def test_the_first_token_that_differs_is_read(model):
    """Rebecca against Rebekah: after both prompts and " Rebe"; against Mary and Rebekah: before, and without Rebekah."""
    pairs = [
        pair("Rebekah", "Rebecca", "Rebekah", "Rebecca", "Rebecca", ("Rebekah",)),
        pair("Mary", "Rebecca", "Mary", "Rebecca", "Rebecca", ("Mary", "Rebekah"), ("Mary",)),
        EQUAL,
    ]
    batch = tokenize(pairs, model.tokenizer)
    found = instar.evaluate(model, batch)
    vocabulary = model.tokenizer.get_vocab()
    for row, text, own, other in (
        (0, pairs[0].clean + " Rebe", "cca", "kah"),
        (1, pairs[1].clean, " Rebe", " Mary"),
        (2, pairs[2].clean, " John", " Mary"),
    ):
        with torch.no_grad():
            logits = model.module(ids(model, text)).logits[0, -1]
        expected = float(logits[vocabulary[own]] - logits[vocabulary[other]])
        assert float(found["logit_diff"][row]) == pytest.approx(expected, abs=off(model))
        assert bool(found["accuracy"][row]) == (int(logits.argmax()) == vocabulary[own])
    said = found.attrs["answer_tokens"]
    assert said.startswith("2 of 3 pairs") and "token 1 of 2, token 2 of 1; 1 foils are still alike" in said
    assert batch.slot_names[int(batch.slots[0, batch.end[0]])] == "end" and not bool(batch.unequal[0])
    both = instar.lens(model, batch)["logit_diff"].sel(stage="final"), instar.attribution(model, batch)["total"]
    for other in both:
        np.testing.assert_allclose(other, found["logit_diff"], atol=off(model))
    assert "answer_tokens" not in instar.evaluate(model, tokenize([EQUAL], model.tokenizer)).attrs


@pytest.mark.parametrize(
    ("answer", "foils", "contrast", "why"),
    [
        ("Robert", ("Rob",), (), "differ only in that one goes on"),
        ("Rebecca", ("Rebekah", "Mary"), ("Rebekah",), "begins as 'Rebecca' where other foils differ"),
        ("Rebecca", ("Rebekah",), ("Mary",), "does not differ from 'Rebecca' where its foils do"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_by_name(answer, foils, contrast, why):
    with pytest.raises(ValueError, match=why):
        tokenize([pair("Mary", answer, "Mary", answer, answer, foils, contrast)], splitting(*NAMES))
