"""How much of a training's time measuring may take, and what fits into it.

    share = seconds in instar / seconds of training (what is between the calls)

1. Every call is timed whole, and within it each kind of work. The dearest one of a kind so far is what the next is expected
   to cost.
2. The last step is always recorded, so the cost of one whole record is set aside for it from the beginning.
3. A record between the two ends is made with as much as fits: spent + expected + set aside ≤ share × training. What does not
   is left out, the dearest kind first and behaviour last.
4. So is the page of the training under way, which is made after a record.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

FIRST = "evaluate"
"""What is given up last."""
ALWAYS = ("rest", "load")
"""What a record costs whatever its stages: the checkpoint written, the index, the log; the checkpoint read and proven."""


@dataclass
class Budget:
    """One training's. `clock()` is in seconds; `spent` and `trained` are carried over from before a resumed training."""

    share: float
    clock: Callable[[], float]
    spent: float = 0.0
    """Seconds in instar, up to the last look at the clock."""
    trained: float = 0.0
    """Seconds outside of it."""
    costs: dict[str, float] = field(default_factory=dict)
    """Seconds by kind of work: the dearest so far."""
    _inside: bool = field(default=False, init=False)
    _mark: float = field(init=False)

    def __post_init__(self) -> None:
        self._mark = self.clock()

    def look(self) -> float:
        """Look at the clock. Returns seconds since the last look, which are counted on the side they were spent on."""
        now = self.clock()
        passed, self._mark = now - self._mark, now
        if self._inside:
            self.spent += passed
        else:
            self.trained += passed
        return passed

    @property
    def overhead(self) -> float | None:
        """Seconds in instar as a share of seconds of training; None where there was no training."""
        return self.spent / self.trained if self.trained > 0 else None

    @contextmanager
    def spending(self) -> Iterator[Callable[[str], None]]:
        """Time spent in instar. `done(kind)` says that what was done since the last call was of that kind."""
        self.look()
        self._inside, seen = True, dict[str, float]()

        def done(kind: str) -> None:
            seen[kind] = seen.get(kind, 0.0) + self.look()

        try:
            yield done
        finally:
            done("rest")
            self._inside = False
            for kind, seconds in seen.items():
                self.costs[kind] = max(self.costs.get(kind, 0.0), seconds)

    def affordable(self, stages: Sequence[str]) -> list[str]:
        """Which of the stages fit in now; none where not even the first does."""
        self.look()
        left = self.share * self.trained - self.spent - self._cost(stages)
        wanted = list(stages)
        while wanted and self._cost(wanted) > left:
            wanted.remove(max(wanted, key=lambda kind: (kind != FIRST, self.costs.get(kind, 0.0))))
        return wanted

    def has_room_for(self, kind: str, stages: Sequence[str]) -> bool:
        """Whether work of one kind fits in now, beside a last record of these stages; what was never done may cost one."""
        self.look()
        whole = self._cost(stages)
        return self.spent + whole + self.costs.get(kind, whole) <= self.share * self.trained

    def _cost(self, stages: Sequence[str]) -> float:
        return sum(self.costs.get(kind, 0.0) for kind in (*ALWAYS, *stages))
