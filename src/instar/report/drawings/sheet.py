"""A figure of cells: rows and columns laid out once, one step for all, a caption of what the numbers are."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from instar.report.drawings.cell import Cell, Drawn
from instar.report.style import QUIET, canvas, inches, wrapped

Table = Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Sheet:
    """A laid-out figure and what moves in it."""

    figure: Any
    steps: list[int]
    moving: list[Any]
    shows: list[Callable[[int], None]]
    caption: str
    """What is not written into the figure itself; "" where it is."""

    def show(self, index: int) -> None:
        """Set everything to one step."""
        for show in self.shows:
            show(self.steps[index])


def sheet(
    table: Table, title: str, caption: str, width: float | None = None, ends: bool = False, moves: bool = False
) -> Sheet:
    """Every row of cells drawn.

    Args:
        width: in inches; cells go on in the next row where less than their text needs is left for them, the step is said
            with each cell, and the caption is left to whoever writes the paper. None: as wide as the cells are.
        ends: draw every cell twice, at its first step and at the step shown.
        moves: it becomes an animation, so its step is said even where the drawing is of all steps.
    """
    rows = [[(cell, first) for cell in row for first in ((True, False) if ends else (False,))] for row in table]
    if width is not None:
        rows = [row[i : i + n] for row in rows for n in [_columns(row, width)] for i in range(0, len(row), n)]
    columns = max(len(row) for row in rows)
    wide = width or max(sum(cell.width for cell, _ in row) for row in rows)
    heights = [max(cell.height * wide / columns + cell.below for cell, _ in row) + 0.25 for row in rows]
    drawn = canvas((wide, sum(heights) + (0.0 if width else 0.7)))
    grid = drawn.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    placed = []
    for line, row in zip(grid, rows, strict=True):
        for axes in line[len(row) :]:
            axes.remove()
        own = [(cell, axes, cell.draw(axes), first) for (cell, first), axes in zip(row, line, strict=False)]
        _bar(drawn, [(axes, one) for _, axes, one, _ in own])
        placed += own
    said = f"{title}" if width is None else ""
    steps, moving, shows = together(placed, said_each=width is not None or ends, moves=moves)
    if said:
        head = drawn.suptitle(said, x=0.01, ha="left", family="monospace")
        if not ends and (moves or any(cell.stepped for cell, *_ in placed)):
            shows.append(lambda step: head.set_text(f"{said}  ·  step {step:>4}"))
            moving.append(head)
        drawn.supxlabel(wrapped(caption, wide, 7), color=QUIET, x=0.01, ha="left")
    return Sheet(drawn, steps, moving, shows, "" if said else f"{title}. {caption}.\n")


def together(
    placed: Iterable[tuple[Cell, Any, Drawn, bool]], said_each: bool, moves: bool = True
) -> tuple[list[int], list[Any], list[Callable[[int], None]]]:
    """The steps of all cells, what moves in them, and what sets each to the last of its own steps until then."""
    steps, moving, shows = set[int](), list[Any](), list[Callable[[int], None]]()
    for cell, axes, one, first in placed:
        steps |= set(cell.steps)
        title = axes.set_title(_titled(axes, cell.title))
        said = said_each and (moves or cell.stepped)
        shows.append(_shower(cell, one, title if said else None, first))
        moving += [*one.moving, *([title] if said else [])]
    return sorted(steps), moving, shows


def _shower(cell: Cell, one: Drawn, title: Any, first: bool) -> Callable[[int], None]:
    def show(step: int) -> None:
        index = 0 if first else max(0, bisect_right(cell.steps, step) - 1)
        one.show(index)
        if title is not None:
            title.set_text(_titled(title.axes, f"{cell.title}, step {cell.steps[index]}"))

    return show


def _titled(axes: Any, text: str) -> str:
    return wrapped(text, inches(axes)[0] + 0.3, 1.1 * axes.title.get_fontsize())


def _columns(row: Sequence[tuple[Cell, bool]], width: float) -> int:
    return min(len(row), max(1, int(width / max(cell.least for cell, _ in row))))


def _bar(drawn: Any, row: list[tuple[Any, Drawn]]) -> None:
    """One colour bar for the maps of a row: they share a scale."""
    maps = [(axes, one) for axes, one in row if one.image is not None]
    if maps:
        _, one = maps[0]
        drawn.colorbar(one.image, ax=[axes for axes, _ in maps], label=one.unit, shrink=0.9)
