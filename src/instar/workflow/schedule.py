"""Which checkpoints each stage is measured at.

1. The first seed's are all measured; what takes most of the time (`Dear`) at as many as `measure.checkpoints` says, evenly
   spread over the series, the first and the last among them.
2. Further seeds are measured where `measure.further_seeds` says, a control fine-tuning at its end.
3. Where the configuration leaves it open, models for which patching is estimated are measured at fewer. The size is the
   base's, by its weights' file: nothing is loaded to know it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from instar.measure.patching import EXACT_BELOW
from instar.record.config import CompareConfig, MeasureConfig, RunConfig, TrainConfig
from instar.record.store import Tuning

OF_LARGE: dict[str, Any] = {"patching": 6, "circuit": 12, "roles": "ends", "ledger": 12}
_FLOAT32 = 4


@dataclass(frozen=True)
class Depth:
    """How much is tested between the base and a checkpoint, where a configuration may leave it open."""

    checkpoints: int
    exchanged_sets: int
    single: bool
    reuse_prompts: int
    draws: int


DEPTH = {
    False: Depth(6, 30, single=True, reuse_prompts=96, draws=100),
    True: Depth(3, 10, single=False, reuse_prompts=36, draws=30),
}
LEDGER_PROMPTS = {False: 48, True: 24}
"""Of small and of large models."""


def is_large(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a series' base is large, by its rows in the index; of the hub's own files the size is not known."""
    return (rows[0].get("bytes") or 0) >= _FLOAT32 * EXACT_BELOW


def at_ends(how: MeasureConfig, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether seeds after the first are measured at their ends alone; `rows` are of one of them or the first's."""
    return how.further_seeds == "ends" or (how.further_seeds == "auto" and is_large(rows))


def trained_by(config: RunConfig, tuning: Tuning, rows: Sequence[dict[str, Any]]) -> TrainConfig:
    """How one fine-tuning is made: of those that are measured at their ends alone no other checkpoint is kept.

    Args:
        rows: the first fine-tuning's checkpoints, or those that it will have; not looked at for itself.
    """
    own = config.train
    if tuning == own.seeds[0] or (isinstance(tuning, int) and not at_ends(config.measure, rows)):
        return own
    return own.model_copy(update={"checkpoints": (own.steps,)})


def measured_at(
    stage: str, how: MeasureConfig, rows: Sequence[dict[str, Any]], tuning: Tuning, first: bool
) -> list[int]:
    """The steps of a fine-tuning at which a stage is measured.

    Args:
        rows: its checkpoints, as its index has them.
        first: whether it is the main one.
    """
    if stage == "ledger":
        # Of an interval, and so of all but the first.
        return [step for step in _measured_at(stage, how, rows, tuning, first) if step != rows[0]["step"]]
    return _measured_at(stage, how, rows, tuning, first)


def _measured_at(
    stage: str, how: MeasureConfig, rows: Sequence[dict[str, Any]], tuning: Tuning, first: bool
) -> list[int]:
    steps = [row["step"] for row in rows]
    if isinstance(tuning, str):
        return steps[-1:]
    if not first and at_ends(how, rows):
        return [steps[0], steps[-1]]
    wanted: dict[str, Any] = {**(OF_LARGE if is_large(rows) else {}), **how.checkpoints}
    asked = wanted.get(stage, "all")
    return steps if asked == "all" else sorted({steps[0], *spaced(steps[1:], 1 if asked == "ends" else asked - 1)})


def compared_at(config: RunConfig, rows: Sequence[dict[str, Any]], tuning: Tuning, first: bool) -> list[int]:
    """The steps of a fine-tuning that are compared with its base: some that have circuits, of further seeds the last.

    Where the gain is booked at fewer, they are among these: what was written until then is known.
    """
    count = depth_of(config.compare, rows).checkpoints
    steps = measured_at("circuit", config.measure, rows, tuning, first)[1:]
    if "ledger" in config.measure.stages:
        booked = measured_at("ledger", config.measure, rows, tuning, first)
        steps = [step for step in steps if step in booked] or steps[-1:]
    return spaced(steps, count if first else 1)


def depth_of(how: CompareConfig, rows: Sequence[dict[str, Any]]) -> Depth:
    """What is tested, as the configuration says or, where it does not, as the model's size has it."""
    said = how.model_dump(include={own.name for own in fields(Depth)}, exclude_none=True)
    return replace(DEPTH[is_large(rows)], **said)


def ledger_prompts(how: MeasureConfig, rows: Sequence[dict[str, Any]]) -> int:
    """How many prompts the gain is booked on."""
    return how.ledger_prompts or LEDGER_PROMPTS[is_large(rows)]


def by_layer(config: RunConfig, rows: Sequence[dict[str, Any]], first: bool, last: bool) -> bool:
    """Whether causal tests go layer by layer, too: where learning took place is told of the main fine-tuning, and of a large
    model at its end."""
    return (first and (last or not is_large(rows))) or not at_ends(config.measure, rows)


def spaced(steps: Sequence[int], count: int) -> list[int]:
    """At most `count` of the steps, evenly, the last among them."""
    every = len(steps) / count
    return list(steps) if every <= 1 else sorted({steps[round((i + 1) * every) - 1] for i in range(count)})
