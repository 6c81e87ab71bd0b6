"""One drawing of one task in its axes: laid out once, then set to a step, so that an animation is as steady as its axes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Drawn:
    """A drawing in its axes, and what moves in it."""

    show: Callable[[int], None]
    """Sets it to a place among its cell's steps."""
    moving: list[Any]
    image: Any = None
    """What a colour bar is of, and `unit` what it says."""
    unit: str = ""


@dataclass(frozen=True)
class Cell:
    """A drawing that is still to be made: `draw(axes)`."""

    title: str
    steps: list[int]
    draw: Callable[[Any], Drawn] = field(repr=False)
    stepped: bool = True
    """Whether it is of one step; else of all of them, with a line at one."""
    width: float = 5.2
    """In inches, where nobody says how wide; `least` is what text of 8 points needs."""
    least: float = 2.2
    height: float = 0.69
    """By its width; `below` has the inches that a legend or a sentence takes under it."""
    below: float = 0.0


def line_at(axes: Any, steps: list[int], colour: str) -> Drawn:
    """A line at the step, of a drawing over all steps."""
    line = axes.axvline(steps[0], color=colour, lw=1, ls=":", zorder=1)

    def show(index: int) -> None:
        line.set_xdata([steps[index]] * 2)

    return Drawn(show, [line])
