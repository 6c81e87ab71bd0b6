"""The ledger: every nat of what a training gained, booked on a part of the weights and a stretch of the training.

1. Between two consecutive checkpoints the weights go along a straight line, θ(α) = θ₀ + α Δθ, and for any metric m
    m(θ₁) − m(θ₀) = Σ_g ∫₀¹ ∂m/∂θ_g · Δθ_g dα: additive over parts g of the weights, and over intervals of the training.
    This is loss-change allocation (arXiv 1909.01440) with a task's metric in the place of the loss; along one line it is
    integrated gradients in weight space (arXiv 1703.01365).
2. The integral is taken at Gauss–Legendre nodes, one backward pass each, of activations alone (`instar.models.along`). What
   it misses of m(θ₁) − m(θ₀), which is measured, is the residual; where it is too large more nodes are taken, and then the
   interval is cut in two.
3. What is shared (keys and values of a group, an embedding that is the unembedding) is booked on each of its readers
   (`instar.models.parts`).
4. Of a low-rank adapter the merged change is booked, and beside it how much of each booking the change of its A made (what it
   reads) and that of its B (what it writes): together exactly the merged change (`instar.models.adapters.by_factor`).
5. Prompts are booked apart and kept in blocks, so that intervals can be drawn over them.

A part with a booking wrote that much of the gain, *along this path*: by another path from the one model to the other it would
be booked otherwise, which is why dense checkpoints are better than two ends. Metrics, of clean prompts, higher is better:
`choosing`, `naming`, `log_probability` (nats) as in `instar.measure.evaluate`, `logit_diff` (logits).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from instar.measure.common import about, clean_logits, fitting, metrics, once, pieces
from instar.models.adapters import by_factor
from instar.models.along import Along
from instar.models.load import Model, weights_now
from instar.models.parts import Apart, Part, Share, apart, shares
from instar.models.plain import measuring
from instar.progress import slow
from instar.tasks.batch import Batch

NODES, BLOCKS, CUTS, CHUNK, HELD = 3, 24, 4, 64, 20
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
        blocks: into how many blocks of prompts bookings are kept.

    Returns:
        `booked` on `metric, interval, block, part`; `before`, `after` on `metric, interval, block`, all means over the
        block's prompts, in nats or logits; `prompts` of each block; `residual` and `allowed` on `metric, interval`;
        `pieces` into which an interval was cut. `part` has its `kind`, `layer` and `head` (−1 for none). Of low-rank adapters
        `by_factor` on `factor` too, beside `booked` (NaN for parts without one).

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
    with measuring(start.layout, end.layout), torch.enable_grad():
        way = _Line.between(start, end, batch, tuple(of))
        ends = np.stack([way.value(0.0), way.value(1.0)])
        own = (ends[1] - ends[0]).mean(1)
        missed = GAIN_MISSED * (np.abs(own) if gain is None else np.array([gain[name] for name in of]))
        allowed = np.maximum(missed, METRIC_MISSED * np.abs(ends).mean((0, 2)))
        pages, pieces = way.integrated(0.0, 1.0, ends, allowed, (nodes, max(nodes, MANY_NODES)))
        factors = way.by_factor(nodes) if end.factors else None
    rows = np.array_split(np.arange(len(batch)), min(blocks, len(batch)))

    def blocked(page: np.ndarray) -> np.ndarray:
        return np.stack([page[:, r].mean(1) for r in rows], 1)

    before, after, booked = map(blocked, (*ends, pages))
    data = {
        "booked": (("metric", "block", "part"), booked),
        "before": (("metric", "block"), before),
        "after": (("metric", "block"), after),
        "residual": ("metric", own - pages.sum(2).mean(1)),
        "allowed": ("metric", allowed),
        "pieces": ("metric", np.full(len(of), pieces)),
        "prompts": ("block", np.array([len(r) for r in rows])),
    }
    labels: dict[str, Any] = {
        "kind": [p.kind for p in way.parts],
        "layer": [p.layer for p in way.parts],
        "head": [p.head for p in way.parts],
    }
    coords = {"metric": list(of), "part": [p.name for p in way.parts], **{k: ("part", v) for k, v in labels.items()}}
    if factors is not None:
        data["by_factor"] = (("factor", "metric", "block", "part"), np.stack([*map(blocked, factors.values())]))
        coords["factor"] = list(factors)
    more = {"base_weights": weights_now(start), "nodes": nodes, "convention": CONVENTION}
    return xr.Dataset(data, coords=coords).assign_attrs(about(end, batch, **more))


def _shape(model: Model) -> tuple[Any, ...]:
    """Every parameter's, also of an unembedding that is the embedding."""
    return tuple((name, value.shape) for name, value in model.module.named_parameters(remove_duplicate=False))


@dataclass(frozen=True)
class _Change(Mapping[str, Tensor]):
    """By parameter of the working model: its change, where there is any. Subtracted when asked for: a copy of all of a
    large model's weights less."""

    start: Model
    end: Model
    working: Apart
    names: tuple[str, ...]

    @classmethod
    def between(cls, start: Model, end: Model, working: Apart) -> "_Change":
        every = cls(start, end, working, tuple(name for name, _ in working.layout.module.named_parameters()))
        # What does not change has no booking.
        return replace(every, names=tuple(name for name, delta in every.items() if bool(delta.any())))

    def __getitem__(self, name: str) -> Tensor:
        return self.working.of(self.end.layout, name) - self.working.of(self.start.layout, name)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass  # not frozen: parts are found once
