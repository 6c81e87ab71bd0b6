"""What changed between two circuits: edges and nodes kept, gained and lost, kept edges scored otherwise, and how alike.

Jaccard is |A∩B| / |A∪B|, containment of A in B is |A∩B| / |A|, the weighted Jaccard Σ min(|s|) / Σ max(|s|) over edges,
Spearman's correlation of the signed scores of all edges of the graph. None of them says by itself that anything
changed: two samples of pairs give two circuits too. `instar.compare.floors` has what chance and resampling give.

Nodes are heads and MLPs: `input` and `logits`, in every circuit that is not empty, would only make circuits look alike.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import rankdata

from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.stats.intervals import Interval, rank_correlation, simultaneous_mean

READERS = ("q", "k", "v", "mlp", "logits")
How = Literal["intervals", "raw", "no scores"]
ROUNDING = 1e-4
"""Of the largest score of the kept edges: what float32 and another order of sums may make of nothing."""
ALL_EDGES, IN_CIRCUITS, NO_SCORES = "all edges", "edges of the circuits, 0 outside", "no scores"


@dataclass(frozen=True)
class Change:
    """Names in both circuits, only in the second, only in the first; in the graph's order."""

    kept: tuple[str, ...]
    gained: tuple[str, ...]
    lost: tuple[str, ...]

    @property
    def heads(self) -> "Change":
        """Of nodes: the heads."""
        return self._of("a")

    @property
    def mlps(self) -> "Change":
        """Of nodes: the MLPs."""
        return self._of("m")

    def _of(self, initial: str) -> "Change":
        return Change(*(tuple(n for n in ns if n[0] == initial) for ns in (self.kept, self.gained, self.lost)))


@dataclass(frozen=True)
class Rescored:
    """A kept edge and its two scores, in logits."""

    edge: str
    before: float
    after: float


@dataclass(frozen=True)
class Overlap:
    """How much two sets share; NaN where a denominator is 0."""

    a: int
    b: int
    shared: int
    jaccard: float
    a_in_b: float
    b_in_a: float


@dataclass(frozen=True)
class Similarity:
    """How alike two circuits are, and two rankings of all edges."""

    nodes: Overlap
    """Heads and MLPs."""
    heads: Overlap
    edges: Overlap
    weighted_jaccard: float
    spearman: float
    """Of all edges' scores; NaN where only the circuits' own are known."""
    weighted_over: str
    """What the weighted Jaccard sums over: `ALL_EDGES`, `IN_CIRCUITS` or `NO_SCORES`."""


