"""Weight grafting: which components' *weights* hold what fine-tuning did (after skill grafting, arXiv 2302.06600).

1. `into`: the tuned model's weights of a set of components in the base; how much of the gain comes with them?
2. `lost`: the base's weights of the same set in the tuned model; how much of the gain goes with them?
3. The gain is G = m(tuned) − m(base), with m = logit(answer) − mean logit(foils) at the last token (logits), on the same
   prompts. Both shares are of G: into = (m(grafted) − m(base)) / G, lost = (m(tuned) − m(stripped)) / G. A set may be
   sufficient (into near 1) and hardly necessary (lost near 0): neither number stands for the other.

Weights are swapped in place and restored exactly; no copy of a model is made, and blocks below the first changed one are not
run again. Patching finds who *carries* a gain
(`instar.between.exchange`), grafting where it was *written*.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from instar.circuits.graph import Graph
from instar.circuits.sets import all_heads, all_mlps
from instar.measure.common import about, foil_differences, numpy, pair_coords, pieces
from instar.models.block import Frame
from instar.models.load import Model, weights_now
from instar.models.memory import halving
from instar.models.plain import measured
from instar.models.replay import Engine
from instar.models.weights import EMBEDDING, EMBEDDINGS, NORMS, QKVO, UNEMBEDDING, tied, untied, weights
from instar.progress import slow
from instar.tasks.batch import Batch

Sets = Mapping[str, Sequence[str]]
"""Named sets of components (`a3`, `a3.h7`, `m3`, `embeddings` or one of its ends, `norms`). A name that ends in
`<qk>` or `<vo>` takes these slices of its heads only."""
CONVENTION = "logit(answer) - mean logit(foils); into: tuned weights in the base, lost: base weights in the tuned model"


@contextmanager
def grafted(
    receiver: Model, donor: Model, components: Sequence[str], projections: str = QKVO, share: float = 1.0
) -> Iterator[Model]:
    """`receiver` with the donor's weights of some components, for a while; `share` < 1 goes only so far towards them.

    Raises:
        ValueError: where the two are not of one shape, or a component is unknown.
    """
    layouts = receiver.layout, donor.layout
    # A training may have given the unembedding, or the embedding, weights of its own: two parts, in both models.
    ends = {EMBEDDINGS, EMBEDDING, UNEMBEDDING} & set(components)
    apart = bool(ends) and (tied(layouts[0]) != tied(layouts[1]) or ends != {EMBEDDINGS})
    with untied(receiver.layout) if apart and tied(receiver.layout) else nullcontext():
        alike = Graph.of(layouts[0]) == Graph.of(layouts[1])
        own, theirs = (weights(layout, components, projections, apart) if alike else [] for layout in layouts)
        if not alike or [w.shape for w in own] != [w.shape for w in theirs]:
            raise ValueError(
                f"{receiver.name} and {donor.name} are not of one shape: nothing can be grafted between them"
            )
        with _copied(own, theirs, share):
            yield receiver


@contextmanager
def _copied(own: Sequence[Tensor], theirs: Sequence[Tensor], share: float) -> Iterator[None]:
    # All are kept before any is changed: keys and values shared by heads come more than once, and move once.
    kept = [w.clone() for w in own]
    try:
        for mine, other, before in zip(own, theirs, kept, strict=True):
            mine.copy_(other if share == 1 else before.lerp(other.to(before), share))
        yield
    finally:
        for mine, before in zip(own, kept, strict=True):
            mine.copy_(before)


@dataclass(frozen=True)
class Reading:
    """Behaviour of one model on a batch."""

    logit_diff: Float[np.ndarray, " pair"]
    right: Bool[np.ndarray, " pair"]
    """Whether the answer is the top token."""

    @classmethod
    def joined(cls, parts: Sequence["Reading"]) -> "Reading":
        """Readings of consecutive pieces."""
        return cls(np.concatenate([p.logit_diff for p in parts]), np.concatenate([p.right for p in parts]))


@measured
@torch.no_grad()
def read(model: Model, batch: Batch, chunk: int = 64) -> Reading:
    """The clean prompts' logit differences (logits), answer against all foils."""
    return _Runs.of(model, batch, chunk).whole


@dataclass(frozen=True)
class _Runs:
    """One model on clean prompts, so that a graft is run from the first block that it changes."""

    model: Model
    parts: list[tuple[Batch, Frame, list[Tensor]]]
    """Pieces of the batch, what is fixed before the first block, and the stream before each block."""
    whole: Reading

    @classmethod
    def of(cls, model: Model, batch: Batch, chunk: int) -> "_Runs":
        engine, parts, finals = Engine(model.layout), [], []
        for part in pieces(batch, model, chunk):
            frame, x = engine.frame(part.clean, part.mask), []
            finals.append(engine.onward(frame, frame.x, part.end, seen=x))
            parts.append((part, frame, x))
        whole = [_reading(model, part, final) for (part, _, _), final in zip(parts, finals, strict=True)]
        return cls(model, parts, Reading.joined(whole))

    def changed(self, components: Sequence[str]) -> Reading:
        """Behaviour now that these components have other weights."""
        layers = [_layer(name) for name in components]
        # Embeddings and norms are everywhere: all is run anew.
        if not layers or None in layers:
            return Reading.joined([_Runs.of(self.model, part, len(part)).whole for part, _, _ in self.parts])
        first = min(layer for layer in layers if layer is not None)
        engine = Engine(self.model.layout)
        return Reading.joined(
            [
                _reading(self.model, part, engine.onward(frame, x[first], part.end, first))
                for part, frame, x in self.parts
            ]
        )


