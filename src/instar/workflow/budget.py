"""Less, where there is not time or memory for all: what may be given up, in this order, and what each would save.

Nothing that decides what is learnt is given up: data, steps and rates stay as they are. What is given up is said, and stands
in the run's configuration; a run that goes on keeps to what was given up when it began.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from instar.record.config import RunConfig
from instar.workflow.experiment import Experiment
from instar.workflow.plan import Known, Plan, plan


@dataclass(frozen=True)
class Concession:
    """One choice of the configuration that may cost less."""

    part: str
    key: str
    less: Callable[[Any], Any]
    """Of the value that is there, the next that costs less; itself where there is none."""

    def of(self, config: RunConfig) -> Any:
        """The value that is there."""
        return getattr(getattr(config, self.part), self.key)

    def put(self, config: RunConfig, value: Any) -> RunConfig:
        """The configuration with this value."""
        part = getattr(config, self.part).model_copy(update={self.key: value})
        return config.model_copy(update={self.part: part})

    def said(self, value: Any) -> str:
        """As it stands in a configuration."""
        return f"{self.part}.{self.key}: {list(value) if isinstance(value, tuple) else value}"


def _at_least(least: int, divisor: int = 2) -> Callable[[int], int]:
    return lambda value: value if value <= least else max(least, value // divisor)


def _fewer_places(value: dict[str, Any]) -> dict[str, Any]:
    """Of what is open or `all`, as of large models; then ends and fewer."""
    ladder: dict[str, tuple[Any, ...]] = {"patching": (6, "ends"), "circuit": (12, 6), "roles": ("ends",)}

    def less(stage: str) -> Any:
        there, steps = value.get(stage, "all"), ladder[stage]
        if there == "all":
            return steps[0]
        return next((s for s in steps if there != "ends" and (s == "ends" or s < there)), there)

    return {stage: less(stage) for stage in ladder}


FIRST = (
    Concession("measure", "further_seeds", lambda value: "ends"),
    Concession("compare", "single", lambda value: False),
    Concession("compare", "random_sets", lambda value: min(value, 30)),
    Concession("compare", "exchanged_sets", lambda value: 10 if value is None else min(value, 10)),
    Concession("measure", "checkpoints", _fewer_places),
    Concession("compare", "checkpoints", lambda value: 2 if value is None else _at_least(1)(value)),
    Concession("compare", "pairs", _at_least(24)),
    Concession("measure", "circuit_pairs", _at_least(8)),
    Concession("measure", "patching_pairs", _at_least(8)),
    Concession("measure", "role_pairs", _at_least(8)),
)
THEN = (
    Concession("measure", "edge_steps", _at_least(3)),
    Concession("measure", "patching", lambda value: "attribution"),
    Concession("compare", "controls", lambda value: value[:-1]),
    Concession("train", "seeds", lambda value: value[:-1] if len(value) > 1 else value),
)
FOR_MEMORY = (
    Concession("measure", "chunk", _at_least(8)),
    Concession("measure", "replay_chunk", _at_least(4)),
    Concession("measure", "executor", lambda value: "serial"),
)
EVERY = (*FIRST, *THEN, *FOR_MEMORY)


def savings(experiment: Experiment, known: Known) -> Iterator[tuple[str, Plan]]:
    """Each choice that costs less, said, and what the run would take with it alone."""
    for own in EVERY:
        there = own.of(experiment.config)
        if (less := own.less(there)) != there:
            config = own.put(experiment.config, less)
            yield own.said(less), plan(replace(experiment, config=config), known)


def within(
    experiment: Experiment, known: Known, seconds: float | None = None, memory: float | None = None
) -> tuple[Experiment, list[str]]:
    """The run as it fits, and what it gives up for that.

    A run that has begun keeps to what was given up then.

    Raises:
        ValueError: where even the least does not fit, naming it.
    """
    asked, there = experiment.config, experiment.store.made_by()
    if there is not None:
        begun = RunConfig.checked(there, str(experiment.store.contents.file))
        for own in EVERY:
            experiment = replace(experiment, config=own.put(experiment.config, own.of(begun)))
    else:
        if memory is not None:
            fits = _Fitting(experiment, known, lambda p: p.memory, memory, "{:.1f} GiB of memory", 2**30)
            experiment = fits.fitted((FOR_MEMORY,))
        if seconds is not None:
            fits = _Fitting(experiment, known, lambda p: p.seconds, seconds, "{:.0f} min", 60)
            experiment = fits.fitted((FIRST, THEN))
    given = [
        f"{own.said(own.of(experiment.config))} (not {own.of(asked)})"
        for own in EVERY
        if own.of(experiment.config) != own.of(asked)
    ]
    return experiment, given


@dataclass(frozen=True)
class _Fitting:
    """One limit."""

    experiment: Experiment
    known: Known
    takes: Callable[[Plan], float]
    allowed: float
    unit: str
    divisor: float

    def fitted(self, tiers: Sequence[Sequence[Concession]]) -> Experiment:
        """The run with as little given up as it needs: tier by tier, round by round, and back what was more than enough."""
        config, taken = self.experiment.config, list[Concession]()
        while not self._fits(config):
            # A tier in its order, what was taken least often first.
            every = (own for tier in tiers for own in sorted(tier, key=taken.count))
            own = next((own for own in every if own.less(own.of(config)) != own.of(config)), None)
            if own is None:
                least = self.unit.format(self.takes(self._plan(config)) / self.divisor)
                raise ValueError(
                    f"this run takes {least} at the least, and {self.unit.format(self.allowed / self.divisor)} are allowed: "
                    "train fewer steps or seeds, take a smaller model or more, or allow more"
                )
            config, taken = own.put(config, own.less(own.of(config))), [*taken, own]
        for own in reversed(dict.fromkeys(taken)):
            back = own.put(config, own.of(self.experiment.config))
            config = back if self._fits(back) else config
        return replace(self.experiment, config=config)

    def _plan(self, config: RunConfig) -> Plan:
        return plan(replace(self.experiment, config=config), self.known)

    def _fits(self, config: RunConfig) -> bool:
        return self.takes(self._plan(config)) <= self.allowed
