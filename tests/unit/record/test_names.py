"""Devices, types and places by the names that people give them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.record.config import RunConfig
from instar.record.names import DTYPES, at_home, device_name, dtype_name


@pytest.mark.parametrize(
    ("said", "meant"),
    [("gpu", "cuda"), ("GPU:1", "cuda:1"), ("cuda", "cuda"), ("cuda:0", "cuda:0"), ("cpu", "cpu"), ("mps", "mps")],
)
def test_devices(said, meant):
    assert device_name(said) == meant == RunConfig.checked({"model": {"device": said}}, "here").model.device


@pytest.mark.parametrize(
    ("said", "meant"), [("bf16", "bfloat16"), ("fp16", "float16"), ("half", "float16"), ("double", "float64")]
)
def test_types(said, meant):
    assert dtype_name(said) == meant == RunConfig.checked({"model": {"dtype": said}}, "here").model.dtype
    assert dtype_name(f"torch.{meant}") == meant


@pytest.mark.parametrize("named", [dtype_name, device_name])
@given(text=st.text("xyz07:.-_ é", max_size=8))
def test_anything_else_is_refused_with_the_list(named, text):
    with pytest.raises(ValueError, match=r"is none of (float32, float64|cpu, cuda)") as error:
        named(text)
    assert repr(text) in str(error.value)


def test_the_configuration_names_key_value_and_list():
    with pytest.raises(ValueError, match="here: model.device: .*device 'gpuu' is none of cpu, cuda, cuda:1, mps"):
        RunConfig.checked({"model": {"device": "gpuu"}}, "here")
    with pytest.raises(ValueError, match=f"here: model.dtype: .*{', '.join(DTYPES)}"):
        RunConfig.checked({"model": {"dtype": "int8"}}, "here")


def test_every_place_of_a_configuration_has_a_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    said = {
        "model": {"source": "~/base"},
        "tasks": {"old": "~/a.json", "new": "ioi3"},
        "series": {"checkpoints": "~/out/checkpoint-{1,2}"},
        "data": {"train_file": "~/t.json#train", "general_text": "~/g.txt"},
    }
    config = RunConfig.checked(said, "here")
    assert config.model.source == str(tmp_path / "base") and config.tasks.new == "ioi3"
    assert config.tasks.old == str(tmp_path / "a.json")
    assert config.series is not None
    assert config.series.checkpoints == f"{tmp_path}/out/checkpoint-{{1,2}}"
    assert (config.data.train_file, config.data.general_text) == (f"{tmp_path}/t.json#train", f"{tmp_path}/g.txt")
    assert [at_home(p) for p in ("~x", "a/~/b", "~/x")] == ["~x", "a/~/b", str(Path(tmp_path) / "x")]
