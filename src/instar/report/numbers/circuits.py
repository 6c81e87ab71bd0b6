"""One task's circuits as they are drawn: of every size up to `MOST` edges, at every step where they were measured.

Circuits of one ranking lie within each other (`instar.circuits.nested`): an edge is said by the smallest circuit that has it.
The page and the figures begin with the same one: of the answer's counterfactual and number of edges, if so many can
be seen. On the page the sign of edge attribution is turned, so that what helps the answer is positive.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from instar.circuits.circuit import stored_scores
from instar.circuits.graph import Graph
from instar.circuits.nested import entering
from instar.circuits.selection import of_size, ranking
from instar.record.store import Store
from instar.report.numbers.packed import packed
from instar.report.numbers.rounded import rounded

MOST, SEEN = 240, 120
"""Edges of the largest circuit that can be drawn, and of the largest that is drawn unasked."""
CURVES = ("faithfulness", "low", "high")


@dataclass(frozen=True)
class Circuits:
    """One task's circuits at every step."""

    steps: list[int]
    graph: Graph
    method: str
    pairs: int
    """That edges were scored on."""
    shown: str
    """The counterfactual that is drawn unasked."""
    size: int
    """And with how many edges."""
    edges: list[list[tuple[str, float]]]
    """By step, the drawn circuit's edges and scores (negative helps); none where nothing could be measured."""
    series: Any = None
    """All that was measured, `xarray.Dataset`; scores are means over pairs."""


def circuits(store: Store, task: str, steps: list[int], asked: Mapping[str, int]) -> Circuits | None:
    """The series of one task; None where it was not measured. `asked`: by counterfactual, the answer's number of edges."""
    series = store.series("circuit", task, steps=steps, only=_mean_scores)
    if series is None:
        return None
    groups = [str(group) for group in series["group"].values]
    wanted = [name for name in (*asked, *groups) if name in groups]
    ends = (series.isel(step=0), series.isel(step=-1))
    shown = next((name for name in wanted if all(there(end, name) for end in ends)), wanted[0])
    own = series.sel(group=shown)
    n = asked.get(shown) or next(iter(asked.values()), 0) or int(np.nan_to_num(own["circuit_size"].values).max()) or 1
    fewer = [int(k) for k in own["kept"].isel(step=-1).values if k <= SEEN]
    size = n if n <= SEEN else max(fewer, default=SEEN)
    edges = [_drawn(series.isel(step=index), size, shown) for index in range(series.sizes["step"])]
    of = Graph.stored(series.attrs), str(series.attrs["method"]), int(series["score_pairs"].values.ravel()[0])
    return Circuits(series["step"].values.tolist(), *of, shown, size, edges, series)


def _drawn(own: xr.Dataset, size: int, group: str) -> list[tuple[str, float]]:
    if not there(own, group):
        return []
    circuit = of_size(own, size, group)
    return list(zip(circuit.edges, circuit.scores, strict=True))


def there(own: xr.Dataset, group: str) -> bool:
    """Whether, at one step, circuits of a group could be measured: b − c is clearly above 0."""
    return bool(np.isfinite(own["cpr"].sel(group=group).values))


def _mean_scores(dataset: xr.Dataset) -> xr.Dataset:
    kept = dataset.drop_vars("score_exact", errors="ignore")
    return kept.assign(score=dataset["score"].mean("pair"), score_pairs=dataset.sizes["pair"])


def circuits_of(found: Circuits, why: Mapping[str, Any]) -> dict[str, Any]:
    """By counterfactual, edges with scores and sizes, and the faithfulness that was measured; `why` of what was not."""
    graph, series = found.graph, found.series
    return {
        "steps": found.steps,
        "layers": graph.n_layers,
        "heads": graph.n_heads,
        "kv_heads": graph.n_kv_heads,
        "edges": graph.n_edges,
        "most": MOST,
        "scored": found.pairs,
        "tested": int(series.sizes["evaluated"]) if "evaluated" in series.sizes else None,
        "drawn": found.size,
        "groups": {str(group): _group(series, graph, str(group)) for group in series["group"].values},
        "why": {name: own.get("not_measured") for name, own in why.items()},
    }


def _group(series: xr.Dataset, graph: Graph, group: str) -> dict[str, Any]:
    """Of one counterfactual: every edge that is ever in a drawn circuit, its score and its smallest size at each step."""
    own = series.sel(group=group)
    scores, entries = [], []
    for index in range(series.sizes["step"]):
        _, _, table = stored_scores(series.isel(step=index), group)
        measured = there(series.isel(step=index), group)
        entries.append(entering(graph, ranking(table, signed=False), MOST) if measured else {})
        scores.append(table)
    ever = sorted({edge for one in entries for edge in one})
    sizes = np.array([[one.get(edge, 0) for edge in ever] for one in entries], np.uint16).reshape(len(entries), -1)
    u, v = (np.array([edge[i] for edge in ever], int) for i in (0, 1))
    return {
        "names": [f"{graph.sources[a]}->{graph.destinations[b]}" for a, b in ever],
        "score": packed(-np.array([table[u, v] for table in scores]), "float32"),
        "from": packed(sizes, "uint16"),
        "kept": own["kept"].transpose("step", "size").values.tolist(),
        **{name: rounded(own[name].transpose("step", "size").values) for name in CURVES},
        "random": rounded(own["random"].mean("draw").transpose("step", "size").values),
        "size": rounded(own["circuit_size"].values),
    }
