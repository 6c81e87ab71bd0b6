"""Was the old circuit amplified, rewired, extended or replaced? A pure function of an evidence dataset.

A condition is true, false or open (its interval spans the threshold, or it was not measured). The kinds are tried in this
order, and the first whose conditions are all true names the verdict; if none, it is `undetermined`, with what is open or in
the way.

1. `no new ability`: accuracy did not rise by more than `rise` for certain, or the logit difference not above 0, or some rule
   that needs no circuit may choose among the candidates as well (evidence of version 0.3 has none: open, in nobody's way).
2. `replaced`: the old circuit's heads are not necessary, and no more of them are in the new circuit than by chance (open
   where chance could give all there are to share, and some are, and where a circuit has no heads).
3. `extended`: they are necessary, and heads outside carry a share of the gain, both ways.
4. `rewired`: the new circuit's heads lie in the old one as a resample's do, or as far as in the old task's circuit of the
   same checkpoint and more than by chance (else the tasks differ, not the models); inside carries the gain both ways, outside
   little; and either its edges do not lie in it, or the gain was written in what these heads attend to (W_Q and W_K
   carry, W_V and W_O little).
5. `amplified`: heads and edges lie in the old circuit as a resample's do, which transfers; inside carries, outside little,
   and little of the gain was written in W_Q and W_K.

`carries` = the share's lower bound is at least δ, both ways; `little` = its upper bound is below δ, both ways. Where a change
is, weight grafting decides (where it was written), and patching (who carries it) must not contradict. Overlap is claimed only
where resampled circuits themselves overlap by `floor`. Heads that bear other heads' names make every name worthless.

The second way to be rewired, and the last condition of amplified, are needed where a circuit's heads read the embeddings
only: no edge can change there, whatever they come to attend to.
"""

from dataclasses import asdict, dataclass, field
from textwrap import shorten
from typing import Any, Literal

import numpy as np
import xarray as xr

from instar.compare import words
from instar.compare.evidence import items
from instar.notebook import block, lines, listed, number, paragraph, some, table
from instar.stats.intervals import Interval

Kind = Literal["no new ability", "replaced", "extended", "rewired", "amplified", "undetermined"]
KINDS: tuple[Kind, ...] = ("no new ability", "replaced", "extended", "rewired", "amplified", "undetermined")
Truth = bool | None
CAVEAT = (
    "This rule knows heads only. Its thresholds were fixed with release 0.3, on planted fine-tunings of two small models "
    "(docs/calibration.md); the answer is what to quote. Intervals are over prompts, not over fine-tunings."
)
SHORT_CAVEAT = "a rule about heads only; the answer is what to quote"
ROUNDING = 1e-9
"""Shares of a few heads or pairs often lie on a threshold, and 0.6 − 0.8 is not −0.2: so near they count as on it."""


@dataclass(frozen=True)
class Thresholds:
    """Fixed on half of the planted truths (`instar calibrate`), never on a demonstration."""

    rise: float = 0.05
    """Accuracy: less is no new ability. Not calibrated: it says what a gain means."""
    mastered: float = 0.5
    """Accuracy on the old task below which the base has no old circuit to speak of. Not calibrated."""
    share: float = 0.2
    """δ: a share of the gain from which a set carries it."""
    margin: float = 0.2
    """How far below the resampling floor an overlap may lie and still count as equal."""
    floor: float = 0.8
    """Below this overlap of a circuit with its own resamples none is claimed."""
    transfer: float = 0.5
    """Faithfulness from which the old circuit transfers."""
    power: float = 0.3
    """Matched random sets that share more than this with the circuit cannot tell whether it is special."""


