"""The same results the way they are obtained today: TransformerLens, one whole forward pass with logits a patch.

The loops are `transformer_lens.patching`'s own, which take a list of patches, so that a sample can be timed and scaled.
Its models come with folded norms and centred weights, as `from_pretrained` makes them by default; the value bias alone
stays where it is, so that heads can be compared one by one.
"""

import os
import time
import warnings
from typing import Any

# Read when tqdm is first imported: its bars would be part of the measurement.
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import pandas as pd
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig, patching
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

import instar

BY_POSITION, BY_HEAD = ("resid_pre", "attn_out", "mlp_out"), ("z", "v", "pattern")
SITES = (*BY_POSITION, *BY_HEAD)
_SETTERS = {
    **dict.fromkeys(BY_POSITION, patching.layer_pos_patch_setter),
    "z": patching.layer_head_vector_patch_setter,
    "v": patching.layer_head_vector_patch_setter,
    "pattern": patching.layer_head_pattern_patch_setter,
}


def hooked(module: Any) -> HookedTransformer:
    """The weights of a GPT-2 in a HookedTransformer; its own look-up of the configuration would need a network."""
    own = module.config
    config = HookedTransformerConfig(
        n_layers=own.n_layer, d_model=own.n_embd, n_ctx=own.n_positions, d_head=own.n_embd // own.n_head,
        n_heads=own.n_head, d_mlp=own.n_inner or 4 * own.n_embd, d_vocab=own.vocab_size, eps=own.layer_norm_epsilon,
        act_fn=own.activation_function, normalization_type="LN", device="cpu",
    )  # fmt: skip
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        model = HookedTransformer(config)
        # Processing works on the tensors it is given: they must not be the Hugging Face model's own.
        weights = {name: value.detach().clone() for name, value in convert_gpt2_weights(module, config).items()}
        model.load_and_process_state_dict(weights, fold_value_biases=False)
    return model.eval()


def metric(batch: instar.Batch) -> Any:
    """Mean over pairs of logit(answer) − logit(foil) at the last token."""
    rows = torch.arange(len(batch))

    def of(logits: torch.Tensor) -> torch.Tensor:
        return (logits[rows, batch.end, batch.answer] - logits[rows, batch.end, batch.foils[:, 0]]).mean()

    return of


def patches(model: HookedTransformer, batch: instar.Batch, site: str, sample: int | None) -> tuple[pd.DataFrame, int]:
    """Every patch of a site, or a random sample of them, and how many there are."""
    place = "pos" if site in BY_POSITION else "head"
    count = batch.clean.shape[1] if site in BY_POSITION else model.cfg.n_heads
    every = patching.make_df_from_ranges((model.cfg.n_layers, count), ("layer", place))
    if sample is None or sample >= len(every):
        return every, len(every)
    chosen = np.random.default_rng(0).choice(len(every), sample, replace=False)
    return every.iloc[np.sort(chosen)], len(every)


@torch.no_grad()
def sweeps(model: HookedTransformer, batch: instar.Batch, sample: int | None) -> dict[str, Any]:
    """All six sweeps; seconds are those of all patches, scaled where only a sample was run."""
    began = time.perf_counter()
    cache = model.run_with_cache(batch.clean)[1]
    seconds, values, done, total = time.perf_counter() - began, {}, 0, 0
    for site in SITES:
        table, count = patches(model, batch, site, sample)
        began = time.perf_counter()
        found = patching.generic_activation_patch(
            model, batch.corrupted, cache, metric(batch), _SETTERS[site], site, index_df=table
        )
        seconds += (time.perf_counter() - began) * count / len(table)
        values[site] = (table.to_numpy(), found.numpy())
        done, total = done + len(table), total + count
    return {"seconds": seconds, "values": values, "patches": done, "of": total}


def _of_heads(name: str) -> bool:
    return name.endswith("hook_z") or name == "ln_final.hook_scale"


@torch.no_grad()
def cached(model: HookedTransformer, batch: instar.Batch) -> Any:
    """A run with only what the heads' results are made of kept, as whoever minds memory would."""
    return model.run_with_cache(batch.clean, names_filter=_of_heads)[1]


@torch.no_grad()
def direct_attribution(model: HookedTransformer, batch: instar.Batch, cache: Any = None) -> np.ndarray:
    """Each head's direct effect on the metric [pair, layer, head], of a new run or of one that is cached."""
    cache = cached(model, batch) if cache is None else cache
    # The results of all heads are kept in the cache once they are made; each time counts.
    for name in [n for n in cache.cache_dict if n.endswith("hook_result")]:
        del cache.cache_dict[name]
    stack = cache.stack_head_results(layer=-1, pos_slice=-1)
    direction = model.W_U[:, batch.answer] - model.W_U[:, batch.foils[:, 0]]
    scaled = cache.apply_ln_to_stack(stack, layer=-1, pos_slice=-1)
    return torch.einsum("cpd,dp->pc", scaled, direction).unflatten(1, (model.cfg.n_layers, -1)).numpy()
