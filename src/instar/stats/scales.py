"""The scales of an intervention: logits, the ratio to the checkpoint's own effect, the ratio to a reference checkpoint's.

With b and c the metric on clean and corrupted prompts and x on the patched run: denoising recovery is (x − c)/(b − c),
noising effect (b − x)/(b − c), each a ratio of means over pairs (x − c over those that have what was patched). Where a
task is not mastered b − c is near 0 or below, and the ratio says nothing: it is masked (NaN) unless the lower bound of
b − c exceeds a tenth of the reference's b − c, or, without a reference, 0.
"""

from typing import Any, Literal

import numpy as np

from instar.stats.intervals import Interval, bootstrap_mean, present_mean

Direction = Literal["denoising", "noising"]
SHARE = 0.1


def effect(clean: Any, corrupted: Any) -> Interval:
    """b − c, the mean over pairs, with its bootstrap interval."""
    return bootstrap_mean(np.asarray(clean) - np.asarray(corrupted))


def usable(own: Interval, reference: Interval | None = None) -> bool:
    """Whether a ratio with this denominator says anything."""
    return bool(own.low > (0.0 if reference is None else SHARE * abs(reference.value)))


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