@dataclass(frozen=True)
class Verdict:
    """The answer, what it rests on, and what is open."""

    kind: Kind
    text: str
    conditions: dict[str, Truth]
    """Every condition, by what it says."""
    missing: tuple[str, ...]
    """What would have to be known, in words; empty where the verdict is one."""
    would_change: str
    evidence: dict[str, dict[str, float]] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"missing": list(self.missing)}

    @property
    def open(self) -> tuple[str, ...]:
        """The conditions that the evidence does not decide."""
        return tuple(name for name, truth in self.conditions.items() if truth is None)

    def __repr__(self) -> str:
        wanting = f"{self._wanting}: {some(self.missing, 2)}" if self.missing else ""
        said = shorten(self.text, 500, placeholder=" … (.text has all of it)")
        return lines(f"Verdict: {self.kind}", said, wanting, f"open conditions: {some(self.open, 6)}", SHORT_CAVEAT)

    def _repr_html_(self) -> str:
        # No kind has a colour of its own: `undetermined` is a result like the others.
        named = {True: "true", False: "false", None: "open"}
        conditions = table(("condition", ""), [(n, named[t]) for n, t in self.conditions.items()],
                           f"{len(self.conditions)} conditions, {len(self.open)} open")  # fmt: skip
        rows = [(n, *(number(i[k]) for k in ("value", "low", "high"))) for n, i in self.evidence.items()]
        evidence = table(
            ("evidence", "value", "low", "high"), rows, f"the evidence, {len(rows)} numbers with 95 % bounds"
        )
        return block(f"Verdict: {self.kind}", paragraph(self.text), listed(f"{self._wanting}:", self.missing),
                     paragraph(self.would_change), conditions, evidence, paragraph(CAVEAT))  # fmt: skip

    @property
    def _wanting(self) -> str:
        return "open, or in the way" if self.kind == "undetermined" else "missing"


def verdict(evidence: xr.Dataset, thresholds: Thresholds = Thresholds()) -> Verdict:
    """The verdict on one checkpoint. The same evidence gives the same verdict."""
    numbers = items(evidence)
    truth = conditions(numbers, evidence, thresholds)
    kind = _kind(truth)
    return Verdict(
        kind=kind,
        text=words.paragraph(kind, numbers, truth, evidence, thresholds),
        conditions=truth,
        missing=tuple(words.missing(kind, truth, numbers, evidence, thresholds, NEEDED)),
        would_change=words.changes(kind, thresholds),
        evidence={n: {"value": i.value, "low": i.low, "high": i.high} for n, i in numbers.items()},
    )


def _kind(truth: dict[str, Truth]) -> Kind:
    if truth["gain"] is False or truth["above baselines"] is False:
        return "no new ability"
    # Where names do not mean the same heads in both models, nothing can be said of any of them.
    if not truth["gain"] or not truth["same heads"] or not truth["old task mastered"] or not truth["circuits"]:
        return "undetermined"
    for kind, needed in NEEDED.items():
        if all(truth[c] for c in needed):
            return kind
    return "undetermined"


NEEDED: dict[Kind, tuple[str, ...]] = {
    "replaced": ("not necessary", "overlap at chance"),
    "extended": ("necessary", "outside carries", "patching agrees outside"),
    "rewired": ("heads in", "inside carries", "outside little", "edges out or attention written", "patching agrees inside"),
    "amplified": (
        "heads in", "edges in", "transfers", "inside carries", "outside little", "attention little",
        "patching agrees inside",
    ),
}  # fmt: skip


