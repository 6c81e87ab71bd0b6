"""Tunings after which nothing may be claimed, or nothing else: how often the answer, or a diff of circuits, cries wolf.

1. *Nothing changed*: moves that leave a model's function as it is (`instar.calibrate.moves`), one by one and all together.
   Right is "no new ability", the old task kept, no circuit, head or edge changed.
2. *Nearly nothing*: two short trainings on general text that differ in the order of the data. They do change weights; only
   "no new ability" and "no changed circuit beyond chance" are counted.
3. *Moved afterwards*: a planted truth, then moves. Right is the same word, or "undetermined".
4. *Growing*: from the base to a planted truth along a straight line, for the power curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from instar.calibrate.moves import MOVES, moved
from instar.calibrate.planted import Plant, Subject, rewired, rewired_and_amplified
from instar.calibrate.tuning import again, copied, descend, everything
from instar.circuits.circuit import FAITHFUL, Circuit
from instar.circuits.graph import Graph
from instar.circuits.selection import at_least, ranking
from instar.compare.diff import diff
from instar.compare.floors import overlaps
from instar.measure.edges import edges
from instar.models.coordinates import in_coordinates_of
from instar.models.load import Model
from instar.models.organism.corpus import stories
from instar.stats.intervals import resamples
from instar.tasks.batch import Batch
from instar.training.train import collate

EVERY = "all moves"
SINGLE = tuple(f"moved: {name}" for name in (*MOVES, EVERY))
NEAR = "another order of general text"
AFTER = ", moved afterwards"
GROWING = "rewired, grown to "
SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
SCORED, DRAWS = 32, 100
TEXT_STEPS, TEXT_ROWS, TEXT_RATE, LONGEST = 30, 16, 1e-4, 64


def only_moved(subject: Subject, kind: str, seed: int) -> Plant:
    """The base after one move, or all of them; what a family forbids is skipped."""
    name = kind.removeprefix("moved: ")
    tuned, skipped = moved(subject.model, *(MOVES if name == EVERY else (name,)), seed=seed)
    # A move that could not be made is no instance of anything.
    return Plant(subject.model, tuned, {"skipped": float(len(skipped))}, name == EVERY or not skipped)


def on_text(subject: Subject, seed: int) -> Plant:
    """Two trainings on the same stories in two orders."""
    texts = [" ".join(words) for words in islice(stories(seed=1000 + seed), TEXT_STEPS * TEXT_ROWS)]
    one, other = (_on(subject.model, texts, order) for order in (2 * seed, 2 * seed + 1))
    return Plant(one, other, {}, True)


def _on(model: Model, texts: Sequence[str], order: int) -> Model:
    own, draw = copied(model), np.random.default_rng(order)
    rows = [texts[int(i)] for i in draw.permutation(len(texts))]
    told = [own.tokenizer(text, truncation=True, max_length=LONGEST)["input_ids"] for text in rows]
    encoded = [{"input_ids": ids, "labels": ids} for ids in told]
    batches = [collate(encoded[i : i + TEXT_ROWS], 0) for i in range(0, len(encoded), TEXT_ROWS)]
    descend(own, batches, TEXT_RATE, everything(own))
    return again(own)


def then_moved(plant: Plant, seed: int) -> Plant:
    """Moves after a planted truth: an odd seed's turn the stream's basis too, after which names mean nothing."""
    names = [name for name in MOVES if name != "basis" or seed % 2]
    return replace(plant, tuned=moved(plant.tuned, *names, seed=seed)[0])


def grown(subject: Subject, share: float, seed: int) -> Plant:
    """A part of the way from the base to a rewired model: an even seed's has Q,K, an odd one's all of the heads."""
    whole = (rewired if seed % 2 == 0 else rewired_and_amplified)(subject, seed)
    tuned = copied(whole.tuned)
    with torch.no_grad():
        pairs = zip(tuned.module.parameters(), whole.base.module.parameters(), strict=True)
        for own, before in pairs:
            own.copy_(before + share * (own - before))
    return replace(whole, tuned=again(tuned))


@dataclass(frozen=True)
class Changed:
    """What a comparison of two models' circuits at equal numbers of edges claims."""

    jaccard: float
    floor: float
    """2.5 % of circuits of resampled pairs."""
    heads: int
    """Heads gained or lost."""
    edges: int
    """Edges kept whose score changed beyond its simultaneous 95 % interval."""
    shared: bool
    """Whether a name means the same in both: else nothing is compared by name."""

    @property
    def claimed(self) -> bool:
        """Whether a changed circuit would be claimed."""
        return self.shared and self.jaccard < self.floor


def circuits_changed(base: Model, tuned: Model, batch: Batch) -> Changed:
    """The circuits of one task before and after, as `instar compare` compares them."""
    (tuned, coordinates), batch = in_coordinates_of(base, tuned), batch.aligned()[slice(0, 2 * SCORED)]
    scored, sized = batch[slice(0, SCORED)], batch[slice(SCORED, 2 * SCORED)]
    found, graph = [edges(model, scored, per_pair=True) for model in (base, tuned)], Graph.of(base.layout)
    pages = [np.nan_to_num(own.dataset["score"].values)[:, graph.exists] for own in found]
    n = len(found[0].circuit(faithfulness=FAITHFUL, batch=sized))
    one, two = (_circuit(graph, own.mean(0), n) for own in pages)
    drawn = [_circuit(graph, row @ pages[0], n).mask[graph.exists] for row in resamples(SCORED, 0, DRAWS)]
    alike = overlaps(graph, one.mask[graph.exists][None], np.stack(drawn))["edges_jaccard"]
    own = diff(one, two, *pages)
    rescored = len(own.strengthened) + len(own.weakened) + len(own.sign_changed)
    heads = own.nodes.heads
    floor, changed = float(np.quantile(alike, 0.025)), len(heads.gained) + len(heads.lost)
    return Changed(own.similarity.edges.jaccard, floor, changed, rescored, coordinates.shared)


def _circuit(graph: Graph, scores: np.ndarray, n: int) -> Circuit:
    table: Any = np.zeros(graph.exists.shape)
    table[graph.exists] = scores
    return Circuit.of(graph, at_least(graph, ranking(table, signed=False), n), table)
