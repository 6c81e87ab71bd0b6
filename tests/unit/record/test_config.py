"""The configuration: strict, explained, stable."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from instar.record.config import DataConfig, MeasureConfig, RunConfig, TrainConfig
from instar.record.keys import digest
from instar.workflow.demo import demo_config


def written(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_twenty_lines_say_it_all_and_survive_a_round_trip(tmp_path):
    config = RunConfig.read(
        written(tmp_path, "model: gpt2\ntasks: {new: ioi4}\ntrain: {steps: 20, checkpoints: [4, 8]}\n")
    )
    assert config.model.source == "gpt2" and config.tasks.new == "ioi4"
    assert RunConfig.read(written(tmp_path, config.yaml())) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {stepps: 3}", "run.yaml: train.stepps: unknown key; did you mean 'steps'?"),
        ("trian: {}", "run.yaml: trian: unknown key; did you mean 'train'?"),
        ("train: {steps: -1}", "run.yaml: train.steps: .* found -1"),
        ("train: {loss: everything}", "run.yaml: train.loss: .* found 'everything'"),
        ("train: {checkpoints: [900]}", "must lie between 0 and steps=184"),
        ("train: {checkpoints: {learning: 2}}", "train.checkpoints: .*of keys there is one, learning: .* from 3 to"),
        ("train: {checkpoints: {learnt: 9}}", "train.checkpoints: .*of keys there is one, learning: "),
        ("model: {device: 'cuda:1'}\nmeasure: {executor: ray}", "a GPU of its own: give model.device cuda"),
        ("- a", "run.yaml holds list, expected keys and values"),
        ("a: [", "run.yaml is not YAML"),
    ],
)
def test_mistakes_are_named_with_the_nearest_key(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        RunConfig.read(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no configuration file .*nothing.yaml"):
        RunConfig.read(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("checkpoints", "steps"),
    [
        (8, [0, 8, 16, 20]),
        ("log", [0, 1, 2, 4, 8, 16, 20]),
        ((3, 5), [0, 3, 5, 20]),
        ("3,5", [0, 3, 5, 20]),
        ({"learning": 6}, [0, 20]),
        ("learning=6", [0, 20]),
    ],
)
def test_schedules_always_hold_the_base_and_the_last_step(checkpoints, steps):
    assert TrainConfig(steps=20, checkpoints=checkpoints).checkpoint_steps() == steps


def test_where_learning_decides_there_are_so_many_at_most():
    own = TrainConfig(steps=20, checkpoints={"learning": 6})
    assert own.most_checkpoints == 6 and TrainConfig.model_validate(own.model_dump(mode="json")) == own
    assert TrainConfig(steps=3, checkpoints="learning=24").most_checkpoints == 4
    assert TrainConfig(steps=20).most_checkpoints == 4


def test_the_hash_is_stable_and_sees_every_change():
    one = RunConfig().train.model_dump(mode="json")
    assert digest(one) == digest(RunConfig().train.model_dump(mode="json")) == digest(dict(reversed(one.items())))
    assert digest(one) != digest(TrainConfig(steps=9).model_dump(mode="json"))


def test_pairs_for_interventions_are_taken_from_the_test_set():
    with pytest.raises(ValidationError, match="circuit_pairs .twice.* takes 64 of data.test_size=40"):
        RunConfig(data=DataConfig(test_size=40, measure_pairs=20), measure=MeasureConfig(patching_pairs=8))


def test_a_configuration_is_frozen():
    with pytest.raises(ValidationError):
        RunConfig().threads = 3


def test_every_example_is_valid_and_the_main_one_is_the_demo():
    folder = Path(__file__).parents[3] / "examples"
    found = {path.name: RunConfig.read(path) for path in folder.glob("*.yaml")}
    assert found["ioi3.yaml"] == demo_config()
    assert len(found) >= 2


def test_a_series_of_somebody_elses_is_one_fine_tuning():
    own = RunConfig.model_validate({"model": "embedded", "series": {"checkpoints": "out/checkpoint-*"}})
    assert own.train.seeds == (0,) and own.compare.controls == ()
    with pytest.raises(ValueError, match="series holds one fine-tuning"):
        RunConfig.model_validate({"series": {"checkpoints": "x-*"}, "train": {"seeds": [0, 1]}})
