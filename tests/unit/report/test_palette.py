"""GIF frames: one palette for all, in which a value has the colour of the colour map."""

import numpy as np

from instar.report.animate import COLOURS, indexed_frames
from instar.report.style import COLOUR, DIVERGING


def heat(values):
    return np.rint(255 * DIVERGING(values)[..., :3]).astype(np.uint8)


def test_every_value_has_its_colour_also_in_frames_unlike_the_last():
    """A palette from the last frame alone would have none of the first one's colours."""
    draw = np.random.default_rng(0)
    frames = [heat(draw.uniform(low, low + 0.2, (40, 50))) for low in (0.0, 0.3, 0.6, 0.45)]
    palette, indexed = indexed_frames(frames)
    assert palette.shape == (COLOURS, 3)
    for frame, own in zip(frames, indexed, strict=True):
        assert own.dtype == np.uint8 and own.shape == frame.shape[:2]
        assert np.abs(palette[own].astype(int) - frame).max() <= 3


def test_lines_and_text_keep_their_colours():
    frame = np.full((60, 60, 3), 255, np.uint8)
    line = [int(COLOUR["new"][i : i + 2], 16) for i in (1, 3, 5)]
    frame[10:12], frame[30:32] = line, (34, 38, 43)
    palette, (own,) = indexed_frames([frame])
    assert palette[own[10, 0]].tolist() == line and palette[own[0, 0]].tolist() == [255, 255, 255]
    assert np.abs(palette[own[30, 0]].astype(int) - (34, 38, 43)).max() <= 4
