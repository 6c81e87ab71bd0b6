"""What two random sets of two circuits' sizes share: the least that any comparison has to stand beside."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import hypergeom

from instar.circuits.circuit import Circuit
from instar.compare.diff import plain, ratios, similarity
from instar.stats.intervals import LEVEL

NO_PAIRS = "two files hold no pairs to resample: whether this is more than noise takes a run's stored scores"


@dataclass(frozen=True)
class Chance:
    """What two random sets of these sizes share: expectations, and what 95 % of such pairs do not exceed."""

    shared: float
    shared_high: float
    jaccard: float
    jaccard_high: float
    a_in_b: float
    a_in_b_high: float
    b_in_a: float
    b_in_a_high: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; null for NaN."""
        return plain(asdict(self))


def chance(n: int, a: int, b: int) -> Chance:
    """Two random sets of `a` and `b` among `n`: the overlap is hypergeometric.

    Random sets know no paths; two random *pruned* circuits share a little more.

    Raises:
        ValueError: for sets larger than what they are drawn from.
    """
    if not (0 <= a <= n and 0 <= b <= n):
        raise ValueError(f"sets of {a} and {b} among {n}")
    shared = np.arange(max(0, a + b - n), min(a, b) + 1)
    # Jaccard grows with the overlap, so its quantile is that of the overlap.
    high = int(hypergeom.ppf(LEVEL, n, a, b))
    weight = hypergeom.pmf(shared, n, a, b)
    expected = {k: float((weight * v).sum()) for k, v in ratios(shared, a, b).items()}
    upper = {f"{k}_high": float(v) for k, v in ratios(high, a, b).items()}
    return Chance(shared=float(a * b / n) if n else 0.0, shared_high=high, **expected, **upper)


def beside(a: Circuit, b: Circuit) -> dict[str, Chance]:
    """Chance for two circuits' `nodes`, `heads` and `edges`, at their sizes."""
    graph, alike = a.graph, similarity(a, b)
    heads = graph.n_layers * graph.n_heads
    of = {"nodes": len(graph.sources) - 1, "heads": heads, "edges": graph.n_edges}
    return {what: chance(n, getattr(alike, what).a, getattr(alike, what).b) for what, n in of.items()}
