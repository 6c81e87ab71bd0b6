"""Shapley shares of grafting: what each group of weights is worth, averaged over all orders in which they could be put in.

1. Seven groups that together are every weight: W_Q, W_K of the heads inside a circuit and of those outside, W_V, W_O
   inside and outside, MLPs inside and outside, and the rest (embeddings, norms, the attentions' output biases).
2. Every coalition of groups is grafted, tuned weights in the base: 128 models, each run on the clean prompts.
3. A group's value is its marginal gain, averaged over all orders (Shapley 1953): exact, and the seven add up to the gain,
   also where groups do much together that none does alone, which one-at-a-time grafts count twice or not at all.

Under grouped queries keys and values that heads inside and outside share come with either.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from instar.between.graft import grafted
from instar.circuits.graph import Graph
from instar.circuits.sets import all_heads, all_mlps
from instar.measure.common import about, chosen, clean_logits, foil_differences, metrics, once, pair_coords, pieces
from instar.models.load import Model, weights_now
from instar.models.memory import halving
from instar.models.plain import measured
from instar.models.weights import EMBEDDINGS, NORMS, QKVO, tied, weights
from instar.progress import slow
from instar.tasks.batch import Batch

GROUPS = ("Q,K inside", "Q,K outside", "V,O inside", "V,O outside", "MLPs inside", "MLPs outside", "the rest")
CONVENTION = (
    "tuned weights in the base; a group's gain averaged over all orders of putting groups in; they add up to the gain"
)


@halving
@measured
@torch.no_grad()
def shapley(
    base: Model,
    tuned: Model,
    batch: Batch,
    inside: Sequence[str],
    of: Sequence[str] = ("choosing", "logit_diff"),
    *,
    chunk: int = 64,
) -> xr.Dataset:
    """Shapley values of the seven groups.

    Args:
        inside: heads and MLPs of a circuit (`a0.h1`, `m2`); other nodes' names are passed over.
        of: metrics, as of `instar.ledger`; `choice` (0 or 1: the answer beats every foil) comes with them.

    Returns:
        `value` on `metric, group, pair` (nats, logits, or points of choice accuracy); `base`, `tuned` on `metric, pair`;
        `coalition_value` on `metric, coalition, pair`, with `member` on `coalition, group`; `moved` (‖Δθ‖²) and `parameters`
        on `group`. Each clean prompt once.

    Raises:
        ValueError: for a metric that is not known or not defined, or models of different shapes.
    """
    batch, members = once(batch), _members(Graph.of(base.layout), inside)
    # One matrix at both ends of the one model is two of the other.
    apart = tied(base.layout) != tied(tuned.layout)
    own, theirs = ([weights(model.layout, *some, apart=apart) for some in members] for model in (base, tuned))
    sizes = np.array([sum(w.numel() for w in group) for group in own])
    moved = [_distance(*two) for two in zip(own, theirs, strict=True)]
    values: dict[tuple[int, ...], np.ndarray] = {}
    with slow("coalitions of grafts", 2 ** len(GROUPS)) as advance:
        # What is large is put in first, so that it is put in least often.
        for some in _coalitions(base, tuned, [(i, *members[i]) for i in np.argsort(-sizes).tolist()]):
            values[tuple(sorted(some))] = _read(base, batch, of, chunk)
            advance(1)
    coalitions = [some for size in range(len(GROUPS) + 1) for some in combinations(range(len(GROUPS)), size)]
    every, index = np.stack([values[some] for some in coalitions], 1), {some: i for i, some in enumerate(coalitions)}
    data: dict[str, Any] = {
        "value": (("metric", "group", "pair"), np.stack([_worth(every, index, i) for i in range(len(GROUPS))], 1)),
        "base": (("metric", "pair"), every[:, 0]),
        "tuned": (("metric", "pair"), every[:, -1]),
        "coalition_value": (("metric", "coalition", "pair"), every),
        "member": (("coalition", "group"), np.array([[i in some for i in range(len(GROUPS))] for some in coalitions])),
        "moved": ("group", np.array(moved)),
        "parameters": ("group", sizes),
    }
    coords = {**pair_coords(batch), "metric": [*of, "choice"], "group": list(GROUPS)}
    more = {"base_weights": weights_now(base), "inside": list(inside), "convention": CONVENTION}
    return xr.Dataset(data, coords=coords).assign_attrs(about(tuned, batch, **more))


def _distance(own: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Squared."""
    return sum((float(((a - b).double() ** 2).sum()) for a, b in zip(own, theirs, strict=True)), 0.0)


Group = tuple[int, tuple[str, ...], str]
"""A group's number, its components and their projections."""


def _coalitions(
    base: Model, tuned: Model, groups: Sequence[Group], some: tuple[int, ...] = ()
) -> Iterator[tuple[int, ...]]:
    """Every coalition, one after another, while it is grafted in the base."""
    if not groups:
        yield some
        return
    (number, components, projections), rest = groups[0], groups[1:]
    yield from _coalitions(base, tuned, rest, some)
    with grafted(base, tuned, components, projections) if components else nullcontext():
        yield from _coalitions(base, tuned, rest, (*some, number))


def _members(graph: Graph, inside: Sequence[str]) -> list[tuple[tuple[str, ...], str]]:
    """Components and projections of each group."""
    chosen, found = set(inside), []
    for nodes, projections in ((all_heads(graph), "qk"), (all_heads(graph), "vo"), (all_mlps(graph), QKVO)):
        found += [(tuple(n for n in nodes if (n in chosen) == within), projections) for within in (True, False)]
    return [*found, ((EMBEDDINGS, NORMS), QKVO)]


def _read(model: Model, batch: Batch, of: Sequence[str], chunk: int) -> np.ndarray:
    return np.concatenate(list(_pieces(model, batch, of, chunk)), 1)


def _pieces(model: Model, batch: Batch, of: Sequence[str], chunk: int) -> Iterator[np.ndarray]:
    for part in pieces(batch, model, chunk):
        logits = clean_logits(model.layout, part)
        found = *metrics(logits, part, of).values(), chosen(foil_differences(logits, part))
        yield np.stack([value.cpu().numpy() for value in found])


def _worth(every: np.ndarray, index: dict[tuple[int, ...], int], group: int) -> np.ndarray:
    """Σ over coalitions S without the group of (v(S and it) − v(S)) / (n · C(n − 1, |S|)), by metric and pair."""
    n, total = len(GROUPS), np.zeros_like(every[:, 0])
    for some, i in index.items():
        if group not in some:
            joined = index[tuple(sorted((*some, group)))]
            total += (every[:, joined] - every[:, i]) / (n * comb(n - 1, len(some)))
    return total
