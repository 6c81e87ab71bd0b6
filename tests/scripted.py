"""A small OpenAI-compatible server that does what its script says: real HTTP, on a free port."""

import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PLAN = re.compile(
    r"order: (?P<names>[^;]+); these give, in this order: (?P<givers>[^;]+); the completion is: (?P<answer>\w+); "
    r"open with: '(?P<opening>[^']+)'; place: (?P<place>[^;]+); what is given: (?P<thing>[^\n]+)"
)


def obedient(body: dict[str, Any]) -> list[dict[str, str]]:
    """The rows that were asked for, word for word."""
    wanted = [m.groupdict() for m in PLAN.finditer(body["messages"][1]["content"])]
    assert wanted, body["messages"][1]["content"]
    return [
        {
            "prompt": f"{w['opening']} {w['names']} went to the {w['place']}, and {w['givers']} gave a {w['thing']} to",
            "completion": w["answer"],
        }
        for w in wanted
    ]


def completion(content: Any, finish: str = "stop", **more: Any) -> dict[str, Any]:
    """A chat completion around a text."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
    usage = {"prompt_tokens": 400, "completion_tokens": 50, "total_tokens": 450}
    return {"id": "x", "object": "chat.completion", "model": "scripted-1", "choices": [choice], "usage": usage} | more


@dataclass
class Call:
    """One request as the server saw it."""

    number: int
    body: dict[str, Any]
    headers: dict[str, str]
    handler: BaseHTTPRequestHandler

    def send(self, status: int, body: Any, **headers: str) -> None:
        """A whole reply; what is no bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.handler.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(data))} | headers).items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()
        self.handler.wfile.write(data)

    def rows(self, rows: Any = None, **more: Any) -> None:
        """The rows that were asked for, or these."""
        self.send(200, completion(json.dumps({"rows": obedient(self.body) if rows is None else rows}), **more))


Script = Callable[[Call], None]


@dataclass
class Scripted:
    """A running server: its address, and the calls it got."""

    url: str
    calls: list[Call] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def prompts(self) -> list[str]:
        """The user's messages."""
        return [call.body["messages"][1]["content"] for call in self.calls]


@contextmanager
def serve(script: Script):
    """A server for as long as the block lasts. A script that hangs waits on `closing` of what is yielded."""
    state = Scripted("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            call = Call(len(state.calls), body, dict(self.headers), self)
            state.calls.append(call)
            try:
                script(call)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads, block_on_close = True, False

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that goes away is what some tests are about

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
