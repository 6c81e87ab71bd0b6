"""Tables of numbers with intervals, as wide as the terminal is: nothing is cut short.

1. Intervals stand beside their numbers where there is room, else below them.
2. Where there is no room for that either, what is in nats gets a table of its own. Words that are still too long are folded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

NATS = ("naming", "choosing")
ANY = 10_000
"""Columns of a terminal on which everything has room."""


@dataclass(frozen=True)
class Column:
    """A head, and for each row a number and what belongs to it, or words."""

    head: str
    cells: Sequence[tuple[str, ...]]
    justify: Any = "right"
    number: str = ""
    """Which of the numbers of behaviour it is, if one."""


def show_columns(console: Console, title: str, columns: Sequence[Column]) -> None:
    """Print the columns as one table, or as two with the same first column."""
    one = _fitting(console, title, columns)
    apart = [c for c in columns if c.number in NATS]
    if one is not None or not apart:
        console.print(one or _table(title, columns, "\n"))
        return
    for part in ([c for c in columns if c not in apart], [columns[0], *apart]):
        console.print(_fitting(console, title, part) or _table(title, part, "\n"))
        title = "in nats of log p(answer)"


def _fitting(console: Console, title: str, columns: Sequence[Column]) -> Table | None:
    """The table with intervals beside or below the numbers; None where neither has room."""
    for between in (" ", "\n"):
        table = _table(title, columns, between)
        if console.measure(table, options=console.options.update(max_width=ANY)).maximum <= console.width:
            return table
    return None


def _table(title: str, columns: Sequence[Column], between: str) -> Table:
    table = Table(title=Text(title, justify="center"), title_style="italic", box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(column.head), justify=column.justify, overflow="fold")
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(Text(between.join(cell)) for cell in row))
    return table
