"""Every panel of a task by its name: what its files hold, how large they are, and what is refused."""

import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from instar.circuits.graph import Graph
from instar.record.store import Store
from instar.report import animate, figures
from instar.report.figures import PANELS, Wanted, write_animations, write_figures, write_panels
from instar.report.numbers.circuits import Circuits
from instar.report.numbers.interventions import BY_SLOT, SITES, Patched
from instar.report.numbers.panels import Panels, TaskPanels
from instar.stats.intervals import Interval

STEPS = [0, 4, 8]
SLOTS = ["intro1", "giver1", "end"]
BASE = {"input->a0.h0<q>": -4.0, "a0.h0->a1.h1<v>": -2.0, "a1.h1->logits": -3.0, "input->m0": 0.5, "m0->logits": 0.25}
LAST = {
    "input->a0.h0<q>": -4.5,
    "a0.h0->a1.h1<v>": 1.0,
    "a1.h1->logits": -3.5,
    "input->a1.h0<k>": -0.5,
    "a1.h0->logits": -1.0,
}


def interval(*shape: int) -> Interval:
    values = np.sin(np.arange(np.prod(shape))).reshape(shape)
    return Interval(values, values - 0.1, values + 0.1)


def circuits(*steps: dict[str, float], kv_heads: int = 2) -> Circuits:
    edges = [[*step.items()] for step in steps]
    return Circuits(STEPS, Graph(2, 2, kv_heads), "eap-ig", 8, "givers", 5, edges)


def made(**changes: Circuits) -> Panels:
    """A run of two layers of two heads on two tasks."""
    series = {key: [0.1, 0.5, 0.9] for key in ("accuracy", "logit_diff")}
    series |= {f"{key}_{end}": value for key, value in series.items() for end in ("low", "high")}
    sizes = {site: (3, 1, 2, len(SLOTS) if site in BY_SLOT else 2) for site in SITES}
    values = {site: {"reference": 0.5 * np.sin(np.arange(np.prod(size))).reshape(size)} for site, size in sizes.items()}
    gaze = np.zeros((3, 2, 2, 3, 3))
    gaze[:, 1, 1, -1] = [[0.9, 0.1, 0], [0.5, 0.5, 0], [0.2, 0.8, 0]]
    tasks = [
        TaskPanels(name, role, STEPS, ["0_pre", "0_mid", "1_pre", "1_mid", "final"], interval(3, 5), interval(3, 2, 2),
                   interval(3, 2, 2), SLOTS, gaze, np.zeros(0), [["x"]], 8)
        for name, role in (("easy", "old"), ("hard", "new"))
    ]  # fmt: skip
    patched = Patched(STEPS, ["giver1"], SLOTS, 8, [[interval()]] * 3, values, 8, "exact")
    booked = {"Q,K": [1.0, 0.5], "V,O": [0.5, 0.5]}
    ledger = {
        "gain": [1.5, 1.0],
        "booked": booked,
        "nodes": {"a0.h0": [1.0, 0.5], "a1.h1": [0.5, 0.5], "m1": [0.0, 0.0]},
    }
    summary = {
        "old": "easy", "new": "hard", "instar": "1", "model": "some/model",
        "tasks": {task.name: {"steps": STEPS, "pairs": 8, **series} for task in tasks},
        "answer": {"headline": "Transformed: it runs on the old circuit.", "ledger": {"steps": [4, 8], "choosing": ledger}},
        "dynamics": {"key": {"heads": [{"name": "a1.h1"}]}},
    }  # fmt: skip
    own = {"old": circuits(BASE, BASE, BASE), "new": circuits(BASE, BASE, LAST)} | changes
    return Panels(summary, tasks, {"old": patched, "new": patched}, own)


def texts(data: bytes) -> list[str]:
    root = ElementTree.fromstring(data)
    return ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text")]


def lines(cell):
    """What a circuit's cell shows at its last step: visible arrows, by colour and dash."""
    from matplotlib.patches import FancyArrowPatch

    from instar.report.style import canvas

    axes = canvas((6, 5)).subplots()
    drawn = cell.draw(axes)
    drawn.show(len(cell.steps) - 1)
    return [artist for artist in drawn.moving if isinstance(artist, FancyArrowPatch) and artist.get_visible()], drawn


def written(tmp_path, **wanted):
    return list(write_panels(Store(tmp_path), made(), Wanted(**wanted)))


def test_every_panel_is_drawn_of_each_task_and_its_text_is_text(tmp_path):
    files = written(tmp_path, task="new")
    assert [file.name for file in files] == [f"{name}-hard.svg" for name in PANELS]
    for file in files:
        said = texts(file.read_bytes())
        assert any("instar 1" in text for text in said), file.name
        assert file.name.startswith("ledger") or any("hard" in text for text in said), file.name
    assert [name for name, panel in PANELS.items() if not panel.cells(made(), ("old",))] == ["ledger"]


