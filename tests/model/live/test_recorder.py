"""A training recorded while it runs: nothing of it changes, and what is recorded is what a run would measure."""

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import instar
from instar.live.choices import Choices
from instar.live.undisturbed import undisturbed
from instar.record.config import RunConfig
from instar.training.train import Row, encode
from instar.workflow.experiment import Experiment
from instar.workflow.pipeline import compare_stage, measure_stage

SMALL = RunConfig.model_validate(
    {
        "data": {"test_size": 20, "measure_pairs": 8},
        "measure": {
            "patching": "attribution",
            "patching_pairs": 4,
            "circuit_pairs": 4,
            "stages": ["evaluate"],
            "edges": "gim",
            "exact_ends": False,
        },
    }
)
TASKS = ("ioi2", "ioi3")


class Clock:
    """A second passes at every look; training moves it by itself."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def fresh(embedded, **options) -> GPT2LMHeadModel:
    torch.manual_seed(5)
    size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 96, "initializer_range": 0.2}
    words = {"vocab_size": len(embedded.tokenizer), "bos_token_id": 0, "eos_token_id": embedded.tokenizer.eos_token_id}
    return GPT2LMHeadModel(GPT2Config(**size, **words, resid_pdrop=0.1, **options)).train()


@pytest.fixture(scope="module")
def batches(embedded):
    rows = [Row(p.clean, p.answer) for p in instar.ioi(3).pairs(40, seed=0, split="train")]
    config = instar.record.config.TrainConfig()
    return [torch.tensor([encode(row, embedded.tokenizer, config)["input_ids"]]) for row in rows]


def loop(model, batches, steps=6, after=lambda n: None):
    """Dropout, noise of three generators and accumulated gradients: anything disturbed shows in the weights."""
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for n in range(1, steps + 1):
        for _ in range(2):
            scale = random.random() + np.random.rand()
            (scale * model(input_ids=batches[n], labels=batches[n]).loss).backward()
        optimizer.step()
        after(n)
        # Gradients are there when a step is recorded, and every other one is carried over into the next.
        if n % 2:
            optimizer.zero_grad()
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def recording(model, embedded, out, **choices):
    defaults = {"out": out, "every": 2, "tokenizer": embedded.tokenizer, "config": SMALL, "max_overhead": 1e9}
    return instar.recorder(model, TASKS, **(defaults | choices))


def index(out):
    return json.loads((out / "checkpoints" / "index.json").read_text())


def state(model):
    """All that a training stands on, besides weights."""
    return {
        "modes": [m.training for m in model.modules()],
        "gradients": [(p.requires_grad, id(p.grad), None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "own": [sorted(m.__dict__) for m in model.modules()],
        "config": (model.config.to_dict(), model.config._attn_implementation, model.config.use_cache),
        "random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state()),
        "process": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
        "cast": torch.is_autocast_enabled("cpu"),
    }  # fmt: skip


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict | list | tuple):
        assert len(a) == len(b) and type(a) is type(b)
        pairs = [(a[k], b[k]) for k in a] if isinstance(a, dict) else zip(a, b, strict=True)
        return all(equal(x, y) for x, y in pairs)
    return a == b


def test_training_is_bit_identical_with_and_without(embedded, batches, tmp_path):
    alone = loop(fresh(embedded), batches)
    assert not same(alone, loop(fresh(embedded), batches, after=lambda n: torch.rand(1))), "the loop shows nothing"
    model = fresh(embedded)
    with recording(model, embedded, tmp_path / "run") as r:
        recorded = loop(model, batches, after=r.step)
    assert [row["step"] for row in r.rows] == [0, 2, 4, 6]
    assert same(alone, recorded)
    for row in r.rows:
        assert row["stages"] == ["attribution", "evaluate", "patching"]
    stored = load_file(tmp_path / "run/checkpoints/step-000006/model.safetensors")
    assert all(torch.equal(stored[k], recorded[k]) for k in stored)
    assert {
        f"instar/{t}/{n}" for t in TASKS for n in ("accuracy", "attribution/mlps", "patching/best_head")
    } < r.log.keys()
    assert index(tmp_path / "run")["ended"] and "steps recorded: 0, 2, 4, 6" in repr(r)


@pytest.mark.parametrize("broken", [False, True])
def test_everything_is_as_it_was_also_after_an_error(embedded, batches, tmp_path, broken):
    model = fresh(embedded)
    model.transformer.wpe.weight.requires_grad_(False)
    model.transformer.h[0].eval()
    model.register_forward_hook(lambda *_: None)
    r, config = recording(model, embedded, tmp_path / "run", every=1, on_error="raise"), model.config.to_dict()
    r.begin()
    assert model.config.to_dict() == config
    model(input_ids=batches[0], labels=batches[0]).loss.backward()
    if broken:
        with torch.no_grad():
            model.transformer.ln_f.weight.fill_(torch.nan)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = state(model)
        if broken:
            with pytest.raises(ValueError, match="not finite numbers"):
                r.step(1)
        else:
            assert r.step(1)
        assert equal(state(model), before)


def test_what_the_process_shares_is_put_back():
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state(), torch.get_num_threads()
    with torch.inference_mode(), pytest.raises(KeyError), undisturbed(threads=before[3] + 1):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        assert torch.get_num_threads() == before[3] + 1
        random.random(), np.random.rand(), torch.rand(1), torch.set_default_dtype(torch.float64)
        raise KeyError
    assert random.getstate() == before[0] and str(np.random.get_state()) == before[1]
    assert torch.equal(torch.get_rng_state(), before[2]) and torch.get_num_threads() == before[3]
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("save", "stage"), [("float32", "circuit"), ("bfloat16", "attribution"), ("float32", "ledger")]
)
def test_what_is_recorded_is_what_a_run_measures(embedded, batches, tmp_path, save, stage):
    model, out = fresh(embedded), tmp_path / "run"
    with recording(model, embedded, out, save=save, stages=["evaluate", stage], every=3) as r:
        loop(model, batches, after=r.step)
    files = {p: p.read_bytes() for p in (out / "measure").rglob("*.nc")}
    # The ledger is of intervals: step 3 against 0, and 6 against 3.
    assert len(files) == 2 * 3 + 2 * (2 if stage == "ledger" else 3)
    moved = shutil.move(out, tmp_path / "moved")
    experiment = Experiment.open(moved)
    times = {p: p.stat().st_mtime_ns for p in moved.rglob("*.nc")}
    assert measure_stage(experiment, ("evaluate", stage)) == []
    assert {p: p.stat().st_mtime_ns for p in moved.rglob("*.nc")} == times, "made again"
    # And made again from the stored weights, they are the same bytes.
    for file in moved.rglob("*.nc"):
        file.unlink()
    assert measure_stage(experiment, ("evaluate", stage)) == []
    assert all((moved / p.relative_to(out)).read_bytes() == data for p, data in files.items())
    size = {row["step"]: row["bytes"] for row in index(moved)["steps"]}
    assert (size[3] < 0.6 * size[0]) is (save == "bfloat16")


def test_weights_that_are_not_kept(embedded, batches, tmp_path):
    model, out = fresh(embedded), tmp_path / "run"
    with recording(model, embedded, out, save=None, stages=["evaluate", "attribution"]) as r:
        loop(model, batches, after=r.step)
    assert not list(out.rglob("*.safetensors"))
    experiment = Experiment.open(out)
    before = {p: p.read_bytes() for p in out.rglob("*.nc")}
    assert measure_stage(experiment) == [] and {p: p.read_bytes() for p in out.rglob("*.nc")} == before
    summary = compare_stage(experiment)
    assert summary["tasks"]["ioi3"]["steps"] == [0, 2, 4, 6] and summary["answer"] is None and summary["causal"] is None


def test_the_budget_thins_out_what_lies_between_the_ends(embedded, batches, tmp_path):
    model, out, clock = fresh(embedded), tmp_path / "run", Clock()

    def train(n):
        clock.now += 6
        r.step(n)

    with recording(
        model, embedded, out, every=1, max_overhead=0.2, clock=clock, stages=["evaluate", "attribution"]
    ) as r:
        loop(model, batches, 38, after=train)
    found = index(out)
    own, steps = found["recorder"], {row["step"]: row["stages"] for row in found["steps"]}
    assert own["skipped"] and sorted([*own["skipped"], *steps]) == list(range(39))
    assert steps[0] == steps[38] == ["attribution", "evaluate"]
    assert ["evaluate"] in steps.values() and len(steps) > 3
    assert own["overhead"] == pytest.approx(own["instar_seconds"] / own["training_seconds"])
    assert own["overhead"] <= 0.2
    with recording(
        fresh(embedded), embedded, tmp_path / "two", every=1, stages=["evaluate"], max_overhead=0.001, clock=Clock()
    ) as r:
        loop(r.model, batches, 3, after=r.step)
    assert [row["step"] for row in r.rows] == [0, 3] and r.skipped == [1, 2]
    assert "the two ends alone take more" in repr(r)


def test_an_error_does_not_end_the_training(embedded, batches, tmp_path):
    model, out = fresh(embedded), tmp_path / "run"
    good = {}

    def broken_at_two(n):
        if n == 2:
            good.update({k: v.clone() for k, v in model.state_dict().items()})
            model.transformer.ln_f.weight.data.fill_(torch.nan)
            with pytest.warns(
                UserWarning, match="instar failed at step 2, and training goes on: ValueError: .*not finite numbers"
            ):
                assert not r.step(n)
            model.load_state_dict(good)
        else:
            r.step(n)

    with recording(model, embedded, out, stages=["evaluate"]) as r:
        recorded = loop(model, batches, after=broken_at_two)
    assert same(recorded, loop(fresh(embedded), batches))
    failed = json.loads((out / "measure" / "failed.json").read_text())
    assert [f["step"] for f in failed] == [2]
    assert [row["step"] for row in r.rows if row["stages"]] == [0, 4, 6]
    assert json.loads((out / "summary.json").read_text())["failed"] == failed


def test_a_training_that_dies_and_goes_on(embedded, batches, tmp_path):
    model, out = fresh(embedded), tmp_path / "run"

    def die_at_five(n):
        r.step(n)
        if n == 3:
            kept.update(model={k: v.clone() for k, v in model.state_dict().items()})
        if n == 5:
            raise RuntimeError("out of luck")

    kept = {}
    with pytest.raises(RuntimeError, match="out of luck"), recording(model, embedded, out, stages=["evaluate"]) as r:
        loop(model, batches, after=die_at_five)
    assert [row["step"] for row in index(out)["steps"]] == [0, 2, 4] and not index(out)["ended"]
    lost = (out / "measure/evaluate/ioi3/step-000004.nc").read_bytes()
    model.load_state_dict(kept["model"])
    with recording(model, embedded, out, start=3, stages=["evaluate"]) as again:
        assert [row["step"] for row in again.rows] == [0, 2]
        assert not (out / "measure/evaluate/ioi3/step-000004.nc").exists()
        again.step(4), again.step(6)
    assert [row["step"] for row in index(out)["steps"]] == [0, 2, 4, 6] and index(out)["ended"]
    assert (out / "measure/evaluate/ioi3/step-000004.nc").read_bytes() != lost
    assert index(out)["recorder"]["instar_seconds"] > r.budget.spent
    for choices, message in (
        ({}, "holds another run"),
        ({"start": 6, "config": None}, "not what is asked for now"),
        ({"start": 6, "out": tmp_path / "elsewhere"}, "no record of the 6 steps before"),
    ):
        with pytest.raises(ValueError, match=message):
            recording(model, embedded, **({"out": out} | choices)).begin()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_adapters_are_merged_in_a_copy(embedded, batches, tmp_path):
    peft = pytest.importorskip("peft")

    def adapted():
        base = fresh(embedded)
        torch.manual_seed(4)
        return peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))

    alone = loop(adapted(), batches)
    model = adapted()
    with recording(model, embedded, tmp_path / "run", every=6, stages=["evaluate"]) as r:
        assert same(alone, loop(model, batches, after=r.step))
    assert {row["how"] for row in r.rows} == {"adapters merged in float32"}
    first, last = (instar.load(str(tmp_path / f"run/checkpoints/step-00000{n}")).module for n in (0, 6))
    assert same(first.state_dict(), fresh(embedded).state_dict())
    with torch.no_grad():
        ours, theirs = last.eval()(batches[0]).logits, model.eval()(batches[0]).logits
    torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(ours, first.eval()(batches[0]).logits)


def test_sixteen_bit_weights_are_measured_in_float32(embedded, batches, tmp_path):
    model = fresh(embedded).bfloat16()
    with recording(model, embedded, tmp_path / "run", save="bfloat16", every=1, stages=["evaluate"]) as r:
        with torch.no_grad():
            model.transformer.ln_f.weight.add_(1 / 128)
        r.step(1)
    assert r.rows[1]["how"] == "bfloat16 weights"
    read = instar.load(str(tmp_path / "run/checkpoints/step-000001"))
    assert read.module.dtype == torch.float32
    assert torch.equal(read.module.transformer.ln_f.weight, model.transformer.ln_f.weight.float())


def test_mistakes_are_errors_before_training_begins(embedded, tmp_path):
    model, out = fresh(embedded), tmp_path / "run"
    quantized = fresh(embedded)
    quantized.config.quantization_config = {"quant_method": "bitsandbytes"}
    for broken, options, message in (
        (model, {"tasks": ("ioi2", "ioi33")}, "no task 'ioi33'"),
        (model, {"tasks": "ioi2"}, "two are needed"),
        (model, {"tasks": {"old": "ioi2"}}, "two are needed"),
        (nn.Linear(2, 2), {}, "Linear is not a transformers model"),
        (quantized, {}, "quantized weights"),
        (model, {"tokenizer": None}, "give tokenizer="),
    ):
        tasks = options.pop("tasks", TASKS)
        r = recording(broken, embedded, out, **options)
        with pytest.raises(ValueError, match=message):
            replace(r, tasks=tasks).begin()
        assert not list(out.rglob("config.yaml")) and not list(out.rglob("index.json"))
    for choices, message in (
        ({"stages": ["patching"]}, "evaluate"),
        ({"stages": ["evaluate", "nonsense"]}, "'nonsense' is none of"),
        ({"save": "int8"}, "'int8' is none of"),
        ({"every": 0}, "every=0"),
        ({"every": "often"}, "every='often'"),
        ({"max_overhead": float("nan")}, "max_overhead=nan"),
    ):
        with pytest.raises(ValueError, match=message):
            Choices(**choices)
    with recording(model, embedded, out, stages=["evaluate"], every="log") as r:
        assert [n for n in range(1, 20) if r.choices.due(n)] == [1, 2, 4, 8, 16]
        r.step(3)
        with pytest.raises(ValueError, match="steps must rise"):
            r.step(3)
