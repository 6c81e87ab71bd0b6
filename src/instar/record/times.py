"""How long what a run directory holds took, `times.jsonl`: a line for every piece of work, as it was done.

Seconds are not the same twice, so this file is no result: it is not listed with them, decides nothing, and may be removed.
"""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from instar.record.contents import refuse_links

NAME, MOST = "times.jsonl", 2**24
"""Its name, and how many characters of it are read: it may be a stranger's."""


@dataclass(frozen=True)
class Work:
    """One piece of work."""

    stage: str
    seconds: float
    cpu: float
    """Seconds of all cores; beside other work they say more of what something takes."""
    task: str = ""
    tuning: str = ""
    """Of which fine-tuning, as `tuning_name` has it."""
    step: int | None = None

    @property
    def work(self) -> tuple[str, str, str, int | None]:
        """What was done; done again, it has the same."""
        return self.stage, self.task, self.tuning, self.step


@contextmanager
def timed(root: Path, stage: str, task: str = "", tuning: str = "", step: int | None = None) -> Iterator[None]:
    """Note how long a block took that ended without an exception; several processes may do so at once."""
    began, cpu = time.perf_counter(), time.process_time()
    yield
    seconds, cpu = round(time.perf_counter() - began, 3), round(time.process_time() - cpu, 3)
    took = Work(stage, seconds, cpu, task, tuning, step)
    refuse_links(root, root / NAME)
    with (root / NAME).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(took), ensure_ascii=False) + "\n")


def times(root: Path) -> list[Work]:
    """What is noted, the last of what was done again; a line that is none is passed over."""
    found: dict[tuple[str, str, str, int | None], Work] = {}
    if (root / NAME).is_file():
        refuse_links(root, root / NAME)
        with (root / NAME).open(encoding="utf-8", errors="replace") as stream:
            lines = stream.read(MOST).splitlines()
        for line in lines:
            try:
                took = Work(**json.loads(line))
                took = replace(took, seconds=float(took.seconds), cpu=float(took.cpu))
                if 0 <= took.seconds < math.inf and 0 <= took.cpu < math.inf:
                    found[took.work] = took
            except (ValueError, TypeError, RecursionError):
                continue
    return list(found.values())
