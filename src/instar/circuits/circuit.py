"""A circuit: a set of edges, with how it was made. `selection` chooses them, `formats` has its files.

A negative score means that the edge helps the answer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from instar.circuits import formats
from instar.circuits.graph import Graph, Mask
from instar.circuits.reading import Sign, text_of
from instar.notebook import block, facts, lines, paragraph, some, table
from instar.record.foreign import reading

SIGN = "a negative score means that the edge helps the answer"
FAITHFUL = 0.85
"""The circuit of a checkpoint is the smallest of the grid from which on faithfulness stays at least this."""


@dataclass(frozen=True)
class Circuit:
    """A set of edges of one model's graph."""

    graph: Graph
    edges: tuple[str, ...]
    """Names in the graph's order."""
    scores: tuple[float, ...] = ()
    """In logits, one an edge, where they are known."""
    selected: int | None = None
    """How many edges were selected before pruning."""
    how: str = ""
    """Method, ranking and evaluation, in words."""

    @classmethod
    def of(cls, graph: Graph, mask: Mask, scores: np.ndarray | None = None, **more: Any) -> "Circuit":
        """The circuit of a mask over edges."""
        own = () if scores is None else tuple(float(s) for s in scores[mask])
        return cls(graph, graph.names(mask), own, **more)

    @classmethod
    def stored(cls, dataset: Any, group: str | None = None) -> "Circuit":
        """The circuit of a stored `circuit` measurement, with its scores.

        Args:
            dataset: one checkpoint's measurement, as `xarray.Dataset`.
            group: `givers` (all pooled) or one counterfactual; the first of the file if left out. Where no size was
                faithful there is no circuit: it has no edges, and `how` says so.

        Raises:
            ValueError: for an unknown group, naming those that there are.
        """
        name, graph, scores = stored_scores(dataset, group)
        mask = np.zeros(graph.exists.shape, bool)
        mask[graph.exists] = dataset["in_circuit"].sel(group=name).values.astype(bool)
        none = (
            ""
            if mask.any()
            else f"; none: no size stays at {FAITHFUL:.0%} faithfulness, or b - c is not clearly above 0"
        )
        return cls.of(graph, mask, scores, how=f"{dataset.attrs['method']}, {name}{none}")

    @classmethod
    def from_heads(cls, graph: Graph, heads: Iterable[tuple[int, int]], mlps: bool | Iterable[int] = True) -> "Circuit":
        """The circuit that a list of heads induces: every edge between the input, these heads, the MLPs and the logits.

        A list of heads names nodes and no edges, so all edges between them are in; what papers draw has fewer. MLPs are
        in by default, as where heads alone are ablated (arXiv 2211.00593): without any, heads that work through MLPs are
        cut off. Under grouped-query attention a group's keys and values are read if one of its heads is in.

        Args:
            graph: of the model, e.g. `edges.graph` or `instar.Graph(12, 12, 12)`.
            heads: (layer, head), from 0, as in TransformerLens.
            mlps: all of them, none, or those of some layers.

        Raises:
            ValueError: for a head or layer that the graph has not.
        """
        chosen, shape = [(int(layer), int(head)) for layer, head in heads], (graph.n_layers, graph.n_heads)
        layers = range(graph.n_layers) if mlps is True else [] if mlps is False else [int(layer) for layer in mlps]
        for at in (*chosen, *((layer, 0) for layer in layers)):
            if not (0 <= at[0] < shape[0] and 0 <= at[1] < shape[1]):
                raise ValueError(f"(layer, head) {at}: this graph has {shape[0]} layers of {shape[1]} heads, from 0")
        inside = np.zeros(len(graph.sources), bool)
        inside[[0, *(graph.head(*at) for at in chosen), *map(graph.mlp, layers)]] = True
        read = graph.feeds @ inside
        read[-1] = True
        how = f"all edges between {len(set(chosen))} given heads, {len(set(layers))} MLPs, input and logits"
        return cls.of(graph, graph.exists & inside[:, None] & read[None], how=how)

    def __len__(self) -> int:
        return len(self.edges)

    @property
    def heads(self) -> list[tuple[int, int]]:
        """The heads that write into it, as TransformerLens-style (layer, head), in order."""
        writes: Any = self.mask.any(1)
        graph = self.graph
        return [(i, h) for i in range(graph.n_layers) for h in range(graph.n_heads) if writes[graph.head(i, h)]]

    @property
    def known(self) -> dict[str, float]:
        """Its scores by edge (logits; negative helps the answer); none where they are not known."""
        return dict(zip(self.edges, self.scores, strict=True)) if any(self.scores) else {}

    @property
    def mask(self) -> Mask:
        """Its edges, [source, destination]."""
        return self.graph.mask(self.edges)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Its node view: the sources and readers that its edges touch, in the graph's order, `logits` last.

        Keys and values that heads share (grouped queries) touch none by themselves: of which head they are, only its
        writing says.
        """
        mask, graph = self.mask, self.graph
        touched = mask.any(1) | (mask.any(0) @ graph.feeds_one)
        return (*(name for name, kept in zip(self.graph.sources, touched, strict=True) if kept), "logits")

    def __repr__(self) -> str:
        about, strongest = self._about(), ", ".join(f"{n} {s:+.3g}" for n, s in self._strongest(6))
        rows = [f"{k}: {v}" for k, v in about.items()]
        return lines(self._title(), *rows, f"strongest: {strongest}; {SIGN}" if strongest else "no scores")

    def _repr_html_(self) -> str:
        rows = [(name, f"{score:+.4g}") for name, score in self._strongest(20)]
        strongest = table(("edge", "score (logits)"), rows, f"the {len(rows)} strongest edges; {SIGN}")
        return block(self._title(), facts(self._about()), strongest if rows else paragraph("no scores"))

    def _title(self) -> str:
        graph = self.graph
        return f"Circuit: {len(self):,} of {graph.n_edges:,} edges ({len(self) / graph.n_edges:.1%}) of {graph.shape}"

    def _about(self) -> dict[str, str]:
        heads = [f"a{layer}.h{head}" for layer, head in self.heads]
        mlps = [name for name in self.nodes if name[0] == "m"]
        chosen = {} if self.selected is None else {"selected before pruning": f"{self.selected:,} edges"}
        found = {f"{len(heads)} heads": some(heads), f"{len(mlps)} MLPs": some(mlps)}
        return found | chosen | ({"how": shorten(self.how, 200, placeholder=" …")} if self.how else {})

    def _strongest(self, most: int) -> list[tuple[str, float]]:
        return sorted(self.known.items(), key=lambda item: -abs(item[1]))[:most]

    def without(self, edges: Iterable[str]) -> "Circuit":
        """The circuit less some of its edges, not pruned."""
        gone = set(edges)
        return Circuit.of(self.graph, self.graph.mask(e for e in self.edges if e not in gone), how=self.how)

    def to_json(self) -> str:
        """The circuit in the EAP-IG package's format (its sign), with how it was made."""
        return formats.to_json(self)

    @classmethod
    def from_json(cls, text: str, n_kv_heads: int | None = None, sign: Sign | None = None) -> "Circuit":
        """A circuit from our JSON or the EAP-IG package's.

        Args:
            text: the file's content.
            n_kv_heads: of a model with grouped-query attention, its key-value heads. That package gives each query
                head keys and values of its own; edges into those of one group become one edge, their scores summed.
            sign: of the file's scores that help the answer: "positive", as in that package's demonstrations (they score
                the loss −m) and unless said otherwise, or "negative". Warns where the scores look reversed.

        Raises:
            ValueError: for text that is not a circuit of whole edges, naming what is missing, or for scores without one.
        """
        return cls(**vars(formats.from_json(text, n_kv_heads, sign)))

    def networkx(self) -> Any:
        """A `networkx.DiGraph`: writers and readers as nodes, so that each edge keeps its name; see `circuits.formats`."""
        return formats.to_networkx(self)

    def graphml(self, path: Path | str | None = None) -> str:
        """GraphML text of `networkx()`, also written to `path` if given: Gephi, yEd, Cytoscape and R read it."""
        return _written(formats.to_graphml(self), path)

    def dot(self, path: Path | str | None = None) -> str:
        """Graphviz text, also written to `path` if given: heads and MLPs in rows by layer, blue helps and red hurts."""
        return _written(formats.to_dot(self), path)

    def write(self, path: Path | str) -> None:
        """Its JSON into a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def read(cls, path: Path | str, n_kv_heads: int | None = None, sign: Sign | None = None) -> "Circuit":
        """A circuit from a JSON file; arguments as of `from_json`."""
        with reading(path, "a circuit"):
            return cls(**vars(formats.from_json(text_of(path), n_kv_heads, sign, str(path))))
        raise AssertionError  # for type checkers: `reading` swallows nothing


def stored_scores(dataset: Any, group: str | None = None) -> tuple[str, Graph, np.ndarray]:
    """Of a stored `circuit` measurement: which group it is, the graph, and scores [source, destination] in logits.

    Raises:
        ValueError: for an unknown group, naming those that there are.
    """
    groups = [str(g) for g in dataset["group"].values]
    if group is not None and group not in groups:
        raise ValueError(f"no circuit of {group!r}; there are {', '.join(groups)}")
    name, graph = group or groups[0], Graph.stored(dataset.attrs)
    kinds, scores = [str(k) for k in dataset["counterfactual"].values], np.zeros(graph.exists.shape)
    # Counterfactuals have equal weight, as when the circuit was made.
    of = [i for i, kind in enumerate(kinds) if kind == name] or list(range(len(kinds)))
    own = dataset["score"].isel(counterfactual=of)
    scores[graph.exists] = own.mean([d for d in own.dims if d != "edge"]).values
    return name, graph, scores


def _written(text: str, path: Path | str | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text
