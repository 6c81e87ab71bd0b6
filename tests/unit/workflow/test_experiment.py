"""A run by its directory or by a file: which one is meant, what may have changed since it was trained, what comes next."""

import shlex

import pytest
import yaml

from instar.record.config import RunConfig
from instar.record.store import SCHEMA
from instar.workflow.ending import ending
from instar.workflow.experiment import Experiment

OWN = {"train": {"steps": 8, "seeds": [0]}, "compare": {"controls": ["old"]}}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my run.yaml"
    path.write_text(yaml.safe_dump(OWN))
    return path


@pytest.fixture
def trained(tmp_path):
    """A directory whose main fine-tuning and control are done."""
    experiment = Experiment.create(tmp_path / "out", RunConfig.checked(OWN, "test"))
    for tuning in experiment.tunings:
        experiment.store.write_index(tuning, {"steps": [], "health": []})
    return experiment


def changed(file, **parts):
    file.write_text(yaml.safe_dump({k: OWN.get(k, {}) | parts.get(k, {}) for k in {*OWN, *parts}}))
    return file


def test_a_directory_and_a_file_name_the_same_run(file, trained):
    root = trained.store.root
    by_file, by_folder = Experiment.named(file, root), Experiment.named(root)
    assert by_file.config == by_folder.config == trained.config and by_file.store == by_folder.store == trained.store
    assert Experiment.named(root, root).store == trained.store
    # A command that is printed can be pasted: names with spaces, too.
    assert shlex.split(by_file.command("train")) == ["instar", "train", str(file), "--out", str(root)]
    assert shlex.split(by_folder.command("run", "--seeds", "0,1")) == ["instar", "run", str(root), "--seeds", "0,1"]


def test_what_names_no_run_is_refused(file, trained, tmp_path):
    for run, out, why in (
        (file, None, "a YAML file needs --out"),
        (tmp_path / "nothing", None, "no such file or directory"),
        (tmp_path, None, "is not a run directory"),
        (trained.store.root, tmp_path / "other", "leave it out"),
        (tmp_path / "none.yaml", tmp_path / "out", "no configuration file"),
    ):
        with pytest.raises(ValueError, match=why):
            Experiment.named(run, out)
    assert not (tmp_path / "other").exists()


def test_the_command_line_stands_in_for_the_file(file, trained):
    instead = {
        "train": {"seeds": "0, 1,2", "lora": "rank=4,alpha=8"},
        "compare": {"controls": "old,shuffled"},
        "model": {"device": "cpu"},
    }
    for config in (
        Experiment.named(file, trained.store.root, instead).config,
        Experiment.named(trained.store.root, None, instead).config,
    ):
        assert config.train.seeds == (0, 1, 2) and config.compare.controls == ("old", "shuffled")
        assert (config.train.lora.rank, config.train.lora.alpha) == (4, 8) and config.train.steps == 8
    with pytest.raises(ValueError, match="shufled"):
        Experiment.named(file, trained.store.root, {"compare": {"controls": "shufled"}})


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        ({"train": {"steps": 9}}, "train.steps: 9 (there: 8)"),
        ({"train": {"seeds": [1, 0]}}, "train.seeds: 1 (there: 0)"),
        ({"data": {"seed": 5}}, "data.seed: 5 (there: 0)"),
        ({"model": {"source": "gpt2"}}, "model.source: gpt2 (there: embedded)"),
        ({"tasks": {"new": "ioi4"}}, "tasks.new: ioi4 (there: ioi3)"),
    ],
)
def test_weights_are_not_measured_under_another_trainings_name(file, trained, parts, key):
    before = (trained.store.root / "config.yaml").read_bytes()
    with pytest.raises(ValueError, match="was trained by another configuration") as refused:
        Experiment.named(changed(file, **parts), trained.store.root).trained()
    assert key in str(refused.value) and "instar train" in str(refused.value)
    assert (trained.store.root / "config.yaml").read_bytes() == before


def test_what_does_not_decide_a_training_may_change(file, trained):
    parts = {
        "measure": {"chunk": 8},
        "data": {"measure_pairs": 16},
        "report": {"gifs": False},
        "train": {"seeds": [0, 1]},
    }
    experiment = Experiment.named(changed(file, **parts), trained.store.root).trained()
    assert Experiment.open(trained.store.root).config == experiment.config
    assert experiment.config.measure.chunk == 8 and experiment.config.train.seeds == (0, 1)
    with pytest.raises(ValueError, match=r"seed-1 has no finished fine-tuning; train it: instar train"):
        experiment.index(1)


def test_nothing_is_measured_where_nothing_was_trained(file, tmp_path):
    with pytest.raises(ValueError, match="holds no run yet; train it first: instar train"):
        Experiment.named(file, tmp_path / "new").trained()
    assert not (tmp_path / "new").exists()


def test_what_comes_next_is_one_stage_at_a_time_and_then_what_the_answer_misses(trained):
    root = trained.store.root
    for made, label, command in (
        ("measure/evaluate/ioi2/step-000000.nc", "measurements", "measure"),
        ("summary.json", "summary", "compare"),
        ("report/index.html", "page", "report"),
    ):
        assert ending(trained).commands == {label: f"instar {command} {root}"}
        trained.store.write_json(root / made, {"schema": SCHEMA, "answer": {"kind": "undetermined"}})
    last = ending(trained)
    assert last.commands == {
        "three seeds": f"instar run {root} --seeds 0,1,2",
        "shuffled control": f"instar run {root} --controls old,shuffled",
    }
    assert list(last.files) == ["page", "summary", "netCDF", "checkpoints"]
    assert all(value.startswith(str(root)) for value in last.files.values())
    # Where there is no answer, more of the same training brings none.
    trained.store.write_json(root / "summary.json", {"schema": SCHEMA, "answer": None})
    assert ending(trained).commands == {}


def test_a_training_that_is_not_finished_goes_on(trained):
    (trained.store.checkpoints(0) / "index.json").unlink()
    assert ending(trained).commands == {"training goes on": f"instar train {trained.store.root}"}
