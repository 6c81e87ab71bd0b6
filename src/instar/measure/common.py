"""What every measurement shares: going through a batch in pieces, and the answer's direction in the residual stream."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from instar.models.arch import Layout
from instar.models.load import Model, weights_now
from instar.models.replay import LIVE_BYTES, at_once
from instar.models.taps import logits_at, record
from instar.tasks.batch import Batch
from instar.tasks.fitting import NAMED
from instar.tasks.frame import form_of


def pieces(batch: Batch, model: Model, size: int) -> Iterator[Batch]:
    """The batch in consecutive pieces of at most `size` pairs, on the model's device."""
    for rows in _alike(np.arange(len(batch)), batch, model, size):
        yield to(batch[slice(rows[0], rows[-1] + 1)], model.device)


def sorted_pieces(batch: Batch, model: Model, size: int) -> Iterator[tuple[np.ndarray, Batch]]:
    """The batch in pieces of alike pairs (length, then where the prompts first differ), with the pairs' indices.

    A replay does the rows between a piece's first difference and its longest prompt: alike pairs waste none.
    """
    first = batch.differs.int().argmax(1)
    order = np.lexsort((first.cpu().numpy(), torch.maximum(batch.end, batch.ends).cpu().numpy()))
    for rows in _alike(order, batch, model, size):
        yield rows, to(batch[rows], model.device)


