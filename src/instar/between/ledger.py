"""The ledger: every nat of what a training gained, booked on a part of the weights and a stretch of the training.

1. Between two consecutive checkpoints the weights go along a straight line, θ(α) = θ₀ + α Δθ, and for any metric m
    m(θ₁) − m(θ₀) = Σ_g ∫₀¹ ∂m/∂θ_g · Δθ_g dα: additive over parts g of the weights, and over intervals of the training.
    This is loss-change allocation (arXiv 1909.01440) with a task's metric in the place of the loss; along one line it is
    integrated gradients in weight space (arXiv 1703.01365).
2. The integral is taken at Gauss–Legendre nodes, one backward pass each. What it misses of m(θ₁) − m(θ₀), which is measured,
   is the residual; where it is too large more nodes are taken, and then the interval is cut in two.
3. What is shared (keys and values of a group, an embedding that is the unembedding) is booked on each of its readers
   (`instar.models.parts`).
4. Prompts are booked in blocks, so that intervals can be drawn over them.

A part with a booking wrote that much of the gain, *along this path*: by another path from the one model to the other it would
be booked otherwise, which is why dense checkpoints are better than two ends. Metrics, of clean prompts, higher is better:
`choosing`, `naming`, `log_probability` (nats) as in `instar.measure.evaluate`, `logit_diff` (logits).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from instar.measure.common import about, clean_logits, metrics, once, pieces
from instar.models.load import Model, weights_now
from instar.models.parts import Apart, Part, Share, apart, shares
from instar.models.plain import measuring
from instar.progress import slow
from instar.tasks.batch import Batch

NODES, BLOCKS, CUTS, CHUNK = 3, 16, 4, 64
NODES_OF_ONE_LINE = MANY_NODES = 8
GAIN_MISSED, METRIC_MISSED = 0.01, 1e-4
"""A residual is too large above this share of the gain, over √intervals, and above this share of the mean |m|."""
CONVENTION = (
    "bookings: integral of the metric's gradient times the change of the weights along the straight line between consecutive "
    "checkpoints; clean prompts, positive: the part's change raised the metric"
)


def ledger(
    models: Sequence[Model],
    batch: Batch,
    of: str | Sequence[str] = "choosing",
    *,
    nodes: int | None = None,
    blocks: int = BLOCKS,
) -> xr.Dataset:
    """What a training wrote where and when.

    Args:
        models: checkpoints in their order; two are enough, and are one line.
        batch: pairs; their clean prompts are read, each once.
        of: `choosing`, `naming`, `log_probability`, `logit_diff`, or several.
        nodes: backward passes an interval and metric; 3, or 8 on one line.
        blocks: into how many blocks of prompts bookings are divided.

    Returns:
        `booked` on `metric, interval, block, part`; `before`, `after` on `metric, interval, block`, all means over the
        block's prompts, in nats or logits; `prompts` of each block; `residual` and `allowed` on `metric, interval`;
        `pieces` into which an interval was cut. `part` has its `kind`, `layer` and `head` (−1 for none).

    Raises:
        ValueError: for an unknown metric, fewer than two models, models of different shapes, or a metric that is not defined.
    """
    models = list(models)
    if len(models) < 2:
        raise ValueError(f"ledger() got {len(models)} model: it needs what was before a training, and what after")
    of, nodes = [of] if isinstance(of, str) else list(of), nodes or (NODES if len(models) > 2 else NODES_OF_ONE_LINE)
    first, last = (read(model, batch, of) for model in (models[0], models[-1]))
    gain = {name: abs(last[name] - first[name]) / (len(models) - 1) ** 0.5 for name in of}
    with slow("ledger", len(models) - 1) as advance:
        pages: list[xr.Dataset] = []
        for start, end in pairwise(models):
            pages.append(line(start, end, batch, of, nodes=nodes, blocks=blocks, gain=gain))
            advance(1)
    whole = xr.concat(pages, "interval", data_vars="all", coords="minimal", compat="override", combine_attrs="override")
    return whole.assign(prompts=pages[0]["prompts"])


def read(model: Model, batch: Batch, of: Sequence[str]) -> dict[str, float]:
    """Means of the metrics over the clean prompts."""
    batch, found = once(batch), dict.fromkeys(of, 0.0)
    with measuring(model.layout), torch.no_grad():
        for part in pieces(batch, model, CHUNK):
            for name, value in metrics(clean_logits(model.layout, part), part, of).items():
                found[name] += float(value.sum()) / len(batch)
    return found


def line(
    start: Model,
    end: Model,
    batch: Batch,
    of: Sequence[str],
    *,
    gain: Mapping[str, float] | None = None,
    nodes: int = NODES,
    blocks: int = BLOCKS,
) -> xr.Dataset:
    """One interval of `ledger`, whose residual may be a hundredth of `gain`; of its own change, by default."""
    if (start.layout.arch, *_shape(start)) != (end.layout.arch, *_shape(end)):
        raise ValueError(f"{start.name} and {end.name} are not of one shape: no line leads from one to the other")
    batch = once(batch)
    rows = np.array_split(np.arange(len(batch)), min(blocks, len(batch)))
    with measuring(start.layout, end.layout), torch.enable_grad():
        way = _Line.between(start, end, [batch[own] for own in rows], tuple(of))
        ends = np.stack([way.value(0.0), way.value(1.0)])
        own = np.average(ends[1] - ends[0], axis=1, weights=way.sizes)
        missed = GAIN_MISSED * (np.abs(own) if gain is None else np.array([gain[name] for name in of]))
        allowed = np.maximum(missed, METRIC_MISSED * np.abs(ends).mean((0, 2)))
        pages, pieces = way.integrated(0.0, 1.0, ends, allowed, (nodes, max(nodes, MANY_NODES)))
    booked = np.average(pages.sum(2), axis=1, weights=way.sizes)
    data = {
        "booked": (("metric", "block", "part"), pages),
        "before": (("metric", "block"), ends[0]),
        "after": (("metric", "block"), ends[1]),
        "residual": ("metric", own - booked),
        "allowed": ("metric", allowed),
        "pieces": ("metric", np.full(len(of), pieces)),
        "prompts": ("block", np.array(way.sizes)),
    }
    labels = {
        "kind": [p.kind for p in way.parts],
        "layer": [p.layer for p in way.parts],
        "head": [p.head for p in way.parts],
    }
    coords = {"metric": list(of), "part": [p.name for p in way.parts], **{k: ("part", v) for k, v in labels.items()}}
    more = {"base_weights": weights_now(start), "nodes": nodes, "convention": CONVENTION}
    return xr.Dataset(data, coords=coords).assign_attrs(about(end, batch, **more))


def _shape(model: Model) -> tuple[Any, ...]:
    """Every parameter's, also of an unembedding that is the embedding."""
    return tuple((name, value.shape) for name, value in model.module.named_parameters(remove_duplicate=False))


