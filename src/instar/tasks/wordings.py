"""Which wordings the tasks of a run are restricted to (`tasks.wordings`): some by name, or those that the base answers.

*Answered* are the wordings on which the base names somebody at all: there its answers can be right or wrong.

1. Of each wording of both tasks, to train and to test on, `PAIRS` pairs are drawn, with a seed of their own.
2. A wording is answered if the base's likeliest next token is one of the pair's candidates in at least half of the prompts:
   it names somebody more often than not. Which one plays no part. `HALF` was fitted to no model. The share's interval stands
   beside it and decides nothing: a bound of 16 prompts would ask for three quarters, and what is kept by luck biases no
   number, for all of them are measured on other prompts.
3. A wording that both tasks have is kept where it is answered in both, so that tasks do not differ by their wordings. (So
   are wordings of a user's data that are trained and tested on.)
4. No pair that is trained, tested or measured on has a drawn prompt: tasks pass over them (`Task.restricted`).
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from instar.record.keys import digest
from instar.record.store import Store
from instar.stats.intervals import wilson
from instar.tasks.pair import Pair
from instar.tasks.task import Split, Task

PAIRS, HALF = 16, 0.5
FILE = "wordings.json"
SPLITS: tuple[Split, ...] = ("train", "test")
ASKED = f"{PAIRS} prompts"
RULE = (
    f"the likeliest next token is one of the candidates in at least half of {ASKED}, in every task that has the wording"
)


@dataclass(frozen=True)
class Answered:
    """One wording of one task, and how often the base names somebody there."""

    task: str
    split: Split
    wording: str
    pairs: int
    named: int
    share: float
    low: float
    high: float
    kept: bool

    def __str__(self) -> str:
        if not self.pairs:
            return f"too few prompts to spare any  {self.wording}"
        return f"{self.named} of {self.pairs}, {self.share:.0%} [{self.low:.0%}, {self.high:.0%}]  {self.wording}"


@dataclass(frozen=True)
class Chosen:
    """The wordings that were chosen, by whom, and on what."""

    rows: tuple[Answered, ...]
    prompts: tuple[str, ...]
    """What the choice was made on."""
    of: str
    """Hash of the prompts and of how they are framed."""
    weights: str
    """Hash of the base's."""

    def restrict(self, task: Task) -> Task:
        """The task in the wordings that are kept."""
        kept = [row.wording for row in self.rows if row.task == task.name and row.kept]
        return task.restricted(kept, self.prompts)

    @property
    def decides(self) -> list[Any]:
        """What of it decides the data."""
        return [sorted((r.task, r.split, r.wording) for r in self.rows if r.kept), self.of, self.weights]

    def write(self, store: Store) -> None:
        """Into `data/`."""
        rows = [asdict(row) for row in self.rows]
        found = {"rule": RULE, "of": self.of, "weights": self.weights, "wordings": rows, "prompts": list(self.prompts)}
        store.write_json(store.data(FILE), found)

    @classmethod
    def read(cls, store: Store) -> "Chosen | None":
        """What is there; None where nothing is."""
        if not store.data(FILE).exists():
            return None
        found = store.read_json(store.data(FILE))
        rows = tuple(Answered(**row) for row in found["wordings"])
        return cls(rows, tuple(found["prompts"]), found["of"], found["weights"])


