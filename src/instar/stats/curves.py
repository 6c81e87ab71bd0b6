"""Curves over steps, by weighted least squares: the best logistic, the best jumps, where a share of the change was made."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

SMOOTH = 0.5  # the largest share of a smooth rise that one interval may hold


@dataclass(frozen=True)
class Logistics:
    """The best logistic of each series."""

    rss: np.ndarray  # [series], weighted residual sums
    centre: np.ndarray  # steps, as is the width
    width: np.ndarray
    curve: np.ndarray  # [series, step]


def crossing(steps: np.ndarray, means: np.ndarray, share: float) -> np.ndarray:
    """Where each row of `means [series, step]` first has made `share` of its change; NaN where it has none."""
    whole = means[:, -1:] - means[:, :1]
    progress = (means - means[:, :1]) / np.where(whole == 0, np.nan, whole)
    rows, at = np.arange(len(means)), np.maximum((progress >= share).argmax(1), 1)
    part = (share - progress[rows, at - 1]) / (progress[rows, at] - progress[rows, at - 1])
    return steps[at - 1] + part * (steps[at] - steps[at - 1])


def one_jump(series: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The residual sum of the best single jump in each row of `series [series, step]`."""
    centred = series - np.average(series, axis=1, weights=weight)[:, None]
    left, part = np.cumsum(weight)[:-1], np.cumsum(weight * centred, axis=1)[:, :-1]
    gain = part**2 * (1 / left + 1 / (weight.sum() - left))
    return np.maximum((weight * centred**2).sum(1) - gain.max(1), 0)


def segments(mean: np.ndarray, weight: np.ndarray, most: int) -> tuple[list[list[int]], list[float]]:
    """For 0, 1, ..., `most` points the best places (first checkpoint after each, an index) and the residual sums."""
    count, centred = len(mean), mean - np.average(mean, weights=weight)
    sums = [np.concatenate([[0], np.cumsum(weight * centred**power)]) for power in range(3)]
    total, linear, square = (s[None, 1:] - s[:-1, None] for s in sums)
    upper = np.triu(np.ones((count, count), bool))  # [first, last] of a segment
    cost = np.where(upper, np.maximum(square - linear**2 / np.where(upper, total, 1), 0), np.inf)
    best, ways = cost[0], [[] for _ in range(count)]
    cuts, rss = [[]], [float(best[-1])]
    for _ in range(most):
        table = np.concatenate([[np.inf], best[:-1]])[:, None] + cost
        best, ways = table.min(0), [[*ways[i - 1], int(i)] for i in table.argmin(0)]
        cuts, rss = [*cuts, ways[-1]], [*rss, float(best[-1])]
    return cuts, rss


def logistic(steps: np.ndarray, series: np.ndarray, weight: np.ndarray) -> Logistics:
    """The best smooth logistic for each row of `series [series, step]`.

    Given centre and width it is linear (variable projection, Golub & Pereyra 1973): these two are searched on a grid, then
    on finer ones around each row's best, all rows at once. A centre outside allows for saturation from the start; of a
    rise wider than the series centre and width trade off, and only their curve is determined.
    """
    count, span, root = len(steps), steps[-1] - steps[0], np.sqrt(weight)
    mean = np.average(series, axis=1, weights=weight)[:, None]
    target = (series - mean) * root

    def directions(at: np.ndarray) -> np.ndarray:
        """Unit vectors of the centred, weighted curves; 0 for one that is not smooth or does not move."""
        curve = expit((steps - at[..., :1]) / np.exp(at[..., 1:]))
        rise = curve[..., -1] - curve[..., 0]
        smooth = (np.diff(curve).max(-1) <= (SMOOTH + 1e-9) * rise) & (rise > 1e-6)
        curve = (curve - np.average(curve, axis=-1, weights=weight)[..., None]) * root
        return np.where(smooth[..., None], curve / np.maximum(np.linalg.norm(curve, axis=-1), 1e-300)[..., None], 0)

    inside = np.interp(np.arange(0, count - 1 + 1e-9, 1 / max(2, -(-96 // (count - 1)))), np.arange(count), steps)
    outside = span * np.arange(1, 11) / 20
    centres = np.concatenate([steps[0] - outside[::-1], inside, steps[-1] + outside])
    widths = np.linspace(np.log(np.diff(steps).min() / 8), np.log(2 * span), 32)
    grid = np.stack(np.meshgrid(centres, widths, indexing="ij"), -1).reshape(-1, 2)
    at = np.abs(directions(grid) @ target.T).argmax(0)
    at, reach = grid[at], np.stack([np.gradient(centres)[at // 32], np.full(len(at), widths[1] - widths[0])], -1)
    offsets = np.stack(np.meshgrid(*[np.linspace(-1, 1, 7)] * 2), -1).reshape(-1, 2)
    for _ in range(14):
        near = at[:, None] + offsets * reach[:, None]
        best = np.abs(np.einsum("skt,st->sk", directions(near), target)).argmax(1)
        at, reach = near[np.arange(len(at)), best], reach * np.where(np.abs(offsets[best]) < 1, 0.5, 1)
    unit = directions(at[:, None])[:, 0]
    fitted = unit * (unit * target).sum(1)[:, None]
    return Logistics(((target - fitted) ** 2).sum(1), at[:, 0], np.exp(at[:, 1]), mean + fitted / root)
