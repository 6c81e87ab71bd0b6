"""Tasks: families of prompts with one right answer each, dealt in balance and written out as pairs.

1. A `Scene` is one situation: a template with named holes, the word in each hole, the answer, the foils, and for each
   counterfactual the holes that change and the name that the change makes right.
2. A `Task` deals scenes. What should be balanced (the answer's place, the order of the givers, names, wordings) is
   drawn from shuffled decks that are emptied before they are shuffled again, so balance holds by construction.
3. `Task.pairs` writes scenes out as `Pair`s. The same seed gives the same clean prompts for every counterfactual.
"""

import random
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from instar.record.names import file_name
from instar.tasks import words
from instar.tasks.pair import Pair, Span, alike_words

Split = Literal["train", "test"]
T = TypeVar("T")
_HOLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Corruption:
    """The holes that change, and the name that becomes right (None: nothing does)."""

    fill: Mapping[str, str]
    right: str | None


@dataclass(frozen=True)
class Scene:
    """One situation, before it is written out."""

    template: str
    fill: Mapping[str, str]
    answer: str
    foils: tuple[str, ...]
    corruptions: Mapping[str, Corruption]
    place: int = 0


class Dealer:
    """Words and choices dealt from shuffled decks: every item once before any item twice."""

    def __init__(self, seed: int, names: Sequence[str], split: Split):
        self.rng = random.Random(seed)
        self.names = tuple(names)
        self.split: Split = split
        self._decks: dict[Hashable, list[Any]] = {}

    def deal(self, key: Hashable, items: Iterable[T], avoid: Iterable[T] = ()) -> T:
        """The next item of the deck `key`, passing over what must be avoided."""
        avoid = set(avoid)
        deck = self._decks.setdefault(key, [])
        if all(item in avoid for item in deck):
            deck[:] = items
            self.rng.shuffle(deck)
        index = next((i for i in reversed(range(len(deck))) if deck[i] not in avoid), None)
        if index is None:
            raise ValueError(f"the deck {key!r} has {len(deck)} items and all of them are in use: give it more words")
        return deck.pop(index)

    def people(self, count: int) -> list[str]:
        """`count` different names; the first, who will be the answer, is balanced by a deck of its own."""
        chosen = [self.deal("answer", self.names)]
        while len(chosen) < count:
            chosen.append(self.deal("others", self.names, avoid=chosen))
        return chosen

    def template(self, train: Sequence[str], test: Sequence[str]) -> str:
        """The next wording of this split."""
        return self.deal("wording", train if self.split == "train" else test)

    def scenery(self) -> dict[str, str]:
        """A place and an object."""
        return {"place": self.deal("place", words.PLACES), "object": self.deal("object", words.OBJECTS)}


@dataclass(frozen=True)
class Task:
    """A family of prompts with one right answer each, and the corruptions that change it."""

    name: str
    example: str
    scene: Callable[[Dealer], Scene]
    counterfactuals: tuple[str, ...]
    harder_than: tuple[str, ...] = ()
    """Easier neighbours: a pair of neighbours of which one is mastered and one is not is what instar looks for."""
    people: int = 2
    """Different names one scene needs, corruptions included."""
    names: Mapping[Split, tuple[str, ...]] = field(
        default_factory=lambda: {"train": words.TRAIN_NAMES, "test": words.TEST_NAMES}
    )
    left_out: Mapping[Split, tuple[str, ...]] = field(default_factory=dict)
    """Names that a tokenizer splits otherwise than the rest: no scene is made with them."""

    def __post_init__(self) -> None:
        file_name(self.name, "task")
        for counterfactual in self.counterfactuals:
            file_name(counterfactual, f"{self.name}: counterfactual")

    def pairs(self, n: int, seed: int = 0, split: Split = "test", counterfactual: str | None = None) -> list[Pair]:
        """`n` balanced pairs with one counterfactual (the task's first by default).

        Raises:
            ValueError: for a counterfactual that the task does not have, or too few names.
        """
        wanted = counterfactual or self.counterfactuals[0]
        if wanted not in self.counterfactuals:
            raise ValueError(
                f"{self.name} has no counterfactual {wanted!r}; counterfactual= takes one of {list(self.counterfactuals)}"
            )
        if len(self.names[split]) < self.people:
            raise ValueError(
                f"{self.name} needs {self.people} {split} names, found {len(self.names[split])}: {self.names[split]}"
            )
        dealer = Dealer(seed, self.names[split], split)
        return [replace(write(self.scene(dealer), wanted), base=i) for i in range(n)]

    def training(self, n: int, seed: int = 0) -> list[Pair]:
        """Pairs to train on: `n`, or all there are where they are a file's."""
        return self.pairs(n, seed, "train")

    def fit(self, tokenizer: Any) -> "Task":
        """The task with only the names that may stand for each other: of one token for this tokenizer, or of equally many.

        Raises:
            ValueError: if too few are left, naming the refused ones.
        """
        kept: dict[Split, tuple[str, ...]] = {}
        out: dict[Split, tuple[str, ...]] = {}
        for split, names in self.names.items():
            kept[split], refused = alike_words(tokenizer, names, self.people)
            if len(kept[split]) < self.people:
                raise ValueError(
                    f"{self.name} needs {self.people} {split} names that are one token with their leading space (or equally "
                    f"many that begin differently); this tokenizer has {len(kept[split])} and splits {', '.join(refused)}. "
                    "Give the task words that it keeps whole: dataclasses.replace(task, names=...)."
                )
            out[split] = (*self.left_out.get(split, ()), *refused)
        return replace(self, names=kept, left_out=out)

    def batch(self, model: Any, n: int = 64, seed: int = 0, split: Split = "test", counterfactual: str | None = None):
        """`n` pairs as tokens for a loaded model: an `instar.Batch`."""
        from instar.tasks.batch import tokenize  # torch: making prompts does without

        if model.tokenizer is None:
            raise ValueError(
                f"{model.name} came without a tokenizer: instar.load(model, tokenizer), or Batch.from_tokens"
            )
        task = self.fit(model.tokenizer)
        return tokenize(task.pairs(n, seed, split, counterfactual), model.tokenizer, task=self.name)


def write(scene: Scene, counterfactual: str) -> Pair:
    """A scene written out with one of its corruptions."""
    corruption = scene.corruptions[counterfactual]
    clean, spans = render(scene.template, scene.fill)
    corrupted, _ = render(scene.template, {**scene.fill, **corruption.fill})
    contrast = scene.foils if corruption.right is None else (corruption.right,)
    return Pair(
        clean, corrupted, counterfactual, scene.answer, scene.foils, contrast, spans, scene.place, scene.template
    )


def render(template: str, fill: Mapping[str, str]) -> tuple[str, tuple[Span, ...]]:
    """The text, and where each hole ended up in it."""
    text, spans, last = "", [], 0
    for hole in _HOLE.finditer(template):
        text += template[last : hole.start()]
        word = fill[hole.group(1)]
        spans.append(Span(hole.group(1), len(text), len(text) + len(word)))
        text, last = text + word, hole.end()
    return text + template[last:], tuple(spans)
