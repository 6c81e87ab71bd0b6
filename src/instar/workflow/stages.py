"""What is measured of one checkpoint on one task: a literal table of stages, and the pairs each of them takes.

Interventions are done on every giver's counterfactual (the task's first where it names none `giver…`). Edges and circuits are
of all of them pooled with equal weight (`givers`) and of each alone; scores and faithfulness are on separate pairs.

Before any circuit is run, b − c of a group's pairs is measured. Where it is not clearly above 0 (`usable`) nothing may be
divided by it: faithfulness is not measured, no circuit is chosen, and the file says why. What is in logits is measured all
the same (patching, edge scores, b and c): that a corruption moves little before training is what a new circuit is seen to
grow from, and what shares of a later b − c are of.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
import xarray as xr

from instar.between.causal import Prompts
from instar.circuits.circuit import FAITHFUL, Circuit
from instar.circuits.graph import Graph
from instar.circuits.selection import FINE, grid_sizes, ranking, select, smallest_size, top
from instar.measure.attention import attention
from instar.measure.common import prompts
from instar.measure.direct_attribution import attribution
from instar.measure.edges import CHECKED_PAIRS, Edges, agreement, edges
from instar.measure.evaluate import evaluate
from instar.measure.faithfulness import Ranked, curves, faithfulness
from instar.measure.lens import lens
from instar.measure.patching import SITES, patching
from instar.measure.roles import roles
from instar.models.load import Model
from instar.record.config import MeasureConfig, Stage, Test
from instar.record.netcdf import PACKED, rounded
from instar.record.store import Store
from instar.stats.scales import effect, usable, why_not
from instar.tasks.align import intervened, out_of_line
from instar.tasks.batch import Batch, tokenize
from instar.tasks.pair import Pair
from instar.tasks.prepare import read_pairs

POOLED = "givers"
EXACT_EDGES, EXACT_PAIRS = 5_000, 8
"""Graphs with fewer edges are also scored exactly at both ends of a series, on so many pairs a counterfactual."""
RANDOM, MANY_EDGES = 3, 20_000
"""Random rankings beside a curve; of larger graphs one, since the more edges are drawn the more alike draws are."""
DIGITS = 10
"""Binary digits of the scores of such larger graphs, off by 5e-4 of each at most: half of a file, and far below what pairs
differ by."""


@dataclass
class Pairs:
    """The held-out pairs of one task, tokenised once."""

    store: Store
    task: str
    tokenizer: Any
    inside: int | None = None
    """How many are read where nothing is intervened on; all by default."""
    _kept: dict[Any, Batch] = field(default_factory=dict)

    @property
    def counterfactuals(self) -> list[str]:
        """All of the task's, in its order."""
        return (self.store.prepared() or {})["counterfactuals"][self.task]

    @property
    def givers(self) -> list[str]:
        """Those that interventions are done on."""
        return intervened(self.counterfactuals)

    @cached_property
    def apart(self) -> dict[str, Pair]:
        """Prompts of which some giver's counterfactual does not go position by position, in their order."""
        return out_of_line(self.tokenizer, (read_pairs(self.store, self.task, kind) for kind in self.givers))

    @cached_property
    def aligned(self) -> dict[str, list[Pair]]:
        """Each giver's pairs that go position by position, of the same prompts for each and as many of each."""
        rows = {kind: read_pairs(self.store, self.task, kind) for kind in self.givers}
        kept = {kind: [p for p in own if p.clean not in self.apart] for kind, own in rows.items()}
        return {kind: own[: min(map(len, kept.values()))] for kind, own in kept.items()}

    def batch(
        self, first: int = 0, count: int | None = None, counterfactuals: tuple[str, ...] = (), aligned: bool = False
    ) -> Batch:
        """Pairs `first` … of the task's first counterfactual, or of several one after another.

        `aligned`: of those that go position by position; the batch names the prompts passed over on the way.
        """
        kinds = counterfactuals or (self.counterfactuals[0],)
        key = first, count, kinds, aligned
        if key not in self._kept:
            stop = None if count is None else first + count
            every = {kind: read_pairs(self.store, self.task, kind) for kind in kinds}
            own = self.aligned if aligned else every
            rows = [pair for kind in kinds for pair in own[kind][first:stop]]
            batch = tokenize(rows, self.tokenizer, task=self.task)
            self._kept[key] = replace(batch, left_out=self._passed(every[kinds[0]], rows[-1]) if aligned else ())
        return self._kept[key]

    def _passed(self, rows: list[Pair], last: Pair) -> tuple[str, ...]:
        """Prompts that are not aligned among the rows up to the last one taken."""
        end = next((i for i, row in enumerate(rows) if row.clean == last.clean), len(rows))
        return tuple(row.clean for row in rows[:end] if row.clean in self.apart)

    def elsewhere(self, count: int, counterfactuals: tuple[str, ...]) -> Batch:
        """As many pairs of each as `batch(0, count, …)` has, of prompts that none of those has."""
        known = {p.clean for kind in self.givers for p in self.aligned[kind][:count]}
        rows = []
        for kind in counterfactuals:
            others = [p for p in self.aligned[kind][count:] if p.clean not in known]
            rows += others[:count]
        if not rows:
            raise ValueError(
                f"{self.task}: every prompt is among the {count} that edges are scored on; lower measure.circuit_pairs"
            )
        return tokenize(rows, self.tokenizer, task=self.task)


