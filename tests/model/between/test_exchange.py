"""Outputs exchanged between two models, and sets patched, against transformers' own models with plain hooks.

Parts of a family are found by tests/reference.py, which shares no code with instar.
"""

import copy
from contextlib import ExitStack

import numpy as np
import pytest
import torch

import families
import instar
import reference
from instar.between.exchange import exchange, residual_learning
from instar.between.graft import graft, grafted
from instar.models.replay import Engine
from instar.models.weights import EMBEDDINGS, NORMS
from twins import named, noisy, prompts

LAYERS, HEADS = 2, 4
ALL = [*(f"a{layer}.h{head}" for layer in range(LAYERS) for head in range(HEADS)), "m0", "m1"]
FLOAT32 = 1e-6
"""Cross-model patching keeps float32."""


@pytest.fixture(scope="module")
def batch():
    return prompts()


def models(family, size=0.3):
    base = families.tiny(family)
    return named(base, "the base"), named(noisy(base, size) if size else copy.deepcopy(base), "the tuned")


@pytest.fixture(scope="module", params=families.ROWS)
def two(request):
    return models(request.param)


def close(ours, theirs, tolerance=FLOAT32):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1, np.abs(theirs).max()))


# --- The oracle -------------------------------------------------------------------------------------------------------


def behaviour(module, batch):
    module.set_attn_implementation("eager")
    logits = module(input_ids=batch.clean, attention_mask=batch.mask.long(), use_cache=False).logits
    last = logits[torch.arange(len(batch)), batch.end]
    return (last.gather(1, batch.answer[:, None])[:, 0] - last.gather(1, batch.foils).mean(1)).numpy()


def by_head(part, rows):
    """An output matrix as [head, d_head, d_model]."""
    weight = part.weight if rows else part.weight.T
    return weight.reshape(HEADS, -1, weight.shape[1])


@torch.no_grad()
def with_outputs_of(receiver, donor, members, batch, z_only=False):
    """The receiver's behaviour when members write what they write in the donor. `z_only`: only z is the donor's."""
    own, other = reference._parts(receiver), reference._parts(donor)
    rows = own.kind == "gpt2"
    theirs, ours = {}, {}
    with ExitStack() as stack:
        for n, layer in enumerate(other.layers):

            def seen(_, args, n=n):
                theirs["z", n] = args[0]

            def made(_, args, out, n=n):
                theirs["m", n] = out

            stack.callback(layer.out.register_forward_pre_hook(seen).remove)
            stack.callback(layer.mlp_write.register_forward_hook(made).remove)
        behaviour(donor, batch)
    with ExitStack() as stack:
        for n, (layer, its) in enumerate(zip(own.layers, other.layers, strict=True)):
            heads = [int(m.split(".h")[1]) for m in members if m.startswith(f"a{n}.h")]
            new, old = by_head(its.out, rows), by_head(layer.out, rows)

            def read(_, args, n=n, heads=heads):
                z = args[0].clone()
                ours["z", n] = args[0]
                if z_only:
                    z.unflatten(-1, (HEADS, -1))[:, :, heads] = theirs["z", n].unflatten(-1, (HEADS, -1))[:, :, heads]
                return (z,)

            def write(_, args, out, n=n, heads=heads, new=new, old=old):
                for h in () if z_only else heads:
                    z, before = (side["z", n].unflatten(-1, (HEADS, -1))[:, :, h] for side in (theirs, ours))
                    out = out + z @ new[h] - before @ old[h]
                return out

            def computed(_, args, out, n=n):
                return theirs["m", n] if f"m{n}" in members else out

            stack.callback(layer.out.register_forward_pre_hook(read).remove)
            stack.callback(layer.out.register_forward_hook(write).remove)
            stack.callback(layer.mlp_write.register_forward_hook(computed).remove)
        return behaviour(receiver, batch)


# --- Exchange ---------------------------------------------------------------------------------------------------------

