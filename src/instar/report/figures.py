"""Every panel by its name, and the files they are drawn into: SVG, PDF and PNG at one step, GIF and MP4 over all of them, and
some as a page of their own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib import rc_context

from instar.notebook import printable
from instar.progress import Tell
from instar.record.names import as_file_name
from instar.record.store import Store
from instar.report.animate import ffmpeg, gif, mp4
from instar.report.drawings import circuit, direct, ledger, over_steps, patched
from instar.report.drawings.cell import Cell
from instar.report.drawings.hero import DPI, hero
from instar.report.drawings.sheet import Sheet, Table, sheet
from instar.report.numbers.interventions import SITES
from instar.report.numbers.page_data import page_data
from instar.report.numbers.panels import Panels
from instar.report.page import ALONE, alone
from instar.report.style import PAPER, SETTINGS, named

ROLES = ("old", "new")
STILL, MOVING, EMBEDDED = ("svg", "pdf", "png"), ("gif", "mp4"), "html"
FORMATS = (*STILL, *MOVING, EMBEDDED)
NARROWEST, WIDEST = 2.0, 40.0
HERO_BYTES = 2_000_000


@dataclass(frozen=True)
class Panel:
    """What can be drawn: of some tasks, a row of cells; none where it was not measured."""

    title: str
    cells: Callable[[Panels, tuple[str, ...]], list[Cell]]
    caption: Callable[[Panels], str]


def _fixed(text: str) -> Callable[[Panels], str]:
    return lambda panels: text


def _direct(text: str, bands: str = "; bands and lines 95 % (bootstrap over pairs)") -> Callable[[Panels], str]:
    def caption(panels: Panels) -> str:
        pairs = ", ".join(f"{named(t.name)} {t.pairs}" for t in panels.tasks)
        return f"{text}; logit difference: {direct.UNITS}; held-out pairs: {pairs}{bands}"

    return caption


_WRITERS = "direct logit attribution: final norm's scale frozen; z W_O without output bias; positive helps the answer"
_LENS = "logit lens: final norm recomputed at every stage"


def _patched(site: str) -> Panel:
    return Panel(f"Patched: {SITES[site]}", partial(patched.patched_cells, site), patched.convention)


def _against(site: str) -> Panel:
    return Panel(f"Head output against {SITES[site]}", partial(patched.scatter_cells, site), patched.convention)


PANELS: dict[str, Panel] = {
    "behaviour": Panel("Behaviour", over_steps.behaviour_cells, _fixed(over_steps.BEHAVIOUR)),
    "circuit": Panel("Circuit", circuit.circuit_cells, circuit.convention),
    "gaze": Panel("Where the key head looks", over_steps.gaze_cells, _fixed(over_steps.GAZE)),
    "ledger": Panel("Where the gain was written", ledger.ledger_cells, _fixed(ledger.CONVENTION)),
    "stream": Panel("Logit lens of the residual stream", partial(direct.direct_cells, direct.stream), _direct(_LENS)),
    "layers": Panel(
        "Direct logit attribution of layers", partial(direct.direct_cells, direct.layers), _direct(_WRITERS)
    ),
    "heads": Panel(
        "Direct logit attribution of heads", partial(direct.direct_cells, direct.heads), _direct(_WRITERS, "")
    ),
    "patched_stream": _patched("resid_pre"),
    "patched_attention": _patched("attn_out"),
    "patched_mlp": _patched("mlp_out"),
    "patched_output": _patched("z"),
    "patched_query": _patched("q"),
    "patched_key": _patched("k"),
    "patched_value": _patched("v"),
    "patched_pattern": _patched("pattern"),
    "output_value": _against("v"),
    "output_pattern": _against("pattern"),
}
SHEETS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{name: (PANELS[name].title, (name,)) for name in ("behaviour", "stream", "layers", "heads")},
    "patched_residual": (
        "Residual stream, attention and MLP outputs patched",
        ("patched_stream", "patched_attention", "patched_mlp"),
    ),
    "patched_heads": (
        "Heads patched",
        ("patched_output", "patched_query", "patched_key", "patched_value", "patched_pattern"),
    ),
    "patched_scatter": ("Head outputs against values and pattern", ("output_value", "output_pattern")),
    **{name: (PANELS[name].title, (name,)) for name in ("ledger", "circuit", "gaze")},
}
"""The files of a report, and the panels in them: a row each, both tasks beside each other."""
ENDS = ("stream", "layers", "heads")
"""Sheets that are drawn at both ends, a row a task."""
ANIMATED = tuple(name for name in SHEETS if name not in ("behaviour", "gaze", "circuit"))
"""The circuit's animation is the hero's."""


def _sheet(panels: Panels, name: str, moves: bool) -> Sheet | None:
    title, names = SHEETS[name]
    rows: Table = [row for own in names if (row := PANELS[own].cells(panels, ROLES))]
    if not rows:
        return None
    ends = name in ENDS and not moves
    rows = [[cell] for row in rows for cell in row] if ends else rows
    return sheet(rows, title, _caption(panels, names[0]), ends=ends, moves=moves)


def _caption(panels: Panels, name: str) -> str:
    return f"{PANELS[name].caption(panels)}; instar {named(panels.summary['instar'])}"


def draw_behaviour(summary: dict[str, Any]) -> Any:
    """Accuracy and logit difference of both tasks over steps, with 95 % bands."""
    with rc_context(SETTINGS):
        drawn = _sheet(Panels(summary, [], {}, {}), "behaviour", moves=False)
    assert drawn is not None
    return drawn.figure


def write_figures(store: Store, panels: Panels) -> Iterator[Path]:
    """`report/figures/*.png` and `.svg`, each as it is written, and `report/poster.png`."""
    with rc_context(SETTINGS):
        for name in SHEETS:
            if (drawn := _sheet(panels, name, moves=False)) is not None:
                drawn.show(len(drawn.steps) - 1)
                yield from _save(store, f"figures/{name}", drawn.figure, ("png", "svg"))
        poster = hero(panels)
        poster.show(len(poster.steps) - 1)
        yield from _save(store, "poster", poster.figure, ("png",), DPI)


def write_animations(store: Store, panels: Panels, tell: Tell) -> Iterator[Path]:
    """`report/*.gif`, each as it is written: a frame a step; the circuit's, with the answer burnt in, has at most 2 MB."""
    with rc_context(SETTINGS):
        for done, name in enumerate(ANIMATED):
            tell(done, len(ANIMATED) + 1, name)
            if (drawn := _sheet(panels, name, moves=True)) is not None:
                yield _put(store, f"{name}.gif", _bytes(gif(drawn)))
        tell(len(ANIMATED), len(ANIMATED) + 1, "circuit")
        if circuit.circuit_cells(panels, ("new",)):
            yield _put(store, "circuit.gif", _bytes(gif(hero(panels), HERO_BYTES)))
        tell(len(ANIMATED) + 1, len(ANIMATED) + 1, "")


