"""What gets answers right without any circuit: four rules, learnt on training rows and applied to the pairs tested on.

Where the candidates of a prompt are its answer and foils, the rules always say

1. `chance`: any of the candidates;
2. `commonest answer`: the word that was the answer most often in training;
3. `best place`: the candidate that the prompt introduces at the place that was right most often in training;
4. `best name prior`: of the prompt's candidates, the one that was the answer most often in training.

Rule 3 needs prompts that name all their candidates. What a rule cannot tell apart (candidates that were right equally
often, a prompt without places) it guesses, and scores that guess's expectation, so chance has no error. Equally common words
and places are told apart by the alphabet and by order: no rule depends on the order of rows.

The best is the one that does best on the *training* rows, each row told by the others only (a name seen once would be "right"
whenever it comes back to itself): never the one that happens to do best on what is tested.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from instar.tasks.freetext import UnparsableError, read_ioi
from instar.tasks.pair import Pair, normalised
from instar.tasks.rows import DataRow
from instar.tasks.task import Task

GUESS, WORD, PLACE, NAME = "chance", "commonest answer", "best place", "best name prior"


@dataclass(frozen=True)
class Asked:
    """A prompt, as far as a rule without a circuit sees it."""

    answer: str
    candidates: frozenset[str] = frozenset()
    """The answer among them; none where they are not known."""
    place: int | None = None
    """The answer's among the candidates as the prompt introduces them, from 0; None: it does not name them all."""


@dataclass(frozen=True)
class Baseline:
    """One rule, and how it does."""

    kind: str
    says: str
    """What it always says, in words."""
    right: tuple[float, ...]
    """Of every pair tested on: 1, 0, or the expectation of a guess."""
    rows: int
    """Rows that it was learnt on; 0: none were needed."""
    learnt_on: str
    """What rows these are."""
    best: bool = False
    """Whether it does best on these rows."""


def of_pair(pair: Pair) -> Asked:
    """What is asked of a pair."""
    candidates = frozenset((pair.answer, *pair.foils))
    at = {word: _mention(word, pair.clean) for word in candidates}
    named = {word: start for word, start in at.items() if start is not None}
    place = sum(start < named[pair.answer] for start in named.values()) if len(named) == len(candidates) else None
    return Asked(pair.answer, candidates, place)


def of_row(row: DataRow, ioi: bool) -> Asked:
    """What is asked of a row that has no foils: where it is N-object IOI that can be read, the other introduced names."""
    if ioi:
        try:
            names = read_ioi(row.prompt, row.answer).introduced
        except UnparsableError:
            return Asked(row.answer)
        return of_pair(Pair(row.prompt, "", "", row.answer, tuple(n for n in names if n != row.answer)))
    return Asked(row.answer)


def of_task(task: Task, test: Sequence[Pair], count: int, seed: int) -> list[Baseline]:
    """Baselines learnt on `count` of the task's own training rows, without those tested on; chance where there are none."""
    try:
        pairs = task.training(count, seed)
    except ValueError:
        pairs = []
    tested = {normalised(pair.clean) for pair in test}
    rows = [of_pair(pair) for pair in pairs if normalised(pair.clean) not in tested]
    return baselines(rows, test, "of the task's own training rows")


def baselines(training: Sequence[Asked], test: Sequence[Pair], learnt_on: str) -> list[Baseline]:
    """Every rule that can be learnt on these rows: chance alone where there are none.

    Args:
        learnt_on: what the training rows are, in words.
    """
    tests = [of_pair(pair) for pair in test]
    known = [row for row in training if row.candidates]
    found = [Baseline(GUESS, "any candidate", tuple(map(_guess, tests)), 0, learnt_on)]
    # Where no row's candidates are known, chance is what it is on what is tested: there is nothing to learn about it.
    learnt = [_mean([_guess(row) for row in known or tests])]
    for kind, (vote, score) in _RULES.items():
        votes = Counter(own for row in training if (own := vote(row)) is not None)
        if not votes or (kind == PLACE and all(a.place is None for a in tests)):
            continue
        most = _most(votes)
        right = tuple(score(votes, most, a) for a in tests)
        found.append(Baseline(kind, _said(kind, most), right, votes.total(), learnt_on))
        told = known or (training if kind == WORD else [])
        learnt.append(_mean(_left_out(votes, [(vote(row), row) for row in told], score)))
    best = learnt.index(max(learnt))
    return [replace(one, best=i == best) for i, one in enumerate(found)]


def _left_out(votes: Counter, rows: Sequence[tuple[Hashable, Asked]], score: "_Score") -> list[float]:
    """Each row by a rule that has not counted it."""
    most, scores = _most(votes), []
    # Without a row of another word the commonest stays what it is.
    fewer = _most(votes - Counter([most]))
    for own, row in rows:
        votes[own] -= 1
        scores.append(score(votes, fewer if own == most else most, row))
        votes[own] += 1
    return scores


def _mention(word: str, prompt: str) -> int | None:
    found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt)
    return None if found is None else found.start()


def _most(votes: Counter) -> Hashable:
    """The most frequent, the first in order of those equally frequent; None of nothing."""
    return min(votes, key=lambda key: (-votes[key], key), default=None)


def _guess(asked: Asked) -> float:
    return 1 / len(asked.candidates) if asked.candidates else 0.0


def _word(votes: Counter, most: Hashable, asked: Asked) -> float:
    return float(asked.answer == most)


def _place(votes: Counter, most: Hashable, asked: Asked) -> float:
    return _guess(asked) if None in (asked.place, most) else float(asked.place == most)


def _name(votes: Counter, most: Hashable, asked: Asked) -> float:
    top = max(votes[word] for word in asked.candidates)
    return (votes[asked.answer] == top) / sum(votes[word] == top for word in asked.candidates)


_Score = Callable[[Counter, Hashable, Asked], float]
_RULES: dict[str, tuple[Callable[[Asked], Hashable], _Score]] = {
    WORD: (lambda row: row.answer, _word),
    PLACE: (lambda row: row.place, _place),
    NAME: (lambda row: row.answer, _name),
}
"""What of a row is counted, and how right the rule is by these counts and the most frequent of them."""


def _said(kind: str, most: Hashable) -> str:
    if kind == NAME:
        return "the candidate most often right in training"
    return f"place {int(str(most)) + 1}" if kind == PLACE else str(most)


def _mean(values: Sequence[float]) -> float:
    # Rounded once: rules that do as well in any order of rows are told to.
    return math.fsum(values) / len(values) if values else 0.0
