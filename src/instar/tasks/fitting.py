"""What a tokenizer makes of a pair's words: which tokens are compared, or why none can be.

1. A word's tokens are those of prompt + word after the prompt's own, as they stand, all of them known to the tokenizer.
2. The logit difference is of the answer's **first token that differs** from a foil's. Where every foil begins as the answer
   does, the tokens that they share (`lead`) are put behind both prompts, and the next one is read. Of several foils the first
   that differs decides; those that are still alike there cannot be told from the answer by that token, and are not compared.
3. What the corruption makes right (`contrast`) has to differ at that very token. Clean and corrupted are not the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from instar.tasks.pair import Pair

NAMED = 3
"""Words that a sentence names; it counts the rest."""
ALIKE = "words that begin alike"
MANY = 0.5
"""A model whose tokenizer lacks more than this share of the words is not the one to take."""


@dataclass(frozen=True)
class Fault:
    """Why a pair cannot be used, and the same without its own words, to count by."""

    reason: str
    kind: str


@dataclass(frozen=True)
class Lacking:
    """The words that a tokenizer has no single token for, of all that answers and foils are."""

    words: tuple[str, ...]
    of: int

    def __str__(self) -> str:
        named = ", ".join(self.words[:NAMED]) + (", …" if len(self.words) > NAMED else "")
        found = f"this model's tokenizer lacks {len(self.words)} of {self.of} names or words as one token ({named})"
        return found + (": take another model, or words that it has" if len(self.words) > MANY * self.of else "")


@dataclass(frozen=True)
class Read:
    """The tokens that a pair is measured by."""

    answer: int
    foils: tuple[int, ...]
    contrast: tuple[int, ...]
    lead: tuple[int, ...] = ()
    """The answer's tokens before, which both prompts are continued by: all words that are compared begin so."""
    several: bool = False
    """Whether any of the words is more than one token."""
    alike: tuple[str, ...] = ()
    """Foils that are not compared, since they are as the answer up to this token."""


def fault_of_words(pair: Pair) -> Fault | None:
    """What is wrong with a pair whatever the tokenizer."""
    if pair.answer in pair.foils:
        return Fault(f"the answer {pair.answer!r} is among its foils", "the answer is its own foil")
    if pair.answer in pair.contrast:
        text = f"the answer {pair.answer!r} is also what the corruption makes right (contrast)"
        return Fault(text, "the answer is its own contrast")
    if len({*pair.foils}) < len(pair.foils) or len({*pair.contrast}) < len(pair.contrast):
        twice = next(word for words in (pair.foils, pair.contrast) for word in words if words.count(word) > 1)
        return Fault(
            f"{twice!r} stands twice among the foils or the contrast, and would count twice", "a foil stands twice"
        )
    if not pair.foils:
        return Fault("there are no foils, which the answer is compared with", "no foils")
    if pair.clean == pair.corrupted:
        return _same(pair)
    return None


