"""Roles of heads: planted ones are found, and every number equals a plain recomputation, one prompt and head at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import families
from conftest import random_batch, tiny_gpt2
from instar.measure.roles import repeated_tokens, roles
from instar.models.load import load
from instar.models.taps import record
from instar.tasks.batch import PAD, Batch

SCORES = ("previous_token", "duplicate_token", "induction")
WORDS, NAMES, PLACES, HEADS, WIDE = 24, range(14, 24), 26, 4, 50
END, GIVER_AT = 1, 8
# Where the planted model writes what: its token, its position, the token before, the token to keep away from.
TOKEN, POSITION, BEFORE, INHIBITED = 0, WORDS, WORDS + PLACES, 2 * WORDS + PLACES


class Planted:
    """A GPT-2 with weights by hand. Streams are [x, −x], so that norms have no mean to take away."""

    def __init__(self):
        config = GPT2Config(
            vocab_size=WORDS, n_positions=PLACES, n_embd=HEADS * WIDE, n_layer=2, n_head=HEADS, bos_token_id=END,
            eos_token_id=END,
        )  # fmt: skip
        self.module = GPT2LMHeadModel(config).double().eval()
        self.half = HEADS * WIDE // 2
        core = self.module.transformer
        with torch.no_grad():
            for name, value in self.module.named_parameters():
                value.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
            core.wte.weight.copy_(self.both(torch.eye(WORDS, self.half)))
            core.wpe.weight.copy_(self.both(torch.eye(PLACES, self.half + POSITION)[:, : self.half].roll(POSITION, 1)))
            self.plant()

    def both(self, x):
        return torch.cat([x, -x], 1)

    def put(self, layer, head, part, pairs):
        """Weights of q, k or v: {(from stream, to head): weight}."""
        weight = self.module.transformer.h[layer].attn.c_attn.weight
        first = "qkv".index(part) * HEADS * WIDE + head * WIDE
        for (i, j), value in pairs.items():
            weight[i, first + j] += value

    def write(self, layer, head, at, scale=1.0):
        """The head's first channels go to the stream's tokens at `at`."""
        out = self.module.transformer.h[layer].attn.c_proj.weight
        rows = torch.zeros(WORDS, self.half, dtype=out.dtype)
        rows[:, at : at + WORDS] = scale * torch.eye(WORDS)
        out[head * WIDE : head * WIDE + WORDS] = self.both(rows)

    def plant(self):
        same = {(TOKEN + i, i): 3.0 for i in range(WORDS)}
        places = {(POSITION + i, WORDS + i): 3.0 for i in range(PLACES)}
        # 0.0 looks at the token before and notes it; 0.1 at the same token elsewhere.
        self.put(0, 0, "q", {(POSITION + i, i): 3.0 for i in range(PLACES)})
        self.put(0, 0, "k", {(POSITION + i, i + 1): 3.0 for i in range(PLACES)})
        self.put(0, 1, "q", same | places)
        self.put(0, 1, "k", same | {at: -value for at, value in places.items()})
        # 0.2: END looks at the giver's place and notes who is there.
        self.put(0, 2, "q", {(TOKEN + END, 0): 3.0})
        self.put(0, 2, "k", {(POSITION + GIVER_AT, 0): 3.0})
        # 1.0 looks at what has this token before it. 1.1: END looks at names but the noted one, and says what it sees;
        # 1.2 looks at the first five names and says the opposite.
        self.put(1, 0, "q", same)
        self.put(1, 0, "k", {(BEFORE + i, i): 3.0 for i in range(WORDS)})
        self.put(1, 1, "q", {(TOKEN + END, i): 3.0 for i in NAMES} | {(INHIBITED + i, i): -6.0 for i in NAMES})
        self.put(1, 1, "k", same)
        self.put(1, 2, "q", {(TOKEN + END, i): 3.0 for i in range(14, 19)})
        self.put(1, 2, "k", same)
        for layer, head, at, sign in ((0, 0, BEFORE, 1), (0, 2, INHIBITED, 1), (1, 1, TOKEN, 1), (1, 2, TOKEN, -1)):
            self.put(layer, head, "v", {(TOKEN + i, i): 0.2 for i in range(WORDS)})
            self.write(layer, head, at, sign)


@pytest.fixture(scope="module")
def planted():
    return load(Planted().module)


@pytest.fixture
def story():
    """Answers 14 to 16, givers 19 to 21, introduced in either order; the second prompt is longer."""
    rows, slots = [], []
    for i in range(3):
        answer, giver = 14 + i, 19 + i
        pair = (answer, giver) if i % 2 else (giver, answer)
        more = [13] * (i == 1)
        rows.append([5, *pair, 6, 7, 8, 9, 10, giver, 11, *more, END])
        slots.append([0, 1, 2, 0, 0, 0, 0, 0, 3, 0, *(0 for _ in more), 4])
    return _batch(rows, slots, ("text", "intro1", "intro2", "giver1", "end"), [14, 15, 16], [[19], [20], [21]])


def _batch(rows, slots, names, answer, foils, change=None):
    width = max(map(len, rows))
    end = torch.tensor([len(r) - 1 for r in rows])
    clean = torch.tensor([r + [0] * (width - len(r)) for r in rows])
    slots = torch.tensor([s + [PAD] * (width - len(s)) for s in slots])
    answer, foils = torch.tensor(answer), torch.tensor(foils)
    given = slots == names.index("giver1")
    corrupted = torch.where(given, answer[:, None], clean)
    mask = torch.arange(width)[None] <= end[:, None]
    return Batch(clean, corrupted, mask, end, answer, foils, foils, slots, names)


def test_planted_roles_are_found_and_others_are_at_chance(planted, story):
    found = roles(planted, {"giver1": story}, repeats=5, length=12)
    second = torch.arange(12, 24)
    chance = float((1 / (second + 1.0)).mean())
    own = {"previous_token": (0, 0), "duplicate_token": (0, 1), "induction": (1, 0)}
    for name, (layer, head) in own.items():
        score = found[name].mean("sequence")
        # Before the first token there is none: it is noted as its own, and induction finds it in two places.
        assert 1 - (name == "induction") / 12 - 1e-6 < float(score[layer, head]) <= 1
        for idle in ((0, 2), (0, 3), (1, 2), (1, 3)):
            assert float(score[idle]) == pytest.approx(chance, rel=1e-6)
        # The name-mover keeps away from a mean of noted tokens.
        assert float(score[1, 1]) == pytest.approx(chance, rel=0.2)
    mover, negative = ((found["name_mover"][:, 1, h]).values for h in (1, 2))
    # Alone under the final norm a written token is ±√(width/2) in its two channels; the unembedding adds both, 2√(w/2).
    assert mover == pytest.approx(2 * np.sqrt(HEADS * WIDE / 2), rel=1e-3)
    assert negative == pytest.approx(-mover, rel=1e-3)
    assert (found["copy_top5"][:, 1].values == [[0, 1, 0, 0]] * 3).all()
    assert float(abs(found["copying"].values[:, :, [0, 3]][:, 1]).max()) == 0
    np.testing.assert_allclose(found["to_slot"].sel(target="answer")[:, 1, 1], 1, atol=1e-6)
    np.testing.assert_allclose(found["to_slot"].sel(target="giver1")[:, 0, 2], 1, atol=1e-6)


def test_planted_s_inhibition_moves_the_name_mover_and_nothing_else_does(planted, story):
    found = roles(planted, {"giver1": story}, repeats=2, length=4)
    assert found.attrs["name_movers"] == ["a1.h1", ""]
    # Without it the name-mover keeps away from the answer, and looks at both mentions of the giver instead.
    shift = found["mover_shift"].sel(counterfactual="giver1", layer=0).values
    np.testing.assert_allclose(shift[:, 2, 0], 1, atol=1e-5)
    np.testing.assert_allclose(shift[:, 2, 1:].sum(1), -1, atol=1e-5)
    assert (shift[:, 2, 1:] < -0.1).all()
    np.testing.assert_allclose(shift[:, [0, 1, 3]], 0, atol=1e-9)
    effect = found["s_inhibition"].sel(counterfactual="giver1").values
    np.testing.assert_allclose(effect[:, 0, 2], 1 - shift[:, 2, 1], atol=1e-5)
    assert np.isnan(effect[:, 1]).all() and not np.isnan(effect[:, 0]).any()


def answered(batch, at=1):
    """The same pairs with the token at `at` as answer."""
    answer = batch.clean[:, at]
    foils = (answer[:, None] + torch.arange(1, 3)) % 90 + 3
    return replace(batch, answer=answer, foils=foils, contrast=foils)


def counterfactuals(batch):
    other = batch.clean.clone()
    other[:, 3] = (batch.clean[:, 3] + 11) % 90 + 3
    return {"one": batch, "two": replace(batch, corrupted=other)}


class Naive:
    """One unpadded GPT-2 prompt at a time: transformers' own attentions and forward hooks, nothing of instar."""

    def __init__(self, module):
        module.config._attn_implementation = "eager"
        self.module, self.blocks = module, module.transformer.h
        self.heads = module.config.n_head
        self.wide = module.config.n_embd // self.heads

    def run(self, tokens, layer=None, head=0, z=None):
        """Attention of the last token [layer, head, key], and the inputs of every output projection and of every LN."""
        seen = {}

        def patch(_, inputs):
            x = inputs[0].clone()
            x[..., head * self.wide : (head + 1) * self.wide] = z[..., head * self.wide : (head + 1) * self.wide]
            return (x,)

        hooks = [b.attn.c_proj.register_forward_pre_hook(lambda m, x, i=i: seen.update({("z", i): x[0]}))
                 for i, b in enumerate(self.blocks)]  # fmt: skip
        hooks += [b.attn.c_attn.register_forward_hook(lambda m, x, y, i=i: seen.update({("qkv", i): y}))
                  for i, b in enumerate(self.blocks)]  # fmt: skip
        if layer is not None:
            hooks.append(self.blocks[layer].attn.c_proj.register_forward_pre_hook(patch))
        patterns = self.module(tokens[None], output_attentions=True).attentions
        for hook in hooks:
            hook.remove()
        return torch.stack([p[0, :, -1] for p in patterns]), seen

    def copies(self, seen, at, answer, foils):
        """Copying and whether it is in the top five, [layer, head]."""
        copying, top = [], []
        for layer, block in enumerate(self.blocks):
            v = seen["qkv", layer][0, at, 2 * self.heads * self.wide :].view(self.heads, self.wide)
            wrote = torch.stack([v[h] @ block.attn.c_proj.weight[h * self.wide : (h + 1) * self.wide]
                                 for h in range(self.heads)])  # fmt: skip
            logits = self.module.lm_head(self.module.transformer.ln_f(wrote))
            copying.append(logits[:, answer] - logits[:, foils].mean(1))
            top.append((logits.topk(5).indices == answer).any(1))
        return torch.stack(copying), torch.stack(top)


