"""Reading IOI in free wording: what is read is right, and what could be read in two ways is refused for a right reason.

The sentences and their judgement are in free_wording.txt.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.tasks.freetext import UnparsableError, read_ioi
from instar.tasks.library import ioi
from instar.tasks.words import TEST_NAMES, TRAIN_NAMES


class Judged(NamedTuple):
    """A line of the corpus."""

    prompt: str
    answer: str
    introduced: tuple[str, ...] = ()
    givers: tuple[str, ...] = ()
    reason: str = ""


def corpus() -> Iterator[Judged]:
    for line in (Path(__file__).parent / "free_wording.txt").read_text(encoding="utf-8").splitlines():
        if line and line[0] in "+-":
            prompt, second, third = (cell.strip() for cell in line[1:].split(" | "))
            if line[0] == "+":
                (answer,) = (name[:-1] for name in second.split() if name.endswith("*"))
                yield Judged(prompt, answer, tuple(second.replace("*", "").split()), tuple(third.split()))
            else:
                assert third, line
                yield Judged(prompt, second, reason=third)


READ = [row for row in corpus() if not row.reason]
REFUSED = [row for row in corpus() if row.reason]


def refusal(prompt: str, answer: str) -> str:
    with pytest.raises(UnparsableError) as caught:
        read_ioi(prompt, answer)
    return str(caught.value)


def test_the_corpus_is_whole():
    assert len(READ) > 200 and len(REFUSED) > 150
    assert len({(row.prompt, row.answer) for row in corpus()}) == len(READ) + len(REFUSED)


@pytest.mark.parametrize("row", READ, ids=lambda row: row.prompt)
def test_free_wording_is_read(row):
    reading = read_ioi(row.prompt, row.answer)
    assert (reading.introduced, reading.givers) == (row.introduced, row.givers)
    assert row.introduced[reading.place] == row.answer
    by_slot = {s.slot: row.prompt[s.start : s.stop] for s in reading.mentions}
    assert [by_slot[f"intro{i}"] for i in range(1, len(row.introduced) + 1)] == list(row.introduced)
    assert [by_slot[f"giver{i}"] for i in range(1, len(row.introduced))] == list(row.givers)


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.prompt)
def test_what_is_not_sure_has_its_reason(row):
    reason = refusal(row.prompt, row.answer)
    assert row.reason in reason and len(reason) < 200


def accepts(prompt: str, answer: str) -> bool:
    try:
        read_ioi(prompt, answer)
    except UnparsableError:
        return False
    return True


def test_no_prompt_has_two_right_answers():
    for row in corpus():
        words = dict.fromkeys(re.findall(r"[A-Z][\w-]*|\w+$", row.prompt))
        right = [word for word in words if accepts(row.prompt, word)]
        assert len(right) <= 1, (row.prompt, right)
        if not row.reason:
            assert "not named" in refusal(row.prompt, row.answer + "e")


def test_a_whole_sentence_is_refused():
    for row in READ:
        for end in (".", " " + row.answer + ".", "?", '."', "..."):
            assert "whole sentence" in refusal(row.prompt + end, row.answer)


@given(row=st.sampled_from(READ), data=st.data())
@settings(max_examples=300, deadline=None)
def test_other_names_give_the_same_structure(row, data):
    reading = read_ioi(row.prompt, row.answer)
    free = [
        name
        for name in (*TRAIN_NAMES, *TEST_NAMES, "Zorg", "Mei-Ling", "O'Neil", "Zoë", "Paris", "May", "Grace")
        if name not in row.prompt
    ]
    fresh = data.draw(st.lists(st.sampled_from(free), min_size=5, max_size=5, unique=True))
    new = dict(zip(row.introduced, fresh, strict=False))
    prompt, end = "", 0
    for m in reading.mentions:
        prompt += row.prompt[end : m.start] + new[row.prompt[m.start : m.stop]]
        end = m.stop
    other = read_ioi(prompt + row.prompt[end:], new[row.answer])
    assert other.introduced == tuple(new[name] for name in row.introduced)
    assert other.givers == tuple(new[name] for name in row.givers) and other.place == reading.place
    assert [m.slot for m in other.mentions] == [m.slot for m in reading.mentions]


@given(row=st.sampled_from(READ), blanks=st.text(" \n\t", max_size=3), between=st.sampled_from(" \n\t"))
@settings(max_examples=200, deadline=None)
def test_white_space_does_not_matter(row, blanks, between):
    prompt = blanks + row.prompt.replace(" ", between) + blanks
    reading, plain = read_ioi(prompt, row.answer), read_ioi(row.prompt, row.answer)
    assert (reading.introduced, reading.givers) == (plain.introduced, plain.givers)
    assert [(m.slot, m.start - len(blanks)) for m in reading.mentions] == [(m.slot, m.start) for m in plain.mentions]


PIECES = (
    *TRAIN_NAMES[:8], "Zorg", "A", "B", "In", "The", "the", "a", ",", ",", ", ", " ", " and ", ", and ", " or ", " (", ") ",
    "'s ", "’", ".", "; ", " with ", " who saw ", " so the man gave ", ", the owner, ", "only both ", "to", " was x" * 20,
)  # fmt: skip


@given(pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=1000), answer=st.sampled_from(TRAIN_NAMES[:8]))
@settings(max_examples=60, deadline=None)
def test_reading_ends_whatever_the_text(pieces, answer):
    prompt = ("".join(pieces)[:2000] + " to").lstrip()
    if accepts(prompt, answer):
        reading = read_ioi(prompt, answer)
        assert answer in reading.introduced and answer not in reading.givers
        assert all(prompt[m.start : m.stop] in reading.introduced for m in reading.mentions)
    else:
        assert refusal(prompt, answer)


@pytest.mark.parametrize(
    "piece", ["A", "Ab ", "Ab, ", "Ab and ", "A' ", "Ab, the b, ", "Ab (b) ", " only", ", a" * 10, "so a b "]
)
def test_reading_ends_on_text_that_repeats_itself(piece):
    for answer in ("Ab", "A"):
        refusal((piece * 2000)[:20_000] + " to", answer)


def test_every_mention_is_a_slot():
    prompt = "John's dog ran. John, Mary and Jim saw it. Mary fed it. Jim and Mary gave a bone to"
    slots = [(s.slot, prompt[s.start : s.stop]) for s in read_ioi(prompt, "John").mentions]
    assert slots == [
        ("other1", "John"), ("intro1", "John"), ("intro2", "Mary"), ("intro3", "Jim"), ("other2", "Mary"),
        ("giver1", "Jim"), ("giver2", "Mary"),
    ]  # fmt: skip


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_the_librarys_prompts_are_read_as_they_were_made(n):
    for pair in [*ioi(n).pairs(120, seed=5), *ioi(n).pairs(120, seed=5, split="train")]:
        made = tuple(s for s in pair.spans if s.slot.startswith(("intro", "giver")))
        reading = read_ioi(pair.clean, pair.answer)
        assert reading.mentions == made and reading.place == pair.place
