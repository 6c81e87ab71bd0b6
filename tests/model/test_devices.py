"""A GPU gives the CPU's numbers, to rounding, and nothing that a script has set for the whole process reaches them.

`python -m benchmarks.device` sets every measurement, whole runs and times beside the CPU's.
"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import families
import instar
import small_run
import twins
from instar.models.load import load
from instar.models.precision import whole_products
from instar.record.config import TrainConfig
from instar.training.train import _arguments

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use (CUDA)")
newer = pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch has it since 2.9")
PARTS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends)


def said():
    """Everything that torch says of the precision of products; where its two ways disagree it raises."""
    found = [getattr(part, "fp32_precision", None) for part in PARTS]
    for ask in (torch.get_float32_matmul_precision, lambda: torch.backends.cuda.matmul.allow_tf32):
        try:
            found.append(ask())
        except RuntimeError:
            found.append("raises")
    return found


def put_on(way):
    if way == "older":
        torch.backends.cuda.matmul.allow_tf32 = True
    elif way == "newer":
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    elif way == "for all":
        torch.backends.fp32_precision = "tf32"
    elif way != "nothing":
        torch.set_float32_matmul_precision(way)


@pytest.fixture
def put_back():
    yield
    torch.set_float32_matmul_precision("highest")
    for part in PARTS:
        if hasattr(part, "fp32_precision"):
            part.fp32_precision = "none"


WAYS = ["nothing", "older", "medium", "high", pytest.param("newer", marks=newer), pytest.param("for all", marks=newer)]


@pytest.mark.parametrize("way", WAYS)
def test_products_are_whole_inside_and_the_setting_is_as_before_after(way, tiny, put_back):
    put_on(way)
    before = said()
    with pytest.raises(KeyError), whole_products():
        with whole_products():
            pass
        assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cuda.matmul.allow_tf32
        assert not {"tf32", "bf16"} & set(said()[:2])
        raise KeyError
    assert said() == before
    if way == "for all":
        torch.backends.fp32_precision = "ieee"
        assert "tf32" not in said(), "a part that had it from the setting for all has kept it"


@pytest.mark.parametrize("way", ["older", pytest.param("newer", marks=newer)])
def test_measuring_is_inside(way, put_back, monkeypatch):
    model, seen = load(families.tiny("llama")), []
    forward = torch.nn.functional.linear
    monkeypatch.setattr("torch.nn.functional.linear", lambda *a: (seen.append(said()[3]), forward(*a))[1])
    put_on(way)
    instar.edges(model, twins.prompts())
    assert seen and set(seen) == {"highest"}


@on_gpu
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "llama"])
def test_numbers_are_the_cpus(family):
    module, batch = families.tiny(family), twins.prompts()
    here, there = load(module), load(copy.deepcopy(module).cuda())
    assert there.device.type == "cuda" and there.weights == here.weights
    for measure in (
        lambda m: instar.patching(m, batch, per_pair=True),
        lambda m: instar.edges(m, batch, per_pair=True).dataset,
        lambda m: instar.edges(m, batch, "exact").dataset,
        lambda m: instar.roles(m, {"x": batch}, repeats=4, length=8),
        lambda m: instar.evaluate(m, batch),
        lambda m: instar.attribution(m, batch),
        lambda m: instar.graft(m, m, batch, {"norms": ["norms"], "head": ["a0.h1"]}),
    ):
        ours, theirs = measure(there), measure(here)
        assert ours.attrs["device"] == "cuda"
        for name, values in theirs.data_vars.items():
            if values.dtype.kind == "f":
                # GPT-2 computes all of it in float64; other families norms, angles and patterns in float32.
                off = (1e-9 if family == "gpt2" else 5e-5) * float(np.nan_to_num(np.abs(values)).max())
                np.testing.assert_allclose(ours[name], values, rtol=0, atol=off, err_msg=name)


@on_gpu
@pytest.mark.parametrize("way", WAYS)
def test_a_script_that_allows_tf32_changes_no_bit(way, put_back):
    model = load("embedded", device="gpu")
    batch = instar.task("ioi3").batch(model, 8, 0, counterfactual="giver1")
    before = instar.patching(model, batch, ("z",)), instar.edges(model, batch).dataset
    put_on(way)
    after = instar.patching(model, batch, ("z",)), instar.edges(model, batch).dataset
    assert all(a.identical(b) for a, b in zip(before, after, strict=True))


@on_gpu
def test_a_training_takes_one_gpu_where_there_are_several(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    model = load("embedded", device="cuda")
    arguments = _arguments(TrainConfig(batch_size=16), 0, str(tmp_path), model)
    assert arguments.train_batch_size == 16 and arguments.n_gpu == 1 and arguments.device == model.device


@on_gpu
@pytest.mark.slow
def test_a_run_is_made_twice_alike_and_verified(tmp_path):
    made = []
    for name in ("one", "two"):
        file = tmp_path / f"{name}.yaml"
        few = {"measure": small_run.SMALL["measure"] | {"stages": ["evaluate", "circuit"]}}
        file.write_text(yaml.safe_dump(small_run.SMALL | few | {"report": {"gifs": False, "static": False}}))
        small_run.instar("run", file, "--out", tmp_path / name, "--device", "cuda")
        made.append(
            {k: v for k, v in small_run.contents(tmp_path / name).items() if Path(k).suffix in (".nc", ".safetensors")}
        )
    assert made[0] == made[1] and len(made[0]) > 10
    small_run.instar("verify", tmp_path / "one", "--sample", 4)
