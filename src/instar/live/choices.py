"""What of a training is recorded, and how: the choices, the run's configuration, the numbers for a log."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from instar.compare.booking import SLICES
from instar.live.budget import FIRST
from instar.measure.evaluate import SAID
from instar.models import organism
from instar.record.config import RunConfig, Stage
from instar.record.config.gate import GateConfig
from instar.record.store import Store

SMALL = {
    "data": {"test_size": 200, "measure_pairs": 32},
    "measure": {"patching": "attribution", "patching_pairs": 8},
}
"""What is measured with unless a `config` is given: seconds on a model like GPT-2 small."""
LIVE: tuple[Stage, ...] = ("evaluate", "attribution", "patching")
SEED = 0
Logs = dict[str, float]
Tasks = Mapping[str, str | Path] | Sequence[str | Path]
"""The task the model has mastered and the one it is trained on: a pair, or {"old": …, "new": …}."""


@dataclass(frozen=True)
class Choices:
    """How a training is recorded."""

    out: str | Path = "runs/recorded"
    """The run directory; it must not hold another run."""
    every: int | Literal["log"] | Sequence[int] = 50
    """Steps between records, "log" (1, 2, 4, …), or a list of steps."""
    stages: Sequence[Stage] = LIVE
    """What is measured during training; the rest of a run's stages is left to `instar measure` or `instar compare`."""
    max_overhead: float = 0.1
    """Seconds in instar as a share of seconds of training."""
    save: Literal["float32", "bfloat16", "float16"] | None = "float32"
    """How weights are kept: whole, or as 16-bit differences from step 0 (which are then what is measured). None: not at all,
    and then there are no causal tests and no answer."""
    config: RunConfig | None = None
    """Everything else: sizes of data and measurements, threads, the report. Its model, tasks and training are not read."""
    train_file: str | Path | None = None
    """What is trained on, to find test prompts in it."""
    tokenizer: Any = None
    """The model's tokenizer, where it does not come with it."""
    start: int = 0
    """The step that is behind the training; above 0 an earlier record in `out` goes on."""
    stop_when: GateConfig | Mapping[str, Any] | bool = False
    """A gate (`instar.check`; True: of the mastered task, as it is by itself): training is to stop at the first record that
    does not pass it."""
    on_error: Literal["warn", "raise"] = "warn"
    """What an error during training does. At its beginning every error is raised."""
    clock: Callable[[], float] = time.monotonic
    """Seconds."""

    def __post_init__(self) -> None:
        named = [("stages", stage, get_args(Stage)) for stage in self.stages]
        named += [("save", self.save, ("float32", "bfloat16", "float16", None))]
        named += [("on_error", self.on_error, ("warn", "raise"))]
        for name, value, known in named:
            if value not in known:
                raise ValueError(f"{name}: {value!r} is none of {', '.join(map(str, known))}")
        self.gate("ioi2")
        if FIRST not in self.stages:
            raise ValueError(f'stages must hold "{FIRST}": every table and drawing stands on it')
        if (self.every != "log") if isinstance(self.every, str) else (isinstance(self.every, int) and self.every < 1):
            raise ValueError(f'every={self.every!r}: a number of steps from 1, "log", or a list of steps')
        if not self.max_overhead >= 0:
            raise ValueError(f"max_overhead={self.max_overhead!r}: a share of the training's time, from 0")

    def gate(self, mastered: str) -> GateConfig | None:
        """What is to be checked at each record."""
        if isinstance(self.stop_when, GateConfig):
            return self.stop_when
        asked = {} if self.stop_when is True else self.stop_when
        return None if asked is False else GateConfig.checked({"skills": [mastered], **asked}, "stop_when")

    def due(self, step: int) -> bool:
        """Whether a step is one of `every`."""
        if isinstance(self.every, str):
            return step & (step - 1) == 0
        return step % self.every == 0 if isinstance(self.every, int) else step in self.every


def configuration(choices: Choices, tasks: Tasks, module: Any) -> RunConfig:
    """The run's: what the choices leave open is as in any run.

    Raises:
        ValueError: for tasks that are not two, or sizes that do not fit each other.
    """
    if isinstance(tasks, Mapping):
        tasks = [tasks.get("old", ""), tasks.get("new", "")]
    if isinstance(tasks, str) or len(tasks) != 2 or not all(tasks):
        raise ValueError(f'tasks={tasks!r}: two are needed, the mastered one and the new one: ("ioi2", "ioi3")')
    given = choices.config or RunConfig.model_validate(SMALL)
    value = given.model_dump(exclude={"model", "tasks", "series", "train"})
    name = getattr(module, "name_or_path", "") or type(module).__name__
    source = next((own for own, folder in organism.FOLDERS.items() if Path(name) == folder), name)
    train_file = choices.train_file or given.data.train_file
    value["compare"]["controls"] = []
    value["data"]["train_file"] = None if train_file is None else str(train_file)
    # Of weights that are not kept nothing else can be measured later.
    wanted = [*choices.stages, *(value["measure"]["stages"] if choices.save else ())]
    value["measure"]["stages"] = [stage for stage in get_args(Stage) if stage in wanted]
    return RunConfig.model_validate(
        value
        | {
            "model": {
                "source": source,
                "device": str(module.device),
                "dtype": given.model.dtype,
                "chat": given.model.chat,
            },
            "tasks": {"old": str(tasks[0]), "new": str(tasks[1])},
            "series": {"recorded": True},
            "train": {"seeds": [SEED]},
        }
    )


def _best_head(dataset: xr.Dataset) -> Any:
    """What the best single head's clean output brings back of the answer, in logits."""
    return (dataset["z"] - dataset["corrupted"]).mean("pair").mean("counterfactual").max()


def _booked(dataset: xr.Dataset, name: str) -> Any:
    """What was written in a slice since the record before, of the first metric: nats of choosing (old task: logits)."""
    kinds = [kind for kind, own in SLICES.items() if own == name]
    own = dataset["booked"].isel(metric=0).weighted(dataset["prompts"]).mean("block")
    return own.where(own["kind"].isin(kinds), 0).sum()


_SCALARS: dict[str, dict[str, Callable[[xr.Dataset], Any]]] = {
    "evaluate": {
        "accuracy": lambda d: d["accuracy"].mean(),
        "choice": lambda d: d["choice"].mean(),
        "logit_diff": lambda d: d["logit_diff"].mean(),
        "probability": lambda d: d["probability"].mean(),
        "end_of_text": lambda d: (d["said"] == SAID.index("end of text")).mean(),
    },
    "attribution": {
        "attribution/heads": lambda d: d["heads"].mean("pair").sum(),
        "attribution/mlps": lambda d: d["mlp"].mean("pair").sum(),
    },
    "patching": {"patching/best_head": _best_head},
    "circuit": {"circuit/size": lambda d: d["circuit_size"].isel(group=0)},
    "ledger": {f"booked/{name}": partial(_booked, name=name) for name in ("Q,K", "V,O", "MLPs")},
}


def numbers(store: Store, tasks: Sequence[str], step: int) -> Logs:
    """One step's numbers, `instar/TASK/NAME`: means over pairs, in shares or logits; what is not finite is left out."""
    found: Logs = {}
    for task in tasks:
        for stage, scalars in _SCALARS.items():
            dataset = store.read_measurement(stage, task, SEED, step)
            if dataset is not None:
                found |= {f"instar/{task}/{name}": float(of(dataset)) for name, of in scalars.items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}
