"""Where the parts of each model family live: one row a family, no subclasses.

Paths are dotted attribute names, from the model for the whole and from a block for its parts. `Layout` is what a row
means for one loaded model; everything else in instar asks it, and names no module itself.
"""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Arch:
    """One family's row."""

    blocks: str
    embeddings: tuple[str, ...]
    """Modules whose outputs sum to the first residual stream: token embedding first."""
    final_norm: str
    unembed: str
    attn: str
    mlp: str
    norm_mlp: str
    """The norm that reads the residual stream between attention and MLP."""
    out_proj: str
    """The attention's output projection, from the block."""
    transposed: bool
    """Weights are stored [in, out] (GPT-2's Conv1D) rather than [out, in]."""


TABLE: dict[str, Arch] = {
    "gpt2": Arch(
        blocks="transformer.h",
        embeddings=("transformer.wte", "transformer.wpe"),
        final_norm="transformer.ln_f",
        unembed="lm_head",
        attn="attn",
        mlp="mlp",
        norm_mlp="ln_2",
        out_proj="attn.c_proj",
        transposed=True,
    ),
}


def row(family: str) -> Arch:
    """The row of a family.

    Raises:
        ValueError: naming the family and the ones in the table.
    """
    if family not in TABLE:
        raise ValueError(f"model family {family!r} is not supported; instar knows {', '.join(sorted(TABLE))}")
    return TABLE[family]


@dataclass(frozen=True)
class Layout:
    """The parts of one loaded model."""

    module: Any
    arch: Arch

    @property
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
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.module.config.hidden_size

    @property
    def embeddings(self) -> list[nn.Module]:
        """The modules that write the first residual stream."""
        return [attrgetter(path)(self.module) for path in self.arch.embeddings]

    @property
    def final_norm(self) -> nn.LayerNorm:
        """The norm before the unembedding."""
        return attrgetter(self.arch.final_norm)(self.module)

    @property
    def unembed(self) -> nn.Linear:
        """The unembedding, `weight[vocabulary, d_model]`."""
        return attrgetter(self.arch.unembed)(self.module)

    def part(self, layer: int, path: str) -> nn.Module:
        """A part of one block, by the row's dotted path."""
        return attrgetter(path)(self.blocks[layer])

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Each head's output matrix."""
        weight: Any = self.part(layer, self.arch.out_proj).weight
        weight = weight if self.arch.transposed else weight.T
        return weight.reshape(self.n_heads, -1, self.d_model)

    def b_o(self, layer: int) -> Float[Tensor, " d_model"]:
        """The attention's output bias, which belongs to no head."""
        projection: Any = self.part(layer, self.arch.out_proj)
        return projection.bias if projection.bias is not None else projection.weight.new_zeros(self.d_model)