@dataclass(frozen=True)
class Diff:
    """From circuit `a` to circuit `b`."""

    edges: Change
    nodes: Change
    strengthened: tuple[Rescored, ...]
    """Kept edges of the same sign with |s_b| > |s_a|, the largest change first."""
    weakened: tuple[Rescored, ...]
    sign_changed: tuple[Rescored, ...]
    how: How
    """`intervals`: a change counts where its simultaneous 95 % interval excludes 0. `raw`: nothing was tested."""
    similarity: Similarity

    @property
    def empty(self) -> bool:
        """Whether nothing changed."""
        changes = (self.edges.gained, self.edges.lost, self.nodes.gained, self.nodes.lost)
        return not any((*changes, self.strengthened, self.weakened, self.sign_changed))

    @property
    def by_reader(self) -> dict[str, dict[str, int]]:
        """How many edges of each change end in queries, keys, values, MLPs and the logits."""
        rescored = {
            kind: [r.edge for r in getattr(self, kind)] for kind in ("strengthened", "weakened", "sign_changed")
        }
        lists = {kind: getattr(self.edges, kind) for kind in ("kept", "gained", "lost")} | rescored
        return {r: {kind: sum(reader(e) == r for e in names) for kind, names in lists.items()} for r in READERS}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; null for NaN."""
        return plain(asdict(self) | {"by_reader": self.by_reader})


def diff(
    a: Circuit,
    b: Circuit,
    scores_a: Any = None,
    scores_b: Any = None,
    *,
    paired: bool = True,
    tolerance: float = 0.0,
) -> Diff:
    """What changed from circuit `a` to circuit `b`.

    Args:
        a: the circuit before.
        b: the circuit after, of the same graph.
        scores_a: scores of all edges in logits: means, `[source, destination]` or `[edge]` (in the order of
            `graph.names(graph.exists)`), or of single draws, `[pair, edge]`: one row a base prompt, averaged over its
            counterfactuals. With rows for both, only changes beyond their interval count. Left out, the circuits' own.
        scores_b: the same for `b`.
        paired: row i of both is the same prompt.
        tolerance: raw changes of no more than so many logits do not count.

    Raises:
        ValueError: for circuits of different graphs, or scores of another shape.
    """
    if a.graph != b.graph:
        raise ValueError(f"only circuits of the same graph compare; these are of {a.graph.other(b.graph)}")
    if (scores_a is None) != (scores_b is None):
        raise ValueError("scores of one circuit only: give scores_a and scores_b, or neither")
    graph, rows = a.graph, (_rows(scores_a, a.graph), _rows(scores_b, b.graph))
    all_known = rows[0] is not None and rows[1] is not None
    before, after = (r.mean(0) if all_known and r is not None else _own(c) for r, c in zip(rows, (a, b), strict=True))
    edges = _change(graph.names(graph.exists), a.edges, b.edges)
    kept = (a.mask & b.mask)[graph.exists]
    how: How = "no scores"
    scored, counts = (np.zeros(0), np.zeros(0)), np.zeros(0, bool)
    if before is not None and after is not None:
        scored = before[kept], after[kept]
        per_pair = [r[:, kept] for r in rows if r is not None and len(r) > 1]
        how = "intervals" if all_known and len(per_pair) == 2 else "raw"
        counts = _beyond(per_pair, paired) if how == "intervals" else _raw(*scored, tolerance)
    strengthened, weakened, turned = _rescored(edges.kept, *scored, counts)
    alike = _similarity(a, b, before, after, ALL_EDGES if all_known else IN_CIRCUITS)
    return Diff(edges, _change(graph.sources[1:], a.nodes, b.nodes), strengthened, weakened, turned, how, alike)


def similarity(a: Circuit, b: Circuit, scores_a: Any = None, scores_b: Any = None) -> Similarity:
    """How alike two circuits are; arguments as of `diff`."""
    return diff(a, b, scores_a, scores_b).similarity


def ratios(shared: Any, a: Any, b: Any) -> dict[str, np.ndarray]:
    """Jaccard and containments from sizes (numbers or arrays); NaN for 0 / 0."""
    shared, a, b = (np.asarray(x, float) for x in (shared, a, b))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"jaccard": shared / (a + b - shared), "a_in_b": shared / a, "b_in_a": shared / b}


def weighted_jaccard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Σ min(|s|) / Σ max(|s|) over the last axis; NaN where all scores are 0."""
    a, b = np.abs(a), np.abs(b)
    with np.errstate(invalid="ignore"):
        return np.minimum(a, b).sum(-1) / np.maximum(a, b).sum(-1)


