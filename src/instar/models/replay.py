"""Forward passes that begin where something changed: exact interventions at the cost of what they change.

1. `run` is one forward pass, kept: residual streams, q, k, v, patterns, z, the outputs of attention and MLP.
2. A patch that begins at layer l and position p changes nothing below l and, by causality, nothing left of p. `carry`
   takes many patched residual streams of the rows p … T−1 through the remaining layers together, against the run's
   keys and values left of p, layer by layer; patches join where they begin. This is a *wavefront*.
3. In the last layer only each prompt's last position matters: one row of queries, output projection and MLP.
4. The metric is a product with the unembedding rows of answer and foils; the vocabulary is never unembedded.

These are rules, not approximations: what comes out equals a whole forward pass with the patch in it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from instar.models.arch import Layout, Projection
from instar.models.block import Block, Frame, Rows, frame
from instar.models.taps import Edit

ROWS, FEWEST, STREAM_BYTES = 1536, 256, 2304 * 2**10
"""Rows a matrix product, and how large a stream of them may be: enough to run at the processor's peak, few enough that what
an MLP makes of them is memory that the process has already. Above some 10 MB the system hands out new pages each time, and
clears them: a tenth of a sweep at GPT-2 small's shape."""
LIVE_BYTES = 256 * 2**20
"""Patched residual streams carried at one time."""
ON_GPU = 8
"""So many times as much on a GPU, which is idle with less."""


def at_once(limit: int, device: torch.device) -> int:
    """`LIVE_BYTES`, or another limit, on a device."""
    return limit if device.type == "cpu" else ON_GPU * limit


