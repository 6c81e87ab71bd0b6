"""The embedded model after something like a training, as it is saved by transformers and peft."""

import json
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from instar.models.organism import FOLDER


def tuned(seed: int = 1):
    """The embedded model after something that moved every weight."""
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.01 * torch.randn(value.shape, generator=generator))
    return model


def adapter(folder: Path, base: Any = None, named: str = "../base", **choices: Any) -> Any:
    """A trained adapter in `folder` that names its base; returns the model that was trained, not merged."""
    torch.manual_seed(2)
    own = {"r": 4, "target_modules": "all-linear", "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own, of tied matrices
        model = peft.get_peft_model(tuned() if base is None else base, peft.LoraConfig(**(own | choices)))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad and "lora_A" not in name:
                value.add_(0.05 * torch.randn_like(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own, of embeddings that it saves too
        model.save_pretrained(folder)
    described = folder / "adapter_config.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"base_model_name_or_path": named}))
    return model.eval()


def renamed(folder: Path, name: Any) -> None:
    """The adapter's tensors by other names; those whose name becomes None are left out."""
    file = folder / "adapter_model.safetensors"
    save_file({new: value for old, value in load_file(file).items() if (new := name(old))}, file)


def run_printed(message: str) -> None:
    """The command that a refusal printed, on its last line, by this Python."""
    command = message.splitlines()[-1].strip().replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    subprocess.run(command, shell=True, check=True, capture_output=True)


def logits(module):
    with torch.no_grad():
        return module(input_ids=torch.arange(1, 13)[None]).logits
