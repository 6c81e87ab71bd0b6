"""What a notebook shows of a value: a small table in plain HTML, without scripts, styles from elsewhere or requests.

Every word goes through `html.escape`: prompts, model names and whatever a file says are foreign text.
"""

import html
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

NOT_MEASURABLE = "not measurable"
# Control characters (ESC and the C1 set among them), what turns the direction of a line around, line breaks that are none
# in a file, and halves of characters, which no stream can write.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_CELL = "text-align:left; vertical-align:top; padding:1px 10px 1px 0"


def block(title: str, *parts: str) -> str:
    """A titled piece; `parts` are HTML, made by the functions below."""
    return f'<div style="max-width:100ch"><b>{html.escape(title)}</b>{"".join(parts)}</div>'


def paragraph(words: str) -> str:
    """A paragraph."""
    return f'<p style="margin:4px 0">{html.escape(words)}</p>'


def listed(title: str, rows: Iterable[str]) -> str:
    """A titled list; nothing where there are no rows."""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in rows)
    return f'<p style="margin:4px 0">{html.escape(title)}</p><ul style="margin:0">{items}</ul>' if items else ""


def facts(values: Mapping[str, Any]) -> str:
    """Two columns without a head: what, and its value."""
    return table((), [(name, value) for name, value in values.items()])


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], folded: str = "") -> str:
    """A table; `folded` under a line with this text, which opens it."""
    top = "".join(f'<th style="{_CELL}">{html.escape(h)}</th>' for h in head)
    cells = ("".join(f'<td style="{_CELL}">{html.escape(str(c))}</td>' for c in row) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    above = f"<thead><tr>{top}</tr></thead>" if head else ""
    whole = f"<table>{above}<tbody>{body}</tbody></table>"
    return f"<details><summary>{html.escape(folded)}</summary>{whole}</details>" if folded else whole


def number(value: float | None, form: str = ".3g") -> str:
    """A number, or that there is none."""
    return NOT_MEASURABLE if value is None or not np.isfinite(value) else format(value, form)


def lines(title: str, *rows: str, width: int = 100, most: int = 12) -> str:
    """A short text: each row wrapped to `width`, indented, and cut where it would be more than `most` lines.

    What is not printable (a terminal would obey it) is replaced.
    """
    wrapped = (textwrap.wrap(printable(row), width - 2, break_on_hyphens=False) for row in rows)
    flat = [line for row in wrapped for line in row]
    if len(flat) > most - 1:
        flat = [*flat[: most - 2], "…"]
    return "\n".join([printable(title), *(f"  {line}" for line in flat)])


def clean(words: str) -> str:
    """The text with a mark for each character that a terminal would obey instead of showing it; line breaks and tabs stay."""
    return _OBEYED.sub("\ufffd", words)


def printable(words: str) -> str:
    """The text in one line, with a mark for each character that is not one to be seen."""
    return "".join(c if c.isprintable() else "\ufffd" for c in clean(" ".join(words.split())))


def some(names: Sequence[str], most: int = 12) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"
