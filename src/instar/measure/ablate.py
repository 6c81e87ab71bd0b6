"""Running a model of which only some edges work: the evaluation behind `instar.measure.faithfulness`.

1. A `Baseline` says what edges outside the circuit carry: streams before every reader, and each source's part in them.
2. Reader by reader in topological order: input = baseline stream + Σ over kept edges of (source now − its baseline).
3. A source whose readers have no kept edge with a live source behind it is as in the baseline and is not computed
   (resample ablation, where the baseline is a run of the model and everything in it agrees).
4. Where the family norms the attention's output, a layer's kept heads go through that norm together, recomputed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from instar.circuits.graph import Graph, Mask
from instar.measure.patches import first_difference
from instar.measure.writes import head_writes
from instar.models.block import Block, Frame
from instar.models.replay import Engine, Metric, Pass, mask_row, pick, picked, rows_of
from instar.progress import Advance
from instar.tasks.batch import Batch

Ablation = Literal["resample", "mean", "zero"]


@dataclass(frozen=True)
class Baseline:
    """What ablated edges carry, for the positions from `start` on."""

    start: int
    x: list[Tensor]
    mlp_in: list[Tensor]
    z: list[Tensor]
    attn_raw: list[Tensor]
    attn: list[Tensor]
    mlp: list[Tensor]
    run: Pass | None
    """The model's own run that this is, where it is one."""


@dataclass(frozen=True)
class Found:
    """The metric of each circuit [mask, pair] and of the clean prompts [pair], in logits."""

    circuits: Tensor
    clean: Tensor


@dataclass(frozen=True)
class Baselines:
    """What the baselines of all chunks share: nothing, or the means of every wording."""

    ablation: Ablation
    means: dict[str, list[Tensor]]

    @classmethod
    def of(cls, engine: Engine, batch: Batch, ablation: Ablation, chunk: int) -> "Baselines":
        """Of a whole batch: means go over all of its pairs."""
        means: dict[str, list[Tensor]] = {}
        if ablation == "mean":
            keys = np.array(_wordings(batch))
            for key in dict.fromkeys(keys):
                rows = np.flatnonzero(keys == key)
                means[str(key)] = _mean(engine, batch, rows, chunk)
        return cls(ablation, means)

    def baseline(self, engine: Engine, part: Batch, corrupted: Pass, start: int) -> Baseline:
        """The baseline of one chunk."""
        if self.ablation == "resample":
            return _of_run(corrupted, start)
        if self.ablation == "zero":
            writes = [torch.zeros_like(t) for t in (corrupted.x[0], *corrupted.z, *corrupted.mlp)]
        else:
            own = [self.means[key] for key in _wordings(part)]
            width = part.clean.shape[1]
            writes = [torch.stack([_wide(row, width) for row in rows]) for rows in zip(*own, strict=True)]
        return _of_writes(engine, writes)


def _wordings(batch: Batch) -> list[str]:
    """What pairs share a mean: the same wording and length."""
    names = [p.wording for p in batch.pairs] or [""] * len(batch)
    return [f"{name} {end}" for name, end in zip(names, batch.end.tolist(), strict=True)]


def _mean(engine: Engine, batch: Batch, rows: np.ndarray, chunk: int) -> list[Tensor]:
    """The mean first stream, z of each layer and MLP output of each layer, over corrupted prompts."""
    total: list[Tensor] | None = None
    for at in range(0, len(rows), chunk):
        part = batch[rows[at : at + chunk]]
        device = engine.layout.module.device
        run = engine.run(engine.frame(part.corrupted.to(device), part.mask.to(device)))
        sums = [t.sum(0) for t in (run.x[0], *run.z, *run.mlp)]
        total = sums if total is None else [a + b for a, b in zip(total, sums, strict=True)]
    assert total is not None
    return [t / len(rows) for t in total]


def _wide(x: Tensor, width: int) -> Tensor:
    """Padded with zeros on the position axis, which is the last but one; padding is never read."""
    return torch.nn.functional.pad(x, (0, 0, 0, width - x.shape[-2]))


def _of_run(run: Pass, start: int) -> Baseline:
    width = run.x[0].shape[1]

    def cut(xs: list[Tensor]) -> list[Tensor]:
        # The last layer of a run made for its end has that row alone.
        return [x[..., start:, :] if x.shape[-2] == width else x for x in xs]

    return Baseline(start, cut(run.x), cut(run.mlp_in), cut(run.z), cut(run.attn_raw), cut(run.attn), cut(run.mlp), run)


