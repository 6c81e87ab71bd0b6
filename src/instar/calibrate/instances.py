"""Making planted instances and what their answers are made of, one folder each; what is there is not made again.

    OUT/bases/NAME/                      a base that does not come with the package
    OUT/BASE/KIND, seed N/               plant.json (checks, whether the plant took), and what was measured, *.nc

1. The old circuit of the base is found; plants are made on its heads (`instar.calibrate.planted`, `instar.calibrate.nulls`).
2. What the answer needs is measured as `instar.answer` does it, by the same function, on other pairs than the plants' own.
3. Processes may share the work, an instance each at a time (`instar.workflow.cluster`); one directory is one command's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import xarray as xr

from instar.calibrate import nulls
from instar.calibrate.bases import base_of, weights_of
from instar.calibrate.planted import KINDS, Plant, Subject
from instar.circuits.circuit import FAITHFUL
from instar.circuits.sets import heads_of
from instar.compare.answer import Found
from instar.measure.edges import edges
from instar.models.fetch import quiet
from instar.models.load import Model
from instar.record.files import read_json, whole, write_json
from instar.record.keys import digest
from instar.record.lock import held
from instar.record.netcdf import as_bytes, opened
from instar.tasks.batch import Batch, tokenize
from instar.tasks.library import task
from instar.tasks.task import Task
from instar.workflow.answering import gathered
from instar.workflow.cluster import Asks, Lost, spread

Tell = Callable[[int, int, str], None]
Executor = Literal["serial", "ray"]
OLD, NEW = "ioi2", "ioi3"
CHECKED, CHECK_SEED, CIRCUIT_SEED = 200, 23, 29
FIRST_SEED = 10
"""Seeds below were looked at while the plants were being made."""
VERSION = 1
"""Of plants and evidence: higher where either is made in another way."""
COMPARED = 2
"""Of the comparison of circuits, where there is one."""
TRUE = ("rewired", "rewired and amplified", "extended", "replaced")
"""Kinds that are moved afterwards, too."""


@dataclass(frozen=True)
class Instance:
    """One thing to make: a kind, on one base, with one seed."""

    base: str
    kind: str
    seed: int

    @property
    def null(self) -> bool:
        """Whether nothing was planted."""
        return self.kind in nulls.SINGLE or self.kind == nulls.NEAR

    @property
    def compared(self) -> bool:
        """Whether circuits are compared, too."""
        return self.null or self.kind.startswith(nulls.GROWING)

    def folder(self, out: Path) -> Path:
        """Where it is kept."""
        return out / self.base / f"{self.kind}, seed {self.seed}"


def instances(seeds: int, bases: Sequence[str]) -> list[Instance]:
    """Everything, seed by seed, so that an early end has something of each.

    Nothing changed has two seeds more; moved and growing truths, last, have two.
    """
    first, nothing = FIRST_SEED + seeds, (*nulls.SINGLE, nulls.NEAR)
    more = (*(kind + nulls.AFTER for kind in TRUE), *(f"{nulls.GROWING}{share:g}" for share in nulls.SHARES))
    each = (
        (range(FIRST_SEED, first), (*KINDS, *nothing)),
        (range(first, first + 2), nothing),
        (range(FIRST_SEED, FIRST_SEED + min(seeds, 2)), more),
    )
    return [Instance(base, kind, seed) for seeds, kinds in each for seed in seeds for base in bases for kind in kinds]


def make_all(out: Path, todo: Sequence[Instance], tell: Tell, executor: Executor = "serial") -> None:
    """Every missing instance, one after another or spread over processes of one thread each.

    Raises:
        RuntimeError: where some could not be made in processes: the others are there, tracebacks in `tracebacks.txt`.
    """
    with held(out):
        for base in dict.fromkeys(one.base for one in todo):
            base_of(base, out)  # made here if need be, not by several workers at once
        left = [one for one in todo if not made(out, one)]
        done, lost = len(todo) - len(left), list[str]()
        tell(done, len(todo), "")
        for number, why in (_with_ray if executor == "ray" else _here)(out, left):
            what = f"{left[number].base}: {left[number].kind}, seed {left[number].seed}"
            if why is not None:
                lost.append(f"{what}: {why.reason}")
                why.note(out, what)
            done += 1
            tell(done, len(todo), what)
    if lost:
        raise RuntimeError(f"{len(lost)} of {len(left)} instances were not made; the first: {lost[0]}")


def _here(out: Path, left: Sequence[Instance]) -> Iterator[tuple[int, None]]:
    benches = _Benches(out)
    for number, one in enumerate(left):
        benches.make(one)
        yield number, None


def _with_ray(out: Path, left: Sequence[Instance]) -> Iterator[tuple[int, Lost | None]]:
    return spread(_make, out, [(one.base, one) for one in left], Asks())


_benches: "dict[Path, _Benches]" = {}
"""Of a process that makes instances for another."""


def _make(out: Path, one: Instance) -> None:
    if out not in _benches:
        _benches.clear()
        _benches[out] = _Benches(out)
    _benches[out].make(one)


def made(out: Path, one: Instance) -> bool:
    """Whether it is there, made as it would be now."""
    path = one.folder(out) / "plant.json"
    with suppress(ValueError, OSError):
        return path.exists() and read_json(path)["key"] == key_of(out, one)
    return False


def key_of(out: Path, one: Instance) -> str:
    """What an instance depends on."""
    compared = [COMPARED] if one.compared else []
    return digest([VERSION, weights_of(one.base, out), one.kind, one.seed, *compared])


@dataclass
class _Benches:
    """By base: its model and its old circuit, found once."""

    out: Path
    kept: dict[str, Subject] = field(default_factory=dict)

    def make(self, one: Instance) -> None:
        """Plant, measure, write."""
        if one.base not in self.kept:
            self.kept[one.base] = subject_of(base_of(one.base, self.out))
        torch.manual_seed(one.seed)
        subject = self.kept[one.base]
        with quiet():
            plant = planted(subject, one)
        record: dict[str, Any] = {"key": key_of(self.out, one), "took": plant.took, "checks": plant.checks}
        folder = one.folder(self.out)
        folder.mkdir(parents=True, exist_ok=True)
        if plant.took:
            found = gathered(plant.base, plant.tuned, OLD, NEW, seed=one.seed, intact=plant.intact)
            keep(folder, found)
            record["rules"] = list(found.rules)
            if one.compared:
                changed = nulls.circuits_changed(plant.base, plant.tuned, subject.old_pairs)
                record["changed"] = asdict(changed) | {"claimed": changed.claimed}
        # Written last: its presence means that the instance is whole.
        write_json(folder / "plant.json", record)


def subject_of(model: Model) -> Subject:
    """A base with what plants are made with."""
    old, new = (task(name).fit(model.tokenizer) for name in (OLD, NEW))
    scored, sized = _pairs(old, model, 32, CIRCUIT_SEED), _pairs(old, model, 32, CIRCUIT_SEED + 1)

    def circuit(other: Model) -> tuple[str, ...]:
        return heads_of(edges(other, scored).circuit(faithfulness=FAITHFUL, batch=sized).nodes)

    checks = [_pairs(own, model, CHECKED, CHECK_SEED) for own in (old, new)]
    return Subject(model, old, new, circuit(model), circuit, *checks)


def _pairs(own: Task, model: Model, count: int, seed: int) -> Batch:
    return tokenize(own.pairs(count, seed), model.tokenizer, task=own.name)


def planted(subject: Subject, one: Instance) -> Plant:
    """The instance's two models."""
    if one.kind in nulls.SINGLE:
        return nulls.only_moved(subject, one.kind, one.seed)
    if one.kind == nulls.NEAR:
        return nulls.on_text(subject, one.seed)
    if one.kind.startswith(nulls.GROWING):
        return nulls.grown(subject, float(one.kind.removeprefix(nulls.GROWING)), one.seed)
    plant = KINDS[one.kind.removesuffix(nulls.AFTER)].make(subject, one.seed)
    return nulls.then_moved(plant, one.seed) if one.kind.endswith(nulls.AFTER) else plant


