"""Tasks whose pairs come ready-made: from a user's file, or from a function in a user's Python file.

A task from a file is a list of `Entry`: one row, with its pair for each counterfactual.

1. *Splits.* A row is trained on or tested on as its `split` says. Where no row says so, `holdout` sets that share aside for
   testing: drawn by seed among different prompts (spelling and punctuation aside), so that no prompt is on both sides.
   With neither, every row is on both sides, which the audit refuses as a leak.
2. *Fit.* Rows that this tokenizer cannot align (`fitting`) are set aside with the reason, and so is every row whose prompt
   stands in another with another answer. None is dropped in silence: `rejected` has them all.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from instar.record.names import wording_name
from instar.tasks.align import changed
from instar.tasks.fitting import Fault, Lacking, Tokens, fault_of_words
from instar.tasks.pair import Pair, normalised
from instar.tasks.task import LOOKED_AT, Dealer, Scene, Split, Task

HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval")
"""What a split for testing is called; the first that a file has is taken."""

SPARED = 5
"""Of so many rows one may be set aside to choose wordings on."""


@dataclass(frozen=True)
class Rejected:
    """A row that is not used."""

    number: int
    reason: str
    prompt: str
    kind: str
    """The reason without this row's words, to count by."""
    split: str | None = None


@dataclass(frozen=True)
class Entry:
    """One row of a file."""

    number: int
    prompt: str
    pairs: tuple[Pair, ...] = ()
    """One for each counterfactual that the row has."""
    split: str | None = None
    index: int = 0
    """Where the row stands among all rows: numbers begin again in each split of a folder."""
    notes: tuple[str, ...] = ()
    """What was repaired on reading."""
    fault: Fault | None = None
    """Why it cannot be used, where that was found before its pairs are looked at."""


