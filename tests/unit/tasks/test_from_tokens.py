"""Token ids as they come in: every wrong shape and row is one sentence, every right one the same batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from instar.tasks.batch import Batch, tokenize
from instar.tasks.pair import Pair

CLEAN, CORRUPTED = [[5, 6, 7], [8, 9, 10]], [[5, 4, 7], [8, 3, 10]]
ANSWER, FOILS = [20, 21], [[30, 31], [32, -1]]


def test_tensors_arrays_and_lists_are_one_batch():
    made = [
        Batch.from_tokens(*(kind(x) for x in (CLEAN, CORRUPTED, ANSWER, FOILS)))
        for kind in (
            torch.tensor,
            np.array,
            lambda x: x,
            lambda x: np.array(x, np.int32),
            lambda x: torch.tensor(x).short(),
        )
    ]
    for batch in made[1:]:
        assert all(
            torch.equal(getattr(batch, f), getattr(made[0], f)) for f in ("clean", "mask", "answer", "foils", "end")
        )
    assert made[0].foils.tolist() == FOILS and made[0].clean.dtype == torch.int64


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ({"foils": [30]}, r"foils is \[1, 1\], expected \[2, foil\] or \[2\]"),
        ({"foils": [[30, 31]] * 3}, r"foils is \[3, 2\]"),
        ({"answer": [[20], [21]]}, r"answer is \[2, 1\], expected \[2\]: one token id a pair"),
        ({"clean": [5, 6, 7]}, r"clean is \[3\], expected \[pair, pos\]"),
        ({"corrupted": [[5, 4], [8, 3]]}, r"corrupted is \[2, 2\], expected \[2, 3\] as clean: align them"),
        ({"mask": [[1, 1], [1, 1]]}, r"mask is \[2, 2\], expected \[2, 3\]"),
        ({"mask": [[1, 1, 1], [0, 0, 0]]}, "row 1: mask leaves no token"),
        ({"clean": [[5, 6], [8, 9, 10]]}, "clean: expected token ids .* of equal length"),
        ({"clean": [[5.5, 6, 7], [8, 9, 10]]}, "clean: expected whole numbers, found float32"),
        ({"clean": "text"}, "clean: expected token ids"),
        ({"foils": [[20, 31], [32, -1]]}, "row 0: its answer is among its foils"),
        ({"foils": [[30, 31], [-1, -1]]}, "row 1: it has no foil"),
        ({"answer": [20, -4]}, "row 1: a token id is below 0"),
        ({"corrupted": [[5, 6, 7], [8, 3, 10]]}, "row 0: clean and corrupted are the same"),
    ],
)
def test_what_is_wrong_is_one_sentence(instead, said):
    right = {"clean": CLEAN, "corrupted": CORRUPTED, "answer": ANSWER, "foils": FOILS}
    with pytest.raises(ValueError, match=said) as error:
        Batch.from_tokens(**{**right, **instead})
    assert "\n" not in str(error.value)


@given(
    st.lists(st.lists(st.integers(-2, 9), max_size=4), max_size=4),
    st.sampled_from(["clean", "answer", "foils", "mask"]),
)
def test_whatever_is_given_is_a_batch_or_a_sentence(value, name):
    right = {"clean": CLEAN, "corrupted": CORRUPTED, "answer": ANSWER, "foils": FOILS}
    try:
        batch = Batch.from_tokens(**{**right, name: value})
    except ValueError:
        return
    assert len(batch.answer) == len(batch.foils) == len(batch) and batch.clean.shape == batch.mask.shape
    assert not bool((batch.foils == batch.answer[:, None]).any()) and int(batch.clean.min()) >= 0


def test_a_tokenizer_that_knows_no_places_is_named():
    pair = Pair("2 or 3: a", "2 or 3: b", "letter", "2", ("3",), between="")
    with pytest.raises(ValueError, match=r"this tokenizer \(ByT5Tokenizer\) cannot say where"):
        tokenize([pair], ByT5Tokenizer())


def test_one_pair_and_iteration():
    batch = Batch.from_tokens(CLEAN, CORRUPTED, ANSWER, FOILS, [[0, 1, 1], [1, 1, 1]])
    assert batch[0].clean.tolist() == [[6, 7]] and batch[-1].answer.tolist() == [21]
    assert [int(one.answer) for one in batch] == ANSWER
    with pytest.raises(IndexError, match="pair 2 of 2"):
        batch[2]
    # What stands on padding need not be a token.
    padded = Batch.from_tokens([[5, 6, -100]], [[5, 4, -100]], [20], [30], [[1, 1, 0]])
    assert padded.clean.tolist() == [[5, 6, 0]]
