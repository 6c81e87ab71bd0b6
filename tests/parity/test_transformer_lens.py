"""Every patching map and the heads' direct attribution against TransformerLens, run here on the same random weights.

`test_gpt2_tiny.py` has numbers that TransformerLens once wrote down; here it runs, so that its own hooks are the oracle,
one whole forward pass a patch. Its hub look-ups need a network, so configurations are written by hand; the conversions
of weights are its own. Nothing is folded or centred, except where a test says so: then a layer's attention still sums to
the same, but the value bias has moved from the heads to the output bias.
"""

from functools import partial

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

import instar

# The class that the literature's code uses is deprecated in favour of a bridge in 3.x, and goes in 4.
pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")

LAYERS, HEADS, WIDTH, WORDS, PAIRS, LENGTH, FIRST = 3, 4, 64, 120, 4, 9, 3
# TransformerLens computes angles in the model's type; transformers makes them (and the softmax) in float32 in any.
TOLERANCE = {("gpt2", "float64"): 1e-9, ("gpt_neox", "float64"): 1e-6, ("gpt2", "float32"): 2e-6,
             ("gpt_neox", "float32"): 2e-6}  # fmt: skip
PLACES = {"resid_pre": "hook_resid_pre", "attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out"}
PARTS = {"z": "attn.hook_z", "q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v", "pattern": "attn.hook_pattern"}
ROTATED = {"q": "attn.hook_rot_q", "k": "attn.hook_rot_k"}
RAW = {"fold_ln": False, "center_writing_weights": False, "center_unembed": False, "fold_value_biases": False}


def hugging_face(family):
    """A random model whose weights are large enough for every part to matter."""
    torch.manual_seed(3)
    if family == "gpt2":
        config = GPT2Config(vocab_size=WORDS, n_positions=16, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS,
                            bos_token_id=0, eos_token_id=0, initializer_range=0.12)  # fmt: skip
        model = GPT2LMHeadModel(config)
    else:
        rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
        config = GPTNeoXConfig(vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                               intermediate_size=4 * WIDTH, max_position_embeddings=16, rope_parameters=rope,
                               use_parallel_residual=True, initializer_range=0.12, bos_token_id=0,
                               eos_token_id=0)  # fmt: skip
        model = GPTNeoXForCausalLM(config)
    with torch.no_grad():
        # Freshly made norms and biases are ones and zeros, and would hide a missing one.
        for value in model.parameters():
            if value.ndim == 1:
                value.add_(0.3 * torch.randn_like(value))
    return model.eval()


def hooked(module, family, dtype, **processing):
    """The same weights in a HookedTransformer, converted by its own functions."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_neox_weights

    rotary = {"positional_embedding_type": "rotary", "rotary_dim": WIDTH // HEADS // 4, "rotary_adjacent_pairs": False,
              "parallel_attn_mlp": True}  # fmt: skip
    config = HookedTransformerConfig(
        n_layers=LAYERS, d_model=WIDTH, n_ctx=16, d_head=WIDTH // HEADS, n_heads=HEADS, d_mlp=4 * WIDTH, d_vocab=WORDS,
        eps=1e-5, act_fn="gelu_new" if family == "gpt2" else "gelu", normalization_type="LN", dtype=dtype, device="cpu",
        **(rotary if family == "gpt_neox" else {}),
    )  # fmt: skip
    convert = convert_gpt2_weights if family == "gpt2" else convert_neox_weights
    model = HookedTransformer(config)
    with torch.no_grad():
        # Processing works on the tensors it is given: they must not be the Hugging Face model's own.
        weights = {name: value.detach().clone() for name, value in convert(module, config).items()}
        model.load_and_process_state_dict(weights, **{**RAW, **processing})
    return model.eval()


def random_pairs():
    """Pairs that differ from `FIRST` on, half of them at a second position too."""
    draw = torch.Generator().manual_seed(5)
    clean = torch.randint(3, WORDS, (PAIRS, LENGTH), generator=draw)
    corrupted = clean.clone()
    corrupted[:, FIRST] = (clean[:, FIRST] + 17) % (WORDS - 3) + 3
    corrupted[::2, FIRST + 3] = (clean[::2, FIRST + 3] + 29) % (WORDS - 3) + 3
    answer = torch.randint(3, WORDS, (PAIRS,), generator=draw)
    return instar.Batch.from_tokens(clean, corrupted, answer, (answer + 11) % WORDS)


class Oracle:
    """TransformerLens on the pairs: clean and corrupted runs, and a whole pass for each patch."""

    def __init__(self, model, batch):
        self.model, self.batch = model, batch
        with torch.no_grad():
            logits, self.clean = model.run_with_cache(batch.clean)
            self.ends = self.metric(logits), self.metric(model(batch.corrupted))

    def metric(self, logits):
        rows = torch.arange(PAIRS)
        return logits[rows, -1, self.batch.answer] - logits[rows, -1, self.batch.foils[:, 0]]

    @torch.no_grad()
    def patched(self, name, index):
        """The metric of the corrupted run in which `index` of one activation is the clean run's."""

        def patch(value, hook):
            value[index] = self.clean[hook.name][index]
            return value

        return self.metric(self.model.run_with_hooks(self.batch.corrupted, fwd_hooks=[(name, patch)]))

    def grid(self, hook, second, index):
        """Every patch of a site, [pair, layer, position or head]."""
        rows = [self.patched(f"blocks.{layer}.{hook}", index(i)) for layer in range(LAYERS) for i in range(second)]
        return torch.stack(rows, 1).unflatten(1, (LAYERS, second))


