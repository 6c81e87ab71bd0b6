"""What lies at a source, as a transformers model: whole or sharded weights, an adapter, a difference, bare tensors.

1. Pickles are refused with the command that converts them; a missing shard and a half-written file are named.
2. Memory is estimated from the configuration before any weight is read.
3. Weights go into the family's own module. A weight that the file lacks would stay random, so it is an error.
4. An adapter (peft) is put on a copy of its base and merged in float32. How far that moves the logits is kept.
5. A difference (`instar-delta.json`, written by `instar.training.train`) is added to its base.
6. Bare tensors (a state dict without a config.json) take the configuration of the series' base.
"""

import copy
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.peft_utils import find_adapter_config_file

from instar.models.arch import row
from instar.models.memory import empty, require

DELTA = "instar-delta.json"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_CONVERT = (
    'python -c "import sys, transformers as t; t.AutoModelForCausalLM.from_pretrained(sys.argv[1])'
    '.save_pretrained(sys.argv[2], safe_serialization=True)" OLD NEW'
)
# The Trainer leaves these beside the weights; they hold none and are never opened.
_NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state", "random_states")
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
"""What DistributedDataParallel and torch.compile put before every name."""


@dataclass(frozen=True)
class Source:
    """Where a model is: a folder, a file of bare tensors, or a hub id, and how it is to be read."""

    name: str
    revision: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    trust_remote_code: bool = False

    @property
    def path(self) -> Path:
        """As a place of this machine."""
        return Path(self.name)

    @property
    def remote(self) -> dict[str, Any]:
        """What transformers' loaders take beside the name."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


@dataclass(frozen=True)
class Found:
    """A model as it was read, before anything is proven of it."""

    module: Any
    facts: dict[str, Any] = field(default_factory=dict)
    """What is to be said of how it was put together."""
    base: str | None = None
    """Where an adapter's base is."""


def read(source: Source, base: Any = None) -> Found:
    """The model that is there.

    Args:
        source: where it is.
        base: the module that an adapter or bare tensors belong to; not changed.

    Raises:
        ValueError: a pickle, a damaged, incomplete or foreign file, an unsupported family, not enough memory.
        FileNotFoundError: nothing to load there, or the hub cannot be reached.
    """
    if source.path.is_dir():
        check_folder(source.path)
        if (source.path / DELTA).exists():
            return Found(_with_difference(source))
    elif source.path.is_file():
        return Found(_bare(source, [source.path], _config_of(base, source)))
    adapter = _adapter_folder(source)
    if adapter is not None:
        return _merged(source, adapter, base)
    if source.path.is_dir() and not _named_as_transformers_does(source.path):
        own = (source.path / "config.json").exists()
        config = configuration(source) if own else _config_of(base, source)
        return Found(_bare(source, sorted(source.path.glob("*.safetensors")), config))
    return Found(_whole(source))


def configuration(source: Source) -> Any:
    """Its config.json.

    Raises:
        FileNotFoundError: naming the revision, where there is none to be had.
    """
    try:
        return AutoConfig.from_pretrained(source.name, **source.remote)
    except OSError as error:
        raise _unreachable(source, error) from None


def _unreachable(source: Source, error: Exception) -> FileNotFoundError:
    revision = f" at revision {source.revision!r}" if source.revision else ""
    return FileNotFoundError(
        f"{source.name!r}{revision} is no folder here, and the model hub did not give it: {_first_line(error)}"
    )


def check_folder(folder: Path) -> None:
    """Refuse what cannot be a checkpoint, before anything is read.

    Raises:
        ValueError: a pickle, or a missing shard.
        FileNotFoundError: no weights at all.
    """
    if not any(folder.glob("*.safetensors")):
        pickles = [p.name for s in ("bin", "pt", "pth", "ckpt") for p in sorted(folder.glob(f"*.{s}"))]
        pickles = [name for name in pickles if not name.startswith(_NOT_WEIGHTS)]
        if pickles:
            raise ValueError(
                f"{folder} holds its weights as a pickle ({pickles[0]}), which can run code when it is read. instar reads "
                f"safetensors only. Convert it where you trust it:\n  {_CONVERT}"
            )
        raise FileNotFoundError(f"{folder} holds no *.safetensors; it has {sorted(p.name for p in folder.iterdir())}")
    for index in folder.glob("*.safetensors.index.json"):
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{index} is damaged: expected an object with a weight_map") from None
        missing = [name for name in shards if not (folder / name).exists()]
        if missing:
            raise ValueError(
                f"{folder} lacks {len(missing)} of {len(shards)} shards that {index.name} names: {', '.join(missing)}"
            )


def _named_as_transformers_does(folder: Path) -> bool:
    standard = ("model.safetensors", "model.safetensors.index.json")
    return (folder / "config.json").exists() and any((folder / name).exists() for name in standard)


def _config_of(base: Any, source: Source) -> Any:
    if base is None:
        raise ValueError(
            f"{source} holds tensors and no config.json: of which model, it does not say. Put the config.json of its "
            "base beside them, or load it as part of a series (like=BASE, or `instar compare --base BASE`)"
        )
    return copy.deepcopy(base.config)