def test_a_paper_s_figure_is_as_wide_as_asked_and_has_its_caption_beside(tmp_path):
    files = written(tmp_path, panels=("heads",), task="new", width=3.3, formats=("svg", "pdf", "png"))
    svg, pdf, png, caption = files
    assert ElementTree.fromstring(svg.read_bytes()).get("width") == f"{3.3 * 72:g}pt"
    assert "hard (new task), step 8" in texts(svg.read_bytes())
    assert "positive helps the answer" in caption.read_text() and caption.name == "heads-hard.txt"
    assert not any("positive helps" in text for text in texts(svg.read_bytes()))
    with Image.open(png) as image:
        assert image.width == 3.3 * 300
    # TrueType, embedded: no outlines (Type 3).
    assert b"/FontFile2" in pdf.read_bytes() and b"/Type3" not in pdf.read_bytes()


def test_nothing_in_a_paper_s_figure_is_smaller_than_eight_points_or_overlaps(monkeypatch):
    from matplotlib import rc_context
    from matplotlib.text import Text

    from instar.report.drawings.sheet import sheet
    from instar.report.style import PAPER

    draw = Text.draw
    with rc_context(PAPER):
        for name in ("circuit", "gaze", "heads", "patched_stream", "output_value", "behaviour"):
            figure = sheet([PANELS[name].cells(made(), ("old", "new"))], name, "", width=3.3)
            figure.show(2)
            figure.figure.draw_without_rendering()
            shown = list[Text]()
            with monkeypatch.context() as patch:
                patch.setattr(Text, "draw", lambda own, renderer, shown=shown: (shown.append(own), draw(own, renderer)))
                figure.figure.canvas.draw()
            shown = [text for text in shown if text.get_visible() and text.get_text().strip()]
            assert {text.get_fontsize() for text in shown} == {8.0}, name
            boxes = [(text, text.get_window_extent()) for text in shown if text.get_rotation() in (0, 90)]
            for i, (one, box) in enumerate(boxes):
                assert figure.figure.bbox.padded(2).contains(*box.min), one
                assert figure.figure.bbox.padded(2).contains(*box.max), one
                for other, beside in boxes[i + 1 :]:
                    assert not box.padded(-1).overlaps(beside.padded(-1)), (name, one, other)


@pytest.mark.parametrize("kind", ["svg", "pdf", "png", "gif"])
def test_bytes_are_the_same_twice(tmp_path, kind):
    wanted = {"formats": (kind,), "panels": ("heads",), "task": "new", "width": 2.5}
    both = [[file.read_bytes() for file in written(tmp_path / place, **wanted)] for place in "ab"]
    assert both[0] == both[1] and len(both[0]) == 2


def test_an_animation_has_a_frame_a_step(tmp_path):
    for file in written(tmp_path, panels=("circuit", "stream", "patched_key"), task="both", formats=("gif",)):
        with Image.open(file) as image:
            assert image.n_frames == 3, file.name


def test_the_picture_to_show_is_small_has_the_answer_and_fits_a_preview(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "SHEETS", {})
    monkeypatch.setattr(figures, "ANIMATED", ())
    store = Store(tmp_path)
    poster = list(write_figures(store, made()))[-1]
    gif = list(write_animations(store, made(), lambda *_: None))[-1]
    assert (poster.name, gif.name) == ("poster.png", "circuit.gif")
    with Image.open(poster) as still, Image.open(gif) as moving:
        assert still.size == moving.size == (1200, 630) and moving.n_frames == 3
    assert gif.stat().st_size <= 2_000_000

    from instar.report.drawings.hero import hero

    assert hero(made()).figure.get_suptitle() == "Transformed: it runs on the old circuit."


def test_an_animation_that_would_be_too_large_has_fewer_frames_and_the_last(monkeypatch):
    frames = [np.full((4, 4, 3), i, np.uint8) for i in range(9)]
    monkeypatch.setattr(animate, "frames_of", lambda drawn: list(frames))
    monkeypatch.setattr(animate, "_encoded", lambda own: bytes(int(frame[0, 0, 0]) for frame in own))
    assert animate.gif(None) == bytes(range(9))  # type: ignore[arg-type]
    assert animate.gif(None, most=5) == bytes([0, 2, 4, 6, 8])  # type: ignore[arg-type]
    assert animate.gif(None, most=2) == bytes([0, 8])  # type: ignore[arg-type]


