"""Rows from the text of an answer, however it is dressed.

1. What a reasoning model thinks aloud (`<think>…</think>`) is cut off.
2. If the rest is JSON, its rows are taken: a list of objects, an object with a list of objects in it, or one row.
3. Otherwise every flat `{…}` in it that is JSON and looks like a row: this reads code fences, JSON Lines, prose around
   the JSON, and the whole rows of an answer that was cut off.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from instar.tasks.rows import NAMES

MOST_ROWS = 100
"""Rows read from one answer; what is beyond is counted and left."""
LONGEST = 200_000
"""Characters that are searched for rows where the whole is not JSON."""
_FLAT = re.compile(r"\{[^{}]*\}")


class UnreadableError(ValueError):
    """No row can be read; the message is the reason, to be shown to the model."""


@dataclass(frozen=True)
class Found:
    """The rows of an answer as (prompt, answer), of whatever type they were; and how many more there were."""

    rows: list[tuple[Any, Any]]
    left: int


def rows_in(text: str) -> Found:
    """The rows of an answer.

    Raises:
        UnreadableError: if there is none.
    """
    text = text.rpartition("</think>")[2].strip()
    if not text:
        raise UnreadableError("the answer is empty")
    whole, problem = _json(text)
    found = (
        _rows(whole)
        if problem is None
        else [row for part in _FLAT.findall(text[:LONGEST]) for row in _rows(_json(part)[0])]
    )
    if not found:
        raise UnreadableError(problem or 'the JSON holds no object with "prompt" and "completion"')
    return Found(found[:MOST_ROWS], len(found[MOST_ROWS:]))


def _json(text: str) -> tuple[Any, str | None]:
    """The value, or why there is none: the reason has a place but nothing of the text."""
    try:
        return json.loads(text), None
    except json.JSONDecodeError as error:
        return None, f"it is not JSON ({error.msg} at character {error.pos})"
    except RecursionError:
        return None, "it is not JSON (nested too deeply)"
    except ValueError:  # a number of thousands of digits
        return None, "it is not JSON (a number is too long)"


def _rows(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        prompt, answer = (next((k for k in keys if k in value), None) for keys in (NAMES["prompt"], NAMES["answer"]))
        if prompt and answer:
            return [(value[prompt], value[answer])]
        value = next((v for v in value.values() if isinstance(v, list)), [])
    if not isinstance(value, list):
        return []
    # Not recursive: a list of lists of … is no answer to anything.
    return [row for item in value if isinstance(item, dict) for row in _own(item)]


def _own(item: dict[str, Any]) -> list[tuple[Any, Any]]:
    return _rows({k: v for k, v in item.items() if not isinstance(v, list)})
