"""The answer: was the old circuit transformed or extended, or a new one formed, and how, where and when was it written?

A pure function of measurements, on two levels, each a number with an interval before it is a word.

1. *Ability* (`compare.ability`): without a new one there is nothing to explain.
2. *Where the new skill runs* (`compare.reused`): reuse of the old task's circuit, by counterfactual. Counterfactuals that
   agree give the word; transformed for one and formed for another is extended, and both are said.
3. *How it was written* (`compare.written`): parts that the ledger and grafts name together.

What is decided makes the headline, by rule, in at most 30 words. What is ruled out, what is mixed, and what is open with what
would close it stand beside it. "Undetermined" is said only where something is open.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import xarray as xr

from instar.compare.ability import Ability, Fate, ability, fate
from instar.compare.calibrated import said
from instar.compare.diff import plain
from instar.compare.reused import LIMITS, Limits, Reuse, judged, reused, together
from instar.compare.written import IN_WORDS, PARTS, Written, written
from instar.notebook import block, lines, listed, paragraph, table
from instar.stats.intervals import Interval

Kind = Literal["no new ability", "naming only", "transformed", "extended", "formed", "undetermined"]
CAVEAT = "Intervals are over prompts, not over fine-tunings."
MOST_WORDS = 30


@dataclass(frozen=True)
class Found:
    """What one checkpoint's answer is made of."""

    evaluate: Mapping[str, tuple[xr.Dataset, xr.Dataset]]
    """By role (old, new): behaviour of the base and of the checkpoint."""
    reuse: xr.Dataset | None = None
    ledger: xr.Dataset | None = None
    """Of the new task, from the base to the checkpoint."""
    shapley: xr.Dataset | None = None
    rules: Sequence[Mapping[str, Any]] = ()
    """What needs no circuit, on the new task's pairs."""
    course: xr.DataArray | None = None
    """Choosing on `step, pair` of the new task, at every measured checkpoint up to this one."""
    seeds: int = 1
    controls: Sequence[str] = ()
    ours: bool = True
    """Whether the training is instar's, so that a command makes another seed or a control."""


@dataclass(frozen=True)
class Answer:
    """The answer on one tuned model."""

    kind: Kind
    headline: str
    ability: Ability
    old: tuple[Fate, Interval, Interval]
    """The old task: a word, its choice accuracy afterwards, the change in naming (nats)."""
    reuse: tuple[Reuse, ...]
    written: Written | None
    ruled_out: tuple[str, ...]
    mixed: tuple[str, ...]
    open: tuple[str, ...]
    apart: str = ""
    """Why the two models' names do not mean the same; empty where they do."""

    @property
    def caveat(self) -> str:
        """What is known of such answers, and what intervals are over."""
        return f"{said(self.kind)} {CAVEAT}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; null for NaN."""
        old = dict(zip(("fate", "choice", "naming"), self.old, strict=True))
        own = {
            "kind": self.kind, "headline": self.headline, "caveat": self.caveat, "ability": self.ability.as_dict(),
            "old": {k: v if isinstance(v, str) else vars(v) for k, v in old.items()},
            "reuse": {one.counterfactual: one.as_dict() for one in self.reuse},
            "written": None if self.written is None else self.written.as_dict(),
            "ruled_out": list(self.ruled_out), "mixed": list(self.mixed), "open": list(self.open), "apart": self.apart,
        }  # fmt: skip
        return plain(own)

    def __repr__(self) -> str:
        found = [f"Answer: {self.kind}", self.headline, *(f"  reuse, {_reuse_said(one)}" for one in self.reuse)]
        if self.written is not None:
            found += [f"  {_part_said(one)}" for one in self.written.parts[: len(PARTS)]]
        for name in ("ruled_out", "mixed", "open"):
            found += [f"  {name.replace('_', ' ')}: {text}" for text in getattr(self, name)]
        return lines(*found, self.caveat, most=40)

    def _repr_html_(self) -> str:
        rows = [
            (r.counterfactual, r.word, shown(r.reuse), shown(r.old), f"{r.floor:.2f}", f"{r.ceiling:.2f}")
            for r in self.reuse
        ]
        reuse = table(("counterfactual", "word", "reuse", "old circuit alone", "floor", "ceiling"), rows,
                      f"reuse, {len(rows)} counterfactuals")  # fmt: skip
        parts = [] if self.written is None else self.written.parts
        own = [(p.part, shown(p.booked), shown(p.share), shown(p.shapley)) for p in parts]
        written = table(("part", "booked", "share", "by grafts"), own, f"written, {len(own)} parts")
        lists = [listed(f"{n.replace('_', ' ')}:", getattr(self, n)) for n in ("ruled_out", "mixed", "open")]
        return block(f"Answer: {self.kind}", paragraph(self.headline), reuse, written, *lists, paragraph(self.caveat))


