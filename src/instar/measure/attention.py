"""Attention patterns of every head, averaged by slot, and whole for a few chosen prompts.

Prompts of different wordings have their givers at different positions, so patterns are averaged by *slot* (a hole of the
template): the weight of a query slot on a key slot is summed over the key slot's positions and averaged over the query
slot's. Rows over key slots sum to 1.
"""

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from instar.measure.common import about, joined, numpy, pieces
from instar.models.load import Model
from instar.models.memory import halving
from instar.models.plain import measured
from instar.models.taps import record
from instar.tasks.batch import Batch


@halving
@measured
@torch.no_grad()
def attention(model: Model, batch: Batch, *, examples: int = 2, chunk: int = 32) -> xr.Dataset:
    """Patterns of the clean prompts.

    Returns:
        `from_end` on `pair, layer, head, key_slot`: attention of the last token. `by_slot` on
        `layer, head, query_slot, key_slot`: the mean over pairs that have both slots. `example` on
        `shown, layer, head, query, key`: whole patterns of the first `examples` prompts (NaN on padding), with their
        tokens in the attribute `tokens`.
    """
    parts, total, count = [], 0.0, 0.0
    for part in pieces(batch, model, chunk):
        patterns = torch.stack(record(model.layout, part.clean, part.mask, keep=("pattern",))["pattern"], 1)
        belongs = torch.nn.functional.one_hot(part.slots + 1, len(part.slot_names) + 1)[..., 1:].to(patterns)
        to_slot = torch.einsum("plhqk,pks->plhqs", patterns, belongs)
        sums = torch.einsum("plhqs,pqt->plhts", to_slot, belongs)
        sizes = belongs.sum(1)
        total = total + (sums / sizes.clamp_min(1)[:, None, None, :, None]).cpu().double().sum(0)
        count = count + (sizes > 0).cpu().double().sum(0)
        parts.append({"from_end": numpy(to_slot[torch.arange(len(part)), :, :, part.end])})
    axes = {"layer": np.arange(model.layout.n_layers), "head": np.arange(model.layout.n_heads)}
    dataset = joined(
        parts, {"from_end": ("pair", "layer", "head", "key_slot")}, batch, key_slot=np.array(batch.slot_names), **axes
    )
    mean = numpy((torch.as_tensor(total) / torch.as_tensor(count).clamp_min(1)[None, None, :, None]).float())
    dataset["by_slot"] = (("layer", "head", "query_slot", "key_slot"), mean)
    dataset = dataset.assign_coords(query_slot=np.array(batch.slot_names))
    shown, tokens = _examples(model, batch, min(examples, len(batch)))
    dataset["example"] = (("shown", "layer", "head", "query", "key"), shown)
    return dataset.assign_attrs(
        about(model, batch, tokens=tokens, convention="rows are queries and sum to 1 over key slots")
    )


def _examples(model: Model, batch: Batch, count: int) -> tuple[Any, list[str]]:
    """Whole patterns of the first prompts, and their tokens joined by newlines."""
    if count == 0:
        layers, heads = model.layout.n_layers, model.layout.n_heads
        return np.zeros((0, layers, heads, 1, 1), np.float32), []
    part = next(pieces(batch[slice(0, count)], model, count))
    patterns: Float[Tensor, "shown layer head query key"] = torch.stack(
        record(model.layout, part.clean, part.mask, keep=("pattern",))["pattern"], 1
    )
    real = part.mask[:, None, None, :, None] & part.mask[:, None, None, None, :]
    texts = []
    for row, end in zip(part.clean, part.end, strict=True):
        ids = row[: int(end) + 1].tolist()
        texts.append("\n".join(_text(model.tokenizer, i) for i in ids))
    return numpy(patterns.masked_fill(~real, torch.nan)), texts


def _text(tokenizer: Any, token: int) -> str:
    text = str(token) if tokenizer is None else tokenizer.decode([token])
    return text.replace("\n", "⏎")
