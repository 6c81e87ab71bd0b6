"""Which token of a corrupted prompt stands for which token of its clean one, where they have different numbers of tokens.

1. Both prompts are cut into pieces at the pair's holes: text, hole, text, …: the same texts stand in both. Where they do not,
   or no holes are named, the words that differ are the one hole.
2. A piece of as many tokens on both sides goes token by token. Of any other piece only the *last* token has a counterpart:
   it is the one that has read all of the piece.
3. What is put behind both prompts (the tokens that all words begin with) goes token by token, and the last tokens of the
   two prompts, where the answer is read, always belong together.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from instar.tasks.pair import Pair, Span

NONE = -1
"""A token without a counterpart."""
NOT_ALIGNED = (
    "{} of {} pairs have clean and corrupted prompts whose slots are of different numbers of tokens, and cannot be put "
    "beside each other position by position"
)
Offsets = Sequence[tuple[int, int]]
"""Where each token stands in its prompt; a mark of the tokenizer's own stands nowhere, (0, 0)."""


def changed(pair: Pair) -> Span:
    """The words in which the clean prompt differs from the corrupted one: the slot of a pair that names none."""
    return Span("changed", *_differing(pair.clean, pair.corrupted))


def _differing(text: str, other: str) -> tuple[int, int]:
    """Characters of the first text in which it differs from the other, by words."""
    own, others = text.split(" "), other.split(" ")
    longest = min(len(own), len(others))
    first = next((i for i in range(longest) if own[i] != others[i]), longest)
    last = next((i for i in range(longest - first) if own[-1 - i] != others[-1 - i]), longest - first)
    start = len(" ".join(own[:first])) + (first > 0)
    return start, start + len(" ".join(own[first : len(own) - last]))


def offsets_of(tokenizer: Any, prompts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Where each token stands in its prompt.

    Raises:
        ValueError: for a tokenizer that cannot say.
    """
    try:
        return tokenizer(list(prompts), return_offsets_mapping=True)["offset_mapping"]
    except (NotImplementedError, KeyError):
        raise ValueError(
            f"this tokenizer ({type(tokenizer).__name__}) cannot say where in a prompt its tokens stand: use the fast one "
            "(AutoTokenizer gives it where there is a tokenizer.json), or make the batch from token ids (Batch.from_tokens)"
        ) from None


def counterparts(pair: Pair, clean: Offsets, corrupted: Offsets, behind: int = 0) -> list[int] | None:
    """For each token of the clean prompt its counterpart's place in the corrupted one, −1 where it has none.

    None where both go position by position. `behind`: how many tokens are put behind both.
    """
    own, other = (_in_pieces(offsets, cuts) for offsets, cuts in zip((clean, corrupted), _cuts(pair), strict=True))
    if len(clean) == len(corrupted) and {p: len(own[p]) for p in own} == {p: len(other[p]) for p in other}:
        return None
    found = [NONE] * len(clean)
    for piece, here in own.items():
        there = other.get(piece, [])
        for a, b in (
            zip(here, there, strict=True) if len(here) == len(there) else zip(here[-1:], there[-1:], strict=False)
        ):
            found[a] = b
    if not behind:
        last = len(corrupted) - 1
        found = [*(NONE if b == last else b for b in found[:-1]), last]
    return found + [len(corrupted) + i for i in range(behind)]


def unequal(tokenizer: Any, pairs: Sequence[Pair]) -> list[bool]:
    """Which pairs do not go position by position."""
    prompts = list(dict.fromkeys(text for pair in pairs for text in (pair.clean, pair.corrupted)))
    where = dict(zip(prompts, offsets_of(tokenizer, prompts), strict=True)) if prompts else {}
    return [counterparts(pair, where[pair.clean], where[pair.corrupted]) is not None for pair in pairs]


def intervened(counterfactuals: Sequence[str]) -> list[str]:
    """The counterfactuals that a run intervenes on: each giver's, or the first where none is a giver's."""
    return [c for c in counterfactuals if c.startswith("giver")] or list(counterfactuals[:1])


def out_of_line(tokenizer: Any, pairs: Iterable[Sequence[Pair]]) -> dict[str, Pair]:
    """Clean prompts of which a corruption, of any of these, does not go position by position; the first such pair of each."""
    found: dict[str, Pair] = {}
    for rows in pairs:
        for pair, apart in zip(rows, unequal(tokenizer, rows), strict=True):
            if apart:
                found.setdefault(pair.clean, pair)
    return found


def _in_pieces(offsets: Offsets, cuts: Sequence[int]) -> dict[int, list[int]]:
    """Tokens by their piece. A token belongs where its last character stands: its first may be the space before."""
    found: dict[int, list[int]] = {}
    for token, (start, stop) in enumerate(offsets):
        piece = NONE if start == stop else bisect_right(cuts, max(start, stop - 1))
        found.setdefault(piece, []).append(token)
    return found


def _cuts(pair: Pair) -> tuple[list[int], list[int]]:
    """Where the pieces of the clean and of the corrupted prompt begin, after the first."""
    spans = sorted(pair.spans, key=lambda s: s.start)
    clean = [at for span in spans for at in (span.start, span.stop)]
    if spans and clean == sorted(clean) and (corrupted := _found(pair, [0, *clean, len(pair.clean)])) is not None:
        return clean, corrupted
    return list(_differing(pair.clean, pair.corrupted)), list(_differing(pair.corrupted, pair.clean))


def _found(pair: Pair, bounds: Sequence[int]) -> list[int] | None:
    """The corrupted prompt's cuts: the clean one's texts between holes, found in it one after another."""
    first, *between, last = [pair.clean[a:b] for a, b in list(pairwise(bounds))[::2]]
    text, at, cuts = pair.corrupted, len(first), [len(first)]
    if not text.startswith(first) or not text.endswith(last) or not all(between):
        return None
    for part in between:
        place = text.find(part, at)
        if place < 0:
            return None
        at = place + len(part)
        cuts += [place, at]
    stop = len(text) - len(last)
    return [*cuts, stop] if stop >= at else None
