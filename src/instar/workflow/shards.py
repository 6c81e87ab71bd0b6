"""One of several commands that measure a run side by side: `instar measure RUN --shard 2/8`, as an array of jobs starts them.

Each takes every so many-th checkpoint, in one order for all, and writes into the same run directory. What one that was
killed leaves is made by the same command again, or by the next command without a shard, which also compares.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from instar.workflow.jobs import Job


@dataclass(frozen=True)
class Shard:
    """The `index`-th, from 1, of `of`."""

    index: int
    of: int

    @classmethod
    def read(cls, text: str) -> Self:
        """From `2/8`.

        Raises:
            ValueError: for anything else.
        """
        found = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"--shard {text}: expected which of how many, from 1/8 to 8/8")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}-of-{self.of}"

    def of_these(self, todo: Sequence[Job]) -> list[Job]:
        """Its part: whole checkpoints."""
        places = {place: n for n, place in enumerate(dict.fromkeys((job.seed, job.step) for job in todo))}
        return [job for job in todo if places[job.seed, job.step] % self.of == self.index - 1]
