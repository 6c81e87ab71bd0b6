"""`instar.CircuitCallback` for transformers' Trainer, and so for TRL's: a thin adapter over `instar.recorder`.

1. When training begins the base is recorded; after every optimizer step the recorder is told; at the end of the last epoch,
   before `load_best_model_at_end` could bring other weights, the last step is recorded.
2. Numbers go to what `report_to` names. A callback cannot reach the Trainer's own reporters, so TensorBoard gets a writer in
   a folder `instar` beside the Trainer's events (one folder is one run to TensorBoard, and two writers in one hide each
   other), W&B and trackio the run that the Trainer opened, any other one a second instance of its integration.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import default_logdir, get_reporting_integration_callbacks

from instar.live.choices import Choices, Logs, Tasks
from instar.live.recorder import Recorder

Report = Callable[[Logs, Any], None]
"""`report(logs, state)`."""


class CircuitCallback(TrainerCallback):
    """Evaluates, attributes and patches during training, within a budget of time.

    Args:
        tasks: the task the model has mastered and the one it is trained on: names or files, as a pair or
            {"old": …, "new": …}.
        choices: see `instar.live.choices.Choices`: `out`, `every`, `stages`, `max_overhead`, `save`, …

    Raises:
        ValueError: when training begins, for an unknown task, an unsupported model, or an `out` that holds another run.
    """

    def __init__(self, tasks: Tasks, **choices: Any):
        self.tasks, self.choices = tasks, choices
        Choices(**choices)
        self.recorder: Recorder | None = None
        """What has been recorded; `recorder.log` has the latest numbers."""
        self.losses: list[float] = []
        self.reports: list[Report] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Record the base, or go on where a resumed training stands."""
        self.recorder = None
        if not state.is_world_process_zero:
            return
        if getattr(args, "fsdp", None) or getattr(args, "deepspeed", None):
            raise ValueError("CircuitCallback needs whole weights in the main process, which FSDP and DeepSpeed split")
        choices = Choices(**{"tokenizer": kwargs.get("processing_class"), "start": state.global_step, **self.choices})
        self.reports, self.losses = list(_reports(args, model)), []
        self.recorder = Recorder(model, self.tasks, choices, tell=lambda step, logs: self._report(logs, state))
        self.recorder.begin()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """The Trainer's losses, for the index."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A record where one is due; the last step's waits for the end of its epoch."""
        own = self.recorder
        if own is None or state.global_step <= own.last:
            return
        if state.global_step >= state.max_steps:
            own.last = state.global_step
        elif own.step(state.global_step, *self._seen(state)):
            self.losses.clear()
            control.should_training_stop = control.should_training_stop or own.stops

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The end, if the Trainer stops here."""
        if self.recorder is not None and control.should_training_stop:
            self.recorder.finish(*self._seen(state))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The end, where no epoch ended before it."""
        if self.recorder is not None:
            self.recorder.finish(*self._seen(state))

    def _seen(self, state: Any) -> tuple[float | None, int | None]:
        loss = sum(self.losses) / len(self.losses) if self.losses else None
        return loss, state.num_input_tokens_seen or None

    def _report(self, logs: Logs, state: Any) -> None:
        for report in self.reports:
            report(logs, state)


def _reports(args: Any, model: Any) -> Iterator[Report]:
    named = args.report_to if isinstance(args.report_to, list) else [args.report_to or "none"]
    for name in named:
        if name in _OWN:
            yield _OWN[name](args)
        else:
            for kind in get_reporting_integration_callbacks([name] if name != "none" else []):
                yield _integration(kind(), args, model)


def _integration(reporter: Any, args: Any, model: Any) -> Report:
    """Fed as the Trainer would; it sets itself up at the first numbers."""
    return lambda logs, state: reporter.on_log(args, state, None, model=model, logs=dict(logs))


def _tensorboard(args: Any) -> Report:
    from torch.utils.tensorboard import SummaryWriter

    named = os.getenv("TENSORBOARD_LOGGING_DIR")
    opened = sorted(Path(args.output_dir, "runs").glob("*"), key=lambda folder: folder.stat().st_mtime_ns)
    # The Trainer's own callback has opened its folder just now.
    beside = Path(named).expanduser() if named else opened[-1] if opened else Path(args.output_dir, default_logdir())

    def report(logs: Logs, state: Any) -> None:
        with SummaryWriter(str(beside / "instar")) as writer:
            for name, value in logs.items():
                writer.add_scalar(name, value, state.global_step)

    return report


def _wandb(args: Any) -> Report:
    def report(logs: Logs, state: Any) -> None:
        import wandb  # pyright: ignore[reportMissingImports] — the user's

        if wandb.run is not None:
            wandb.log({**logs, "train/global_step": state.global_step})

    return report


def _trackio(args: Any) -> Report:
    def report(logs: Logs, state: Any) -> None:
        import trackio  # pyright: ignore[reportMissingImports] — the user's

        trackio.log({**logs, "train/global_step": state.global_step})

    return report


_OWN: dict[str, Callable[[Any], Report]] = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
