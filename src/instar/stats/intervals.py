"""Intervals: Wilson for proportions, percentile bootstrap over pairs for means, and simultaneous ones for lists.

A list of "what changed most" is chosen after looking, so each of its intervals is widened until the whole list holds
at 95 % (the bootstrap's largest studentised deviation over all components, "max-t"; Westfall & Young 1993).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata
from scipy.stats import t as student

BOOTSTRAPS = 2000
LEVEL = 0.95
Z = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % bounds; arrays of one shape."""

    value: Any
    low: Any
    high: Any


NOTHING = Interval(float("nan"), float("nan"), float("nan"))
"""What was not measured, or may not be divided by."""


def between(values: Any) -> Interval:
    """The mean of random draws, and the quantiles 5 % and 95 % between them; nothing where there are none."""
    if not np.size(values) or np.isnan(values).any():
        return NOTHING
    low, high = np.quantile(values, [0.05, 0.95])
    return Interval(float(np.mean(values)), float(low), float(high))


def wilson(right: Any, total: Any) -> Interval:
    """Wilson score interval of a proportion (E. B. Wilson 1927)."""
    right, total = np.asarray(right, float), np.asarray(total, float)
    share = right / total
    middle = (share + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z * np.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2)) / (1 + Z**2 / total)
    # At 0 and 1 a bound equals the share but for rounding.
    return Interval(share, np.clip(middle - half, 0, share), np.clip(middle + half, share, 1))


@lru_cache(maxsize=1)  # many numbers are of the same pairs, one after another
def resamples(pairs: int, seed: int = 0, count: int = BOOTSTRAPS) -> np.ndarray:
    """Bootstrap weights `[resample, pair]`: each row sums to 1."""
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(pairs, np.full(pairs, 1 / pairs), size=count) / pairs
    weights.setflags(write=False)
    return weights


def bootstrap_mean(values: Any, seed: int = 0) -> Interval:
    """Mean over the first axis (pairs) with percentile bounds, for every element of the others."""
    values = np.asarray(values, float)
    flat = values.reshape(len(values), -1)
    means = resamples(len(values), seed) @ flat
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    shape = values.shape[1:]
    return Interval(flat.mean(0).reshape(shape), low.reshape(shape), high.reshape(shape))


def expanded(draws: int) -> float:
    """The tail of percentile bounds over few draws, so that they hold at 95 %: Φ(−√(n/(n−1)) · t) (Hesterberg 2015, §4.3).

    Plain percentiles of eight draws would hold at some 88 %.
    """
    n = max(draws, 2)
    return float(norm.cdf(-((n / (n - 1)) ** 0.5) * student.ppf((1 + LEVEL) / 2, n - 1)))


def bootstrap_ratio(above: Any, below: Any, seed: int = 0, few: bool = False) -> Interval:
    """Ratio of means over the first axis (pairs) with percentile bounds; `below` has that axis alone.

    `few`: the first axis has few draws, and bounds are `expanded`.
    """
    above, below = np.asarray(above, float), np.asarray(below, float)
    flat = above.reshape(len(above), -1)
    weights = resamples(len(above), seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (weights @ flat) / (weights @ below)[:, None]
        value = flat.mean(0) / below.mean()
    tail = expanded(len(above)) if few else (1 - LEVEL) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail], axis=0)
    shape = above.shape[1:]
    return Interval(value.reshape(shape), low.reshape(shape), high.reshape(shape))


def simultaneous_mean(values: Any, seed: int = 0) -> Interval:
    """Mean over the first axis with bounds that hold for all elements at once (max-t bootstrap)."""
    values = np.asarray(values, float)
    flat = values.reshape(len(values), -1)
    mean, error = flat.mean(0), flat.std(0, ddof=1) / np.sqrt(len(flat))
    weights = resamples(len(flat), seed)
    means = weights @ flat
    # Studentised within each resample; a component that never varies has no deviation.
    spread = np.sqrt(np.maximum(weights @ flat**2 - means**2, 0) / len(flat))
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.where(spread > 0, np.abs(means - mean) / spread, 0.0)
    width = np.quantile(deviation.max(1), LEVEL) * error
    shape = values.shape[1:]
    return Interval(mean.reshape(shape), (mean - width).reshape(shape), (mean + width).reshape(shape))


def by_group(values: Any, group: Any) -> np.ndarray:
    """Sums over the rows of each group, on the first axis: rows that are one draw are resampled as one."""
    values, index = np.asarray(values, float), np.unique(group, return_inverse=True)[1].reshape(-1)
    out = np.zeros((index.max() + 1, *values.shape[1:]))
    np.add.at(out, index, values)
    return out


def present_mean(values: Any) -> np.ndarray:
    """The mean over the first axis of what is not NaN; NaN where all of it is."""
    there = ~np.isnan(values)
    count = there.sum(0)
    return np.where(count > 0, np.where(there, values, 0).sum(0) / np.maximum(count, 1), np.nan)


def rank_correlation(a: Any, b: Any) -> float:
    """Spearman's rank correlation, ties averaged; NaN for fewer than three values or a constant."""
    a, b = rankdata(a), rankdata(b)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