def _alike(order: np.ndarray, batch: Batch, model: Model, size: int) -> Iterator[np.ndarray]:
    """Rows in their order, `size` at a time, and never two that the model would rotate in different ways."""
    limit = model.layout.rotates_otherwise_beyond
    beyond = torch.maximum(batch.end, batch.ends).cpu().numpy()[order] >= (np.inf if limit is None else limit)
    for rows in np.split(order, np.flatnonzero(beyond[1:] != beyond[:-1]) + 1):
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def fitting(size: int, batch: Batch, model: Model, sources: int) -> int:
    """How many pairs a pass may have where every source's output is held: large models' are megabytes a pair."""
    floats = sources * batch.clean.shape[1] * model.layout.d_model
    return max(1, min(size, at_once(LIVE_BYTES, model.device) // (floats * model.module.dtype.itemsize)))


def prompts(batch: Batch) -> np.ndarray:
    """Which pairs share their clean prompt: an index from 0 for each. They are one draw, and resampled together."""
    return np.unique(batch.clean.cpu().numpy(), axis=0, return_inverse=True)[1].reshape(-1)


def to(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    from dataclasses import fields, replace

    moved = {f.name: getattr(batch, f.name) for f in fields(batch)}
    # What was made under inference mode cannot be saved for gradients.
    own = {k: v.clone() if v.is_inference() else v for k, v in moved.items() if isinstance(v, Tensor)}
    return replace(batch, **{k: v.to(device) for k, v in own.items()})


def at_end(x: Float[Tensor, "pair pos d_model"], end: Int[Tensor, " pair"]) -> Float[Tensor, "pair d_model"]:
    """The rows of the last real tokens."""
    return x[torch.arange(len(end), device=x.device), end]


def foil_weights(foils: Int[Tensor, "pair foil"]) -> Float[Tensor, "pair foil"]:
    """Equal weights over the real foils of each row, 0 on padding. On the CPU: Apple's GPUs have no float64."""
    real = (foils >= 0).cpu().double()
    return real / real.sum(1, keepdim=True)


def foil_values(
    logits: Float[Tensor, "pair vocabulary"], foils: Int[Tensor, "pair foil"]
) -> Float[Tensor, "pair foil"]:
    """The logit of each foil, NaN on padding."""
    return logits.gather(1, foils.clamp_min(0)).masked_fill(foils < 0, torch.nan)


def candidates_of(answer: Int[Tensor, " pair"], foils: Int[Tensor, "pair foil"]) -> Int[Tensor, "pair candidate"]:
    """The answer, then every other token it is chosen among, each once; −1 where there are no more."""
    ids = torch.cat([answer[:, None], foils], 1)
    twice = (ids[:, :, None] == ids[:, None]).tril(-1).any(2)
    return ids.masked_fill(twice | (ids < 0), -1)


def in_nats(
    logits: Float[Tensor, "pair vocabulary"], candidates: Int[Tensor, "pair candidate"]
) -> dict[str, Float[Tensor, " pair"]]:
    """`naming`, `choosing` (NaN for fewer than two candidates) and `log_probability`, as of `instar.measure.evaluate`.

    In float64, and so on the CPU: Apple's GPUs have none.
    """
    logits, candidates = logits.cpu().double(), candidates.cpu()
    own = logits.gather(1, candidates.clamp_min(0)).masked_fill(candidates < 0, -torch.inf)
    answer, among, every = own[:, 0], own.logsumexp(1), logits.logsumexp(1)
    few = (candidates >= 0).sum(1) < 2
    choosing = (answer - among).masked_fill(few, torch.nan)
    return {"naming": among - every, "choosing": choosing, "log_probability": answer - every}


def clean_logits(layout: Layout, part: Batch) -> Float[Tensor, "pair vocabulary"]:
    """The logits of the clean prompts' last tokens; gradients flow."""
    return logits_at(layout, record(layout, part.clean, part.mask).final, part.end)


def foil_differences(logits: Float[Tensor, "pair vocabulary"], part: Batch) -> Float[Tensor, "pair foil"]:
    """logit(answer) − the logit of each foil, NaN on padding; its mean is the logit difference."""
    return logits.gather(1, part.answer[:, None]) - foil_values(logits, part.foils)


def chosen(differences: Float[Tensor, "pair foil"]) -> Bool[Tensor, " pair"]:
    """Whether the answer beats every foil."""
    return differences.nan_to_num(nan=torch.inf).amin(1) > 0


METRICS = ("choosing", "naming", "log_probability", "logit_diff")


def metrics(
    logits: Float[Tensor, "pair vocabulary"], part: Batch, of: Sequence[str]
) -> dict[str, Float[Tensor, " pair"]]:
    """Of `METRICS`, what is asked of the last token's logits, in float64; gradients flow.

    Raises:
        ValueError: for a metric that is unknown or not defined for a pair.
    """
    unknown = [name for name in of if name not in METRICS]
    if unknown or not of:
        raise ValueError(f"of: {unknown or of!r} is none of {', '.join(METRICS)}")
    found = {}
    if set(of) - {"logit_diff"}:
        found |= in_nats(logits, candidates_of(part.answer, part.foils))
    if "logit_diff" in of:
        found["logit_diff"] = foil_differences(logits, part).cpu().double().nanmean(1)
    for name in of:
        if bool(found[name].isnan().any()):
            raise ValueError(f"{name}: not defined where a pair has fewer than two candidates; ask for log_probability")
    return {name: found[name] for name in of}


def once(batch: Batch) -> Batch:
    """Each clean prompt once."""
    return batch[np.sort(np.unique(prompts(batch), return_index=True)[1])]


@dataclass(frozen=True)
class Readout:
    """The direction in the normed residual stream whose dot product is the logit difference, and its offset."""

    vector: Float[Tensor, "pair d_model"]
    offset: Float[Tensor, " pair"]
    """What the unembedding's own bias adds."""


def answer_direction(model: Model, answer: Int[Tensor, " pair"], foils: Int[Tensor, "pair foil"]) -> Readout:
    """Unembedding of the answer minus the mean of the foils'. `norm(x) @ vector + offset` is the logit difference."""
    unembed = model.layout.unembed
    weights = foil_weights(foils).to(unembed.weight)
    rows = unembed.weight[foils.clamp_min(0)]
    vector = unembed.weight[answer] - torch.einsum("pf,pfd->pd", weights, rows)
    bias = unembed.bias if unembed.bias is not None else unembed.weight.new_zeros(unembed.weight.shape[0])
    offset = bias[answer] - (weights * bias[foils.clamp_min(0)]).sum(1)
    return Readout(vector, offset)


def numpy(x: Tensor) -> Any:
    """A float tensor as a float32 array (float64 stays)."""
    x = x.detach().cpu()
    return (x if x.dtype == torch.float64 else x.float()).numpy()


def about(model: Model, batch: Batch, **more: Any) -> dict[str, Any]:
    """The attributes that every result carries: how it was made."""
    from instar import __version__

    own = {
        "instar": __version__,
        "model": model.name,
        "weights": weights_now(model),
        "dtype": str(model.module.dtype).removeprefix("torch."),
        "device": model.device.type,
        "task": batch.task,
        "counterfactual": batch.counterfactual,
        "prompts": "tokens" if model.tokenizer is None else form_of(model.tokenizer),
        **model.facts,
        **_by_tokens(batch),
        **more,
    }
    return {k: v if _fits_a_file(v) else json.dumps(v) for k, v in own.items()}


def _by_tokens(batch: Batch) -> dict[str, str]:
    """What is to be said where words are of several tokens, or prompts of different lengths; else nothing."""
    found = {}
    if batch.reads:
        several, alike = sum(r.several for r in batch.reads), sum(len(r.alike) for r in batch.reads)
        places = sorted(Counter(len(r.lead) + 1 for r in batch.reads).items())
        found["answer_tokens"] = (
            f"{several} of {len(batch)} pairs have an answer or foils of several tokens; read is the first of the answer's "
            f"tokens that differs from a foil's: {', '.join(f'token {k} of {n}' for k, n in places)}"
            + (f"; {alike} foils are still alike there and not compared" if alike else "")
        )
    if batch.left_out:
        found["left_out"] = _of(len(batch.left_out), len(batch) + len(batch.left_out), batch.left_out)
    if count := int(batch.unequal.sum()):
        names = [batch.pairs[i].clean for i in batch.unequal.nonzero()[:, 0].tolist()] if batch.pairs else []
        found["unequal"] = _of(count, len(batch), names)
    return found


def _of(count: int, total: int, names: Sequence[str]) -> str:
    first = "; ".join(names[:NAMED]) + ("; …" if len(names) > NAMED else "")
    return f"{count} of {total} pairs, whose clean and corrupted prompts differ in tokens: {first}"


def _fits_a_file(value: Any) -> bool:
    """Whether netCDF takes it as an attribute: text, a number, or a list of these."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, str | int | float) for one in value)
    return isinstance(value, str | int | float)


def pair_coords(batch: Batch) -> dict[str, Any]:
    """Coordinates of the `pair` axis: which base prompt, the answer's place, the wording."""
    index = np.arange(len(batch))
    return {
        "pair": index,
        "place": ("pair", np.array([p.place for p in batch.pairs]) if batch.pairs else 0 * index),
        "wording": (
            "pair",
            np.array([p.wording for p in batch.pairs] if batch.pairs else [""] * len(index), dtype=str),
        ),
    }


def joined(parts: list[dict[str, Any]], dims: dict[str, tuple[str, ...]], batch: Batch, **coords: Any) -> xr.Dataset:
    """Pieces' arrays, concatenated along `pair`, as one dataset."""
    data = {name: (names, np.concatenate([part[name] for part in parts])) for name, names in dims.items()}
    return xr.Dataset(data, coords={**pair_coords(batch), **coords})
