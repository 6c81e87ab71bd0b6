"""The seam against plain forward passes of the model itself."""

import pytest
import torch
from transformers import GPT2LMHeadModel

from conftest import tiny_gpt2
from instar.models.arch import Layout, row
from instar.models.checks import check
from instar.models.taps import logits_at, record

SITES = ("embed", "resid_pre", "resid_mid", "attn_out", "mlp_out", "q", "k", "v", "pattern", "z")


def layout_of(model: GPT2LMHeadModel) -> Layout:
    return Layout(model, row(model.config))


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(1, 101, (3, 9), generator=torch.Generator().manual_seed(1))


def test_every_site_equals_a_forward_written_by_hand(tokens):
    model = tiny_gpt2().double()
    seen = record(layout_of(model), tokens, keep=SITES)
    x = model.transformer.wte(tokens) + model.transformer.wpe(torch.arange(9))
    for layer, block in enumerate(model.transformer.h):
        torch.testing.assert_close(seen["resid_pre"][layer], x)
        q, k, v = (
            t.view(3, 9, 4, 8).transpose(1, 2)
            for t in (block.ln_1(x) @ block.attn.c_attn.weight + block.attn.c_attn.bias).split(32, -1)
        )
        scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
        pattern = scores.softmax(-1)
        z = pattern @ v
        attended = z.transpose(1, 2).reshape(3, 9, 32) @ block.attn.c_proj.weight + block.attn.c_proj.bias
        for site, value in (("q", q), ("k", k), ("v", v), ("pattern", pattern), ("z", z), ("attn_out", attended)):
            torch.testing.assert_close(seen[site][layer], value)
        x = x + attended
        torch.testing.assert_close(seen["resid_mid"][layer], x)
        written = block.mlp(block.ln_2(x))
        torch.testing.assert_close(seen["mlp_out"][layer], written)
        x = x + written
    torch.testing.assert_close(seen.final, x)
    torch.testing.assert_close(
        logits_at(layout_of(model), seen.final, torch.tensor([8, 4, 8])),
        model(tokens).logits[torch.arange(3), [8, 4, 8]],
    )


def test_padding_changes_nothing():
    model = tiny_gpt2()
    tokens = torch.randint(1, 101, (1, 6))
    padded = torch.cat([tokens, torch.full((1, 5), 99)], 1)
    mask = torch.arange(11)[None] < 6
    alone, beside = (record(layout_of(model), t, m, keep=SITES) for t, m in ((tokens, None), (padded, mask)))
    for site in ("resid_pre", "attn_out", "mlp_out"):
        for a, b in zip(alone[site], beside[site], strict=True):
            assert (a - b[:, :6]).abs().max() <= 1e-5 * a.abs().max()


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_as_before(tokens, fails):
    model = tiny_gpt2()
    model.train()
    model.transformer.h[1].eval()
    before = [m.training for m in model.modules()]
    implementation = model.config._attn_implementation

    def edit(site, layer, value):
        if fails and site == "z" and layer == 1:
            raise RuntimeError("on purpose")

    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            record(layout_of(model), tokens, keep=SITES, edit=edit)
    else:
        record(layout_of(model), tokens, keep=SITES, edit=edit)
    assert [m.training for m in model.modules()] == before
    assert model.config._attn_implementation == implementation
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model(tokens).logits.shape == (3, 9, 101)


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out", "q", "k", "v", "pattern", "z"])
def test_an_edit_reaches_the_logits_and_patching_a_value_with_itself_does_not(tokens, site):
    model = tiny_gpt2().double()
    layout = layout_of(model)
    plain = record(layout, tokens, keep=(site,))
    same = record(layout, tokens, edit=lambda s, n, x: plain[site][n] if s == site else None)
    torch.testing.assert_close(same.final, plain.final)
    other = record(layout, tokens, edit=lambda s, n, x: x.flip(1) if s == site and n == 1 else None)
    assert (other.final - plain.final).abs().max() > 1e-3


def test_gradients_flow_through_a_recording(tokens):
    model = tiny_gpt2().double()
    seen = record(layout_of(model), tokens, keep=("z",))
    for z in seen["z"]:
        z.retain_grad()
    seen.final.square().sum().backward()
    assert all(z.grad is not None and z.grad.abs().max() > 0 for z in seen["z"])


def test_a_residual_channel_in_the_thousands_passes_the_checks():
    model = tiny_gpt2()
    with torch.no_grad():
        model.transformer.wpe.weight[:, 5] += 4000
    check(layout_of(model), "with a massive channel")


def test_a_missing_writer_is_refused_by_name_and_amount():
    model = tiny_gpt2()
    outer = model.transformer.h[1].forward
    # A block that adds something no site sees.
    model.transformer.h[1].forward = lambda *a, **k: outer(*a, **k) + 1.0
    with pytest.raises(ValueError, match="writers sum to the residual stream: relative error"):
        check(layout_of(model), "spoiled")


def test_heads_that_do_not_sum_to_the_attention_output_are_refused():
    model = tiny_gpt2()
    model.transformer.h[0].attn.c_proj.register_forward_hook(lambda m, i, out: out * 1.5)
    with pytest.raises(ValueError, match="heads and output bias sum to the attention output"):
        check(layout_of(model), "spoiled")
