"""Where each component's weights are: views into the parameters themselves, so that what is copied into them is grafted.

Names: a head `a3.h7` (its slices of W_Q, W_K, W_V, W_O and their biases; under grouped-query attention its group's keys and
values come with it), an attention `a3` (its heads and the output bias, which belongs to no head), an MLP `m3`, `embeddings`
(and the unembedding where it has weights of its own) and `norms` (all norms, and the attentions' output biases). All heads,
all MLPs, `embeddings` and `norms` together are every parameter of the model, each once. `embedding` and `unembedding` are the
two ends of `embeddings`, one by one.

Between a model whose ends share one matrix and one where each has its own, the shared one is seen as two (`apart`).
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import normalize

from instar.models.arch import Layout, Projection

EMBEDDINGS, NORMS = "embeddings", "norms"
EMBEDDING, UNEMBEDDING = "embedding", "unembedding"
QKVO = "qkvo"
SURE = 0.3
_NAME = re.compile(r"a(\d+)(?:\.h(\d+))?|m(\d+)")


def weights(layout: Layout, names: Iterable[str], projections: str = QKVO, apart: bool = False) -> list[Tensor]:
    """Views of the named components' parameters, in a fixed order. Of heads, only these `projections`.

    `apart`: a matrix that embedding and unembedding share comes twice, as of two.

    Raises:
        ValueError: for a name that this model has not.
    """
    return [view for name in names for view in _of(layout, name, projections, apart)]


def tied(layout: Layout) -> bool:
    """Whether embedding and unembedding are one matrix."""
    return any(layout.unembed.weight is p for module in layout.embeddings for p in module.parameters())


@contextmanager
def untied(layout: Layout) -> Iterator[None]:
    """For a while the unembedding is a matrix of its own, with the same values; then the shared one again."""
    shared = layout.unembed.weight
    layout.unembed.weight = nn.Parameter(shared.detach().clone(), requires_grad=False)
    try:
        yield
    finally:
        layout.unembed.weight = shared


def _of(layout: Layout, name: str, projections: str, apart: bool) -> list[Tensor]:
    if name == EMBEDDINGS:
        return _embeddings(layout, apart)
    if name in (EMBEDDING, UNEMBEDDING):
        modules = layout.embeddings if name == EMBEDDING else [layout.unembed]
        return [p.data for module in modules for p in module.parameters()]
    if name == NORMS:
        return _norms(layout)
    found = _NAME.fullmatch(name)
    attention, head, mlp = (None if x is None else int(x) for x in found.groups()) if found else (None, None, None)
    layer = attention if attention is not None else mlp
    if layer is None or layer >= layout.n_layers or (head or 0) >= layout.n_heads:
        raise ValueError(
            f"{name!r} is no component of a model with {layout.n_layers} layers of {layout.n_heads} heads; there are "
            f"a0 … (attentions), a0.h0 … (heads), m0 … (MLPs), {EMBEDDINGS!r} ({EMBEDDING!r}, {UNEMBEDDING!r}) and {NORMS!r}"
        )
    if mlp is not None:
        return _mlp(layout, layer)
    if head is not None:
        return _head(layout, layer, head, projections)
    bias = [layout.b_o(layer).data] if _has_output_bias(layout, layer) and projections == QKVO else []
    return [view for h in range(layout.n_heads) for view in _head(layout, layer, h, projections)] + bias


def _head(layout: Layout, layer: int, head: int, projections: str) -> list[Tensor]:
    found = []
    group = layout.n_heads // layout.n_kv_heads
    for letter in projections:
        if letter == "o":
            found.append(layout.w_o(layer).data[head])
            continue
        projection: Projection = letter  # pyright: ignore[reportAssignmentType]
        at = head if projection == "q" else head // group
        found.append(layout.w_in(layer, projection).data[at])
        bias = layout.b_in(layer, projection)
        if bias is not None:
            found.append(bias.data[at])
    return found


def _mlp(layout: Layout, layer: int) -> list[Tensor]:
    parts = (layout.part(layer, path) for path in layout.arch.mlp)
    return [p.data for part in parts if isinstance(part, nn.Module) for p in part.parameters()]


def _embeddings(layout: Layout, apart: bool) -> list[Tensor]:
    modules = [*layout.embeddings, layout.unembed]
    if apart:
        return [p.data for module in modules for p in module.parameters()]
    # A tied unembedding is the embedding's own parameter.
    return [p.data for p in {id(p): p for module in modules for p in module.parameters()}.values()]


def _has_output_bias(layout: Layout, layer: int) -> bool:
    return layout.part(layer, layout.arch.out_proj).bias is not None


def _norms(layout: Layout) -> list[Tensor]:
    """What is in no head, MLP or embedding."""
    arch = layout.arch
    modules = [layout.part(i, p) for i in range(layout.n_layers) for p in (*arch.mlp, *arch.qkv, arch.out_proj)]
    modules += [*layout.embeddings, layout.unembed]
    elsewhere = {id(p) for module in modules if isinstance(module, nn.Module) for p in module.parameters()}
    rest = [p.data for p in layout.module.parameters() if id(p) not in elsewhere]
    return rest + [layout.b_o(i).data for i in range(layout.n_layers) if _has_output_bias(layout, i)]


def permuted(base: Layout, tuned: Layout) -> dict[str, str]:
    """Heads of `tuned` whose queries and output matrix are those of another head of `base`, with that head's name.

    Within a layer heads are matched by cosine, all at once (Kuhn 1955). Fine-tuning moves a head by a few per cent of its
    norm; only a match that is `SURE` closer than the head's own namesake counts.
    """
    found: dict[str, str] = {}
    for layer in range(base.n_layers):
        own, theirs = (_flat(layout, layer) for layout in (base, tuned))
        alike = (theirs @ own.T).cpu().numpy()
        rows, columns = linear_sum_assignment(alike, maximize=True)
        for here, there in zip(rows, columns, strict=True):
            if alike[here, there] > alike[here, here] + SURE:
                found[f"a{layer}.h{here}"] = f"a{layer}.h{there}"
    return found


def _flat(layout: Layout, layer: int) -> Float[Tensor, "head weight"]:
    parts = [layout.w_in(layer, "q").data.flatten(1), layout.w_o(layer).data.flatten(1)]
    # Each of the two counts the same; one that is 0 (a head that was cut off) counts nothing.
    return torch.cat([normalize(p.cpu().double()) for p in parts], 1) / 2**0.5
