"""Cross-model patching: whose *outputs* carry what fine-tuning did (CMAP, arXiv 2402.14811), and residual learning.

1. Both models run on the same clean prompts. In the receiver, the outputs of a set of components become the donor's, all at
   once: a head's output is what it writes to the residual stream, z W_O without the bias, with each model's *own* W_O
   (patching z would miss every change written there); an MLP's is its whole output.
2. `into`: the tuned model's outputs in the base; `lost`: the base's in the tuned model. Shares are of the gain, as in
   `instar.between.graft`.
3. Everything downstream of a late component passes through it: an MLP with a share near 1 *carries* the gain and may have
   learned none of it. Carriers are not origins.

Where a family norms the attention's output, the heads' change goes through the receiver's own norm, recomputed.

*Residual learning*: the tuned layer's output minus the base layer's, on the base's own input, projected on
answer-minus-foils under the base's final norm (scale frozen): what the layer's new weights add, whatever comes in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from instar.between.graft import Sets
from instar.circuits.graph import Graph
from instar.measure.common import about, answer_direction, at_end, foil_differences, numpy, pair_coords, pieces
from instar.models.block import Frame
from instar.models.load import Model, weights_now
from instar.models.memory import halving
from instar.models.norms import frozen
from instar.models.plain import measured
from instar.models.replay import Engine, rows_of
from instar.progress import slow
from instar.tasks.batch import Batch

CONVENTION = (
    "outputs in the residual stream (z W_O without bias; MLP output), clean prompts; logits, answer - mean foils"
)


@halving
@measured
@torch.no_grad()
def exchange(base: Model, tuned: Model, batch: Batch, sets: Sets, *, chunk: int = 64) -> xr.Dataset:
    """Outputs of every set exchanged, both ways.

    Args:
        sets: named sets of heads (`a3.h7`) and MLPs (`m3`).

    Returns:
        `into`, `lost` (logits of the patched model: not shares yet) on `set, pair`; `base`, `tuned` on `pair`.

    Raises:
        ValueError: where the two are not of one shape, or a set holds anything else.
    """
    graph = Graph.of(base.layout)
    if graph != Graph.of(tuned.layout) or base.layout.d_model != tuned.layout.d_model:
        raise ValueError(f"{base.name} and {tuned.name} are not of one shape: their outputs cannot be exchanged")
    members = {name: _members(graph, name, some) for name, some in sets.items()}
    values = {kind: np.zeros((len(sets), len(batch)), np.float32) for kind in ("into", "lost")}
    ends = {kind: np.zeros(len(batch), np.float32) for kind in ("base", "tuned")}
    at = 0
    with slow("cross-model patching", 2 * len(sets) * len(batch)) as advance:
        for part in pieces(batch, base, chunk):
            rows = slice(at, at := at + len(part))
            runs = [_Run.of(m, part) for m in (base, tuned)]
            for kind, run in zip(("base", "tuned"), runs, strict=True):
                ends[kind][rows] = run.metric(run.final)
            for i, some in enumerate(members.values()):
                values["into"][i, rows] = runs[0].with_outputs_of(runs[1], some)
                values["lost"][i, rows] = runs[1].with_outputs_of(runs[0], some)
                advance(2 * len(part))
    data: dict[str, Any] = {kind: (("set", "pair"), v) for kind, v in values.items()}
    data |= {kind: ("pair", v) for kind, v in ends.items()}
    dataset = xr.Dataset(data, coords={**pair_coords(batch), "set": np.array(list(sets), dtype=str)})
    return dataset.assign_attrs(about(tuned, batch, base_weights=weights_now(base), convention=CONVENTION))


def _members(graph: Graph, name: str, components: Sequence[str]) -> dict[int, list[int | None]]:
    """Heads of each layer; None is its MLP."""
    found: dict[int, list[int | None]] = {}
    index = {source: i for i, source in enumerate(graph.sources)}
    for component in dict.fromkeys(components):
        if index.get(component, 0) == 0:
            raise ValueError(f"{name}: {component!r} is no head or MLP of this model; outputs are a0.h0 … and m0 …")
        layer, head = divmod(index[component] - 1, graph.n_heads + 1)
        found.setdefault(layer, []).append(None if head == graph.n_heads else head)
    return found


@dataclass(frozen=True)
class _Run:
    """One model on clean prompts."""

    model: Model
    part: Batch
    engine: Engine
    frame: Frame
    x: list[Tensor]
    """The stream before each block."""
    outputs: dict[tuple[str, int], Tensor]
    """z and MLP output of each layer; of the last layer at the last token alone."""
    final: Float[Tensor, "pair d_model"]

    @classmethod
    def of(cls, model: Model, part: Batch) -> "_Run":
        engine = Engine(model.layout)
        frame, x, outputs = engine.frame(part.clean, part.mask), [], {}

        def keep(name: str, layer: int, value: Tensor) -> None:
            outputs[name, layer] = value

        final = engine.onward(frame, frame.x, part.end, edit=keep, seen=x)
        return cls(model, part, engine, frame, x, outputs, final)

    def with_outputs_of(self, donor: "_Run", members: dict[int, list[int | None]]) -> np.ndarray:
        """The metric with the donor's outputs in place of its own; below the first of them nothing changes."""
        own: dict[int, Tensor] = {}

        def edit(site: str, layer: int, value: Tensor) -> Tensor | None:
            inside = members.get(layer)
            if inside is None:
                return None
            if site == "z":
                own[layer] = value
            if site == "mlp" and None in inside:
                return donor.outputs["mlp", layer]
            heads = [h for h in inside if h is not None]
            if site == "attn_raw" and heads:
                new, old = (
                    torch.einsum("phtd,hdm->ptm", z[:, heads], model.layout.w_o(layer)[heads])
                    for z, model in ((donor.outputs["z", layer], donor.model), (own[layer], self.model))
                )
                return value + new - old
            return None

        first = min(members, default=0)
        return self.metric(self.engine.onward(self.frame, self.x[first], self.part.end, first, edit))

    def metric(self, final: Float[Tensor, "pair d_model"]) -> Float[np.ndarray, " pair"]:
        """Logit of the answer minus the mean of the foils'."""
        logits, part = self.model.layout.logits(final), self.part
        return numpy(foil_differences(logits, part).nanmean(1))


