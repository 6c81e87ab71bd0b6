"""The server of a page: one page, at one secret address, for this machine."""

import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from instar.report.watch import Watched


@contextmanager
def serving(page):
    with Watched(page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def get(address: str, **headers: str):
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=10) as answer:
        return answer.read().decode(), answer.headers


def test_the_frame_the_page_and_its_state(tmp_path):
    page = tmp_path / "index.html"
    with serving(page) as server:
        frame, headers = get(server.address)
        assert "iframe" in frame and "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert get(server.address + "state")[0] == "0"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(server.address + "page")
        page.write_text("<p>one")
        first = get(server.address + "state")[0]
        content, headers = get(server.address + "page")
        assert content == "<p>one" and headers["Cache-Control"] == "no-store"
        page.unlink()
        page.write_text("<p>two")
        assert get(server.address + "state")[0] != first != "0" and get(server.address + "page")[0] == "<p>two"


def test_who_does_not_know_the_address_is_told_nothing(tmp_path):
    (page := tmp_path / "index.html").write_text("secret")
    (tmp_path / "config.yaml").write_text("secret")
    with serving(page) as server, serving(page) as other:
        assert server.server_address[0] == "127.0.0.1" and server.base != other.base and len(server.base) > 30
        root = server.address.removesuffix(server.base)
        for path in ("/", "/page", other.base + "page", server.base[:-3] + "/page", server.base + "config.yaml",
                     server.base + "../config.yaml"):  # fmt: skip
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(root + path)
        # A name that somebody else's page has made point here is not this machine's.
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(server.address + "page", Host="evil.example")
        assert get(server.address.replace("127.0.0.1", "localhost") + "page")[0] == "secret"
