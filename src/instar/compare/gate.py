"""Whether a skill's circuit has changed between a base and a checkpoint, by how much, and what change would have been seen.

Three numbers, of the same held-out prompts in both models, resampled together:

- `choosing`: paired change of log p(answer) among the candidates, nats. What the skill does.
- `circuit`: f of the base's circuit in the checkpoint less f of it in the base, shares of each model's own b − c. Where it
  still runs. A checkpoint whose b − c is not above 0 has nothing left for it to do: f is 0 there.
- `edges`: 1 − cosine of the two models' scores of all edges, means over prompts. How it is wired; 0 for the same weights.

A number has changed where its interval lies beyond what is allowed. Left open, that is the tolerance bound of what it was
after trainings that teach nothing (`gated.json`, made by `instar calibrate --gate`; `instar.calibrate.gating`). Intervals
hold for all numbers of a check at once (Bonferroni), at 95 %: so 5 % of checks of a checkpoint in which nothing changed
beyond that are false alarms, at most. What would have been seen in four of five cases is the allowance and (z + 0.84)
standard errors, z of that level.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import norm

from instar.record.config.gate import GateConfig, Statistic
from instar.record.files import read_json
from instar.stats.intervals import LEVEL, NOTHING, Interval, by_group, resamples
from instar.stats.scales import effect, usable

STATISTICS: tuple[Statistic, ...] = ("choosing", "circuit", "edges")
UNITS = {"choosing": "nats", "circuit": "of b − c", "edges": "1 − cosine"}
POWER = 0.8
APART = "the two models share no coordinates (one's stream is turned), so no edge of one is one of the other"
SHIPPED = Path(__file__).parent / "gated.json"
Verdict = Literal["unchanged", "changed", "undetermined"]


@dataclass(frozen=True)
class Numbers:
    """What was measured of one skill and counterfactual, in the base (0) and in the checkpoint (1)."""

    skill: str
    counterfactual: str
    choosing: np.ndarray
    """Nats `[model, prompt]`."""
    clean: np.ndarray
    """b, c and what the base's circuit does, logits `[model, pair]`; `prompt` numbers the pairs' prompts."""
    corrupted: np.ndarray
    kept: np.ndarray
    prompt: np.ndarray
    scores: np.ndarray
    """`[model, pair, edge]`."""
    edges: int
    """Of the base's circuit."""


@dataclass(frozen=True)
class Tested:
    """One number of one skill."""

    skill: str
    counterfactual: str
    statistic: str
    base: float
    checkpoint: float
    change: Interval
    """Holds for all numbers of the check at once."""
    allowed: float
    detectable: float
    """The smallest change beyond what is allowed that would be seen in four of five cases."""
    verdict: Verdict
    why: str = ""

    @property
    def said(self) -> str:
        """One sentence."""
        own, unit = self.change, UNITS[self.statistic]
        moved = f"{self.base:.3g} → {self.checkpoint:.3g}, {own.value:+.2g} [{own.low:+.2g}, {own.high:+.2g}] {unit}"
        told = f"allowed {self.allowed:.2g}, would be seen {self.detectable:.2g}"
        return f"{self.skill}, {self.counterfactual}: {self.statistic} {self.verdict}: {moved} ({told}{self.why})"


