"""A run directory, one line for each piece: `run = instar.load_run("runs/demo")`.

It reads what the store returns and changes nothing. A run may be under way: what is not there yet is an error that says
what is missing and which command makes it. Nothing needs torch except `run.model(step)`, and no code of a task is run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, get_args

import pandas as pd
import xarray as xr

from instar.circuits.circuit import Circuit
from instar.circuits.selection import of_size
from instar.compare.behaviour import EVERY, behaviour
from instar.notebook import block, facts, lines, paragraph, some, table
from instar.record.config import RunConfig, Stage, Test
from instar.record.store import SHARED, Store, Tuning, tuning_name
from instar.tasks.pair import Pair
from instar.tasks.prepare import read_pairs
from instar.workflow.experiment import Experiment

if TYPE_CHECKING:
    from instar.models.load import Model

WITHOUT_TASK = ("drift", *get_args(Test))
STAGES = (*get_args(Stage), *get_args(Test))
SAMPLES = ("pair", "text", "sequence", "evaluated", "new_ablated", "old_ablated")
"""Dimensions that a frame averages over."""
NUMBERED = ("said", "prompt", "wording", "_prompt", "_wording")
"""Variables that are numbers of things: their means say nothing."""


def load_run(root: Path | str) -> "Run":
    """The run in a directory, finished or not.

    Raises:
        ValueError: for a folder that is not a run directory.
    """
    return Run(Experiment.open(Path(root).expanduser()))


@dataclass(frozen=True)
class Run:
    """One run directory. Seeds and controls: `seed=1`, `seed="old"`; the first seed where none is given."""

    experiment: Experiment

    @property
    def store(self) -> Store:
        """The directory's files."""
        return self.experiment.store

    @property
    def config(self) -> RunConfig:
        """Every choice that decides it."""
        return self.experiment.config

    @property
    def root(self) -> Path:
        """The directory."""
        return self.store.root

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json (docs/formats.md)."""
        self._there(self.store.summary, "it has not been compared yet", "compare")
        return self.store.read_summary()

    @property
    def answer(self) -> dict[str, Any]:
        """The answer on the first seed's last tested checkpoint, and every tested one's in short (docs/formats.md)."""
        found = self.summary.get("answer")
        if found is None:
            raise FileNotFoundError(
                f"{self.root}: there is no answer: no checkpoint was tested for reuse of the old circuit; make it with: "
                f"{self.experiment.command('compare')}"
            )
        return found

    @property
    def tasks(self) -> dict[str, str]:
        """The tasks' names, `old` and `new`."""
        return dict(zip(("old", "new"), self.counterfactuals, strict=True))

    @property
    def counterfactuals(self) -> dict[str, list[str]]:
        """Each task's, the old task first."""
        self._there(self.store.data("prepared.json"), "it has no data yet", "train")
        return (self.store.prepared() or {})["counterfactuals"]

    @property
    def seeds(self) -> list[int]:
        """The seeds whose fine-tuning is done."""
        return [seed for seed in self.config.train.seeds if self.store.index(seed) is not None]

    @property
    def controls(self) -> list[str]:
        """The control fine-tunings that are done."""
        return [name for name in self.config.compare.controls if self.store.index(name) is not None]

    @property
    def steps(self) -> list[int]:
        """The steps of the first seed's checkpoints."""
        return self._steps(None)

    @property
    def measured(self) -> dict[str, dict[str, list[int]]]:
        """What is there: stage → task → steps, of the first seed."""
        found = {}
        for stage in STAGES:
            names = [SHARED] if stage in WITHOUT_TASK else list(self.counterfactuals)
            there = {name: steps for name in names if (steps := self.store.measured_steps(stage, name))}
            found |= {stage: there} if there else {}
        return found

    @property
    def heads(self) -> pd.DataFrame:
        """Every head's direct contribution at both ends (logits), largest change first, with simultaneous bounds."""
        changed = self.summary["changed"]["heads"]
        return pd.DataFrame([{"task": task} | row for task, rows in changed.items() for row in rows])

    @property
    def page(self) -> Path:
        """report/index.html."""
        return self._there(self.store.report("index.html"), "it has no page yet", "report")

    def measure(
        self, stage: str, task: str | None = None, seed: Tuning | None = None, steps: Sequence[int] | None = None
    ) -> xr.Dataset:
        """One measurement of all checkpoints along `step` (docs/formats.md); `drift` and `causal` take no task.

        Raises:
            ValueError: for a stage, task, seed or step that the run has not, naming those that it has.
            FileNotFoundError: where it has not been measured yet, with the command that does it.
        """
        if stage not in STAGES:
            raise ValueError(f"no stage {stage!r}; there are {', '.join(STAGES)}")
        if (task is None) is not (stage in WITHOUT_TASK):
            takes = "takes no task" if stage in WITHOUT_TASK else f"takes a task: {', '.join(self.counterfactuals)}"
            raise ValueError(f"measure({stage!r}) {takes}")
        name, tuning = SHARED if task is None else self._task(task), self._tuning(seed)
        there = self.store.measured_steps(stage, name, tuning)
        if not there:
            raise FileNotFoundError(self._not_measured(stage, name, tuning))
        absent = [step for step in steps or () if step not in there]
        if absent:
            raise ValueError(f"steps={absent}: {stage} of {name} is there at steps {some([*map(str, there)], 30)}")
        found = self.store.series(stage, name, tuning, steps)
        assert found is not None
        return found

    def circuit(
        self,
        task: str,
        step: int | None = None,
        group: str | None = None,
        seed: Tuning | None = None,
        edges: int | None = None,
    ) -> Circuit:
        """The circuit of a checkpoint (the last measured one), of all givers pooled or of one counterfactual.

        It is the smallest faithful one, and has no edges where no size was faithful; or the one of `edges` edges, for
        comparisons at equal size. Errors as of `measure`; an unknown `group` is a ValueError.
        """
        tuning = self._tuning(seed)
        last = self.store.measured_steps("circuit", self._task(task), tuning)[-1:]
        found = self.measure("circuit", task, tuning, last if step is None else [step])
        own = found.isel(step=0)
        return Circuit.stored(own, group) if edges is None else of_size(own, edges, group)

    def frame(
        self, stage: str, task: str | None = None, variable: str | None = None, seed: Tuning | None = None
    ) -> pd.DataFrame:
        """One variable of a measurement as a tidy table: a row a step and component (layer, head, slot, …), means over pairs.

        Of `evaluate` without a `variable`: a row a step, with every number of behaviour and its bounds.

        Raises:
            ValueError: where the stage has several variables and none of them is named; and as of `measure`.
        """
        found = self.measure(stage, task, seed)
        if stage == "evaluate" and variable is None:
            own = behaviour(found)
            columns = {k: v for k, v in own.items() if k.removesuffix("_low").removesuffix("_high") in EVERY}
            return pd.DataFrame({"step": own["steps"], **columns})
        names = [str(n) for n in found.data_vars if not str(n).endswith(NUMBERED)]
        if variable is None and len(names) == 1:
            variable = names[0]
        if variable not in names:
            dims = {n: [str(d) for d in found[n].dims if d != "step" and d not in SAMPLES] for n in names}
            listed = ", ".join(f"{n} ({' × '.join(own)})" if own else n for n, own in dims.items())
            raise ValueError(f"variable={variable!r}: {stage} has {listed}")
        values = found[variable]
        values = values.mean([d for d in values.dims if d in SAMPLES])
        # What is not an axis (each pair's wording) would only repeat; axes without labels are numbered.
        extra = [c for c in values.coords if c not in values.dims and c != "share"]
        order = ["step", *(d for d in values.dims if d != "step")]
        return values.drop_vars(extra).rename(variable).transpose(*order).to_dataframe().reset_index()

    def pairs(self, task: str, counterfactual: str | None = None, count: int | None = None) -> list[Pair]:
        """Held-out pairs of a task, of its first counterfactual if none is named."""
        kinds = self.counterfactuals[self._task(task)]
        if counterfactual is not None and counterfactual not in kinds:
            raise ValueError(f"no counterfactual {counterfactual!r} of {task}; there are {', '.join(kinds)}")
        return read_pairs(self.store, task, counterfactual or kinds[0], count)

    def evidence(self, step: int | None = None, seed: Tuning | None = None) -> xr.Dataset:
        """The numbers of a checkpoint's causal tests, on `item`: `value`, `low`, `high` (docs/formats.md)."""
        tuning = self._tuning(seed)
        steps = [step] if step is not None else self.store.measured_steps("causal", SHARED, tuning)[-1:] or [0]
        path = self.store.compared("evidence", tuning, steps[0])
        return self.store.read_dataset(
            self._there(path, f"there is no evidence on step {steps[0]} of {tuning_name(tuning)}", "compare")
        )

    def model(self, step: int | None = None, seed: Tuning | None = None, **options: Any) -> "Model":
        """A checkpoint (the last if no step is given), loaded and proven; `options` as of `instar.load`.

        Raises:
            ValueError: for a step without a checkpoint, naming the steps.
        """
        steps, tuning = self._steps(seed), self._tuning(seed)
        step = steps[-1] if step is None else step
        if step not in steps:
            raise ValueError(f"no checkpoint of step {step}; there are {some([*map(str, steps)], 30)}")
        from instar.models.load import load

        own, (source, revision) = self.config.model, self.experiment.origin(tuning, step)
        if source == str(self.store.checkpoint(tuning, step)):
            for at in {steps[0], step}:  # differences and adapters are of step 0
                self.store.check_checkpoint(tuning, at)
        options = {"device": own.device, "dtype": own.dtype, "chat": own.chat} | options
        if self.config.series is not None and step != steps[0]:
            # Other people's checkpoints often come without a tokenizer, or with a vocabulary that was padded.
            options = {"like": self.model(steps[0], seed, **options)} | options
        return load(source, revision=revision, **options)

    @property
    def missing(self) -> list[str]:
        """What the configuration asks for and is not there yet, each with the command that makes it."""
        done, wanted = self.seeds + self.controls, self.experiment.tunings
        found = [
            f"{tuning_name(t)} is not trained: {self.experiment.command('train')}" for t in wanted if t not in done
        ]
        prepared = self.store.data("prepared.json").exists()
        there = self.measured if prepared else {}
        stages = [s for s in self.config.measure.stages if len(there.get(s, {})) < (1 if s in WITHOUT_TASK else 2)]
        if stages:
            found.append(f"not measured: {', '.join(stages)}: {self.experiment.command('measure')}")
        for path, command in ((self.root / "summary.json", "compare"), (self.store.report("index.html"), "report")):
            if not path.exists():
                found.append(f"no {path.relative_to(self.root).as_posix()}: {self.experiment.command(command)}")
        return found

    def __repr__(self) -> str:
        rows = [f"{k}: {v}" for k, v in self._about().items()]
        return lines(self._title(), *rows, *(f"missing: {m}" for m in self.missing[:3]))

    def _repr_html_(self) -> str:
        rows = [(stage, ", ".join(own), some([*map(str, next(iter(own.values())))], 30)) for stage, own in
                (self.measured if self.store.data("prepared.json").exists() else {}).items()]  # fmt: skip
        listed = table(("stage", "of", "steps"), rows, f"{len(rows)} measurements") if rows else ""
        return block(self._title(), facts(self._about()), listed, *(paragraph(f"missing: {m}") for m in self.missing))

    def _title(self) -> str:
        return f"Run of {shorten(self.config.model.source, 80, placeholder=' …')}"

    def _about(self) -> dict[str, str]:
        tasks = {"old": self.config.tasks.old, "new": self.config.tasks.new}
        found = {"in": str(self.root), "tasks": f"{tasks['old']} (mastered), {tasks['new']} (trained on)"}
        if self.seeds:
            controls = f"; controls: {', '.join(self.controls)}" if self.controls else ""
            steps = self._steps(self.seeds[0])
            ends = f"{len(steps)} checkpoints, steps {steps[0]} to {steps[-1]}"
            found["trained"] = f"{ends}; seeds {', '.join(map(str, self.seeds))}{controls}"
        if (self.root / "summary.json").exists():
            try:
                summary = self.summary
            except ValueError as error:
                return found | {"summary": str(error)}
            own = ((n, t["accuracy"]) for n, t in summary["tasks"].items())
            found["accuracy, base to last"] = "; ".join(f"{n} {a[0]:.1%} to {a[-1]:.1%}" for n, a in own)
            if answer := summary.get("answer"):
                found["answer"] = f"{answer['headline']} (step {answer['step']})"
            elif earlier := summary.get("verdict"):
                found["verdict"] = f"{earlier['kind']} (step {earlier['step']}, instar {summary['instar']})"
            else:
                found["answer"] = "none: no checkpoint was tested for reuse of the old circuit"
        if self.store.report("index.html").exists():
            found["page"] = str(self.page)
        return found

    def _steps(self, seed: Tuning | None) -> list[int]:
        tuning = self._tuning(seed)
        found = self.store.index(tuning)
        if found is None:
            raise FileNotFoundError(
                f"{self.root}: {tuning_name(tuning)} is not trained, or not to its end; "
                f"go on with: {self.experiment.command('train')}"
            )
        return [row["step"] for row in found["steps"]]

    def _tuning(self, seed: Tuning | None) -> Tuning:
        known = self.experiment.tunings
        if seed is not None and seed not in known:
            raise ValueError(f"seed={seed!r}: this run has {', '.join(map(repr, known))}")
        return self.store.first_seed if seed is None else seed

    def _task(self, task: str) -> str:
        if task not in self.counterfactuals:
            raise ValueError(f"no task {task!r}; this run has {', '.join(self.counterfactuals)}")
        return task

    def _not_measured(self, stage: str, task: str, tuning: Tuning) -> str:
        asked = stage == "causal" or stage in self.config.measure.stages
        why = "" if asked else " (measure.stages in its config.yaml does not hold it: add it first)"
        what = stage if task == SHARED else f"{stage} of {task}"
        there = some(list(self.measured))
        return f"{self.root}: {what}, {tuning_name(tuning)}, is not measured yet; there is {there}. Make it with: " + (
            f"{self.experiment.command('measure')}{why}"
        )

    def _there(self, path: Path, what: str, command: str) -> Path:
        if not path.exists():
            raise FileNotFoundError(f"{self.root}: {what}; make it with: {self.experiment.command(command)}")
        return path
