"""Weight grafts in every family, against state dicts edited by hand."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import families
from instar.between.drift import drift
from instar.between.graft import graft, grafted, interpolate, sets_of
from instar.circuits.graph import Graph
from instar.models.arch import Layout, row
from instar.models.load import fingerprint
from instar.models.weights import EMBEDDINGS, NORMS, permuted, weights
from twins import named, noisy, prompts

LAYERS, HEADS = 2, 4
ALL_HEADS = [f"a{layer}.h{head}" for layer in range(LAYERS) for head in range(HEADS)]
EVERYTHING = [*ALL_HEADS, "m0", "m1", EMBEDDINGS, NORMS]


# --- Where weights are in a state dict --------------------------------------------------------------------------------

ATTENTION = {
    "gpt2": "transformer.h.{}.attn.",
    "gpt_neox": "gpt_neox.layers.{}.attention.",
    "opt": "model.decoder.layers.{}.self_attn.",
}
OUT = {"gpt2": "c_proj", "gpt_neox": "dense", "opt": "out_proj", "phi": "dense"}
FUSED = {"gpt2": "c_attn", "gpt_neox": "query_key_value", "phi3": "qkv_proj"}
EMBEDDED = ("wte", "wpe", "embed_in.", "embed_tokens", "embed_positions", "lm_head", "embed_out")


class Places:
    """The entries of a state dict that hold a component: (key, index) each."""

    def __init__(self, module):
        config = module.config
        self.kind, self.keys = config.model_type, list(module.state_dict())
        self.prefix = ATTENTION.get(self.kind, "model.layers.{}.self_attn.")
        self.group = HEADS // getattr(config, "num_key_value_heads", HEADS)
        rows = module.state_dict()[self.prefix.format(0) + OUT.get(self.kind, "o_proj") + ".weight"].shape
        self.width = rows[0 if self.kind == "gpt2" else 1] // HEADS

    def of(self, name, letters="qkvo"):
        if name == EMBEDDINGS:
            return [(key, ...) for key in self.keys if any(part in key for part in EMBEDDED)]
        if name == NORMS:
            biases = [(key, ...) for key in self.keys if key.endswith(f"{OUT.get(self.kind, 'o_proj')}.bias")]
            biases = [(key, at) for key, at in biases if ".mlp." not in key]
            return biases + [(key, ...) for key in self.keys if "norm" in key or ".ln_" in key]
        if name[0] == "m":
            inside = ("fc1.", "fc2.") if self.kind == "opt" else (".mlp.",)
            layer = f".{name[1:]}."
            return [(key, ...) for key in self.keys if layer in key and any(part in key for part in inside)]
        layer, _, head = name[1:].partition(".h")
        if not head:
            heads = [place for h in range(HEADS) for place in self.of(f"a{layer}.h{h}")]
            return heads + [(key, at) for key, at in self.of(NORMS) if key == self.out(layer) + ".bias"]
        found = [self._projected(layer, letter, int(head)) for letter in letters if letter != "o"]
        places = [(f"{module}.{kind}", self._at(kind, rows)) for module, rows in found for kind in ("weight", "bias")]
        if "o" in letters:
            columns = self._rows(int(head), int(head) + 1)
            places.append((self.out(layer) + ".weight", columns if self.kind == "gpt2" else (slice(None), columns)))
        return [(key, at) for key, at in places if key in self.keys]

    def out(self, layer):
        return self.prefix.format(layer) + OUT.get(self.kind, "o_proj")

    def _rows(self, first, last):
        return slice(first * self.width, last * self.width)

    def _projected(self, layer, letter, head):
        """The module and the rows of its output that are one head's queries, keys or values."""
        module = self.prefix.format(layer) + FUSED.get(self.kind, f"{letter}_proj")
        shared = head if letter == "q" else head // self.group
        start = {
            "gpt2": "qkv".index(letter) * HEADS + head,  # all queries, all keys, all values
            "gpt_neox": 3 * head + "qkv".index(letter),  # one head's three, the next head's three
            # The same as GPT-2's with fewer heads in keys and values.
            "phi3": {"q": 0, "k": HEADS, "v": HEADS + HEADS // self.group}[letter] + shared,
        }.get(self.kind, shared)
        return module, self._rows(start, start + 1)

    def _at(self, kind, rows):
        return (slice(None), rows) if self.kind == "gpt2" and kind == "weight" else rows


@torch.no_grad()
def swapped(receiver, donor, name, share=1.0):
    """A copy of one transformers model with another's weights of one of `SETS`."""
    module = copy.deepcopy(receiver.module)
    state, before, theirs = module.state_dict(), receiver.module.state_dict(), donor.module.state_dict()
    places, letters = Places(module), name[-3:-1] if name.endswith(">") else "qkvo"
    # Slices are of heads only: without the attention's output bias, which belongs to none.
    components = [f"a1.h{h}" for h in range(HEADS)] if name == "attention<vo>" else SETS[name]
    for key, at in (place for component in components for place in places.of(component, letters)):
        state[key][at] = theirs[key][at] if share == 1 else before[key][at] * (1 - share) + theirs[key][at] * share
    return module


@torch.no_grad()
def behaviour(module, batch):
    """Logit differences by transformers' own forward pass."""
    module.set_attn_implementation("eager")
    logits = module(input_ids=batch.clean, attention_mask=batch.mask.long(), use_cache=False).logits
    last = logits[torch.arange(len(batch)), batch.end]
    return (last.gather(1, batch.answer[:, None])[:, 0] - last.gather(1, batch.foils).mean(1)).numpy()


# --- Two models -------------------------------------------------------------------------------------------------------


def plain(module):
    """Its layout, unproven."""
    return Layout(module, row(module.config))


def empty(module):
    module = copy.deepcopy(module)
    for value in module.parameters():
        value.data.zero_()
    return plain(module)


@pytest.fixture(scope="module")
def batch():
    return prompts()


@pytest.fixture(scope="module", params=families.ROWS)
def two(request):
    base = families.tiny(request.param)
    return named(base, "the base"), named(noisy(base, 0.3), "the tuned")


@pytest.fixture
def pair():
    """Grouped queries: two heads share their keys and values."""
    base = families.tiny("llama")
    return named(base, "the base"), named(noisy(base, 0.3), "the tuned")


# --- Where a component's weights are ----------------------------------------------------------------------------------


def test_every_parameter_is_in_one_component_once(two):
    group = HEADS // two[0].layout.n_kv_heads
    leaders = [f"a{layer}.h{head}" for layer in range(LAYERS) for head in range(0, HEADS, group)]
    hits, owner = empty(two[0].module), empty(two[0].module)
    for number, name in enumerate(EVERYTHING, start=1):
        # Keys and values of a group come with its first head here.
        letters = "qkvo" if name in leaders or ".h" not in name else "qo"
        for counted, labelled in zip(*(weights(layout, [name], letters) for layout in (hits, owner)), strict=True):
            counted += 1
            labelled += number
    assert all((value == 1).all() for value in hits.module.parameters())
    # And each is where a state dict has it.
    places, state = Places(owner.module), owner.module.state_dict()
    for number, name in enumerate(EVERYTHING, start=1):
        letters = "qkvo" if name in leaders or ".h" not in name else "qo"
        assert places.of(name, letters)
        assert all((state[key][at] == number).all() for key, at in places.of(name, letters))


def test_keys_and_values_come_with_each_head_of_their_group(two):
    layout = empty(two[0].module)
    for view in weights(layout, ["a0", "a1", "m0", "m1", EMBEDDINGS, NORMS]):
        view += 1
    group = HEADS // layout.n_kv_heads
    places, state = Places(layout.module), layout.module.state_dict()
    expected = {key: torch.ones_like(value) for key, value in layout.module.named_parameters()}
    for name in ALL_HEADS:
        for key, at in places.of(name, "kv"):
            expected[key][at] = group
    for layer in range(LAYERS):  # an attention's own, and the norms'
        if places.out(layer) + ".bias" in expected:
            expected[places.out(layer) + ".bias"][:] = 2
    assert all(torch.equal(state[key], value) for key, value in expected.items())


# --- Grafts -----------------------------------------------------------------------------------------------------------

SETS = {
    "none": [],
    "one of a group": ["a1.h3"],
    "two of a group, and more": ["a0.h2", "a0.h3", "a1.h0"],
    "attention": ["a1"],
    "mlp": ["m0"],
    "mixed": ["a0.h0", "m1", "a1.h2", NORMS],
    "embeddings": [EMBEDDINGS],
    "norms": [NORMS],
    "by attention": ["a0", "a1", "m0", "m1", EMBEDDINGS, NORMS],
    "slices<qk>": ["a0.h1", "a0.h2", "a1.h3"],
    "slices<vo>": ["a0.h1", "a0.h2", "a1.h3"],
    "attention<vo>": ["a1"],
}


def test_a_graft_is_a_swap_of_state_dicts(two, batch):
    base, tuned = two
    found = graft(base, tuned, batch, SETS)
    np.testing.assert_allclose(found["base"], behaviour(copy.deepcopy(base.module), batch), atol=1e-10)
    np.testing.assert_allclose(found["tuned"], behaviour(copy.deepcopy(tuned.module), batch), atol=1e-10)
    for name in SETS:
        for kind, receiver, donor in (("into", base, tuned), ("lost", tuned, base)):
            theirs = behaviour(swapped(receiver, donor, name), batch)
            np.testing.assert_allclose(found[kind].sel(set=name), theirs, rtol=0, atol=1e-10, err_msg=f"{name} {kind}")
    # Each set does something of its own: nothing above is true of an empty swap.
    moved = np.abs(found["into"] - found["base"]).max("pair")
    assert (moved.drop_sel(set="none") > 1e-6).all() and moved.sel(set="none") == 0


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("trained", ["embedding", "unembedding"])
def test_an_end_that_has_its_own_weights_is_a_part_of_its_own(batch, family, trained):
    """A shared matrix in the base, and a training that gave one end a copy (LoRA with modules_to_save)."""
    one = families.tiny(family, tie_word_embeddings=True)
    assert one.get_input_embeddings().weight is one.get_output_embeddings().weight
    other = noisy(one, 0.3)
    end = other.get_input_embeddings() if trained == "embedding" else other.get_output_embeddings()
    moved = end.weight.data.clone()
    end.weight = torch.nn.Parameter(moved + 0.2 * torch.randn_like(moved))
    base, tuned = named(one, "tied"), named(other, "untied")

    @torch.no_grad()
    def by_hand(receiver, donor, ends):
        """Two matrices by transformers' own means, and then some of them replaced."""
        module = copy.deepcopy(receiver.module)
        module.get_output_embeddings().weight = torch.nn.Parameter(
            receiver.module.get_output_embeddings().weight.clone()
        )
        for kind in ends:
            place = module.get_input_embeddings() if kind == "in" else module.get_output_embeddings()
            theirs = donor.module.get_input_embeddings() if kind == "in" else donor.module.get_output_embeddings()
            place.weight.copy_(theirs.weight)
        if family == "gpt2" and "in" in ends:
            module.transformer.wpe.weight.copy_(donor.module.transformer.wpe.weight)
        return behaviour(module, batch)

    sets = {"embedding": ["embedding"], "unembedding": ["unembedding"], "both": [EMBEDDINGS], "all": EVERYTHING}
    found = graft(base, tuned, batch, sets)
    for name, ends in (("embedding", ["in"]), ("unembedding", ["out"]), ("both", ["in", "out"])):
        for kind, receiver, donor in (("into", base, tuned), ("lost", tuned, base)):
            np.testing.assert_allclose(found[kind].sel(set=name), by_hand(receiver, donor, ends), rtol=0, atol=1e-10)
    assert np.array_equal(found["into"].sel(set="all"), found["tuned"])
    assert np.array_equal(found["lost"].sel(set="all"), found["base"])
    assert np.abs(found["into"].sel(set="embedding") - found["into"].sel(set="unembedding")).max() > 1e-3
    # Tied again, and unchanged.
    assert one.get_input_embeddings().weight is one.get_output_embeddings().weight
    assert [fingerprint(m.module) for m in (base, tuned)] == [base.weights, tuned.weights]
    # Both ends count in how far the weights moved.
    ends = (one.get_input_embeddings().weight, one.get_output_embeddings().weight)
    theirs = (other.get_input_embeddings().weight, other.get_output_embeddings().weight)
    change = sum(float((a - b).square().sum()) for a, b in zip(ends, theirs, strict=True))
    if family == "gpt2":
        change += float((one.transformer.wpe.weight - other.transformer.wpe.weight).square().sum())
    for first, second in ((base, tuned), (tuned, base)):
        found_change = drift(first, second, None)["weight_change"].sel(component="embed")
        np.testing.assert_allclose(found_change, change**0.5)


def test_everything_is_the_other_model_exactly_and_nothing_is_left_changed(two, batch):
    base, tuned = two
    before = [fingerprint(m.module) for m in two]
    assert before[0] != before[1] and before == [base.weights, tuned.weights]
    sets = {"all": EVERYTHING, "attentions": ["a0", "a1", "m0", "m1", EMBEDDINGS, NORMS], "twice": [*EVERYTHING, "a0"]}
    found = graft(base, tuned, batch, sets)
    for name in sets:
        assert np.array_equal(found["into"].sel(set=name), found["tuned"])
        assert np.array_equal(found["lost"].sel(set=name), found["base"])
        assert np.array_equal(found["into_right"].sel(set=name), found["tuned_right"])
    assert [fingerprint(m.module) for m in two] == before
    itself = graft(base, base, batch, {"some": ["a0.h1", "a1", "m0"], "all": EVERYTHING})
    assert (itself["into"] == itself["base"]).all() and (itself["lost"] == itself["base"]).all()
    for share in (1.0, 0.5):
        with pytest.raises(RuntimeError, match="on purpose"), grafted(base, tuned, EVERYTHING, share=share) as changed:
            assert changed is base and fingerprint(base.module) != before[0]
            raise RuntimeError("on purpose")
    assert [fingerprint(m.module) for m in two] == before
    with grafted(base, tuned, EVERYTHING):
        assert fingerprint(base.module) == before[1]
    assert [fingerprint(m.module) for m in two] == before


def test_half_a_graft_is_the_mean_of_the_weights(two, batch):
    base, tuned = two
    names = ("two of a group, and more", "by attention")
    found = interpolate(base, tuned, batch, {name: SETS[name] for name in names}, shares=[0.5]).sel(share=0.5)
    for name in names:
        # Half way is the same place from either side.
        theirs = behaviour(swapped(base, tuned, name, 0.5), batch)
        np.testing.assert_allclose(found["into"].sel(set=name), theirs, rtol=0, atol=1e-10, err_msg=name)
    np.testing.assert_allclose(found["lost"].sel(set="by attention"), theirs, rtol=0, atol=1e-10)
    assert fingerprint(base.module) == base.weights


def test_the_whole_way_is_the_graft(pair, batch):
    base, tuned = pair
    found, whole = interpolate(base, tuned, batch, SETS, shares=(0.25, 1.0)), graft(base, tuned, batch, SETS)
    for name in ("into", "lost", "into_right", "lost_right"):
        assert np.array_equal(found[name].sel(share=1.0), whole[name])
    for name in SETS:
        for kind, receiver, donor in (("into", base, tuned), ("lost", tuned, base)):
            theirs = behaviour(swapped(receiver, donor, name, 0.25), batch)
            np.testing.assert_allclose(found[kind].sel(share=0.25, set=name), theirs, rtol=0, atol=1e-10)
    assert found["base"].dims == ("pair",) and "share" not in found.attrs and whole.attrs["share"] == 1


def test_what_is_right_is_the_top_token(pair, batch):
    base, tuned = pair
    for kind, model in (("base", base), ("tuned", tuned)):
        with torch.no_grad():
            logits = model.module(input_ids=batch.clean, attention_mask=batch.mask.long()).logits
        top = logits[torch.arange(3), batch.end].argmax(1)
        top[1] = (top[1] + 1) % families.VOCABULARY
        found = graft(base, tuned, replace(batch, answer=top), {"all": EVERYTHING, "none": []}, chunk=2)
        other = found[f"{'tuned' if kind == 'base' else 'base'}_right"]
        assert found[f"{kind}_right"].values.tolist() == [1, 0, 1] != other.values.tolist()
        right = {("base", "into"): "none", ("base", "lost"): "all", ("tuned", "into"): "all", ("tuned", "lost"): "none"}
        for way in ("into", "lost"):
            assert found[f"{way}_right"].sel(set=right[kind, way]).values.tolist() == [1, 0, 1]
    assert graft(base, tuned, batch, {})["into"].shape == (0, 3)


def test_chunks_change_nothing(pair, batch):
    one, two = (graft(*pair, batch, SETS, chunk=chunk) for chunk in (2, 64))
    for name in one.data_vars:
        np.testing.assert_allclose(one[name], two[name], atol=1e-12)


def test_what_cannot_be_grafted_is_named(pair, batch):
    base, tuned = pair
    layers = named(families.tiny("llama", num_hidden_layers=3), "the long one")
    wide = named(families.tiny("llama", intermediate_size=64), "the wide one")
    shared = named(families.tiny("llama", num_key_value_heads=1), "the shared one")
    for other, sets in ((layers, ["a0.h1"]), (layers, ["m2"]), (wide, ["m1"]), (wide, EVERYTHING), (shared, ["a1.h0"])):
        for one, two in ((base, other), (other, base)):
            with pytest.raises(ValueError, match=f"{one.name} and {two.name} are not of one shape"):
                graft(one, two, batch, {"some": sets})
    message = (
        r"is no component of a model with 2 layers of 4 heads; there are a0 … \(attentions\), a0.h0 … \(heads\), m0 …"
    )
    for wrong in ("a2", "m2", "a0.h4", "a9.h0", "input", "a0.h1<q>", "logits", "", "norm"):
        with pytest.raises(ValueError, match=message):
            graft(base, tuned, batch, {"some": ["a0.h0", wrong]})
    assert [fingerprint(m.module) for m in pair] == [base.weights, tuned.weights]


def test_the_usual_sets_are_disjoint_and_whole(pair):
    sets = sets_of(Graph.of(pair[0].layout), ("a1.h2", "a0.h1"))
    assert sets["inside"] == sets["inside<qk>"] == sets["inside<vo>"] == ("a0.h1", "a1.h2")
    assert sorted(sets["inside"] + sets["outside"]) == sorted(ALL_HEADS) == sorted(sets["heads"])
    groups = [n for name in ("heads", "mlps", EMBEDDINGS, NORMS) for n in sets[name]]
    assert sorted(groups) == sorted(EVERYTHING)
    assert (
        sets["a1"] == ("a1",) and sets["to layer 0"] == ("a0", "m0") and sets["to layer 1"] == ("a0", "m0", "a1", "m1")
    )
    assert all(sets[name] == (name,) for name in ALL_HEADS)
    few = sets_of(Graph.of(pair[0].layout), single=False)
    assert set(few) == set(sets) - set(ALL_HEADS) - {"to layer 0", "to layer 1"} and few["inside"] == ()
    fewest = sets_of(Graph.of(pair[0].layout), single=False, by_layer=False)
    assert set(fewest) == set(few) - {"a0", "a1", "m0", "m1"}


# --- Heads under each other's names -----------------------------------------------------------------------------------


@torch.no_grad()
def moved(base, tuned, plan, letters="qo"):
    """A copy of `tuned` in which each head of `plan` has the queries and the output matrix of another."""
    module = copy.deepcopy(tuned)
    places, state, theirs = Places(base), module.state_dict(), tuned.state_dict()
    for here, there in plan.items():
        for (key, at), (_, origin) in zip(places.of(here, letters), places.of(there, letters), strict=True):
            state[key][at] = theirs[key][origin].clone()
    return module


PLAN = {"a0.h1": "a0.h3", "a0.h3": "a0.h1", "a1.h0": "a1.h2", "a1.h1": "a1.h0", "a1.h2": "a1.h3", "a1.h3": "a1.h1"}


def test_planted_permutations_are_found_and_no_others(two):
    base = two[0]
    for noise in (0.0, 0.1):
        tuned = noisy(base.module, noise, seed=7)
        assert permuted(base.layout, plain(tuned)) == {}
        assert permuted(base.layout, plain(moved(base.module, tuned, PLAN))) == PLAN
        # A head with another's queries alone, or its output matrix alone, is as much itself.
        assert all(permuted(base.layout, plain(moved(base.module, tuned, PLAN, one))) == {} for one in "qo")


def test_heads_cut_off_are_not_permuted(two):
    base = two[0].module
    cut, tuned = copy.deepcopy(base), noisy(base, 0.05, seed=7)
    places = Places(base)
    with torch.no_grad():
        for module, names in ((cut, ("a0.h0", "a0.h2")), (tuned, ("a0.h1", "a0.h2", "a1.h3"))):
            for name in names:
                for key, at in places.of(name, "o"):
                    module.state_dict()[key][at] = 0
    models = [plain(m) for m in (base, cut, tuned)]
    assert all(permuted(one, two) == {} for one in models for two in models)
    with torch.no_grad():  # nothing left of a head at all
        for key, at in places.of("a0.h2", "qo"):
            tuned.state_dict()[key][at] = 0
    layout = plain(tuned)
    assert permuted(models[0], layout) == permuted(models[1], layout) == permuted(layout, layout) == {}
