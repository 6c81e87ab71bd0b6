"""N-object IOI in free wording as a task: every counterfactual of `instar.tasks.library`, built from the prompt itself.

1. `read_ioi` finds who is introduced, who gives and where every mention stands. What it refuses is set aside with the
   reason; so are rows with another N than asked for (by default the commonest).
2. `giver{i}`: that giver becomes the answer. `answer`: every mention of the answer becomes a fresh name. `abc`: every mention
   becomes a fresh name of its own.
3. Fresh names are names of the file (and of the library, where these are few) that the tokenizer keeps whole and that the
   prompt does not hold, drawn by a generator seeded with the data's seed and the row's number. A name of several tokens is
   replaced by one of as many, where the file has another.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from instar.tasks.freetext import Reading, UnparsableError, read_ioi
from instar.tasks.pair import Pair, Span, usable_words, word_ids
from instar.tasks.ready import Entry, PairSource, Rejected, from_entries
from instar.tasks.rows import DataRow
from instar.tasks.words import TEST_NAMES, TRAIN_NAMES

SHARED_WORDING = 5
"""A wording that fewer rows have is not told apart: nothing could be said of it."""
ITS_OWN = "a wording of its own"
ENOUGH = 20
"""With fewer names in the file the library's are drawn from too."""


def written_ioi(
    path: Path, name: str, rows: Sequence[DataRow], n: int | None = None, holdout: float | None = None, seed: int = 0
) -> PairSource:
    """The task of a file of IOI prompts and answers.

    Raises:
        ValueError: where no row can be read, or for an N that instar has no IOI of.
    """
    readings, rejected = _read(rows)
    sizes = Counter(len(r.introduced) for r in readings.values())
    if not sizes:
        raise ValueError(
            f"{path}: none of {len(rows)} rows can be read as N-object IOI. The first: {rejected[0].reason} in "
            f"{rejected[0].prompt!r}. For another task give corrupted prompts too, or a rule in a Python file "
            "(docs/own-data.md)"
        )
    n = sizes.most_common(1)[0][0] if n is None else n
    if not 2 <= n <= 5 or n not in sizes:
        raise ValueError(
            f"{path}: rows with {sorted(sizes)} introduced names, expected {n if 2 <= n <= 5 else '2 to 5'}"
        )
    entries = []
    for index, row in enumerate(rows):
        found = len(readings[index].introduced) if index in readings else n
        if found != n:
            reason = f"{found} introduced names, {name} has {n}"
            rejected.append(Rejected(row.number, reason, row.prompt, "another number of introduced names", row.split))
        elif index in readings:
            entries.append(Entry(row.number, row.prompt, (), row.split, index, row.notes))
    templates = {e.index: _template(e.prompt, readings[e.index].mentions) for e in entries}
    often = Counter(templates.values())
    wordings = {index: t if often[t] >= SHARED_WORDING else ITS_OWN for index, t in templates.items()}
    names = dict.fromkeys(person for e in entries for person in readings[e.index].introduced)

    def expand(entries: Sequence[Entry], tokenizer: Any) -> list[Entry]:
        fresh = _Fresh(tuple(names), tokenizer)
        made = {e.index: _pairs(e, readings[e.index], wordings[e.index], fresh, seed) for e in entries}
        between = {e.index: rows[e.index].between for e in entries}
        return [
            replace(e, pairs=tuple(replace(pair, between=between[e.index]) for pair in made[e.index])) for e in entries
        ]

    return from_entries(name, entries, rejected, holdout, seed, expand)


def _read(rows: Sequence[DataRow]) -> tuple[dict[int, Reading], list[Rejected]]:
    """What was read, by the number among the rows, and what was not."""
    readings, rejected = {}, []
    for index, row in enumerate(rows):
        try:
            readings[index] = read_ioi(row.prompt, row.answer)
        except UnparsableError as reason:
            # The names are the row's own; what is left of the reason can be counted.
            kind = re.sub(r"\[.*?\]|'[^']*'|\"[^\"]*\"", "…", str(reason))
            rejected.append(Rejected(row.number, str(reason), row.prompt, kind, row.split))
    return readings, rejected