@torch.no_grad()
def test_every_number_equals_a_plain_recomputation(tiny):
    batch = answered(random_batch(seed=9, pairs=4))
    # What `one` changes stands first as well, and stays there.
    batch.clean[:, 0] = batch.corrupted[:, 0] = batch.clean[:, 2]
    batches, naive = counterfactuals(batch), Naive(tiny_gpt2().double())
    found = roles(tiny, batches, repeats=2, length=5, movers=4, chunk=3)
    clean, copying, top = [], [], []
    for tokens, end, answer, foils in zip(batch.clean, batch.end, batch.answer, batch.foils, strict=True):
        attention, seen = naive.run(tokens[: int(end) + 1])
        clean.append(attention)
        one, two = naive.copies(seen, 1, answer, foils)
        copying.append(one), top.append(two)
    to_answer = torch.stack([a[..., 1] for a in clean])
    scores = to_answer * torch.stack(copying)
    np.testing.assert_allclose(found["copying"], torch.stack(copying), rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(found["copy_top5"], torch.stack(top))
    np.testing.assert_allclose(found["name_mover"], scores, rtol=1e-8, atol=1e-10)
    assert list(found["target"].values) == ["answer", "changed one", "changed two"]
    for target, at in (("answer", 1), ("changed one", 2), ("changed two", 3)):
        np.testing.assert_allclose(found["to_slot"].sel(target=target), torch.stack([a[..., at] for a in clean]))
    mean = scores.mean(0)
    later = [(float(mean[i, h]), i, h) for i in range(3) for h in range(naive.heads) if mean[i, h] > 0]
    for layer in range(3):
        movers = [(i, h) for _, i, h in sorted(later, reverse=True) if i > layer][:4]
        assert set(found.attrs["name_movers"][layer].split()) == {f"a{i}.h{h}" for i, h in movers}
        for row, (name, at) in enumerate((("one", 2), ("two", 3))):
            ours = found["s_inhibition"][row, :, layer].values
            if not movers:
                assert np.isnan(ours).all()
                continue
            for pair, end in enumerate(batch.end):
                stop = int(end) + 1
                source = naive.run(batches[name].corrupted[pair, :stop])[1]["z", layer]
                for head in range(naive.heads):
                    patched = naive.run(batch.clean[pair, :stop], layer, head, source)[0]
                    moved = sum(clean[pair][i, h] - patched[i, h] for i, h in movers) / len(movers)
                    assert ours[pair, head] == pytest.approx(float(moved[1] - moved[at]), rel=1e-6, abs=1e-10)
                    three = [float(moved[1]), float(moved[at]), float(moved[0]) if name == "one" else 0]
                    np.testing.assert_allclose(
                        found["mover_shift"][row, pair, layer, head], three, rtol=1e-6, atol=1e-10
                    )
    assert len(later) > 3 and np.nanmax(abs(found["s_inhibition"].values)) > 0.01


@torch.no_grad()
@pytest.mark.parametrize(
    "row", ["llama", "llama.one_key_value_head", "gpt_neox", "mistral", "gemma2", "olmo2", "opt", "phi"]
)
def test_families_equal_the_models_own_forward_with_the_head_replaced(row):
    module = families.tiny(row, num_hidden_layers=3)
    model = load(module)
    clean = families.tokens(3, 9, seed=2)
    corrupted = clean.clone()
    corrupted[:, 2] = (clean[:, 2] + 5) % 90 + 3
    lengths, rows = torch.tensor([9, 7, 8]), torch.arange(3)
    mask = torch.arange(9)[None] < lengths[:, None]
    # Sliding windows are 4 tokens: the answer stands inside the last one's.
    answer = clean[rows, lengths - 2]
    batch = Batch.from_tokens(clean, corrupted, answer, (answer + 1) % 90 + 3, mask)
    held = (clean == answer[:, None]) & mask
    found = roles(model, {"one": batch}, repeats=3, length=6)
    layout = model.layout
    keep = ("pattern", "z", "v")
    base, source = (record(layout, t, mask, keep=keep) for t in (clean, corrupted))
    _check_copying(model, batch, base, held, found)
    for layer in range(layout.n_layers):
        movers = [tuple(int(x) for x in m[1:].split(".h")) for m in found.attrs["name_movers"][layer].split()]
        assert all(at > layer for at, _ in movers)
        for head in range(layout.n_heads):

            def edit(site, where, value, layer=layer, head=head):
                if (site, where) != ("z", layer):
                    return None
                value = value.clone()
                value[:, head] = source["z"][layer][:, head]
                return value

            patched = record(layout, clean, mask, keep=("pattern",), edit=edit)["pattern"]
            moved = [(base["pattern"][i] - patched[i])[rows, h, batch.end] for i, h in movers]
            if moved:
                moved = torch.stack(moved).mean(0)
                expected = (moved * held).sum(1) - moved[:, 2]
                np.testing.assert_allclose(found["s_inhibition"][0, :, layer, head], expected, rtol=1e-6, atol=1e-9)
    assert np.nanmax(abs(found["s_inhibition"].values)) > 1e-4


def _check_copying(model, batch, base, held, found):
    """The output projection as a module, fed one head's values."""
    layout = model.layout
    for layer in range(layout.n_layers):
        project, post = layout.part(layer, layout.arch.out_proj), layout.part(layer, layout.arch.post_attn)
        v = base["v"][layer].repeat_interleave(layout.n_heads // layout.n_kv_heads, 1)
        v = (v * held[:, None, :, None]).sum(2) / held.sum(1)[:, None, None]
        for head in range(layout.n_heads):
            alone = torch.zeros_like(v)
            alone[:, head] = v[:, head]
            wrote = project(alone.flatten(1)) - project(torch.zeros_like(alone.flatten(1)))
            logits = layout.unembed(layout.final_norm(wrote if post is None else post(wrote)))
            expected = logits.gather(1, batch.answer[:, None]) - logits.gather(1, batch.foils)
            np.testing.assert_allclose(found["copying"][:, layer, head], expected[:, 0], rtol=1e-6, atol=1e-9)


def test_slots_sum_over_positions_and_only_the_introduced_answer_counts(tiny):
    names = ("text", "intro1", "giver1", "giver2", "end")
    rows = [[5, 20, 6, 30, 31, 20, 40, 7], [5, 21, 33, 6, 41, 7]]
    slots = [[0, 1, 0, 2, 2, 0, 3, 4], [0, 1, 2, 0, 3, 4]]
    batch = _batch(rows, slots, names, [20, 21], [[30], [33]])
    # The first prompt has its answer twice, but introduces it once.
    found = roles(tiny, {"giver1": batch}, repeats=1, length=3)
    assert list(found["target"].values) == ["answer", "giver1", "giver2"]
    where = [{"answer": [1], "giver1": [3, 4], "giver2": [6]}, {"answer": [1], "giver1": [2], "giver2": [4]}]
    tiny.module.config._attn_implementation = "eager"
    for pair, row in enumerate(rows):
        attentions = tiny.module(torch.tensor([row]), output_attentions=True).attentions
        end = torch.stack([p[0, :, -1] for p in attentions]).detach()
        for target, at in where[pair].items():
            ours = found["to_slot"].sel(target=target)[pair]
            np.testing.assert_allclose(ours, end[..., at].sum(-1), rtol=1e-8)


def test_a_prompt_without_its_answer_has_no_score_and_does_not_spoil_the_others(tiny):
    batches = counterfactuals(answered(random_batch(pairs=4)))
    absent = {}
    for name, batch in batches.items():
        answer = batch.answer.clone()
        answer[2] = 100
        clean = batch.clean.masked_fill(batch.clean == 100, 99)
        absent[name] = replace(batch, answer=answer, clean=clean)
    found = roles(tiny, absent, repeats=1, length=3)
    for name in ("copying", "copy_top5", "name_mover"):
        assert np.isnan(found[name][2]).all() and not np.isnan(found[name][[0, 1, 3]]).any()
    assert np.isnan(found["s_inhibition"][:, 2]).all() and not np.isnan(found["s_inhibition"][:, [0, 1, 3], 0]).any()
    assert any(found.attrs["name_movers"])


def test_padding_does_not_count_whatever_stands_in_it(tiny):
    batch = answered(random_batch(pairs=4))
    padded = {k: torch.where(batch.mask, getattr(batch, k), batch.answer[:, None]) for k in ("clean", "corrupted")}
    assert not batch.mask.all() and not torch.equal(padded["clean"], batch.clean)
    one, two = (roles(tiny, {"one": b}, repeats=1, length=3) for b in (batch, replace(batch, **padded)))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-8, atol=1e-10, err_msg=name)


def test_chunks_do_not_change_values_and_the_seed_decides_the_tokens(tiny):
    batches = counterfactuals(answered(random_batch(pairs=5)))
    one, two = (roles(tiny, batches, repeats=7, length=6, chunk=size, seed=4) for size in (2, 16))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-8, atol=1e-10, err_msg=name)
    assert one.attrs["name_movers"] == two.attrs["name_movers"]
    again, other = (roles(tiny, batches, repeats=7, length=6, chunk=2, seed=seed) for seed in (4, 5))
    assert one.identical(again)
    for name in one:
        np.testing.assert_equal(np.array_equal(one[name], other[name], equal_nan=True), name not in SCORES)