SETS = {
    "none": [],
    "head": ["a0.h1"],
    "mlp": ["m1"],
    "two layers and an mlp": ["a0.h0", "a0.h2", "a1.h1", "m0"],
    "two layers and the last mlp": ["a0.h3", "a1.h1", "a1.h2", "m1"],
    "all": ALL,
}


def test_exchanged_outputs_equal_plain_hooks(two, batch):
    base, tuned = two
    found = exchange(base, tuned, batch, SETS)
    one, other = copy.deepcopy(base.module), copy.deepcopy(tuned.module)
    with torch.no_grad():
        close(found["base"], behaviour(one, batch))
        close(found["tuned"], behaviour(other, batch))
    for name, members in SETS.items():
        close(found["into"].sel(set=name), with_outputs_of(one, other, members, batch))
        close(found["lost"].sel(set=name), with_outputs_of(other, one, members, batch))
    # Sets do something, each its own.
    moved = np.abs(found["into"] - found["base"]).max("pair")
    assert (moved.drop_sel(set="none") > 1e-4).all() and moved.sel(set="none") == 0


def test_everything_exchanged_is_the_donor_where_the_rest_is_its_own(two, batch):
    """Heads and MLPs are all that writes, but for the embeddings, the output biases and what norms do afterwards."""
    base, tuned = two
    with grafted(tuned, base, [EMBEDDINGS, NORMS]):
        found = exchange(base, tuned, batch, {"all": ALL})
    close(found["into"][0], found["tuned"])
    close(found["lost"][0], found["base"])
    assert np.abs(found["base"] - found["tuned"]).max() > 1e-3


def test_a_model_exchanged_with_itself_is_itself(two, batch):
    base, _ = two
    found = exchange(base, base, batch, {name: SETS[name] for name in ("two layers and an mlp", "all")})
    for kind in ("into", "lost", "tuned"):
        close(found[kind].broadcast_like(found["into"]), found["base"].broadcast_like(found["into"]))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "olmo2"])