@dataclass(frozen=True)
class Wanted:
    """Some panels in files of their own.

    Raises:
        ValueError: for a name, format or width that there is not, saying which there are.
    """

    panels: tuple[str, ...] = ()
    """All that were measured, if none is named."""
    task: str = "both"
    formats: tuple[str, ...] = ("svg",)
    step: int | None = None
    """The last, if not given."""
    width: float | None = None
    """In inches: text has 8 points, and the caption stands in a `.txt` beside."""

    def __post_init__(self) -> None:
        for option, found, offered in (("--panel", self.panels, PANELS), ("--format", self.formats, FORMATS)):
            for one in found:
                if one not in offered:
                    raise ValueError(f"{option} {one}: none of {', '.join(offered)}")
        if self.width is not None and not NARROWEST <= self.width <= WIDEST:
            raise ValueError(
                f"--width {self.width:g}: expected inches from {NARROWEST:g} to {WIDEST:g} (papers: 3.3, 6.9)"
            )
        if self.step is not None and (moving := [one for one in self.formats if one in MOVING]):
            still = ", ".join((*STILL, EMBEDDED))
            raise ValueError(f"--step {self.step}: {moving[0]} shows every step; --step is for {still}")
        without = [one for one in self.panels if one not in ALONE]
        if EMBEDDED in self.formats and without:
            raise ValueError(f"--format html with --panel {without[0]}: a page of its own have {', '.join(ALONE)}")
        if self.width is not None and self.formats == (EMBEDDED,):
            raise ValueError("--width: an html page is as wide as the place that it stands in")
        if "mp4" in self.formats:
            ffmpeg()


