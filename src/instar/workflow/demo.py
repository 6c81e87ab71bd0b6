"""The demonstration: the main job on the embedded model, to be done while one waits."""

import os
from importlib.util import find_spec

from instar.record.config import CompareConfig, DataConfig, MeasureConfig, RunConfig, TrainConfig

STEPS, ROWS = 184, 64


def demo_config() -> RunConfig:
    """The main job on the embedded model: one seed and one control fine-tuning.

    All weights are trained, the embeddings too. Each row is seen once: with 64 a step, what is learnt of 90 names holds for
    others.
    """
    train = TrainConfig(steps=STEPS, batch_size=ROWS, learning_rate=5e-4, schedule="linear", seeds=(0,))
    return RunConfig(
        data=DataConfig(train_size=STEPS * ROWS),
        train=train,
        # Two threads wait for each other more than they do: so small a model is faster with one.
        measure=MeasureConfig(checkpoints={"circuit": 13, "patching": 13, "ledger": 13}),
        compare=CompareConfig(controls=("old",), exchanged_sets=20, checkpoints=2),
        threads=1,
    )


def side_by_side(config: RunConfig) -> RunConfig:
    """With two checkpoints measured at a time where Ray and a second core are there: the same bytes, sooner."""
    if find_spec("ray") is None or (os.cpu_count() or 1) < 2:
        return config
    return config.model_copy(update={"measure": config.measure.model_copy(update={"executor": "ray"})})