def _pairs(entry: Entry, reading: Reading, wording: str, fresh: "_Fresh", seed: int) -> tuple[Pair, ...]:
    """The row with each of its counterfactuals."""
    prompt, mentions = entry.prompt, reading.mentions
    answer = reading.introduced[reading.place]
    foils = tuple(name for name in reading.introduced if name != answer)
    own = [m for m in mentions if prompt[m.start : m.stop] == answer]
    drawn = fresh.draw(prompt, [own, *([m] for m in mentions)], random.Random(f"{seed} {entry.index}"))
    changes: dict[str, tuple[Mapping[Span, str], tuple[str, ...]]] = {
        m.slot: ({m: answer}, (prompt[m.start : m.stop],))
        for m in sorted(mentions, key=lambda m: m.slot)
        if m.slot.startswith("giver")
    }
    changes["answer"] = dict.fromkeys(own, drawn[0]), (drawn[0],)
    changes["abc"] = dict(zip(mentions, drawn[1:], strict=True)), foils
    return tuple(
        Pair(prompt, _replaced(prompt, change), kind, answer, foils, right, mentions, reading.place, wording)
        for kind, (change, right) in changes.items()
    )


def _replaced(prompt: str, change: Mapping[Span, str]) -> str:
    for span in sorted(change, key=lambda s: -s.start):
        prompt = prompt[: span.start] + change[span] + prompt[span.stop :]
    return prompt


def _template(prompt: str, mentions: Sequence[Span]) -> str:
    return _replaced(prompt, {m: f"{{{m.slot}}}" for m in mentions})


class _Fresh:
    """Names to put in the place of others."""

    def __init__(self, names: tuple[str, ...], tokenizer: Any):
        self.tokenizer = tokenizer
        pools = names, TRAIN_NAMES + TEST_NAMES
        own, library = (pool if tokenizer is None else usable_words(tokenizer, pool)[0] for pool in pools)
        self.names = own if len(own) >= ENOUGH else tuple(dict.fromkeys([*own, *library]))
        self.longer = tuple(name for name in names if name not in {*own})
        """The file's names of several tokens, to take each other's place."""
        self._sizes: dict[tuple[str, bool], int] = {}

    def draw(self, prompt: str, mentions: Sequence[Sequence[Span]], rng: random.Random) -> list[str]:
        """A name for each group of mentions, all different and none of them in the prompt."""
        present = set(re.findall(r"\w+", prompt))
        spare, longer = ([name for name in pool if name not in present] for pool in (self.names, self.longer))
        rng.shuffle(spare)
        if len(spare) + len(longer) < len(mentions):
            raise ValueError(
                f"{len(mentions)} fresh names are needed for {prompt!r}, and the file and the library have {len(spare)}"
            )
        drawn = []
        for group in mentions:
            # Without a space before it ("Mary and John …" opens the text) a name may be of other tokens.
            texts = [(prompt[m.start : m.stop], prompt[m.start - 1 : m.start] == " ") for m in group]
            sizes = {(spaced, self._size(name, spaced)) for name, spaced in texts}
            fits = (n for n in chain(spare, longer) if all(self._size(n, spaced) == size for spaced, size in sizes))
            drawn.append(next(fits, [*longer, *spare][-1]))
            (spare if drawn[-1] in spare else longer).remove(drawn[-1])
        return drawn

    def _size(self, name: str, spaced: bool) -> int:
        """How many tokens a name is, after a space or without one."""
        if (name, spaced) not in self._sizes:
            ids: list[int] = []
            if self.tokenizer is not None:
                own = self.tokenizer
                ids = word_ids(own, name) if spaced else own(name, add_special_tokens=False)["input_ids"]
            self._sizes[name, spaced] = len(ids)
        return self._sizes[name, spaced]
