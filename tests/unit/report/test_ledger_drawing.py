"""The ledger drawn: what is booked so far at each step, in its place."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from instar.report.drawings.ledger import ledger_cells
from instar.report.drawings.sheet import sheet


@dataclass
class Panels:
    """Of the panels only the summary is read."""

    summary: dict[str, Any]


def panels(**more):
    nodes = {"a0.h0": [1.0, -3.0], "a0.h1": [0.0, 0.5], "a1.h1": [0.25, 0.25], "m1": [2.0, 1.0], "token": [9.0, 9.0]}
    booked = {"Q,K": [1.0, -3.0], "V,O": [0.25, 0.75], "MLPs": [2.0, 1.0], "token": [9.0, 9.0], "norm": [0.0, -1.0]}
    choosing = {"gain": [12.25, 6.75], "booked": booked, "nodes": nodes}
    return Panels({"new": "ioi3", "instar": "x", "answer": {"ledger": {"steps": [8, 32], "choosing": choosing}}} | more)


def drawn():
    return sheet([ledger_cells(panels(), ("old", "new"))], "Where", "how", moves=True)


def test_every_head_and_mlp_is_in_its_place_and_bookings_add_up():
    grid = drawn()
    assert grid.steps == [0, 8, 32]
    image = grid.figure.axes[1].images[0]
    wanted = {0: np.zeros((2, 3)), 1: [[1, 0, 0], [0, 0.25, 2]], 2: [[-2, 0.5, 0], [0, 0.5, 3]]}
    for index, values in wanted.items():
        grid.show(index)
        np.testing.assert_allclose(image.get_array(), values)
    assert grid.figure.get_suptitle() == f"Where  ·  step {32:>4}"
    low, high = image.get_clim()
    assert low == -high == pytest.approx(-3)


def test_what_works_against_the_gain_lies_below_the_line():
    axes = drawn().figure.axes[0]
    lows = [float(path.vertices[:, 1].min()) for area in axes.collections for path in area.get_paths()]
    assert min(lows) == pytest.approx(-2)
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["Q,K", "V,O", "MLPs", "embeddings, norms, biases", "the gain"]


@pytest.mark.parametrize(
    "answer", [None, {"ledger": None}, {"ledger": {"steps": [8], "choosing": {"booked": {}, "gain": []}}}]
)
def test_without_a_ledger_over_time_nothing_is_drawn(answer):
    assert ledger_cells(panels(answer=answer), ("new",)) == []
    assert ledger_cells(panels(), ("old",)) == []