def _of_writes(engine: Engine, writes: list[Tensor]) -> Baseline:
    """Streams put together from what each source is to carry."""
    n = len(engine.blocks)
    x, z, mlp = [writes[0]], writes[1 : n + 1], writes[n + 1 :]
    raw, attn, mlp_in = [], [], []
    for layer, block in enumerate(engine.blocks):
        raw.append(block.out(z[layer]))
        attn.append(block.attn_write(raw[-1]))
        middle = x[-1] + attn[-1]
        mlp_in.append(x[-1] if block.parallel else middle)
        x.append(middle + mlp[layer])
    return Baseline(0, x, mlp_in, z, raw, attn, mlp, None)


def evaluate_masks(
    engine: Engine, part: Batch, masks: Sequence[Mask], baselines: Baselines, metric: Metric, advance: Advance
) -> Found:
    """Every circuit on one chunk of pairs; tells how many evaluations are done."""
    start = first_difference(part) if baselines.ablation == "resample" else 0
    frames = [engine.frame(tokens, part.mask) for tokens in (part.clean, part.corrupted)]
    corrupted = engine.run(frames[1], end=part.end)
    baseline = baselines.baseline(engine, part, corrupted, start)
    end = part.end - start
    values = []
    for mask in masks:
        values.append(metric(_Evaluation(engine, frames[0], baseline, mask, end).final()))
        advance(len(part))
    clean = engine.run(frames[0], start, corrupted, end=end)
    return Found(torch.stack(values), metric(clean.final[:, 0]))


