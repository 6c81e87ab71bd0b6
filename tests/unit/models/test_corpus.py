"""The embedded models' text never holds the new task, checked by a reader that shares nothing with the generator."""

import re
from itertools import islice

import pytest

from instar.models.organism.corpus import NAMES, VERBS, marked, stories, unmarked
from instar.models.organism.recipe import RECIPES

_NAME = "|".join(NAMES)
# Two or more names joined, then any verb of giving, then "to" a name.
_JOINT_GIFT = re.compile(rf"\b(?:(?:{_NAME})(?:, | and ))+(?:{_NAME}) (\w+) an? [\w ]+? to (?:{_NAME})\b")
_WITHIN = re.compile(rf"\b(?:{_NAME})\b")


def joint_gifts(sentence: str) -> list[str]:
    """Sentences in which two or more named people give to a named one."""
    return [m.group() for m in _JOINT_GIFT.finditer(sentence)]


def test_the_reader_sees_the_new_task_when_it_is_there():
    new = "After John, Mary and Jim went to the store, Mary and John gave a bottle of milk to Jim."
    old = "After John and Mary went to the store, Mary gave a bottle of milk to John."
    assert joint_gifts(new) and not joint_gifts(old)
    assert joint_gifts("There Emily, Mark and Tom handed a ring to Amy.")


@pytest.mark.parametrize("family", RECIPES)
def test_one_hundred_thousand_sentences_hold_no_joint_gift(family):
    seen = three_introduced = 0
    for story in stories(123, RECIPES[family].shares):
        for sentence in story:
            assert not joint_gifts(sentence), sentence
            three_introduced += len(set(_WITHIN.findall(sentence))) == 3
            seen += 1
        # Nor across the full stop that two-sentence wordings have.
        assert not joint_gifts(" ".join(story)), story
        if seen >= 100_000:
            break
    # Three introduced names do occur: the absence above is not for want of casts of three.
    assert three_introduced > 5_000


@pytest.mark.parametrize("family", RECIPES)
def test_every_kind_of_sentence_occurs(family):
    text = " ".join(" ".join(s) for s in islice(stories(5, RECIPES[family].shares), 3000))
    for fragment in ("come into the room", "comes into the room", "has a ball", "buys more bottles", "was happy"):
        assert fragment in text
    assert all(f" {verb} " in text for verb in VERBS)


def test_the_same_seed_tells_the_same_stories():
    assert list(islice(stories(3), 50)) == list(islice(stories(3), 50))
    assert list(islice(stories(3), 50)) != list(islice(stories(4), 50))


def test_a_marked_giver_is_no_receiver_and_a_decided_name_was_mentioned():
    for story in islice(marked(11), 2000):
        before = ""
        for sentence in story:
            givers, decided = re.findall(r"\^(\w+)", sentence), re.findall(r"\* (\w+)", sentence)
            text = unmarked(sentence)
            if decided:
                (receiver,) = decided
                head = before + text[: text.rindex(receiver)]
                assert re.search(rf"\b{receiver}\b", head), story
                assert givers != [receiver]
            before += text + " "


def test_invented_names_are_nobody_s():
    assert len(NAMES) == len({name.lower() for name in NAMES}) == 200
