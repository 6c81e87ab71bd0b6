"""Tiny random models of every family in the table, with its odd settings as further rows. Written without instar."""

import math
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 97
_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GROUPED = {"num_key_value_heads": 2}
_ROTARY = {"rope_theta": 10000.0}

# family or family.setting: (model type, what differs from _SMALL)
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 64}),
    "gpt2.scaled": (
        "gpt2",
        {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_inner": 48,
            "n_positions": 64,
            "scale_attn_by_inverse_layer_idx": True,
            "activation_function": "relu",
            "tie_word_embeddings": False,
        },
    ),
    "gpt_neox": ("gpt_neox", {"rope_parameters": {"rope_type": "default", **_ROTARY, "partial_rotary_factor": 0.5}}),
    "gpt_neox.sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "llama": ("llama", _GROUPED),
    "llama.one_key_value_head": ("llama", {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
    "llama.wide_heads": ("llama", {"num_key_value_heads": 4, "head_dim": 16, "tie_word_embeddings": True}),
    "mistral": ("mistral", _GROUPED | {"sliding_window": 4, "head_dim": 8}),
    "qwen2": ("qwen2", _GROUPED),
    "qwen2.sliding": ("qwen2", _GROUPED | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    "qwen3": ("qwen3", _GROUPED | {"head_dim": 16}),
    "gemma": ("gemma", {"num_key_value_heads": 1, "head_dim": 16}),
    "gemma2": ("gemma2", _GROUPED | {"head_dim": 16, "sliding_window": 4, "query_pre_attn_scalar": 16}),
    "gemma2.tight_caps": (
        "gemma2",
        _GROUPED | {"head_dim": 8, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 1.0, "sliding_window": 3},
    ),
    "gemma3": (
        "gemma3_text",
        _GROUPED | {"head_dim": 16, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "olmo2": ("olmo2", _GROUPED),
    "phi": ("phi", {"partial_rotary_factor": 0.5}),
    "phi.normed": ("phi", {"qk_layernorm": True, "partial_rotary_factor": 0.5}),
    "phi3": ("phi3", _GROUPED | {"sliding_window": 4}),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "stablelm": ("stablelm", _GROUPED | {"use_qkv_bias": True, "partial_rotary_factor": 0.5}),
    "stablelm.parallel": ("stablelm", {"use_parallel_residual": True, "num_key_value_heads": 4}),
    "stablelm.normed": ("stablelm", _GROUPED | {"qk_layernorm": True}),
    "starcoder2": ("starcoder2", _GROUPED | {"sliding_window": 4}),
    "smollm3": ("smollm3", _GROUPED | {"no_rope_layers": [1, 0]}),
}
# Attention and MLP read the same residual stream: there is no stream between them.
PARALLEL = ("gpt_neox", "phi", "phi.normed", "stablelm.parallel")
# The norm of q and k runs over all heads at once.
POST_NORMED = ("gemma2", "gemma2.tight_caps", "gemma3", "olmo2")


def tiny(row: str, *, seed: int = 0, dtype: torch.dtype = torch.float64, **more: Any) -> Any:
    """A random model of one row, in evaluation mode, its weights large enough for every part to matter."""
    kind, own = ROWS[row]
    config = AutoConfig.for_model(kind, **{**_SMALL, **own, **more})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=draw, dtype=torch.float64).to(value)
            if value.ndim == 1:
                value.copy_(value + 0.2 * noise)
            else:
                scale = 1.0 if "embed" in name or "wte" in name or "wpe" in name else 1.5
                value.copy_(noise * scale / math.sqrt(value.shape[-1]))
    return model


def tokens(n: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (n, length), generator=torch.Generator().manual_seed(seed))
