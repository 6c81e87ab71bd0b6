"""Tasks: families of prompts with one right answer each, dealt in balance and written out as pairs.

1. A `Scene` is one situation: a template with named holes, the word in each hole, the answer, the foils, and for each
   counterfactual the holes that change and the name that the change makes right.
2. A `Task` deals scenes. What should be balanced (the answer's place, the order of the givers, names, wordings) is
   drawn from shuffled decks that are emptied before they are shuffled again, so balance holds by construction.
3. `Task.pairs` writes scenes out as `Pair`s. The same seed gives the same clean prompts for every counterfactual.
4. A task may be restricted to some of its wordings, and kept apart from prompts that a choice was made on: scenes that are
   not wanted are passed over, and the next ones dealt.
"""

import random
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from instar.record.names import file_name, wording_name
from instar.tasks import words
from instar.tasks.pair import Pair, Span, alike_words, normalised, usable_words

Split = Literal["train", "test"]
T = TypeVar("T")
_HOLE = re.compile(r"\{(\w+)\}")
PASSED, LOOKED_AT = 10_000, 64
"""Scenes passed over, one after another, before a task gives up; pairs that its wordings are told by."""


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

    def __init__(self, seed: int, names: Sequence[str], split: Split, wordings: Sequence[str] = ()):
        self.rng = random.Random(seed)
        self.names = tuple(names)
        self.split: Split = split
        self.wordings = tuple(wordings)
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

    def template(self) -> str:
        """The next of the task's wordings of this split."""
        return self.deal("wording", self.wordings)

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

    wordings: Mapping[Split, tuple[str, ...]] = field(default_factory=dict)
    """The templates that scenes are dealt from; none where a scene has its own."""
    more: Mapping[Split, tuple[str, ...]] = field(default_factory=dict)
    """Further ones, for tokenizers that keep all their words whole (`fit`)."""
    kept: frozenset[str] | None = None
    """Wordings that it is restricted to, by name; None: all."""
    apart: frozenset[str] = frozenset()
    """Prompts, normalised, that no pair of it has, neither clean nor corrupted."""

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
        dealer = Dealer(seed, self.names[split], split, self._dealt(split))
        return [replace(write(scene, wanted), base=i) for i, scene in zip(range(n), self._scenes(dealer), strict=False)]

    def _dealt(self, split: Split) -> tuple[str, ...]:
        every = self.wordings.get(split, ())
        return every if self.kept is None else tuple(w for w in every if wording_name(w) in self.kept)

    def _scenes(self, dealer: Dealer) -> Iterator[Scene]:
        passed = 0
        while passed < PASSED:
            scene = self.scene(dealer)
            if self._is_wanted(scene):
                passed = 0
                yield scene
            else:
                passed += 1
        raise ValueError(
            f"{self.name}: {PASSED} scenes were dealt without one of the wordings it is restricted to, or without one that "
            "stands apart from the prompts that these were chosen on; keep more wordings (tasks.wordings)"
        )

    def _is_wanted(self, scene: Scene) -> bool:
        if self.kept is not None and wording_name(scene.template) not in self.kept:
            return False
        # All its prompts, so that every counterfactual has the same clean ones.
        return not self.apart or not any(
            normalised(p) in self.apart
            for pair in (write(scene, kind) for kind in scene.corruptions)
            for p in (pair.clean, pair.corrupted)
        )

    def named_wordings(self, split: Split) -> tuple[str, ...]:
        """The names of its wordings."""
        if self.wordings:
            return tuple(map(wording_name, self._dealt(split)))
        return tuple(dict.fromkeys(wording_name(p.wording) for p in self.pairs(LOOKED_AT, 0, split)))

    def restricted(self, kept: Collection[str], apart: Iterable[str] = ()) -> "Task":
        """The task in some of its wordings (their names), and without some prompts."""
        return replace(self, kept=frozenset(kept), apart=frozenset(map(normalised, apart)))

    def of_each_wording(self, count: int, seed: int, split: Split) -> dict[str, list[Pair]]:
        """Up to `count` pairs of each wording, by its name: pairs that a choice among wordings may be made on."""
        return {name: self.restricted([name]).pairs(count, seed, split) for name in self.named_wordings(split)}

    def training(self, n: int, seed: int = 0) -> list[Pair]:
        """Pairs to train on: `n`, or all there are where they are a file's."""
        return self.pairs(n, seed, "train")

    def fit(self, tokenizer: Any) -> "Task":
        """The task with the names that are of one token (or of equally many), and all wordings whose words are.

        A vocabulary that has to spell a word of ours is a toy's (the embedded model's is its corpus's): such a model gets the
        first wordings, which its corpus has. Large vocabularies have every word, and their models more wordings.

        Raises:
            ValueError: if too few names are left, naming the refused ones.
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
        further = {split: tuple(w for w in more if _knows(tokenizer, w)) for split, more in self.more.items()}
        wordings = {split: own + further.get(split, ()) for split, own in self.wordings.items()}
        return replace(self, names=kept, left_out=out, wordings=wordings, more={})

    def batch(self, model: Any, n: int = 64, seed: int = 0, split: Split = "test", counterfactual: str | None = None):
        """`n` pairs as tokens for a loaded model: an `instar.Batch`."""
        from instar.tasks.batch import tokenize  # torch: making prompts does without

        if model.tokenizer is None:
            raise ValueError(
                f"{model.name} came without a tokenizer: instar.load(model, tokenizer), or Batch.from_tokens"
            )
        task = self.fit(model.tokenizer)
        return tokenize(task.pairs(n, seed, split, counterfactual), model.tokenizer, task=self.name)


def _knows(tokenizer: Any, template: str) -> bool:
    words_of = re.findall(r"[A-Za-z]+", _HOLE.sub(" ", template))
    return not usable_words(tokenizer, words_of)[1]


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
