"""What every part of a configuration is: frozen, strict about its keys, and read as a command line may have it."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from instar.record.explain import faults
from instar.record.names import at_home

SEEDS, MANY = 2**32, 100_000
"""numpy and torch take seeds below the one; a fine-tuning has at most the other's checkpoints."""


def listed(value: Any) -> Any:
    """`0,1,2` is a list, as a command line has it."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def home(value: Any) -> Any:
    """`~` is this user's home."""
    return at_home(value) if isinstance(value, str) else value


def different(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Each value once.

    Raises:
        ValueError: naming the one that stands twice.
    """
    twice = next((v for v in values if values.count(v) > 1), None) if len(set(values)) < len(values) else None
    if twice is not None:
        raise ValueError(f"{twice!r} stands twice: name each once")
    return values


def in_short(value: Any) -> Any:
    """`rank=8,alpha=16` is `{rank: 8, alpha: 16}`; what is no text is as it was."""
    if not isinstance(value, str):
        return value
    parts = (part.strip().partition("=") for part in value.split(","))
    return {name: number for name, _, number in parts}


class Part(BaseModel):
    """Frozen, and strict about its keys; every number is finite, and true is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def checked(cls, value: Any, where: str) -> Self:
        """From keys and values.

        Raises:
            ValueError: a sentence a fault, each with `where` it was found.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise ValueError(faults(error, cls, where)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        inside = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(v, bool) for v in inside) and cls.model_fields[str(info.field_name)].annotation not in (
            bool,
            bool | None,
        ):
            raise ValueError(
                "yes, no, true and false are no numbers and no names: write the number, or the name in quotes"
            )
        return value
