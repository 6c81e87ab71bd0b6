"""The page of a run under way, on this machine alone: at an address that nobody can guess, and anew when it changes.

1. It listens on 127.0.0.1 and answers three addresses under a random one: a frame, the page in it, and the page's state, for
   which the frame asks every two seconds. Who does not know the address, or asks by another host's name, is told nothing.
2. The file is read for each answer and nothing is written; the page itself still asks nothing of any network.
"""

import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

HOST = "127.0.0.1"
_OWN = "'unsafe-inline'"
_FRAME = f"default-src 'none'; frame-src 'self'; connect-src 'self'; script-src {_OWN}; style-src {_OWN}"


class Watched(ThreadingHTTPServer):
    """Serves one file until it is closed."""

    daemon_threads = True

    def __init__(self, page: Path, port: int = 0):
        super().__init__((HOST, port), _Handler)
        self.page = page
        self.base = f"/{secrets.token_urlsafe(24)}/"

    @property
    def address(self) -> str:
        """What a browser is given."""
        return f"http://{HOST}:{self.server_port}{self.base}"


class _Handler(BaseHTTPRequestHandler):
    server: Watched  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "instar", ""

    def do_GET(self) -> None:
        """The frame, the page, or the page's state."""
        known = self.headers.get("Host") in {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}
        base, page = self.server.base, self.server.page
        if not known or not secrets.compare_digest(self.path[: len(base)].encode(), base.encode()):
            return self.send_error(404)
        asked = self.path[len(base) :].partition("?")[0]
        try:
            found = page.stat()
        except FileNotFoundError:
            found = None
        if asked == "":
            frame = resources.files("instar.report") / "assets" / "watch.html"
            return self._answer(frame.read_bytes(), "text/html", _FRAME + "; frame-ancestors 'none'")
        if asked == "state":
            return self._answer(str(found.st_mtime_ns if found else 0).encode(), "text/plain")
        if asked == "page" and found:
            return self._answer(page.read_bytes(), "text/html", "frame-ancestors 'self'")
        self.send_error(404)

    def _answer(self, content: bytes, kind: str, policy: str = "default-src 'none'") -> None:
        self.send_response(200)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(content))), ("Cache-Control", "no-store"),
            ("Content-Security-Policy", policy), ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the address is a secret, and a terminal's progress bars stay whole."""
