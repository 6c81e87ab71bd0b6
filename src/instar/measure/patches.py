"""What patching does to one chunk of pairs: exact, by replaying each patch, or estimated, from one backward pass.

A `Case` holds the two runs. A patch is an *entry*: (layer, position) for residual sites, (layer, head) or
(layer, head, position) for head sites, where a position is one token or all tokens of a slot. Values come back as the
metric of the patched run [pair, *entry], in logits; an entry that a pair does not have is NaN.

Prompts of different lengths are aligned slot by slot (`instar.tasks.align`): a position takes its counterpart's value as it
is, keys with the rotation of where they stood, and keeps its own where it has no counterpart.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from instar.measure.common import at_end
from instar.models.replay import Engine, Join, Metric, Pass
from instar.progress import Advance
from instar.stats.scales import Direction
from instar.tasks.align import NONE
from instar.tasks.batch import Batch

RESIDUAL_SITES = ("resid_pre", "resid_mid", "attn_out", "mlp_out")
HEAD_SITES = ("z", "q", "k", "v", "pattern")
BY_KEY_VALUE_HEAD = ("k", "v")
MOVED = ("x", "q", "k", "v", "z", "attn_raw", "attn", "mlp_in", "mlp")
"""What a run keeps by position."""
Entry = tuple[int, ...]
Entries = dict[str, Collection[Entry]]


@dataclass(frozen=True)
class Case:
    """A chunk of pairs, run on both prompts. Patches take `source`'s values into `base`."""

    engine: Engine
    base: Pass
    source: Pass
    end: Int[Tensor, " pair"]
    positions: Bool[Tensor, "position pair pos"]
    first: int
    """The first position at which any pair's prompts differ: left of it a patch changes nothing."""
    metric: Metric
    unequal: Bool[Tensor, " pair"] | None = None
    """Pairs whose prompts do not go position by position: `source` is at `base`'s positions, where it has any."""

    @classmethod
    def of(
        cls,
        engine: Engine,
        part: Batch,
        positions: Bool[Tensor, "position pair pos"],
        direction: Direction,
        differentiable: bool = False,
    ) -> "Case":
        """Both runs of a chunk; the base's can be differentiated if `estimate` is to."""
        sides = ((part.corrupted, part.corrupted_mask), (part.clean, part.mask))
        frames = [engine.frame(*side) for side in sides]
        ends = [part.ends, part.end]
        if direction == "noising":
            frames, ends = frames[::-1], ends[::-1]
        first, second = frames
        with torch.set_grad_enabled(differentiable):
            base = engine.run(first, x=first.x.detach().requires_grad_(differentiable))
        source = engine.run(second)
        metric = Metric.of(engine.layout, part.answer, part.contrast)
        unequal = None
        if part.counterpart is not None:
            unequal = part.unequal
            source = _brought(source, base, places(part, direction), unequal)
        return cls(engine, base, source, ends[0], positions, first_difference(part), metric, unequal)

    def read(self, final: Float[Tensor, "pair pos d_model"]) -> Float[Tensor, " pair"]:
        """The metric of a whole last residual stream."""
        return self.metric(at_end(final, self.end))

    def entries(self, site: str, positions: bool) -> list[Entry]:
        """Every entry of a site."""
        layout, n = self.engine.layout, len(self.positions)
        if site in RESIDUAL_SITES:
            return [(layer, position) for layer in range(layout.n_layers) for position in range(n)]
        heads = layout.n_kv_heads if site in BY_KEY_VALUE_HEAD else layout.n_heads
        whole = [(layer, head) for layer in range(layout.n_layers) for head in range(heads)]
        return [(*entry, position) for entry in whole for position in range(n)] if positions else whole


def first_difference(part: Batch) -> int:
    """The first position at which any pair's prompts differ."""
    return int(part.differs.any(0).nonzero()[0])


def places(part: Batch, direction: Direction) -> Int[Tensor, "pair pos"]:
    """Of each position of the base run's prompts their counterpart in the source run's, −1 where there is none."""
    here = torch.arange(part.clean.shape[1], device=part.clean.device).expand_as(part.clean)
    if part.counterpart is None:
        return here
    if direction == "noising":
        return part.counterpart
    found = torch.full((len(part), part.clean.shape[1] + 1), NONE, device=part.clean.device)
    # What has no counterpart is written into a column that is cut off.
    into = part.counterpart.masked_fill((part.counterpart == NONE) | ~part.mask, part.clean.shape[1])
    return found.scatter(1, into, here)[:, :-1]