Measurement = Callable[[Model, Pairs, MeasureConfig, bool], xr.Dataset]
"""`measure(model, pairs, how, at_an_end)`; the last says whether this is the first or last step."""


def patched(model: Model, pairs: Pairs, how: MeasureConfig, at_an_end: bool) -> xr.Dataset:
    """Patching by slot on each giver's counterfactual, per pair, in logits."""
    kept, checks = [], {}
    for kind in pairs.givers:
        batch = pairs.batch(count=how.patching_pairs, counterfactuals=(kind,))
        dataset = patching(model, batch, SITES, method=how.patching, by="slot", per_pair=True, chunk=how.replay_chunk)
        checks[kind] = json.loads(dataset.attrs["check"])
        kept.append(dataset.drop_vars([v for v in dataset.data_vars if str(v).endswith("_ratio")]))
    dataset = xr.concat(kept, "counterfactual", combine_attrs="override").assign_coords(counterfactual=pairs.givers)
    return dataset.astype(np.float32).assign_attrs(counterfactual=" ".join(pairs.givers), check=checks)


def circuit(model: Model, pairs: Pairs, how: MeasureConfig, at_an_end: bool) -> xr.Dataset:
    """Edge scores per pair, the faithfulness curve, and the smallest faithful circuit.

    Returns:
        `score` (logits) on `counterfactual, pair, edge`; `faithfulness`, `low`, `high`, `random`, `kept` on
        `group, [draw,] size`; `in_circuit` on `group, edge`, `circuit_size` (NaN where there is none), `cpr`, `cmd`,
        `rank_correlation` on `group`; for small graphs at both ends `score_exact` on `counterfactual, edge`.
        For resampling (`instar.compare.floors`), by number: `prompt`, `wording` on `counterfactual, pair`; of the pairs
        that faithfulness is on, `evaluated_prompt`, `evaluated_wording`, `curve_clean`, `curve_corrupted` on `group,
        evaluated` and `curve_metric` on `group, size, evaluated` (logits). Groups with fewer pairs end in −1 or NaN.
        Of a group whose b − c is not clearly above 0 the curve is NaN, and the attribute `not_measured` says why.
    """
    givers, graph = pairs.givers, Graph.of(model.layout)
    scored = {}
    for kind in givers:
        own = pairs.batch(0, how.circuit_pairs, (kind,), aligned=True)
        found = edges(model, own, how.edges, steps=how.edge_steps, per_pair=True, chunk=how.replay_chunk)
        scored[kind] = _short(found) if graph.n_edges >= MANY_EDGES else found
    alone = {kind: (kind,) for kind in givers}
    groups = {POOLED: tuple(givers)} | (alone if len(givers) > 1 else {}) if givers[0].startswith("giver") else alone
    wordings = sorted({p.wording for kind in givers for p in read_pairs(pairs.store, pairs.task, kind)})
    pooled = {name: _pooled([scored[k] for k in kinds]) for name, kinds in groups.items()}
    elsewhere = {name: pairs.elsewhere(how.circuit_pairs, kinds) for name, kinds in groups.items()}
    parts = {kind: pairs.elsewhere(how.circuit_pairs, (kind,)) for kind in givers}
    draws = RANDOM if graph.n_edges < MANY_EDGES else 1
    sized, without = _sized(model, {n: Ranked(pooled[n], groups[n], elsewhere[n]) for n in groups}, parts, draws, how)
    rows = []
    for name, kinds in groups.items():
        own = {f"evaluated_{what}": values for what, values in _drawn(elsewhere[name], wordings).items()}
        agreed = {"rank_correlation": _agreement(pooled[name], [scored[k] for k in kinds], pairs, kinds)}
        rows.append(_curve(sized[name], pooled[name], graph) | own | agreed)
    data: dict[str, Any] = {
        "score": (
            ("counterfactual", "pair", "edge"),
            np.stack([e.dataset["score"].values[:, graph.exists] for e in scored.values()]).astype(np.float32),
        )
    }
    longest = max(len(row["evaluated_prompt"]) for row in rows)
    for name, dims in _DIMS.items():
        values = [row[name] for row in rows]
        data[name] = (dims, np.stack([_padded(v, longest) for v in values] if dims[-1] == "evaluated" else values))
    # Numbered over all counterfactuals at once, so that pairs of one prompt have one number.
    for name, values in _drawn(pairs.batch(0, how.circuit_pairs, tuple(givers), aligned=True), wordings).items():
        data[name] = (("counterfactual", "pair"), values.reshape(len(givers), -1))
    if at_an_end and how.exact_ends and graph.n_edges < EXACT_EDGES:
        few = {kind: pairs.batch(0, min(EXACT_PAIRS, how.circuit_pairs), (kind,), aligned=True) for kind in givers}
        exact = [edges(model, batch, "exact", chunk=how.replay_chunk).scores[graph.exists] for batch in few.values()]
        data["score_exact"] = (("counterfactual", "edge"), np.stack(exact).astype(np.float32))
    coords = {"counterfactual": list(givers), "group": list(groups), "edge": list(graph.names(graph.exists))}
    attrs = scored[givers[0]].dataset.attrs | {"counterfactual": " ".join(givers), "ablation": "resample"}
    attrs |= {"not_measured": json.dumps(without, ensure_ascii=False)} if without else {}
    dataset = xr.Dataset(data, coords={**coords, "share": ("size", np.array(FINE))}).assign_attrs(attrs)
    if graph.n_edges >= MANY_EDGES:
        dataset["score"].encoding |= PACKED
    return dataset


