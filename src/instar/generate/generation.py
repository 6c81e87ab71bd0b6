"""Generation: requests in flight, tries, budgets, and the files that come out.

1. The journal of an earlier process is replayed: its rows are judged again in their order, its calls and tokens are
   counted, and requests that it left open are the first to be asked again, with the same plans and words.
2. While rows are missing and fewer than `concurrency` requests are out, the next one is dealt. No more rows are asked for
   than are missing, so nothing is paid for that cannot be used.
3. Before a call its reserve (the estimated prompt and the longest answer) must fit into what is left of `max_tokens`
   beside the reserves of the others; after it the reserve is replaced by what the server reports.
4. An answer that cannot be read is sent back once with the reason. 429, 5xx, time-outs and lost connections are tried again
   after a wait that doubles; a refused parameter is left out from then on; what can never work stops at once.
5. It ends when the rows are there, a budget is spent, or too much went wrong in a row. What is out by then is
   waited for: it is paid for.
"""

import asyncio
import random
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar import __version__
from instar.generate.ask import PROMPT_VERSION, RESPONSE_FORMAT, Request, messages
from instar.generate.books import Books
from instar.generate.choices import GenerateConfig
from instar.generate.journal import Journal
from instar.generate.judge import Row
from instar.generate.key import in_the_open
from instar.generate.read import UnreadableError, rows_in
from instar.generate.server import CallError, Reply, Server, estimate
from instar.progress import Tell
from instar.record.files import write_json, write_rows

OPTIONAL = ("response_format", "max_tokens", "temperature", "seed")
"""Parameters that some servers refuse, in the order in which they are suspected."""
REPAIRED = 4000
"""Characters of an unreadable answer that are sent back."""


@dataclass(frozen=True)
class Made:
    """What came out."""

    rows: tuple[Row, ...]
    wanted: int
    stopped: str | None
    """Why it ended early."""
    failed: bool
    """It ended early for another reason than a budget."""
    facts: dict[str, Any]
    """What stands beside the data."""


def beside(out: Path, what: str) -> Path:
    """`data.jsonl` → `data.journal.jsonl`, `data.made.json`."""
    return out.with_name(out.name.removesuffix(".jsonl") + what)


def generate(config: GenerateConfig, out: Path, tell: Tell, say: Callable[[str], None]) -> Made:
    """Write `config.rows` rows to `out`, or go on where an earlier process stopped.

    Args:
        config: everything that decides the data.
        out: a .jsonl file; the journal and `made.json` stand beside it.
        tell: progress.
        say: told once what a person should know, in plain characters.

    Raises:
        ValueError: for an `out` that is not ours, a journal of other settings, a missing key.
    """
    if out.suffix != ".jsonl":
        raise ValueError(f"--out is {str(out)!r}, expected a name that ends in .jsonl")
    path = beside(out, ".journal.jsonl")
    if out.exists() and not path.exists():
        raise ValueError(f"{out} is there without its journal {path.name}: it is not touched; give another --out")
    server = Server(config)
    if server.key.real and in_the_open(server.address):
        say(f"the key goes to {server.address} without encryption: use https")
    settings = {
        "format": 1,
        "prompt version": PROMPT_VERSION,
        **config.model_dump(include={"task", "model", "seed", "temperature"}),
    }
    with Journal(path, settings) as journal:
        work = _Generation(config, Books(config, journal), server, tell, say)
        asyncio.run(work.run())
        return work.finish(out)