def _brought(source: Pass, base: Pass, at: Int[Tensor, "pair pos"], unequal: Bool[Tensor, " pair"]) -> Pass:
    """The source run's values at the base run's positions; the base's own where the source has no counterpart.

    A pattern has two positions, and weights on keys without a counterpart: of unequal pairs it is the base's own.
    """
    there, index = at != NONE, at.clamp_min(0)

    def moved(values: list[Tensor], own: list[Tensor]) -> list[Tensor]:
        found = []
        for new, old in zip(values, own, strict=True):
            shape = (len(at), *[1] * (new.ndim - 3), at.shape[1], 1)
            new = new.expand(len(at), *new.shape[1:]).gather(-2, index.view(shape).expand(len(at), *new.shape[1:]))
            found.append(torch.where(there.view(shape), new, old.detach()))
        return found

    kept = [
        torch.where(unequal[:, None, None, None], b.detach(), a)
        for a, b in zip(source.pattern, base.pattern, strict=True)
    ]
    named = {name: moved(getattr(source, name), getattr(base, name)) for name in MOVED}
    return replace(source, pattern=kept, **named)


@dataclass(frozen=True)
class _Patch:
    start: int
    site: str
    entries: list[Entry]
    join: Join


def replay(case: Case, wanted: Entries, advance: Advance) -> dict[str, Float[Tensor, "entry pair"]]:
    """The metric of each wanted entry's patched run, in the order given; tells how many are done."""
    found: dict[str, dict[Entry, Tensor]] = {site: {} for site in wanted}
    base = case.read(case.base.final)
    waves: dict[int, list[_Patch]] = {}
    for site, entries in wanted.items():
        for patch in _patches(case, site, entries):
            waves.setdefault(patch.start, []).append(patch)
    for start, patches in waves.items():
        patches.sort(key=lambda patch: (patch.join.layer, patch.join.middle))
        carried = case.engine.carry(case.base, start, case.end, [patch.join for patch in patches])
        reached = case.end >= start
        for patch, final in zip(patches, carried, strict=True):
            values = torch.where(reached, case.metric(final), base)
            found[patch.site].update(zip(patch.entries, values, strict=True))
            advance(len(patch.entries))
    return {
        site: torch.stack([_where_there(case, site, e, found[site].get(e, base)) for e in entries])
        for site, entries in wanted.items()
    }


def _where_there(case: Case, site: str, entry: Entry, value: Tensor) -> Tensor:
    """NaN for the pairs that have no such position, and for the patterns of those whose prompts differ in length."""
    if site == "pattern" and case.unequal is not None:
        value = value.masked_fill(case.unequal, torch.nan)
    if site in HEAD_SITES and len(entry) == 2:
        return value
    return torch.where(case.positions[entry[-1]].any(1), value, torch.nan)


def _patches(case: Case, site: str, entries: Collection[Entry]) -> list[_Patch]:
    """Entries gathered into joins; those that change nothing are left out."""
    if site in RESIDUAL_SITES:
        return [p for entry in entries if (p := _residual(case, site, *entry)) is not None]
    groups: dict[tuple[int, int | None], list[int]] = {}
    for layer, head, *position in entries:
        groups.setdefault((layer, position[0] if position else None), []).append(head)
    found = []
    for (layer, position), heads in groups.items():
        start = case.first if position is None else _start(case, position)
        if start is None:
            continue
        middle = not case.engine.layout.parallel
        make = partial(_heads, case, site, layer, heads, position, start)
        rest = () if position is None else (position,)
        join = Join(layer if middle else layer + 1, middle, len(heads), make)
        found.append(_Patch(start, site, [(layer, head, *rest) for head in heads], join))
    return found


def _start(case: Case, position: int) -> int | None:
    """Where a position first matters; None where the prompts agree up to its end."""
    columns = case.positions[position].any(0).nonzero().flatten()
    columns = columns[columns >= case.first]
    return int(columns[0]) if len(columns) else None


def _residual(case: Case, site: str, layer: int, position: int) -> _Patch | None:
    start = _start(case, position)
    if start is None:
        return None
    base, source, parallel = case.base, case.source, case.engine.layout.parallel
    here = case.positions[position][:, start:, None]
    at, middle = {
        "resid_pre": (layer, False),
        "resid_mid": (layer, True),
        "attn_out": (layer + 1, False) if parallel else (layer, True),
        "mlp_out": (layer + 1, False),
    }[site]

    def make() -> Tensor:
        stream = (base.mlp_in[layer] if middle else base.x[at])[:, start:]
        if site in ("resid_pre", "resid_mid"):
            other = (source.mlp_in[layer] if middle else source.x[layer])[:, start:]
            return torch.where(here, other, stream)[None]
        new, old = (run.attn[layer] if site == "attn_out" else run.mlp[layer] for run in (source, base))
        return torch.where(here, stream + (new - old)[:, start:], stream)[None]

    return _Patch(start, site, [(layer, position)], Join(at, middle, 1, make))


