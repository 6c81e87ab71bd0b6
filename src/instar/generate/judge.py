"""Which rows count: the audit's rules, held-out names, near-duplicates, and quotas that keep the data balanced.

A row is judged on its own merits, whether it keeps to its plan or not, in this order:

1. text of a sane length and of plain characters (no control, escape or invisible ones); a one-word answer; an end where
   a name follows; no held-out name;
2. readable as N-object IOI (`instar.tasks.freetext`, the audit's reader) with N introduced names and the answer not
   among the givers;
3. no prompt twice, also in other spelling; no near-duplicate: the Jaccard index of two prompts' runs of three words, names
   kept, is below `NEAR`. In twenty words another object gives 0.71, one other name (which stands twice) 0.5: the same
   wording with other people is another prompt, the same people with another object is not;
4. quotas: the answer's places share the rows evenly, an answer has its even share of the names that are asked for, and
   one wording (names left out) is at most a twentieth of the rows.

The state is a function of the rows in their order, so a journal is replayed by judging its rows again.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from instar.generate.ask import Uses
from instar.tasks import words
from instar.tasks.freetext import Reading, UnparsableError, read_ioi
from instar.tasks.pair import normalised

NEAR = 0.7
WORDING_SHARE = 0.05
LONGEST = 600
"""Characters of a prompt."""
LONGEST_NAME = 30
ENDINGS = ("to", "for", "with")
_ALLOWED = re.compile(r"[\w ,.;:!?’'“”\"()–—-]*")
_NAME = re.compile(r"[^\W\d_][\w’'-]*")


@dataclass(frozen=True)
class Row:
    """An accepted row."""

    prompt: str
    answer: str


class RejectedError(ValueError):
    """A row that does not count: `kind: detail`."""


@dataclass
class Judge:
    """What is accepted so far, and why the rest is not."""

    people: int
    rows: int
    accepted: list[Row] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    uses: Uses = field(default_factory=Uses.none)
    _seen: set[str] = field(default_factory=set)
    _wordings: Counter[str] = field(default_factory=Counter)
    _sizes: list[int] = field(default_factory=list)
    _holders: dict[tuple[str, ...], list[int]] = field(default_factory=lambda: defaultdict(list))

    @property
    def missing(self) -> int:
        """Rows still to come."""
        return self.rows - len(self.accepted)

    def take(self, prompt: Any, answer: Any) -> str | None:
        """Accept a row, or say why not."""
        try:
            row = _plain(prompt, answer)
            reading = _reading(row, self.people)
            self._admit(row, reading)
        except RejectedError as reason:
            self.rejected[str(reason).partition(":")[0]] += 1
            return str(reason)
        return None

    def _admit(self, row: Row, reading: Reading) -> None:
        text = normalised(row.prompt)
        tokens = text.split()
        runs = set(zip(tokens, tokens[1:], tokens[2:], strict=False))
        names = {normalised(name) for name in reading.introduced}
        wording = " ".join("#" if token in names else token for token in tokens)
        if text in self._seen:
            raise RejectedError("duplicate")
        self._refuse_near(runs)
        self._refuse_excess(row, reading, wording)
        for run in runs:
            self._holders[run].append(len(self.accepted))
        self._sizes.append(len(runs))
        self._seen.add(text)
        self._wordings[wording] += 1
        self.uses.places[reading.place] += 1
        self.uses.answers[row.answer] += 1
        self.uses.introduced.update(reading.introduced)
        self.accepted.append(row)

    def _refuse_near(self, runs: set[tuple[str, ...]]) -> None:
        shared = Counter(i for run in runs for i in self._holders.get(run, ()))
        for i, common in shared.items():
            if common >= NEAR * (len(runs) + self._sizes[i] - common):
                raise RejectedError(f"near-duplicate: of accepted row {i + 1}")

    def _refuse_excess(self, row: Row, reading: Reading, wording: str) -> None:
        if not self.missing:
            raise RejectedError("not needed: all rows are there")
        even, extra = divmod(self.rows, self.people)
        used = self.uses.places[reading.place]
        full = sum(count > even for count in self.uses.places.values())
        # Whichever places come first may have the rows that do not divide.
        if used > even or (used == even and full >= extra):
            raise RejectedError(f"over quota: answer place {reading.place + 1}")
        if self.uses.answers[row.answer] >= math.ceil(self.rows / len(words.TRAIN_NAMES)):
            raise RejectedError(f"over quota: answer {row.answer!r}")
        if self._wordings[wording] >= max(2, math.ceil(WORDING_SHARE * self.rows)):
            raise RejectedError("over quota: one wording")


def _plain(prompt: Any, answer: Any) -> Row:
    """The row as it will be written, white space and the answer's full stop cut off."""
    if not isinstance(prompt, str) or not isinstance(answer, str):
        raise RejectedError(f"not text: prompt is {type(prompt).__name__}, answer is {type(answer).__name__}")
    if len(prompt) > LONGEST:
        raise RejectedError(f"too long: {len(prompt)} characters, at most {LONGEST}")
    prompt = unicodedata.normalize("NFC", prompt.strip(" \n"))
    answer = unicodedata.normalize("NFC", answer[: 2 * LONGEST].strip(" \n").rstrip(".!"))
    odd = next((c for c in prompt if not c.isprintable() or not _ALLOWED.fullmatch(c)), None)
    if odd is not None:
        raise RejectedError(f"odd character: {odd!a}")
    if not _NAME.fullmatch(answer) or not answer.isprintable() or len(answer) > LONGEST_NAME:
        raise RejectedError(f"answer is not one name: {answer[:50]!a}")
    for word in re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", f"{prompt} {answer}")):
        if word[0].isupper() and word.title() in words.TEST_NAMES:
            raise RejectedError(f"held-out name: {word.title()}")
    last = prompt.rpartition(" ")[2]
    if last.lower() not in ENDINGS:
        raise RejectedError(f"wrong end: {last[-50:]!a}, expected one of {', '.join(ENDINGS)}")
    return Row(prompt, answer)


def _reading(row: Row, people: int) -> Reading:
    try:
        reading = read_ioi(row.prompt, row.answer)
    except UnparsableError as reason:
        among = "is among the givers" in str(reason)
        raise RejectedError(f"{'answer among the givers' if among else 'not readable as IOI'}: {reason}") from None
    if len(reading.introduced) != people:
        raise RejectedError(f"wrong number of names: {len(reading.introduced)} introduced, expected {people}")
    return reading
