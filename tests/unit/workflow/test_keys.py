"""The key of a measurement is everything that decided it: what is changed is measured again, and nothing else is."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from instar.models.organism import FOLDER
from instar.record.config import RunConfig
from instar.tasks.custom import files_of
from instar.workflow.adopt import adopt
from instar.workflow.experiment import Experiment
from instar.workflow.jobs import jobs


@pytest.fixture
def series(tmp_path):
    """A base and two checkpoints in folders of their own, and the keys of their measurements by step."""
    for name in ("base", "out/checkpoint-1", "out/checkpoint-2"):
        shutil.copytree(FOLDER, tmp_path / name)
    config = {"model": str(tmp_path / "base"), "series": {"checkpoints": str(tmp_path / "out" / "checkpoint-*")}}

    def keys(data="data", **changes):
        experiment = Experiment.create(tmp_path / "run", RunConfig.checked(config | changes, "test"))
        adopt(experiment)
        found = {}
        for job in jobs(experiment, ["ioi2", "ioi3"], data):
            found.setdefault(job.step, {})[job.stage, job.task] = job.key
        return found

    return tmp_path, keys


def text(name, **changes):
    def change(folder):
        file = folder / name
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(known | changes))

    return change


def weights(folder):
    state = load_file(folder / "model.safetensors")
    state["transformer.ln_f.bias"] += 1
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


CHANGES = [
    text("config.json", activation_function="relu"),
    text("adapter_config.json", lora_alpha=64),
    text("tokenizer_config.json", add_bos_token=True),
    text("special_tokens_map.json", eos_token="x"),
    text("instar-delta.json", base="../other"),
    lambda folder: (folder / "modeling_own.py").write_text("# code of its own"),
    lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
    weights,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_of_a_checkpoint_measures_it_again(series, change):
    folder, keys = series
    before = keys()
    change(folder / "out" / "checkpoint-2")
    after = keys()
    assert not set(after[2].values()) & set(before[2].values())
    assert after[1] == before[1] and after[0] == before[0]


@pytest.mark.parametrize("change", [CHANGES[0], CHANGES[2], weights])
def test_a_changed_file_of_the_base_measures_all_again(series, change):
    folder, keys = series
    before = keys()
    change(folder / "base")
    after = keys()
    assert all(not set(after[step].values()) & set(before[step].values()) for step in (0, 1, 2))


def test_what_decides_no_number_measures_nothing_again(series):
    folder, keys = series
    before = keys()
    for name in ("trainer_state.json", "README.md", "training_args.bin", "generation_config.json"):
        (folder / "out" / "checkpoint-2" / name).write_text("{}")
    assert keys() == before
    assert keys(report={"gifs": False}) == before


def test_a_stage_s_own_numerics_version(series, monkeypatch):
    _, keys = series
    before = keys()
    monkeypatch.setattr("instar.__version__", "99.0")
    assert keys() == before, "an upgrade by itself measures nothing again"
    monkeypatch.setitem(__import__("instar.workflow.stages").workflow.stages.NUMERICS, "lens", 2)
    after = keys()
    assert {what for what in before[1] if before[1][what] != after[1][what]} == {("lens", "ioi2"), ("lens", "ioi3")}


def test_a_task_file_s_own_imports_are_part_of_the_data(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "parts_of_mine").mkdir()
    (tmp_path / "parts_of_mine" / "__init__.py").write_text("from parts_of_mine.words import NAMES\n")
    (tmp_path / "parts_of_mine" / "words.py").write_text("import random, numpy\nNAMES = ['Mary']\n")
    (tmp_path / "mine.py").write_text(
        "import json\nfrom parts_of_mine import words\nfrom instar import Pair\nTASK = 1\n"
    )
    own = {file.rsplit("/", 1)[-1] for file in files_of(str(tmp_path / "mine.py"))}
    assert own == {"mine.py", "__init__.py", "words.py"}
