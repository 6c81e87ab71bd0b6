"""The run that a command line means, and what it says instead of the run's configuration."""

import os
from pathlib import Path
from typing import Any, Literal

Executor = Literal["serial", "ray"]


def only_given(**options: Any) -> dict[str, Any]:
    """The options that have a value."""
    return {name: value for name, value in options.items() if value is not None}


def joining(executor: Executor | None, address: str | None) -> Executor | None:
    """The executor that is asked for; an address is that of a cluster, and none but Ray has one."""
    if address is None:
        return executor
    if executor == "serial":
        raise ValueError("--address is that of a Ray cluster: give --executor ray with it, or neither")
    # As Ray itself reads it; nothing of it is kept in a file.
    os.environ["RAY_ADDRESS"] = address
    return "ray"


def named(
    run: Path,
    out: Path | None,
    consent: tuple[bool, bool, bool] = (False, False, False),
    beside: bool = False,
    **options: str | None,
) -> Any:
    """The run that a command means, with what the command line says instead of its configuration."""
    from instar.workflow.experiment import Consent, Experiment

    allowed, parts = (
        Consent(*consent),
        {
            "model": ("device", "dtype"),
            "train": ("lora", "checkpoints", "seeds"),
            "measure": ("executor",),
            "compare": ("controls",),
        },
    )
    instead = {part: only_given(**{name: options.get(name) for name in names}) for part, names in parts.items()}
    if allowed.remote:
        instead["model"]["trust_remote_code"] = True
    return Experiment.named(run, out, instead, allowed, beside)
