"""The key of a result: a stable hash of what decided it. A result is skipped exactly when its key is the same.

The versions of the libraries that made it stand beside the result and not in its key: a new one makes nothing anew, but it is
said where results of several are compared.
"""

import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

DECIDING = ("instar", "torch", "transformers", "peft")
"""The libraries whose versions may change a number."""


def digest(value: Any) -> str:
    """sha256 of a JSON-able value, 16 characters."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def made_with() -> str:
    """`instar 0.3.0, torch 2.13.0, …`, of what is installed."""
    found = []
    for name in DECIDING:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
