"""From a hub id, a folder or a model in memory to a `Model` that has been proven.

1. Weights are read from safetensors only. A pickle (`.bin`) is refused with the command that converts it, and code
   from a repository is run only where the caller asks for it by name.
2. float32 unless asked otherwise: small fine-tuning updates vanish in the 16-bit types that checkpoints are often in.
3. A folder that holds differences (`instar-delta.json`, written by `instar.train`) is added to its base.
4. A vocabulary that was grown for a pad token is trimmed, with a notice.
5. The family's row is found, and the checks of `instar.models.checks` are run.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from instar.models import organism
from instar.models.arch import Layout, row
from instar.models.checks import check

DELTA = "instar-delta.json"
_CONVERT = (
    'python -c "import sys, transformers as t; t.AutoModelForCausalLM.from_pretrained(sys.argv[1])'
    '.save_pretrained(sys.argv[2], safe_serialization=True)" OLD NEW'
)


@dataclass(frozen=True)
class Model:
    """A proven model, its tokenizer, and what identifies its weights."""

    module: Any
    tokenizer: Any
    layout: Layout
    name: str
    weights: str
    """sha256 over the names, shapes and bytes of all parameters, as loaded."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.device

    def __repr__(self) -> str:
        own, kind = self.layout, type(self.module).__name__
        shape = f"{own.n_layers} layers of {own.n_heads} heads, d_model {own.d_model}"
        return f"Model({self.name!r}: {kind}, {shape}, {self.module.dtype}, weights {self.weights[:12]})"


def load(
    source: Any,
    tokenizer: Any = None,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    like: Model | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load and prove a model.

    Args:
        source: "embedded", a folder, a hub id, or a transformers model that is already in memory (not copied).
        tokenizer: the tokenizer, where `source` is a model in memory.
        revision: the hub revision.
        dtype: "float32", "float64", "bfloat16" or "float16". A model in memory keeps its own.
        device: a torch device. A model in memory stays where it is.
        like: the base of a series. Its tokenizer is used, and a vocabulary larger than its own is trimmed.
        trust_remote_code: run code that comes with the repository.

    Raises:
        ValueError: an unsupported family, a pickle, a grown vocabulary in use, or a failed check.
        FileNotFoundError: nothing to load there, or the hub cannot be reached.
    """
    module: Any
    if isinstance(source, nn.Module):
        module, name = source, getattr(source, "name_or_path", "") or type(source).__name__
    else:
        name = str(source)
        module, tokenizer = _read(name, tokenizer, revision, dtype, device, like, trust_remote_code)
    layout = Layout(module, row(module.config))
    tokenizer = like.tokenizer if like is not None and tokenizer is None else tokenizer
    if tokenizer is not None:
        _trim_vocabulary(layout, tokenizer, name, like)
    check(layout, name)
    return Model(module, tokenizer, layout, name, fingerprint(module))


def load_tokenizer(source: str, **remote: Any) -> Any:
    """The tokenizer of "embedded", a folder or a hub id; no weights are read."""
    with quiet():
        return AutoTokenizer.from_pretrained(str(organism.FOLDER) if source == organism.NAME else source, **remote)


def fingerprint(module: nn.Module) -> str:
    """sha256 over the names, types, shapes and bytes of all parameters."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        value = value.detach().contiguous().cpu()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.view(torch.uint8).numpy().tobytes() if value.ndim else repr(value.item()).encode())
    return digest.hexdigest()


def _read(name: str, tokenizer: Any, revision: Any, dtype: str, device: str, like: Model | None, trust: bool):
    folder = organism.FOLDER if name == organism.NAME else Path(name)
    source = str(folder) if folder.exists() else name
    if folder.exists():
        _check_folder(folder)
    remote: dict[str, Any] = {"revision": revision, "trust_remote_code": trust}
    delta = folder / DELTA
    if delta.exists():
        base = json.loads(delta.read_text(encoding="utf-8"))["base"]
        module, _ = _read(str((folder / base).resolve()), tokenizer, None, dtype, device, like, trust)
        _add_difference(module, folder / "difference.safetensors")
    else:
        module = _read_weights(source, dtype, remote)
    if tokenizer is None and like is None:
        tokenizer = load_tokenizer(source, **remote)
    try:
        module = module.to(device)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"device {device!r} cannot be used here: {error}") from None
    return module.eval(), tokenizer


