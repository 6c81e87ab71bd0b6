"""Two tasks that are not IOI: the greatest of two numbers, and of three.

A rule in a Python file is a function `(n, seed, split)` that returns pairs. The corruption makes the greatest number small,
so that the second greatest becomes right. Prompts for testing are of sets of numbers that nothing was trained on.
"""

import random

import instar

HIGHEST = 40
SPREAD = 10
"""The numbers of one prompt are this close, or guessing a large one would do."""


def held_out(numbers: list[int]) -> bool:
    """Whether a set of numbers is for testing: a fifth of all sets are, in whatever order."""
    return sum(numbers) % 5 == 0


def text(numbers: list[int], which: str = "greatest") -> str:
    """`The greatest of 4, 7 and 2 is`."""
    listed = ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
    return f"The {which} of {listed} is"


def draw(rng: random.Random, count: int) -> list[int]:
    """Different numbers close to each other."""
    lowest = rng.randint(2, HIGHEST - SPREAD)
    return rng.sample(range(lowest, lowest + SPREAD + 1), count)


def _pair(numbers: list[int], place: int, low: int) -> instar.Pair:
    others = [n for n in numbers if n != max(numbers)]
    corrupted = [low if i == place else n for i, n in enumerate(numbers)]
    clean, spans = "The greatest of ", []
    for i, number in enumerate(numbers):
        clean += ", " if 0 < i < len(numbers) - 1 else " and " if i else ""
        spans.append(instar.Span(f"number{i + 1}", len(clean), len(clean) + len(str(number))))
        clean += str(number)
    clean += " is"
    return instar.Pair(
        clean=clean,
        corrupted=text(corrupted),
        counterfactual="greatest",
        answer=str(max(numbers)),
        foils=tuple(map(str, others)),
        contrast=(str(max(others)),),
        spans=tuple(spans),
        place=place,
    )


def _pairs(count: int, n: int, seed: int, split: str) -> list[instar.Pair]:
    rng, found = random.Random(f"{seed} {split}"), []
    while len(found) < n:
        # The answer's place is balanced: every place in turn.
        numbers, place = sorted(draw(rng, count)), len(found) % count
        if held_out(numbers) != (split == "test"):
            continue
        greatest = numbers.pop()
        rng.shuffle(numbers)
        # The corrupted prompt is on the same side: a test prompt, corrupted or not, is never trained on.
        lower = [x for x in range(max(1, max(numbers) - SPREAD), max(numbers)) if x not in numbers]
        lower = [x for x in lower if held_out([*numbers, x]) == (split == "test")]
        if not lower:
            continue
        found.append(_pair([*numbers[:place], greatest, *numbers[place:]], place, rng.choice(lower)))
    return found


def two(n: int, seed: int, split: str) -> list[instar.Pair]:
    """The greatest of two: what the model of `make_model.py` has mastered."""
    return _pairs(2, n, seed, split)


def three(n: int, seed: int, split: str) -> list[instar.Pair]:
    """The greatest of three: what it has never seen."""
    return _pairs(3, n, seed, split)