def write_panels(store: Store, panels: Panels, wanted: Wanted) -> Iterator[Path]:
    """`report/figures/PANEL-TASK.FORMAT` of what is wanted, each as it is written.

    Raises:
        ValueError: for a task or step that there is not, or a panel that was named and not measured.
    """
    roles, of = roles_of(panels.summary, wanted.task)
    with rc_context(SETTINGS if wanted.width is None else PAPER):
        drawn = {}
        for name in wanted.panels or PANELS:
            row = PANELS[name].cells(panels, roles)
            if row:
                drawn[name] = row
            elif wanted.panels:
                raise ValueError(f"--panel {name}: nothing of it was measured for {of}")
        if not drawn:
            raise ValueError(f"{store.root}: no panel was measured for {of}")
        first = page_data(panels, store)[0] if EMBEDDED in wanted.formats else {}
        for name, row in drawn.items():
            file = f"figures/{name}-{of}"
            if EMBEDDED in wanted.formats and name in ALONE:
                step = _place(panels.summary["tasks"][panels.summary["new"]]["steps"], wanted.step, name)
                page = alone(first, name, roles[-1], step)
                yield _put(store, f"{file}.html", _bytes(page.encode()))
            yield from _write(store, panels, wanted, name, file, row)


def _write(store: Store, panels: Panels, wanted: Wanted, name: str, file: str, row: list[Cell]) -> Iterator[Path]:
    title, caption = PANELS[name].title, _caption(panels, name)
    drawn = [kind for kind in wanted.formats if kind != EMBEDDED]
    own = {moves: [kind for kind in drawn if (kind in MOVING) is moves] for moves in (False, True)}
    for moves, formats in own.items():
        if not formats:
            continue
        one = sheet([row], title, caption, wanted.width, moves=moves)
        if moves:
            for kind, encoded in {"gif": gif, "mp4": mp4}.items():
                if kind in formats:
                    yield _put(store, f"{file}.{kind}", _bytes(encoded(one)))
        else:
            one.show(_place(one.steps, wanted.step, name))
            yield from _save(store, file, one.figure, tuple(formats))
        if one.caption:
            yield _put(store, f"{file}.txt", _bytes(one.caption.encode()))


def roles_of(summary: dict[str, Any], task: str) -> tuple[tuple[str, ...], str]:
    """What a task's option means, and what its files are called.

    Raises:
        ValueError: for a task that there is not.
    """
    if task == "both":
        return ROLES, task
    found = [role for role in ROLES if task == role] or [role for role in ROLES if task == summary[role]]
    if not found:
        names = ", ".join(f"{printable(summary[role])} ({role})" for role in ROLES)
        raise ValueError(f"--task {task}: none of both, old, new, or {names}")
    return tuple(found), as_file_name(summary[found[0]])


def _place(steps: list[int], step: int | None, name: str) -> int:
    if step is None:
        return len(steps) - 1
    if step not in steps:
        raise ValueError(f"--step {step}: {name} has steps {', '.join(map(str, steps))}")
    return steps.index(step)


def _save(store: Store, file: str, drawn: Any, kinds: tuple[str, ...], dpi: int | None = None) -> Iterator[Path]:
    # Laid out once: the layout takes longer than the drawing.
    drawn.draw_without_rendering()
    drawn.set_layout_engine("none")
    # Without dates and versions the same run gives the same bytes.
    without = {"svg": ("Date",), "pdf": ("CreationDate", "Creator", "Producer"), "png": ("Software",)}
    for kind in kinds:
        how = {"metadata": dict.fromkeys(without[kind]), **({} if dpi is None else {"dpi": dpi})}
        yield _put(store, f"{file}.{kind}", lambda place, kind=kind, how=how: drawn.savefig(place, format=kind, **how))


def _bytes(content: bytes) -> Callable[[Path], Any]:
    return lambda place: place.write_bytes(content)


def _put(store: Store, file: str, write: Callable[[Path], Any]) -> Path:
    """A file of `report/`, and where it is now."""
    names = file.split("/")
    with store.writing(store.report(*names)) as scratch:
        write(scratch)
    return store.report(*names)