def _whole(source: Source) -> Any:
    """Weights as transformers writes them, whole or sharded, of any float type."""
    with quiet():
        config = configuration(source)
        _accept(source, config)
        return _filled(source, source.name, use_safetensors=True, **source.remote)


def _bare(source: Source, files: list[Path], config: Any) -> Any:
    """A state dict and a configuration."""
    _accept(source, config)
    state: dict[str, Any] = {}
    for file in files:
        state |= {_WRAPPERS.sub("", name): value for name, value in _tensors(file).items()}
    with quiet():
        return _filled(source, None, type(empty(config)), config=config, state_dict=state)


def _accept(source: Source, config: Any) -> None:
    row(config)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{source}: its weights are quantised; instar measures float weights: dequantise it first")
    require(str(source), config, source.dtype, source.device)


def _filled(source: Source, name: str | None, kind: Any = AutoModelForCausalLM, **how: Any) -> Any:
    """transformers' loader, whose silent repairs are errors here.

    Raises:
        ValueError: a damaged file, or a weight that the files lack or that has another shape.
    """
    try:
        # Their report of what was missing is repeated as one sentence of ours.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module, info = kind.from_pretrained(
                name, dtype=getattr(torch, source.dtype), output_loading_info=True, **how
            )
    except SafetensorError as error:
        raise ValueError(f"{source}: a safetensors file is damaged or half-written: {error}") from None
    except OSError as error:
        raise FileNotFoundError(
            f"{source}: no safetensors weights to be had ({_first_line(error)}). Convert a .bin:\n  {_CONVERT}"
        ) from None
    except RuntimeError as error:
        raise ValueError(f"{source}: its weights do not fit its configuration: {_first_line(error)}") from None
    missing, foreign = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing:
        others = f"; it has {len(foreign)} that the model does not know ({', '.join(foreign[:3])})" if foreign else ""
        raise ValueError(
            f"{source}: {len(missing)} weights are not in its files and would be random "
            f"({', '.join(missing[:3])}){others}: not a checkpoint of this model"
        )
    return module


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or half-written: {error}") from None


def _with_difference(source: Source) -> Any:
    """A stored 16-bit difference, added to its float32 base."""
    folder = source.path
    before = json.loads((folder / DELTA).read_text(encoding="utf-8"))["base"]
    module = read(Source(str((folder / before).resolve()), dtype=source.dtype, device=source.device)).module
    own = module.state_dict()
    with torch.no_grad():
        for name, difference in _tensors(folder / "difference.safetensors").items():
            own[name].add_(difference.to(own[name].dtype))
    return module


def _adapter_folder(source: Source) -> Path | None:
    """The folder of an adapter's two files, fetched from the hub if need be; None for a model of its own."""
    if source.path.is_dir() and any(source.path.glob("model*.safetensors")):
        return None
    try:
        with quiet():
            found = find_adapter_config_file(source.name, revision=source.revision)
    except OSError as error:
        raise _unreachable(source, error) from None
    if found is None:
        return None
    folder = Path(found).parent
    if source.path.is_dir() or (folder / ADAPTER_WEIGHTS).exists():
        return folder
    from transformers.utils.hub import cached_file

    try:
        fetched = cached_file(source.name, ADAPTER_WEIGHTS, revision=source.revision)
    except OSError as error:
        raise FileNotFoundError(
            f"{source}: its adapter is not to be had as safetensors ({_first_line(error)})"
        ) from None
    return Path(str(fetched)).parent


def _merged(source: Source, folder: Path, base: Any) -> Found:
    """An adapter on a copy of its base, merged in float32 (float64 where the base is)."""
    from peft import PeftConfig, PeftModel

    wanted = getattr(torch, source.dtype)
    described = PeftConfig.from_pretrained(str(folder))
    if described.is_prompt_learning:
        raise ValueError(f"{source}: a {described.peft_type} adapter adds prompts, not weights: it cannot be merged")
    # The base's place on the machine where the adapter was made, or beside it.
    name = str(described.base_model_name_or_path)
    name = str((folder / name).resolve()) if (folder / name).exists() else name
    if base is None:
        module = read(Source(name, None, "float32", source.device, source.trust_remote_code)).module
    else:
        require(str(source), base.config, source.dtype, source.device)
        module = copy.deepcopy(base)
    module = module.to(torch.promote_types(wanted, torch.float32)).eval()
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = PeftModel.from_pretrained(module, str(folder)).eval()
    except SafetensorError as error:
        raise ValueError(f"{folder / ADAPTER_WEIGHTS}: damaged or half-written: {error}") from None
    except (ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{source}: this adapter does not fit its base: {_first_line(error)}") from None
    before = _some_logits(adapted, module)
    merged = adapted.merge_and_unload()
    after = _some_logits(merged, module)
    error = float((before - after).abs().max() / before.abs().max())
    kind, rank = str(getattr(described.peft_type, "value", described.peft_type)), getattr(described, "r", None)
    about = {"adapter": kind.lower() + (f" rank {rank}" if rank else ""), "merge_error": error}
    return Found(merged.to(wanted), about, name)


@torch.no_grad()
def _some_logits(module: nn.Module, base: Any) -> torch.Tensor:
    """Logits of one short prompt of arbitrary tokens."""
    return module(input_ids=torch.arange(1, 9, device=base.device)[None] % base.config.vocab_size).logits


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), repr(error))


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
