"""The demonstration: the main job on the embedded model, to be done while one waits."""

from instar.record.config import CompareConfig, RunConfig, TrainConfig


def demo_config() -> RunConfig:
    """The main job on the embedded model: one seed and one control fine-tuning.

    Its embeddings are frozen. They are tied to the unembedding, and the answers are a few dozen names, so AdamW would push
    down every name that is not in the training data, and held-out names would pay for that.
    """
    train = TrainConfig(learning_rate=4e-4, freeze_embeddings=True, seeds=(0,))
    return RunConfig(train=train, compare=CompareConfig(controls=("old",), exchanged_sets=20), threads=2)
