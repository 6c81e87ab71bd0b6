"""The books: everything that a generation knows, as a function of its journal.

A record is on the disk before it is in the books, and an interrupted generation gets its books back by entering the same
records again. Rows are judged again then, so that what counts follows today's rules and number of rows.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from instar.generate.ask import Request, Uses, deal
from instar.generate.choices import GenerateConfig
from instar.generate.journal import Journal
from instar.generate.judge import Judge

Repair = tuple[str, str]
"""An answer that could not be read, and why."""


@dataclass
class Ledger:
    """What was spent, and what the calls in flight may still spend."""

    max_requests: int | None
    max_tokens: int | None
    calls: int = 0
    tokens: int = 0
    estimated: int = 0
    """Calls whose tokens are an estimate."""
    reserved: dict[int, int] = field(default_factory=dict)
    """Tokens by request."""

    def send(self, index: int, reserve: int) -> None:
        """A call goes out."""
        self.calls += 1
        self.reserved[index] = reserve

    def settle(self, index: int, tokens: int, estimated: bool) -> None:
        """A call is over."""
        self.reserved.pop(index, None)
        self.tokens += tokens
        self.estimated += estimated

    def spent(self, reserve: int) -> str | None:
        """Why another call may not go out; None if it may."""
        if self.max_requests is not None and self.calls >= self.max_requests:
            return f"--max-requests {self.max_requests} is spent"
        if self.max_tokens is not None and self.tokens + reserve > self.max_tokens:
            used = f"{self.tokens:,} are used, and one more call may take {reserve:,}"
            return f"--max-tokens {self.max_tokens:,} allows no more: {used}"
        return None

    def fits(self, reserve: int) -> bool:
        """Whether the reserve fits beside those in flight."""
        return self.max_tokens is None or self.tokens + sum(self.reserved.values()) + reserve <= self.max_tokens


class Books:
    """Rows, requests and spending of one generation."""

    def __init__(self, config: GenerateConfig, journal: Journal):
        """Read the journal.

        Raises:
            ValueError: for a record that is none of ours.
        """
        self.config, self.journal = config, journal
        self.judge = Judge(config.people, config.rows)
        self.ledger = Ledger(config.max_requests, config.max_tokens)
        self.open: dict[int, Request] = {}
        self.unreadable: dict[int, Repair] = {}
        self.without: set[str] = set()
        self.problems: Counter[str] = Counter()
        self.models: Counter[str] = Counter()
        self.next_index = 0
        try:
            for record in journal.lines:
                self._enter(record)
                for row in record.get("rows", []):
                    self.judge.take(row["prompt"], row["answer"])
        except (KeyError, TypeError, AttributeError, ValueError):
            raise ValueError(f"{journal.path} holds a record that this version of instar cannot read") from None
        for index in list(self.ledger.reserved):
            self._give_up(index)
        self.left_open = list(self.open.values())
        """Requests that an earlier process did not finish."""

    def write(self, kind: str, **record: Any) -> None:
        """A record, on the disk and in the books. Its rows are judged already: the verdicts are part of it."""
        self.journal.write({"kind": kind, **record})
        self._enter({"kind": kind, **record})

    def next(self) -> Request | None:
        """What to ask now; None: nothing, or nothing before an answer is back."""
        if not self.judge.missing:
            return None
        if self.left_open:
            return self.left_open.pop(0)
        asked = [plan for request in self.open.values() for plan in request.plans]
        count = min(self.config.rows_per_request, self.judge.missing - len(asked))
        if count <= 0:
            return None
        taken = self.judge.uses
        uses = Uses(taken.places.copy(), taken.answers.copy(), taken.introduced.copy())
        for plan in asked:
            uses.add(plan)
        request = deal(self.next_index, count, self.config.people, self.config.seed, uses)
        self.open[request.index] = request
        self.next_index += 1
        return request

    def _enter(self, record: dict[str, Any]) -> None:
        kind = record["kind"]
        if kind == "without":
            self.without.add(record["parameter"])
        elif kind == "sent":
            self._sent(record)
        elif kind == "back":
            self._back(record)
        else:
            raise ValueError(kind)

    def _sent(self, record: dict[str, Any]) -> None:
        index = record["request"]
        if index in self.ledger.reserved:  # the process before was interrupted here too
            self._give_up(index)
        self.open[index] = Request.read(index, record)
        self.next_index = max(self.next_index, index + 1)
        self.ledger.send(index, record["reserved"])

    def _back(self, record: dict[str, Any]) -> None:
        index, problem = record["request"], record["problem"]
        self.ledger.settle(index, record["tokens"], record["estimated"])
        if record.get("model"):
            self.models[record["model"]] += 1
        if problem:
            self.problems[problem.partition(":")[0]] += 1
        if "unreadable" in record:
            self.unreadable[index] = (record["unreadable"], problem)
        if record["final"]:
            del self.open[index]

    def _give_up(self, index: int) -> None:
        """A call whose end nobody saw: the server may have charged all of it."""
        self.ledger.settle(index, self.ledger.reserved[index], estimated=True)
