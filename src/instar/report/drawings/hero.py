"""The picture to show: the circuit turning into what it became, accuracy and the key head's gaze beside it, the answer above.

1200 × 630 points of a screen, as previews of links are.
"""

from instar.report.drawings.circuit import circuit_cells
from instar.report.drawings.over_steps import behaviour_cells, gaze_cells
from instar.report.drawings.sheet import Sheet, together
from instar.report.numbers.panels import Panels
from instar.report.style import QUIET, canvas, named, wrapped

SIZE, DPI = (1200, 630), 100
LONGEST = 300
"""Characters of the answer."""


def hero(panels: Panels) -> Sheet:
    """The whole picture; a run without circuits or attention has less in it."""
    summary = panels.summary
    there = {
        "accuracy": behaviour_cells(panels, ("old", "new")),
        "gaze": gaze_cells(panels, ("new",)),
        "circuit": circuit_cells(panels, ("new",)),
    }
    cells = {name: own[0] for name, own in there.items() if own}
    right = [name for name in ("accuracy", "gaze") if name in cells]
    drawn = canvas((SIZE[0] / DPI, SIZE[1] / DPI))
    drawn.set_dpi(DPI)
    drawn.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    rows = [["circuit", name] for name in right] if "circuit" in cells else [[name] for name in right]
    grid = drawn.subplot_mosaic(rows, width_ratios=[1.55, 1] if "circuit" in cells else None)
    placed = [(cell, grid[name], cell.draw(grid[name]), False) for name, cell in cells.items()]
    steps, moving, shows = together(placed, said_each=False)
    if "circuit" in cells:
        steps = cells["circuit"].steps
    answer = (summary.get("answer") or {}).get("headline") or f"{summary['old']} → {summary['new']}"
    drawn.suptitle(wrapped(named(answer, LONGEST), SIZE[0] / DPI, 14), x=0.012, ha="left", fontsize=14, weight="bold")
    foot = drawn.supxlabel("", x=0.012, ha="left", fontsize=9, color=QUIET, family="monospace")
    model = named(str(summary.get("model", "")).rpartition("/")[2])

    def show(step: int) -> None:
        foot.set_text(f"step {step:>5}  ·  {model}  ·  → helps, ⊣ works against  ·  instar {named(summary['instar'])}")

    return Sheet(drawn, steps, [*moving, foot], [*shows, show], "")