def agreement(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """Weighted Jaccard and Spearman's correlation of scores `[draw, edge]`, by draw."""
    ranks = [rankdata(x, axis=1) for x in (a, b)]
    x, y = (r - r.mean(1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        spearman = (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return {"weighted_jaccard": weighted_jaccard(a, b), "spearman": spearman}


def reader(edge: str) -> str:
    """What an edge ends in: q, k, v, mlp or logits."""
    end = edge.partition("->")[2]
    return end[-2] if end.endswith(">") else "logits" if end == "logits" else "mlp"


def plain(value: Any) -> Any:
    """The value with lists for tuples and arrays, and None for what is not finite: JSON has neither."""
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(scores: Any, graph: Graph) -> np.ndarray | None:
    """Scores as [pair, edge]; means are one row."""
    if scores is None:
        return None
    scores = np.asarray(scores, float)
    if scores.shape == graph.exists.shape:
        scores = scores[graph.exists]
    if scores.ndim not in (1, 2) or scores.shape[-1] != graph.n_edges or not scores.size:
        wanted = f"{graph.exists.shape}, ({graph.n_edges},) or (pairs, {graph.n_edges})"
        raise ValueError(f"scores of shape {scores.shape}: {graph} has scores of shape {wanted}")
    return np.atleast_2d(scores)


def _own(circuit: Circuit) -> np.ndarray | None:
    """A circuit's own scores [edge], 0 outside; None where it has none. A file without scores holds zeros."""
    if len(circuit) and not np.any(circuit.scores):
        return None
    table, graph = np.zeros(circuit.graph.exists.shape), circuit.graph
    for name, score in zip(circuit.edges, circuit.scores, strict=True):
        table[graph.edge(name)] = score
    return table[graph.exists]


def _change(order: Sequence[str], a: Sequence[str], b: Sequence[str]) -> Change:
    before, after = set(a), set(b)
    return Change(*(tuple(n for n in order if n in s) for s in (before & after, after - before, before - after)))


def _raw(before: np.ndarray, after: np.ndarray, tolerance: float) -> np.ndarray:
    """A sign changes by |s_b − s_a|, which is also the change of size where it does not."""
    return np.abs(after - before) > tolerance


def _beyond(rows: Sequence[np.ndarray], paired: bool) -> np.ndarray:
    """Which kept edges' differences have simultaneous intervals without 0, and are more than rounding.

    The same function computed by other weights rounds otherwise, and always in the same way: an interval alone would call
    that a change.
    """
    a, b = rows
    if not a.shape[1]:
        return np.zeros(0, bool)
    if paired and len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} rows of scores are not paired; give paired=False")
    if paired:
        found = simultaneous_mean(b - a)
    else:
        # Variances of independent samples add, and so do squared half widths (MOVER; Zou & Donner 2008).
        one, other = simultaneous_mean(a), simultaneous_mean(b, seed=1)
        change, half = other.value - one.value, np.hypot(one.high - one.value, other.high - other.value)
        found = Interval(change, change - half, change + half)
    rounding = ROUNDING * max(float(np.abs(own.mean(0)).max()) for own in rows)
    return ((found.low > 0) | (found.high < 0)) & (np.abs(found.value) > rounding)


def _rescored(
    names: Sequence[str], before: np.ndarray, after: np.ndarray, counts: np.ndarray
) -> tuple[tuple[Rescored, ...], tuple[Rescored, ...], tuple[Rescored, ...]]:
    """Strengthened, weakened, sign changed; the largest change first."""
    rows = [Rescored(n, float(x), float(y)) for n, x, y, c in zip(names, before, after, counts, strict=False) if c]
    rows.sort(key=lambda row: -abs(row.after - row.before))
    turned = tuple(row for row in rows if row.before * row.after < 0)
    same = [row for row in rows if row.before * row.after >= 0]
    stronger = tuple(row for row in same if abs(row.after) > abs(row.before))
    return stronger, tuple(row for row in same if abs(row.after) <= abs(row.before)), turned


def _overlap(a: set[str], b: set[str]) -> Overlap:
    shared = len(a & b)
    return Overlap(len(a), len(b), shared, **{k: float(v) for k, v in ratios(shared, len(a), len(b)).items()})


def _similarity(a: Circuit, b: Circuit, before: np.ndarray | None, after: np.ndarray | None, over: str) -> Similarity:
    nodes = [{n for n in c.nodes if n not in ("input", "logits")} for c in (a, b)]
    heads = [{n for n in own if n[0] == "a"} for own in nodes]
    edges = [set(c.edges) for c in (a, b)]
    weighted = spearman = math.nan
    if before is None or after is None:
        over = NO_SCORES
    else:
        weighted = float(weighted_jaccard(before, after))
        spearman = rank_correlation(before, after) if over == ALL_EDGES else math.nan
    return Similarity(_overlap(*nodes), _overlap(*heads), _overlap(*edges), weighted, spearman, over)