class Tokens:
    """What a tokenizer makes of the prompts of pairs and of the words after them, each text looked up once."""

    def __init__(self, tokenizer: Any, pairs: Sequence[Pair]):
        self.tokenizer = tokenizer
        # What a word follows is text, without the marks that a tokenizer puts around a whole text.
        self._plain = self._looked_up(
            [text for p in pairs for text in (p.clean, *(p.clean + p.between + w for w in _words(p)))],
            add_special_tokens=False,
        )
        self._prompts = self._looked_up([text for p in pairs for text in (p.clean, p.corrupted)])
        unknown = getattr(tokenizer, "unk_token_id", None)
        self._unknown = None if unknown == getattr(tokenizer, "eos_token_id", None) else unknown

    def _looked_up(self, texts: Sequence[str], **how: Any) -> dict[str, list[int]]:
        unique = list(dict.fromkeys(texts))
        return dict(zip(unique, self.tokenizer(unique, **how)["input_ids"], strict=True)) if unique else {}

    def prompt(self, text: str) -> list[int]:
        """A prompt's tokens, the marks before it included."""
        return self._prompts[text]

    def word(self, pair: Pair, word: str) -> list[int] | None:
        """The tokens of one of the pair's words after its prompt; None where they change the prompt's own."""
        before, both = self._plain[pair.clean], self._plain[pair.clean + pair.between + word]
        return both[len(before) :] if both[: len(before)] == before else None

    def read(self, pair: Pair) -> Read | Fault:
        """The tokens that the pair is measured by, or why there are none."""
        found = fault_of_words(pair) or next(filter(None, (self._fault_of(pair, w) for w in _words(pair))), None)
        if found is None and self.prompt(pair.clean) == self.prompt(pair.corrupted):
            found = _same(pair)
        if found is not None:
            return found
        ids = {word: self.word(pair, word) or [] for word in _words(pair)}
        answer = ids[pair.answer]
        if any(ids[word] == answer for word in (*pair.foils, *pair.contrast)):
            return Fault(f"{pair.answer!r} and one of its foils are the same token", "the answer is its own foil")
        differ = {word: _first_difference(answer, ids[word]) for word in pair.foils}
        at = min((place for place in differ.values() if place is not None), default=None)
        if at is None:
            return Fault(f"the tokens of {pair.answer!r} and {pair.foils[0]!r} differ only in that one goes on", ALIKE)
        for word in pair.contrast:
            if word not in differ and (ids[word][:at] != answer[:at] or _first_difference(answer, ids[word]) != at):
                return Fault(f"{word!r} (contrast) does not differ from {pair.answer!r} where its foils do", ALIKE)
        compared = tuple(word for word in pair.foils if differ[word] == at)
        contrast = tuple(word for word in pair.contrast if differ.get(word, at) == at)
        if not contrast:
            return Fault(f"{pair.contrast[0]!r} (contrast) begins as {pair.answer!r} where other foils differ", ALIKE)
        return Read(
            answer=answer[at],
            foils=_distinct(ids[word][at] for word in compared),
            contrast=_distinct(ids[word][at] for word in contrast),
            lead=tuple(answer[:at]),
            several=any(len(own) > 1 for own in ids.values()),
            alike=tuple(word for word in pair.foils if differ[word] != at),
        )

    def fault(self, pair: Pair) -> Fault | None:
        """Why this tokenizer cannot be asked about the pair."""
        found = self.read(pair)
        return found if isinstance(found, Fault) else None

    def lacking(self, pairs: Sequence[Pair]) -> Lacking:
        """The answers and foils that are not one known token."""
        every = {
            word: self._fault_of(p, word) or len(self.word(p, word) or ()) > 1 for p in pairs for word in _asked(p)
        }
        return Lacking(tuple(sorted(word for word, lacks in every.items() if lacks)), len(every))

    def _fault_of(self, pair: Pair, word: str) -> Fault | None:
        ids = self.word(pair, word)
        if ids is None:
            end = pair.clean[-20:]
            text = f"this tokenizer joins {word!r} with the end of its prompt, {end!r}: the prompt's own tokens change"
            return Fault(text, "a word that joins with its prompt")
        if not word.strip() or not ids:
            return Fault(f"{word!r} is no token after {pair.clean[-20:]!r}", "a word without a token")
        if self._unknown in ids:
            return Fault(f"this tokenizer does not know {word!r}", "a word that the tokenizer does not know")
        return None


def _words(pair: Pair) -> tuple[str, ...]:
    return (pair.answer, *pair.foils, *pair.contrast)


def _asked(pair: Pair) -> tuple[str, ...]:
    return (pair.answer, *pair.foils)


def _first_difference(answer: Sequence[int], other: Sequence[int]) -> int | None:
    """The first place at which two words' tokens differ; None where one only goes on after the other."""
    return next((i for i, (a, b) in enumerate(zip(answer, other, strict=False)) if a != b), None)


def _distinct(ids: Iterable[int]) -> tuple[int, ...]:
    """Two foils may begin alike: a token counts once."""
    return tuple(dict.fromkeys(ids))


def _same(pair: Pair) -> Fault:
    return Fault(f"{pair.counterfactual}: clean and corrupted are the same", "clean and corrupted the same")
