"""A run in one file: every choice that decides a number, with its default.

YAML in and out. Unknown keys are errors that name the nearest known one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from instar.record.config.inputs import Column, DataConfig, ModelConfig, SeriesConfig, TasksConfig
from instar.record.config.measure import CONTROLS, CompareConfig, MeasureConfig, ReportConfig, Stage, Test
from instar.record.config.part import Part
from instar.record.config.train import LearningConfig, LoraConfig, TrainConfig
from instar.record.foreign import yaml_of

__all__ = [
    "CONTROLS", "Column", "CompareConfig", "DataConfig", "LearningConfig", "LoraConfig", "MeasureConfig", "ModelConfig",
    "ReportConfig", "RunConfig", "SeriesConfig", "Stage", "TasksConfig", "Test", "TrainConfig",
]  # fmt: skip


class RunConfig(Part):
    """Everything that decides a run."""

    model: ModelConfig = ModelConfig()
    tasks: TasksConfig = TasksConfig()
    series: SeriesConfig | None = None
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    measure: MeasureConfig = MeasureConfig()
    compare: CompareConfig = CompareConfig()
    report: ReportConfig = ReportConfig()
    threads: int | None = Field(default=None, ge=1, le=4096, description="torch threads; pin it to reproduce bytes")

    @property
    def recorded(self) -> bool:
        """Whether the checkpoints are of somebody's own loop, recorded while it ran."""
        return self.series is not None and self.series.recorded

    @model_validator(mode="after")
    def _enough_pairs(self) -> Self:
        """`measure.patching_pairs`, and twice `measure.circuit_pairs`, are at most `data.test_size`."""
        for stage, name, needed in (
            ("patching", "patching_pairs", self.measure.patching_pairs),
            ("circuit", "circuit_pairs (twice: scores and faithfulness)", 2 * self.measure.circuit_pairs),
        ):
            if stage in self.measure.stages and needed > self.data.test_size:
                raise ValueError(
                    f"measure.{name} takes {needed} of data.test_size={self.data.test_size} pairs: raise test_size"
                )
        return self

    @model_validator(mode="after")
    def _a_gpu_for_each(self) -> Self:
        """with `measure.executor: ray`, `model.device` is no second GPU: each process is given one, its first."""
        kind, _, index = self.model.device.partition(":")
        if self.measure.executor == "ray" and index not in ("", "0"):
            raise ValueError(f"measure.executor: ray gives each process a GPU of its own: give model.device {kind}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """A model by its name alone; of checkpoints that somebody else trained there is one fine-tuning and no control."""
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("model"), str):
            value = {**value, "model": {"source": value["model"]}}
        if value.get("series") is not None:
            parts = {"train": {"seeds": [0]}, "compare": {"controls": []}}
            given = {name: value.get(name, {}) for name in parts}
            value = {**value, **{n: {**parts[n], **own} for n, own in given.items() if isinstance(own, dict)}}
        return value

    @model_validator(mode="after")
    def _series_is_one_fine_tuning(self) -> Self:
        """with `series`, `train.seeds` has one seed and `compare.controls` none."""
        if self.series is not None and (len(self.train.seeds) != 1 or self.compare.controls):
            raise ValueError("series holds one fine-tuning: give train.seeds one seed and leave compare.controls empty")
        return self

    @classmethod
    def read(cls, path: Path, instead: Mapping[str, dict[str, Any]] | None = None) -> "RunConfig":
        """A configuration from YAML, where `instead` names by part what is to stand in place of the file's.

        Raises:
            ValueError: naming the file, the key, and the nearest known key.
        """
        if not path.exists():
            raise ValueError(f"no configuration file {path}")
        value = {} if (found := yaml_of(path)) is None else found
        if not isinstance(value, dict):
            raise ValueError(f"{path} holds {type(value).__name__}, expected keys and values")
        for part, changes in (instead or {}).items():
            if changes:
                own = value.get(part) or {}
                own = {"source": own} if isinstance(own, str) else own
                value[part] = {**own, **changes} if isinstance(own, dict) else own
        return cls.checked(value, str(path))

    def yaml(self) -> str:
        """The whole configuration, defaults written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
