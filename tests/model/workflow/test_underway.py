"""The page of a run under way: made of what is measured so far, in a share of the time, and never in the way."""

import json
import shutil

import pytest

from instar.workflow import underway
from instar.workflow.experiment import Experiment
from instar.workflow.pipeline import measure_stage
from instar.workflow.underway import SHARE, UnderWay


@pytest.fixture
def unmeasured(small_run, tmp_path):
    """The small run as it was before anything was measured."""
    root = shutil.copytree(small_run, tmp_path / "run")
    for part in ("measure", "compare", "report"):
        shutil.rmtree(root / part)
    (root / "summary.json").unlink()
    return root


def first(page) -> dict:
    return json.loads(page.read_text().split('id="first">')[1].split("</script>")[0])


def test_the_page_grows_with_what_is_measured(unmeasured, monkeypatch):
    monkeypatch.setattr(underway, "SHARE", 1e9)
    experiment, seen, page = Experiment.open(unmeasured), [], unmeasured / "report" / "index.html"
    shown = UnderWay(experiment)

    def after(done: int, total: int, note: str) -> None:
        shown(done, total, note)
        if page.exists():
            own = first(page)
            seen.append((own["tasks"]["new"]["steps"], own["under_way"]))

    measure_stage(experiment, stages=("evaluate",), after=after)
    # Asked after each file; the new task's comes behind the old one's of its checkpoint, the control's last.
    assert [list(steps) for steps in dict.fromkeys(tuple(own) for own, _ in seen)] == [[0], [0, 4], [0, 4, 8]]
    for _, said in seen:
        assert said.startswith("under way, ") and "measurements are there; the last: step" in said
    # What stands in a run directory as its summary is of a whole run.
    assert not (unmeasured / "summary.json").exists()


def test_no_more_than_its_share_of_the_time(monkeypatch):
    clock, made = [0.0], []

    def page(experiment, text):
        made.append(clock[0])
        clock[0] += 3

    monkeypatch.setattr(underway, "page", page)
    monkeypatch.setattr(underway.time, "monotonic", lambda: clock[0])
    shown = UnderWay(None, _began=0.0)  # pyright: ignore[reportArgumentType]
    for done in range(1000):
        clock[0] += 1
        shown(done, 1000, "step 4")
    assert made[0] == 1 and len(made) > 20
    assert 3 * len(made) <= SHARE * clock[0]


def test_what_goes_wrong_is_said_once_and_measuring_goes_on(monkeypatch, capsys):
    asked = []

    def page(experiment, text):
        asked.append(text)
        raise KeyError("x")

    monkeypatch.setattr(underway, "page", page)
    monkeypatch.setattr(underway, "SHARE", 1e9)
    shown = UnderWay(None)  # pyright: ignore[reportArgumentType]
    for done in range(3):
        shown(done, 3, "step 4")
    assert len(asked) == 1 and capsys.readouterr().err.count("was not written") == 1
