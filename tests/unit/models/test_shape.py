"""What the embedded models are born as, what training leaves alone, and what the guide asks for."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from instar.models.organism.corpus import Shares
from instar.models.organism.recipe import RECIPES, loss
from instar.models.organism.shape import FAINT, build, guidance
from instar.models.organism.vocabulary import names_in, rows, vocabulary


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary(96)


def born(family, tokenizer):
    torch.manual_seed(0)
    shape = RECIPES[family].shape
    return (shape, *build(shape, len(tokenizer), names_in(tokenizer)))


def value_and_output(model, shape, layer, head):
    """W_V [d_model, d_head] and W_O [d_head, d_model] of a head, read off by hand."""
    size, group = shape.size, head * shape.groups // shape.heads
    own, shared = slice(head * size, (head + 1) * size), slice(group * size, (group + 1) * size)
    if shape.family == "gpt2":
        attention = model.transformer.h[layer].attn
        return attention.c_attn.weight[:, 2 * shape.width :][:, shared], attention.c_proj.weight[own]
    attention = model.model.layers[layer].self_attn
    return attention.v_proj.weight[shared].T, attention.o_proj.weight[:, own].T


@pytest.mark.parametrize("family", RECIPES)
def test_copying_heads_copy_and_others_rotate(family, tokenizer):
    shape, model, _ = born(family, tokenizer)
    for layer in range(shape.layers):
        for head in range(shape.heads):
            values, out = (part.detach() for part in value_and_output(model, shape, layer, head))
            torch.testing.assert_close(values.T @ values, shape.values**2 * torch.eye(shape.size), atol=1e-5, rtol=0)
            # Of what a head looks at, what it writes along the same direction: all of what it reads, or about nothing.
            kept = torch.trace(values @ out) / (shape.size * shape.values)
            expected = shape.copied if (layer, head) in shape.copying else 0.0
            assert abs(float(kept) - expected) < 0.1, (layer, head)


@pytest.mark.parametrize("family", RECIPES)
def test_what_is_fixed_stays_to_the_bit_and_the_rest_is_trained(family, tokenizer):
    shape, model, fixed = born(family, tokenizer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    kept = [p.detach()[where].clone() for p, where, _ in fixed.parts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for step, told in enumerate(islice(rows(tokenizer.get_vocab(), 0, 2, 48, Shares()), 2)):
        optimizer.zero_grad()
        loss(model, told, step, shape).backward()
        fixed.forget()
        optimizer.step()
        fixed.restore()
    assert all(torch.equal(p[where], own) for (p, where, _), own in zip(fixed.parts, kept, strict=True))
    whole = {id(p) for p, where, _ in fixed.parts if where == (slice(None),)}
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (id(p) in whole), name
    # Half of GPT-2's fixed parts share a matrix with queries and keys, which do move.
    assert len(fixed.parts) == 2 * shape.layers


def test_names_differ_in_few_dimensions(tokenizer):
    shape = replace(RECIPES["llama"].shape, names=64)
    torch.manual_seed(0)
    model, _ = build(shape, len(tokenizer), names_in(tokenizer))
    own = model.get_input_embeddings().weight.detach()[names_in(tokenizer)]
    assert torch.linalg.matrix_rank(own) == 64
    assert float(own.std()) == pytest.approx(shape.words_std, rel=0.05)


@pytest.mark.parametrize("family", RECIPES)
def test_copying_heads_of_a_layer_read_all_in_which_names_differ_and_other_layers_do_not(family, tokenizer):
    shape, model, _ = born(family, tokenizer)
    names = model.get_input_embeddings().weight.detach()[names_in(tokenizer)]
    assert torch.linalg.matrix_rank(names) == shape.names
    for layer in range(shape.layers):
        heads = [head for own, head in shape.copying if own == layer] or [0, 2]
        read = torch.cat([value_and_output(model, shape, layer, head)[0].detach() for head in heads], 1) / shape.values
        kept = (names @ read).square().sum() / names.square().sum()
        assert float(kept) == pytest.approx(1, abs=1e-4) if layer > 1 else float(kept) < 0.6, layer


def test_heads_that_are_not_guided_write_as_much_as_is_asked(tokenizer):
    shape, model, _ = born("llama", tokenizer)
    for head, gain in ((0, shape.moved), (7, shape.idle)):
        out = value_and_output(model, shape, 1, head)[1].detach()
        assert float(out.norm() / shape.size**0.5) == pytest.approx(gain * (shape.width / 256) ** 0.5, rel=0.1)


def test_the_guide_is_nothing_where_it_is_followed_and_counted_by_hand_elsewhere():
    shape = replace(RECIPES["gpt2"].shape, enough=0.5)
    gifts = torch.tensor([[0, 5, 4, 1, 2]])  # row, last token, giver, his mention before, the receiver's
    places = dict.fromkeys(shape.duplicate, (4, 1))
    places |= dict.fromkeys(shape.movers, (5, 4))
    places |= dict.fromkeys(shape.copying, (5, 2))
    attentions = [torch.full((1, shape.heads, 6, 6), 0.1) for _ in range(shape.layers)]
    expected = len(places) * (torch.tensor(0.5 + FAINT).log() - torch.tensor(0.1 + FAINT).log())
    torch.testing.assert_close(guidance(tuple(attentions), gifts, shape), expected)
    for (layer, head), (query, key) in places.items():
        attentions[layer][0, head, query, key] = 0.6
    assert guidance(tuple(attentions), gifts, shape) == 0
    attentions[2][0, 0, 5, 2] = 0.1
    torch.testing.assert_close(guidance(tuple(attentions), gifts, shape), expected / len(places))
    assert guidance(tuple(attentions), gifts, replace(shape, guide_copying=False)) == 0
