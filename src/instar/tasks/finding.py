"""What was found in data: one kind of trouble, with how many have it."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One kind of trouble: how many rows have it, and which."""

    kind: str
    severity: Severity
    count: int
    share: float
    text: str
    rows: tuple[str, ...] = ()
    unit: str = "rows"
    """What is counted."""
    tested: str = ""
    """How much of the test data it concerns, said first: `50 of 50 test prompts (100.0%)`."""

    @property
    def said(self) -> str:
        """The kind and how many have it."""
        of_training = f"{self.tested}, {self.count} training" if self.tested else f"{self.count}"
        return f"{self.kind}: {of_training} {self.unit} ({self.share:.1%})"
