"""Changes of a model's weights that change nothing of what it computes, by family: what nobody may call a finding.

1. `heads`: the heads of a layer change places (groups of shared keys among themselves, then heads within a group).
2. `values`: an invertible map of a group's values, undone in what its heads write.
3. `keys`: an invertible map of queries, its inverse transpose of keys. Under rotary positions only what commutes with them:
   one angle and one factor in each rotated plane.
4. `neurons`: the neurons of an MLP change places.
5. `gains`: a norm's gain is multiplied into what reads through it (and its bias into the readers' biases where all have one).
6. `basis`: the residual stream is turned; under LayerNorm by a turn that keeps the all-ones vector. Gains are folded first.

Where the algebra does not hold for a family a move says why and is not made. Random, by a seed; in float64, rounded once.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from instar.models.arch import Layout
from instar.models.block import Block, frame
from instar.models.coordinates import by_neuron, reorder
from instar.models.load import Model, fingerprint
from instar.models.parts import OUT
from instar.models.weights import tied

Draw = np.random.Generator


def moved(model: Model, *names: str, seed: int = 0) -> tuple[Model, dict[str, str]]:
    """A copy with these moves made one after another; and those that could not be, with the reason.

    Raises:
        ValueError: for an unknown move.
    """
    unknown = [name for name in names if name not in MOVES]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(MOVES)}")
    module, draw, skipped = copy.deepcopy(model.module), np.random.default_rng(seed), dict[str, str]()
    layout = Layout(module, model.layout.arch)
    with torch.no_grad():
        for name in names:
            if why := MOVES[name](layout, draw):
                skipped[name] = why
    return replace(model, module=module, layout=layout, weights=fingerprint(module), again=None, factors={}), skipped


def _heads(layout: Layout, draw: Draw) -> str:
    size = layout.n_heads // layout.n_kv_heads
    for layer in range(layout.n_layers):
        groups = draw.permutation(layout.n_kv_heads)
        order = np.concatenate([groups[g] * size + draw.permutation(size) for g in range(layout.n_kv_heads)])
        reorder(layout, layer, order, groups, np.arange(_neurons_of(layout, layer)))
    return ""


def _neurons(layout: Layout, draw: Draw) -> str:
    same, groups = np.arange(layout.n_heads), np.arange(layout.n_kv_heads)
    for layer in range(layout.n_layers):
        reorder(layout, layer, same, groups, draw.permutation(_neurons_of(layout, layer)))
    return ""


def _neurons_of(layout: Layout, layer: int) -> int:
    return len(by_neuron(layout, layer)[0])


def _values(layout: Layout, draw: Draw) -> str:
    for layer in range(layout.n_layers):
        v, bias, out = layout.w_in(layer, "v").data, layout.b_in(layer, "v"), layout.w_o(layer).data
        for group, heads in _groups(layout):
            own = _invertible(layout.d_head, draw)
            _set(v[group], own @ v[group].double())
            if bias is not None:
                _set(bias.data[group], own @ bias.data[group].double())
            for head in heads:
                _set(out[head], torch.linalg.inv(own).T @ out[head].double())
    return ""


def _keys(layout: Layout, draw: Draw) -> str:
    if any(layout.part(0, path) is not None for path in layout.arch.qk_norm or ()):
        return "norms of queries and keys keep their coordinates"
    some = torch.tensor([[0, 1]], device=layout.module.device)
    rotary = frame(layout, some, torch.ones_like(some, dtype=torch.bool)).rotary
    for layer, angles in enumerate(rotary):
        rotated = angles[0].shape[-1] if angles is not None and Block(layout, layer).rotated else 0
        for group, heads in _groups(layout):
            own = _commuting(layout.d_head, rotated, draw)
            places = [("q", own, heads), ("k", torch.linalg.inv(own).T, [group])]
            for letter, times, at in places:
                projection: Any = letter
                for value in (layout.w_in(layer, projection), layout.b_in(layer, projection)):
                    for view in () if value is None else [value.data[i] for i in at]:
                        _set(view, times @ view.double())
    return ""


def _gains(layout: Layout, draw: Draw) -> str:
    _untie(layout)
    for norm, readers in _read_through(layout):
        _folded(norm, readers, layout.arch.gain_plus_one)
    return ""


def _basis(layout: Layout, draw: Draw) -> str:
    if layout.arch.post_attn or layout.arch.post_mlp:
        return "a norm after a block has a gain in the coordinates of the stream"
    _gains(layout, draw)
    norms = list(_read_through(layout))
    centred = isinstance(layout.final_norm, nn.LayerNorm)
    turn = _turn(layout.d_model, centred, draw)
    for module in [module for _, readers in norms for module in readers]:
        _times(module, turn.T, "in")
    for norm, _ in norms:
        if (bias := getattr(norm, "bias", None)) is not None:
            _set(bias.data, turn @ bias.data.double())
    for module in layout.embeddings:
        for value in module.parameters():
            _set(value.data, value.data.double() @ turn.T)
    for layer in range(layout.n_layers):
        for module in (layout.part(layer, layout.arch.out_proj), *_linear(layout, layer, out=True)):
            _times(module, turn, "out")
    return ""


MOVES: dict[str, Callable[[Layout, Draw], str]] = {
    "heads": _heads,
    "values": _values,
    "keys": _keys,
    "neurons": _neurons,
    "gains": _gains,
    "basis": _basis,
}


def _groups(layout: Layout) -> Iterator[tuple[int, range]]:
    """Each group of shared keys and values, and its heads."""
    size = layout.n_heads // layout.n_kv_heads
    return ((group, range(group * size, (group + 1) * size)) for group in range(layout.n_kv_heads))


def _read_through(layout: Layout) -> Iterator[tuple[nn.Module, list[nn.Module]]]:
    """Every norm before a reader, with all that read through it."""
    arch = layout.arch
    for layer in range(layout.n_layers):
        attention = [layout.part(layer, path) for path in arch.qkv]
        mlp = list(_linear(layout, layer, out=False))
        one = layout.part(layer, arch.norm_attn)
        two = layout.norm_mlp(layer) if arch.norm_mlp else None
        if one is not None and one is two:
            yield one, [*attention, *mlp]
            continue
        if one is not None:
            yield one, attention
        if two is not None:
            yield two, mlp
    yield layout.final_norm, [layout.unembed]


def _untie(layout: Layout) -> None:
    """The unembedding is made a matrix of its own."""
    if tied(layout):
        layout.unembed.weight = nn.Parameter(layout.unembed.weight.detach().clone())
        layout.module.config.tie_word_embeddings = False


def _linear(layout: Layout, layer: int, out: bool) -> Iterator[nn.Module]:
    """An MLP's matrices that write into the stream, or that read it."""
    block = layout.blocks[layer]
    for path, module in block.named_modules():
        inside = any(f"{path}.".startswith(f"{mlp}.") for mlp in layout.arch.mlp)
        if inside and isinstance(module, nn.Linear | Conv1D) and (path.rpartition(".")[2] in OUT) == out:
            yield module


