"""The embedded models' vocabulary: words are whole, other words are spelled, and rows say where the gifts are."""

from itertools import islice

import pytest

import instar
from instar.models.organism.corpus import NAMES, Shares, marked, stories
from instar.models.organism.vocabulary import names_in, rows, vocabulary
from instar.tasks.library import TASKS


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary(96)


def test_every_word_of_the_text_is_one_token(tokenizer):
    for story in islice(stories(21), 1000):
        text = " ".join(story)
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == sum(len(word) > 0 for word in text.replace(".", " .").replace(",", " ,").split())
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", TASKS)
def test_every_word_of_the_library_is_one_token(tokenizer, name):
    for pair in TASKS[name].fit(tokenizer).pairs(50):
        words = pair.clean.replace(".", " .").replace(",", " ,").split()
        assert len(tokenizer(pair.clean)["input_ids"]) == len(words)


def test_an_unknown_name_is_spelled_and_refused(tokenizer):
    assert len(tokenizer(" Zaphod")["input_ids"]) > 5
    from dataclasses import replace

    known = TASKS["ioi2"]
    strange = replace(known, names={split: (*names, "Zaphod") for split, names in known.names.items()})
    fitted = strange.fit(tokenizer)
    assert all("Zaphod" not in names for names in fitted.names.values())
    assert fitted.left_out == {"train": ("Zaphod",), "test": ("Zaphod",)}


def test_any_text_can_be_read_and_comes_back(tokenizer):
    text = "Jürgen’s 12 cafés\n\tcost 3€ — “so what?”"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_rows_are_what_the_tokenizer_makes_of_the_stories(tokenizer):
    source = rows(tokenizer.get_vocab(), 9, 1, 40, Shares())
    for story in islice(stories(9), 400):
        told = next(source)
        assert told.ids[0].tolist() == [*tokenizer(" ".join(story))["input_ids"][:39], tokenizer.eos_token_id]
        assert told.decided.shape == told.ids.shape


def test_places_of_gifts(tokenizer):
    """Read back from the text: who gives, who gets, and where both were named last."""
    source, words = rows(tokenizer.get_vocab(), 4, 1, 96, Shares()), tokenizer.convert_ids_to_tokens
    found = 0
    for story in islice(marked(4), 500):
        told = next(source)
        said = [token.replace("Ġ", "") for token in words(told.ids[0].tolist())]
        assert int(told.decided.sum()) == sum("*" in s for s in story) or len(said) == 96
        for _, end, giver, before, receiver in told.gifts.tolist():
            got = said[end + 1]
            assert said[giver] == said[before] != got == said[receiver]
            assert got not in said[receiver + 1 : end + 1] and said[giver] not in said[before + 1 : giver]
            assert told.decided[0, end + 1] == 1
            found += 1
    assert found > 500


def test_the_embedded_tokenizers_are_this_one(tokenizer):
    for name in ("embedded", "embedded-llama"):
        assert instar.load(name).tokenizer.get_vocab() == tokenizer.get_vocab()
    assert len(set(names_in(tokenizer))) == 2 * len(NAMES)
