"""Every number of a model's weights belongs to one part, of one kind, layer and head; and a copy in which nothing is shared.

Kinds: `q`, `k`, `v`, `o` of a head, with their biases; `attention bias`, the output's, which belongs to no head; `mlp in`,
`mlp gate`, `mlp out`, with their biases; `norm`; `token` and `position` embeddings; `unembedding`. Keys and values that
several heads read (grouped queries), and a matrix that is embedding and unembedding, are in `apart`'s copy one for each
reader: a function of the copy's weights has a gradient for each, and they add up to the shared one's.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from instar.models.arch import Layout, Projection

Kind = Literal[
    "q", "k", "v", "o", "attention bias", "mlp in", "mlp gate", "mlp out", "norm", "token", "position", "unembedding"
]
OUT = ("down_proj", "c_proj", "dense_4h_to_h", "fc2")
"""Names of the matrices that MLPs write into the residual stream with."""
_GATE, _BOTH = "gate_proj", "gate_up_proj"


@dataclass(frozen=True)
class Part:
    """Some of a model's weights; layer and head are −1 for what belongs to none."""

    kind: Kind
    layer: int = -1
    head: int = -1

    @property
    def name(self) -> str:
        """`a3.h7.q`, `a3.bias`, `m3.gate`, `n3`, `norm`, `token`, `position`, `unembedding`."""
        if self.head >= 0:
            return f"a{self.layer}.h{self.head}.{self.kind}"
        if self.kind == "attention bias":
            return f"a{self.layer}.bias"
        if self.kind.startswith("mlp"):
            return f"m{self.layer}.{self.kind.removeprefix('mlp ')}"
        return f"n{self.layer}" if self.layer >= 0 else self.kind


@dataclass(frozen=True)
class Share:
    """What of one parameter belongs to which parts."""

    parts: tuple[Part, ...]
    cut: Callable[[Tensor], Tensor]
    """From a tensor of the parameter's shape to one with the parts on its first axis; a view."""
    features: Callable[[Tensor], Tensor] = lambda x: x[None]
    """The same of what the parameter's module puts out, or reads if `inputs`, with features on the first axis."""
    inputs: bool = False
    """Whether parts are what the module reads (heads of an output projection), not what it puts out."""


def shares(layout: Layout) -> dict[str, list[Share]]:
    """By parameter: every number of it in one share, once."""
    return {name: list(_shares(layout, name, value)) for name, value in layout.module.named_parameters()}


def _shares(layout: Layout, name: str, value: Tensor) -> Iterator[Share]:
    def whole(kind: Kind, layer: int = -1) -> Share:
        return Share((Part(kind, layer),), lambda x: x[None])

    if value is layout.unembed.weight or value is layout.unembed.bias:
        yield whole("unembedding")
        return
    for i, module in enumerate(layout.embeddings):
        if any(value is own for own in module.parameters()):
            yield whole("position" if i else "token")
            return
    prefix = f"{layout.arch.blocks}."
    if not name.startswith(prefix):
        yield whole("norm")
        return
    number, inner = name.removeprefix(prefix).split(".", 1)
    path, _, own = inner.rpartition(".")
    layer, arch = int(number), layout.arch
    if path in arch.qkv:
        three: tuple[Projection, ...] = ("q", "k", "v")
        for letter in three if arch.fused != "no" else (three[arch.qkv.index(path)],):
            heads = tuple(Part(letter, layer, head) for head in range(layout.width(letter)))
            yield Share(
                heads, lambda x, letter=letter: layout.cut(x, letter, weight=own == "weight"),
                lambda x, letter=letter: layout.cut(x, letter, weight=False),
            )  # fmt: skip
    elif path == arch.out_proj and own == "weight":
        heads = tuple(Part("o", layer, head) for head in range(layout.n_heads))
        yield Share(heads, layout.cut_out, lambda x: x.unflatten(0, (layout.n_heads, -1)), inputs=True)
    elif path == arch.out_proj:
        yield whole("attention bias", layer)
    elif any(f"{path}.".startswith(f"{mlp}.") for mlp in arch.mlp):
        last = path.rpartition(".")[2]
        if last == _BOTH:
            halves = Part("mlp gate", layer), Part("mlp in", layer)
            yield Share(halves, lambda x: x.unflatten(0, (2, -1)), lambda x: x.unflatten(0, (2, -1)))
        else:
            yield whole("mlp out" if last in OUT else "mlp gate" if last == _GATE else "mlp in", layer)
    else:
        yield whole("norm", layer)


@dataclass(frozen=True)
class Source:
    """What a parameter of the copy is made of."""

    name: str
    grow: Callable[[Tensor], Tensor] = lambda x: x


@dataclass(frozen=True)
class Apart:
    """A copy of a model in which nothing is shared; it computes what the model does."""

    layout: Layout
    sources: dict[str, Source]
    """Parameters that are not the model's own of the same name."""

    def of(self, layout: Layout, name: str) -> Tensor:
        """What the copy's parameter is in a model of its shape."""
        source = self.sources.get(name, Source(name))
        return source.grow(layout.module.get_parameter(source.name).detach())


def apart(layout: Layout) -> Apart:
    """See `Apart`."""
    module = copy.deepcopy(layout.module)
    made, sources = Layout(module, layout.arch), {}
    made.unembed.weight = nn.Parameter(made.unembed.weight.detach().clone())
    if layout.n_kv_heads < layout.n_heads:
        for layer in range(layout.n_layers):
            sources |= _spread(layout, made, layer)
        module.config.num_key_value_heads = layout.n_heads
    return Apart(made, sources)


def _spread(layout: Layout, made: Layout, layer: int) -> dict[str, Source]:
    """Gives each query head keys and values of its own, in one layer of the copy."""
    times, arch, found = layout.n_heads // layout.n_kv_heads, layout.arch, {}
    attention = made.part(layer, arch.attn)
    attention.num_key_value_groups = 1
    if hasattr(attention, "num_key_value_heads"):
        attention.num_key_value_heads = layout.n_heads

    def each(x: Tensor) -> Tensor:
        return x.unflatten(0, (layout.n_kv_heads, -1)).repeat_interleave(times, 0).flatten(0, 1)

    def fused(x: Tensor) -> Tensor:
        q, k, v = x.split([layout.width(p) * layout.d_head for p in ("q", "k", "v")])
        return torch.cat([q, each(k), each(v)])

    paths = dict.fromkeys(arch.qkv, fused) if arch.fused != "no" else dict.fromkeys(arch.qkv[1:], each)
    if arch.qk_norm is not None and arch.qk_norm_whole:
        paths[arch.qk_norm[1]] = each
    for path, grow in paths.items():
        part, where = made.part(layer, path), f"{arch.blocks}.{layer}.{path}"
        for own, value in list(part.named_parameters(recurse=False)):
            setattr(part, own, nn.Parameter(grow(value.detach())))
            found[f"{where}.{own}"] = Source(f"{where}.{own}", grow)
    norms: Any = made.part(layer, arch.qk_norm[1]) if arch.qk_norm is not None else None
    if isinstance(getattr(norms, "norms", None), nn.ModuleList):
        # A norm for each key head; all that read the head go through it, and it has its first reader's name.
        where = f"{arch.blocks}.{layer}.{arch.qk_norm[1]}.norms"  # pyright: ignore[reportOptionalSubscript]
        found |= {
            f"{where}.{i * times}.{own}": Source(f"{where}.{i}.{own}")
            for i, norm in enumerate(norms.norms)
            for own, _ in norm.named_parameters()
        }
        norms.norms = nn.ModuleList([norm for norm in norms.norms for _ in range(times)])
    return found
