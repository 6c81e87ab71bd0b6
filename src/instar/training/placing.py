"""Which checkpoints to keep while it is not known yet where learning happens.

A probe gives a number v at every step. Weights can be had at their own step only, and at most `most` of them are kept, so
one that is kept may have to give way later.

1. How far two steps are apart: `d(i, j) = max(|v_j − v_i| − b, 0) / R + (j − i) / 4T`. R is the range of v so far (max −
   min), T the number of steps. b is the jitter of v: three times the median distance of a value from the mean of its two
   neighbours, over the last 1,000 values. It is 0 along a straight line. Where v is flat the second term is left: a
   quarter of the checkpoints goes to time.
2. A step is kept when it is `1 / (most − 1)` or more from the one that was kept last. 0 and T always are.
3. Where that makes too many (one place is reserved for T), the one goes that is least far from its two neighbours, by the
   sum of both distances as they are now. 0 and the newest never go.

What it promises, with V the total variation of v, J its largest single step, and b the largest it was: the values of two
neighbours differ by at most `max(2 (V + R/4) / (most − 2) + 2b, R / (most − 1) + b + J)`. Proof: the sums of rule 3 add up
to at most 2 (V/R + 1/4), every distance counting twice, over `most − 2` candidates, and the least is not above their
mean; the new gap is at most that times R, plus b for each of the two. By rule 2 any other gap is at most
`R / (most − 1) + b` before its last step. For a curve that only rises or only falls, V = R: about 2.5 R / (most − 2).
Nothing is random.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

RECENT = 1000
TIME, JITTER = 0.25, 3.0
"""The share of the checkpoints that goes to time; how many median deviations are jitter."""


@dataclass
class Placing:
    """The checkpoints of one fine-tuning of `steps` steps."""

    most: int
    steps: int
    kept: list[int] = field(default_factory=list)
    """Steps, rising."""
    _values: dict[int, float] = field(default_factory=dict)
    """Of the steps that are kept."""
    _recent: list[float] = field(default_factory=list)
    _low: float = math.inf
    _high: float = -math.inf

    def __post_init__(self) -> None:
        if self.most < 3:
            raise ValueError(f"most={self.most}: 0, the last and one between them are three checkpoints")

    def add(self, step: int, value: float) -> int | None:
        """Look at a step, later than all before. Whether it is kept, `kept` says; returns the step that gives way to it.

        A value that is no number counts as the one before.
        """
        value = value if math.isfinite(value) else (self._recent[-1] if self._recent else 0.0)
        self._recent = [*self._recent[1 - RECENT :], value]
        self._low, self._high = min(self._low, value), max(self._high, value)
        jitter, ends = self.jitter, (0, self.steps)
        if self.kept and step not in ends:
            last = self.kept[-1]
            if self._apart(last, self._values[last], step, value, jitter) < 1 / (self.most - 1):
                return None
        self.kept.append(step)
        self._values[step] = value
        if len(self.kept) <= self.most - (step != self.steps):
            return None
        gone = min(range(1, len(self.kept) - 1), key=lambda place: self._worth(place, jitter))
        step = self.kept.pop(gone)
        del self._values[step]
        return step

    @property
    def jitter(self) -> float:
        """How far values jump to and fro."""
        v = np.array(self._recent)
        return 0.0 if len(v) < 3 else JITTER * float(np.median(np.abs(v[1:-1] - (v[2:] + v[:-2]) / 2)))

    def _apart(self, i: int, at_i: float, j: int, at_j: float, jitter: float) -> float:
        reach = self._high - self._low
        change = max(abs(at_j - at_i) - jitter, 0.0) / reach if reach > 0 else 0.0
        return change + TIME * (j - i) / self.steps

    def _worth(self, place: int, jitter: float) -> float:
        """How far a kept step is from both its neighbours."""
        three = [(step, self._values[step]) for step in self.kept[place - 1 : place + 2]]
        return sum(self._apart(*a, *b, jitter) for a, b in pairwise(three))