class _Evaluation:
    """One circuit on one chunk of pairs."""

    def __init__(self, engine: Engine, clean: Frame, baseline: Baseline, mask: Mask, end: Tensor):
        self.engine, self.base, self.kept, self.end = engine, baseline, mask, end
        self.graph = Graph.of(engine.layout)
        self.frame = clean
        x = clean.x[:, baseline.start :]
        # Source now − its baseline; heads before any norm that follows them. Only live sources are ever read, and of the
        # last layer's only the last position, which stands in all of theirs.
        self.change = x.new_empty(len(self.graph.sources), *x.shape)
        self.change[0] = x - baseline.x[0]
        self.live = np.zeros(len(self.graph.sources), bool)
        self.live[0] = True

    def final(self) -> Float[Tensor, "pair d_model"]:
        """The last residual stream at the last position."""
        for layer in range(self.graph.n_layers):
            self._heads(layer)
            self._mlp(layer)
        last = len(self.graph.destinations) - 1
        return pick(self._incoming([last], self.base.x[-1])[0], self.end)[:, 0]

    def _reached(self, readers: list[int]) -> list[int]:
        """The readers that anything can have changed; all of them where the baseline is not a run of the model."""
        if self.base.run is None:
            return readers
        return [v for v in readers if (self.kept[:, v] & self.live).any()]

    def _incoming(self, readers: list[int], stream: Tensor) -> Float[Tensor, "reader pair pos d_model"]:
        """What each reader reads: the baseline's stream and the changes of its kept sources."""
        n = self.graph.before(readers[0])
        used = [int(u) for u in np.flatnonzero(self.live[:n] & self.kept[:n, readers].any(1))]
        normed = self.engine.layout.arch.post_attn is not None
        plain = [u for u in used if not normed or self._is_plain(u)]
        out = self._summed(plain, readers) + stream
        if normed:
            for layer in range(self.graph.n_layers):
                heads = [u for u in used if self.graph.head(layer) <= u < self.graph.mlp(layer)]
                if heads:
                    out += self._through_norm(layer, heads, readers)
        return out

    def _is_plain(self, source: int) -> bool:
        return source == 0 or source % (self.graph.n_heads + 1) == 0

    def _through_norm(self, layer: int, heads: list[int], readers: list[int]) -> Tensor:
        block, raw = self.engine.blocks[layer], self.base.attn_raw[layer]
        return block.attn_write(raw + self._summed(heads, readers)) - self.base.attn[layer]

    def _summed(self, sources: list[int], readers: list[int]) -> Float[Tensor, "reader pair pos d_model"]:
        """For each reader, the changes of its kept ones among `sources`."""
        if not sources:
            return self.change.new_zeros(len(readers), *self.change.shape[1:])
        whole = slice(sources[0], sources[-1] + 1)
        # A stretch in which every source is live is read where it stands; picking rows out would copy them all.
        chosen = whole if self.live[whole].all() and 2 * len(sources) > whole.stop - whole.start else sources
        kept = self.kept[chosen][:, readers] & np.isin(np.arange(len(self.live))[chosen], sources)[:, None]
        weights = torch.as_tensor(kept.T, device=self.change.device).to(self.change.dtype)
        return (weights @ self.change[chosen].flatten(1)).view(len(readers), *self.change.shape[1:])

    def _heads(self, layer: int) -> None:
        block, graph, base = self.engine.blocks[layer], self.graph, self.base
        first = graph.reads(layer, "q")
        reached = self._reached(list(range(first, first + graph.per_layer - 1)))
        if not reached:
            return
        start, stop = base.start, base.start + base.x[0].shape[1]
        inputs = block.normed(self._incoming(reached, base.x[layer]))
        raw, at = self._raw(layer), 0
        rotary = rows_of(self.frame.rotary[layer], start, stop)
        mask = self.frame.masks[layer][:, :, start:stop, :stop]
        angles = {"q": rotary, "k": rotary, "v": rotary}
        last = layer == graph.n_layers - 1
        if last:
            angles["q"], mask = picked(rotary, self.end), mask_row(mask, self.end)
        touched = np.zeros(graph.n_heads, bool)
        finished: dict[str, Tensor] = {}
        for projection in ("q", "k", "v"):
            begin = graph.reads(layer, projection)
            heads = [v - begin for v in reached if 0 <= v - begin < block.w_in[projection].shape[0]]
            if heads:
                own = inputs[at : at + len(heads)]
                at += len(heads)
                if last and projection == "q":
                    own = torch.stack([pick(x, self.end) for x in own])
                raw[projection][:, :, heads] = _projected(block, projection, heads, own)
                whole = projection != "v" and block.normed_together
                touched |= True if whole else graph.feeds[begin : begin + len(raw[projection][0, 0])][heads][
                    :, graph.head(layer) : graph.mlp(layer)
                ].any(0)  # fmt: skip
            finished[projection] = block.finish(projection, raw[projection], angles[projection])
        if start and base.run is not None:
            for p, past in (("k", base.run.k[layer]), ("v", base.run.v[layer])):
                finished[p] = torch.cat([past[:, :, :start], finished[p]], 2)
        z = block.attend(finished["q"], finished["k"], finished["v"], mask)[1]
        chosen = np.flatnonzero(touched)
        index = graph.head(layer) + chosen
        written = base.x[0].new_empty(len(chosen), *base.x[0].shape)
        head_writes(block.w_o[chosen], (z - base.z[layer])[:, chosen], out=written)
        self.change[index] = written
        self.live[index] = True

    def _raw(self, layer: int) -> dict[str, Tensor]:
        """The baseline's projections, to be overwritten where something changed."""
        base, block = self.base, self.engine.blocks[layer]
        width = base.x[0].shape[1]
        rows = {p: 1 if p == "q" and layer == self.graph.n_layers - 1 else width for p in ("q", "k", "v")}
        if base.run is not None:
            return {p: base.run.raw[layer][p][:, -rows[p] :].clone() for p in rows}
        pairs, d_head = base.x[0].shape[0], block.w_o.shape[1]
        return {p: base.x[0].new_empty(pairs, rows[p], len(block.w_in[p]), d_head) for p in rows}

    def _mlp(self, layer: int) -> None:
        reader = self.graph.mlp_reads(layer)
        if not self._reached([reader]):
            return
        source = self.graph.mlp(layer)
        read = self._incoming([reader], self.base.mlp_in[layer])[0]
        if layer == self.graph.n_layers - 1:
            read = pick(read, self.end)
        self.change[source] = self.engine.blocks[layer].mlp(read) - self.base.mlp[layer]
        self.live[source] = True


def _projected(
    block: Block, projection: str, heads: list[int], x: Float[Tensor, "head pair pos d_model"]
) -> Float[Tensor, "pair pos head d_head"]:
    """Each head's own input through its own columns of the projection."""
    weight, bias = block.w_in[projection][heads], block.b_in[projection]
    out = torch.bmm(x.flatten(1, 2), weight.transpose(1, 2)).unflatten(1, x.shape[1:3])
    out = out if bias is None else out + bias[heads][:, None, None]
    return out.permute(1, 2, 0, 3)