class _Line:
    """A working model that goes from one checkpoint's weights to another's, and prompts."""

    start: Model
    end: Model
    working: Apart
    batch: Batch
    of: tuple[str, ...]
    shares: dict[str, list[Share]]
    changed: "_Change"

    @classmethod
    def between(cls, start: Model, end: Model, batch: Batch, of: tuple[str, ...]) -> "_Line":
        working = apart(start.layout)
        for value in working.layout.module.parameters():
            value.requires_grad_(False)
        changed = _Change.between(start, end, working)
        return cls(start, end, working, batch, of, shares(working.layout), changed)

    @cached_property
    def parts(self) -> list[Part]:
        """All parts: embeddings, layer by layer, the last norm, the unembedding."""
        every = dict.fromkeys(p for own in self.shares.values() for share in own for p in share.parts)
        last = self.working.layout.n_layers
        return sorted(every, key=lambda p: (last if p.kind == "unembedding" or p.name == "norm" else p.layer, p.head))

    @torch.no_grad()
    def go(self, share: float) -> None:
        """To a place between start (0) and end (1)."""
        for name in self.changed:
            value = self.working.layout.module.get_parameter(name)
            value.copy_(self.working.of((self.end if share == 1 else self.start).layout, name))
            if share not in (0, 1):
                value.add_(self.changed[name], alpha=share)

    @torch.no_grad()
    def value(self, share: float) -> Float[np.ndarray, "metric prompt"]:
        """The metrics there."""
        self.go(share)
        found = [metrics(clean_logits(self.working.layout, part), part, self.of) for part in self._pieces()]
        return np.concatenate([np.stack([own[name].cpu().numpy() for name in self.of]) for own in found], 1)

    def _pieces(self) -> Iterator[Batch]:
        # A layer keeps some twenty streams for the way back.
        return pieces(self.batch, self.start, fitting(CHUNK, self.batch, self.start, HELD * self.start.layout.n_layers))

    def integrated(
        self,
        low: float,
        high: float,
        ends: np.ndarray,
        allowed: np.ndarray,
        nodes: tuple[int, ...],
        cuts: int = CUTS,
    ) -> tuple[Float[np.ndarray, "metric prompt part"], int]:
        """Bookings from one place to another, and in how many pieces: with as many nodes as are needed, or by halves."""
        pages = np.zeros(0)
        for count in dict.fromkeys(nodes):
            pages = self.summed(count, low, high)
            residual = (ends[1] - ends[0] - pages.sum(2)).mean(1)
            if (np.abs(residual) <= allowed).all():
                return pages, 1
        if cuts == 0:
            return pages, 1
        middle = (low + high) / 2
        half = self.value(middle)
        left = self.integrated(low, middle, np.stack([ends[0], half]), allowed / 2, nodes[-1:], cuts - 1)
        right = self.integrated(middle, high, np.stack([half, ends[1]]), allowed / 2, nodes[-1:], cuts - 1)
        return left[0] + right[0], left[1] + right[1]

    def by_factor(self, nodes: int) -> dict[str, Float[np.ndarray, "metric prompt part"]]:
        """Bookings of what each factor of a low-rank adapter made of the change, along the whole of it."""
        each = by_factor(self.start.factors, self.end.factors)
        return {factor: self.piece(made, nodes) for factor, made in each.items()}

    def piece(self, made: Mapping[str, Tensor], nodes: int) -> Float[np.ndarray, "metric prompt part"]:
        """Bookings of a piece of the change along the whole of it; NaN for parts that it has not."""
        own = {name: value for name, value in made.items() if name in self.changed}
        page = self.summed(nodes, 0.0, 1.0, own)
        there = {part for name in own for share in self.shares[name] for part in share.parts}
        page[:, :, [part not in there for part in self.parts]] = np.nan
        return page

    def summed(
        self, nodes: int, low: float, high: float, piece: Mapping[str, Tensor] | None = None
    ) -> Float[np.ndarray, "metric prompt part"]:
        """Bookings from one place to another by Gauss–Legendre, of the whole change or of a piece of it."""
        wide, rule = (high - low) / 2, zip(*leggauss(nodes), strict=True)
        return np.sum([w * wide * self.booked(low + (x + 1) * wide, piece) for x, w in rule], axis=0)

    def booked(
        self, share: float, piece: Mapping[str, Tensor] | None = None
    ) -> Float[np.ndarray, "metric prompt part"]:
        """The metrics' gradients at a place times the change, or a piece of it, by prompt and part."""
        page = np.zeros((len(self.of), len(self.batch), len(self.parts)))
        change: Mapping[str, Tensor] = self.changed if piece is None else piece
        if not change:
            return page
        self.go(share)
        along, done = Along(self.working.layout.module, change, self.shares), 0
        with along.watching(self.parts):
            for part in self._pieces():
                along.passes(len(part))
                values = metrics(clean_logits(self.working.layout, part), part, self.of).values()
                for m, value in enumerate(values):
                    page[m, done : done + len(part)] = along.booked(value.sum(), keep=m + 1 < len(values))
                done += len(part)
        return page
