"""Whether a name means the same in two models: heads, groups of shared keys and MLP neurons matched by what they compute.

A model's parts may change places without any change of what it computes, so before anything is compared by name or weight,
those of the tuned model are matched to the base's within each layer (Kuhn 1955), by what a change of coordinates leaves
alone: a head's W_QK and W_OV, a neuron's input (and gate) and output directions. Fine-tuning moves these by a few per
cent; only a match that is `SURE` closer than the namesake counts. What changed places is put back in a copy.
"""

import copy
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from instar.models.arch import Layout, Projection
from instar.models.load import Model, fingerprint
from instar.models.parts import shares
from instar.models.weights import SURE

ALIKE = 0.5
"""Median cosine of matched parts below which two models have no coordinates in common."""


@dataclass(frozen=True)
class Coordinates:
    """How a tuned model's parts are the base's."""

    heads: dict[str, str] = field(default_factory=dict)
    """Heads that stand elsewhere, with the base's name for them."""
    neurons: int = 0
    """MLP neurons that stand elsewhere."""
    alike: float = 1.0
    """Median cosine of matched heads and neurons."""
    undone: bool = True
    """Whether all that stands elsewhere could be put back."""

    @property
    def shared(self) -> bool:
        """Whether names and weights may be compared, once what stands elsewhere is put back."""
        return self.undone and self.alike >= ALIKE

    @property
    def said(self) -> str:
        """In words; empty where all is as in the base."""
        if not self.heads and not self.neurons and self.shared:
            return ""
        some = [f"{a} is the base's {b}" for a, b in [*self.heads.items()][:4]]
        some += [f"and {len(self.heads) - 4} heads more"] * (len(self.heads) > 4)
        some += [f"{self.neurons} MLP neurons stand elsewhere"] * (self.neurons > 0)
        some += [f"the median cosine of matched parts is {self.alike:.2f}"] * (self.alike < ALIKE)
        return "; ".join(some) + ("; put back" if self.shared else "; not put back")


@torch.no_grad()
def in_coordinates_of(base: Model, tuned: Model) -> tuple[Model, Coordinates]:
    """The tuned model with what stands elsewhere put back, in a copy; itself where nothing does."""
    heads, groups, found = _heads(base.layout, tuned.layout)
    neurons, alike = _neurons(base.layout, tuned.layout)
    moved = sum(int((order != np.arange(len(order))).sum()) for order in neurons)
    consistent = all(_fits(own, keys, base.layout) for own, keys in zip(heads, groups, strict=True))
    names = {
        f"a{layer}.h{here}": f"a{layer}.h{there}"
        for layer, order in enumerate(heads)
        for here, there in enumerate(order)
        if here != there
    }
    own = Coordinates(names, moved, float(np.median([*found, *alike])), consistent)
    if not own.shared or (not names and not moved):
        return tuned, own
    module = copy.deepcopy(tuned.module)
    layout = Layout(module, tuned.layout.arch)
    for layer, (order, keys, rows) in enumerate(zip(heads, groups, neurons, strict=True)):
        reorder(layout, layer, order, keys, rows)
    return replace(tuned, module=module, layout=layout, weights=fingerprint(module), again=None, factors={}), own


Order = Int[np.ndarray, "_"]
"""Of each part of the tuned model, which of the base's it is."""