def answer(found: Found, limits: Limits = LIMITS) -> Answer:
    """The answer on one checkpoint; the same measurements give the same answer."""
    can = ability(*found.evaluate["new"], found.rules)
    old = fate(*found.evaluate["old"])
    how = None
    if found.ledger is not None:
        how = written(found.ledger, _inside(found), found.shapley, course=found.course, named=limits.named)
    uses = tuple(_with(how, reused(found.reuse, limits), limits)) if found.reuse is not None and can.new else ()
    apart = "" if can.new is False else _apart(found)
    kind = _kind(can, uses, apart)
    own = Answer(
        kind, "", can, old, uses, how, tuple(_ruled_out(can, uses, how, limits)), tuple(_mixed(uses, how)),
        tuple(_open(can, uses, how, apart, found)), apart,
    )  # fmt: skip
    return replace(own, headline=headline(own))


def judged_by(own: Answer, limits: Limits) -> Kind:
    """The word of the same numbers with other limits."""
    uses = tuple(_with(own.written, [judged(one, limits) for one in own.reuse], limits))
    return _kind(own.ability, uses, own.apart)


def _inside(found: Found) -> list[str]:
    """Heads and MLPs of the old task's circuit."""
    own = found.shapley if found.shapley is not None else found.reuse
    named = [] if own is None else own.attrs["inside"]
    return json.loads(named) if isinstance(named, str) else list(named)


def _with(how: Written | None, uses: Sequence[Reuse], limits: Limits) -> Iterator[Reuse]:
    """What runs on the old circuit and was written in heads outside of it extends it."""
    recruits = how is not None and how.recruits(limits.recruited)
    for one in uses:
        yield replace(one, word="extended", recruits=True) if recruits and one.word == "transformed" else one


def _apart(found: Found) -> str:
    """Why the two models' names do not mean the same; empty where they do."""
    if found.reuse is not None and not int(found.reuse.attrs.get("coordinates_shared", 1)):
        return f"the two models do not share coordinates ({found.reuse.attrs.get('coordinates', '')})"
    return ""


def _kind(can: Ability, uses: Sequence[Reuse], apart: str) -> Kind:
    if can.new is False:
        return "naming only" if can.only_named else "no new ability"
    if can.new is None or apart or not uses:
        return "undetermined"
    return together(list(uses))


# --- The headline -----------------------------------------------------------------------------------------------------


def headline(own: Answer) -> str:
    """What is decided, in at most 30 words."""
    can = own.ability
    if own.kind in ("no new ability", "naming only"):
        what = "It learnt to say a candidate, not which" if own.kind == "naming only" else "No new ability"
        return f"{what}: right choices went from {_percent(can.choice[0])} to {_percent(can.choice[1])}; {_old(own)}."
    parts = [_where(own), *_how(own), _old(own)]
    text = "; ".join(part for part in parts if part) + "."
    while len(text.split()) > MOST_WORDS and len(parts) > 1:
        parts.pop(-2 if len(parts) > 2 else -1)
        text = "; ".join(part for part in parts if part) + "."
    return text


def _where(own: Answer) -> str:
    said = {one.counterfactual: one for one in own.reuse if one.word != "undetermined"}
    if own.kind == "undetermined":
        if own.apart:
            return "Undetermined: the two models do not share coordinates"
        return (
            "Undetermined where the new skill runs"
            if own.ability.new
            else "Undetermined whether there is a new ability"
        )
    silent = [one.counterfactual for one in own.reuse if one.word == "undetermined"]
    rest = f"; {_names(silent)} undetermined" if silent else ""
    words = {one.word for one in said.values()}
    if len(words) > 1:
        groups = {w: [k for k, one in said.items() if one.word == w] for w in words}
        where = {"transformed": "on the old circuit", "extended": "partly on it", "formed": "on new edges"}
        each = ", ".join(f"{_names(groups[w])} {where[w]}" for w in where if w in groups)
        return f"Extended: {each}{rest}"
    at = min(said.values(), key=lambda one: one.reuse.value)
    number = f"(reuse {at.reuse.value:.2f}{rest})"
    if at.recruits:
        return f"Extended: the new skill runs on the old circuit {number}, and was written in heads outside it"
    return {
        "transformed": f"Transformed: the new skill runs on the old circuit {number}",
        "extended": f"Extended: the new skill runs partly on the old circuit {number}, partly on new edges",
        "formed": f"Formed: the new skill runs on a new circuit, not the old one {number}",
    }[at.word]


def _how(own: Answer) -> list[str]:
    how = own.written
    if how is None or not how.gain.low > 0 or how.mixed_up:
        return []
    shares = {one.part: one.share.value for one in how.parts}
    named = [f"{IN_WORDS[part]} ({part} {shares[part]:.0%})" for part in how.named]
    found = [" and ".join(named) if named else "spread: no part holds more than 10%"]
    if len(named) > 2:
        found = ["written in " + ", ".join(f"{_in(part)} {shares[part]:.0%}" for part in how.named)]
    if how.half is not None:
        found.append(f"half by step {how.half[0]:.0f}")
    return found


def _old(own: Answer) -> str:
    return {"open": "the old task's fate open"}.get(own.old[0], f"the old task {own.old[0]}")


