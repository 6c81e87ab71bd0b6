"""Edge scores of a model on a task, and circuits from them: `instar.edges(model, batch).circuit(n=200)`."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.circuits.reading import Sign, parsed, text_of
from instar.circuits.selection import FINE, Selection, select, smallest_size
from instar.measure.common import about, fitting, numpy, sorted_pieces
from instar.measure.edge_attribution import ATTRIBUTED, Groups, Rule, edge_scores, groups_of
from instar.measure.edge_patching import exact_edges
from instar.measure.faithfulness import curve
from instar.models.load import Model
from instar.models.memory import halving
from instar.models.plain import measured
from instar.models.replay import Engine
from instar.progress import Advance, slow
from instar.stats.intervals import rank_correlation
from instar.tasks.batch import Batch

Scorer = Any
"""`scorer(engine, part, groups) -> [group, source, destination]`: any attribution of one chunk of pairs, summed."""
CHECKED_EDGES, CHECKED_PAIRS = 48, 4
CONVENTION = "(corrupted - clean) . gradient of the metric: negative helps the answer"


@dataclass(frozen=True)
class Edges:
    """Scores of every edge, in logits; a negative score means that the edge helps the answer."""

    dataset: xr.Dataset
    """`score` on `[pair,] [slot,] source, destination`: NaN where there is no edge."""
    model: Model | None = field(default=None, repr=False, compare=False)
    batch: Batch | None = field(default=None, repr=False, compare=False)

    @classmethod
    def read(cls, path: Path | str, n_kv_heads: int | None = None, sign: Sign | None = None) -> "Edges":
        """Scores of every edge from the EAP-IG package's JSON; arguments as of `Circuit.from_json`.

        Raises:
            ValueError: for a file that has not a finite score for every edge.
        """
        try:
            found = parsed(text_of(path), n_kv_heads, sign, str(path))
            missing = found.graph.n_edges - len(found.scores)
            if found.own or missing:
                few = "instar writes scores of a circuit's own edges only" if found.own else f"{missing:,} are missing"
                raise ValueError(f"not the scores of all {found.graph.n_edges:,} edges: {few}. Circuit.read takes it")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        graph = found.graph
        table = np.full(graph.exists.shape, np.nan)
        table[graph.exists] = [found.scores[name] for name in graph.names(graph.exists)]
        axes = {"source": np.array(graph.sources), "destination": np.array(graph.destinations)}
        about = {"method": "read from a file", "steps": 1, "rule": "", "task": "", "convention": CONVENTION}
        shape = {k: getattr(graph, k) for k in ("n_layers", "n_heads", "n_kv_heads")}
        scores = xr.Dataset({"score": ((*axes,), table)}, axes, about | shape | {"parallel": int(graph.parallel)})
        return cls(scores)

    @property
    def graph(self) -> Graph:
        """Nodes and edges of the model."""
        return Graph.stored(self.dataset.attrs)

    @property
    def scores(self) -> np.ndarray:
        """Scores [source, destination], averaged over pairs and summed over slots; 0 where there is no edge."""
        score = self.dataset["score"]
        if "pair" in score.dims:
            score = score.mean("pair")
        return np.nan_to_num((score.sum("slot") if "slot" in score.dims else score).values)

    def __getitem__(self, name: str) -> float:
        """The score of one edge: `edges["a0.h1->m2"]`."""
        return float(self.scores[self.graph.edge(name)])

    @cached_property
    def rank_correlation(self) -> float:
        """Spearman's rank correlation with exact patching, on the largest and as many random edges, on a few pairs."""
        return agreement(self)["spearman"]

    def circuit(
        self,
        n: int | None = None,
        *,
        faithfulness: float | None = None,
        threshold: float | None = None,
        selection: Selection = "top",
        signed: bool = False,
        batch: Batch | None = None,
    ) -> Circuit:
        """A circuit of `n` edges, of the edges above a score, or the smallest that is faithful enough.

        Args:
            n: how many edges to select; pruning may leave fewer.
            faithfulness: take the smallest size of the grid from which on faithfulness stays at least this.
            threshold: take every edge whose score is at least this (absolute value unless `signed`).
            selection: `top` scores, or `greedy` from the logits up.
            signed: rank by −score (what helps the answer most) instead of the absolute value.
            batch: where faithfulness is measured; the pairs that the scores are from unless other ones are given.

        Raises:
            ValueError: unless exactly one of `n`, `faithfulness` and `threshold` is given, or where no size is faithful.
        """
        if sum(x is not None for x in (n, faithfulness, threshold)) != 1:
            raise ValueError("circuit(): give one of n=, faithfulness= and threshold=")
        if faithfulness is None:
            return select(self.graph, self.scores, n, threshold, selection, signed)
        where = batch or self.batch
        if self.model is None or where is None:
            raise ValueError("circuit(faithfulness=…) measures: make the scores with instar.edges, not from a file")
        return _smallest(self, self.model, where, faithfulness, selection, signed)

    def __repr__(self) -> str:
        attrs = self.dataset.attrs
        about = ", ".join(
            f"{k}={attrs[k]}" for k in ("method", "steps", "rule", "task") if attrs.get(k, "") not in ("", 1)
        )
        return f"Edges({self.graph.n_edges:,} edges, {about}; a negative score helps the answer)"