@dataclass  # not frozen: parts are found once
class _Line:
    """A working model that goes from one checkpoint's weights to another's, and prompts in blocks."""

    start: Model
    end: Model
    working: Apart
    blocks: list[Batch]
    of: tuple[str, ...]
    shares: dict[str, list[Share]]
    changed: dict[str, Tensor]
    """By parameter: its change, where there is any."""

    @classmethod
    def between(cls, start: Model, end: Model, blocks: list[Batch], of: tuple[str, ...]) -> "_Line":
        working, changed = apart(start.layout), {}
        for name, value in working.layout.module.named_parameters():
            delta = working.of(end.layout, name) - working.of(start.layout, name)
            # What does not change has no booking, and needs no gradient.
            value.requires_grad_(bool(delta.any()))
            if value.requires_grad:
                changed[name] = delta
        return cls(start, end, working, blocks, of, shares(working.layout), changed)

    @cached_property
    def parts(self) -> list[Part]:
        """All parts: embeddings, layer by layer, the last norm, the unembedding."""
        every = dict.fromkeys(p for own in self.shares.values() for share in own for p in share.parts)
        last = self.working.layout.n_layers
        return sorted(every, key=lambda p: (last if p.kind == "unembedding" or p.name == "norm" else p.layer, p.head))

    @property
    def sizes(self) -> list[int]:
        """Prompts of each block."""
        return [len(block) for block in self.blocks]

    @torch.no_grad()
    def go(self, share: float) -> None:
        """To a place between start (0) and end (1)."""
        for name, delta in self.changed.items():
            value = self.working.layout.module.get_parameter(name)
            value.copy_(self.working.of((self.end if share == 1 else self.start).layout, name))
            if share not in (0, 1):
                value.add_(delta, alpha=share)

    @torch.no_grad()
    def value(self, share: float) -> Float[np.ndarray, "metric block"]:
        """The metrics there."""
        self.go(share)
        found = np.zeros((len(self.of), len(self.blocks)))
        for b, sums in self._read():
            found[:, b] += [float(value) for value in sums]
        return found

    def _read(self) -> Iterator[tuple[int, list[Float[Tensor, ""]]]]:
        """Block by block what its prompts add to the block's means, in pieces that the model takes at once."""
        for b, block in enumerate(self.blocks):
            for part in pieces(block, self.start, len(block)):
                found = metrics(clean_logits(self.working.layout, part), part, self.of)
                yield b, [value.sum() / len(block) for value in found.values()]

    def integrated(
        self,
        low: float,
        high: float,
        ends: np.ndarray,
        allowed: np.ndarray,
        nodes: tuple[int, ...],
        cuts: int = CUTS,
    ) -> tuple[Float[np.ndarray, "metric block part"], int]:
        """Bookings from one place to another, and in how many pieces: with as many nodes as are needed, or by halves."""
        wide, pages = (high - low) / 2, np.zeros(0)
        for rule in map(np.polynomial.legendre.leggauss, dict.fromkeys(nodes)):
            pages = np.sum([w * wide * self.booked(low + (x + 1) * wide) for x, w in zip(*rule, strict=True)], axis=0)
            residual = np.average(ends[1] - ends[0] - pages.sum(2), axis=1, weights=self.sizes)
            if (np.abs(residual) <= allowed).all():
                return pages, 1
        if cuts == 0:
            return pages, 1
        middle = (low + high) / 2
        half = self.value(middle)
        left = self.integrated(low, middle, np.stack([ends[0], half]), allowed / 2, nodes[-1:], cuts - 1)
        right = self.integrated(middle, high, np.stack([half, ends[1]]), allowed / 2, nodes[-1:], cuts - 1)
        return left[0] + right[0], left[1] + right[1]

    def booked(self, share: float) -> Float[np.ndarray, "metric block part"]:
        """The metrics' gradients at a place times the change, by part."""
        page = np.zeros((len(self.of), len(self.blocks), len(self.parts)))
        if not self.changed:
            return page
        self.go(share)
        with self._booking(page) as turn:
            for b, sums in self._read():
                for m, value in enumerate(sums):
                    turn(m, b)
                    value.backward(retain_graph=m + 1 < len(sums))
        return page

    @contextmanager
    def _booking(self, page: np.ndarray) -> Iterator[Callable[[int, int], None]]:
        """While open, gradients are multiplied by the change, booked, and dropped as they come."""
        index, place = {part: i for i, part in enumerate(self.parts)}, [0, 0]

        def write(name: str, value: Tensor) -> None:
            assert value.grad is not None
            product, value.grad = value.grad * self.changed[name], None
            for share in self.shares[name]:
                # Rows in the model's own precision, their sum in float64.
                sums = share.cut(product).flatten(1).double().sum(1).cpu().numpy()
                np.add.at(page[*place], [index[part] for part in share.parts], sums)

        with ExitStack() as stack:
            for name in self.changed:
                value = self.working.layout.module.get_parameter(name)
                stack.callback(value.register_post_accumulate_grad_hook(partial(write, name)).remove)
            yield lambda metric, block: place.__setitem__(slice(0, 2), [metric, block])
