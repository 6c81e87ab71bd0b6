"""Which tasks has a model mastered, which not, and which of them are neighbours: where an experiment can begin."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from instar.compare.baselines import listed
from instar.compare.behaviour import bounds, by_label, interval
from instar.measure.evaluate import evaluate
from instar.models.load import Model
from instar.progress import Tell
from instar.record.config import DataConfig
from instar.record.files import finite
from instar.stats.intervals import Interval
from instar.tasks.baselines import of_task
from instar.tasks.batch import tokenize
from instar.tasks.library import TASKS, task

MASTERED = 0.9
FAILED = 0.7


@dataclass(frozen=True)
class Screened:
    """One task on one model, or the reason why it could not be tried."""

    task: str
    accuracy: Interval | None
    choice: Interval | None
    pairs: int
    reason: str = ""
    baselines: tuple[dict[str, Any], ...] = ()
    """What needs no circuit (`instar.compare.baselines`), the best first."""
    naming: Interval | None = None
    """log of the candidates' summed probability, in nats (`instar.measure.evaluate`)."""
    choosing: Interval | None = None
    """log p(answer) − naming, in nats."""
    by_wording: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The same numbers of each wording, with `named`: how often somebody is named."""

    @property
    def standing(self) -> str:
        """`mastered` (the lower bound is at least 90 %), `failed` (the upper bound is at most 70 %), or `between`."""
        if self.accuracy is None:
            return "not tried"
        if self.accuracy.low >= MASTERED:
            return "mastered"
        return "failed" if self.accuracy.high <= FAILED else "between"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        screened: dict[str, Any] = {
            "task": self.task,
            "standing": self.standing,
            "pairs": self.pairs,
            "reason": self.reason,
        }
        for name, own in self._numbers().items():
            # NaN is no JSON: choosing is not defined of a task with one candidate.
            numbers = (float(x) for x in (own.value, own.low, own.high))
            screened[name] = [None if math.isnan(x) else x for x in numbers]
        return screened | {"baselines": list(self.baselines), "by_wording": finite(self.by_wording)}

    def as_bounds(self) -> dict[str, float]:
        """Its numbers, each with `_low` and `_high`, as summary.json has them."""
        return {k: v for name, own in self._numbers().items() for k, v in bounds(name, own).items()}

    def _numbers(self) -> dict[str, Interval]:
        every = {
            "accuracy": self.accuracy,
            "choice_accuracy": self.choice,
            "naming": self.naming,
            "choosing": self.choosing,
        }
        return {name: own for name, own in every.items() if own is not None}


def screen(model: Model, names: list[str], pairs: int, seed: int, tell: Tell) -> list[Screened]:
    """Every task on held-out names (and wordings, where a task has several)."""
    screened = []
    for number, name in enumerate(names):
        screened.append(_one(model, name, pairs, seed))
        tell(number + 1, len(names), name)
    return screened


def neighbours(screened: list[Screened]) -> list[tuple[str, str]]:
    """Pairs of an easier task that is mastered and a harder one that is failed."""
    by_name = {s.task: s for s in screened}
    pairs = []
    for s in screened:
        known = TASKS[s.task].harder_than if s.task in TASKS else ()
        for easier in known:
            if easier in by_name and by_name[easier].standing == "mastered" and s.standing == "failed":
                pairs.append((easier, s.task))
    return pairs


def _one(model: Model, name: str, pairs: int, seed: int) -> Screened:
    chosen = task(name)
    try:
        fitted = chosen.fit(model.tokenizer)
        tested = fitted.pairs(pairs, seed, "test")
        batch = tokenize(tested, model.tokenizer, task=name)
    except ValueError as error:
        return Screened(name, None, None, 0, str(error))
    result = evaluate(model, batch)
    accuracy, choice, naming, choosing = (
        interval(result, n) for n in ("accuracy", "choice_accuracy", "naming", "choosing")
    )
    beside = tuple(listed([asdict(rule) for rule in of_task(fitted, tested, DataConfig().train_size, seed)]))
    return Screened(name, accuracy, choice, pairs, "", beside, naming, choosing, by_label(result, "wording", str))
