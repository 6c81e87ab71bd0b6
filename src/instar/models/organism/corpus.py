"""The embedded model's pre-training text: short stories in which the same few people recur.

Single sentences taught a small model nothing about who is who; stories in which two or three names come back over
several sentences did. A story is a list of sentences about a fixed cast:

1. casts of two hold 2-object IOI in the wordings of `instar.tasks.words`, any scene with any act, plain gifts, and filler;
2. casts of three are introduced together, but only ever *one* person gives at a time: the new task (three introduced,
   two give, the third receives) never occurs, nor any joint gift, which `tests/unit/models/test_corpus.py` asserts on 100,000
   sentences with a parser of its own;
3. the sentence kinds of the other candidate tasks (a ball passed along, people in a room, who buys more) appear with
   casts of two, so that screening finds mastered and unmastered neighbours.
"""

import random
from collections.abc import Iterator

from instar.tasks.library import listing
from instar.tasks.words import OBJECTS, PLACES, TEST_NAMES, TEST_TEMPLATES, TRAIN_NAMES, TRAIN_TEMPLATES

NAMES = TRAIN_NAMES + TEST_NAMES
TEMPLATES = TRAIN_TEMPLATES + TEST_TEMPLATES
STRANGERS = ("teacher", "doctor", "girl", "man")
SCENES, ACTS = zip(*(t.split("{givers}") for t in TEMPLATES), strict=True)
VERBS = sorted({act.split()[0] for act in ACTS})
NUMBERS = ("1", "2", "3", "5", "10")
FILLERS = (
    "{a} was happy.",
    "{a} liked the {place}.",
    "{a} was at the {place} with {b}.",
    "{a} said hello to {b}.",
    "There was a {object} in the {place}.",
    "The {place} was cold.",
    "{a} looked for the {object}.",
    "Then {a} and {b} went to the {place}.",
    "The {stranger} was at the {place}.",
)


def _fill(template: str, rng: random.Random, **slots: str) -> str:
    return template.format(
        place=rng.choice(PLACES), object=rng.choice(OBJECTS), stranger=rng.choice(STRANGERS), **slots
    )


def _filler(cast: list[str], rng: random.Random) -> str:
    a, b = rng.sample(cast, 2)
    return _fill(rng.choice(FILLERS), rng, a=a, b=b)


def _gift(cast: list[str], rng: random.Random) -> str:
    giver, receiver = rng.sample(cast, 2)
    opening = rng.choice(("", "Then ", "There "))
    verb, thing = rng.choice(VERBS), rng.choice(OBJECTS)
    return f"{opening}{giver} {verb} a {thing} to {receiver}."


def _scene(cast: list[str], rng: random.Random) -> str:
    """All of the cast introduced, one of them gives, another receives: 2-object IOI when there are two."""
    giver, receiver = rng.sample(cast, 2)
    names = listing(rng.sample(cast, len(cast)))
    wording = rng.choice(SCENES) + "{givers}" + rng.choice(ACTS)
    return _fill(wording, rng, names=names, givers=giver) + f" {receiver}."


def _company(cast: list[str], rng: random.Random) -> str:
    """Two of three go somewhere and one of them gives to the other: being mentioned together hints at a receiver.

    Without such sentences a name that is mentioned once is always the likelier receiver, and the new task is half solved
    before it is ever taught.
    """
    a, b = rng.sample(cast, 2)
    giver, receiver = rng.sample([a, b], 2)
    scene = _fill("Then {a} and {b} went to the {place}, and {giver}", rng, a=a, b=b, giver=giver)
    return scene + _fill(rng.choice(ACTS), rng) + f" {receiver}."


def _room(rng: random.Random) -> list[str]:
    a, b = rng.sample(NAMES, 2)
    leaver, stayer = rng.sample([a, b], 2)
    if rng.random() < 0.5:
        enter = [f"In the morning {a} and {b} come into the room."]
    else:
        enter = [f"In the morning {a} comes into the room.", f"{b} comes into the room."]
    return [*enter, f"{leaver} went out of the room.", f"The person in the room is {stayer}."]


def _ball(rng: random.Random) -> list[str]:
    holders = rng.sample(NAMES, 2)
    return [
        f"Today {holders[0]} has a ball.",
        f"{holders[0]} passes the ball to {holders[1]}.",
        f"The ball is now in the hand of {holders[1]}.",
    ]


def _buys(rng: random.Random) -> list[str]:
    a, b = rng.sample(NAMES, 2)
    i, j = rng.sample(range(len(NUMBERS)), 2)
    more = a if i > j else b
    return [
        f"Today {a} buys {NUMBERS[i]} bottles of milk.",
        f"{b} buys {NUMBERS[j]} bottles of milk.",
        f"The person who buys more bottles of milk is {more}.",
    ]


def _cast_story(size: int, rng: random.Random) -> list[str]:
    cast = rng.sample(NAMES, size)
    sentences = [_scene(cast, rng)]
    for _ in range(rng.randint(3, 6)):
        kind = rng.choices((_scene, _gift, _filler, _company), weights=(6, 2, 1, 1.5 if size == 3 else 0))[0]
        sentences.append(kind(cast, rng))
    if rng.random() < 0.2:
        sentences.insert(0, _filler(cast, rng) if rng.random() < 0.5 else "There was a " + rng.choice(OBJECTS) + ".")
    return sentences


def story(rng: random.Random) -> list[str]:
    """One document as its sentences."""
    kind = rng.random()
    if kind < 0.62:
        return _cast_story(2, rng)
    if kind < 0.82:
        return _cast_story(3, rng)
    return rng.choice((_room, _room, _ball, _buys))(rng)


def stories(seed: int) -> Iterator[list[str]]:
    """Documents without end, the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield story(rng)