def _layer(component: str) -> int | None:
    """The layer of `a3`, `a3.h7` or `m3`."""
    found = re.fullmatch(r"[am](\d+)(?:\.h\d+)?", component)
    return None if found is None else int(found[1])


def _reading(model: Model, part: Batch, final: Float[Tensor, "pair d_model"]) -> Reading:
    logits = model.layout.logits(final)
    right = (logits.argmax(1) == part.answer).cpu().numpy()
    return Reading(numpy(foil_differences(logits, part).nanmean(1)), right)


@halving
@measured
@torch.no_grad()
def graft(base: Model, tuned: Model, batch: Batch, sets: Sets, *, chunk: int = 64, share: float = 1.0) -> xr.Dataset:
    """Grafts of every set, both ways, on one task's clean prompts.

    Args:
        sets: see `Sets`; `sets_of` makes the usual ones.
        share: how far towards the donor's weights (linear interpolation); 1 is the graft.

    Returns:
        `into`, `lost` (logits of the changed model: not shares yet) on `set, pair`; `base`, `tuned` on `pair`; the same
        with `_right` (the answer is the top token, 0 or 1).

    Raises:
        ValueError: where the two are not of one shape, or a component is unknown.
    """
    before, after = _Runs.of(base, batch, chunk), _Runs.of(tuned, batch, chunk)
    rows: dict[str, list[Reading]] = {"into": [], "lost": []}
    with slow("grafting", 2 * len(sets)) as advance:
        for name, components in sets.items():
            projections = name[-3:-1] if name.endswith(("<qk>", "<vo>")) else QKVO
            for kind, receiver, donor in (("into", before, tuned), ("lost", after, base)):
                with grafted(receiver.model, donor, components, projections, share):
                    rows[kind].append(receiver.changed(components))
                advance(1)
    data: dict[str, Any] = {
        "base": ("pair", before.whole.logit_diff),
        "tuned": ("pair", after.whole.logit_diff),
        "base_right": ("pair", before.whole.right.astype(np.int8)),
        "tuned_right": ("pair", after.whole.right.astype(np.int8)),
    }
    shape = (len(sets), len(batch))
    for kind, readings in rows.items():
        data[kind] = (("set", "pair"), np.array([r.logit_diff for r in readings]).reshape(shape))
        data[f"{kind}_right"] = (("set", "pair"), np.array([r.right for r in readings], np.int8).reshape(shape))
    dataset = xr.Dataset(data, coords={**pair_coords(batch), "set": np.array(list(sets), dtype=str)})
    more = {"base_weights": weights_now(base), "share": share, "convention": CONVENTION}
    return dataset.assign_attrs(about(tuned, batch, **more))


@measured
def interpolate(
    base: Model,
    tuned: Model,
    batch: Batch,
    sets: Sets,
    shares: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    **options: Any,
) -> xr.Dataset:
    """`graft` at several distances towards the donor's weights, on `share`: is the way between the two straight?"""
    found = [graft(base, tuned, batch, sets, share=share, **options) for share in shares]
    return xr.concat(
        found, "share", data_vars=["into", "lost", "into_right", "lost_right"], coords="minimal", compat="override",
        combine_attrs="drop_conflicts",
    ).assign_coords(share=list(shares))  # fmt: skip


def sets_of(
    graph: Graph, inside: Sequence[str] = (), single: bool = True, by_layer: bool = True
) -> dict[str, tuple[str, ...]]:
    """The usual sets: inside and outside a circuit's heads, groups, layers, layers from the first on, every head.

    `inside` also by slices: `<qk>`, what its heads attend to, and `<vo>`, what they write. Groups and layers are
    disjoint: heads, MLPs, embeddings, norms with output biases.
    """
    heads = all_heads(graph)
    chosen = [h for h in heads if h in set(inside)]
    found = {
        "inside": tuple(chosen),
        "inside<qk>": tuple(chosen),
        "inside<vo>": tuple(chosen),
        "outside": tuple(h for h in heads if h not in set(inside)),
        "heads": heads,
        "mlps": all_mlps(graph),
        EMBEDDINGS: (EMBEDDINGS,),
        NORMS: (NORMS,),
    }
    layers = range(graph.n_layers)
    for i in layers if by_layer else ():
        found |= {f"a{i}": (f"a{i}",), f"m{i}": (f"m{i}",)}
    if single:
        found |= {f"to layer {i}": (*(n for j in range(i + 1) for n in (f"a{j}", f"m{j}")),) for i in layers}
        found |= {h: (h,) for h in heads}
    return found