@halving
@measured
@torch.no_grad()
def residual_learning(base: Model, tuned: Model, batch: Batch, *, chunk: int = 64) -> xr.Dataset:
    """What each layer's new weights add, on the base's own input: `added` (logits) on `layer, part, pair`."""
    engines, parts = [Engine(m.layout) for m in (base, tuned)], []
    for part in pieces(batch, base, chunk):
        run = engines[0].run(engines[0].frame(part.clean, part.mask))
        norm = frozen(base.layout, base.layout.final_norm, at_end(run.final, part.end))
        direction = norm.pull(answer_direction(base, part.answer, part.foils).vector)
        rows = []
        for layer, (old, new) in enumerate(zip(*(e.blocks for e in engines), strict=True)):
            attended = [_attention(block, run, layer) for block in (old, new)]
            written = [block.mlp(run.mlp_in[layer]) for block in (old, new)]
            for before, after in (attended, written):
                rows.append(numpy((at_end(after - before, part.end) * direction).sum(-1)))
        parts.append(np.stack(rows).reshape(len(engines[0].blocks), 2, len(part)))
    data = {"added": (("layer", "part", "pair"), np.concatenate(parts, -1))}
    coords = {**pair_coords(batch), "layer": np.arange(base.layout.n_layers), "part": ["attention", "mlp"]}
    more = {"base_weights": weights_now(base), "convention": "tuned minus base layer on the base's input, logits"}
    return xr.Dataset(data, coords=coords).assign_attrs(about(tuned, batch, **more))


def _attention(block: Any, run: Any, layer: int) -> Tensor:
    normed, rotary = block.normed(run.x[layer]), rows_of(run.frame.rotary[layer], 0)
    q, k, v = (block.finish(p, block.project(p, normed), rotary) for p in ("q", "k", "v"))
    return block.attn_write(block.out(block.attend(q, k, v, run.frame.masks[layer])[1]))
