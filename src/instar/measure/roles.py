"""Roles of heads: what each does in a prompt, in the terms that indirect-object identification was described in.

1. On random tokens said twice: heads that look at the token before (*previous token*), at the same token earlier
   (*duplicate token*, arXiv 2211.00593) and at what came after it (*induction*, arXiv 2209.11895).
2. On the task: *name-movers*, whose last token attends to the answer and whose output there says it; the negative of
   that is a negative name-mover.
3. *S-inhibition*: with this head's output taken from a prompt in which a giver bears the answer's name, how much of the
   later name-movers' attention goes from the answer to that giver. Once for each giver.

A score says how alike a head is to one of these; it does not say that the model needs the head for it.
"""

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from instar.measure.common import about, answer_direction, numpy, pair_coords, sorted_pieces
from instar.measure.patches import Case
from instar.measure.writes import head_writes
from instar.models.load import Model
from instar.models.memory import halving
from instar.models.plain import measured
from instar.models.replay import LIVE_BYTES, Engine, at_once, mask_row, pick, picked, rows_at_once, rows_of, spread
from instar.models.taps import record
from instar.tasks.batch import Batch

TOWARD = ("answer", "changed", "same_word")
TOP = 5
SMALL_VOCABULARY = 2**14
"""Up to this many tokens the whole vocabulary is unembedded for every head and pair."""
Movers = dict[int, list[int]]


@halving
@measured
@torch.no_grad()
def roles(
    model: Model,
    batches: dict[str, Batch],
    *,
    seed: int = 0,
    repeats: int = 32,
    length: int = 24,
    movers: int = 3,
    top5: bool | None = None,
    chunk: int = 32,
) -> xr.Dataset:
    """Scores of every head for every role, unreduced, so that intervals can be had.

    Args:
        batches: for each counterfactual (`giver1`, `giver2`, …) the same clean prompts beside prompts with it.
        seed: of the random tokens, in `repeats` sequences of `length`, said twice (fewer where the context or the
            vocabulary is shorter), after the beginning-of-text token where the tokenizer puts one. A sliding window
            shorter than `length` hides the earlier occurrence: such layers' duplicate-token and induction scores are 0.
        movers: how many name-movers S-inhibition is read at.
        top5: find `copy_top5` (None: if the vocabulary is at most 16,384, for all of it is unembedded).

    Returns:
        `previous_token`, `duplicate_token`, `induction` on `sequence, layer, head`: mean attention of the second half.
        On `pair, layer, head`: `to_slot` (and `target`), attention of the last token to the `answer` and each giver's
        slot (or to what is `changed`, if by no giver); `copying`, logits, answer minus mean of the foils, of what the
        head makes of the answer's position, under the final norm as it is on that alone; `copy_top5`, 1 if the answer
        is then among the five highest tokens, else 0; `name_mover`, attention to the answer × copying. NaN where the
        prompt does not hold the answer.
        On `counterfactual, pair, layer, head`: `s_inhibition`, positive if the head holds the name-movers' attention on
        the answer and off that giver; `mover_shift` (and `toward`), their attention in the clean run minus in the
        patched one to the `answer`, the `changed` position, the `same_word` elsewhere. NaN before no later name-mover.
        Attribute `name_movers`: for each patched layer, the heads at which these were read.

    Raises:
        ValueError: without batches, where their clean prompts differ, or where no three random tokens fit.
    """
    batches = _aligned(batches)
    first = _same_prompts(batches)
    layout = model.layout
    masks, targets, of = _targets(batches)
    small = layout.unembed.weight.shape[0] <= SMALL_VOCABULARY
    data = _on_repeats(model, seed, repeats, length, chunk)
    on_task = _on_task(model, first, masks, small if top5 is None else top5, chunk)
    data |= {name: (("pair", "layer", "head", "target")[: v.ndim], v) for name, v in on_task.items()}
    chosen = [_later_movers(on_task["name_mover"], layer, movers) for layer in range(layout.n_layers)]
    engine = Engine(layout)
    shift = np.stack([_shift(engine, b, _toward(b, masks[of[n]]), chosen, chunk, model) for n, b in batches.items()])
    data["mover_shift"] = (("counterfactual", "pair", "layer", "head", "toward"), shift)
    data["s_inhibition"] = (("counterfactual", "pair", "layer", "head"), shift[..., 0] - shift[..., 1])
    coords = {"layer": np.arange(layout.n_layers), "head": np.arange(layout.n_heads), "target": targets}
    coords |= {"counterfactual": list(batches), "toward": list(TOWARD)}
    names = [" ".join(f"a{at}.h{h}" for at, heads in found.items() for h in heads) for found in chosen]
    more = {"counterfactual": list(batches), "name_movers": names, "seed": seed}
    convention = "noising, one head's z at every position; clean minus patched attention of later name-movers"
    return xr.Dataset(data, coords={**pair_coords(first), **coords}).assign_attrs(
        about(model, first, convention=convention, **more)
    )