def _folded(norm: Any, readers: list[nn.Module], plus_one: bool) -> None:
    weight, bias = norm.weight.data.double().clone(), getattr(norm, "bias", None)
    gain = weight + 1 if plus_one else weight
    every = all(getattr(reader, "bias", None) is not None for reader in readers)
    if bias is not None and not every and bool((gain == 0).any()):
        return
    for reader in readers:
        own: Any = reader
        if bias is not None and every:
            matrix = own.weight.data.double() if isinstance(own, nn.Linear) else own.weight.data.double().T
            _set(own.bias.data, own.bias.data.double() + matrix @ bias.data.double())
        _times(own, torch.diag(gain), "in")
    norm.weight.data.fill_(0.0 if plus_one else 1.0)
    if bias is not None:
        _set(bias.data, torch.zeros_like(gain) if every else bias.data.double() / gain)


def _times(module: Any, matrix: Tensor, side: str) -> None:
    """What a module reads, or writes, goes through a matrix first, or last."""
    stored = module.weight.data if isinstance(module, nn.Linear) else module.weight.data.T
    value = stored.double()
    _set(stored, value @ matrix if side == "in" else matrix @ value)
    if side == "out" and module.bias is not None:
        _set(module.bias.data, matrix @ module.bias.data.double())


def _set(view: Tensor, value: Tensor) -> None:
    view.copy_(value.to(view))


def _orthogonal(width: int, draw: Draw) -> Float[Tensor, "width width"]:
    return torch.from_numpy(np.linalg.qr(draw.normal(size=(width, width)))[0])


def _invertible(width: int, draw: Draw) -> Float[Tensor, "width width"]:
    """Turned, stretched by up to a third, and turned again: far from singular."""
    stretch = torch.from_numpy(np.exp(draw.uniform(-0.3, 0.3, width)))
    return _orthogonal(width, draw) @ torch.diag(stretch) @ _orthogonal(width, draw)


def _commuting(width: int, rotated: int, draw: Draw) -> Float[Tensor, "width width"]:
    """Invertible, and the same before or after a rotation of the planes (i, i + rotated / 2)."""
    found, half = torch.zeros(width, width, dtype=torch.float64), rotated // 2
    angle, factor = draw.uniform(0, 2 * np.pi, half), np.exp(draw.uniform(-0.3, 0.3, half))
    for i, (turn, times) in enumerate(zip(angle, factor, strict=True)):
        cos, sin = times * np.cos(turn), times * np.sin(turn)
        found[i, i], found[i, i + half], found[i + half, i], found[i + half, i + half] = cos, -sin, sin, cos
    if width > rotated:
        found[rotated:, rotated:] = _invertible(width - rotated, draw)
    return found


def _turn(width: int, centred: bool, draw: Draw) -> Float[Tensor, "width width"]:
    """An orthogonal matrix; `centred`: one that keeps the all-ones vector."""
    if not centred:
        return _orthogonal(width, draw)
    # A reflection takes the first axis to the all-ones direction; between there and back the first axis stays.
    normal = torch.full((width,), -(width**-0.5), dtype=torch.float64)
    normal[0] += 1
    mirror = torch.eye(width, dtype=torch.float64) - 2 * torch.outer(normal, normal) / normal.square().sum()
    inner = torch.eye(width, dtype=torch.float64)
    inner[1:, 1:] = _orthogonal(width - 1, draw)
    return mirror @ inner @ mirror
