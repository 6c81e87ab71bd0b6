"""The whole answer from two models: `instar.answer(base, tuned, old, new)`."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from instar.between.ledger import ledger
from instar.between.reuse import LEAST_PROMPTS, Draws, reuse
from instar.between.shapley import shapley
from instar.compare.ability import ability
from instar.compare.answer import Answer, Found
from instar.compare.answer import answer as judged
from instar.measure.common import once
from instar.measure.evaluate import evaluate
from instar.measure.patching import EXACT_BELOW
from instar.models.coordinates import in_coordinates_of
from instar.models.load import Model, load, load_tokenizer
from instar.record.config import DataConfig
from instar.tasks.align import intervened
from instar.tasks.baselines import of_task
from instar.tasks.batch import Batch, tokenize
from instar.tasks.library import task
from instar.tasks.pair import Pair
from instar.tasks.task import Task
from instar.workflow.mastered import mastered
from instar.workflow.schedule import DEPTH, LEDGER_PROMPTS

TOLD = {False: 400, True: 96}
"""Prompts whose behaviour is told, of small and of large models, where there are as many."""
Asked = str | Path | Task | Batch | Mapping[str, Batch]


def answer(
    base: Model | str | Path,
    tuned: Model | str | Path,
    old: Asked,
    new: Asked,
    *,
    prompts: int = 96,
    draws: Draws | None = None,
    grafts: bool = True,
    seed: int = 0,
) -> Answer:
    """Was the base's circuit of the old task transformed or extended, or a new one formed, and how was the gain written?

    From two models alone: the ledger goes on the straight line between them, and nothing is said of when. A run
    (`instar run`) or a series of checkpoints (`instar compare`) says more.

    Args:
        base: what was before the fine-tuning; `tuned`: what after; models, folders or hub ids.
        old: the task that the base has mastered; `new`: the one that it was fine-tuned on. A task, its name in the library,
            a file of pairs, a batch, or one batch for each counterfactual.
        prompts: of each counterfactual, a third each to score edges, to choose the circuit's size, and to run circuits.
        draws: circuits that reuse is compared with: 100 with permuted heads, 30 of a large model.
        grafts: also Shapley shares (128 grafts), beside the ledger.

    Raises:
        ValueError: for models of different shapes, or too few pairs.
    """
    return judged(gathered(base, tuned, old, new, prompts=prompts, draws=draws, grafts=grafts, seed=seed))


def gathered(
    base: Model | str | Path,
    tuned: Model | str | Path,
    old: Asked,
    new: Asked,
    *,
    prompts: int = 96,
    draws: Draws | None = None,
    grafts: bool = True,
    seed: int = 0,
    intact: Model | None = None,
) -> Found:
    """What the answer is made of, and no more: where nothing was learnt, behaviour alone.

    Args:
        intact: the model whose circuit of the old task is meant, where it is not the base's.
    """
    first = base if isinstance(base, Model) else load(str(base))
    last = tuned if isinstance(tuned, Model) else load(str(tuned), like=first)
    last, coordinates = in_coordinates_of(first, last)
    large = sum(p.numel() for p in first.module.parameters()) >= EXACT_BELOW
    (before, told_old, _), (after, told_new, task_of) = (
        asked(one, first, prompts, max(prompts, TOLD[large]), seed) for one in (old, new)
    )
    # Rules are right or not on the very pairs whose behaviour is told.
    learnt = [] if task_of is None else of_task(task_of, told_new.pairs, DataConfig().train_size, seed)
    rules = [asdict(rule) for rule in learnt]
    behaviour = {
        role: (evaluate(first, batch), evaluate(last, batch)) for role, batch in (("old", told_old), ("new", told_new))
    }
    found = Found(behaviour, rules=rules, ours=False)
    can = ability(*behaviour["new"], rules)
    if can.new is False:
        return found
    some = once(next(iter(after.values())))[slice(0, LEDGER_PROMPTS[large])]
    found = replace(found, ledger=ledger([first, last], some, ("choosing", "logit_diff")))
    if not can.new:
        return found
    some_old = {kind: batch[slice(0, max(LEAST_PROMPTS, prompts // 3))] for kind, batch in before.items()}
    kinds = {next(iter(batches.values())).task: list(batches) for batches in (before, after)}
    draws = draws or Draws.of(DEPTH[large].draws)
    origin = intact or first
    own = reuse(
        origin, last, some_old, after, others=mastered(origin, None, kinds, prompts // 3), draws=draws, seed=seed
    ).assign_attrs(coordinates=coordinates.said, coordinates_shared=int(coordinates.shared))
    inside = json.loads(own.attrs["inside"])
    return replace(found, reuse=own, shapley=shapley(first, last, some, inside) if grafts else None)


def asked(given: Asked, base: Model, count: int, told: int, seed: int) -> tuple[dict[str, Batch], Batch, Task | None]:
    """Batches by counterfactual, of the same prompts; one whose behaviour is told; and the task, of which there are rows to
    learn from."""
    if isinstance(given, Batch | Mapping):
        batches = {given.counterfactual: given} if isinstance(given, Batch) else given
        batches = {name: batch.aligned() for name, batch in batches.items()}
        return batches, next(iter(batches.values())), None
    own = (given if isinstance(given, Task) else task(str(given))).fit(base.tokenizer)
    rows = {kind: _pairs(own, count, seed, kind) for kind in intervened(list(own.counterfactuals))}
    batches = {kind: tokenize(pairs, base.tokenizer, task=own.name).aligned() for kind, pairs in rows.items()}
    tested = tokenize(_pairs(own, told, seed, next(iter(rows))), base.tokenizer, task=own.name).aligned()
    return batches, tested, own


def _pairs(own: Task, count: int, seed: int, kind: str) -> list[Pair]:
    """As many as are asked for, or all that a file has.

    Raises:
        ValueError: where there are not even the fewest.
    """
    with suppress(ValueError):
        return own.pairs(count, seed, "test", kind)
    found, low, high = own.pairs(min(count, LEAST_PROMPTS), seed, "test", kind), min(count, LEAST_PROMPTS), count
    while high - low > 1:
        middle = (low + high) // 2
        try:
            found, low = own.pairs(middle, seed, "test", kind), middle
        except ValueError:
            high = middle
    return found


def there_are(specs: Sequence[str], base: str, most: int) -> int:
    """How many prompts every counterfactual of these tasks has, `most` at most; no weights are read."""
    tokenizer = load_tokenizer(base)
    tasks = [task(spec).fit(tokenizer) for spec in specs]
    return min(len(_pairs(own, most, 0, kind)) for own in tasks for kind in own.counterfactuals)
