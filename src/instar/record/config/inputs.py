"""What is fine-tuned, and on what: the model, its tasks, its data."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from instar.record.config.part import SEEDS, Part, home
from instar.record.names import device_name, dtype_name

Column = Literal[
    "prompt", "answer", "corrupted", "foils", "contrast", "counterfactual", "split", "place", "wording", "spans"
]
"""What a column of a user's data may be."""


class ModelConfig(Part):
    """Which model is fine-tuned."""

    source: str = Field(
        default="embedded",
        description='"embedded" (-llama, -shallow), a folder, a GGUF file, or a hub id; also as id@revision',
    )
    revision: str | None = Field(default=None, description="hub revision")
    device: str = Field(default="cpu", description="torch device for training and measuring: cpu, cuda, cuda:1, mps")
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = Field(
        default="float32", description="type that is measured in; training is in float32"
    )
    chat: str | None = Field(
        default=None,
        description="a user's message: prompts begin the assistant's turn of the model's chat template; left out: plain text",
    )
    trust_remote_code: bool = Field(default=False, description="run code that comes with the repository")

    _source_at_home = field_validator("source", mode="before")(home)
    _device_in_short = field_validator("device", mode="before")(device_name)
    _dtype_in_short = field_validator("dtype", mode="before")(dtype_name)

    @model_validator(mode="before")
    @classmethod
    def _revision_in_the_name(cls, value: Any) -> Any:
        """`source: id@revision` is `source: id` and `revision: revision`."""
        source = value.get("source") if isinstance(value, dict) else None
        if isinstance(source, str) and "@" in source and not Path(source).exists():
            name, _, revision = source.rpartition("@")
            if value.get("revision") not in (None, revision):
                raise ValueError(f"source names revision {revision!r} and revision is {value['revision']!r}; give one")
            return {**value, "source": name, "revision": revision}
        return value


class TasksConfig(Part):
    """The mastered task and the one it fails: library names, or paths to a .py file or to data (docs/own-data.md)."""

    old: str = Field(default="ioi2", description="the task the base has mastered")
    new: str = Field(default="ioi3", description="the task it is fine-tuned on")
    wordings: Literal["answered"] | tuple[str, ...] | None = Field(
        default=None,
        description='null: all; "answered": those on which the base names somebody, found on prompts of their own; or their '
        'names, or how they begin: ["After … went", "When … came"]',
    )

    _tasks_at_home = field_validator("old", "new", mode="before")(home)


class SeriesConfig(Part):
    """Checkpoints that somebody else trained, or that `instar.recorder` wrote: nothing is trained, the base is step 0."""

    checkpoints: str | None = Field(
        default=None,
        description="a glob of folders or .safetensors files whose names end in their step (out/checkpoint-*), or hub "
        "revisions that do (org/name@step{1000,2000}, name@step{1000..9000..1000})",
    )
    recorded: bool = Field(default=False, description="they were recorded here, during training")
    evict: bool = Field(
        default=False, description="remove from the hub's cache what was fetched, once a checkpoint is measured"
    )

    _checkpoints_at_home = field_validator("checkpoints", mode="before")(home)

    @model_validator(mode="after")
    def _from_somewhere(self) -> Self:
        if (self.checkpoints is None) is not self.recorded:
            raise ValueError(
                "series needs checkpoints: a glob, or hub revisions; recorded is what instar.recorder writes"
            )
        return self


class DataConfig(Part):
    """What is trained on, tested on and measured on."""

    train_file: str | None = Field(
        default=None, description="prompts and answers to train on (file#split: of one split); the new task's if absent"
    )
    columns: dict[Column, str] = Field(
        default_factory=dict, description="what your files call their columns, such as {prompt: text, answer: label}"
    )
    holdout: float | None = Field(
        default=None, gt=0, lt=1, description="share of a task file's prompts to test on, where no row names a split"
    )
    train_size: int = Field(
        default=2944, ge=1, le=10_000_000, description="rows to train on; of a task file all, up to this many"
    )
    test_size: int = Field(default=1000, ge=20, le=1_000_000, description="held-out pairs a task for behaviour")
    measure_pairs: int = Field(default=96, ge=8, le=1_000_000, description="held-out pairs a task for what is inside")
    seed: int = Field(default=0, ge=0, lt=SEEDS, description="seed of all prompts")
    allow_leaks: bool = Field(default=False, description="train although test prompts are in the training data")
    general_text: str | None = Field(
        default=None, description="text file for the divergence; the embedded models have their own"
    )

    _files_at_home = field_validator("train_file", "general_text", mode="before")(home)

    @model_validator(mode="after")
    def _enough_pairs(self) -> Self:
        """`measure_pairs` is at most `test_size`, which it is taken from."""
        if self.measure_pairs > self.test_size:
            raise ValueError(
                f"measure_pairs={self.measure_pairs} are taken from test_size={self.test_size}: raise test_size"
            )
        return self