class _Generation:
    """What one process does."""

    def __init__(
        self, config: GenerateConfig, books: Books, server: Server, tell: Tell, say: Callable[[str], None]
    ) -> None:
        self.config, self.books, self.server, self.tell, self.say = config, books, server, tell, say
        self.failures = self.barren = 0
        self.stopped: str | None = None
        self.failed = False
        self.stopping, self.settled = asyncio.Event(), asyncio.Event()
        self.rng = random.Random(config.seed)

    async def run(self) -> None:
        """Ask until it ends."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                self._tell()
                while len(running) < self.config.concurrency and (request := self._next()) is not None:
                    running.add(asyncio.create_task(self._serve(request)))
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await self.server.close()

    def _next(self) -> Request | None:
        return None if self.stopped is not None else self.books.next()

    def _tell(self) -> None:
        judge, ledger = self.books.judge, self.books.ledger
        counts = f"{ledger.calls} calls, {judge.rejected.total()} rejected, {ledger.tokens:,} tokens"
        self.tell(len(judge.accepted), self.config.rows, counts)

    async def _serve(self, request: Request) -> None:
        """One request to its end: rows, or a problem, or left open because everything stops."""
        while (reply := await self._call(request)) is not None:
            self.failures = 0
            try:
                if reply.text is None:
                    raise UnreadableError(reply.problem)
                found = rows_in(reply.text)
            except UnreadableError as reason:
                if self._repairable(request, reply):
                    self._back(request, reply, f"unreadable: {reason}", unreadable=(reply.text or "")[:REPAIRED])
                    continue
                problem = str(reason) if reply.text is None else f"unreadable twice: {reason}"
                if reply.cut:
                    problem = f"cut off: the answer has more than {self.config.answer_tokens} tokens (--answer-tokens)"
                self._back(request, reply, problem, final=True)
                self._count_barren([problem])
                return
            rows = [self._judged(*row) for row in found.rows]
            problem = f"too many rows: {found.left} more were not read" if found.left else None
            self._back(request, reply, problem, final=True, rows=rows)
            self._count_barren([row["reason"] for row in rows])
            return

    def _repairable(self, request: Request, reply: Reply) -> bool:
        """Text that is whole, and has not been sent back before."""
        return reply.text is not None and not reply.cut and request.index not in self.books.unreadable

    def _judged(self, prompt: Any, answer: Any) -> dict[str, str | None]:
        prompt, answer = (self.server.key.hide(v) if isinstance(v, str) else None for v in (prompt, answer))
        return {"prompt": prompt, "answer": answer, "reason": self.books.judge.take(prompt, answer)}

    async def _call(self, request: Request) -> Reply | None:
        """A reply, after as many tries as are allowed; None: it failed, or everything stops."""
        tries = 0
        while True:
            parameters = self._parameters(request)
            reserve = estimate(parameters["messages"]) + self.config.answer_tokens
            if not await self._may_spend(reserve):
                return None
            self.books.write("sent", request=request.index, **request.as_dict(), reserved=reserve)
            try:
                return await self.server.ask(parameters)
            except CallError as error:
                lost = reserve if error.spent else 0
                if self._adapt(error, parameters):
                    self._lost(request, error, lost, final=False)
                    continue
                again = error.retry and tries < self.config.retries
                # What no request can mend is asked again once the user has mended it.
                self._lost(request, error, lost, final=not again and not error.fatal)
                if error.fatal:
                    self._stop(str(error))
                elif not again:
                    self._count_failure(error)
                else:
                    await self._pause(tries, error.wait)
                tries += 1
                if not again or self.stopped is not None:
                    return None

    async def _may_spend(self, reserve: int) -> bool:
        """Wait until the reserve fits beside the others', or stop because it never will."""
        ledger = self.books.ledger
        while self.stopped is None:
            if (reason := ledger.spent(reserve)) is not None:
                self._stop(reason, failed=False)
            elif ledger.fits(reserve):
                return True
            else:
                await self.settled.wait()
        return False

    def _parameters(self, request: Request) -> dict[str, Any]:
        without = self.books.without
        found: dict[str, Any] = {
            "response_format": RESPONSE_FORMAT,
            "max_tokens": self.config.answer_tokens,
            "temperature": self.config.temperature,
            "seed": request.seed,
        }
        if "max_tokens" in without:
            found["max_completion_tokens"] = self.config.answer_tokens
        kept = {k: v for k, v in found.items() if k not in without}
        talk = messages(request, self.books.unreadable.get(request.index))
        return {"model": self.config.model, "messages": talk, **kept}

    def _adapt(self, error: CallError, parameters: dict[str, Any]) -> bool:
        """Leave out what the server refuses; false if nothing is left to leave out."""
        without = self.books.without
        if not error.adaptable:
            return False
        if any(name in parameters for name in without):
            return True  # it was sent before another request found out
        suspects = [name for name in OPTIONAL if name in parameters]
        named = [name for name in suspects if re.search(rf"\b{name}\b", error.body)]
        guilty = (named or [name for name in suspects if name == "response_format"])[:1]
        for name in guilty:
            self.books.write("without", parameter=name)
            what = "structured output" if name == "response_format" else "a parameter"
            self.say(f"the server refuses {what} ({name}); it is sent no more")
        return bool(guilty)

    async def _pause(self, tries: int, wait: float | None) -> None:
        """The wait before another try: the server's, or one that doubles; cut short if everything stops."""
        own = self.config.first_wait * 2 ** min(tries, 30) * self.rng.uniform(0.5, 1.5)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), min(own if wait is None else wait, self.config.longest_wait))

    def _back(self, request: Request, reply: Reply, problem: str | None, final: bool = False, **more: Any) -> None:
        more["model"] = reply.model
        self._close(request, problem, reply.tokens, reply.estimated, final, **more)

    def _lost(self, request: Request, error: CallError, tokens: int, final: bool) -> None:
        status = f"status {error.status}" if error.status else "no answer"
        self._close(request, f"{status}: {error}", tokens, tokens > 0, final)

    def _close(
        self, request: Request, problem: str | None, tokens: int, estimated: bool, final: bool, **more: Any
    ) -> None:
        about = {"request": request.index, "tokens": tokens, "estimated": estimated}
        self.books.write("back", **about, problem=problem, final=final, **more)
        self._wake()

    def _wake(self) -> None:
        """Whoever waits for a call to be over looks again."""
        self.settled.set()
        self.settled = asyncio.Event()

    def _stop(self, reason: str, failed: bool = True) -> None:
        if self.stopped is None:
            self.stopped, self.failed = reason, failed
            self.stopping.set()
            self._wake()

    def _count_failure(self, error: CallError) -> None:
        self.failures += 1
        if self.failures >= self.config.failures:
            self._stop(f"{self.failures} requests in a row failed, the last one: {error}")

    def _count_barren(self, reasons: list[str | None]) -> None:
        """An answer is barren if none of its rows counts."""
        self.barren = 0 if None in reasons else self.barren + 1
        if self.barren >= self.config.rejects and self.books.judge.missing:
            self._stop(f"{self.barren} answers in a row brought no row that counts, the last one: {reasons[-1]}")

    def finish(self, out: Path) -> Made:
        """Write the rows and how they were made."""
        books, ledger = self.books, self.books.ledger
        rows = tuple(books.judge.accepted)
        facts = {
            "instar": __version__,
            "prompt version": PROMPT_VERSION,
            "config": self.config.model_dump(),
            "address": self.server.address,
            "models reported": dict(books.models.most_common(20)),
            "sent without": sorted(books.without),
            "rows": len(rows),
            "rejected": dict(books.judge.rejected.most_common()),
            "problems": dict(books.problems.most_common()),
            "requests": books.next_index,
            "calls": ledger.calls,
            "tokens": ledger.tokens,
            "calls with estimated tokens": ledger.estimated,
            "stopped": self.stopped,
        }
        if rows:
            write_rows(out, rows)
        write_json(beside(out, ".made.json"), facts)
        return Made(rows, self.config.rows, self.stopped, self.failed, facts)