class Stub:
    """What is asked of a tokenizer, here one that puts a beginning-of-text token before every text."""

    bos_token_id, all_special_ids, added_tokens_decoder = 0, [0, 1], {2: "<pad>"}

    def get_vocab(self):
        return {str(i): i for i in range(60)}

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [0, 7] if add_special_tokens else [7]}

    def convert_ids_to_tokens(self, ids):
        return [str(i) for i in ids]


def test_random_tokens_are_different_and_fit(tiny):
    tokens, before = repeated_tokens(tiny, seed=1, repeats=50, length=24)
    # 32 positions; no special token; no token twice in a half.
    assert tokens.shape == (50, 32) and before == 0 and int(tokens.min()) > 0
    assert torch.equal(tokens[:, :16], tokens[:, 16:])
    assert all(len(set(row.tolist())) == 16 for row in tokens)
    assert len(tokens.unique()) == 100
    tokens, before = repeated_tokens(replace(tiny, tokenizer=Stub()), seed=1, repeats=50, length=24)
    assert before == 1 and tokens.shape == (50, 31) and bool((tokens[:, 0] == 0).all())
    assert set(tokens[:, 1:].unique().tolist()) == set(range(3, 60))
    assert torch.equal(tokens[:, 1:16], tokens[:, 16:])


