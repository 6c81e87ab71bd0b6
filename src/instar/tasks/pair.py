"""Pairs: a clean prompt beside the same prompt with one thing changed, and the words that are right in each.

Nothing here knows a tokenizer except `word_ids` and `usable_words`; tokens begin in `instar.tasks.fitting`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Span:
    """Characters `start` to `stop` of the clean prompt, where one hole stands."""

    slot: str
    start: int
    stop: int


@dataclass(frozen=True)
class Pair:
    """A clean and a corrupted prompt, and what is right in each. Words are without their leading space (`between`)."""

    clean: str
    corrupted: str
    counterfactual: str
    answer: str
    foils: tuple[str, ...]
    """Every other introduced name: the behavioural logit difference is against their mean."""
    contrast: tuple[str, ...] = ()
    """The one name that the corruption makes right; the clean foils where it makes nothing right, and by default."""
    spans: tuple[Span, ...] = ()
    place: int = 0
    """The answer's place among the introduced names, from 0."""
    wording: str = ""
    """The template it was written with."""
    base: int = 0
    """Which clean prompt this is: pairs that share it are resampled together."""
    between: str = " "
    """What stands between the prompt and each of its words: a space, or nothing ("to the year 15" goes on with "29")."""

    def __post_init__(self) -> None:
        if not self.contrast:
            object.__setattr__(self, "contrast", self.foils)


def normalised(prompt: str) -> str:
    """Lower case, letters and digits only, single spaces: by this two prompts are the same."""
    return re.sub(r"\W+", " ", prompt.lower()).strip()


def word_ids(tokenizer: Any, word: str, prompt: str = "to", between: str = " ") -> list[int]:
    """The tokens of a word as they stand after a prompt.

    Raises:
        ValueError: where the prompt's own last tokens are others before this word.
    """
    before, both = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, prompt + between + word)
    )
    if both[: len(before)] != before:
        raise ValueError(f"this tokenizer joins {word!r} with the text before it ({prompt[-20:]!r})")
    return both[len(before) :]


def alike_words(tokenizer: Any, names: Iterable[str], needed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words that may stand for each other without moving what follows them, and the rest.

    These are the words of one token; where they are fewer than needed, the most that are of equally many tokens and begin
    with different ones, so that a word's first token tells it from all others.
    """
    kept, refused = usable_words(tokenizer, names := tuple(names))
    if len(kept) < needed:
        by_size: dict[int, dict[int, str]] = {}
        for name in names:
            ids = word_ids(tokenizer, name)
            by_size.setdefault(len(ids), {}).setdefault(ids[0], name)
        most = max((tuple(own.values()) for own in by_size.values()), key=len, default=())
        if len(most) >= needed:
            return most, tuple(name for name in names if name not in most)
    return kept, refused


def usable_words(tokenizer: Any, names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words that are one token, and the words that are not."""
    kept, refused = [], []
    for name in names:
        (kept if len(word_ids(tokenizer, name)) == 1 else refused).append(name)
    return tuple(kept), tuple(refused)