def test_the_circuit_draws_what_set_arithmetic_keeps_gains_and_loses():
    from matplotlib.colors import to_hex

    from instar.report.drawings.circuit import STYLES, sentence

    (cell,) = PANELS["circuit"].cells(made(), ("new",))
    arrows, _ = lines(cell)
    found = {kind: [a for a in arrows if to_hex(a.get_edgecolor()) == STYLES[kind][0]] for kind in STYLES}
    sets = {"kept": BASE.keys() & LAST.keys(), "gained": LAST.keys() - BASE.keys(), "lost": BASE.keys() - LAST.keys()}
    assert {kind: len(own) for kind, own in found.items()} == {kind: len(own) for kind, own in sets.items()}
    assert len(arrows) == len(BASE.keys() | LAST.keys())
    assert all(
        (a.get_linestyle() not in ("-", "solid")) is (kind == "lost") for kind, own in found.items() for a in own
    )
    assert sentence(made().circuits["new"], 2) == "5 of 46 edges: 3 kept, 2 gained, 2 lost since step 0"


def test_an_arrow_helps_and_a_bar_works_against():
    from matplotlib.patches import ArrowStyle

    (cell,) = PANELS["circuit"].cells(made(), ("new",))
    arrows, _ = lines(cell)
    scores = BASE | LAST
    bars = [a for a in arrows if isinstance(a.get_arrowstyle(), ArrowStyle.BarAB)]
    assert len(bars) == sum(score > 0 for score in scores.values()) == 3
    widest = max(arrows, key=lambda a: a.get_linewidth())
    assert widest.get_linewidth() == pytest.approx(4.0)


def test_the_first_step_with_a_circuit_is_what_others_are_compared_with():
    from instar.report.drawings.circuit import sentence

    own = circuits({}, BASE, LAST)
    assert sentence(own, 0) == "not measurable at step 0"
    assert sentence(own, 1) == "5 of 46 edges: what later steps are compared with"
    assert sentence(own, 2).endswith("2 lost since step 4, the first with a circuit")
    assert PANELS["circuit"].cells(made(new=circuits({}, {}, {})), ("new",)) == []


def test_shared_keys_are_read_under_all_their_heads():
    from instar.report.drawings.circuit import Places

    places = Places(2, 4, 2, (0.2, 0.2))
    assert places.read("a1.h1<k>")[0] == 2.5  # heads 2 and 3 read it
    assert places.read("a1.h1<q>")[0] < 1 and places.read("a1.h1<q>")[1] < 1
    one = Places(2, 4, 1, (0.2, 0.2))
    assert one.read("a1.h3<k>")[0] == 3.0 < one.read("a1.h3<v>")[0]


def test_the_gaze_is_of_the_key_head_s_last_token():
    from instar.report.style import canvas

    (cell,) = PANELS["gaze"].cells(made(), ("new",))
    axes = canvas((5, 4)).subplots()
    cell.draw(axes)
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert cell.title == "a1.h1, hard (new task)"
    assert (drawn["intro1"], drawn["giver1"]) == ([0.9, 0.5, 0.2], [0.1, 0.5, 0.8])


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"panels": ("circut",)}, "--panel circut: none of behaviour, circuit, gaze"),
        ({"formats": ("tiff",)}, "--format tiff: none of svg, pdf, png, gif, mp4, html"),
        ({"panels": ("heads",), "formats": ("html",)}, "a page of its own have circuit, behaviour, ledger"),
        ({"task": "other"}, r"--task other: none of both, old, new, or easy \(old\), hard \(new\)"),
        ({"step": 3, "panels": ("heads",)}, "--step 3: heads has steps 0, 4, 8"),
        ({"step": 4, "formats": ("gif",)}, "--step 4: gif shows every step"),
        ({"width": 0.5}, "--width 0.5: expected inches from 2 to 40"),
        ({"width": float("nan")}, "--width nan"),
        ({"panels": ("ledger",), "task": "old"}, "--panel ledger: nothing of it was measured for easy"),
    ],
)
def test_what_there_is_not_is_refused_by_name(tmp_path, wanted, said):
    with pytest.raises(ValueError, match=said):
        written(tmp_path, **wanted)
    assert not [*tmp_path.rglob("*.svg"), *tmp_path.rglob("*.gif")]


def test_mp4_wants_ffmpeg_and_gives_it_every_frame(tmp_path, monkeypatch):
    (places := tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(places))
    with pytest.raises(ValueError, match="no ffmpeg on this machine's PATH"):
        Wanted(formats=("mp4",))
    # One that says how it was called, and how much it was given.
    code = "import sys; print(' '.join(sys.argv[1:]), len(sys.stdin.buffer.read()))"
    (places / "ffmpeg").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    (places / "ffmpeg").chmod(0o755)
    assert subprocess.run([animate.ffmpeg()], input=b"", capture_output=True, check=True).stdout
    (file,) = written(tmp_path / "run", panels=("heads",), task="new", formats=("mp4",))
    words = file.read_text().split()
    columns, rows = map(int, words[words.index("-s") + 1].split("x"))
    assert columns % 2 == rows % 2 == 0
    assert int(words[-1]) == columns * rows * 3 * (3 + animate.LAST_MS // animate.FRAME_MS)