def _read_weights(source: str, dtype: str, remote: dict[str, Any]) -> Any:
    with quiet():
        row(_config(source, remote))
        try:
            return AutoModelForCausalLM.from_pretrained(
                source, dtype=getattr(torch, dtype), use_safetensors=True, **remote
            )
        except SafetensorError as error:
            raise ValueError(f"{source}: a safetensors file is damaged or half-written: {error}") from None
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise FileNotFoundError(
                f"{source}: no safetensors weights to be had ({reason}). Convert a .bin:\n  {_CONVERT}"
            ) from None


def _config(source: str, remote: dict[str, Any]) -> Any:
    try:
        return AutoConfig.from_pretrained(source, **remote)
    except OSError as error:
        revision = f" at revision {remote['revision']!r}" if remote["revision"] else ""
        raise FileNotFoundError(
            f"{source!r}{revision} is no folder here, and the model hub did not give it: {str(error).splitlines()[0]}"
        ) from None


def _check_folder(folder: Path) -> None:
    has_weights = any(folder.glob("*.safetensors"))
    if not has_weights and any(folder.glob("*.bin")):
        raise ValueError(
            f"{folder} holds its weights as a pickle (.bin), which can run code when it is read. instar reads "
            f"safetensors only. Convert it where you trust it:\n  {_CONVERT}"
        )
    if not has_weights:
        raise FileNotFoundError(f"{folder} holds no *.safetensors; it has {sorted(p.name for p in folder.iterdir())}")


def _add_difference(module: nn.Module, path: Path) -> None:
    """Add a stored 16-bit difference to float32 weights."""
    own = module.state_dict()
    try:
        differences = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or half-written: {error}") from None
    with torch.no_grad():
        for name, difference in differences.items():
            own[name].add_(difference.to(own[name].dtype))


def _trim_vocabulary(layout: Layout, tokenizer: Any, name: str, like: Model | None) -> None:
    """Cut the rows that a pad token added to the embedding (50,258 for 50,257), as they were before."""
    rows = layout.unembed.weight.shape[0]
    wanted = like.module.config.vocab_size if like is not None else _rows_without_pad(tokenizer, rows)
    if rows == wanted:
        return
    if rows < wanted:
        raise ValueError(f"{name}: the unembedding has {rows} rows, its base {wanted}: not a checkpoint of that base")
    own = _own_tokenizer(name, tokenizer)
    needed = [token for token, index in own.get_vocab().items() if index >= wanted and token != own.pad_token]
    if needed:
        raise ValueError(
            f"{name}: {rows} vocabulary rows where {wanted} are expected, and the extra ones are tokens that prompts can "
            f"use ({', '.join(map(repr, needed[:5]))}); load it with the tokenizer it was trained with, or resize it back"
        )
    warnings.warn(
        f"{name}: {rows} vocabulary rows for {wanted} tokens; the {rows - wanted} extra, added for padding and used by "
        "no prompt, were cut off",
        stacklevel=4,
    )
    with quiet():
        layout.module.resize_token_embeddings(wanted)


def _own_tokenizer(name: str, tokenizer: Any) -> Any:
    """The tokenizer that lies beside a checkpoint's weights; its base's where there is none."""
    try:
        return load_tokenizer(name)
    except (OSError, ValueError):
        return tokenizer


def _rows_without_pad(tokenizer: Any, rows: int) -> int:
    pad = tokenizer.pad_token_id
    grown = pad is not None and pad == rows - 1 and tokenizer.pad_token != tokenizer.eos_token
    return rows - 1 if grown and pad == len(tokenizer) - 1 else rows


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own progress bars and chatter."""
    from transformers.utils import logging as chatter

    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()