def test_a_beginning_of_text_token_moves_the_positions(tiny):
    batch = {"one": answered(random_batch(pairs=2))}
    model = replace(tiny, tokenizer=Stub())
    found = roles(model, batch, repeats=3, length=5)
    tokens, _ = repeated_tokens(model, 0, 3, 5)
    tiny.module.config._attn_implementation = "eager"
    patterns = torch.stack(tiny.module(tokens, output_attentions=True).attentions, 1).detach()
    for name, back in (("previous_token", 1), ("duplicate_token", 5), ("induction", 4)):
        expected = sum(patterns[..., t, t - back] for t in range(6, 11)) / 5
        np.testing.assert_allclose(found[name], expected, rtol=1e-8)


def test_prompts_must_be_the_same_for_every_counterfactual(tiny):
    batch = answered(random_batch(pairs=2))
    with pytest.raises(ValueError, match="'two' has other clean prompts than 'one'; use one seed"):
        roles(tiny, {"one": batch, "two": answered(random_batch(seed=1, pairs=2))})
    with pytest.raises(ValueError, match="no batches"):
        roles(tiny, {})
    with pytest.raises(ValueError, match="3 are needed"):
        roles(tiny, {"one": batch}, length=2)


def test_embedded_model_in_time_and_kept_in_a_file(embedded, tmp_path):
    import time

    import xarray as xr

    import instar

    task = instar.ioi(3)
    batches = {name: task.batch(embedded, n=16, counterfactual=name) for name in ("giver1", "giver2")}
    start = time.process_time()
    found = roles(embedded, batches)
    assert time.process_time() - start < 20
    assert found["s_inhibition"].shape == (2, 16, 4, 8)
    assert {str(found[name].dtype) for name in found} == {"float32"}
    found.to_netcdf(tmp_path / "roles.nc", engine="h5netcdf")
    again = xr.load_dataset(tmp_path / "roles.nc", engine="h5netcdf")
    assert list(again.attrs["name_movers"]) == found.attrs["name_movers"]
