"""GIFs of the stream, layer, head and patching panels: one frame a checkpoint, both tasks, fixed axes and scales.

The step is in each frame and so are the ticks; the last frame stays longer. Frames share one palette, because GIF
colours that change from frame to frame flicker.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import rc_context
from PIL import Image

from instar.progress import Tell
from instar.record.store import Store
from instar.report.figures import UNITS, caption, draw_heads, draw_layers, draw_stream
from instar.report.grids import GRIDS, Grid, grid
from instar.report.ledger import ledger_grid
from instar.report.numbers.panels import Panels, TaskPanels
from instar.report.style import QUIET, SETTINGS, figure, named

FRAME_MS, LAST_MS = 350, 2000
KINDS: dict[str, tuple[str, Callable[[Any, Panels, TaskPanels, int], Any]]] = {
    "stream": ("Logit lens of the residual stream", draw_stream),
    "layers": ("Direct logit attribution of layers", draw_layers),
    "heads": ("Direct logit attribution of heads", draw_heads),
}


def write_animations(store: Store, panels: Panels, tell: Tell) -> None:
    """`report/stream.gif`, `layers.gif`, `heads.gif`, the `patched_*.gif` of `instar.report.grids`, and `ledger.gif`."""
    if not panels.tasks:
        return
    steps = panels.tasks[0].steps  # the summary's, the same for every task
    total, done = (len(KINDS) + (len(GRIDS) if panels.patched else 0)) * len(steps), 0
    with rc_context(SETTINGS):
        for kind in KINDS:
            frames = []
            for step in steps:
                frames.append(_frame(panels, step, kind))
                done += 1
                tell(done, total, kind)
            _write(store, kind, frames)
        for kind in GRIDS:
            if (drawn := grid(panels, kind)) is not None:
                _write(store, kind, _steady(drawn))
                done += len(steps)
                tell(done, total, kind)
        if (drawn := ledger_grid(panels)) is not None:
            _write(store, "ledger", _steady(drawn))


def _steady(drawn: Grid) -> list[Image.Image]:
    """A frame a step: everything that stands still is drawn once, and what moves on top of it."""
    canvas = drawn.figure.canvas
    drawn.show(0)
    drawn.figure.draw_without_rendering()
    drawn.figure.set_layout_engine("none")
    for artist in drawn.moving:
        artist.set_animated(True)
    canvas.draw()
    behind = canvas.copy_from_bbox(drawn.figure.bbox)
    frames = []
    for index in range(len(drawn.steps)):
        canvas.restore_region(behind)
        drawn.show(index)
        for artist in drawn.moving:
            (artist.axes or drawn.figure).draw_artist(artist)
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    return frames


def _frame(panels: Panels, step: int, kind: str) -> Image.Image:
    title, draw = KINDS[kind]
    drawn, axes = figure(len(panels.tasks))
    image = None
    for one, task in zip(axes, panels.tasks, strict=True):
        image = draw(one, panels, task, task.steps.index(step)) or image
        one.set_title(f"{named(task.name)} ({task.role} task)")
    if image is not None:
        drawn.colorbar(image, ax=axes, label=UNITS)
    drawn.suptitle(f"{title}  ·  step {step:>4}", x=0.01, ha="left", family="monospace", fontsize=11)
    drawn.supxlabel(caption(panels, kind), fontsize=7, color=QUIET)
    drawn.canvas.draw()
    pixels = np.asarray(drawn.canvas.buffer_rgba())[..., :3].copy()
    return Image.fromarray(pixels)


def _write(store: Store, kind: str, frames: list[Image.Image]) -> None:
    # The palette of the last frame, where the colours are most spread, serves all.
    palette = frames[-1].quantize(colors=128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    times = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    with store.writing(store.report(f"{kind}.gif")) as scratch:
        indexed[0].save(scratch, save_all=True, append_images=indexed[1:], duration=times, loop=0, optimize=False)
