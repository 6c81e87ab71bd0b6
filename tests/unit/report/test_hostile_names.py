"""Foreign names in drawings: spelt as they are, never read as a formula, and no control character in an SVG."""

from io import BytesIO
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.text import Text

from instar.circuits.graph import Graph
from instar.record.store import Store
from instar.report.figures import draw_behaviour, write_animations, write_figures
from instar.report.numbers.circuits import Circuits
from instar.report.numbers.interventions import SITES, Patched
from instar.report.numbers.panels import Panels, TaskPanels
from instar.report.style import LONGEST_NAME, SETTINGS, named
from instar.stats.intervals import Interval

HOSTILE = [
    r"$\frac{1$",
    r"$\undefined{x}$ and $",
    r"a\$b\\",
    "\x1b]0;PWNED\x07\x1b[31m",
    "\x00\x08\x9b31m\u202e\ud800",
    "-->--]]><script>alert(1)</script>&amp;",
    "_hidden",
    "two\nlines\rand\ttabs",
    "x" * 100_000,
    "",
]


def interval(*shape) -> Interval:
    values = np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
    return Interval(values, values - 0.1, values + 0.1)


def panels(name: str) -> Panels:
    """Everything that is drawn, and every name in it is this one."""
    steps = [0, 4]
    series = {key: [0.1, 0.9] for key in ("accuracy", "logit_diff")}
    series |= {f"{key}_{end}": value for key, value in series.items() for end in ("low", "high")}
    values = {
        s: {"reference": np.full((2, 1, 2, 3), 0.5)} for s in SITES if s in ("resid_pre", "z", "v", "pattern", "q")
    }
    patched = Patched(steps, [name], [name] * 3, 4, [[interval()]] * 2, values, 8, "exact")
    old = TaskPanels(
        name, "old", steps, [f"{name}_pre", "0_mid", "final"], interval(2, 3), interval(2, 2, 2), interval(2, 2, 3),
        [name], np.full((2, 2, 3, 1, 1), 0.5), np.zeros(0), [[name]], 8,
    )  # fmt: skip
    edges = [[("input->a0.h0<q>", -1.0), ("a0.h0->logits", 0.5)]] * 2
    circuit = Circuits(steps, Graph(2, 3, 3), name, 8, name, 2, edges)
    summary = {"old": name, "new": name, "instar": name, "tasks": {name: {"steps": steps, "pairs": 8, **series}}}
    summary |= {"model": name, "answer": {"headline": name}, "dynamics": {"key": {"heads": [{"name": "a0.h0"}]}}}
    return Panels(summary, [old], {"old": patched}, {"old": circuit, "new": circuit})


def svg(data: bytes) -> None:
    """It is well-formed XML, a drawing, and has no script."""
    root = ElementTree.fromstring(data)
    assert root.tag.endswith("svg") and not [e for e in root.iter() if e.tag.endswith("script")]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_figure_is_drawn_whatever_its_tasks_are_called(name):
    with rc_context(SETTINGS):
        draw_behaviour(panels(name).summary).savefig(drawn := BytesIO(), format="svg")
    svg(drawn.getvalue())


@pytest.mark.parametrize("name", ["".join(HOSTILE[:5]), "W" * 100_000], ids=["mixed", "long"])
def test_every_figure_is_drawn_whatever_things_are_called(name, tmp_path):
    with rc_context({"text.usetex": True, "text.parse_math": True}):  # a user's own settings do not count
        drawn = list(write_figures(Store(tmp_path), panels(name)))
    assert len(drawn) == 2 * 9 + 1 and all(file.exists() for file in drawn)
    for file in drawn:
        if file.suffix == ".svg":
            svg(file.read_bytes())


def test_animations_are_drawn_too(tmp_path):
    written = list(write_animations(Store(tmp_path), panels(HOSTILE[0] + HOSTILE[3]), lambda *_: None))
    assert sorted(written) == sorted((tmp_path / "report").glob("*.gif")) and len(written) == 7


def test_a_name_is_spelt_as_it_is():
    assert named(r"a $\alpha$ \ $ b") == r"a $\alpha$ \ $ b"
    assert named("\x1b[31mred") == "\ufffd[31mred" and named("a\nb") == "a b"
    assert len(named("x" * 100_000)) == LONGEST_NAME and named("x" * 100).endswith("…")
    with rc_context(SETTINGS):
        drawn = draw_behaviour(panels("_$x^2$").summary)
        drawn.canvas.draw()
        texts = [t for t in drawn.findobj(Text) if "$x^2$" in t.get_text()]
        assert any(t.get_text() == " _$x^2$ (old task)" for t in texts)  # the legend has it
        assert not any(t.get_parse_math() or t.get_usetex() for t in texts)
    assert matplotlib.rcParams["text.parse_math"]
