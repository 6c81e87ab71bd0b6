"""What `instar check` asks of a checkpoint: gate.yaml."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from instar.record.config.part import Part, different, listed
from instar.record.foreign import yaml_of

Statistic = Literal["choosing", "circuit", "edges"]
Amount = Annotated[float, Field(gt=0, le=1000)]


class GateConfig(Part):
    """Skills that are to stay as they are, and what counts as a change."""

    skills: tuple[str, ...] = Field(
        default=("ioi2",), min_length=1, description="tasks of the library, or files of pairs: what must not change"
    )
    prompts: Annotated[int, Field(ge=12, le=100_000)] | None = Field(
        default=None,
        description="prompts a counterfactual, a third each for scores, size and circuits. Left out: 96; of models of ten "
        "million parameters and more 36",
    )
    allowed: dict[Statistic, Amount] = Field(
        default={},
        description="how far a statistic may move before it counts. Left out: as far as trainings move it that teach nothing",
    )
    detect: dict[Statistic, Amount] = Field(
        default={},
        description="a change that must be seen in four of five cases; where the prompts do not suffice for it, the check "
        "ends as undetermined",
    )
    seed: int = Field(default=0, ge=0, description="of the prompts")

    _skills_in_short = field_validator("skills", mode="before")(listed)
    _skills_once = field_validator("skills")(different)

    @classmethod
    def read(cls, path: Path) -> "GateConfig":
        """From a YAML file.

        Raises:
            ValueError: naming the file and what is wrong in it.
        """
        return cls.checked({} if (found := yaml_of(path)) is None else found, str(path))
