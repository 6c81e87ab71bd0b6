"""A verdict in words: a paragraph that can be quoted, with its numbers inline; what is open; what would change it."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from instar.stats.intervals import Interval

LEAD = {
    "no new ability": "There is no new ability to explain",
    "replaced": "The old circuit was replaced",
    "extended": "The old circuit was extended",
    "rewired": "The old circuit was rewired",
    "amplified": "The old circuit was amplified",
    "undetermined": "It is undetermined what became of the old circuit",
}
OPEN = {
    "old task mastered": "whether the base can do the old task",
    "gain": "whether there is a gain: accuracy or logit difference",
    "necessary": "whether the old circuit's heads are necessary (necessity spans the threshold or is masked)",
    "heads in": "whether the new circuit's heads lie in the old circuit (the floor is below 0.8, or the interval spans the margin)",
    "edges in": "whether the new circuit's edges lie in the old circuit (the floor is below 0.8, or the interval spans the margin)",
    "overlap at chance": "whether old and new circuit share more heads than chance gives",
    "inside carries": "whether heads of the old circuit carry a share of the gain, both ways",
    "outside carries": "whether other heads carry a share of the gain, both ways",
    "outside little": "whether other heads carry little of the gain, both ways",
    "transfers": "whether the old circuit by itself does the new task in the tuned model",
    "attention little": "whether the gain was written in what the old circuit's heads attend to",
}
CHANGE = {
    "no new ability": "a paired rise in accuracy whose lower bound exceeds {rise:.0%}, with a rise in logit difference",
    "replaced": "ablating the old circuit's heads taking at least {share:.0%} of the new ability, or more shared heads than chance",
    "extended": "heads outside the old circuit giving back or taking away less than {share:.0%} of the gain, or the old heads "
    "proving unnecessary",
    "rewired": "heads outside carrying {share:.0%} of the gain both ways, or the gain proving written in W_V and W_O alone",
    "amplified": "heads outside carrying {share:.0%} of the gain both ways, new edges, or a gain written in W_Q and W_K",
    "undetermined": "more pairs (narrower intervals) for what is open, or a base whose circuit is sharper than its own floor",
}


def number(own: Interval, percent: bool = False, digits: int = 2) -> str:
    """`0.42 [0.31, 0.53]`, `42 % [31, 53]`, or `not measurable`."""
    if np.isnan(own.value):
        return "not measurable"
    if percent:
        return f"{100 * own.value:.1f} % [{100 * own.low:.1f}, {100 * own.high:.1f}]"
    return f"{own.value:.{digits}f} [{own.low:.{digits}f}, {own.high:.{digits}f}]"


def paragraph(kind: str, found: dict[str, Interval], truth: dict[str, Any], evidence: xr.Dataset, limits: Any) -> str:
    """The verdict in plain words."""
    gain = (
        f"accuracy on the new task went from {number(found['accuracy base'], True)} to {number(found['accuracy tuned'], True)} "
        f"(paired change {100 * found['gain accuracy'].value:+.1f} points "
        f"[{100 * found['gain accuracy'].low:+.1f}, {100 * found['gain accuracy'].high:+.1f}]), the logit difference by "
        f"{found['gain logits'].value:+.2f} [{found['gain logits'].low:+.2f}, {found['gain logits'].high:+.2f}]"
    )
    old = _old_task(found)
    if kind == "no new ability":
        return f"{LEAD[kind]}: {gain}. {old}"
    names = _inside(evidence)
    sentences = [f"{LEAD[kind]}: {gain}.", _shares(found, names)]
    if not truth["same heads"]:
        sentences.append(
            f"The tuned model's heads stand in another order ({_renamed(evidence)}), so no head can be told by its name."
        )
    sentences += [_groups(found), _necessity(found, evidence, limits), _overlap(found), old]
    return " ".join(s for s in sentences if s)


def _inside(evidence: xr.Dataset) -> str:
    names = json.loads(evidence.attrs["inside"])
    if not names:
        return "its heads: none"
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _renamed(evidence: xr.Dataset) -> str:
    pairs = json.loads(evidence.attrs["permuted"])
    more = f" and {len(pairs) - 6} more" if len(pairs) > 6 else ""
    return ", ".join(f"{a} is the base's {b}" for a, b in list(pairs.items())[:6]) + more


def _shares(found: dict[str, Interval], names: str) -> str:
    return (
        f"By weight grafting, the tuned weights of the old circuit's heads ({names}) bring {_share(found, 'graft inside into')} of "
        f"the gain into the base, and the base's take {_share(found, 'graft inside lost')} of it from the tuned model; those of all "
        f"other heads bring {_share(found, 'graft outside into')} and take {_share(found, 'graft outside lost')}. Of the inside, what "
        f"its heads attend to (W_Q, W_K) brings {_share(found, 'graft inside<qk> into')} and takes "
        f"{_share(found, 'graft inside<qk> lost')}, what they write (W_V, W_O) {_share(found, 'graft inside<vo> into')} and "
        f"{_share(found, 'graft inside<vo> lost')}."
    )


def _share(found: dict[str, Interval], name: str) -> str:
    return number(found[name]) if name in found else "not measured"


def _groups(found: dict[str, Interval]) -> str:
    some = [
        f"{label} {_share(found, f'graft {name} into')} in, {_share(found, f'graft {name} lost')} out"
        for name, label in (("mlps", "MLPs"), ("embeddings", "embeddings"), ("norms", "norms and output biases"))
        if max(abs(found[f"graft {name} {way}"].value) for way in ("into", "lost")) >= 0.01
    ]
    return "As groups of their own: " + "; ".join(some) + "." if some else ""


def _necessity(found: dict[str, Interval], evidence: xr.Dataset, limits: Any) -> str:
    own, null = found["necessity"], found["necessity null"]
    overlap, possible = evidence.attrs["matched_overlap"], evidence.attrs["matched_possible"]
    text = f"Ablating the old circuit's heads in the tuned model takes {number(own)} of its effect on the new task"
    if np.isnan(null.value):
        return text + "; there are no other sets to compare with."
    text += f" (matched random sets: mean {null.value:.2f}, 5 to 95 % {null.low:.2f} to {null.high:.2f})"
    if possible < 20 or overlap > limits.power:
        text += f"; these share {overlap:.0%} of its heads and cannot decide, so its own share does"
    return text + "."


def _overlap(found: dict[str, Interval]) -> str:
    if np.isnan(found["heads inside"].value):
        return "Old and new circuit cannot be compared: one of them does not exist (nothing faithful, or b − c not above 0)."
    return (
        f"Of the new circuit's heads {number(found['heads inside'])} lie in the old one (a resampled old circuit: "
        f"{number(found['heads floor'])}), of its edges {number(found['edges inside'])} (resampled: {number(found['edges floor'])})."
    )


def _old_task(found: dict[str, Interval]) -> str:
    own = found["old accuracy"]
    went = "lost" if own.high < -0.5 else "weakened" if own.high < -0.01 else "kept"
    if went == "kept" and own.low < -0.05:
        went = "kept or weakened (its interval does not say)"
    tuned = number(found["old accuracy tuned"], True)
    return f"The old task was {went}: accuracy {number(found['old accuracy base'], True)} before, {tuned} after."


def missing(kind: str, truth: dict[str, Any], found: dict[str, Interval], evidence: xr.Dataset) -> Iterable[str]:
    """What is open, where the verdict is undetermined."""
    if kind != "undetermined":
        return
    if not truth["same heads"]:
        yield f"the heads in one order: matched by weights, {_renamed(evidence)}"
    if not truth["old task mastered"]:
        yield f"a base that can do the old task: its accuracy is {number(found['old accuracy base'], True)}"
    if not truth["circuits"]:
        yield "a faithful circuit of the old task in the base and of the new one in the tuned model"
    for name, text in OPEN.items():
        if truth.get(name) is None:
            yield text
    yield from _against(truth)


def _against(truth: dict[str, Any]) -> Iterable[str]:
    """What speaks against each kind, where nothing is open."""
    for name in ("inside", "outside"):
        if truth[f"{name} carries"] is False and truth[f"{name} little"] is False:
            yield f"the heads {name} bring more of the gain than they take, or the reverse: one of the two shares is below the threshold"
    if truth["necessary"] and truth["inside little"] and truth["outside little"]:
        yield "heads carry little of the gain: it was written in MLPs, embeddings or norms, of which these kinds do not speak"
    if truth["heads in"] is False and truth["outside little"]:
        yield "the new circuit has heads that the old one has not, yet the gain was not written in them"
    if truth["inside carries"] and truth["outside little"] and truth["heads in"]:
        if not truth["attention little"] and not truth["edges out or attention written"]:
            yield "the gain was written in what the old heads attend to and in what they write: neither alone (rewired, amplified)"
        if truth["transfers"] is False:
            yield "the old circuit by itself does not do the new task in the tuned model"


def changes(kind: str, limits: Any) -> str:
    """What would make it another verdict."""
    return "It would change with " + CHANGE[kind].format(rise=limits.rise, share=limits.share) + "."