def conditions(numbers: dict[str, Interval], evidence: xr.Dataset, limits: Thresholds) -> dict[str, Truth]:
    """Every condition: true, false, or None where the evidence does not decide it."""
    d, nothing = limits.share, Interval(np.nan, np.nan, np.nan)

    def both(name: str) -> tuple[Interval, Interval]:
        return numbers.get(f"{name} into", nothing), numbers.get(f"{name} lost", nothing)

    necessary = _necessary(numbers, evidence, limits)
    edges_in = _lies_in(numbers, "edges", limits)
    attention, writing = both("graft inside<qk>"), both("graft inside<vo>")
    rewritten = _and(_carry(attention, d), _little(writing, d))
    return {
        "gain": _and(_above(numbers["gain accuracy"], limits.rise), _above(numbers["gain logits"], 0.0)),
        "above baselines": _above_all([own for name, own in numbers.items() if name.startswith("beyond ")]),
        "same heads": evidence.attrs["permuted"] in ("{}", {}),
        "old task mastered": _split(numbers["old accuracy base"], limits.mastered),
        "circuits": not any(name in evidence.attrs["empty"] for name in ("old_base", "new_tuned")),
        "necessary": necessary,
        "not necessary": _not(necessary),
        "overlap at chance": _at_chance(numbers),
        "transfers": _split(numbers["transfer"], limits.transfer),
        "heads in": _lies_in(numbers, "heads", limits),
        "edges in": edges_in,
        "edges out or attention written": _or(_not(edges_in), rewritten),
        "attention little": _little(attention, d),
        "inside carries": _carry(both("graft inside"), d),
        "inside little": _little(both("graft inside"), d),
        "outside carries": _carry(both("graft outside"), d),
        "outside little": _little(both("graft outside"), d),
        "patching agrees inside": _not(_little(both("carry inside"), d)) is not False,
        "patching agrees outside": _not(_little(both("carry outside"), d)) is not False,
        "mlps carry": _carry(both("graft mlps"), d),
        "embeddings carry": _carry(both("graft embeddings"), d),
        "norms carry": _carry(both("graft norms"), d),
    }


def _necessary(numbers: dict[str, Interval], evidence: xr.Dataset, limits: Thresholds) -> Truth:
    """Its own share, and more than matched random sets take away where these can tell at all."""
    own, null = numbers["necessity"], numbers["necessity null"]
    truth = _split(own, limits.share)
    powerful = evidence.attrs["matched_possible"] >= 20 and evidence.attrs["matched_overlap"] <= limits.power
    if truth and powerful and not np.isnan(null.high):
        return True if own.low > null.high else False if own.high < null.high else None
    return truth


def _lies_in(numbers: dict[str, Interval], what: str, limits: Thresholds) -> Truth:
    """Equivalence to a resample of the old circuit, by a margin; or to the old task's circuit in the tuned model.

    What the new task's circuit has beyond both is news. What it lacks in the first only, training did to both tasks; what it
    lacks in both alike is a difference between the tasks and says nothing of training; but what shares nothing with either
    lies in neither.
    """
    if not numbers[f"{what} floor"].value >= limits.floor:
        return None
    beside = ("floor",) if _at_chance(numbers) else ("floor", "task")
    return _or(*(_split(numbers[f"{what} beyond {which}"], -limits.margin) for which in beside))


def _at_chance(numbers: dict[str, Interval]) -> Truth:
    shared, by_chance = numbers["heads shared"], numbers["heads chance"]
    return None if np.isnan(shared.value) or np.isnan(by_chance.high) else bool(shared.value <= by_chance.high)


def _split(own: Interval, at: float) -> Truth:
    """Whether an interval lies above or below a threshold; None where it spans it or is masked."""
    return True if own.low >= at - ROUNDING else False if own.high < at - ROUNDING else None


def _above(own: Interval, at: float) -> Truth:
    """A claim that has to be made good: an interval that spans the threshold is not above it."""
    return None if np.isnan(own.low) else bool(own.low > at + ROUNDING)


def _above_all(beyond: list[Interval]) -> Truth:
    """Better than every rule: which of them does best on what is tested is not known before. Open where there are none."""
    return _and(*(_above(own, 0.0) for own in beyond)) if beyond else None


def _carry(ways: tuple[Interval, Interval], d: float) -> Truth:
    return _and(*(_split(way, d) for way in ways))


def _little(ways: tuple[Interval, Interval], d: float) -> Truth:
    return _and(*(_not(_split(way, d)) for way in ways))


def _not(truth: Truth) -> Truth:
    return None if truth is None else not truth


def _and(*truths: Truth) -> Truth:
    return False if False in truths else None if None in truths else True


def _or(*truths: Truth) -> Truth:
    return True if True in truths else None if None in truths else False