@dataclass(frozen=True)
class PairSource(Task):
    """A task whose pairs come ready-made rather than from scenes."""

    source: Callable[[int, int, Split], Sequence[Pair]] = lambda n, seed, split: ()
    fitted: Callable[[Any], Task] | None = None
    """The task for a tokenizer; None: the words are checked when they are tokenised."""
    rows: int | None = None
    """How many rows the file has."""
    rejected: tuple[Rejected, ...] = ()
    lacking: Lacking | None = None
    """Words that the tokenizer lacks, where it is known and lacks some."""
    used: tuple[Entry, ...] = ()
    """The rows that are."""

    def pairs(self, n: int, seed: int = 0, split: Split = "test", counterfactual: str | None = None) -> list[Pair]:
        """`n` pairs with one counterfactual."""
        found = self._found(n, seed, split, counterfactual)
        if len(found) < n:
            raise ValueError(f"{self.name}: {n} {split} pairs asked for, {self._there_are(len(found), counterfactual)}")
        return found

    def training(self, n: int, seed: int = 0) -> list[Pair]:
        """All pairs to train on, `n` at most."""
        found = self._found(n, seed, "train", None)
        if not found:
            raise ValueError(f"{self.name}: no rows to train on; {self._there_are(0, None)}")
        return found

    def fit(self, tokenizer: Any) -> Task:
        """The task with the rows that this tokenizer can align."""
        return self if self.fitted is None else self.fitted(tokenizer)

    def named_wordings(self, split: Split) -> tuple[str, ...]:
        """The names of its wordings."""
        return tuple(dict.fromkeys(wording_name(p.wording) for p in self._sides(LOOKED_AT, 0, split)))

    def of_each_wording(self, count: int, seed: int, split: Split) -> dict[str, list[Pair]]:
        """Up to `count` pairs of each wording, by its name, and no more than one of `SPARED` of what there is of it."""
        found: dict[str, list[Pair]] = {}
        for pair in self._found(SPARED * count * len(self.named_wordings(split)), seed, split, None):
            found.setdefault(wording_name(pair.wording), []).append(pair)
        return {name: pairs[: min(count, len(pairs) // SPARED)] for name, pairs in found.items()}

    def _found(self, n: int, seed: int, split: Split, counterfactual: str | None) -> list[Pair]:
        wanted, found = counterfactual or self.counterfactuals[0], []
        # A file gives all it has; a function gives as many as it is asked for, and some of them are not wanted.
        narrowed = self.rows is None and (self.kept is not None or self.apart)
        for times in (1, 2, 4, 8, 16) if narrowed else (1,):
            found = [p for p in self._sides(times * n, seed, split) if p.counterfactual == wanted][:n]
            if len(found) == n:
                break
        return [replace(p, base=i, spans=p.spans or (changed(p),)) for i, p in enumerate(found)]

    def _sides(self, n: int, seed: int, split: Split) -> list[Pair]:
        """What the source gives, without what is not wanted; of all pairs of a prompt, or of none."""
        given = self.source(n, seed, split)
        if self.kept is None and not self.apart:
            return list(given)
        refused = {p.clean for p in given if {normalised(p.clean), normalised(p.corrupted)} & self.apart}
        return [
            p for p in given if p.clean not in refused and (self.kept is None or wording_name(p.wording) in self.kept)
        ]

    def _there_are(self, count: int, counterfactual: str | None) -> str:
        of = f" with counterfactual {counterfactual!r}" if counterfactual else ""
        text = f"{count} found{of}"
        if self.rejected:
            kinds = Counter(r.kind for r in self.rejected).most_common(3)
            text += f" ({len(self.rejected)} of {self.rows} rows cannot be used: {said(kinds)}{_lacks(self.lacking)})"
        return f"{text}; lower data.test_size, change data.holdout, or write more"


def said(kinds: Sequence[tuple[str, int]]) -> str:
    """Reasons with their counts, as a sentence."""
    return "; ".join(f"{count} × {kind}" for kind, count in kinds)


def _lacks(lacking: Lacking | None) -> str:
    return "" if lacking is None else f"; {lacking}"


def ready(
    name: str, example: str, counterfactuals: Sequence[str], source: Callable[..., Any], **more: Any
) -> PairSource:
    """A task from a function `pairs(n, seed, split)`."""
    return PairSource(name, example, _no_scene, tuple(counterfactuals), people=0, source=source, **more)


def _no_scene(dealer: Dealer) -> Scene:
    raise TypeError("this task has ready-made pairs and deals no scenes")


def from_entries(
    name: str,
    entries: Sequence[Entry],
    rejected: Sequence[Rejected],
    holdout: float | None = None,
    seed: int = 0,
    expand: Callable[[Sequence[Entry], Any], list[Entry]] = lambda entries, tokenizer: list(entries),
) -> PairSource:
    """A task from a file's rows.

    Args:
        holdout: the share set aside for testing where no row names a split; see the module.
        expand: writes entries out once the tokenizer is known (None: any word will do).
    """
    total = len(entries) + len(rejected)
    placed, aside, shared = _placed(entries, rejected, holdout, seed)
    rejected = [*rejected, *aside]

    def made(tokenizer: Any) -> PairSource:
        written = expand(placed, tokenizer)
        kept, refused, lacking = _usable(written, tokenizer)
        kept, leaks = _apart(kept) if shared else (kept, [])
        everyone = sorted([*rejected, *refused, *leaks], key=lambda r: r.number)
        if not kept:
            raise ValueError(
                f"{name}: none of {total} rows can be used: "
                + said(Counter(r.kind for r in everyone).most_common(3))
                + f". The first: row {everyone[0].number}: {everyone[0].reason}{_lacks(lacking)}"
            )
        kinds = dict.fromkeys(p.counterfactual for e in kept for p in e.pairs)

        def source(n: int, order: int, split: Split) -> list[Pair]:
            mine = [e for e in kept if e.split in (None, split)]
            # Rows are shuffled, not pairs: every counterfactual has the same prompts in the same order.
            random.Random(order).shuffle(mine)
            return [pair for e in mine for pair in e.pairs]

        found = {"fitted": made, "rows": total, "rejected": tuple(everyone), "lacking": lacking, "used": tuple(kept)}
        return ready(name, kept[0].prompt, tuple(kinds), source, **found)

    return made(None)


def _placed(
    entries: Sequence[Entry], rejected: Sequence[Rejected], holdout: float | None, seed: int
) -> tuple[list[Entry], list[Rejected], bool]:
    """Rows with their side ("train", "test", None: both), rows of neither, and whether the sides were made here."""
    splits = {e.split for e in entries}
    test = next((s for s in HELD_OUT if s in splits), None)
    if len(splits) > 1 and test is not None:
        sides = {test: "test", "train": "train", None: None}
        unused = "a split that is neither trained nor tested on"
        aside = [
            Rejected(e.number, f"split {e.split!r}", e.prompt, unused, e.split) for e in entries if e.split not in sides
        ]
        return [replace(e, split=sides[e.split]) for e in entries if e.split in sides], aside, False
    if holdout is None:
        return [replace(e, split=None) for e in entries], [], False
    # Over all rows, usable or not: another tokenizer's run holds out the same prompts.
    prompts = sorted({normalised(p) for p in [*(e.prompt for e in entries), *(r.prompt for r in rejected)]})
    held = set(random.Random(f"holdout {seed}").sample(prompts, math.ceil(holdout * len(prompts))))
    return [replace(e, split="test" if normalised(e.prompt) in held else "train") for e in entries], [], True


def _usable(entries: Sequence[Entry], tokenizer: Any) -> tuple[list[Entry], list[Rejected], Lacking | None]:
    """Rows whose pairs the tokenizer aligns, that none contradicts and that are tested on once; and the words it lacks."""
    kept, refused, seen = [], [], {}
    kinds = {frozenset(p.counterfactual for p in e.pairs) for e in entries}
    pairs = [p for e in entries if e.fault is None for p in e.pairs]
    tokens = None if tokenizer is None else Tokens(tokenizer, pairs)
    check = fault_of_words if tokens is None else tokens.fault
    against = contradicted([(e.number, e.prompt, e.pairs[0].answer) for e in entries])
    for place, e in enumerate(entries):
        fault = e.fault or next(filter(None, map(check, e.pairs)), None)
        # Of user-given pairs a prompt may come once for each counterfactual.
        key = normalised(e.prompt), e.pairs[0].counterfactual if len(kinds) > 1 else ""
        if fault is None and place in against:
            fault = Fault(against[place], CONTRADICTORY)
        if fault is None and e.split == "test" and key in seen:
            fault = Fault(f"the same prompt as row {seen[key]}", "a prompt that is tested on already")
        if fault is None:
            seen[key] = e.number
            kept.append(e)
        else:
            refused.append(Rejected(e.number, fault.reason, e.prompt, fault.kind, e.split))
    lacking = None if tokens is None else tokens.lacking([e.pairs[0] for e in entries if e.fault is None])
    return kept, refused, lacking if lacking is not None and lacking.words else None


CONTRADICTORY = "one prompt with different answers"


def contradicted(rows: Sequence[tuple[int, str, str]]) -> dict[int, str]:
    """Of rows (number, prompt, answer), by their place, those whose prompt another row has with another answer, and which.

    Prompts are the same but for case and white space: a sign may be all that two sums differ in.
    """
    by_prompt: dict[str, list[tuple[int, int, str]]] = {}
    for place, (number, prompt, answer) in enumerate(rows):
        by_prompt.setdefault(" ".join(prompt.split()).casefold(), []).append((place, number, answer))
    found = {}
    for same in by_prompt.values():
        for place, _, answer in same:
            other = next((o for o in same if o[2].casefold() != answer.casefold()), None)
            if other is not None:
                found[place] = f"answers {answer!r}, and row {other[1]}, which has the same prompt, {other[2]!r}"
    return found


def _apart(entries: Sequence[Entry]) -> tuple[list[Entry], list[Rejected]]:
    """Without rows to train on that some test row's corrupted prompt is the same as."""
    tested = {normalised(p.corrupted) for e in entries if e.split == "test" for p in e.pairs}
    same = "the same as a held-out row's corrupted prompt"
    kept, rejected = [], []
    for e in entries:
        if e.split == "train" and normalised(e.prompt) in tested:
            rejected.append(Rejected(e.number, same, e.prompt, same, e.split))
        else:
            kept.append(e)
    return kept, rejected