PAGES = ("reuse", "ledger", "shapley")


def keep(folder: Path, found: Found) -> None:
    """The measurements of an instance, one file each."""
    pages = {
        f"{role} {when}": own for role, ends in found.evaluate.items() for when, own in zip(ENDS, ends, strict=True)
    }
    pages |= {name: own for name in PAGES if (own := getattr(found, name)) is not None}
    for name, own in pages.items():
        with whole(folder / f"{name}.nc") as scratch:
            scratch.write_bytes(as_bytes(own))


ENDS = ("before", "after")


def read(out: Path, one: Instance) -> tuple[Found | None, dict[str, Any]]:
    """What an instance's answer is made of, None where the plant did not take; and the plant's record."""
    folder = one.folder(out)
    record = read_json(folder / "plant.json")
    if not record["took"]:
        return None, record
    ends = {role: (_page(folder, f"{role} before"), _page(folder, f"{role} after")) for role in ("old", "new")}
    behaviour = {role: (a, b) for role, (a, b) in ends.items() if a is not None and b is not None}
    reuse, ledger, shapley = (_page(folder, name) for name in PAGES)
    return Found(behaviour, reuse, ledger, shapley, record["rules"], ours=False), record


def _page(folder: Path, name: str) -> xr.Dataset | None:
    path = folder / f"{name}.nc"
    if not path.exists():
        return None
    with opened(path) as dataset:
        return dataset.load()
