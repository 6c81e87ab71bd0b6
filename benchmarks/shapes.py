"""Models of random weights, and pairs of random tokens, that the benchmarks run on: speed does not depend on either.

- `small`: GPT-2 small's shape. `mini`: a shape for development. `embedded-shallow`: a model that instar brings along.
- `llama`: grouped-query attention, rotary embedding, gated MLP; the MLP's width makes a block's products cost what a
  block of `small` costs (12 d_model²), so that the two can be compared per FLOP.
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import instar

NAMES = ("mini", "embedded-shallow", "small", "llama")
PAIRS, LENGTH = 16, 20
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "mini": ("gpt2", {"n_layer": 6, "n_head": 8, "n_embd": 256, "vocab_size": 2000, "n_positions": 64}),
    "small": ("gpt2", {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257, "n_positions": 1024}),
    "llama": (
        "llama",
        {
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "hidden_size": 768,
            # 12 d² less q and o (2 d²) and k and v (2 d²/3), over the three matrices of a gated MLP; a multiple of 8.
            "intermediate_size": 2392,
            "vocab_size": 50257,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
        },
    ),
}


def build(name: str) -> Any:
    """The transformers model of a shape, with the eager attention that patterns can be read from."""
    if name == "embedded-shallow":
        module = instar.load("embedded-shallow").module
        module.set_attn_implementation("eager")
        return module
    kind, sizes = _CONFIGS[name]
    config = AutoConfig.for_model(kind, bos_token_id=0, eos_token_id=0, **sizes)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()


def pairs(vocabulary: int, first: int) -> instar.Batch:
    """Pairs of random tokens that differ at one: at position `first`, and so in every activation from there on."""
    draw = torch.Generator().manual_seed(first)
    clean = torch.randint(1, vocabulary, (PAIRS, LENGTH), generator=draw)
    corrupted = clean.clone()
    corrupted[:, first] = clean[:, first] % (vocabulary - 1) + 1
    answer = torch.randint(1, vocabulary, (PAIRS,), generator=draw)
    return instar.Batch.from_tokens(clean, corrupted, answer, answer % (vocabulary - 1) + 1)
