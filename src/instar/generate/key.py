"""The key: from the environment, to the server, and nowhere else.

It is taken out of every text that a server sends before anybody or any file sees it, and an address that carries a
password is refused, because the address is written beside the data.
"""

import json
import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

NO_KEY = "no-key"
"""Sent where the server needs none: the client insists on one."""
SHORTEST_SECRET = 6
SHOWN = 300


@dataclass(frozen=True)
class Secret:
    """The key, which never shows itself."""

    name: str
    """The environment variable."""
    value: str

    @classmethod
    def find(cls, name: str, needed: bool) -> "Secret":
        """The key from the environment.

        Raises:
            ValueError: if there is none and one is needed, or if it cannot be sent.
        """
        value = os.environ.get(name, "").strip()
        if not value and needed:
            raise ValueError(
                f"no key: the environment variable {name} is not set. Set it, or name another with --api-key-env; "
                "for a server that needs no key give --base-url"
            )
        if not re.fullmatch(r"[!-~]*", value):
            raise ValueError(
                f"the key in the environment variable {name} has spaces or other characters that no key has"
            )
        return cls(name, value or NO_KEY)

    def __repr__(self) -> str:
        return f"Secret({self.name})"

    @property
    def real(self) -> bool:
        """There is a key; none is needed where there is not."""
        return self.value != NO_KEY

    def hide(self, text: str) -> str:
        """The text without the key, as it is or as JSON writes it; a dummy like "x" is no secret."""
        if not self.real or len(self.value) < SHORTEST_SECRET:
            return text
        for form in {self.value, json.dumps(self.value)[1:-1]}:
            text = text.replace(form, "[key]")
        return text

    def safe(self, text: str) -> str:
        """A server's text for a person's eyes: short, one line, no key, no escape sequences."""
        # Cut before anything is joined: what was cut off in the middle of a key lies far behind this.
        hidden = self.hide(text)[: 2 * SHOWN]
        plain = re.sub(r" +", " ", "".join(c if c.isprintable() else " " for c in hidden)).strip()
        return plain if len(plain) <= SHOWN else plain[:SHOWN] + " …"


def in_the_open(address: str) -> bool:
    """Whether what is sent there can be read on the way."""
    parts = urlsplit(address)
    return parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")


def check_address(address: str) -> None:
    """Refuse what is no plain http(s) address, without repeating it: it may hold a password.

    Raises:
        ValueError: saying what is wrong with it.
    """
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        raise ValueError("--base-url is not an address; expected one like http://localhost:8000/v1") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "--base-url holds a user name, a password, a query or a fragment; give the plain address, and the key in the "
            "environment variable that --api-key-env names"
        )
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not address.isascii()
        or not address.isprintable()
    ):
        raise ValueError("--base-url is not an address; expected one like http://localhost:8000/v1")
