"""Whole runs on a device beside the CPU's, and trainings that are recorded there: parts of `benchmarks.device`."""

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import xarray as xr
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

import instar
import small_run
from instar.models import organism
from instar.record.config import RunConfig, TrainConfig
from instar.training.train import Row, collate, encode
from instar.workflow.experiment import Experiment
from instar.workflow.pipeline import measure_stage
from instar.workflow.stages import STAGES

Result = dict[str, Any]


def runs(report: Any, differences: Any, quick: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root, device = Path(scratch), report.device.type
        threads = {"threads": 2, "report": {"gifs": False}}
        training = small_run.SMALL["train"]
        more = {
            "lora": {"train": training | {"lora": {"rank": 4}}},
            "bfloat16": {
                "train": training | {"save": "bfloat16"},
                "model": {"source": "embedded-shallow", "dtype": "bfloat16"},
            },
        }
        made = {
            "here": ("cpu", {}),
            "there": (device, {}),
            "again": (device, {}),
            **{k: (device, v) for k, v in more.items()},
        }
        made = dict(list(made.items())[: 2 if quick else None])
        begun = {}
        for name, (where, changes) in made.items():
            (root / f"{name}.yaml").write_text(yaml.safe_dump(small_run.SMALL | threads | changes))
            begun[name] = cli("run", root / f"{name}.yaml", "--out", root / name, "--device", where)
        for name in made:
            report.row("runs", f"run {name}", lambda name=name: ended(begun[name]), 900)
        report.row("runs", "the same bytes twice", lambda: same_bytes(root / "there", root / list(made)[2 % len(made)]))
        for stage in STAGES:
            report.row("runs", f"step 0: {stage}", lambda stage=stage: at_step_0(root, stage, differences))
        report.row("runs", "training", lambda: courses(root))
        for command in (
            ["run", root / "there"],
            ["compare", root / "there"],
            ["verify", root / "there", "--sample", 12],
        ):
            report.row("runs", f"{command[0]} again", lambda command=command: ended(cli(*command)), 900)


def cli(*arguments: Any) -> Any:
    return subprocess.Popen([*small_run.INSTAR[:1], *small_run.INSTAR[3:], *map(str, arguments)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT), time.perf_counter()  # fmt: skip


def ended(begun: Any) -> Result:
    output = begun[0].communicate()[0]
    if begun[0].returncode:
        raise RuntimeError(output[-3000:])
    return {"seconds": time.perf_counter() - begun[1], "said": output[-700:]}


def same_bytes(a: Path, b: Path) -> Result:
    kinds: dict[str, list[bool]] = {}
    for file in sorted(a.rglob("*")):
        if file.suffix in (".nc", ".safetensors", ".jsonl") and "times" not in file.name:
            kinds.setdefault(file.suffix, []).append(file.read_bytes() == (b / file.relative_to(a)).read_bytes())
    return {kind: f"{sum(same)} of {len(same)}" for kind, same in kinds.items()}


def at_step_0(root: Path, stage: str, differences: Any) -> Result:
    files = sorted((root / "here").rglob(f"measure/{stage}/**/*step-000000.nc"))
    found = [
        differences(
            *(xr.load_dataset(f, engine="h5netcdf") for f in (root / "there" / file.relative_to(root / "here"), file))
        )
        for file in files
    ]
    return max(found, key=lambda row: row["relative"])


def courses(root: Path) -> Result:
    """How far two trainings part: losses, and the last weights as a share of the way that they went."""
    folders = [root / name / "checkpoints" for name in ("here", "there")]
    rows = [[json.loads(line) for line in (folder / "steps.jsonl").open()] for folder in folders]
    losses = [abs(a["loss"] - b["loss"]) / a["loss"] for a, b in zip(*rows, strict=True) if a["loss"]]
    last = rows[0][-1]["step"]
    ends = [instar.load(folder / f"step-{last:06d}").module.state_dict().values() for folder in folders]
    off = sum(float((a - b).square().sum()) for a, b in zip(*ends, strict=True)) ** 0.5
    return {
        **{"steps": last, "loss, first step": losses[0], "loss, largest": max(losses)},
        "weights": off / rows[0][-1]["change"],
    }


def callbacks(report: Any) -> None:
    """Trainings with and without the callback, on the device."""
    kinds = {
        "float32": {},
        "bf16": {"bf16": True, "gradient_checkpointing": True},
        "tf32": {"tf32": True} if report.device.type == "cuda" else {},
        "adapters": {},
    }
    for name, options in kinds.items():
        report.row("callback", name, lambda name=name, options=options: recorded(report, name == "adapters", options))


def recorded(report: Any, adapters: bool, options: Result) -> Result:
    with tempfile.TemporaryDirectory() as scratch:
        root, config = Path(scratch), RunConfig.model_validate(RECORDED)
        stages = ["evaluate", "attribution", "patching"]
        choices: Any = {"every": 3, "max_overhead": 1e9, "config": config, "stages": stages, "on_error": "raise"}
        ends, losses = [], []
        for callback in ([], [instar.CircuitCallback(("ioi2", "ioi3"), out=root / "run", **choices)]):
            trainer = training(root, callback, adapters, use_cpu=report.device.type == "cpu", **options)
            trainer.train()
            ends.append({k: v.cpu() for k, v in trainer.model.state_dict().items()})
            # The Trainer's tf32 stays on for the process.
            torch.backends.fp32_precision = "none"  # pyright: ignore[reportAttributeAccessIssue]
            losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
        own = callback[0].recorder
        # What was recorded is what `instar measure` would make: nothing is missing, and no file is made again.
        before = {p: p.stat().st_mtime_ns for p in (root / "run").rglob("*.nc")}
        failed = measure_stage(Experiment.open(root / "run"), tuple(stages))
        made_again = sum(before.get(p) != p.stat().st_mtime_ns for p in (root / "run").rglob("*.nc"))
        return {
            "weights as without it": all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0]),
            "losses": losses[1],
            "records": [row["step"] for row in own.rows],
            "how": own.rows[-1]["how"],
            "failed": [*own.failures, *map(str, failed)],
            "made again": made_again,
            "overhead seconds": own.budget.spent,
        }


def training(folder: Path, callbacks: list[Any], adapters: bool, **options: Any) -> Trainer:
    """A fine-tuning of `embedded-shallow` with dropout and accumulated gradients."""
    tokenizer = AutoTokenizer.from_pretrained(organism.FOLDERS["embedded-shallow"])
    rows = [Row(p.clean, p.answer) for p in instar.ioi(3).pairs(64, seed=0, split="train")]
    set_seed(3)
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-3,
        seed=3, disable_tqdm=True, max_steps=6, report_to="none", logging_steps=1, save_strategy="no", **options,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_pretrained(
        organism.FOLDERS["embedded-shallow"], resid_pdrop=0.1, dtype=torch.float32
    )
    if adapters:
        import peft

        model = peft.get_peft_model(
            model, peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=True)
        )
    return Trainer(
        model=model, args=arguments, train_dataset=[encode(row, tokenizer, TrainConfig()) for row in rows],
        data_collator=lambda batch: collate(batch, 0), processing_class=tokenizer, callbacks=callbacks,
    )  # fmt: skip


RECORDED = {
    "data": {"test_size": 40, "measure_pairs": 16},
    "measure": {"patching": "attribution", "patching_pairs": 4, "circuit_pairs": 4, "role_pairs": 4},
    "compare": {"checkpoints": 1, "pairs": 8, "random_sets": 2, "exchanged_sets": 2, "single": False},
    "report": {"gifs": False, "static": False},
    "threads": 1,
}
