"""The embedded models' pre-training text: short stories in which the same few people recur.

1. *Couples* hold 2-object IOI in the first wordings of `instar.tasks.words`, gifts back and forth, and meetings, in which
   another name stands between the giver's and his introduction.
2. Casts of *three* are introduced together, but only ever *one* person gives at a time: the new task (three introduced, two
   give, the third receives) never occurs, nor any joint gift, which `tests/unit/models/test_corpus.py` asserts on 100,000
   sentences with a parser of its own. *Companies*, in which two of the three go on and one of these gives to the other, and
   *turns*, in which another does something else before the giver gives, say that whoever was just mentioned receives:
   without them the new task, of which only the last giver is seen, would be half solved.
3. The sentence kinds of the other candidate tasks (a ball passed along, people in a room, who buys more) appear with
   casts of two, so that screening finds mastered and unmastered neighbours.

In a marked sentence `^` stands before a giver and `*` before a name that the text so far decides. Neither is text.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from instar.tasks.library import listing
from instar.tasks.words import OBJECTS, PLACES, TEST_NAMES, TEST_TEMPLATES, TRAIN_NAMES, TRAIN_TEMPLATES

GIVER, DECIDED = "^", "*"
INVENTED = 80
TEMPLATES = TRAIN_TEMPLATES + TEST_TEMPLATES
SCENES, ACTS = zip(*(t.split("{givers}") for t in TEMPLATES), strict=True)
VERBS = sorted({act.split()[0] for act in ACTS})
NUMBERS = ("1", "2", "3", "5", "10")
OPENINGS = ("", "Then ", "There ", "Soon ", "Later ")
SUBORDINATE = ("After", "When", "While", "Once", "Because", "Since", "Before", "As", "Until", "Although")
FILLERS = (
    "{a} was happy.",
    "{a} liked the {place}.",
    "{a} looked for the {object}.",
    "There was a {object} in the {place}.",
    "The {place} was cold.",
    "The {place} was closed.",
    "It was a long day.",
)
MEETINGS = (
    "{a} saw {b}, and ^{b}",
    "Then {a} met {b}, and ^{b}",
    "Soon {a} called {b}. ^{b}",
    "{a} looked for {b}, and ^{b}",
    "Later {a} came with {b}. There ^{b}",
    "After {a} came, ^{b}",
    "Near {a} it was cold, and ^{b}",
    "Beside {a} ^{b}",
    "With {a} at the {place}, ^{b}",
    "For {a} and the {place}, ^{b}",
    "Today {a} waited in the {place}, and ^{b}",
    "When {a} left the {place}, ^{b}",
    "{a} was at the {place} with {b}. Then ^{b}",
)
TURNS = (
    "{first} waited, and ^{giver}",
    "{first} smiled, and ^{giver}",
    "{first} slept and ^{giver}",
    "{first} sang, so ^{giver}",
)
COMPANIES = (
    "Then {a} and {b} went to the {place}, and ^{giver}",
    "Later {a} and {b} met at the {place}. There ^{giver}",
    "Soon {a} and {b} left the {place}, and ^{giver}",
)


@dataclass(frozen=True)
class Shares:
    """How often each kind of story or sentence comes."""

    couples: float = 0.62
    three: float = 0.28
    neighbours: float = 0.10
    two_couples: float = 0.2
    """Of the couples' stories, those of two couples."""
    turn: float = 0.3
    """Of scenes, those in which another stands where the giver would, doing something else."""
    waiter: float = 0.78
    """Of turns of three, those in which that other receives."""
    meeting: float = 0.3
    """Of what couples do after their scene."""
    company: float = 0.6
    """Of what casts of three do after their scene."""
    meeting_of_three: float = 0.7
    """Of what they do that is no company."""


def _invented(count: int) -> tuple[str, ...]:
    """Names that nobody has, so that who is who cannot be a table of a few dozen names."""
    rng, made = random.Random(0), {name.lower(): "" for name in TRAIN_NAMES + TEST_NAMES}
    onsets, vowels = (*"bdfghklmnprstvz", "br", "dr", "gr", "kl", "tr", "st"), (*"aeiou", "ai", "ea", "io")
    ends = ("", "n", "r", "s", "l", "x", "th", "m")
    while len(made) < len(TRAIN_NAMES + TEST_NAMES) + count:
        word = "".join(map(rng.choice, (onsets, vowels, onsets, vowels, ends)))
        made.setdefault(word, word.capitalize())
    return tuple(filter(None, made.values()))


NAMES = TRAIN_NAMES + TEST_NAMES + _invented(INVENTED)


def _fill(template: str, rng: random.Random, **slots: str) -> str:
    return template.format(place=rng.choice(PLACES), object=rng.choice(OBJECTS), **slots)


def _scene(cast: list[str], rng: random.Random, shares: Shares) -> str:
    """All of the cast introduced, one of them gives, another receives: 2-object IOI when there are two."""
    giver, first, *others = rng.sample(cast, len(cast))
    waits = rng.random() < shares.turn
    turn = rng.choice(TURNS) if waits else "^{giver}"
    receiver = rng.choice(others) if others and rng.random() >= (shares.waiter if waits else 0.5) else first
    decided = "" if others else DECIDED
    wording = rng.choice(SCENES) + turn + rng.choice(ACTS)
    scene = _fill(wording, rng, names=listing(rng.sample(cast, len(cast))), giver=giver, first=first)
    return f"{scene}{decided} {receiver}."


