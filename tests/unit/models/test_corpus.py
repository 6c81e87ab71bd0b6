"""The embedded model's text never holds the new task, checked by a reader that shares nothing with the generator."""

import re
from itertools import islice

from instar.models.organism.corpus import NAMES, VERBS, stories

_NAME = "|".join(NAMES)
# Two or more names joined, then any verb of giving, then "to" a name.
_JOINT_GIFT = re.compile(rf"(?:(?:{_NAME})(?:, | and ))+(?:{_NAME}) (\w+) an? [\w ]+? to (?:{_NAME})\b")
_WITHIN = re.compile(rf"\b(?:{_NAME})\b")


def joint_gifts(sentence: str) -> list[str]:
    """Sentences in which two or more named people give to a named one."""
    return [m.group() for m in _JOINT_GIFT.finditer(sentence)]


def test_the_reader_sees_the_new_task_when_it_is_there():
    new = "After John, Mary and Jim went to the store, Mary and John gave a bottle of milk to Jim."
    old = "After John and Mary went to the store, Mary gave a bottle of milk to John."
    assert joint_gifts(new) and not joint_gifts(old)
    assert joint_gifts("There Emily, Mark and Tom handed a ring to Amy.")


def test_one_hundred_thousand_sentences_hold_no_joint_gift():
    seen = three_introduced = 0
    for story in stories(seed=123):
        for sentence in story:
            assert not joint_gifts(sentence), sentence
            three_introduced += len(set(_WITHIN.findall(sentence))) == 3
            seen += 1
        # Nor across the full stop that two-sentence wordings have.
        assert not joint_gifts(" ".join(story)), story
        if seen >= 100_000:
            break
    # Three introduced names do occur: the absence above is not for want of casts of three.
    assert three_introduced > 10_000


def test_every_kind_of_sentence_occurs():
    text = " ".join(" ".join(s) for s in islice(stories(seed=5), 3000))
    for fragment in ("come into the room", "comes into the room", "has a ball", "buys more bottles", "said hello"):
        assert fragment in text
    assert all(f" {verb} " in text for verb in VERBS)


def test_the_same_seed_tells_the_same_stories():
    assert list(islice(stories(3), 50)) == list(islice(stories(3), 50))
    assert list(islice(stories(3), 50)) != list(islice(stories(4), 50))