def _heads(case: Case, site: str, layer: int, heads: list[int], position: int | None, start: int) -> Tensor:
    """The streams after the attention of `layer` with each of these heads patched [head, pair, pos, d_model]."""
    change = _z_change(case, site, layer, None if position is None else case.positions[position], start)
    groups = case.engine.layout.n_kv_heads if site in BY_KEY_VALUE_HEAD else case.engine.layout.n_heads
    pairs, _, rows, _ = change.shape
    # [group, pair × pos, heads of the group × d_head], and their output matrices one under another.
    change = change.unflatten(1, (groups, -1)).permute(1, 0, 3, 2, 4)[heads].reshape(len(heads), pairs * rows, -1)
    block = case.engine.blocks[layer]
    written = torch.bmm(change, block.w_o.unflatten(0, (groups, -1)).flatten(1, 2)[heads])
    written = written.view(len(heads), pairs, rows, -1)
    if block.post_attn is not None:
        raw, write = case.base.attn_raw[layer][:, start:], case.base.attn[layer][:, start:]
        written = block.attn_write(raw + written) - write
    return case.base.after_attention(layer, block.parallel)[:, start:] + written


def _z_change(
    case: Case, site: str, layer: int, here: Bool[Tensor, "pair pos"] | None, start: int
) -> Float[Tensor, "pair head row d_head"]:
    """How the z of every query head changes when its own q, k, v, pattern or z is patched (at a position only)."""
    base, source, block = case.base, case.source, case.engine.blocks[layer]
    rows = slice(start, None)
    mask = base.frame.masks[layer][:, :, rows]
    chosen = True if here is None else here[:, None, :, None]

    def mixed(name: str) -> Tensor:
        old, new = getattr(base, name)[layer], getattr(source, name)[layer]
        return new if here is None else torch.where(torch.as_tensor(chosen), new, old)

    q, k, v, pattern = (getattr(base, name)[layer] for name in ("q", "k", "v", "pattern"))
    if site == "z":
        new = mixed("z")[:, :, rows]
    elif site == "pattern":
        new = block.read(mixed("pattern")[:, :, rows], v)
    elif site == "v":
        new = block.read(pattern[:, :, rows], mixed("v"))
    elif site == "q":
        new = block.attend(mixed("q")[:, :, rows], k, v, mask)[1]
    else:
        new = block.attend(q[:, :, rows], mixed("k"), v, mask)[1]
    return new - base.z[layer][:, :, rows]


def estimate(case: Case, wanted: Entries, advance: Advance) -> dict[str, Float[Tensor, "entry pair"]]:
    """The same to first order, from one backward pass: base metric + (source − base) · gradient at the base run."""
    with torch.enable_grad():
        metric = case.read(case.base.final)
        names = {"resid_pre": "x", "resid_mid": "attn", "attn_out": "attn", "mlp_out": "mlp"}
        held = {site: getattr(case.base, names.get(site, site))[: case.engine.layout.n_layers] for site in wanted}
        flat = [tensor for tensors in held.values() for tensor in tensors]
        gradients = iter(torch.autograd.grad(metric.sum(), flat, allow_unused=True))
    found = {}
    for site, entries in wanted.items():
        products = [_product(case, site, layer, next(gradients)) for layer in range(case.engine.layout.n_layers)]
        rows = [_gathered(case, site, products, entry) for entry in entries]
        values = torch.stack(rows) + metric.detach()
        found[site] = torch.stack([_where_there(case, site, e, v) for e, v in zip(entries, values, strict=True)])
        advance(len(entries))
    return found


def _product(case: Case, site: str, layer: int, gradient: Tensor | None) -> Float[Tensor, "pair head pos"]:
    """(source − base) · gradient, summed over all but head (one for residual sites) and position."""
    name = {"resid_pre": "x", "resid_mid": "mlp_in", "attn_out": "attn", "mlp_out": "mlp"}.get(site, site)
    difference = getattr(case.source, name)[layer] - getattr(case.base, name)[layer].detach()
    product = difference.new_zeros(difference.shape[:-1]) if gradient is None else (difference * gradient).sum(-1)
    return product if product.ndim == 3 else product[:, None]


def _gathered(case: Case, site: str, products: Sequence[Tensor], entry: Entry) -> Float[Tensor, " pair"]:
    head = 0 if site in RESIDUAL_SITES else entry[1]
    row = products[entry[0]][:, head]
    whole = site in HEAD_SITES and len(entry) == 2
    return row.sum(1) if whole else (row * case.positions[entry[-1]]).sum(1)
