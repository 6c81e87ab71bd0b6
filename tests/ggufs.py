"""GGUF files of our own tiny models, written as llama.cpp's converter does (convert_hf_to_gguf.py); without instar."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

NAMES = {"gemma3_text": "gemma3"}
"""What llama.cpp calls a family, where that is another name."""


def write(file: Path, model: Any, kind: str = "F32", tokenizer: Any = None, **more: Any) -> dict[str, np.ndarray]:
    """A model as GGUF, its matrices of a `kind`. Returns what they are after that, by transformers' names.

    Args:
        more: further settings of the architecture, or other values for those that are written.
    """
    config = model.config
    family = NAMES.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(file, family)
    for key, value in (_settings(config) | more).items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](f"{family}.{key.replace('__', '.')}", value)
    _tokenizer(writer, config, tokenizer)
    arch = next(own for own, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names, kept = gguf.get_tensor_name_map(arch, config.num_hidden_layers), {}
    tied = config.tie_word_embeddings
    for name, value in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        part, _, last = name.rpartition(".")
        as_kept = _turned(name, value.detach().float().numpy(), config)
        wanted = gguf.GGMLQuantizationType[kind if value.ndim == 2 and "wpe" not in name else "F32"]
        stored = quantize(np.ascontiguousarray(as_kept), wanted)
        writer.add_tensor(f"{names.get_name(part)}.{last}", stored, raw_dtype=wanted)
        kept[name] = _turned_back(name, dequantize(stored, wanted).reshape(as_kept.shape), config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kept


def _settings(config: Any) -> dict[str, Any]:
    found = {
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "attention__head_count": config.num_attention_heads,
    }
    if config.model_type == "gpt2":
        return found | {
            "feed_forward_length": 4 * config.n_embd,
            "attention__layer_norm_epsilon": config.layer_norm_epsilon,
        }
    rms = getattr(config, "rms_norm_eps", None)
    epsilon = rms or getattr(config, "layer_norm_eps", None) or config.norm_epsilon
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    found |= {
        "feed_forward_length": config.intermediate_size,
        "attention__head_count_kv": config.num_key_value_heads,
        f"attention__layer_norm_{'rms_' if rms else ''}epsilon": epsilon,
        "rope__freq_base": float(rope["rope_theta"]),
        "rope__dimension_count": int(width * rope.get("partial_rotary_factor", 1)),
        "attention__key_length": width,
        "attention__value_length": width,
    }
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        found |= {key: float(getattr(config, key))} if getattr(config, key, None) else {}
    window = getattr(config, "sliding_window", None)
    return found | ({"attention__sliding_window": window} if window else {})


def _tokenizer(writer: Any, config: Any, tokenizer: Any) -> None:
    if tokenizer is None:
        writer.add_vocab_size(config.vocab_size)
        return
    own = json.loads(tokenizer.backend_tokenizer.to_str())
    special = set(tokenizer.all_special_tokens)
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL if w in special else gguf.TokenType.NORMAL for w in words])
    writer.add_token_merges([" ".join(pair) for pair in own["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.eos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _turned(name: str, value: np.ndarray, config: Any) -> np.ndarray:
    """A weight as llama.cpp keeps it."""
    kind = config.model_type
    if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        # Its rotation turns neighbours; transformers' turns halves.
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        return value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
    if kind == "gpt2" and name.endswith(".weight") and ("c_attn" in name or "c_proj" in name or "c_fc" in name):
        return value.T
    return value + 1 if kind.startswith("gemma") and "norm" in name else value


def _turned_back(name: str, value: np.ndarray, config: Any) -> np.ndarray:
    """The inverse of `_turned`."""
    if config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        return value.reshape(heads, -1, 2, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
    if config.model_type == "gpt2":
        return _turned(name, value, config)
    return value - 1 if config.model_type.startswith("gemma") and "norm" in name else value
