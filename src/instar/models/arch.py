"""Where the parts of each model family live: one row a family, no subclasses.

Paths are dotted attribute names, from the model for the whole and from a block for its parts. `Layout` is what a row
means for one loaded model; everything else in instar asks it, and names no module itself.

Axis names: `head` query heads, `kv_head` key-value heads (fewer under grouped-query attention), `d_head`, `d_model`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

Projection = Literal["q", "k", "v"]
Fused = Literal["no", "columns", "interleaved"]


@dataclass(frozen=True)
class Arch:
    """One family's row."""

    blocks: str = "model.layers"
    embeddings: tuple[str, ...] = ("model.embed_tokens",)
    """Modules whose outputs sum to the first residual stream: token embedding first."""
    final_norm: str = "model.norm"
    unembed: str = "lm_head"
    norm_attn: str | None = "input_layernorm"
    attn: str = "self_attn"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    """The projections, from the block: three, or one that is fused."""
    fused: Fused = "no"
    """`columns`: all q, then all k, then all v. `interleaved`: q, k and v of the first head, of the second, …"""
    qk_norm: tuple[str, str] | None = None
    """Norms of q and k, from the block, where the model has them."""
    qk_norm_whole: bool = False
    """These norms run over all heads at once."""
    out_proj: str = "self_attn.o_proj"
    post_attn: str | None = None
    """A norm between the output projection and the residual stream."""
    norm_mlp: str | None = "post_attention_layernorm"
    mlp: tuple[str, ...] = ("mlp",)
    """Modules that follow each other: the MLP as a whole, or its parts."""
    post_mlp: str | None = None
    activation: str = "mlp.act_fn"
    """The MLP's activation function, from the block."""
    gated: str | None = "mlp.down_proj"
    """The projection that reads activation × gate; None where the MLP has no gate."""
    q_scale: str | None = None
    """The attention's own factor on q, where the family applies it before the attention function."""
    softcap: str | None = None
    """The cap on attention scores that the family passes to its attention function."""
    gain_plus_one: bool = False
    """RMS norms multiply by 1 + weight."""
    parallel: str | bool = False
    """Attention and MLP read the same stream: always, never, or as this setting of the config says."""
    refused: Callable[[Any], str | None] | None = None
    """What in a config this row does not cover, in words."""
    transposed: bool = False
    """Weights are stored [in, out] (GPT-2's Conv1D) rather than [out, in]."""


def _opt_refused(config: Any) -> str | None:
    if config._remove_final_layer_norm:
        return (
            "_remove_final_layer_norm=True: its unembedding reads the stream without a norm, which nothing here is made for; "
            "measure a checkpoint with a final norm"
        )
    if not config.do_layer_norm_before:
        return "do_layer_norm_before=False (OPT-350m): its norms stand on the residual stream itself"
    if config.word_embed_proj_dim != config.hidden_size:
        return f"word_embed_proj_dim={config.word_embed_proj_dim} differs from hidden_size={config.hidden_size}"
    return None


def _gemma3_refused(config: Any) -> str | None:
    return "use_bidirectional_attention" if config.use_bidirectional_attention else None


_LLAMA = Arch()
_QK_NORM = ("self_attn.q_norm", "self_attn.k_norm")
_SANDWICH: dict[str, Any] = {
    "post_attn": "post_attention_layernorm",
    "norm_mlp": "pre_feedforward_layernorm",
    "post_mlp": "post_feedforward_layernorm",
}

