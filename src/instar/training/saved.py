"""One checkpoint on disk, as safetensors: whole weights, a 16-bit difference from step 0, or an adapter.

A plain 16-bit copy would round away several steps at a rate of 1e-5, so 16 bits hold differences. Step 0 is whole, in
float32, and written once for all fine-tunings of a run.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from instar.models.load import Model
from instar.models.read import ADAPTER, ADAPTER_WEIGHTS, DELTA, quiet
from instar.record.store import Store, Tuning


def write_checkpoint(
    model: Model, store: Store, tuning: Tuning, step: int, save: str, adapted: Any = None
) -> tuple[str, int]:
    """One checkpoint's folder, whole or not at all. Returns sha256 and size in bytes of its weights file.

    Step 0 is written once: further fine-tunings begin with the same weights.
    """
    path, base = store.checkpoint(tuning, step), store.checkpoint(tuning, 0)
    if step == 0 and _is_there(model, path):
        return _identified(path / "model.safetensors")
    with store.writing(path, folder=True) as scratch, quiet():
        model.tokenizer.save_pretrained(scratch)
        _without_surroundings(scratch / "tokenizer_config.json")
        if adapted is not None and step > 0:
            weights = _write_adapter(adapted, scratch, _from(path, base))
        elif step == 0 or save == "float32":
            # One file: what identifies the weights is its hash.
            model.module.save_pretrained(scratch, max_shard_size="10TB")
            weights = scratch / "model.safetensors"
        else:
            model.module.config.save_pretrained(scratch)
            weights = scratch / "difference.safetensors"
            _write_difference(model, base / "model.safetensors", weights, save)
            description = {"base": _from(path, base), "dtype": save, "meaning": "float32 weights minus the base's"}
            (scratch / DELTA).write_text(json.dumps(description) + "\n", encoding="utf-8")
        digest, size = _identified(weights)
    return digest, size


def _identified(weights: Path) -> tuple[str, int]:
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), weights.stat().st_size


def _from(path: Path, base: Path) -> str:
    """The way from one checkpoint to its base."""
    return Path(os.path.relpath(base, path)).as_posix()


def _is_there(model: Model, folder: Path) -> bool:
    """Whether another fine-tuning has written these very weights; a file that is not whole is none."""
    try:
        before = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError):
        return False
    now = model.module.state_dict()
    return all(name in now and torch.equal(now[name].cpu(), value) for name, value in before.items())


def _without_surroundings(file: Path) -> None:
    """transformers saves whether it was offline when it read the tokenizer: of the environment, not of the tokenizer."""
    settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if settings.pop("local_files_only", None) is not None:
        file.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_adapter(adapted: Any, folder: Path, base: str) -> Path:
    """An adapter as peft writes it, whose base is this run's step 0."""
    adapted.save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # peft's form for a model card, with nothing filled in
    described = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
    described["base_model_name_or_path"] = base
    (folder / ADAPTER).write_text(json.dumps(described, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return folder / ADAPTER_WEIGHTS


def _write_difference(model: Model, base: Path, path: Path, dtype: str) -> None:
    before, now = load_file(base), model.module.state_dict()
    # The base file names each tied tensor once, and so does the difference.
    save_file(
        {n: (now[n].cpu().float() - value.float()).to(getattr(torch, dtype)) for n, value in before.items()}, path
    )