def _heads(base: Layout, tuned: Layout) -> tuple[list[Order], list[Order], list[float]]:
    heads, groups, alike = [], [], []
    for layer in range(base.n_layers):
        cosines = (_products(base, tuned, layer, "q", "k") + _products(base, tuned, layer, "v", "o")) / 2
        order = _matched(cosines)
        heads.append(order)
        size = base.n_heads // base.n_kv_heads
        groups.append(np.array([order[g * size] // size for g in range(base.n_kv_heads)]))
        alike += cosines[np.arange(len(order)), order].tolist()
    return heads, groups, alike


def _products(base: Layout, tuned: Layout, layer: int, left: str, right: str) -> Float[np.ndarray, "tuned base"]:
    """Cosines of every head's product of two matrices (W_QK, W_OV) with every base head's; nothing that wide is made."""
    one, two = ([_matrix(layout, layer, letter) for letter in (left, right)] for layout in (tuned, base))

    def inner(a: list[Tensor], b: list[Tensor]) -> Tensor:
        # <A'B, C'D> = tr (A C')(D B'), with matrices [d_head, d_model].
        first, second = (torch.einsum("hid,gjd->hgij", x, y) for x, y in zip(a, b, strict=True))
        return (first * second).sum((2, 3))

    norms = [inner(own, own).diagonal().clamp_min(0).sqrt() for own in (one, two)]
    found = inner(one, two) / (norms[0][:, None] * norms[1][None]).clamp_min(1e-30)
    return found.cpu().numpy()


def _matrix(layout: Layout, layer: int, letter: str) -> Float[Tensor, "head d_head d_model"]:
    if letter == "o":
        return layout.w_o(layer).double()
    projection: Projection = letter  # pyright: ignore[reportAssignmentType]
    own = layout.w_in(layer, projection).double()
    return own.repeat_interleave(layout.n_heads // len(own), 0)


def _matched(cosines: np.ndarray) -> Order:
    """The best assignment, where it is clearly better than everyone's own place."""
    own = np.arange(len(cosines))
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    order = own.copy()
    order[rows] = columns
    # Whole cycles stay or go: a head that stands elsewhere stands where another has left.
    for cycle in _cycles(order):
        if any(cosines[i, order[i]] <= cosines[i, i] + SURE for i in cycle):
            order[cycle] = cycle
    return order


def _cycles(order: Order) -> list[list[int]]:
    seen, found = set[int](), []
    for start in range(len(order)):
        cycle = []
        while start not in seen:
            seen.add(start)
            cycle.append(start)
            start = int(order[start])
        found += [cycle] if len(cycle) > 1 else []
    return found


def _fits(heads: Order, groups: Order, layout: Layout) -> bool:
    """Whether heads that share keys went together."""
    size = layout.n_heads // layout.n_kv_heads
    return all(int(there) // size == groups[here // size] for here, there in enumerate(heads))


def _neurons(base: Layout, tuned: Layout) -> tuple[list[Order], list[float]]:
    orders, alike = [], []
    for layer in range(base.n_layers):
        one, two = (_directions(layout, layer) for layout in (tuned, base))
        own = torch.stack([(a * b).sum(1) for a, b in zip(one, two, strict=True)]).prod(0).cpu().numpy()
        order = np.arange(len(own))
        doubtful = np.flatnonzero(own < ALIKE)
        # One that is mostly itself is nobody else; of the others every pair is compared.
        if len(doubtful) > 1:
            cosines = np.prod(
                [(a[doubtful] @ b[doubtful].T).cpu().numpy() for a, b in zip(one, two, strict=True)], axis=0
            )
            order[doubtful] = doubtful[_matched(cosines)]
            own[doubtful] = cosines[np.arange(len(doubtful)), np.searchsorted(doubtful, order[doubtful])]
        orders.append(order)
        alike += own.tolist()
    return orders, alike


def _directions(layout: Layout, layer: int) -> list[Float[Tensor, "neuron d_model"]]:
    """Each neuron's directions in the residual stream, of length 1."""
    return [normalize(value.double(), dim=1) for value in by_neuron(layout, layer) if value.ndim == 2]


def by_neuron(layout: Layout, layer: int) -> list[Tensor]:
    """Views of an MLP's weights and biases with neurons on the first axis; of a fused input its two halves."""
    found = []
    for name, own in shares(layout).items():
        value = layout.module.get_parameter(name).data
        for share in own:
            if share.parts[0].layer != layer or not share.parts[0].kind.startswith("mlp"):
                continue
            out = share.parts[0].kind == "mlp out"
            if out and value.ndim == 1:
                continue  # belongs to no neuron
            for part in share.cut(value):
                turned = part.ndim == 2 and out != layout.arch.transposed
                found.append(part.T if turned else part)
    return found


def reorder(layout: Layout, layer: int, heads: Order, groups: Order, neurons: Order) -> None:
    """Heads, groups of shared keys and MLP neurons of one layer go to other places, in the model itself.

    Args:
        heads, groups, neurons: by place, where what stands there goes.
    """
    for letter, order in (("q", heads), ("k", groups), ("v", groups)):
        projection: Projection = letter  # pyright: ignore[reportAssignmentType]
        for own in (layout.w_in(layer, projection), layout.b_in(layer, projection)):
            if own is not None:
                _reordered(own.data, order)
    _reordered(layout.w_o(layer).data, heads)
    for path, order in zip(layout.arch.qk_norm or (), (heads, groups), strict=False):
        _norms_put_back(layout, layer, path, order)
    for view in by_neuron(layout, layer):
        _reordered(view, neurons)


def _norms_put_back(layout: Layout, layer: int, path: str, order: Order) -> None:
    """Norms of queries or keys whose gains differ from head to head go with their heads."""
    norm = layout.part(layer, path)
    each = [own.weight.data for own in getattr(norm, "norms", ())]
    if each:
        gains = torch.stack(each)
        _reordered(gains, order)
        for own, value in zip(each, gains, strict=True):
            own.copy_(value)
    elif layout.arch.qk_norm_whole:
        for own in norm.parameters():
            _reordered(own.data.unflatten(0, (len(order), -1)), order)


def _reordered(view: Tensor, order: Order) -> None:
    """What stands at `here` goes to `order[here]`."""
    before = view.clone()
    view[torch.as_tensor(order, device=view.device)] = before