@halving
@measured
@torch.no_grad()
def edges(
    model: Model,
    batch: Batch,
    method: Literal["eap", "eap-ig", "gim", "relp", "relp-ah", "exact"] | Scorer = "eap-ig",
    *,
    steps: int = 5,
    rule: Literal["midpoint", "left"] = "midpoint",
    slots: bool = False,
    per_pair: bool = False,
    chunk: int = 16,
) -> Edges:
    """Score every edge of the model on a batch of pairs.

    Args:
        method: `eap`, `eap-ig` or `exact` (see `instar.measure.edge_attribution`), `gim`, `relp` or `relp-ah` (see
            `instar.measure.backward`), or a function `scorer(engine, part, groups) -> [group, source, destination]` of
            your own.
        steps: interpolation steps of `eap-ig`.
        rule: where they lie; `left` for parity with the EAP-IG package.
        slots: keep an axis of the template's slots ("through the second giver"); not with `exact`.
        per_pair: keep an axis of pairs.
        chunk: pairs a pass; activations of no more than these are held at a time.

    Raises:
        ValueError: for an unknown method or rule, or `slots` with `exact`.
    """
    batch = batch.aligned()
    groups, labels = groups_of(slots, per_pair)
    engine, graph = Engine(model.layout), Graph.of(model.layout)
    kept = (len(batch) if per_pair else 1, len(batch.slot_names) if slots else 1)
    total = np.zeros((*kept, *graph.exists.shape), np.float32 if model.module.dtype != torch.float64 else np.float64)
    with slow("edges", len(batch) * (graph.n_edges if method == "exact" else 1)) as advance:
        scorer = _scorer(method, steps, rule, slots, advance)
        for rows, part in sorted_pieces(batch, model, fitting(chunk, batch, model, len(graph.sources))):
            found = numpy(scorer(engine, part, groups))
            for (pair, slot), value in zip(labels(part), found, strict=True):
                total[rows[pair] if per_pair else 0, slot] += value
            advance(0 if method == "exact" else len(part))
    if not per_pair:
        total /= len(batch)
    total[..., ~graph.exists] = np.nan
    dims = ("pair", "slot", "source", "destination")
    dataset = xr.Dataset(
        {"score": (dims, total)},
        coords={
            "source": np.array(graph.sources),
            "destination": np.array(graph.destinations),
            **({"slot": np.array(batch.slot_names)} if slots else {}),
            **({"pair": np.arange(len(batch))} if per_pair else {}),
        },
    )
    dataset = dataset.squeeze([d for d, keep in (("pair", per_pair), ("slot", slots)) if not keep], drop=True)
    name = method if isinstance(method, str) else getattr(method, "__name__", "custom")
    shape = {k: getattr(graph, k) for k in ("n_layers", "n_heads", "n_kv_heads")}
    return Edges(
        dataset.assign_attrs(
            about(model, batch, method=name, steps=steps if name == "eap-ig" else 1, rule=rule if name == "eap-ig" else "",
                  convention=CONVENTION, parallel=int(graph.parallel), **shape)
        ), model, batch,
    )  # fmt: skip


