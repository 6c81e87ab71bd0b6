"""What a run is allowed to take, as the command line has it: `--budget 60m`, `--max-memory 6G`."""

import re
from typing import Any

_SECONDS, _BYTES = {"s": 1, "m": 60, "h": 3600, "d": 86400}, {"M": 2**20, "G": 2**30, "T": 2**40}


def limits(budget: str | None, max_memory: str | None) -> tuple[float | None, float | None]:
    """Seconds and bytes."""
    return (
        None if budget is None else _amount("--budget", budget, _SECONDS, "60m, 90s or 2h"),
        None if max_memory is None else _amount("--max-memory", max_memory, _BYTES, "6G or 800M"),
    )


def _amount(option: str, text: str, units: dict[str, int], example: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z])(?:in|iB|B)?", text.strip())
    unit = found and next((u for u in units if u.lower() == found[2].lower()), None)
    if not found or unit is None or float(found[1]) == 0:
        raise ValueError(f"{option} {text}: expected an amount and its unit, as {example}")
    return float(found[1]) * units[unit]


def fitted(experiment: Any, budget: str | None, max_memory: str | None) -> Any:
    """The run within what is allowed; what it gives up is said."""
    allowed = limits(budget, max_memory)
    if allowed == (None, None):
        return experiment
    from instar.report.planned import show_given
    from instar.workflow.budget import within
    from instar.workflow.plan import Known

    experiment, given = within(experiment, Known.of(experiment, own_tasks=True), *allowed)
    show_given(given)
    return experiment
