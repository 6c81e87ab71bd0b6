"""The key of a result: a stable hash of what decided it. A result is skipped exactly when its key is the same."""

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
    """sha256 of a JSON-able value, 16 characters."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
