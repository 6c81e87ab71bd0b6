"""The embedded models' vocabulary, and marked stories as rows of its tokens.

Every word of the corpus is one token with its leading space, as in GPT-2's. Any other word is spelled byte by byte, so a name
that the models have never seen is several tokens, which `Task.fit` refuses by name.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from instar.models.organism.corpus import DECIDED, GIVER, NAMES, Shares, marked, stories
from instar.tasks.library import TASKS
from instar.tasks.words import OBJECTS, PLACES

END_OF_TEXT = "<|endoftext|>"
TELLING = 6000
"""Stories that are read for words: every kind of sentence comes hundreds of times."""
_PIECE = re.compile(r" ?\w+|[^\w\s]")
_MARKED = re.compile(r" ?[\^*]| ?\w+|[^\w\s]")


def words() -> list[str]:
    """The words of the corpus and of the library's tasks, with their leading space, and its marks."""
    read = {piece for story in islice(stories(0), TELLING) for piece in _PIECE.findall(" ".join(story))}
    examples = (
        f" {text}" for task in TASKS.values() for pair in task.pairs(100) for text in (pair.clean, pair.corrupted)
    )
    read |= {piece for text in examples for piece in _PIECE.findall(text)}
    scenery = {f" {word}" for phrase in OBJECTS + PLACES for word in phrase.split()}
    return sorted(read | scenery | {form for name in NAMES for form in (name, f" {name}")})


def vocabulary(positions: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer in which every word of the corpus is whole."""
    whole = [word.replace(" ", "Ġ") for word in words()]
    table = {
        token: i
        for i, token in enumerate(dict.fromkeys((END_OF_TEXT, *sorted(pre_tokenizers.ByteLevel.alphabet()), *whole)))
    }
    tokenizer = Tokenizer(models.BPE(vocab=table, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, model_max_length=positions
    )


def names_in(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens that are names."""
    table = tokenizer.get_vocab()
    return [table[form] for name in NAMES for form in (name, f"Ġ{name}")]


class Rows(NamedTuple):
    """Some stories as tokens."""

    ids: Int[Tensor, "row pos"]
    """Each ended by end-of-text and padded with −1."""
    decided: Float[Tensor, "row pos"]
    """1 at the names that the text before them decides."""
    gifts: Int[Tensor, "gift 5"]
    """For each decided gift: row, last token before the receiver, the giver, the giver's mention before, the receiver's."""


def rows(table: dict[str, int], seed: int, size: int, positions: int, shares: Shares) -> Iterator[Rows]:
    """Batches of `size` stories without end."""
    source, end = marked(seed, shares), table[END_OF_TEXT]
    while True:
        read = [_read(" ".join(next(source)), positions - 1) for _ in range(size)]
        longest = 1 + max(len(pieces) for pieces, _, _ in read)
        ids = [[*(table[piece.replace(" ", "Ġ")] for piece in pieces), end] for pieces, _, _ in read]
        yield Rows(
            torch.tensor([row + [-1] * (longest - len(row)) for row in ids]),
            torch.tensor([[float(i in decided) for i in range(longest)] for _, decided, _ in read]),
            torch.tensor([[i, *gift] for i, (_, _, gifts) in enumerate(read) for gift in gifts]).reshape(-1, 5),
        )


def _read(text: str, most: int) -> tuple[list[str], set[int], list[tuple[int, int, int, int]]]:
    """A marked story's pieces, where its decided names are, and its gifts; no more than `most` pieces."""
    pieces: list[str] = []
    decided: set[int] = set()
    gifts: list[tuple[int, int, int, int]] = []
    giver, spaced, mark = None, "", ""
    for piece in _MARKED.findall(text):
        if piece.strip() in (GIVER, DECIDED):
            mark, spaced = piece.strip(), " " if piece.startswith(" ") else ""
            continue
        here, piece, spaced = len(pieces), spaced + piece, ""
        if here == most:
            break
        if mark == GIVER:
            giver = here
        elif mark == DECIDED:
            decided.add(here)
            before = [_last(pieces, pieces[giver], giver), _last(pieces, piece, here)] if giver is not None else [None]
            if None not in before:
                gifts.append((here - 1, giver, *before))  # type: ignore[arg-type]
            giver = None
        mark = ""
        pieces.append(piece)
    return pieces, decided, gifts


def _last(pieces: list[str], word: str, before: int) -> int | None:
    """Where a word stood last, with or without its space."""
    return next((i for i in range(before - 1, -1, -1) if pieces[i].strip() == word.strip()), None)
