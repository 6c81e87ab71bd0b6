"""A verdict in words: a paragraph that can be quoted, with its numbers inline; what is open; what would change it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from instar.stats.intervals import Interval

LEAD = {
    "no new ability": "No new ability is established",
    "replaced": "The old circuit was replaced",
    "extended": "The old circuit was extended",
    "rewired": "The old circuit was rewired",
    "amplified": "The old circuit was amplified",
    "undetermined": "It is undetermined what became of the old circuit",
}
OPEN = {
    "gain": "whether there is a gain: accuracy or logit difference",
    "necessary": "whether the old circuit's heads are necessary (necessity spans the threshold or is masked)",
    "heads in": "whether the new circuit's heads lie in the old circuit ({why})",
    "edges in": "whether the new circuit's edges lie in the old circuit ({why})",
    "overlap at chance": "whether old and new circuit share more heads than chance gives",
    "inside carries": "whether heads of the old circuit carry a share of the gain, both ways",
    "outside carries": "whether other heads carry a share of the gain, both ways",
    "outside little": "whether other heads carry little of the gain, both ways",
    "transfers": "whether the old circuit by itself does the new task in the tuned model",
    "attention little": "whether the gain was written in what the old circuit's heads attend to",
}
WITHOUT_CIRCUIT = {
    "chance": "any of them",
    "commonest answer": "always {says}",
    "best place": "always the one introduced at {says}",
    "best name prior": "always the one most often right in training",
}
"""Rules that need no circuit, by kind."""
OVERLAPS = ("heads in", "edges in", "overlap at chance")
FAILS = {
    "not necessary": "the old circuit's heads are necessary",
    "overlap at chance": "old and new circuit share more heads than chance gives",
    "necessary": "the old circuit's heads are not necessary",
    "outside carries": "other heads do not carry a share of the gain both ways",
    "patching agrees outside": "by patching, other heads carry little of the gain",
    "heads in": "the new circuit has heads that the old one has not",
    "edges in": "the new circuit has edges that the old one has not",
    "inside carries": "heads of the old circuit do not carry a share of the gain both ways",
    "outside little": "other heads carry more than a little of the gain",
    "edges out or attention written": "the edges are not new, nor was the gain written only in what the old heads attend to",
    "patching agrees inside": "by patching, heads of the old circuit carry little of the gain",
    "transfers": "the old circuit by itself does not do the new task in the tuned model",
    "attention little": "some of the gain was written in what the old heads attend to",
}
"""Of every condition that a kind needs: what speaks against the kind where it is not true."""
CHANGE = {
    "no new ability": "a paired rise in accuracy whose lower bound exceeds {points:.0f} points, with a rise in logit "
    "difference and a choice among the candidates that is right more often than any rule without a circuit",
    "replaced": "ablating the old circuit's heads taking at least {share:.0%} of the new ability, or more shared heads than "
    "chance gives",
    "extended": "heads outside the old circuit giving back or taking away less than {share:.0%} of the gain, or the old "
    "heads proving unnecessary",
    "rewired": "heads outside carrying {share:.0%} of the gain both ways, or the gain proving written in W_V and W_O alone",
    "amplified": "heads outside carrying {share:.0%} of the gain both ways, new edges, or a gain written in W_Q and W_K",
    "undetermined": "more pairs (narrower intervals), where an interval leaves something open; not with more pairs, where "
    "the gain was written in several ways at once, or outside of heads",
}


def number(own: Interval, percent: bool = False, digits: int = 2) -> str:
    """`0.42 [0.31, 0.53]`, `42 % [31, 53]`, or `not measurable`."""
    if np.isnan([own.value, own.low, own.high]).any():
        return "not measurable"
    if percent:
        return f"{100 * own.value:.1f} % [{100 * own.low:.1f}, {100 * own.high:.1f}]"
    return f"{own.value:.{digits}f} [{own.low:.{digits}f}, {own.high:.{digits}f}]"


def _rise(own: Interval, scale: float = 1.0, digits: int = 2, unit: str = "") -> str:
    """`+0.42 [+0.31, +0.53]`, or `not measurable`."""
    value, low, high = (f"{scale * x:+.{digits}f}" for x in (own.value, own.low, own.high))
    return "not measurable" if np.isnan([own.value, own.low, own.high]).any() else f"{value}{unit} [{low}, {high}]"


def paragraph(kind: str, numbers: dict[str, Interval], truth: dict[str, Any], evidence: xr.Dataset, limits: Any) -> str:
    """The verdict in plain words."""
    gain = (
        f"accuracy on the new task went from {number(numbers['accuracy base'], True)} to "
        f"{number(numbers['accuracy tuned'], True)} (paired change {_rise(numbers['gain accuracy'], 100, 1, ' points')}), "
        f"the logit difference changed by {_rise(numbers['gain logits'])}"
    )
    old, lead = _old_task(numbers), f"{LEAD[kind]}: {gain}. {_beside(numbers, truth, evidence)}"
    if kind == "no new ability":
        return f"{lead} {old}"
    names = _inside(evidence)
    sentences = [lead, _shares(numbers, names)]
    if not truth["same heads"]:
        sentences.append(
            f"The tuned model's heads stand in another order ({_renamed(evidence)}), so no head can be told by its name."
        )
    sentences += [_groups(numbers), _necessity(numbers, evidence, limits), _overlap(numbers, truth, limits), old]
    return " ".join(s for s in sentences if s)


def _beside(numbers: dict[str, Interval], truth: dict[str, Any], evidence: xr.Dataset) -> str:
    """What the checkpoint has beyond rules that need no circuit: beyond the one that comes nearest."""
    beyond = {n.removeprefix("beyond "): own for n, own in numbers.items() if n.startswith("beyond ")}
    if not beyond or np.isnan([own.low for own in beyond.values()]).any():
        return "Whether a rule that needs no circuit would do as well was not measured."
    kind = min(beyond, key=lambda kind: beyond[kind].low)
    says = json.loads(evidence.attrs["says"])[kind]
    rule, by = WITHOUT_CIRCUIT[kind].format(says=says), _rise(beyond[kind], 100, 1, " points")
    chosen = (
        f"Among the candidates it chooses the answer in {number(numbers['choice accuracy tuned'], True)} of prompts"
    )
    gets = f"{100 * numbers[f'baseline {kind}'].value:.1f} %"
    if truth["above baselines"]:
        return (
            f"{chosen}, more than any rule that needs no circuit (the nearest, “{rule}”, gets {gets}; difference {by})."
        )
    return f"{chosen}, which is not above what “{rule}” gets without any circuit ({gets}; difference {by})."


def _inside(evidence: xr.Dataset) -> str:
    names = json.loads(evidence.attrs["inside"])
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _renamed(evidence: xr.Dataset) -> str:
    pairs = json.loads(evidence.attrs["permuted"])
    more = f" and {len(pairs) - 6} more" if len(pairs) > 6 else ""
    return ", ".join(f"{a} is the base's {b}" for a, b in list(pairs.items())[:6]) + more


def _shares(numbers: dict[str, Interval], names: str) -> str:
    if not names:
        heads, others = (_share(numbers, f"graft outside {way}") for way in ("into", "lost"))
        return (
            "The base has no circuit of the old task to graft. By weight grafting, the tuned weights of all heads bring "
            f"{heads} of the gain into the base, and the base's take {others} of it from the tuned model."
        )
    if np.isnan(numbers["graft inside into"].value):
        return f"Shares of the gain are not measurable, neither of the old circuit's heads ({names}) nor of others."
    (inside, less), (outside, other), (qk, no_qk), (vo, no_vo) = (
        [_share(numbers, f"graft {name} {way}") for way in ("into", "lost")]
        for name in ("inside", "outside", "inside<qk>", "inside<vo>")
    )
    return (
        f"By weight grafting, the tuned weights of the old circuit's heads ({names}) bring {inside} of the gain into the "
        f"base, and the base's take {less} of it from the tuned model; those of all other heads bring {outside} and take "
        f"{other}. Of the inside, what its heads attend to (W_Q, W_K) brings {qk} and takes {no_qk}, what they write (W_V, "
        f"W_O) {vo} and {no_vo}."
    ) + _null(numbers)


def _null(numbers: dict[str, Interval]) -> str:
    into, lost = (numbers.get(f"graft null {way}") for way in ("into", "lost"))
    if into is None or lost is None or np.isnan([into.value, lost.value]).any():
        return ""
    return (
        f" Random sets of as many heads in each layer bring {into.value:.2f} (5 to 95 % {into.low:.2f} to {into.high:.2f}) "
        f"and take {lost.value:.2f} ({lost.low:.2f} to {lost.high:.2f})."
    )


def _share(numbers: dict[str, Interval], name: str) -> str:
    return number(numbers[name]) if name in numbers else "not measured"


def _groups(numbers: dict[str, Interval]) -> str:
    some = [
        f"{label} {_share(numbers, f'graft {name} into')} in, {_share(numbers, f'graft {name} lost')} out"
        for name, label in (("mlps", "MLPs"), ("embeddings", "embeddings"), ("norms", "norms and output biases"))
        if max(abs(numbers[f"graft {name} {way}"].value) for way in ("into", "lost")) >= 0.01
    ]
    return "As groups of their own: " + "; ".join(some) + "." if some else ""


def _necessity(numbers: dict[str, Interval], evidence: xr.Dataset, limits: Any) -> str:
    own, null = numbers["necessity"], numbers["necessity null"]
    if not json.loads(evidence.attrs["inside"]):
        return ""
    overlap, possible = evidence.attrs["matched_overlap"], evidence.attrs["matched_possible"]
    if np.isnan(own.value):
        return "How much of the new task the tuned model loses without the old circuit's heads is not measurable."
    text = f"Ablating the old circuit's heads in the tuned model takes {number(own)} of its effect on the new task"
    if np.isnan(null.value):
        return text + "; there are no other sets to compare with."
    text += f" (matched random sets: mean {null.value:.2f}, 5 to 95 % {null.low:.2f} to {null.high:.2f})"
    if possible < 20:
        text += f"; there are only {possible} of them, which cannot decide, so its own share does"
    elif not overlap <= limits.power:
        text += f"; these share {overlap:.0%} of its heads and cannot decide, so its own share does"
    return text + "."


def _overlap(numbers: dict[str, Interval], truth: dict[str, Any], limits: Any) -> str:
    if not truth["circuits"]:
        return "Old and new circuit cannot be compared: one of them does not exist (nothing faithful, or b − c not above 0)."
    text = (
        f"Of the new circuit's heads {number(numbers['heads inside'])} lie in the old one (a resampled old circuit: "
        f"{number(numbers['heads floor'])}), of its edges {number(numbers['edges inside'])} (resampled: "
        f"{number(numbers['edges floor'])})"
    )
    for what in ("heads", "edges"):
        if truth[f"{what} in"] and not numbers[f"{what} beyond floor"].low >= -limits.margin:
            text += f"; about as many {what} lie in the old task's circuit of the same checkpoint (difference: "
            text += f"{_rise(numbers[f'{what} beyond task'])})"
    shared, by_chance = numbers["heads shared"].value, numbers["heads chance"]
    if np.isnan(shared) or np.isnan(by_chance.value):
        return text + "."
    most = "could give all of them" if np.isnan(by_chance.high) else f"at most {by_chance.high:.0f} in 95 % of draws"
    return text + f". Heads in both: {shared:.0f}, where chance gives {by_chance.value:.1f} ({most})."


def _old_task(numbers: dict[str, Interval]) -> str:
    own = numbers["old accuracy"]
    if np.isnan(own.low) or np.isnan(own.high):
        return "What became of the old task was not measured."
    went = "lost" if own.high < -0.5 else "weakened" if own.high < -0.01 else "kept"
    if own.low > 0.01:
        went = "improved"
    if went == "kept" and own.low < -0.05:
        went = "kept or weakened (its interval does not say)"
    tuned = number(numbers["old accuracy tuned"], True)
    return f"The old task was {went}: accuracy {number(numbers['old accuracy base'], True)} before, {tuned} after."


def missing(
    kind: str,
    truth: dict[str, Any],
    numbers: dict[str, Interval],
    evidence: xr.Dataset,
    limits: Any,
    needed: Mapping[Any, Sequence[str]],
) -> list[str]:
    """What is open, where the verdict is undetermined; where nothing is, what speaks against each kind."""
    if kind != "undetermined":
        return []
    lines = [*_open(truth, numbers, evidence, limits), *_against(truth)]
    against = {k: [FAILS[c] for c in some if not truth[c]] for k, some in needed.items()}
    return lines or [f"not {k}: {'; '.join(some)}" for k, some in against.items()]


def _open(truth: dict[str, Any], numbers: dict[str, Interval], evidence: xr.Dataset, limits: Any) -> Iterable[str]:
    if not truth["same heads"]:
        yield f"the heads in one order: matched by weights, {_renamed(evidence)}"
    if not truth["old task mastered"]:
        yield f"a base that can do the old task: its accuracy is {number(numbers['old accuracy base'], True)}"
    if not truth["circuits"]:
        yield "a faithful circuit of the old task in the base and of the new one in the tuned model"
    for name, text in OPEN.items():
        # Without circuits, that their overlap is open goes without saying.
        if truth[name] is None and (truth["circuits"] or name not in OVERLAPS):
            yield text.format(why=_why(numbers, name.split()[0], limits)) if "{why}" in text else text


def _why(numbers: dict[str, Interval], what: str, limits: Any) -> str:
    """Why an overlap is open."""
    floor = numbers[f"{what} floor"].value
    if np.isnan(floor) or np.isnan(numbers[f"{what} inside"].value):
        return f"one of them has no {what}"
    if floor < limits.floor:
        return f"resampled old circuits share {floor:.2f} with it, less than {limits.floor:g}"
    return "the interval spans the margin"


def _against(truth: dict[str, Any]) -> Iterable[str]:
    """What the numbers say that no kind speaks of."""
    for name in ("inside", "outside"):
        if truth[f"{name} carries"] is False and truth[f"{name} little"] is False:
            more = "bring more of the gain than they take, or the reverse"
            yield f"the heads {name} {more}: one of the two shares is below the threshold"
    if truth["inside little"] and truth["outside little"]:
        some = [name for name in ("mlps", "embeddings", "norms") if truth[f"{name} carry"]]
        where = " and ".join(some).replace("mlps", "MLPs").replace("norms", "norms and output biases")
        rest = f"it was written in {where}, of which these kinds do not speak"
        yield f"heads carry little of the gain: {rest if some else 'and no other group is known to carry it alone'}"
    if truth["inside carries"] is False and truth["inside little"] is None:
        yield "the heads inside do not carry the gain both ways, and whether they carry little is open"
    for name in ("inside", "outside"):
        if truth[f"{name} carries"] and not truth[f"patching agrees {name}"]:
            yield f"the heads {name} hold the gain by grafting but carry little of it by patching: a contradiction"
    if truth["heads in"] is False and truth["outside little"]:
        yield "the new circuit has heads that the old one has not, yet the gain was not written in them"
    if truth["inside carries"] and truth["outside little"] and truth["heads in"]:
        if truth["attention little"] is False and not truth["edges out or attention written"]:
            known = truth["edges out or attention written"] is False
            rest = "but not there alone: neither rewired nor amplified" if known else "whether only there is open"
            yield f"some of the gain was written in what the old heads attend to, {rest}"
        if truth["transfers"] is False:
            yield "the old circuit by itself does not do the new task in the tuned model"


def changes(kind: str, limits: Any) -> str:
    """What would make it another verdict."""
    return "It would change with " + CHANGE[kind].format(points=100 * limits.rise, share=limits.share) + "."
