"""Behaviour: is the answer right, by how much, and what was said instead.

`accuracy` of a pair: the answer is the top token of the whole vocabulary. `choice`: the answer beats every foil.
`logit_diff` = logit(answer) − mean logit(foils), in logits; higher is better. `said` sorts the top token into
`SAID`; a foil is told by its place among the givers where the prompt's slots say who gave.

Saying a name, and saying the right one, are two skills. With p over the whole vocabulary at the last real token, and N the
pair's candidates (its answer and all its foils: in every task of the library, and only there, exactly the introduced names):

    naming = log Σ_{n ∈ N} p(n)        choosing = log p(answer) − log Σ_{n ∈ N} p(n)        (nats, at most 0)

so log p(answer) = naming + choosing. `named`: the top token is in N; `accuracy` is `named` and `choice` together. A token
counts once however often it stands among the foils. With fewer than two candidates there is nothing to choose from:
`choosing` is NaN, and the attribute `choosing_undefined` counts such pairs.
"""

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from instar.measure.common import (
    about,
    candidates_of,
    chosen,
    clean_logits,
    foil_differences,
    in_nats,
    joined,
    numpy,
    pieces,
)
from instar.models.load import Model
from instar.models.memory import halving
from instar.models.plain import measured
from instar.tasks.batch import Batch
from instar.tasks.pair import word_ids
from instar.tasks.words import TEST_NAMES, TRAIN_NAMES

CONVENTION = (
    "logit_diff = logit(answer) - mean logit(foils); higher is better. naming = log of the summed probability of answer and "
    "foils, choosing = log p(answer) - naming, in nats"
)
SAID = ("answer", "giver 1", "giver 2", "giver 3", "giver 4", "another name", "no name", "end of text")


@halving
@measured
@torch.no_grad()
def evaluate(model: Model, batch: Batch, *, chunk: int = 64) -> xr.Dataset:
    """Behaviour on the clean prompts, one row a pair.

    Returns:
        `accuracy`, `choice`, `named` (0 or 1), `probability` of the answer, `logit_diff` (logits), `naming`, `choosing`,
        `log_probability` (nats, float64) on `pair`; `foil_diff` (logits, NaN where a pair has fewer foils) on `pair, foil`;
        `said`, an index into the attribute `said_names`.
    """
    parts, names = [], _known_names(model, batch)
    for part in pieces(batch, model, chunk):
        logits = clean_logits(model.layout, part)
        foils = foil_differences(logits, part)
        top = logits.argmax(1)
        candidates = candidates_of(part.answer, part.foils)
        parts.append(
            {
                **{name: value.numpy() for name, value in in_nats(logits, candidates).items()},
                "named": (top[:, None] == candidates).any(1).cpu().numpy().astype(np.int8),
                "accuracy": (top == part.answer).cpu().numpy().astype(np.int8),
                "choice": chosen(foils).cpu().numpy().astype(np.int8),
                "probability": numpy(logits.softmax(1).gather(1, part.answer[:, None])[:, 0]),
                "logit_diff": numpy(foils.nanmean(1)),
                "foil_diff": numpy(foils),
                "said": _said(top, part, names, model.tokenizer),
            }
        )
    dims: dict[str, tuple[str, ...]] = dict.fromkeys(parts[0], ("pair",))
    dataset = joined(parts, dims | {"foil_diff": ("pair", "foil")}, batch)
    undefined = int(np.isnan(dataset["choosing"].values).sum())
    own = {"said_names": list(SAID), "convention": CONVENTION, "choosing_undefined": undefined}
    return dataset.assign_attrs(about(model, batch, **own))


def _known_names(model: Model, batch: Batch) -> Tensor:
    """Token ids of all names: those at play in the batch, and those of instar's pools that are one token."""
    ids = torch.cat([batch.answer, batch.foils.flatten(), batch.contrast.flatten()])
    pool: list[list[int]] = []
    if model.tokenizer is not None:
        pool = [word_ids(model.tokenizer, name) for name in TRAIN_NAMES + TEST_NAMES]
    single = torch.tensor([row[0] for row in pool if len(row) == 1], dtype=ids.dtype)
    ids = torch.cat([ids.cpu(), single]).unique()
    return ids[ids >= 0].to(model.device)


def _said(top: Tensor, part: Batch, names: Tensor, tokenizer: object) -> np.ndarray:
    said = torch.full_like(top, SAID.index("no name"))
    said[torch.isin(top, names)] = SAID.index("another name")
    eos = getattr(tokenizer, "eos_token_id", None)
    if eos is not None:
        said[top == eos] = SAID.index("end of text")
    for slot, name in enumerate(part.slot_names):
        if name.startswith("giver"):
            # A pair without that giver has no position in the slot, and so no match.
            given = ((part.slots == slot) & (part.clean == top[:, None])).any(1)
            said[given] = SAID.index(f"giver {name.removeprefix('giver')}")
    said[top == part.answer] = SAID.index("answer")
    return said.cpu().numpy().astype(np.int8)
