"""What a cell of a user's data means, however its form wrote it: holes, lists, whole numbers, token ids."""

import ast
import math
import re
from typing import Any

from instar.record.foreign import json_text

_HOLES = {"", "nan", "none", "null", "<na>"}
_IDS = re.compile(r"(?:^|_)(?:idx|idxs|ids?)$", re.IGNORECASE)
_NO_COMMA = re.compile(r"""(['"])\s+(['"])""")


def hole(value: Any) -> bool:
    """Whether an optional cell says nothing: empty, None, or the NaN that a table library fills gaps with."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and value.strip().lower() in _HOLES)


def holds_ids(column: str) -> bool:
    """Whether a column's name says that it holds token ids: `correct_idx`, `answer_id`, `foil_ids`."""
    return _IDS.search(column) is not None


def items(value: Any) -> list[Any]:
    """A list: as it is, in JSON, as Python writes it, or as words between commas. One thing is a list of it."""
    if isinstance(value, str):
        return written_list(value) if value.strip().startswith("[") else value.split(",")
    return list(value) if isinstance(value, list | tuple) else [value]


def written_list(text: str) -> list[Any]:
    """A list from its text.

    Raises:
        ValueError: where it is none, or has no commas, as numpy writes one (Python would join its words into one).
    """
    try:
        found = json_text(text, "a list in a cell")
    except ValueError:
        try:
            found = None if _NO_COMMA.search(text) else ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
    if not isinstance(found, list):
        raise ValueError(f'expected a list such as ["a", "b"], found {text!r:.60}')
    return found


def words(value: Any) -> tuple[str, ...]:
    """The words of a cell, without the space around them.

    Raises:
        ValueError: for anything that is not text.
    """
    found = [] if hole(value) else items(value)
    for word in found:
        if not isinstance(word, str):
            raise ValueError(f"expected words, found {word!r:.60}. {NUMBERS}")
    return tuple(word.strip() for word in found if word.strip())


NUMBERS = (
    "Numbers: token ids? Call the columns correct_idx and incorrect_idx (any name that ends in _idx). Words? Write them as "
    "text"
)


def whole_number(value: Any) -> int:
    """A whole number, also as a table library writes it (`2.0`).

    Raises:
        ValueError: for anything else.
    """
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d+(\.0*)?", text):
        raise ValueError(f"expected a whole number, found {value!r:.60}")
    return int(text.partition(".")[0])


def ids(value: Any) -> tuple[int, ...]:
    """Token ids: one, its text, or a list of them.

    Raises:
        ValueError: for anything else.
    """
    found = [] if hole(value) else [whole_number(item) for item in items(value)]
    if any(number < 0 for number in found):
        raise ValueError(f"expected token ids, found {value!r:.60}")
    return tuple(found)