def _sized(
    model: Model, ranked: Mapping[str, Ranked], parts: Mapping[str, Batch], draws: int, how: MeasureConfig
) -> tuple[dict[str, xr.Dataset], dict[str, str]]:
    """Each group's curve, and why there is none of those whose b − c nothing may be divided by.

    Their curves are NaN, with b, c and how many edges each size would have: nothing else of them is run.
    """
    graph = Graph.of(model.layout)
    ends = {kind: faithfulness(model, part, Circuit(graph, ()), chunk=how.replay_chunk) for kind, part in parts.items()}
    blank, without = {}, {}
    for name, own in ranked.items():
        clean, corrupted = (np.concatenate([ends[k][end].values for k in own.parts]) for end in ("clean", "corrupted"))
        index = prompts(own.batch)
        found = effect(clean, corrupted, index)
        if not usable(found):
            without[name] = why_not(found, index.max() + 1)
            blank[name] = _blank(graph, clean, corrupted, draws)
    there = {name: own for name, own in ranked.items() if name not in without}
    needed = {kind: part for kind, part in parts.items() if any(kind in own.parts for own in there.values())}
    return curves(model, needed, there, random=draws, chunk=how.replay_chunk) | blank, without


def _blank(graph: Graph, clean: np.ndarray, corrupted: np.ndarray, draws: int) -> xr.Dataset:
    """What `curves` returns of a group, without faithfulness."""
    unknown = np.full((len(FINE), len(clean)), np.nan)
    data: dict[str, Any] = dict.fromkeys(("faithfulness", "low", "high"), ("size", unknown[:, 0]))
    data |= {"random": (("draw", "size"), np.full((draws, len(FINE)), np.nan))}
    data |= {"metric": (("size", "pair"), unknown), "clean": ("pair", clean), "corrupted": ("pair", corrupted)}
    areas = dict.fromkeys(("cpr", "cmd", "random_cpr"), np.nan)
    return xr.Dataset(data, coords={"size": grid_sizes(graph, FINE)}).assign_attrs(areas)


_DIMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("faithfulness", "low", "high", "kept"), ("group", "size")),
    "random": ("group", "draw", "size"),
    "in_circuit": ("group", "edge"),
    **dict.fromkeys(("circuit_size", "cpr", "cmd", "random_cpr", "rank_correlation"), ("group",)),
    "curve_metric": ("group", "size", "evaluated"),
    **dict.fromkeys(
        ("curve_clean", "curve_corrupted", "evaluated_prompt", "evaluated_wording"), ("group", "evaluated")
    ),
}


def causal_prompts(pairs: Pairs, count: int) -> Prompts:
    """One task's pairs for the causal tests: `count` clean ones, and half as many for each giver's counterfactual."""
    return Prompts(pairs.batch(count=count), pairs.batch(0, count // 2, tuple(pairs.givers), aligned=True))


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    """The last axis filled up with NaN, whole numbers with −1."""
    short = length - values.shape[-1]
    fill = np.nan if values.dtype.kind == "f" else -1
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, short)], constant_values=fill)