def _names(kinds: Sequence[str]) -> str:
    return " and ".join(kind.replace("giver", "giver ") for kind in kinds)


# --- Beside it --------------------------------------------------------------------------------------------------------


def _ruled_out(can: Ability, uses: Sequence[Reuse], how: Written | None, limits: Limits) -> Iterator[str]:
    if can.new:
        yield f"no new ability: right choices rose by {_points(can.rise)} points"
    if can.new and can.rule and can.beyond.low > 0:
        yield f"a rule without a circuit, “{can.rule}”: the model is right {_points(can.beyond)} points more often"
    for one in uses:
        own = f"{one.counterfactual}: reuse {shown(one.reuse)}"
        if one.word == "transformed":
            yield f"a new circuit for {own}; {one.floor_is} reaches {one.floor:.2f} of the effect"
        if one.word == "formed":
            yield f"the old circuit for {own}"
        if one.recruits and how is not None:
            yield f"the old circuit's own weights for {own}: heads outside hold a share of {shown(how.recruited.share)}"
        elif one.word == "extended":
            yield f"the old circuit alone, or a new one alone, for {own}"
    for one in how.told if how is not None else ():
        if one.share.high < limits.named:
            yield f"written in {_in(one.part)}: a share of {shown(one.share)}"


def _mixed(uses: Sequence[Reuse], how: Written | None) -> Iterator[str]:
    if len({one.word for one in uses} - {"undetermined"}) > 1:
        yield "; ".join(f"{one.counterfactual}: {one.word}" for one in uses)
    if how is not None and how.recruited.named and any(one.word == "transformed" for one in uses):
        own = how.recruited
        yield (
            f"some of it was written in heads outside the old circuit: a share of {shown(own.share)} by the ledger, "
            f"{shown(own.shapley)} by grafts; mostly there would be extended"
        )
    for one in how.told if how is not None else ():
        if one.disagrees:
            yield (
                f"{one.part}: the ledger books {shown(one.share)}, grafts say {shown(one.shapley)} (alone {shown(one.into)}, "
                f"without {shown(one.lost)}): {one.disagrees}"
            )
        if one.share.high < 0:
            yield f"{one.part} worked against the gain: {shown(one.share)}"


def _open(can: Ability, uses: Sequence[Reuse], how: Written | None, apart: str, found: Found) -> Iterator[str]:
    if can.new is None:
        yield f"whether there is a new ability: right choices rose by {_points(can.rise)} points; more pairs narrow it"
    if apart:
        yield f"{apart}: give checkpoints of one training"
    for one in uses:
        for text in one.open:
            yield f"{one.counterfactual}: {text}"
    if can.new and found.reuse is None:
        yield "where the new skill runs: reuse was not measured"
    if how is None and can.new is not False:
        yield "how it was written: there is no ledger"
    elif how is not None and how.mixed_up:
        yield (
            f"how it was written: on one straight line bookings add up to {how.churn:.0f} times the gain, so none of them is "
            "a share of it; checkpoints between the two would say"
        )
    elif how is not None and how.intervals == 1 and can.new is not False:
        yield "when it was written: the ledger goes on one straight line; checkpoints between the two would say"
    if can.new and how is not None and found.shapley is None:
        yield "whether grafts agree with the ledger: none were made of this checkpoint"
    if found.seeds < 3:
        some = "one fine-tuning says" if found.seeds == 1 else "two fine-tunings say"
        more = " (--seeds 0,1,2)" if found.ours else ""
        yield f"another fine-tuning: {some} little of how much the next differs{more}"
    missing = [name for name in ("old", "shuffled") if name not in found.controls]
    if missing:
        what = " and ".join(missing)
        more = " (--controls old,shuffled)" if found.ours else ""
        yield f"what a fine-tuning of this length does by itself: no control on {what}{more}"


def _in(part: str) -> str:
    return {"the rest": "embeddings and norms"}.get(part, part)


def shown(own: Interval) -> str:
    """`0.42 [0.31, 0.53]`, `0.42`, or `not measured`."""
    if np.isnan(own.value):
        return "not measured"
    return f"{own.value:.2f}" + ("" if np.isnan(own.low) else f" [{own.low:.2f}, {own.high:.2f}]")


def _points(own: Interval) -> str:
    return f"{100 * own.value:+.1f} [{100 * own.low:+.1f}, {100 * own.high:+.1f}]"


def _percent(own: Interval) -> str:
    return f"{100 * own.value:.0f} %"


def _reuse_said(one: Reuse) -> str:
    return (
        f"{one.counterfactual}: {one.word}, {shown(one.reuse)} at {one.edges} of {one.of} edges (old circuit "
        f"{shown(one.old)}, new {shown(one.new)}, floor {one.floor:.2f}, ceiling {one.ceiling:.2f})"
    )


def _part_said(one: Any) -> str:
    return f"{one.part}: booked {shown(one.booked)} nats, share {shown(one.share)}, by grafts {shown(one.shapley)}"