def repeated_tokens(model: Model, seed: int, repeats: int, length: int) -> tuple[Int[Tensor, "sequence pos"], int]:
    """Different random tokens, then the same ones again, and how many stand before them (0 or 1, if the tokenizer does).

    No token occurs twice in one half, so that its earlier occurrence is one position.
    """
    config, tokenizer = model.module.config, model.tokenizer
    limit = getattr(config, "max_position_embeddings", None)
    known = set(range(model.layout.unembed.weight.shape[0]))
    if tokenizer is None:
        ends = [getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad")]
        special = {i for e in ends for i in (e if isinstance(e, list) else [e])}
        start: list[int] = []
    else:
        known &= set(tokenizer.get_vocab().values())
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        bos = tokenizer.bos_token_id
        start = [bos] if bos is not None and tokenizer("to")["input_ids"][:1] == [bos] else []
    usable = torch.tensor(sorted(known - special))
    length = min(length, len(usable), length if limit is None else (limit - len(start)) // 2)
    if length < 3:
        raise ValueError(f"repeated tokens: {length} fit into this model's context and vocabulary; 3 are needed")
    draw = torch.rand(repeats, len(usable), generator=torch.Generator().manual_seed(seed))
    half = usable[draw.topk(length, dim=1).indices]
    return torch.cat([torch.tensor(start, dtype=half.dtype).expand(repeats, -1), half, half], 1), len(start)


def _on_repeats(model: Model, seed: int, repeats: int, length: int, chunk: int) -> dict[str, Any]:
    tokens, before = repeated_tokens(model, seed, repeats, length)
    length = (tokens.shape[1] - before) // 2
    second = torch.arange(before + length, tokens.shape[1])
    keys = {"previous_token": second - 1, "duplicate_token": second - length, "induction": second - length + 1}
    found: dict[str, list[np.ndarray]] = {name: [] for name in keys}
    for part in tokens.split(chunk):
        patterns = record(model.layout, part.to(model.device), keep=("pattern",))["pattern"]
        for name, key in keys.items():
            found[name].append(numpy(torch.stack([p[:, :, second, key].mean(-1) for p in patterns], 1)))
    return {name: (("sequence", "layer", "head"), np.concatenate(parts)) for name, parts in found.items()}


def _aligned(batches: dict[str, Batch]) -> dict[str, Batch]:
    """The pairs that go position by position under every corruption: roles are read at positions."""
    if all(batch.counterpart is None for batch in batches.values()):
        return batches
    _same_prompts(batches)
    apart = torch.stack([batch.unequal for batch in batches.values()]).any(0)
    return {name: batch.without(apart) for name, batch in batches.items()}


def _same_prompts(batches: dict[str, Batch]) -> Batch:
    if not batches:
        raise ValueError("roles: no batches; give one for each counterfactual, {'giver1': batch, …}")
    first = next(iter(batches.values()))
    for name, batch in batches.items():
        alike = ((getattr(batch, k), getattr(first, k)) for k in ("clean", "mask", "answer"))
        if not all(torch.equal(a, b) for a, b in alike):
            raise ValueError(
                f"roles: {name!r} has other clean prompts than {next(iter(batches))!r}; use one seed for all"
            )
    return first


def _targets(batches: dict[str, Batch]) -> tuple[Bool[Tensor, "target pair pos"], list[str], dict[str, int]]:
    """Where the targets are, their names, and each counterfactual's own target."""
    first = next(iter(batches.values()))
    slots = first.slot_names
    masks = {"answer": _answer(first)}
    by_slot = {name for name in batches if name in slots and name.startswith("giver")}
    if by_slot:
        masks |= {s: first.slots == i for i, s in enumerate(slots) if s.startswith("giver")}
    others = [name for name in batches if name not in by_slot]
    own = {name: name if name in by_slot else "changed" if len(others) == 1 else f"changed {name}" for name in batches}
    masks |= {own[n]: (batches[n].clean != batches[n].corrupted) & first.mask for n in others}
    names = list(masks)
    return torch.stack(list(masks.values())), names, {n: names.index(target) for n, target in own.items()}


def _answer(batch: Batch) -> Bool[Tensor, "pair pos"]:
    """Where the answer's token stands: as it is introduced, where it is, or else anywhere."""
    here = (batch.clean == batch.answer[:, None]) & batch.mask
    introductions = [i for i, name in enumerate(batch.slot_names) if name.startswith("intro")]
    introduced = here & torch.isin(batch.slots, torch.tensor(introductions, dtype=batch.slots.dtype))
    return torch.where(introduced.any(1, keepdim=True), introduced, here)


def _toward(batch: Batch, changed: Bool[Tensor, "pair pos"]) -> Bool[Tensor, "toward pair pos"]:
    same = (batch.clean[:, :, None] == batch.clean[:, None]) & changed[:, None]
    return torch.stack([_answer(batch), changed, same.any(2) & ~changed & batch.mask])


def _on_task(model: Model, batch: Batch, masks: Tensor, top5: bool, chunk: int) -> dict[str, np.ndarray]:
    layout = model.layout
    shape = (len(batch), layout.n_layers, layout.n_heads)
    parts: dict[str, np.ndarray] = {}
    for rows, part in sorted_pieces(batch, model, chunk):
        seen = record(layout, part.clean, part.mask, keep=("pattern", "v"))
        at = torch.arange(len(part), device=model.device)
        from_end = torch.stack([p[at, :, part.end] for p in seen["pattern"]], 1)
        here = masks[:, rows, : part.clean.shape[1]].to(from_end)
        to_slot = torch.einsum("plhk,tpk->plht", from_end, here)
        found = {"to_slot": to_slot} | _copied(model, part, seen["v"], here[0], top5)
        missing = (here[0].sum(1) == 0)[:, None, None]
        to_slot[..., 0].masked_fill_(missing, torch.nan)
        found = {n: v if n == "to_slot" else v.masked_fill(missing, torch.nan) for n, v in found.items()}
        found["name_mover"] = found["to_slot"][..., 0] * found["copying"]
        for name, value in found.items():
            array = numpy(value)
            parts.setdefault(name, np.empty(shape + array.shape[3:], array.dtype))[rows] = array
    return parts


def _copied(model: Model, part: Batch, values: list[Tensor], here: Tensor, top5: bool) -> dict[str, Tensor]:
    """What the answer's position says through each head's OV alone (of several such positions: their mean)."""
    layout = model.layout
    direction = answer_direction(model, part.answer, part.foils)
    weights = here / here.sum(1, keepdim=True).clamp_min(1)
    copying, among = [], []
    for layer, v in enumerate(values):
        v = torch.einsum("pgkd,pk->pgd", v, weights).repeat_interleave(layout.n_heads // layout.n_kv_heads, 1)
        wrote = torch.einsum("phd,hdm->phm", v, layout.w_o(layer))
        post = layout.part(layer, layout.arch.post_attn)
        normed = layout.final_norm(wrote if post is None else post(wrote))
        copying.append((normed * direction.vector[:, None]).sum(-1) + direction.offset[:, None])
        if top5:
            answers = part.answer[:, None].expand(normed.shape[:2]).flatten()
            among.append(_at_top(layout.unembed, normed.flatten(0, 1), answers).view(normed.shape[:2]))
    return {"copying": torch.stack(copying, 1)} | ({"copy_top5": torch.stack(among, 1)} if top5 else {})


def _at_top(unembed: Any, normed: Float[Tensor, "row d_model"], answer: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    """1 where the answer is among the TOP of the vocabulary, ties lost; as many rows at a time as memory is for."""
    size = max(1, at_once(LIVE_BYTES, normed.device) // (unembed.weight.shape[0] * normed.element_size()))
    found = []
    for rows, tokens in zip(normed.split(size), answer.split(size), strict=True):
        logits = unembed(rows)
        found.append((logits >= logits.gather(1, tokens[:, None])).sum(1) <= TOP)
    return torch.cat(found).to(normed)


def _later_movers(name_mover: np.ndarray, layer: int, count: int) -> Movers:
    """The heads after a layer with the highest mean name-mover score, as far as that is positive."""
    real = ~np.isnan(name_mover[:, 0, 0])
    mean = name_mover[real].mean(0) if real.any() else np.zeros(name_mover.shape[1:])
    mean[: layer + 1] = -np.inf
    found: Movers = {}
    for index in np.argsort(-mean, axis=None, kind="stable")[:count]:
        at, head = (int(i) for i in np.unravel_index(index, mean.shape))
        if mean[at, head] > 0:
            found.setdefault(at, []).append(head)
    return dict(sorted(found.items()))


def _shift(
    engine: Engine, batch: Batch, toward: Tensor, chosen: list[Movers], chunk: int, model: Model
) -> Float[np.ndarray, "pair layer head toward"]:
    """How much of the chosen heads' attention leaves each position when one head's output is the corrupted prompt's."""
    layout = engine.layout
    dtype = np.float64 if model.module.dtype == torch.float64 else np.float32
    values = np.full((len(batch), layout.n_layers, layout.n_heads, len(TOWARD)), np.nan, dtype)
    for rows, part in sorted_pieces(batch, model, chunk):
        here = toward[:, rows, : part.clean.shape[1]].to(model.device)
        case = Case.of(engine, part, here, "noising")
        at = torch.arange(len(part), device=model.device)
        for layer, movers in enumerate(chosen):
            if movers:
                own = [case.base.pattern[m][at, :, part.end][:, heads] for m, heads in movers.items()]
                moved = torch.cat(own, 1).mean(1) - _patched_attention(case, layer, movers)
                values[rows, layer] = numpy(torch.einsum("hpk,tpk->pht", moved, here.to(moved)))
    values[~toward[0].any(1).cpu().numpy()] = np.nan
    return values


def _patched_attention(case: Case, layer: int, movers: Movers) -> Float[Tensor, "head pair key"]:
    """The movers' mean attention at the last token with each head of `layer` patched, a few heads at a time."""
    block, base, start = case.engine.blocks[layer], case.base, case.first
    change = case.source.z[layer][:, :, start:] - base.z[layer][:, :, start:]
    pairs, heads, rows, _ = change.shape
    found = []
    several = max(1, rows_at_once(base.final) // (pairs * rows))
    for some in torch.arange(heads, device=change.device).split(several):
        wrote = change.new_empty(len(some), pairs, rows, block.w_o.shape[-1])
        head_writes(block.w_o[some], change[:, some], out=wrote)
        if block.post_attn is not None:
            wrote = block.attn_write(base.attn_raw[layer][:, start:] + wrote) - base.attn[layer][:, start:]
        x = (base.after_attention(layer, block.parallel)[:, start:] + wrote).flatten(0, 1)
        x = x if block.parallel else x + block.mlp(x)
        found.append(_attention_of(case, x, layer + 1, movers).unflatten(0, (len(some), pairs)))
    return torch.cat(found)


def _attention_of(case: Case, x: Tensor, layer: int, movers: Movers) -> Float[Tensor, "row key"]:
    """Streams [patch × pair, pos, d_model] before `layer`, carried to the last of the movers."""
    base, start, times, last = case.base, case.first, len(x) // len(case.end), max(movers)
    end = case.end.repeat(times) - start
    seen: list[Tensor] = []
    for at in range(layer, last + 1):
        block = case.engine.blocks[at]
        normed, rotary = block.normed(x), rows_of(spread(base.frame.rotary[at], times), start)
        k, v = (block.finish(p, block.project(p, normed), rotary) for p in ("k", "v"))
        if start:
            left = (old[at][:, :, :start].repeat(times, 1, 1, 1) for old in (base.k, base.v))
            k, v = (torch.cat(both, 2) for both in zip(left, (k, v), strict=True))
        mask = spread(base.frame.masks[at][:, :, start:], times)
        if at == last:
            normed, mask, rotary = pick(normed, end), mask_row(mask, end), picked(rotary, end)
        pattern, z = block.attend(block.finish("q", block.project("q", normed), rotary), k, v, mask)
        row = pattern[:, :, 0] if at == last else pick(pattern.transpose(1, 2), end)[:, 0]
        seen.append(row[:, movers.get(at, [])])
        if at < last:
            attended = x + block.attn_write(block.out(z))
            x = attended + block.mlp(x if block.parallel else attended)
    return torch.cat(seen, 1).mean(1)