@dataclass(frozen=True)
class Drawn:
    """Pairs of every wording, to choose on: by task, split and wording."""

    pairs: Mapping[str, Mapping[Split, Mapping[str, Sequence[Pair]]]]

    @classmethod
    def of(cls, tasks: Sequence[Task], seed: int) -> "Drawn":
        """Of both tasks, fitted to the tokenizer."""
        return cls({task.name: {s: _or_none(task, seed, s) for s in SPLITS} for task in tasks})

    def of_task(self, task: str) -> list[Pair]:
        """All of one task's, in their order."""
        return [pair for own in self.pairs[task].values() for pairs in own.values() for pair in pairs]

    def key(self, chat: str | None) -> str:
        """Hash of what the base is asked."""
        return digest([PAIRS, chat, *([task, *map(repr, self.of_task(task))] for task in self.pairs)])

    def chosen(self, named: Mapping[str, Sequence[int]], chat: str | None, weights: str) -> Chosen:
        """The choice, from whether somebody was named in each pair of `of_task`."""
        rows = [row for task in self.pairs for row in self._rows(task, list(named[task]))]
        told = [row for row in rows if row.pairs]
        kept = {row.wording for row in told} - {row.wording for row in told if not row.kept}
        rows = [replace(row, kept=row.wording in kept) for row in rows]
        prompts = dict.fromkeys(p.clean for task in self.pairs for p in self.of_task(task))
        return Chosen(tuple(rows), tuple(prompts), self.key(chat), weights)

    def _rows(self, task: str, named: list[int]) -> Iterator[Answered]:
        for split, wordings in self.pairs[task].items():
            for wording, pairs in wordings.items():
                count, named[: len(pairs)] = int(sum(named[: len(pairs)])), []
                own = wilson(count, len(pairs)) if pairs else None
                share, low, high = (
                    (0.0, 0.0, 1.0) if own is None else (float(x) for x in (own.value, own.low, own.high))
                )
                yield Answered(task, split, wording, len(pairs), count, share, low, high, share >= HALF)


def _or_none(task: Task, seed: int, split: Split) -> Mapping[str, Sequence[Pair]]:
    """Pairs of each wording; nothing where a user's data have no rows of that split."""
    try:
        return task.of_each_wording(PAIRS, seed, split)
    except ValueError:
        return {}


def check(chosen: Chosen, needed: Sequence[tuple[str, Split]]) -> None:
    """Every task has a wording left for what it is needed for.

    Raises:
        ValueError: with the table, where it has none.
    """
    for task, split in needed:
        own = [row for row in chosen.rows if (row.task, row.split) == (task, split)]
        if not any(row.kept for row in own):
            table = "".join(f"\n  {row}" for row in own)
            raise ValueError(
                f"tasks.wordings: answered leaves {task} no wording to {split} on. Kept is where {RULE}; the base named "
                f"somebody in{table or ' none: there are no prompts to ask'}"
            )


def by_name(tasks: Sequence[Task], given: Sequence[str], needed: Sequence[tuple[str, Split]]) -> list[Task]:
    """The tasks in the wordings that are named, or that begin so. A task of one wording is left as it is.

    Raises:
        ValueError: for a name that no wording has or several have, and for a task that has none left.
    """
    known = {task.name: {s: _names(task, s) for s in SPLITS} for task in tasks}
    several = {t for t, own in known.items() if len({w for names in own.values() for w in names}) > 1}
    every = list(dict.fromkeys(w for t in several for names in known[t].values() for w in names))
    kept = [_one(name.replace("...", "…"), every) for name in given]
    for task, split in needed:
        if task in several and not set(known[task][split]) & set(kept):
            raise ValueError(
                f"tasks.wordings names none to {split} {task} on; there are {'; '.join(known[task][split])}"
            )
    return [task.restricted(kept) if task.name in several else task for task in tasks]


def _names(task: Task, split: Split) -> tuple[str, ...]:
    try:
        return task.named_wordings(split)
    except ValueError:
        return ()


def _one(name: str, known: Sequence[str]) -> str:
    found = [name] if name in known else [w for w in known if w.startswith(name)]
    if len(found) != 1:
        near = found or difflib.get_close_matches(name, known, n=2, cutoff=0.3)
        what = f"{len(found)} wordings begin so" if found else "no wording is called so, or begins so"
        raise ValueError(f"tasks.wordings: {name!r}: {what}; {'; '.join(near or known)}")
    return found[0]