TABLE: dict[str, Arch] = {
    "gpt2": Arch(
        blocks="transformer.h",
        embeddings=("transformer.wte", "transformer.wpe"),
        final_norm="transformer.ln_f",
        norm_attn="ln_1",
        attn="attn",
        qkv=("attn.c_attn",),
        fused="columns",
        out_proj="attn.c_proj",
        norm_mlp="ln_2",
        mlp=("mlp.c_fc", "mlp.act", "mlp.c_proj"),
        activation="mlp.act",
        gated=None,
        transposed=True,
    ),
    "gpt_neox": Arch(
        blocks="gpt_neox.layers",
        embeddings=("gpt_neox.embed_in",),
        final_norm="gpt_neox.final_layer_norm",
        attn="attention",
        qkv=("attention.query_key_value",),
        fused="interleaved",
        out_proj="attention.dense",
        activation="mlp.act",
        gated=None,
        parallel="use_parallel_residual",
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "gemma": Arch(gain_plus_one=True),
    "smollm3": _LLAMA,
    "qwen3": Arch(qk_norm=_QK_NORM),
    "gemma2": Arch(softcap="self_attn.attn_logit_softcapping", gain_plus_one=True, **_SANDWICH),
    "gemma3_text": Arch(gain_plus_one=True, qk_norm=_QK_NORM, refused=_gemma3_refused, **_SANDWICH),
    "olmo2": Arch(
        norm_attn=None,
        qk_norm=_QK_NORM,
        qk_norm_whole=True,
        post_attn="post_attention_layernorm",
        norm_mlp=None,
        post_mlp="post_feedforward_layernorm",
    ),
    "phi": Arch(
        final_norm="model.final_layernorm",
        qk_norm=("self_attn.q_layernorm", "self_attn.k_layernorm"),
        out_proj="self_attn.dense",
        norm_mlp="input_layernorm",
        activation="mlp.activation_fn",
        gated=None,
        parallel=True,
    ),
    "phi3": Arch(qkv=("self_attn.qkv_proj",), fused="columns", activation="mlp.activation_fn"),
    "opt": Arch(
        blocks="model.decoder.layers",
        embeddings=("model.decoder.embed_tokens", "model.decoder.embed_positions"),
        final_norm="model.decoder.final_layer_norm",
        norm_attn="self_attn_layer_norm",
        out_proj="self_attn.out_proj",
        norm_mlp="final_layer_norm",
        mlp=("fc1", "activation_fn", "fc2"),
        activation="activation_fn",
        gated=None,
        q_scale="self_attn.scaling",
        refused=_opt_refused,
    ),
    "stablelm": Arch(qk_norm=("self_attn.q_layernorm", "self_attn.k_layernorm"), parallel="use_parallel_residual"),
    "starcoder2": Arch(mlp=("mlp.c_fc", "mlp.act", "mlp.c_proj"), activation="mlp.act", gated=None),
}
# Families whose attention does not go through transformers' registry: nothing of theirs could be seen.
WITHOUT_SEAM = ("bloom", "gpt_neo", "gptj")


def row(config: Any) -> Arch:
    """The row of a model's family.

    Raises:
        ValueError: naming the family and the ones in the table, or the setting that the row does not cover.
    """
    family = config.model_type
    if family not in TABLE:
        known = ", ".join(sorted(TABLE))
        why = " (its attention cannot be observed from outside)" if family in WITHOUT_SEAM else ""
        raise ValueError(f"model family {family!r} is not supported{why}; instar knows {known}")
    refused = TABLE[family].refused
    problem = None if refused is None else refused(config)
    if problem is not None:
        raise ValueError(f"this {family} model is not supported: {problem}")
    return TABLE[family]


@dataclass(frozen=True)
class Layout:
    """The parts of one loaded model."""

    module: Any
    arch: Arch

    @cached_property
    def blocks(self) -> list[nn.Module]:
        """The transformer blocks, first to last."""
        return list(attrgetter(self.arch.blocks)(self.module))

    @property
    def n_layers(self) -> int:
        """How many blocks."""
        return len(self.blocks)

    @property
    def n_heads(self) -> int:
        """Query heads a layer."""
        return self.module.config.num_attention_heads

    @property
    def n_kv_heads(self) -> int:
        """Key-value heads a layer; fewer than query heads under grouped-query attention."""
        return getattr(self.module.config, "num_key_value_heads", None) or self.n_heads

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.module.config.hidden_size

    @cached_property
    def d_head(self) -> int:
        """Width of one head."""
        return self.w_o(0).shape[1]

    @property
    def parallel(self) -> bool:
        """Attention and MLP of a block read the same stream: there is no `resid_mid`."""
        setting = self.arch.parallel
        return getattr(self.module.config, setting) if isinstance(setting, str) else setting

    @cached_property
    def rotates_otherwise_beyond(self) -> int | None:
        """The number of tokens from which on rotary angles are other ones for a whole batch (longrope); None: never."""
        config = self.module.config
        own = getattr(config, "rope_parameters", None) or {}
        for rope in (own, *(part for part in own.values() if isinstance(part, dict))):
            if rope.get("rope_type") == "longrope":
                usual = getattr(config, "original_max_position_embeddings", None)
                return rope.get("original_max_position_embeddings") or usual
        return None

    @property
    def embeddings(self) -> list[nn.Module]:
        """The modules that write the first residual stream."""
        return [attrgetter(path)(self.module) for path in self.arch.embeddings]

    @property
    def final_norm(self) -> Any:
        """The norm before the unembedding."""
        return attrgetter(self.arch.final_norm)(self.module)

    @property
    def unembed(self) -> nn.Linear:
        """The unembedding, `weight[vocabulary, d_model]`."""
        return attrgetter(self.arch.unembed)(self.module)

    @property
    def cap(self) -> float | None:
        """The soft-cap on the final logits, where the model has one."""
        return getattr(self.module.config, "final_logit_softcapping", None)

    def capped(self, logits: Tensor) -> Tensor:
        """Logits after the model's soft-cap; as they are where it has none."""
        return logits if self.cap is None else (logits / self.cap).tanh() * self.cap

    def logits(self, final: Tensor) -> Tensor:
        """The model's logits from its last residual stream."""
        return self.capped(self.unembed(self.final_norm(final)))

    def part(self, layer: int, path: str | None) -> Any:
        """A part of one block, by the row's dotted path; None where the block does without."""
        if path is None:
            return None
        try:
            return attrgetter(path)(self.blocks[layer])
        except AttributeError:
            return None

    def norm_mlp(self, layer: int) -> Any:
        """The norm that the MLP reads through; a parallel block may share the attention's."""
        return self.part(layer, self.arch.norm_mlp) or self.part(layer, self.arch.norm_attn)

    def width(self, projection: Projection) -> int:
        """How many heads a projection has."""
        return self.n_heads if projection == "q" else self.n_kv_heads

    def w_in(self, layer: int, projection: Projection) -> Float[Tensor, "head d_head d_model"]:
        """Each head's query, key or value matrix; a view of the family's own storage."""
        return self._projected(layer, projection, "weight")

    def b_in(self, layer: int, projection: Projection) -> Float[Tensor, "head d_head"] | None:
        """Each head's query, key or value bias; a view too."""
        return self._projected(layer, projection, "bias")

    def _projected(self, layer: int, projection: Projection, name: str) -> Any:
        """Weight [head, d_head, in] or bias [head, d_head] of one projection, cut out of a fused one."""
        path = self.arch.qkv["qkv".index(projection) if self.arch.fused == "no" else 0]
        value = getattr(self.part(layer, path), name)
        return None if value is None else self.cut(value, projection, weight=name == "weight")

    def cut(self, value: Tensor, projection: Projection, weight: bool) -> Float[Tensor, "head d_head *d_model"]:
        """What of a projection's weight, bias or their like belongs to each head of q, k or v; a view."""
        which = "qkv".index(projection)
        value = value.T if self.arch.transposed and weight else value
        if self.arch.fused == "interleaved":
            return value.unflatten(0, (self.n_heads, 3, self.d_head))[:, which]
        if self.arch.fused == "columns":
            value = value.split([self.width(p) * self.d_head for p in ("q", "k", "v")])[which]
        return value.unflatten(0, (self.width(projection), self.d_head))

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Each head's output matrix."""
        return self.cut_out(self.part(layer, self.arch.out_proj).weight)

    def cut_out(self, value: Tensor) -> Float[Tensor, "head d_head d_model"]:
        """What of an output projection's weight, or its like, belongs to each head; a view."""
        return (value if self.arch.transposed else value.T).unflatten(0, (self.n_heads, -1))

    def b_o(self, layer: int) -> Float[Tensor, " d_model"]:
        """The attention's output bias, which belongs to no head."""
        projection: Any = self.part(layer, self.arch.out_proj)
        return projection.bias if projection.bias is not None else projection.weight.new_zeros(self.d_model)
