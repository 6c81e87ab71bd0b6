"""The demonstration: the main job on the embedded model, to be done while one waits."""

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
        compare=CompareConfig(controls=("old",), exchanged_sets=20, checkpoints=3),
        threads=1,
    )