def _smallest(
    edges: Edges, model: Model, batch: Batch, faithfulness: float, selection: Selection, signed: bool
) -> Circuit:
    """The circuit of the smallest size of the grid from which on faithfulness stays at least `faithfulness`.

    Raises:
        ValueError: where b − c is not above 0 (nothing to be faithful to), or no size of the grid is faithful.
    """
    series = curve(model, batch, edges, shares=FINE, selection=selection, signed=signed, random=0)
    f = series["faithfulness"].values
    size = smallest_size(series["size"].values, f, faithfulness)
    if size is None:
        if np.isnan(f).all():
            raise ValueError(
                f"{model.name} on {batch.task}: the metric on clean prompts is not above that on corrupted ones (its "
                "interval spans 0), so no circuit can be faithful to it"
            )
        raise ValueError(f"no size of the grid stays at {faithfulness:g} or above; the largest reaches {f[-1]:.3g}")
    circuit = edges.circuit(n=size, selection=selection, signed=signed)
    same = edges.batch is not None and torch.equal(edges.batch.clean, batch.clean)
    where = "the pairs that the scores are from" if same else "other pairs than the scores are from"
    how = f"{circuit.how}; smallest of the grid with faithfulness >= {faithfulness:g} (resample, on {where})"
    return Circuit(circuit.graph, circuit.edges, circuit.scores, size, how)


def _scorer(method: Any, steps: int, rule: str, slots: bool, advance: Advance) -> Scorer:
    if callable(method):
        return method
    if method in ATTRIBUTED:
        where = Rule.of(method, steps, rule)
        return lambda engine, part, groups: edge_scores(engine, part, where, groups)
    if method != "exact":
        raise ValueError(f"method: {method!r} is none of {', '.join(map(repr, ATTRIBUTED))}, 'exact', and no function")
    if slots:
        raise ValueError("slots=True: an edge patched exactly is patched at all positions; use another method")
    return lambda engine, part, groups: _exact(engine, part, groups, advance)


def _exact(engine: Engine, part: Batch, groups: Groups, advance: Advance) -> Tensor:
    graph = Graph.of(engine.layout)
    every = [(int(u), int(v)) for u, v in zip(*np.nonzero(graph.exists), strict=True)]
    values = exact_edges(engine, part, every, lambda count: advance(count * len(part)))
    out = values.new_zeros(len(part), *graph.exists.shape)
    out[:, torch.as_tensor(graph.exists, device=out.device)] = values.T
    return out if len(groups(part, 0)) > 1 else out.sum(0, keepdim=True)


@measured
@torch.no_grad()
def agreement(
    edges: Edges,
    sample: int = CHECKED_EDGES,
    pairs: int = CHECKED_PAIRS,
    seed: int = 0,
    own: np.ndarray | None = None,
) -> dict[str, float]:
    """How well the scores agree with exact patching on a sample of edges: half the largest, half random.

    Both are on the same few pairs, of which `own` are the scores [source, destination] where they are known. Returns
    `spearman`, and the `largest` and `mean` absolute difference (logits).
    """
    if edges.model is None or edges.batch is None:
        raise ValueError("agreement() measures: make the scores with instar.edges, not from a file")
    attrs, graph = edges.dataset.attrs, edges.graph
    few = edges.batch[slice(0, pairs)]
    if attrs["method"] not in (*ATTRIBUTED, "exact"):
        raise ValueError("agreement() knows instar's methods; compare your own scorer with edges(method='exact')")
    own = edges_like(edges, few) if own is None else own
    order = np.argsort(-np.abs(edges.scores[graph.exists]), kind="stable")
    half = min(sample // 2, len(order))
    rest = np.random.default_rng(seed).permutation(order[half:])[:half]
    index = np.argwhere(graph.exists)[np.concatenate([order[:half], rest])]
    chosen = [(int(u), int(v)) for u, v in index]
    engine = Engine(edges.model.layout)
    exact = np.zeros(len(chosen))
    for _, part in sorted_pieces(few, edges.model, pairs):
        exact += numpy(exact_edges(engine, part, chosen).sum(1)) / len(few)
    scores = np.array([own[e] for e in chosen])
    error = np.abs(scores - exact)
    return {
        "spearman": rank_correlation(scores, exact),
        "largest": float(error.max()),
        "mean": float(error.mean()),
    }


def edges_like(scored: Edges, batch: Batch) -> np.ndarray:
    """The same scores on other pairs."""
    assert scored.model is not None
    attrs = scored.dataset.attrs
    rule = attrs["rule"] or "midpoint"
    return edges(scored.model, batch, attrs["method"], steps=attrs["steps"], rule=rule).scores
