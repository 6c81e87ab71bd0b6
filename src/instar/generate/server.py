"""One call to an OpenAI-compatible server, and nothing that the server says is believed.

1. A call is one HTTP request by the `openai` client, its own retries off; the reply is read as bytes up to `MOST_BYTES`
   within one deadline for all of it, so that a trickle ends too, and its fields are checked one by one.
2. A reply that is no success is read up to `EXCERPT` bytes before the client sees it. Redirects are not followed: the key
   goes to the address that was given and nowhere else.
3. What went wrong becomes a `CallError` that says whether trying again can help. Texts of the server are stripped
   of the key and of what is no plain character before anybody sees them.
"""

import asyncio
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from instar.generate.choices import GenerateConfig
from instar.generate.key import Secret, check_address

MOST_BYTES = 4 * 2**20
EXCERPT = 4096
RETRIED = frozenset({408, 409, 425, 429})
ADAPTABLE = frozenset({400, 415, 422, 501})
"""Statuses with which servers refuse a parameter."""
CHARACTERS_PER_TOKEN = 3
"""For estimates; English has about four, so that they are rather too high."""


@dataclass(frozen=True)
class Reply:
    """A success."""

    text: str | None
    """None: the model gave no text, and `problem` says why."""
    problem: str
    cut: bool
    """The answer ran into its limit of tokens."""
    model: str
    tokens: int
    estimated: bool


class CallError(Exception):
    """A call that brought nothing."""

    def __init__(
        self,
        text: str,
        *,
        status: int = 0,
        retry: bool = True,
        wait: float | None = None,
        spent: bool = True,
        body: str = "",
    ):
        super().__init__(text)
        self.status, self.retry, self.wait, self.body = status, retry, wait, body
        self.spent = spent
        """The server may have charged for it."""

    @property
    def adaptable(self) -> bool:
        """Perhaps a parameter that the server does not know."""
        return self.status in ADAPTABLE

    @property
    def fatal(self) -> bool:
        """No other request will fare better."""
        return 300 <= self.status < 500 and self.status not in RETRIED | ADAPTABLE


class _StatusError(Exception):
    """A reply that is no success, with the beginning of its body."""

    def __init__(self, status: int, headers: Mapping[str, str], body: str):
        super().__init__(f"status {status}")
        self.status, self.headers, self.body = status, headers, body


