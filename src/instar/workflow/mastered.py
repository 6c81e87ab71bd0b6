"""Other tasks that a base has mastered: what their circuits do for a new task is what any circuit of that size might do."""

from collections.abc import Collection, Mapping, Sequence

from instar.measure.evaluate import evaluate
from instar.models.load import Model
from instar.tasks.align import intervened
from instar.tasks.batch import Batch, tokenize
from instar.tasks.library import TASKS, task

ENOUGH, MASTERED = 3, 0.9
"""How many are looked for, and the share of right choices from which one is mastered."""


def mastered(
    base: Model, asked: Sequence[str] | None, known: Mapping[str, Collection[str]], count: int
) -> dict[str, Batch]:
    """Pairs of tasks that the base has mastered, by name: of those asked for, or of the library's.

    Args:
        known: the run's own tasks with their counterfactuals; a task with one of these is not another.

    Raises:
        ValueError: for a task asked for that the base has not mastered, or that its tokenizer cannot write.
    """
    found: dict[str, Batch] = {}
    own = {kind for kinds in known.values() for kind in intervened(list(kinds))}
    for name in asked if asked is not None else TASKS:
        if len(found) == ENOUGH and asked is None:
            break
        given = task(name)
        if asked is None and (name in known or own & {*given.counterfactuals}):
            continue
        try:
            kind = intervened(list(given.counterfactuals))[0]
            pairs = given.fit(base.tokenizer).pairs(count, 0, "test", kind)
            batch = tokenize(pairs, base.tokenizer, task=name).aligned()
        except ValueError:
            if asked is not None:
                raise
            continue
        right = float(evaluate(base, batch)["choice"].mean())
        if right >= MASTERED:
            found[name] = batch
        elif asked is not None:
            raise ValueError(
                f"compare.others: {name} is not mastered: the base chooses right in {right:.0%} of prompts"
            )
    return found