def _drawn(batch: Batch, wordings: list[str]) -> dict[str, np.ndarray]:
    """What decides how pairs are resampled: which share their prompt, and their wording as its number in the task's."""
    return {"prompt": prompts(batch), "wording": np.searchsorted(wordings, [p.wording for p in batch.pairs])}


def _short(scored: Edges) -> Edges:
    """With scores of as many digits as are kept, so that all that is made of them can be made again from the file."""
    own = scored.dataset["score"]
    return replace(scored, dataset=scored.dataset.assign(score=own.copy(data=rounded(own.values, DIGITS))))


def _pooled(scored: list[Edges]) -> Edges:
    """Scores of several counterfactuals with equal weight."""
    mean = sum(e.dataset["score"].mean("pair") for e in scored) / len(scored)
    assert isinstance(mean, xr.DataArray)
    return Edges(mean.to_dataset(name="score").assign_attrs(scored[0].dataset.attrs), scored[0].model)


def _agreement(pooled: Edges, scored: list[Edges], pairs: Pairs, kinds: tuple[str, ...]) -> float:
    """Rank correlation with exact patching, on the first few pairs of each counterfactual; their scores are known."""
    each = max(1, CHECKED_PAIRS // len(kinds))
    few = pairs.batch(0, each, kinds, aligned=True)
    own = np.nan_to_num(np.mean([e.dataset["score"].values[:each].mean(0) for e in scored], 0))
    return agreement(replace(pooled, batch=few), pairs=len(few), own=own)["spearman"]


def _curve(sized: xr.Dataset, scored: Edges, graph: Graph) -> dict[str, Any]:
    sizes = sized["size"].values.tolist()
    size = smallest_size(sizes, sized["faithfulness"].values, FAITHFUL)
    order = ranking(scored.scores, signed=False)
    chosen = Circuit(graph, ()) if size is None else select(graph, scored.scores, size)
    return {
        **{name: sized[name].transpose(..., "size").values for name in ("faithfulness", "low", "high", "random")},
        "kept": np.array([int(graph.pruned(top(graph, order, n)).sum()) for n in sizes]),
        "in_circuit": chosen.mask[graph.exists],
        "circuit_size": np.nan if size is None else len(chosen),
        "curve_metric": sized["metric"].transpose("size", "pair").values,
        **{f"curve_{name}": sized[name].values for name in ("clean", "corrupted")},
        **{name: sized.attrs[name] for name in ("cpr", "cmd", "random_cpr")},
    }


def played(model: Model, pairs: Pairs, how: MeasureConfig, at_an_end: bool) -> xr.Dataset:
    """Roles of heads, with S-inhibition for each giver."""
    batches = {kind: pairs.batch(0, how.role_pairs, (kind,), aligned=True) for kind in pairs.givers}
    return roles(model, batches, repeats=16, chunk=how.chunk).astype(np.float32)


STAGES: dict[str, Measurement] = {
    "evaluate": lambda m, p, how, _: evaluate(m, p.batch(), chunk=how.chunk),
    "lens": lambda m, p, how, _: lens(m, p.batch(count=p.inside), chunk=how.chunk),
    "attribution": lambda m, p, how, _: attribution(m, p.batch(count=p.inside), chunk=how.chunk),
    "attention": lambda m, p, how, _: attention(m, p.batch(count=p.inside), examples=how.examples, chunk=how.chunk),
    "patching": patched,
    "circuit": circuit,
    "roles": played,
}


NUMERICS: dict[str, int] = dict.fromkeys((*get_args(Stage), *get_args(Test)), 1) | {
    "evaluate": 2,
    "patching": 2,
    "circuit": 4,
    "roles": 2,
    "ledger": 2,
    "reuse": 3,
}
"""Raised when a stage's numbers change for the same inputs: what was measured before is then made again."""


def options(stage: str, how: MeasureConfig, inside: int | None) -> dict[str, Any]:
    """What, beside weights, pairs and threads, decides a stage's numbers; `inside` as of `Pairs`."""
    if stage == "patching":
        return {"pairs": how.patching_pairs, "method": how.patching, "chunk": how.replay_chunk}
    if stage == "circuit":
        chosen = {"pairs": how.circuit_pairs, "edges": how.edges, "steps": how.edge_steps, "chunk": how.replay_chunk}
        return chosen | {"grid": FINE, "faithful": FAITHFUL, "exact": how.exact_ends}
    chosen: dict[str, Any] = {"chunk": how.chunk}
    if stage == "roles":
        return chosen | {"pairs": how.role_pairs}
    if stage == "attention":
        chosen["examples"] = how.examples
    if stage in ("lens", "attribution", "attention"):
        chosen["pairs"] = inside
    return chosen
