"""What drawing leaves alone."""

import os
import subprocess
import sys

DRAWS = """
import matplotlib
from matplotlib import pyplot
from instar.report import figures, page
from instar.report.style import canvas
assert matplotlib.get_backend() == "svg", matplotlib.get_backend()
drawn = canvas((4, 3))
drawn.subplots(1, 2)
drawn.canvas.draw()
assert drawn.canvas.buffer_rgba() and pyplot.get_fignums() == []
"""


def test_drawing_leaves_a_notebook_s_backend_as_it_is():
    done = subprocess.run(
        [sys.executable, "-c", DRAWS], capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "svg"}
    )
    assert done.returncode == 0, done.stderr