def rows_at_once(stream: Tensor) -> int:
    """Rows a matrix product, of a residual stream [..., d_model]."""
    if stream.device.type != "cpu":
        return ON_GPU * ROWS
    return min(ROWS, max(FEWEST, STREAM_BYTES // (stream.shape[-1] * stream.element_size())))


@dataclass
class Pass:
    """A forward pass over the positions `start` … T−1, one tensor a layer in each list.

    Where it was run for its `end` alone, the last layer's q, pattern, z, outputs and final stream have that one position.
    """

    frame: Frame
    start: int
    x: list[Tensor] = field(default_factory=list)
    """Residual stream before each block, and after the last: n_layers + 1."""
    raw: list[dict[str, Tensor]] = field(default_factory=list)
    """q, k, v as projected [pair, pos, head, d_head]."""
    q: list[Tensor] = field(default_factory=list)
    k: list[Tensor] = field(default_factory=list)
    """Keys of all positions from 0: those left of `start` are the prefix's."""
    v: list[Tensor] = field(default_factory=list)
    pattern: list[Tensor] = field(default_factory=list)
    z: list[Tensor] = field(default_factory=list)
    attn_raw: list[Tensor] = field(default_factory=list)
    attn: list[Tensor] = field(default_factory=list)
    mlp_in: list[Tensor] = field(default_factory=list)
    """The residual stream as it enters the MLP: `mid`, or `x` in a parallel block."""
    mlp: list[Tensor] = field(default_factory=list)

    @property
    def final(self) -> Float[Tensor, "pair pos d_model"]:
        """The last residual stream."""
        return self.x[-1]

    def add(self, **values: Any) -> None:
        """One more layer."""
        for name, value in values.items():
            getattr(self, name).append(value)

    def after_attention(self, layer: int, parallel: bool) -> Tensor:
        """The stream to which a change of this layer's attention output is added."""
        return self.x[layer + 1] if parallel else self.mlp_in[layer]


@dataclass(frozen=True)
class Join:
    """Patched streams that begin at one position: `make()` gives them [patch, pair, pos, d_model].

    `middle`: they begin between attention and MLP of `layer`; else before the block. `layer = n_layers`: at the end.
    """

    layer: int
    middle: bool
    count: int
    make: Callable[[], Tensor]


@dataclass(frozen=True)
class Metric:
    """Logit of the answer minus the mean of the foils' at the last token, after the model's soft-cap if it has one."""

    layout: Layout
    rows: Float[Tensor, "pair word d_model"]
    bias: Float[Tensor, "pair word"]
    weights: Float[Tensor, "pair word"]

    @classmethod
    def of(cls, layout: Layout, answer: Int[Tensor, " pair"], foils: Int[Tensor, "pair foil"]) -> "Metric":
        """The metric of these answers and foils (−1: no foil)."""
        unembed = layout.unembed
        words = torch.cat([answer[:, None], foils.clamp_min(0)], 1)
        # Effects are differences of this: 16 bits of a logit of ten would leave nothing of a small one.
        rows = unembed.weight.detach()[words].to(torch.promote_types(unembed.weight.dtype, torch.float32))
        real = (foils >= 0).to(rows.dtype)
        weights = torch.cat([torch.ones_like(real[:, :1]), -real / real.sum(1, keepdim=True)], 1)
        bias = rows.new_zeros(words.shape) if unembed.bias is None else unembed.bias.detach()[words].to(rows.dtype)
        return cls(layout, rows, bias, weights)

    def __call__(self, final: Float[Tensor, "*patch pair d_model"]) -> Float[Tensor, "*patch pair"]:
        """In logits, from the last residual stream at the last token."""
        normed = self.layout.final_norm(final).to(self.rows.dtype)
        if self.layout.cap is None:
            direction = torch.einsum("pw,pwd->pd", self.weights, self.rows)
            return (normed * direction).sum(-1) + (self.weights * self.bias).sum(1)
        logits = torch.einsum("...pd,pwd->...pw", normed, self.rows) + self.bias
        return (self.layout.capped(logits) * self.weights).sum(-1)


class Engine:
    """The blocks of one model, ready to run from anywhere."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.blocks = [Block(layout, i) for i in range(layout.n_layers)]

    def frame(self, tokens: Int[Tensor, "pair pos"], mask: Bool[Tensor, "pair pos"]) -> Frame:
        """What the prompts fix before the first block."""
        return frame(self.layout, tokens, mask)

    def run(
        self,
        frame: Frame,
        start: int = 0,
        prefix: Pass | None = None,
        x: Tensor | None = None,
        edit: Edit | None = None,
        end: Int[Tensor, " pair"] | None = None,
    ) -> Pass:
        """A forward pass over positions `start` …, against the keys and values of `prefix` left of them.

        `x` replaces the first residual stream of these rows. Gradients flow where enabled.
        `edit(name, layer, value)` may return another value for `raw_q`, `raw_k`, `raw_v` (the projections' outputs), `q`,
        `k`, `v`, `pattern`, `z` or `mlp`; None leaves it. With `end` (counted from `start`) the last layer's queries and
        all that follows them are of these positions only: one row.
        """
        run = Pass(frame, start)
        x = frame.x[:, start:] if x is None else x
        stop = start + x.shape[1]

        def seen(name: str, layer: int, value: Tensor) -> Tensor:
            changed = None if edit is None else edit(name, layer, value)
            return value if changed is None else changed

        for layer, block in enumerate(self.blocks):
            run.x.append(x)
            rotary = rows_of(frame.rotary[layer], start, stop)
            mask = frame.masks[layer][:, :, start:stop, :stop]
            normed = block.normed(x)
            at: dict[Projection, tuple[Tensor, Any]] = {
                "q": (normed, rotary),
                "k": (normed, rotary),
                "v": (normed, rotary),
            }
            if end is not None and layer == len(self.blocks) - 1:
                at["q"], mask, x = (pick(normed, end), picked(rotary, end)), mask_row(mask, end), pick(x, end)
            raw: dict[str, Tensor] = {p: seen(f"raw_{p}", layer, block.project(p, own)) for p, (own, _) in at.items()}
            q, k, v = (seen(p, layer, block.finish(p, raw[p], angles)) for p, (_, angles) in at.items())
            if start and prefix is not None:
                k, v = (
                    torch.cat([old[:, :, :start], new], 2) for old, new in ((prefix.k[layer], k), (prefix.v[layer], v))
                )
            own, z = block.attend(q, k, v, mask)
            pattern = seen("pattern", layer, own)
            z = seen("z", layer, z if pattern is own else block.read(pattern, v))
            out = block.out(z)
            attn = block.attn_write(out)
            mid = x + attn
            # A view of its own, so that the gradient of this branch can be told from the skip connection's.
            mlp_in = (x if block.parallel else mid).view_as(x)
            mlp = seen("mlp", layer, block.mlp(mlp_in))
            run.add(raw=raw, q=q, k=k, v=v, pattern=pattern, z=z, attn_raw=out, attn=attn, mlp_in=mlp_in, mlp=mlp)
            x = mid + mlp
        run.x.append(x)
        return run

    def onward(
        self,
        frame: Frame,
        x: Rows,
        end: Int[Tensor, " pair"],
        layer: int = 0,
        edit: Edit | None = None,
        seen: list[Tensor] | None = None,
    ) -> Float[Tensor, "pair d_model"]:
        """The final stream at each prompt's last token, from the stream `x` before block `layer`; nothing else is kept.

        What changes nothing below a block is run from there. `edit` as of `run`, for `z`, `attn_raw` and `mlp`; in the last
        layer these have one position, and so has what comes back. `seen` is given the stream before each block.
        """
        edited: Edit = (lambda name, at, value: None) if edit is None else edit

        def own(name: str, at: int, value: Tensor) -> Tensor:
            changed = edited(name, at, value)
            return value if changed is None else changed

        for at in range(layer, len(self.blocks)):
            block, mask, rotary = self.blocks[at], frame.masks[at], frame.rotary[at]
            if seen is not None:
                seen.append(x)
            normed = block.normed(x)
            k, v = (block.finish(p, block.project(p, normed), rotary) for p in ("k", "v"))
            if at == len(self.blocks) - 1:
                x, normed, mask, rotary = pick(x, end), pick(normed, end), mask_row(mask, end), picked(rotary, end)
            q = block.finish("q", block.project("q", normed), rotary)
            raw = own("attn_raw", at, block.out(own("z", at, block.attend(q, k, v, mask)[1])))
            mid = x + block.attn_write(raw)
            x = mid + own("mlp", at, block.mlp(x if block.parallel else mid))
        return x[:, 0]

    def carry(self, base: Pass, start: int, end: Int[Tensor, " pair"], joins: Sequence[Join]) -> Iterator[Tensor]:
        """The final stream at each prompt's last token, [patch, pair, d_model] for each join, in the order given.

        Joins must come in the order of the layers. `base` is a whole run (start 0); patched streams hold the positions
        `start` … T−1. For a prompt that ends before `start` nothing is changed, and nothing meaningful comes back.
        """
        for group in _budgeted(joins, base, start):
            done = _Wave(self, base, start, end, group).travel()
            yield from done.split([join.count for join in group])


def rows_of(rotary: tuple[Tensor, Tensor] | None, start: int, stop: int | None = None) -> Any:
    """Rotary angles of some positions."""
    return None if rotary is None else tuple(t[:, start:stop] for t in rotary)


def pick(x: Tensor, at: Int[Tensor, " row"]) -> Tensor:
    """One position of each row, [row, 1, …]."""
    return x.expand(len(at), *x.shape[1:])[torch.arange(len(at), device=at.device), at][:, None]


def mask_row(mask: Tensor, at: Tensor) -> Tensor:
    """The mask of one query position of each row."""
    return pick(mask.transpose(1, 2), at).transpose(1, 2)


def picked(rotary: Any, at: Tensor) -> Any:
    """The rotary angles of one position of each row."""
    return None if rotary is None else tuple(pick(t, at) for t in rotary)


def _budgeted(joins: Sequence[Join], base: Pass, start: int) -> Iterator[list[Join]]:
    pairs, width, d_model = base.final.shape
    limit = at_once(LIVE_BYTES, base.final.device) // (pairs * (width - start) * d_model * base.final.element_size())
    group: list[Join] = []
    for join in joins:
        if group and sum(j.count for j in group) + join.count > limit:
            yield group
            group = []
        group.append(join)
    if group:
        yield group


class _Wave:
    """One wavefront: patches of one starting position, carried through the layers together."""

    def __init__(self, engine: Engine, base: Pass, start: int, end: Tensor, joins: Sequence[Join]):
        self.engine, self.base, self.start, self.joins = engine, base, start, list(joins)
        # A prompt that ends before the patches begin has no row to read; what stands there for it is not used.
        self.end = end.clamp(min=start)
        pairs, width, d_model = base.final.shape
        self.last = len(engine.blocks) - 1
        self.x = base.final.new_empty(sum(j.count for j in joins), pairs, width - start, d_model)
        self.live = 0
        # [patch, pair] blocks of whole patches, about as many rows each as are multiplied at once.
        self.step = max(1, rows_at_once(base.final) // (pairs * (width - start)))

    def travel(self) -> Tensor:
        for layer in range(self.joins[0].layer, self.last):
            self._join(layer, middle=False)
            if self.engine.blocks[layer].parallel:
                self._add(layer, self._attention, self._mlp)
            else:
                self._add(layer, self._attention)
                self._join(layer, middle=True)
                self._add(layer, self._mlp)
        self._join(self.last, middle=False)
        return self._last_layer()

    def _join(self, layer: int, middle: bool) -> None:
        while self.joins and (self.joins[0].layer, self.joins[0].middle) == (layer, middle):
            join = self.joins.pop(0)
            self.x[self.live : self.live + join.count] = join.make()
            self.live += join.count

    def _add(self, layer: int, *writers: Callable[[int, Tensor], Tensor]) -> None:
        """What each of them writes, having read the same stream."""
        for at in range(0, self.live, self.step):
            part = self.x[at : min(at + self.step, self.live)]
            for written in [write(layer, part.flatten(0, 1)) for write in writers]:
                part.add_(written.view(part.shape))

    def _mlp(self, layer: int, x: Tensor) -> Tensor:
        return self.engine.blocks[layer].mlp(x)

    def _attention(self, layer: int, x: Tensor, last: bool = False) -> Tensor:
        """The attention's write for rows [patch × pair]; with `last`, at each prompt's last token only."""
        block, base, start = self.engine.blocks[layer], self.base, self.start
        times = x.shape[0] // len(self.end)
        normed = block.normed(x)
        rotary = rows_of(spread(base.frame.rotary[layer], times), start)
        k, v = (block.finish(p, block.project(p, normed), rotary) for p in ("k", "v"))
        if start:
            k = torch.cat([_times(base.k[layer][:, :, :start], times), k], 2)
            v = torch.cat([_times(base.v[layer][:, :, :start], times), v], 2)
        mask = spread(base.frame.masks[layer][:, :, start:], times)
        if last:
            at = self.end.repeat(times) - start
            normed, mask, rotary = pick(normed, at), mask_row(mask, at), picked(rotary, at)
        q = block.finish("q", block.project("q", normed), rotary)
        return block.attn_write(block.out(block.attend(q, k, v, mask)[1]))

    def _last_layer(self) -> Tensor:
        block, layer = self.engine.blocks[self.last], self.last
        chunks = self.x[: self.live].split(self.step) if self.live else ()
        parts = [self._at_end(x) for x in chunks]
        attended = [self._attention(layer, x.flatten(0, 1), last=True).view(*x.shape[:2], -1) for x in chunks]
        if block.parallel:
            done = [x + a + block.mlp(x) for x, a in zip(parts, attended, strict=True)]
        else:
            middle = [x + a for x, a in zip(parts, attended, strict=True)] + self._joining(layer, middle=True)
            done = [x + block.mlp(x) for x in middle]
        return torch.cat([*done, *self._joining(layer + 1, middle=False)])

    def _joining(self, layer: int, middle: bool) -> list[Tensor]:
        found = []
        while self.joins and (self.joins[0].layer, self.joins[0].middle) == (layer, middle):
            found.append(self._at_end(self.joins.pop(0).make()))
        return found

    def _at_end(self, x: Tensor) -> Float[Tensor, "patch pair d_model"]:
        return x[:, torch.arange(len(self.end), device=x.device), self.end - self.start]


def _times(x: Tensor, times: int) -> Tensor:
    """A tensor of the pairs repeated for every patch, on the axis [patch × pair]."""
    return x.expand(times, *x.shape).flatten(0, 1)


def spread(x: Any, times: int) -> Any:
    """The same for what all pairs may share (masks, rotary angles): one row is left to broadcast."""
    if x is None or isinstance(x, tuple):
        return None if x is None else tuple(spread(t, times) for t in x)
    return x if x.shape[0] == 1 else _times(x, times)