@dataclass(frozen=True)
class Checked:
    """A whole check."""

    base: str
    checkpoint: str
    tests: tuple[Tested, ...]
    facts: Mapping[str, Any]

    @property
    def verdict(self) -> Verdict:
        """Changed where anything has; undetermined where something that was to be seen could not."""
        found = {one.verdict for one in self.tests}
        return "changed" if "changed" in found else "undetermined" if "undetermined" in found else "unchanged"

    @property
    def changed(self) -> str:
        """What has changed, and by how much."""
        moved = [one for one in self.tests if one.verdict == "changed"]
        return "; ".join(
            f"{one.skill}'s {one.statistic} by {one.change.value:+.2g} {UNITS[one.statistic]}" for one in moved
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        tests = [{**asdict(one), "unit": UNITS[one.statistic], "said": one.said} for one in self.tests]
        return {
            **{"verdict": self.verdict, "sentence": self.sentence, "base": self.base, "checkpoint": self.checkpoint},
            **{"tests": tests, "facts": dict(self.facts), "caveat": caveat()},
        }

    @property
    def sentence(self) -> str:
        """What the verdict says."""
        if self.verdict == "changed":
            return self.changed
        if self.verdict == "undetermined":
            return "what was to be seen could not be; see above"
        seen = "; ".join(f"{one.statistic} by {one.detectable:.2g} {UNITS[one.statistic]}" for one in self.tests)
        return f"nothing beyond what is allowed. In four of five cases would have been seen: {seen}"


@cache
def shipped() -> dict[str, Any]:
    """What the numbers were where nothing had changed."""
    return read_json(SHIPPED)


def caveat() -> str:
    """What is known of a check's own errors."""
    own = shipped()
    alarms, whole = own["false alarms"].values(), own["seen"][max(own["seen"])]
    told = f"{sum(one['count'] for one in alarms)} of {sum(one['of'] for one in alarms)}"
    return (
        f"Intervals are 95 % for all numbers at once. On small models, what did not fix what is allowed: false alarms {told} "
        f"where nothing had changed; a rewired circuit seen {whole['count']} of {whole['of']} times."
    )


def judged(every: list[Numbers], config: GateConfig, shared: bool) -> list[Tested]:
    """All numbers of a check.

    Args:
        shared: whether an edge's name means the same in both models; else only what the skill does is judged.
    """
    level = 1 - (1 - LEVEL) / (len(STATISTICS) * len(every))
    allowed = {**shipped()["allowed"], **config.allowed}
    found = []
    for own in every:
        for name, (before, after, drawn, point) in _drawn(own).items():
            low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
            detectable = allowed[name] + float((norm.ppf((1 + level) / 2) + norm.ppf(POWER)) * drawn.std())
            change = Interval(point, float(low), float(high))
            verdict, why = _verdict(change, allowed[name], detectable, dict(config.detect).get(name))
            if not shared and name != "choosing":
                change, verdict, why = NOTHING, "undetermined", "; " + APART
            found.append(
                Tested(
                    own.skill, own.counterfactual, name, before, after, change, allowed[name], detectable, verdict, why
                )
            )
    return found


def _verdict(change: Interval, allowed: float, detectable: float, wanted: float | None) -> tuple[Verdict, str]:
    if change.low > allowed or change.high < -allowed:
        return "changed", ""
    if not np.isfinite(detectable) or (wanted is not None and detectable > wanted):
        return "undetermined", "" if wanted is None else f", and {wanted:g} was to be: give more prompts"
    return "unchanged", ""


def _drawn(own: Numbers) -> dict[Statistic, tuple[float, float, np.ndarray, float]]:
    """By number: before, after, what it is over resampled prompts, and what it is."""
    # Of pairs with one candidate there is nothing to choose.
    a, b = own.choosing[:, ~np.isnan(own.choosing).any(0)]
    found: dict[Statistic, Any] = {"choosing": (a.mean(), b.mean(), resamples(len(a)) @ (b - a), (b - a).mean())}
    done, whole = (
        np.stack([by_group(one, own.prompt) for one in pair])
        for pair in (own.kept - own.corrupted, own.clean - own.corrupted)
    )
    speaks = [usable(effect(x, y, own.prompt)) for x, y in zip(own.clean, own.corrupted, strict=True)]
    weights = resamples(done.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = [
            (top.mean() / under.mean(), (weights @ top) / (weights @ under)) if ok else (0.0, np.zeros(len(weights)))
            for top, under, ok in zip(done, whole, speaks, strict=True)
        ]
    (f, f_drawn), (g, g_drawn) = shares
    found["circuit"] = (f, g, g_drawn - f_drawn, g - f)
    weights = resamples(own.scores.shape[1])
    one, two = (_unit(weights @ page) for page in own.scores)
    point = 1 - float((_unit(own.scores[0].mean(0)) * _unit(own.scores[1].mean(0))).sum())
    found["edges"] = (0.0, point, 1 - (one * two).sum(-1), point)
    return {name: (float(x), float(y), drawn, float(z)) for name, (x, y, drawn, z) in found.items()}


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-30)