@pytest.fixture(scope="module", params=TOLERANCE, ids="-".join)
def both(request):
    """Our model and pairs, their oracle, and how close the two must be."""
    family, dtype = request.param
    torch.set_num_threads(1)
    module, kind = hugging_face(family), getattr(torch, dtype)
    batch = random_pairs()
    theirs = Oracle(hooked(module.to(kind), family, kind), batch)
    return instar.load(module), batch, theirs, partial(close, tolerance=TOLERANCE[request.param]), family


def close(ours, theirs, tolerance):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    largest = np.abs(theirs).max()
    assert np.ptp(theirs) > 1000 * tolerance * largest, "a map in which nothing moves shows nothing"
    off = np.abs(ours - theirs).max() / largest
    assert off <= tolerance, f"off by {off:.2g} of the largest value"


@pytest.fixture(scope="module")
def maps(both):
    model, batch, *_ = both
    return instar.patching(model, batch, sites=(*PLACES, *PARTS), per_pair=True)


def test_ends(both, maps):
    _, _, theirs, close, _ = both
    close(maps["clean"], theirs.ends[0])
    close(maps["corrupted"], theirs.ends[1])


@pytest.mark.parametrize("site", PLACES)
def test_residual_sites_by_position(both, maps, site):
    _, _, theirs, close, _ = both
    assert maps[site].dims == ("pair", "layer", "position")
    close(maps[site], theirs.grid(PLACES[site], LENGTH, lambda at: (slice(None), at)))


@pytest.mark.parametrize("site", PARTS)
def test_head_sites_by_head(both, maps, site):
    _, _, theirs, close, family = both
    hook = ROTATED.get(site, PARTS[site]) if family == "gpt_neox" else PARTS[site]
    before = (slice(None),) if site == "pattern" else (slice(None), slice(None))
    close(maps[site], theirs.grid(hook, HEADS, lambda head: (*before, head)))


def direct(model, cache, batch, stack):
    """What each write of a stack [write, pair, d_model] adds to the logits through the frozen last norm."""
    direction = model.W_U[:, batch.answer] - model.W_U[:, batch.foils[:, 0]]
    # Its frozen norm has no gain of its own; a model without folding keeps one.
    gain = getattr(model.ln_final, "w", 1.0)
    return torch.einsum("cpd,dp->pc", cache.apply_ln_to_stack(stack, layer=-1, pos_slice=-1) * gain, direction)


@torch.no_grad()
def test_direct_attribution_of_heads(both):
    model, batch, theirs, close, _ = both
    stack = theirs.clean.stack_head_results(layer=-1, pos_slice=-1)
    heads = direct(theirs.model, theirs.clean, batch, stack).unflatten(1, (LAYERS, HEADS))
    close(instar.attribution(model, batch)["heads"], heads)


@torch.no_grad()
def test_direct_attribution_of_layers_under_its_usual_processing(both):
    """Its defaults move each value bias out of the heads and into the output bias; a layer's sum stays."""
    model, batch, _, _, family = both
    usual = hooked(model.module, family, model.module.dtype, **dict.fromkeys(RAW, True))
    cache = usual.run_with_cache(batch.clean)[1]
    writes = torch.stack([cache[f"blocks.{layer}.hook_attn_out"][:, -1] for layer in range(LAYERS)])
    found = instar.attribution(model, batch)
    # It folds in float32 whatever the model's type.
    close(found["heads"].sum("head") + found["attn_bias"], direct(usual, cache, batch, writes), tolerance=2e-6)
