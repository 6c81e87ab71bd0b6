"""Somebody else's training loop, recorded while it runs: checkpoints, measurements, and a run directory.

    with instar.recorder(model, ("ioi2", "ioi3"), tokenizer=tokenizer, out="runs/mine", every=50) as r:
        for n, batch in enumerate(batches, 1):
            ...  # one optimizer step
            r.step(n)

1. At a recorded step the weights are written to the run directory, read back, proven and measured there, by the very code
   of `instar measure`. The model in training is not run and not changed (`instar.live.undisturbed`), so the numbers are of
   what the file holds, rounding included; `instar measure`, `compare` and `report` find them done and make what is missing.
2. Step 0, the base, and the last step are always recorded. What is between them is recorded where it fits into
   `max_overhead` of the training's time (`instar.live.budget`): whole, thinned out to fewer stages, or not at all.
3. The index is written before a step is measured. A killed training loses no more than the measurements under way.
4. The page is made again after a record, where that fits into `max_overhead` too, and at the end.
5. At the beginning every error is raised. Later, measuring must not end somebody's training: it warns, notes the failure
   in `measure/failed.json`, and the training goes on (`on_error`).
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from instar.compare.gate import Checked
from instar.live.budget import Budget
from instar.live.choices import SEED, Choices, Logs, Tasks, configuration, numbers
from instar.live.undisturbed import how, plain, settled, undisturbed, unwrapped
from instar.models.arch import Layout, row
from instar.models.load import Model, load_tokenizer
from instar.progress import console
from instar.record.config import RunConfig
from instar.record.store import Store, step_name
from instar.tasks.library import task as find_task
from instar.training.saved import write_checkpoint
from instar.workflow.experiment import Experiment
from instar.workflow.gate import Gate
from instar.workflow.jobs import jobs
from instar.workflow.pipeline import compare_stage, data_stage
from instar.workflow.sweep import Worker
from instar.workflow.underway import page


def recorder(model: Any, tasks: Tasks, **choices: Any) -> "Recorder":
    """Record the training of `model`: use it in `with`, and call `step(n)` after every optimizer step.

    Args:
        model: a transformers model, with peft's adapters or without, or what `instar.load` returned.
        tasks: the task it has mastered and the one it is trained on: names or files, as a pair or {"old": …, "new": …}.
        choices: `out`, `every`, `stages`, `max_overhead`, `save`, `tokenizer`, …: see `instar.live.choices.Choices`.

    Raises:
        ValueError: for an unknown task, an unsupported model, or an `out` that holds another run; when the block is entered.
    """
    return Recorder(model, tasks, Choices(**choices))


@dataclass
class Recorder:
    """A training that is being recorded."""

    model: Any
    tasks: Tasks
    choices: Choices = field(default_factory=Choices)
    tell: Callable[[int, Logs], None] = lambda step, logs: None
    """Called with the numbers of every record, as part of it."""
    log: Logs = field(default_factory=dict, init=False)
    """The numbers of the last record by name (`instar/TASK/accuracy`), to print or to send to a board."""
    last: int = field(default=0, init=False)
    """The last step seen."""
    rows: list[dict[str, Any]] = field(default_factory=list, init=False)
    """The index's record of every recorded step."""
    skipped: list[int] = field(default_factory=list, init=False)
    """Steps that were due and did not fit into the budget."""
    failures: list[dict[str, Any]] = field(default_factory=list, init=False)
    checked: Checked | None = field(default=None, init=False)
    """The last record's gate, where one was asked for; it `stops` where a skill's circuit has changed."""
    budget: Budget = field(init=False)
    _gate: Gate | None = field(default=None, init=False)
    _ended: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.budget = Budget(self.choices.max_overhead, self.choices.clock)

    def __repr__(self) -> str:
        steps = ", ".join(str(row["step"]) for row in self.rows) or "none"
        return f"Recorder(out={str(self.choices.out)!r}, steps recorded: {steps}; {self._share()})"

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.finish()
        else:
            # What is there is kept; the index says that it has not ended.
            self._attempt(self.last, self._write_index)

    def begin(self) -> None:
        """Record step 0, or go on with an earlier record. Every error is raised."""
        own = self.choices
        self.module = unwrapped(self.model)
        self.config, self.last = configuration(own, self.tasks, self.module), own.start
        for name in (self.config.tasks.old, self.config.tasks.new):
            find_task(name)
        self.store = Store(Path(own.out), SEED)
        self.experiment = Experiment(self.store, self.config)
        self.worker = Worker(self.experiment)
        self.budget = Budget(own.max_overhead, own.clock)
        with self._inside():
            if own.start:
                self._go_on()
            else:
                self._begin()

    def step(self, n: int, loss: float | None = None, tokens: int | None = None) -> bool:
        """After optimizer step `n`: record it if it is due and fits. Tells whether it was recorded.

        `loss` (mean since the last record) and `tokens` (trained on so far) are noted with it.
        """
        if n <= self.last:
            raise ValueError(f"step({n}) after step {self.last}: steps must rise")
        self.last = n
        if not self.choices.due(n):
            return False
        stages = self.budget.affordable(self.choices.stages)
        if not stages:
            self.skipped.append(n)
            return False
        return self._attempt(n, lambda: self._record(n, stages, loss, tokens))

    def finish(self, loss: float | None = None, tokens: int | None = None) -> None:
        """The end of the training: the last step is recorded, and a summary and the page are written."""
        if self._ended:
            return
        self._ended, step = True, self.last
        self.skipped = [s for s in self.skipped if s != step]
        if step > 0:
            self._attempt(step, lambda: self._record(step, self.choices.stages, loss, tokens))
        self._attempt(step, lambda: compare_stage(self.experiment))
        self._attempt(step, lambda: page(self.experiment))
        # Last, with the seconds that the summary took.
        self._attempt(step, self._write_index)
        console.print(f"instar: {self._share()}; {self.store.root}", soft_wrap=True)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        settled()
        with self.budget.spending() as self._done, undisturbed(self.config.threads):
            yield

    def _attempt(self, step: int, work: Callable[[], Any]) -> bool:
        """Do it; an error is raised or noted once everything is as it was."""
        try:
            with self._inside():
                work()
        except Exception as error:
            if self.choices.on_error == "raise":
                raise
            reason = f"{type(error).__name__}: {error}"
        else:
            return True
        self.failures.append({"seed": SEED, "step": step, "reason": reason})
        with suppress(OSError):
            self.store.write_json(self.store.failed, self.failures)
        warnings.warn(f"instar failed at step {step}, and training goes on: {reason}", stacklevel=3)
        return False

    # One record

    def _record(self, step: int, stages: Sequence[str], loss: float | None = None, tokens: int | None = None) -> None:
        self._write(step, loss, tokens)
        self._write_index()
        self._done("rest")
        try:
            self._measure(step, stages)
            self.log = numbers(self.store, self.names, step)
            new = f"instar/{self.names[1]}"
            self.rows[-1]["heldout_accuracy"] = self.log.get(f"{new}/accuracy")
            self.rows[-1]["end_of_text"] = self.log.get(f"{new}/end_of_text")
            self._check(step)
        finally:
            if self.choices.save is None:
                self._forget(step)
            self._write_index()
        if self.budget.overhead is not None:
            self.log["instar/overhead"] = self.budget.overhead
        self.tell(step, self.log)
        if self.stops and self.checked is not None:
            console.print(f"instar: step {step}: {self.checked.changed}: training is to stop", style="bold yellow")
        if self.budget.has_room_for("page", self.choices.stages):
            self._done("rest")
            page(self.experiment, f"{len(self.rows)} steps are recorded; the last: step {step}")
            self._done("page")

    def _write(self, step: int, loss: float | None, tokens: int | None) -> None:
        """The checkpoint and its row, unless this step has them already."""
        before = self.rows[-1] if self.rows and self.rows[-1]["step"] == step else None
        if before is not None and before["kept"]:
            return
        module = plain(self.module)
        written = Model(module, self.tokenizer, Layout(module, row(module.config)), "", "")
        sha256, size = write_checkpoint(written, self.store, SEED, step, self.choices.save or "float32")
        blank = dict.fromkeys(("train_accuracy", "heldout_accuracy", "end_of_text"))
        found = {"step": step, "loss": loss, "tokens": tokens, **blank, "sha256": sha256, "bytes": size}
        found |= {"kept": True, "how": how(self.module), "stages": []}
        found["read_by"] = self.experiment.read_by(SEED, found)
        self.rows = [*(self.rows if before is None else self.rows[:-1]), found]

    def _measure(self, step: int, stages: Sequence[str]) -> None:
        """What of these stages is not there yet, by the jobs that `instar measure` would have."""
        found = jobs(self.experiment, self.names, self.data_key)
        wanted = [job for job in found if job.step == step and job.stage in stages]
        missing = [job for job in wanted if not self.store.has_measurement(job.path, job.key)]
        self.store.forget(*(job.path for job in missing))
        for kind in self.worker.make(missing) if missing else ():
            self._done(kind)
        self.rows[-1]["stages"] = sorted({job.stage for job in wanted} | {*self.rows[-1]["stages"]})

    def _check(self, step: int) -> None:
        """The gate, while the weights are there."""
        asked = self.choices.gate(self.config.tasks.old)
        if asked is None or step == 0:
            return
        base = self.worker.base(SEED)
        # The base's own numbers are measured at the first record.
        self._gate = self._gate or Gate(base, asked)
        self.checked = self._gate.of(self.experiment.checkpoint(SEED, step, like=base))
        own = {f"instar/{one.skill}/gate/{one.statistic}": float(one.change.value) for one in self.checked.tests}
        self.log |= {name: value for name, value in own.items() if np.isfinite(value)}
        self._done("gate")

    @property
    def stops(self) -> bool:
        """Whether the last record says that training is to stop."""
        return self.checked is not None and self.checked.verdict == "changed"

    def _forget(self, step: int) -> None:
        """Weights that are not to be kept; the base's tokenizer and config stay."""
        folder = self.store.checkpoint(SEED, step)
        self.store.forget(*([folder] if step else folder.glob("*.safetensors")))
        self.rows[-1]["kept"] = False

    # The run directory

    def _begin(self) -> None:
        root, index = self.store.root, self.store.checkpoints(SEED) / "index.json"
        there = [path for path in (root / "config.yaml", index) if path.exists()]
        if there:
            raise ValueError(
                f"out={str(root)!r} holds another run ({there[0].name}): give another out, or delete it. A training that "
                "goes on from a checkpoint says after which step: start=N (resume_from_checkpoint does)"
            )
        self.tokenizer = self._tokenizer()
        try:
            self._write(0, None, None)
            self._done("begin")
            base = self.worker.base(SEED)
            self._done("load")
            self._prepare(base.tokenizer)
            self.store.write_config(self.config)
            self._done("begin")
            self._record(0, self.choices.stages)
        except BaseException:
            # Nothing has been trained yet: the same call can be made again.
            self.store.forget(root / "config.yaml", index)
            raise

    def _go_on(self) -> None:
        """Behind the records of an earlier, interrupted training; its later ones are made again."""
        root, start = self.store.root, self.choices.start
        index = self.store.index(SEED)
        if index is None or "recorder" not in index:
            raise ValueError(f"out={str(root)!r} has no record of the {start} steps before: give the out that has")
        if self.choices.save is None:
            raise ValueError("save=None keeps no weights of step 0, so its record cannot go on")
        if RunConfig.read(root / "config.yaml") != self.config:
            raise ValueError(
                f"{root / 'config.yaml'} is not what is asked for now: give the same choices, or another out"
            )
        later = tuple(f"/{step_name(r['step'])}.nc" for r in index["steps"] if r["step"] > start)
        made = self.store.here.listed("measure")
        self.store.forget(*(self.store.contents.place(entry) for entry in made if entry.path.endswith(later)))
        own = index["recorder"]
        self.rows = [r for r in index["steps"] if r["step"] <= start]
        self.skipped = [s for s in own["skipped"] if s <= start]
        self.budget.spent, self.budget.trained = own["instar_seconds"], own["training_seconds"]
        self.budget.costs = own["seconds"]
        self.tokenizer = self.worker.base(SEED).tokenizer
        self._prepare(self.tokenizer)
        self._write_index()
        self._done("begin")

    def _prepare(self, tokenizer: Any) -> None:
        prepared = data_stage(self.experiment, tokenizer)
        self.names, self.data_key = list(prepared.tasks), prepared.key

    def _tokenizer(self) -> Any:
        own = self.choices.tokenizer or getattr(self.model, "tokenizer", None)
        if own is not None:
            return own
        name = getattr(self.module, "name_or_path", "")
        try:
            return load_tokenizer(name)
        except OSError:
            raise ValueError(f"tokenizer: none came with the model, and {name!r} has none: give tokenizer=") from None

    def _write_index(self) -> None:
        self._done("rest")
        own = {
            "max_overhead": self.budget.share,
            "overhead": self.budget.overhead,
            "training_seconds": self.budget.trained,
            "instar_seconds": self.budget.spent,
            "seconds": self.budget.costs,
            "skipped": self.skipped,
        }
        index = {
            "key": "recorded",
            "seed": SEED,
            "ended": self._ended,
            "steps": self.rows,
            "health": [],
            "recorder": own,
        }
        self.store.write_index(SEED, index)

    def _share(self) -> str:
        spent, trained, share = self.budget.spent, self.budget.trained, self.budget.overhead
        text = f"{len(self.rows)} steps recorded, {len(self.skipped)} due ones left out"
        if share is None:
            return f"{text}; {spent:.1f} s"
        text += (
            f"; {spent:.1f} s beside {trained:.1f} s of training, {share:.1%} (max_overhead {self.budget.share:.0%})"
        )
        alone = self._ended and share > self.budget.share and len(self.rows) <= 2
        return text + ("; the two ends alone take more than that" if alone else "")
