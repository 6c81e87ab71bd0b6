"""GIFs of the stream, layer, head and patching panels: one frame a checkpoint, both tasks, fixed axes and scales.

The step is in each frame and so are the ticks; the last frame stays longer. Frames share one palette, because GIF
colours that change from frame to frame flicker.
"""

from collections.abc import Callable, Sequence
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
from instar.report.style import DIVERGING, QUIET, SETTINGS, figure, named

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


def _steady(drawn: Grid) -> list[np.ndarray]:
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
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return frames


def _frame(panels: Panels, step: int, kind: str) -> np.ndarray:
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
    return np.asarray(drawn.canvas.buffer_rgba())[..., :3].copy()


def _write(store: Store, kind: str, frames: list[np.ndarray]) -> None:
    palette, indexed = indexed_frames(frames)
    images = [Image.fromarray(own, mode="P") for own in indexed]
    for image in images:
        image.putpalette(palette.tobytes())
    times = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    with store.writing(store.report(f"{kind}.gif")) as scratch:
        images[0].save(scratch, save_all=True, append_images=images[1:], duration=times, loop=0, optimize=False)


LEVELS, GREYS, COLOURS = 144, 32, 256


def indexed_frames(frames: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """One palette `[colour, rgb]` for all frames `[row, column, rgb]`, and each frame as places in it.

    Its colours are levels of the colour map, so that a value has its colour in every frame, greys for text, and the commonest
    of what else is drawn. Each pixel has the nearest one.
    """
    packed = [frame.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32) for frame in frames]
    every, counts = np.unique(np.concatenate([own.ravel() for own in packed]), return_counts=True)
    seen = np.stack([every >> 16, every >> 8 & 255, every & 255], 1).astype(np.int32)
    mapped = np.rint(255 * DIVERGING(np.linspace(0, 1, LEVELS))[:, :3])
    greys = np.linspace(0, 255, GREYS).round()[:, None].repeat(3, 1)
    palette = np.concatenate([mapped, greys]).astype(np.int32)
    off = np.min([((seen - own) ** 2).sum(1) for own in palette], 0)
    while len(palette) < COLOURS:
        # What the palette is furthest from, most of all where there is much of it.
        worst = int(np.argmax(off * np.sqrt(counts)))
        palette = np.concatenate([palette, seen[worst : worst + 1]])
        off = np.minimum(off, ((seen - seen[worst]) ** 2).sum(1))
    nearest = np.argmin([((seen - own) ** 2).sum(1) for own in palette], 0).astype(np.uint8)
    return palette.astype(np.uint8), [nearest[np.searchsorted(every, own)] for own in packed]
