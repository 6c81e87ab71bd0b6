"""Whether a tokenizer can align a pair, and if not, why: the one check that files, runs, batches and the audit share.

1. A word's tokens are those of prompt + word after the prompt's own, as they stand. Answer, foils and contrast must be one
   token each, known to the tokenizer, and the answer none of the others.
2. Clean and corrupted prompts have as many tokens and are not the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from instar.tasks.pair import Pair

NAMED = 3
"""Words that a sentence names; it counts the rest."""
SEVERAL = "a word of several tokens"


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
        return (
            f"this model's tokenizer lacks {len(self.words)} of {self.of} names or words as one token ({named}): take "
            "another model, or words that it has"
        )


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

    def id(self, pair: Pair, word: str) -> int:
        """The one token of one of the words of a pair that has no fault."""
        return (self.word(pair, word) or [])[0]

    def fault(self, pair: Pair) -> Fault | None:
        """Why this tokenizer cannot align the pair."""
        found = fault_of_words(pair) or next(filter(None, (self._fault_of(pair, w) for w in _words(pair))), None)
        if found is not None:
            return found
        answer, *others = (self.id(pair, word) for word in _words(pair))
        if answer in others:
            return Fault(f"{pair.answer!r} and one of its foils are the same token", "the answer is its own foil")
        clean, corrupted = self.prompt(pair.clean), self.prompt(pair.corrupted)
        if len(clean) != len(corrupted):
            sizes = f"clean has {len(clean)} tokens and corrupted {len(corrupted)}"
            return Fault(
                f"{pair.counterfactual}: {sizes}: {pair.corrupted!r}; every changed word must have as many tokens as the "
                "word it replaces",
                "clean and corrupted of different lengths",
            )
        return _same(pair) if clean == corrupted else None

    def lacking(self, pairs: Sequence[Pair]) -> Lacking:
        """The answers and foils that are not one known token."""
        every = {word: self._fault_of(p, word) for p in pairs for word in (p.answer, *p.foils)}
        return Lacking(tuple(sorted(word for word, fault in every.items() if fault is not None)), len(every))

    def _fault_of(self, pair: Pair, word: str) -> Fault | None:
        ids = self.word(pair, word)
        if ids is None:
            end = pair.clean[-20:]
            text = f"this tokenizer joins {word!r} with the end of its prompt, {end!r}: the prompt's own tokens change"
            return Fault(text, "a word that joins with its prompt")
        if not word.strip() or len(ids) != 1:
            after = f"after {pair.clean[-20:]!r}" if not pair.between else "with its leading space"
            return Fault(f"{word!r} is {len(ids)} tokens {after}", SEVERAL)
        if ids[0] == self._unknown:
            return Fault(f"this tokenizer does not know {word!r}", "a word that the tokenizer does not know")
        return None


def _words(pair: Pair) -> tuple[str, ...]:
    return (pair.answer, *pair.foils, *pair.contrast)


def _same(pair: Pair) -> Fault:
    return Fault(f"{pair.counterfactual}: clean and corrupted are the same", "clean and corrupted the same")
