"""One task's circuits as the page draws them: of every size up to `MOST` edges, at every step where they were measured.

Circuits of one ranking lie within each other (`instar.circuits.nested`): an edge is said by the smallest circuit that has it.
Scores are those of edge attribution with their sign turned, so that what helps the answer is positive here.
"""

from typing import Any

import numpy as np
import xarray as xr

from instar.circuits.circuit import stored_scores
from instar.circuits.graph import Graph
from instar.circuits.nested import entering
from instar.circuits.selection import ranking
from instar.record.store import Store
from instar.report.numbers.packed import packed
from instar.report.numbers.rounded import rounded

MOST = 240
"""Edges of the largest circuit that can be drawn."""
CURVES = ("faithfulness", "low", "high")


def circuits_of(store: Store, task: str, steps: list[int], summary: dict[str, Any]) -> dict[str, Any] | None:
    """By counterfactual, edges with their scores and sizes, and faithfulness of what was measured; None without circuits."""
    series = store.series("circuit", task, steps=steps, only=_mean_scores)
    if series is None:
        return None
    graph = Graph.stored(series.attrs)
    return {
        "steps": series["step"].values.tolist(),
        "layers": graph.n_layers,
        "heads": graph.n_heads,
        "kv_heads": graph.n_kv_heads,
        "parallel": graph.parallel,
        "edges": graph.n_edges,
        "method": str(series.attrs["method"]),
        "groups": {str(group): _group(series, graph, str(group)) for group in series["group"].values},
        "why": {name: own.get("not_measured") for name, own in summary["circuits"].get(task, {}).items()},
    }


def _mean_scores(dataset: xr.Dataset) -> xr.Dataset:
    kept = dataset.drop_vars("score_exact", errors="ignore")
    return kept.assign(score=dataset["score"].mean("pair"), score_pairs=dataset.sizes["pair"])


def _group(series: xr.Dataset, graph: Graph, group: str) -> dict[str, Any]:
    """Of one counterfactual: every edge that is ever in a drawn circuit, its score and its smallest size at each step."""
    own = series.sel(group=group)
    scores, entries = [], []
    for index in range(series.sizes["step"]):
        _, _, table = stored_scores(series.isel(step=index), group)
        known = not np.isnan(own["circuit_size"].values[index]) or bool(np.isfinite(own["cpr"].values[index]))
        entries.append(entering(graph, ranking(table, signed=False), MOST) if known else {})
        scores.append(table)
    ever = sorted({edge for one in entries for edge in one})
    sizes = np.array([[one.get(edge, 0) for edge in ever] for one in entries], np.uint16).reshape(len(entries), -1)
    u, v = (np.array([edge[i] for edge in ever], int) for i in (0, 1))
    values = -np.array([table[u, v] for table in scores])
    measured = {name: rounded(own[name].transpose("step", "size").values) for name in CURVES}
    return {
        "names": [f"{graph.sources[a]}->{graph.destinations[b]}" for a, b in ever],
        "score": packed(values, "float32"),
        "from": packed(sizes, "uint16"),
        "kept": own["kept"].transpose("step", "size").values.tolist(),
        **measured,
        "random": rounded(own["random"].mean("draw").transpose("step", "size").values),
        "size": rounded(own["circuit_size"].values),
        "pairs": int(series["score_pairs"].values.ravel()[0]),
    }
