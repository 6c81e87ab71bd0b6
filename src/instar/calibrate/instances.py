"""Making planted instances and their evidence, one folder each; what is there is not made again.

    OUT/BASE/data/ …                     pairs that evidence is measured on
    OUT/BASE/instances/KIND, seed N/     evidence.nc, plant.json (checks, whether the plant took)

1. The old circuit of the base is found; plants are made on its heads (`instar.calibrate.planted`).
2. Evidence is measured as a run does it: the same stages, the same functions, other pairs than the plants' own.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from instar.between.causal import causal
from instar.calibrate.planted import KINDS, TRAPS, Subject
from instar.circuits.circuit import Circuit
from instar.circuits.sets import heads_of
from instar.compare.baselines import stored
from instar.compare.evidence import Measured, evidence
from instar.measure.evaluate import evaluate
from instar.models.accounts import content
from instar.models.load import Model, load
from instar.models.organism import FOLDERS
from instar.record.config import CompareConfig, DataConfig, MeasureConfig, RunConfig
from instar.record.files import read_json, whole, write_json
from instar.record.keys import digest
from instar.record.netcdf import as_bytes, opened, plain_attrs
from instar.record.store import Store
from instar.tasks.batch import tokenize
from instar.tasks.library import task
from instar.tasks.prepare import prepare
from instar.workflow.stages import NUMERICS, Pairs, causal_prompts, circuit

Tell = Callable[[int, int, str], None]
BASES = tuple(FOLDERS)
EXCHANGED = 20
CONFIG = RunConfig(
    data=DataConfig(test_size=300, measure_pairs=64, seed=17),
    measure=MeasureConfig(exact_ends=False),
    compare=CompareConfig(random_sets=100, exchanged_sets=EXCHANGED, single=False),
)
CHECKED, CHECK_SEED = 200, 23
FIRST_SEED = 10
"""Seeds below were looked at while the plants were being made."""


@dataclass(frozen=True)
class Instance:
    """One thing to make: a kind or a trap, on one base, with one seed."""

    base: str
    kind: str
    seed: int

    @property
    def trap(self) -> bool:
        """Whether it is a trap."""
        return self.kind in TRAPS

    def folder(self, out: Path) -> Path:
        """Where it is kept."""
        return out / self.base / "instances" / f"{self.kind}, seed {self.seed}"


def instances(seeds: int, bases: tuple[str, ...]) -> list[Instance]:
    """All kinds with every seed, all traps with one, seed by seed so that an early end has something of each."""
    every = range(FIRST_SEED, FIRST_SEED + seeds)
    rows = [Instance(base, kind, seed) for seed in every for base in bases for kind in KINDS]
    return rows + [Instance(base, trap, FIRST_SEED) for base in bases for trap in TRAPS]


def make_all(out: Path, todo: list[Instance], tell: Tell) -> None:
    """Every missing instance."""
    benches: dict[str, _Bench] = {}
    for i, one in enumerate(todo):
        tell(i, len(todo), f"{one.base}: {one.kind}, seed {one.seed}")
        if not made(out, one):
            # Bases take turns, so each one's bench is kept: its model, data and own circuit.
            if one.base not in benches:
                benches[one.base] = _Bench(out, one.base)
            benches[one.base].make(one)
    tell(len(todo), len(todo), "")


def made(out: Path, one: Instance) -> bool:
    """Whether it is there, made as it would be now."""
    path = one.folder(out) / "plant.json"
    return path.exists() and read_json(path)["key"] == _key(one)


def _key(one: Instance) -> str:
    decides = CONFIG.model_dump(mode="json", include={"tasks", "data", "measure", "compare"})
    return digest([NUMERICS["circuit"], NUMERICS["causal"], _weights(one.base), one.kind, one.seed, decides])


def _weights(base: str) -> str:
    """The sha256 of a base's weights.

    Raises:
        ValueError: if it is none of the embedded models.
    """
    if base not in FOLDERS:
        raise ValueError(f"no base {base!r} to plant in; there are {', '.join(FOLDERS)}")
    return content(FOLDERS[base] / "model.safetensors")


class _Bench:
    """One base, its data and its own measurements."""

    def __init__(self, out: Path, base: str):
        self.out, self.base = out, base
        model = load(base)
        self.store = Store.create(out / base, CONFIG)
        prepare(self.store, CONFIG.tasks, CONFIG.data, model.tokenizer)
        old, new = task(CONFIG.tasks.old), task(CONFIG.tasks.new)
        self.pairs = {role: Pairs(self.store, t.name, model.tokenizer) for role, t in (("old", old), ("new", new))}
        self.of: dict[str, tuple[dict[str, xr.Dataset], xr.Dataset]] = {}
        check = [
            tokenize(t.fit(model.tokenizer).pairs(CHECKED, CHECK_SEED), model.tokenizer, task=t.name)
            for t in (old, new)
        ]
        self.subject = Subject(model, old, new, self._heads(model), self._heads, *check)

    def _heads(self, model: Model) -> tuple[str, ...]:
        return heads_of(Circuit.stored(self._measured(model)[1]).nodes)

    def _measured(self, model: Model) -> tuple[dict[str, xr.Dataset], xr.Dataset]:
        """Behaviour on both tasks, and the old task's circuit."""
        if model.weights not in self.of:
            behaviour = {role: evaluate(model, pairs.batch()) for role, pairs in self.pairs.items()}
            self.of[model.weights] = behaviour, circuit(model, self.pairs["old"], CONFIG.measure, False)
        return self.of[model.weights]

    def make(self, one: Instance) -> None:
        """Plant, measure, write."""
        maker = (TRAPS if one.trap else KINDS)[one.kind][0]
        torch.manual_seed(one.seed)
        plant = maker(self.subject, one.seed)
        (before, old_base), (after, old_tuned) = self._measured(plant.base), self._measured(plant.tuned)
        new_tuned = circuit(plant.tuned, self.pairs["new"], CONFIG.measure, False)
        own = CONFIG.compare
        measured = causal(
            plant.base,
            plant.tuned,
            causal_prompts(self.pairs["old"], own.pairs),
            causal_prompts(self.pairs["new"], own.pairs),
            Circuit.stored(old_base),
            Circuit.stored(new_tuned),
            random=own.random_sets,
            exchanged=EXCHANGED,
            single=False,
        )
        both = {role: (before[role], after[role]) for role in ("old", "new")}
        rules = stored(self.store, self.pairs["new"].task)
        found = evidence(Measured(both, old_base, old_tuned, new_tuned, plain_attrs(measured), rules))
        folder = one.folder(self.out)
        with whole(folder / "evidence.nc") as scratch:
            scratch.write_bytes(as_bytes(found.assign_attrs(key=_key(one))))
        # Written last: its presence means that the instance is whole.
        write_json(folder / "plant.json", {"key": _key(one), "took": plant.took, "checks": plant.checks})
        # Only the bench's own model comes again.
        self.of = {k: v for k, v in self.of.items() if k == self.subject.model.weights}


def read(out: Path, one: Instance) -> tuple[xr.Dataset, dict[str, Any]]:
    """The evidence of an instance and its plant's record."""
    folder = one.folder(out)
    with opened(folder / "evidence.nc") as dataset:
        return dataset.load(), json.loads((folder / "plant.json").read_text(encoding="utf-8"))