async def _refuse(response: Any) -> None:
    """Before the client reads it: a body of gigabytes is not an error message, and a small one may unpack to gigabytes."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise CallError("the answer is compressed, although none such was asked for", retry=False)
    if 200 <= response.status_code < 300:
        return
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) >= EXCERPT:
            break
    raise _StatusError(response.status_code, dict(response.headers), body[:EXCERPT].decode("utf-8", "replace"))


class Server:
    """Where a configuration's model is served."""

    def __init__(self, config: GenerateConfig):
        """Prepare; nothing is sent.

        Raises:
            ValueError: for a missing client, a missing key or an address that is none.
        """
        try:
            import openai
        except ImportError:
            raise ValueError("instar data generate needs the openai client: pip install 'instar[generate]'") from None
        # OPENAI_LOG=debug makes the client log what a server answers, which may be our key.
        for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        address = config.base_url or os.environ.get("OPENAI_BASE_URL") or None
        if address is not None:
            check_address(address)
        self.config = config
        self.key = Secret.find(config.api_key_env, needed=address is None)
        self._http = openai.DefaultAsyncHttpxClient(
            follow_redirects=False, timeout=config.timeout, event_hooks={"response": [_refuse]}
        )
        self._client = openai.AsyncOpenAI(
            api_key=self.key.value,
            base_url=address,
            max_retries=0,
            timeout=config.timeout,
            http_client=self._http,
            default_headers={"Accept-Encoding": "identity"},
        )
        self.address = str(self._client.base_url).rstrip("/")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def ask(self, parameters: dict[str, Any]) -> Reply:
        """One call.

        Raises:
            CallError: for whatever went wrong.
        """
        try:
            async with asyncio.timeout(self.config.timeout):
                body = await self._fetch(parameters)
        except TimeoutError:
            raise CallError(f"no whole answer within {self.config.timeout:g} s (--timeout)") from None
        except CallError:
            raise
        except Exception as error:  # whatever the client, or a broken server, comes up with
            raise self._explain(error) from None
        return self._reply(body, parameters)

    async def _fetch(self, parameters: dict[str, Any]) -> bytes:
        body = bytearray()
        async with self._client.chat.completions.with_streaming_response.create(**parameters) as response:
            async for part in response.iter_bytes():
                body += part
                if len(body) > MOST_BYTES:
                    raise CallError(f"the answer is larger than {MOST_BYTES:,} bytes", retry=False)
        return bytes(body)

    def _explain(self, error: BaseException) -> CallError:
        chain = [error]
        while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
            chain.append(cause)
        for found in chain:
            if isinstance(found, _StatusError):
                return self._status(found)
            if isinstance(found, CallError):
                return found
        names = [type(e).__name__ for e in chain]
        if any("Timeout" in name for name in names):
            return CallError(f"no answer within {self.config.timeout:g} s (--timeout)")
        # The client wraps: the first cause says what happened.
        cause = next((e for e in chain[1:] if str(e)), error)
        text = f"no connection with {self.address}: {type(cause).__name__}: {self.key.safe(str(cause))}"
        return CallError(text, spent="ConnectError" not in names)

    def _status(self, error: _StatusError) -> CallError:
        status, env = error.status, self.key.name
        said = self.key.safe(error.body)
        text = f"{self.address} answered {status} for model {self.config.model!r}"
        if status in (401, 403):
            # Its text is left out: servers have been seen to repeat the key there, in forms of their own.
            sent = f"the one in {env} was sent" if self.key.real else f"none was sent, since {env} is not set"
            text += f": it wants a key, from the environment variable {env}; {sent}"
        elif 300 <= status < 400:
            to = self.key.safe(error.headers.get("location", "nowhere"))
            text += f": a redirect to {to}, which is not followed so that the key stays here; give the final --base-url"
        elif status == 404:
            text += f": check --model and --base-url (it should end as in http://localhost:8000/v1). It said: {said}"
        else:
            text += f": {said}"
        wait = _retry_after(error.headers.get("retry-after"))
        retry = status in RETRIED or status >= 500
        if wait is not None and wait > self.config.longest_wait:
            text += f" (it asks to wait {wait:,.0f} s, and --longest-wait is {self.config.longest_wait:g})"
            retry = False
        return CallError(text, status=status, retry=retry, wait=wait, spent=False, body=error.body)

    def _reply(self, body: bytes, parameters: dict[str, Any]) -> Reply:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            value = None
        choices = value.get("choices") if isinstance(value, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(value, dict) or not isinstance(choice, dict) or not isinstance(message, dict):
            said = self.key.safe(body[:EXCERPT].decode("utf-8", "replace"))
            raise CallError(f"{self.address} answered 200 with what is no chat completion: {said}", retry=False)
        text = _text(message.get("content"))
        refusal, finish = message.get("refusal"), choice.get("finish_reason")
        problem = "" if text else "no text"
        if isinstance(refusal, str) and refusal:
            text, problem = None, f"refused: {self.key.safe(refusal)}"
        elif finish == "content_filter":
            text, problem = None, "refused: by the server's content filter"
        tokens, estimated = _tokens(value.get("usage"), parameters, text or "")
        model = value.get("model")
        reported = self.key.safe(model) if isinstance(model, str) else ""
        text = None if text is None else self.key.hide(text)
        return Reply(text or None, problem, finish == "length", reported, tokens, estimated)


def estimate(messages: list[dict[str, str]]) -> int:
    """Tokens of a conversation, rather too many."""
    return math.ceil(sum(len(m["content"]) for m in messages) / CHARACTERS_PER_TOKEN)


def _text(content: Any) -> str | None:
    """The text of a message: a string, or a list of parts with text in them."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None


def _tokens(usage: Any, parameters: dict[str, Any], text: str) -> tuple[int, bool]:
    """Tokens used, and whether they are an estimate: where usage is missing, no count, or too low to be true."""
    sent = sum(len(m["content"]) for m in parameters["messages"])
    usage = usage if isinstance(usage, dict) else {}
    counts = [usage.get(k) for k in ("prompt_tokens", "completion_tokens", "total_tokens")]
    first, second, total = (
        c if isinstance(c, int) and not isinstance(c, bool) and 0 <= c < 10**9 else 0 for c in counts
    )
    found = max(first + second, total)
    # A token of a language model is very rarely longer than 16 characters on average.
    if found * 16 < sent + len(text):
        return math.ceil((sent + len(text)) / CHARACTERS_PER_TOKEN), True
    return found, False


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number or a date; None for what is neither."""
    if value is None:
        return None
    try:
        wait = float(value)
    except ValueError:
        try:
            wait = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, wait) if math.isfinite(wait) else None
