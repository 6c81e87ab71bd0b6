"""What drawing leaves alone."""

import os
import subprocess
import sys

DRAWS = """
import matplotlib
from matplotlib import pyplot
from instar.report import animate, figures, grids, page
from instar.report.style import figure
assert matplotlib.get_backend() == "svg", matplotlib.get_backend()
drawn, axes = figure(2)
drawn.canvas.draw()
assert len(axes) == 2 and drawn.canvas.buffer_rgba() and pyplot.get_fignums() == []
"""


def test_drawing_leaves_a_notebook_s_backend_as_it_is():
    done = subprocess.run(
        [sys.executable, "-c", DRAWS], capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "svg"}
    )
    assert done.returncode == 0, done.stderr