def test_a_change_of_the_output_matrix_is_carried_by_its_head_and_by_no_z(family, batch):
    base, tuned = models(family, 0)
    out = reference._parts(tuned.module).layers[0].out
    with torch.no_grad():
        at = out.weight.shape[0 if family == "gpt2" else 1] // HEADS
        part = out.weight[at : 2 * at] if family == "gpt2" else out.weight[:, at : 2 * at]
        part.add_(torch.randn(part.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.5)
    found = exchange(base, tuned, batch, {"it": ["a0.h1"], "another": ["a0.h0", "a0.h2", "a0.h3"]})
    close(found["into"].sel(set="it"), found["tuned"])
    close(found["lost"].sel(set="it"), found["base"])
    close(found["into"].sel(set="another"), found["base"])
    by_z = with_outputs_of(copy.deepcopy(base.module), copy.deepcopy(tuned.module), ["a0.h1"], batch, z_only=True)
    close(by_z, found["base"])
    assert np.abs(found["into"].sel(set="it") - by_z).min() > 1e-3
    # Where it was written is where it is carried.
    whole = graft(base, tuned, batch, {"it": ["a0.h1"]})
    assert np.array_equal(whole["into"][0], whole["tuned"])


def test_chunks_and_repeated_names_change_nothing(batch):
    pair = models("llama")
    one = exchange(*pair, batch, SETS, chunk=1)
    twice = exchange(*pair, batch, {name: [*some, *some] for name, some in SETS.items()})
    for name in one.data_vars:
        close(one[name], twice[name])


def test_what_cannot_be_exchanged_is_named(batch):
    pair = models("llama")
    for more in ({"num_hidden_layers": 3}, {"hidden_size": 64}, {"num_key_value_heads": 1}):
        other = named(families.tiny("llama", **more), "the other")
        with pytest.raises(ValueError, match="the base and the other are not of one shape"):
            exchange(pair[0], other, batch, {"some": ["a0.h0"]})
    for wrong in ("a0", "input", "embeddings", "norms", "a2.h0", "a0.h4", "m2", "logits"):
        with pytest.raises(ValueError, match=f"some: '{wrong}' is no head or MLP of this model"):
            exchange(*pair, batch, {"some": ["a0.h0", wrong]})


# --- Residual learning ------------------------------------------------------------------------------------------------


@torch.no_grad()
def change(module, parts, size=0.3):
    draw = torch.Generator().manual_seed(5)
    for value in (p for part in parts for p in part.parameters()):
        value.add_(size * torch.randn(value.shape, generator=draw, dtype=torch.float64))


def parts_of(module, layer):
    """Attention and MLP, with the norms that only they read through."""
    block = reference._parts(module).layers[layer].block
    if module.config.model_type == "gpt2":
        return {"attention": [block.ln_1, block.attn], "mlp": [block.ln_2, block.mlp]}
    if module.config.model_type == "gemma2":
        return {
            "attention": [block.input_layernorm, block.self_attn, block.post_attention_layernorm],
            "mlp": [block.pre_feedforward_layernorm, block.mlp, block.post_feedforward_layernorm],
        }
    return {"attention": [block.input_layernorm, block.self_attn], "mlp": [block.post_attention_layernorm, block.mlp]}


@torch.no_grad()
def added_by_hand(base, tuned, batch, layer, part):
    """The family's own modules on the base's own inputs, and its final norm written out, its scale the base's."""
    seen = {}
    modules, others = parts_of(base, layer)[part], parts_of(tuned, layer)[part]
    parts = reference._parts(base)

    def keeper(name):
        def keep(_, args, options):
            seen[name] = args[0] if args else None
            seen["options"] = options or seen.get("options")

        return keep

    watched = {"read": modules[0], "attention": parts.layers[layer].attention, "final": parts.final_norm}
    with ExitStack() as stack:
        for name, module in watched.items():
            stack.callback(module.register_forward_pre_hook(keeper(name), with_kwargs=True).remove)
        behaviour(base, batch)
    tuned.set_attn_implementation("eager")

    def written(chain):
        x = seen["read"]
        for module in chain:
            options = {k: v for k, v in seen["options"].items() if k != "hidden_states"}
            x = module(x, **options)[0] if "Attention" in type(module).__name__ else module(x)
        return x

    rows = torch.arange(len(batch)), batch.end
    delta, final = (written(others) - written(modules))[rows], seen["final"][rows]
    norm, unembed = parts.final_norm, base.get_output_embeddings().weight
    if base.config.model_type == "gpt2":
        scale = (final.var(-1, unbiased=False, keepdim=True) + norm.eps).rsqrt()
        delta = (delta - delta.mean(-1, keepdim=True)) * scale * norm.weight
    else:
        eps = norm.eps if base.config.model_type == "gemma2" else norm.variance_epsilon
        gain = norm.weight + (base.config.model_type == "gemma2")
        delta = delta * (final.square().mean(-1, keepdim=True) + eps).rsqrt() * gain
    return (delta * (unembed[batch.answer] - unembed[batch.foils].mean(1))).sum(-1).numpy()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize(("layer", "part"), [(0, "mlp"), (1, "mlp"), (0, "attention"), (1, "attention")])
def test_residual_learning_is_what_the_new_layer_adds_to_the_old_input(family, layer, part, batch):
    base, tuned = models(family, 0)
    change(tuned.module, parts_of(tuned.module, layer)[part])
    # What is not a layer's weights plays no part: the base's own norm and unembedding read it.
    change(tuned.module, [reference._parts(tuned.module).final_norm])
    found = residual_learning(base, tuned, batch, chunk=2)["added"]
    theirs = added_by_hand(copy.deepcopy(base.module), copy.deepcopy(tuned.module), batch, layer, part)
    # These families' norms run in float32.
    close(found.sel(layer=layer, part=part), theirs, FLOAT32)
    assert np.abs(theirs).min() > 1e-3
    rest = found.values.copy()
    rest[layer, ["attention", "mlp"].index(part)] = 0
    assert (rest == 0).all() and found.shape == (2, 2, 3)


def test_equal_weights_learned_nothing(two, batch):
    base, tuned = two
    assert (residual_learning(base, base, batch)["added"] == 0).all()
    with grafted(tuned, base, ["a0", "m1", NORMS]):
        found = residual_learning(base, tuned, batch)["added"]
    assert (found.sel(layer=0, part="attention") == 0).all() and (found.sel(layer=1, part="mlp") == 0).all()
    assert (np.abs(found.sel(layer=1, part="attention")).max("pair") > 1e-5).all()
    assert (np.abs(found.sel(layer=0, part="mlp")).max("pair") > 1e-5).all()


# --- Sets patched within one model ------------------------------------------------------------------------------------


def uneven():
    """Prompts of unequal lengths that differ first at unequal places, and at another one."""
    # No more padding than that every row of the oracle's sliding window sees a token.
    width, lengths, first = 9, [9, 6, 8, 6, 7], [4, 1, 6, 3, 0]
    clean = families.tokens(5, width, seed=2)
    corrupted = clean.clone()
    for pair, (start, length) in enumerate(zip(first, lengths, strict=True)):
        for at in {start, min(start + 2, length - 1)}:
            corrupted[pair, at] = 3 + (clean[pair, at] + 11) % 90
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    answer, foils = torch.arange(5) + 5, torch.arange(10).view(5, 2) + 20
    return instar.Batch.from_tokens(clean, corrupted, answer, foils, mask), (clean, corrupted, mask, answer, foils)


PATCHED = {
    "none": [],
    "first layer": ["a0.h0", "a0.h1"],
    "both layers": ["a0.h1", "a1.h0"],
    "mlps": ["m0", "m1"],
    "mixed": ["a0.h0", "m0", "a1.h1"],
    "last": ["a1.h0", "a1.h1", "m1"],
}


@torch.no_grad()
def patched_by_hooks(module, base, source, rest, site, members):
    theirs = reference._look(module, source, rest[0])
    heads = {n: [int(m.split(".h")[1]) for m in members if m.startswith(f"a{n}.h")] for n in range(LAYERS)}

    def replaced(n):
        def edit(value, _seen):
            value = value.clone()
            value[:, heads[n]] = theirs[site, n][:, heads[n]]
            return value

        return edit

    edits = {(site, n): replaced(n) for n in range(LAYERS) if heads[n]}
    edits |= {("mlp_out", n): lambda _v, _s, n=n: theirs["mlp_out", n] for n in range(LAYERS) if f"m{n}" in members}
    return reference._measure(module, reference.Run(edits=edits), base, *rest).numpy()


@pytest.mark.parametrize(
    ("family", "site"),
    [
        *((family, site) for family in ("gpt2", "llama", "gemma2", "olmo2", "gpt_neox", "opt") for site in "zk"),
        *(("llama", site) for site in ("q", "v", "pattern")),
    ],
)
def test_sets_patched_from_the_first_difference_equal_whole_runs(family, site, monkeypatch):
    module = families.tiny(family)
    model, (batch, (clean, corrupted, *rest)) = named(module, family), uneven()
    # All but GPT-2 norm or take the softmax in float32, which some processors sum otherwise for other numbers of rows.
    starts, exact = set(), 1e-9 if family == "gpt2" else FLOAT32
    whole = Engine.run

    def run(self, frame, start=0, *rest, **options):
        starts.add(start)
        return whole(self, frame, start, *rest, **options)

    monkeypatch.setattr(Engine, "run", run)
    for direction, base, source in (("denoising", corrupted, clean), ("noising", clean, corrupted)):
        expected = {n: patched_by_hooks(module, base, source, rest, site, some) for n, some in PATCHED.items()}
        # Pairs are sorted by length and cut into pieces: each piece starts at its own first difference.
        for chunk in (1, 3):
            found = instar.set_patching(model, batch, PATCHED, site=site, direction=direction, chunk=chunk)
            for name, theirs in expected.items():
                close(found["metric"].sel(set=name), theirs, exact)
            close(found["metric"].sel(set="none"), found["corrupted" if direction == "denoising" else "clean"], exact)
    assert starts == {0, 1, 3, 4, 6}
    moved = np.abs(found["change"]).max("pair").drop_sel(set="none")
    assert (moved > 1e-4).all()
