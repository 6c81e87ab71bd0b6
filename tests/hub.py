"""A model hub of a few folders, over real HTTP: what huggingface_hub asks of one, and nothing else."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Hub:
    """`revisions["org/name"]["step10"]` is a folder; `fetched` lists the files that were sent, as revision/file."""

    revisions: dict[str, dict[str, Path]]
    fetched: list[str] = field(default_factory=list)
    url: str = ""
    cut: set[str] = field(default_factory=set)
    """Files, as revision/file, of which only the beginning is ever sent."""


def commit(folder: Path) -> str:
    """What a hub would say identifies a folder: another place, another commit."""
    return hashlib.sha1(str(folder).encode()).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def _answer(self, status: int, body: bytes = b"", **headers: str):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            self.close_connection = self.close_connection or "Content-Length" in headers

        def do_GET(self):
            path = self.path.partition("?")[0].strip("/")
            name = next((n for n in hub.revisions if f"{n}/" in f"{path}/"), None)
            if name is None:
                return self._answer(404, **{"X-Error-Code": "RepoNotFound"})
            rest = path.split(name, 1)[1].strip("/").split("/")
            folders = {commit(f): f for f in hub.revisions[name].values()} | hub.revisions[name]
            folder = folders.get(rest[1]) if len(rest) > 1 else None
            if folder is None:
                return self._answer(404, **{"X-Error-Code": "RevisionNotFound"})
            if path.startswith("api/"):
                files = [{"type": "file", "path": p.name, "size": 1, "oid": p.name} for p in sorted(folder.iterdir())]
                model = {"id": name, "sha": commit(folder), "siblings": [{"rfilename": f["path"]} for f in files]}
                return self._answer(200, json.dumps(files if rest[0] == "tree" else model).encode())
            file = folder / "/".join(rest[2:])
            if not file.is_file():
                return self._answer(404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit(folder)})
            body = file.read_bytes()
            if self.command == "GET":
                hub.fetched.append(f"{rest[1]}/{file.name}")
            tag = f'"{hashlib.sha256(body).hexdigest()}"'
            about = {"ETag": tag, "X-Repo-Commit": commit(folder)}
            if f"{folder.name}/{file.name}" in hub.cut and self.command == "GET":
                return self._answer(200, body[:1000], **about, **{"Content-Length": str(len(body))})
            return self._answer(200, body, **about)

        do_HEAD = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