def _introduction(cast: list[str], rng: random.Random) -> str:
    """A scene in which nobody gives."""
    text = rng.choice(SCENES).rstrip()
    for cut in (", and", ", so", ". There", ". Then", ". Soon", ","):
        text = text.removesuffix(cut)
    first, rest = text.split(" ", 1)
    text = f"Today {rest}" if first in SUBORDINATE else text
    return _fill(text, rng, names=listing(rng.sample(cast, len(cast)))) + "."


def _gift(cast: list[str], rng: random.Random) -> str:
    giver, receiver = rng.sample(cast, 2)
    decided = DECIDED if len(cast) == 2 else ""
    return f"{rng.choice(OPENINGS)}^{giver} {rng.choice(VERBS)} a {rng.choice(OBJECTS)} to{decided} {receiver}."


def _meeting(cast: list[str], rng: random.Random) -> str:
    """The receiver is named just before the giver: only the giver is to be passed over, not whoever came last."""
    a, b = rng.sample(cast, 2)
    return _fill(rng.choice(MEETINGS), rng, a=a, b=b) + f" {rng.choice(VERBS)} a {rng.choice(OBJECTS)} to* {a}."


def _company(cast: list[str], rng: random.Random) -> str:
    """Two of three go on and one of them gives to the other: being mentioned together hints at a receiver."""
    a, b = rng.sample(cast, 2)
    giver, receiver = rng.sample([a, b], 2)
    return _fill(rng.choice(COMPANIES), rng, a=a, b=b, giver=giver) + _fill(rng.choice(ACTS), rng) + f"* {receiver}."


def _filler(name: str, rng: random.Random) -> str:
    return _fill(rng.choice(FILLERS), rng, a=name)


def _couples(rng: random.Random, shares: Shares) -> list[str]:
    count = 2 if rng.random() < shares.two_couples else 1
    people = rng.sample(NAMES, 2 * count)
    pairs = [people[2 * i : 2 * i + 2] for i in range(count)]
    out = [_filler(people[0] if rng.random() < 0.5 else rng.choice(NAMES), rng)] if rng.random() < 0.4 else []
    out += [_scene(pair, rng, shares) if rng.random() < 0.6 else _introduction(pair, rng) for pair in pairs]
    for _ in range(rng.randint(1, 3) + count - 1):
        cast = rng.choice(pairs)
        if rng.random() < 0.12:
            out.append(_filler(rng.choice(cast), rng))
        else:
            out.append((_meeting if rng.random() < shares.meeting else _gift)(cast, rng))
    return out


def _three(rng: random.Random, shares: Shares) -> list[str]:
    cast = rng.sample(NAMES, 3)
    out = [_scene(cast, rng, shares)]
    for _ in range(rng.randint(0, 2)):
        if rng.random() < shares.company:
            out.append(_company(cast, rng))
        else:
            out.append((_meeting if rng.random() < shares.meeting_of_three else _gift)(cast, rng))
    return out


def _room(rng: random.Random) -> list[str]:
    a, b = rng.sample(NAMES, 2)
    leaver, stayer = rng.sample([a, b], 2)
    if rng.random() < 0.5:
        enter = [f"In the morning {a} and {b} come into the room."]
    else:
        enter = [f"In the morning {a} comes into the room.", f"{b} comes into the room."]
    return [*enter, f"{leaver} went out of the room.", f"The person in the room is* {stayer}."]


def _ball(rng: random.Random) -> list[str]:
    first, then = rng.sample(NAMES, 2)
    passed = f"{first} passes the ball to {then}."
    return [f"Today {first} has a ball.", passed, f"The ball is now in the hand of* {then}."]


def _buys(rng: random.Random) -> list[str]:
    a, b = rng.sample(NAMES, 2)
    i, j = rng.sample(range(len(NUMBERS)), 2)
    more = f"The person who buys more bottles of milk is* {a if i > j else b}."
    return [f"Today {a} buys {NUMBERS[i]} bottles of milk.", f"{b} buys {NUMBERS[j]} bottles of milk.", more]


def _neighbours(rng: random.Random, shares: Shares) -> list[str]:
    return rng.choice((_room, _room, _ball, _buys))(rng)


def marked(seed: int, shares: Shares = Shares()) -> Iterator[list[str]]:
    """Stories without end as marked sentences, the same for the same seed."""
    rng = random.Random(seed)
    kinds = {_couples: shares.couples, _three: shares.three, _neighbours: shares.neighbours}
    while True:
        yield rng.choices(list(kinds), weights=list(kinds.values()))[0](rng, shares)


def unmarked(sentence: str) -> str:
    """The text of a marked sentence."""
    return sentence.replace(GIVER, "").replace(DECIDED, "")


def stories(seed: int, shares: Shares = Shares()) -> Iterator[list[str]]:
    """Stories without end, each as its sentences."""
    for story in marked(seed, shares):
        yield [unmarked(sentence) for sentence in story]
