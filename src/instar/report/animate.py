"""Sheets as animations, a frame a step: GIF by Pillow, MP4 by an ffmpeg that is on the machine.

What stands still is drawn once. The last frame stays longer. Frames of a GIF share one palette, because colours that change
from frame to frame flicker.
"""

import shutil
import subprocess
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from instar.report.drawings.sheet import Sheet
from instar.report.style import DIVERGING

FRAME_MS, LAST_MS = 350, 2000


def frames_of(drawn: Sheet) -> list[np.ndarray]:
    """A picture `[row, column, rgb]` a step: everything that stands still is drawn once, and what moves on top of it."""
    canvas, figure = drawn.figure.canvas, drawn.figure
    drawn.show(len(drawn.steps) - 1)  # what is longest mostly; room is made for it
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for artist in drawn.moving:
        artist.set_animated(True)
    canvas.draw()
    behind = canvas.copy_from_bbox(figure.bbox)
    frames = []
    for index in range(len(drawn.steps)):
        canvas.restore_region(behind)
        drawn.show(index)
        for artist in sorted(drawn.moving, key=lambda artist: artist.zorder):
            (artist.axes or figure).draw_artist(artist)
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return frames


def gif(drawn: Sheet, most: int | None = None) -> bytes:
    """A GIF that loops. One of more than `most` bytes has every second frame only, and so on; the last is always there."""
    frames = frames_of(drawn)
    while True:
        content = _encoded(frames)
        if most is None or len(content) <= most or len(frames) < 3:
            return content
        frames = frames[::-2][::-1]


def _encoded(frames: list[np.ndarray]) -> bytes:
    palette, indexed = indexed_frames(frames)
    images = [Image.fromarray(own, mode="P") for own in indexed]
    for image in images:
        image.putpalette(palette.tobytes())
    times = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    images[0].save(
        content := BytesIO(), "GIF", save_all=True, append_images=images[1:], duration=times, loop=0, optimize=False
    )
    return content.getvalue()


def ffmpeg() -> str:
    """Where it is.

    Raises:
        ValueError: where it is not.
    """
    found = shutil.which("ffmpeg")
    if found is None:
        raise ValueError(
            "--format mp4: there is no ffmpeg on this machine's PATH; install it, or take gif, which needs none"
        )
    return found


def mp4(drawn: Sheet) -> bytes:
    """H.264 in MP4, as browsers and slides play it."""
    frames = frames_of(drawn)
    frames += frames[-1:] * (LAST_MS // FRAME_MS)
    rows, columns = (n - n % 2 for n in frames[0].shape[:2])  # its colours are of two by two points
    command = [ffmpeg(), "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{columns}x{rows}"]
    command += ["-r", f"1000/{FRAME_MS}", "-i", "-", "-an", "-c:v", "libx264", "-pix_fmt", "yuv420p"]
    command += ["-crf", "18", "-bf", "0"]
    # Written as a stream, an MP4 can hold no index at its end; bit-exact, it holds no date or version.
    command += [
        "-flags",
        "+bitexact",
        "-fflags",
        "+bitexact",
        "-movflags",
        "frag_keyframe+empty_moov",
        "-f",
        "mp4",
        "-",
    ]
    raw = b"".join(frame[:rows, :columns].tobytes() for frame in frames)
    done = subprocess.run(command, input=raw, capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f"ffmpeg made no mp4: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return done.stdout


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
