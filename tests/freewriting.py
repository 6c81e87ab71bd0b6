"""IOI prompts in free wording with the embedded model's names, as a language model might write them."""

import random

from instar.tasks.library import listing
from instar.tasks.words import TRAIN_NAMES

SCENES = (
    "After {names} went to the {place}, {givers} gave a {object} to",
    "{names} met at the {place}. {givers} brought a {object} and gave it to",
    "On Monday, {names} were at the {place}, and {givers} handed a {object} to",
    "{names} were happy at the {place}, so {givers} gave the {object} to",
    "While {names} waited in the {place}, a {object} was given by {givers} to",
    "In the morning {names} ran to the {place}. There {givers} passed a {object} to",
)
PLACES, OBJECTS = ("store", "school", "park", "office"), ("drink", "ball", "book", "ring", "letter")
ODD = (
    ("John and Mary said hello to Bob. John gave a ring to", "Mary"),
    ("John, Mary and Jim met. He gave a ring to", "Jim"),
    ("Wilhelmina, Mary and Jim met. Mary and Wilhelmina gave a ring to", "Jim"),
    ("John and Mary met at the park. John gave a ring to", "Mary"),
)


def rows(count: int, n: int = 3, seed: int = 0, odd: bool = False) -> list[dict[str, str]]:
    """`count` rows in the log's form, all different; with `odd`, these four rows more."""
    rng, found = random.Random(seed), {}
    while len(found) < count:
        names = rng.sample(TRAIN_NAMES[:60], n)
        answer = rng.choice(names)
        givers = rng.sample([x for x in names if x != answer], n - 1)
        wording = rng.choice(SCENES)
        prompt = wording.format(
            names=listing(names), givers=listing(givers), place=rng.choice(PLACES), object=rng.choice(OBJECTS)
        )
        found[prompt] = answer
    more = ODD if odd else ()
    return [{"question": p, "completion": f" {a}"} for p, a in (*found.items(), *more)]
