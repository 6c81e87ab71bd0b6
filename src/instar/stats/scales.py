"""The scales of an intervention: logits, the ratio to the checkpoint's own effect, the ratio to a reference checkpoint's.

With b and c the metric on clean and corrupted prompts and x on the patched run: denoising recovery is (x − c)/(b − c),
noising effect (b − x)/(b − c), each a ratio of means over pairs (x − c over those that have what was patched). Where a
task is not mastered b − c is near 0 or below, and the ratio says nothing: it is masked (NaN) unless the lower bound of
b − c exceeds a tenth of the reference's b − c, or, without a reference, 0; by more than rounding can make.
"""

from typing import Any, Literal

import numpy as np

from instar.stats.intervals import Interval, bootstrap_mean, by_group, present_mean

Direction = Literal["denoising", "noising"]
SHARE = 0.1
ROUNDING = 1e-3
"""Logits. Two runs in float32 that should be the same differ by less; nothing may be divided by such a difference."""


def effect(clean: Any, corrupted: Any, prompt: Any = None) -> Interval:
    """b − c, the mean over pairs, with its bootstrap interval; pairs of one `prompt` (its number) are one draw."""
    own = np.asarray(clean) - np.asarray(corrupted)
    if prompt is None:
        return bootstrap_mean(own)
    sums = by_group(own, np.asarray(prompt))
    return bootstrap_mean(sums * (len(sums) / len(own)))


def usable(own: Interval, reference: Interval | None = None) -> bool:
    """Whether a ratio with this denominator says anything."""
    return bool(own.low > max(ROUNDING, 0.0 if reference is None else SHARE * abs(reference.value)))


def why_not(own: Interval, prompts: int) -> str:
    """Why nothing is divided by this b − c, which is not `usable`: in words, logits."""
    # Adding 0 makes −0 a 0.
    value, low, high = (f"{round(float(x), 3) + 0.0:+.3f}" for x in (own.value, own.low, own.high))
    return f"b − c is {value} [{low}, {high}] over {prompts} prompts, not clearly above 0"


def change(patched: Any, clean: Any, corrupted: Any, direction: Direction) -> Any:
    """What the patch did, in logits: x − c (denoising) or b − x (noising), pair by pair or of means over the same pairs."""
    return patched - corrupted if direction == "denoising" else clean - patched


def mean_change(patched: Any, clean: Any, corrupted: Any, direction: Direction) -> np.ndarray:
    """The mean change of each entry over the pairs that have it. `patched` begins with the pair axis; NaN: has it not."""
    patched = np.asarray(patched)
    clean, corrupted = (np.asarray(e).reshape(-1, *[1] * (patched.ndim - 1)) for e in (clean, corrupted))
    return present_mean(change(patched, clean, corrupted, direction))


def share(moved: Any, own: Interval, reference: Interval | None = None) -> np.ndarray:
    """A mean change as a share of b − c; NaN where that is not usable."""
    moved = np.asarray(moved)
    return moved / own.value if usable(own, reference) else np.full(moved.shape, np.nan)
