"""The wordings that the base answers: asked once, where a run's data are made, and kept with them (`data/wordings.json`).

A run that goes on takes the choice that is there. It is made anew where the prompts that it was made on would be others, or
the base's weights are; and then the data are other data, which is refused like any other change of them.
"""

from typing import Any

import numpy as np

from instar.measure.evaluate import evaluate
from instar.models.load import Model
from instar.progress import console
from instar.tasks.batch import tokenize
from instar.tasks.prepare import fitted
from instar.tasks.wordings import Chosen, Drawn
from instar.workflow.experiment import Experiment

SEED = 3
"""Added to the data's: rows to train on, to test on and of a control fine-tuning have 0, 1 and 2."""


def answered(experiment: Experiment, tokenizer: Any, base: Model | None) -> Chosen | None:
    """The wordings that the base answers, where the configuration asks for that.

    Args:
        base: the untrained model, where it is loaded already.
    """
    store, config = experiment.store, experiment.config
    if config.tasks.wordings != "answered":
        return None
    tasks = list(fitted(config.tasks, config.data, tokenizer).values())
    drawn, chat = Drawn.of(tasks, config.data.seed + SEED), config.model.chat
    there, weights = Chosen.read(store), _weights(experiment) if base is None else base.weights
    if there is not None and there.of == drawn.key(chat) and weights in (None, there.weights):
        return there
    model = base or _base(experiment)
    named = {}
    for task in drawn.pairs:
        batch = tokenize(drawn.of_task(task), model.tokenizer, task=task)
        named[task] = evaluate(model, batch, chunk=config.measure.chunk)["named"].values.astype(np.int64).tolist()
    chosen = drawn.chosen(named, chat, model.weights)
    console.print(f"wordings that the base answers: {_counted(chosen)} (data/wordings.json)")
    return chosen


def _base(experiment: Experiment) -> Model:
    if experiment.config.recorded:
        return experiment.checkpoint(experiment.store.first_seed, 0)
    return experiment.untrained()


def _weights(experiment: Experiment) -> str | None:
    """What the fine-tuning here began with; None where nothing was trained here."""
    index = experiment.store.index(experiment.store.first_seed) or {}
    return (index.get("decided_by") or {}).get("weights")


def _counted(chosen: Chosen) -> str:
    sides = dict.fromkeys((row.task, row.split) for row in chosen.rows)
    parts = []
    for task, split in sides:
        own = [row.kept for row in chosen.rows if (row.task, row.split) == (task, split)]
        parts.append(f"{sum(own)} of {len(own)} to {split} {task} on")
    return ", ".join(parts)
