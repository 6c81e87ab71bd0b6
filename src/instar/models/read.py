"""What lies at a source, as a transformers model: whole or sharded weights, an adapter, a difference, bare tensors.

1. Pickles are refused with the command that converts them; a missing shard and a half-written file are named.
2. Memory is estimated from the configuration before any weight is read.
3. Weights go into the family's own module. A weight that the file lacks would stay random, so it is an error.
4. An adapter (peft) is put on a copy of its base, which is the one that it names, and merged in float32.
5. A difference (`instar-delta.json`, written by `instar.training.train`) is added to its base.
6. Bare tensors (a state dict without a config.json) take the configuration of the series' base.
7. GGUF (`instar.models.gguf`) is made floats.
"""

import copy
import re
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.utils.peft_utils import find_adapter_config_file

from instar.models import gguf
from instar.models.accounts import Header, check_file, check_folder, gguf_file, headers, left_over, once, some
from instar.models.adapters import ADAPTER, ADAPTER_WEIGHTS, Factors, described, merged
from instar.models.arch import row
from instar.models.fetch import fetched_file, first_line, quiet, weight_files
from instar.models.memory import bounded, empty, require
from instar.record.foreign import clean, object_of, reading

DELTA = "instar-delta.json"
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
    above: tuple[str, ...] = ()
    """The adapters and differences whose base this is."""

    @property
    def path(self) -> Path:
        """As a place of this machine."""
        return Path(self.name)

    def base(self, name: str, revision: str | None = None, **more: Any) -> "Source":
        """The place of its base, read alike.

        Raises:
            ValueError: where that is itself, also by way of others.
        """
        found = replace(self, name=name, revision=revision, above=(*self.above, self.place), **more)
        if found.place in found.above:
            raise ValueError(f"{self}: its base is {name}, which is itself or has it as its own base")
        return found

    @property
    def place(self) -> str:
        """Its one name: links in it followed."""
        return str(self.path.resolve()) if self.path.exists() else str(self)

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
    factors: dict[str, Factors] = field(default_factory=dict)
    """By parameter, what a low-rank adapter is made of."""


def read(source: Source, base: Any = None) -> Found:
    """The model that is there.

    Args:
        source: where it is.
        base: the module that an adapter or bare tensors belong to; not changed.

    Raises:
        ValueError: a pickle, a damaged, incomplete or foreign file, an unsupported family, not enough memory.
        FileNotFoundError: nothing to load there, or the hub cannot be reached.
    """
    with reading(str(source), "a model"):
        found = _read(source, base)
        came_from = getattr(found.module.config, gguf.FROM, None)
        return (
            found if came_from is None else replace(found, facts={gguf.FROM: clean(str(came_from)[:400])} | found.facts)
        )
    raise AssertionError  # for type checkers: `reading` swallows nothing


def _read(source: Source, base: Any) -> Found:
    quantised = gguf_file(source.path)
    if quantised is not None:
        return _dequantised(source, gguf.head_of(quantised))
    if source.path.is_dir():
        check_folder(source.path)
        if (source.path / DELTA).exists():
            return Found(_with_difference(source))
    elif source.path.is_file():
        check_file(source.path)
        return _bare(source, [source.path], _config_of(base, source))
    adapter = _adapter_folder(source)
    if adapter is not None:
        return _merged(source, adapter, base)
    if source.path.is_dir() and not _named_as_transformers_does(source.path):
        own = (source.path / "config.json").exists()
        config = configuration(source) if own else _config_of(base, source)
        return _bare(source, sorted(source.path.glob("*.safetensors")), config)
    return _whole(source)


def configuration(source: Source) -> Any:
    """Its config.json.

    Raises:
        FileNotFoundError: naming the revision, where there is none to be had.
    """
    file = source.path / "config.json"
    where = str(file) if file.exists() else str(source)
    try:
        with reading(where, "a model's configuration"):
            bounded(PretrainedConfig.get_config_dict(source.name, revision=source.revision)[0], where)
            return AutoConfig.from_pretrained(source.name, **source.remote)
    except OSError as error:
        raise _unreachable(source, error) from None
    raise AssertionError


def _unreachable(source: Source, error: Exception) -> FileNotFoundError:
    revision = f" at revision {source.revision!r}" if source.revision else ""
    return FileNotFoundError(
        f"{source.name!r}{revision} is no folder here, and the model hub did not give it: {first_line(error)}"
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


def _whole(source: Source) -> Found:
    """Weights as transformers writes them, whole or sharded, of any float type."""
    with quiet():
        config = configuration(source)
        _accept(source, config)
        files = weight_files(source.name, source.revision)
        found = _filled(source, source.name, headers(files), use_safetensors=True, **source.remote)
        if not source.path.is_dir():
            # The cache's folder of a revision bears its commit's name; a configuration forgets it.
            found.module.commit_on_hub = files[0].parent.name
        return found


def _dequantised(source: Source, head: gguf.Head) -> Found:
    """Weights out of a GGUF file, as floats."""
    config = gguf.configuration_of(head)
    _accept(source, config)
    gguf.check_whole(head, config)
    with gguf.alone() as folder:
        found = _filled(source, folder, {}, gguf_file=str(head.file.absolute()), config=config)
    return replace(found, module=gguf.plain(found.module, source.name), facts=gguf.not_read(head, config) | found.facts)


def _bare(source: Source, files: list[Path], config: Any) -> Found:
    """A state dict and a configuration."""
    _accept(source, config)
    every = headers(files)
    sizes = {_WRAPPERS.sub("", name): header for name, header in every.items()}
    once(every, lambda name: _WRAPPERS.sub("", name), str(source))
    state = {_WRAPPERS.sub("", name): value for file in files for name, value in _tensors(file).items()}
    with quiet():
        return _filled(source, None, sizes, type(empty(config)), config=config, state_dict=state)


def _accept(source: Source, config: Any) -> None:
    row(config)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{source}: its weights are quantised; instar measures float weights: dequantise it first")
    require(str(source), config, source.dtype, source.device)


def _filled(
    source: Source, name: str | None, sizes: dict[str, Header], kind: Any = AutoModelForCausalLM, **how: Any
) -> Found:
    """transformers' loader, whose silent repairs are errors here.

    Raises:
        ValueError: a damaged file, a weight that the files lack or that has another shape, a tensor without a place.
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
        raise FileNotFoundError(f"{source}: its weights cannot be read: {first_line(error)}") from None
    except RuntimeError as error:
        why = _unfitting(sizes, how.get("config"), source) or first_line(error)
        raise ValueError(f"{source}: its weights do not fit its configuration: {why}") from None
    notice = left_over(str(source), sorted(info["missing_keys"]), sorted(info["unexpected_keys"]), sizes)
    return Found(module, {"left_over": notice} if notice else {})


def _unfitting(sizes: dict[str, Header], config: Any, source: Source) -> str:
    """The tensors of another size than the configuration makes them."""
    wanted = {name: list(p.shape) for name, p in empty(config or configuration(source)).state_dict().items()}
    other = [name for name, header in sizes.items() if name in wanted and list(header.shape) != wanted[name]]
    shown = ", ".join(f"{name} is {list(sizes[name].shape)}, expected {wanted[name]}" for name in other[:3])
    return shown + (f" and {len(other) - 3} more" if len(other) > 3 else "")


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or half-written: {error}") from None
    broken = [name for name, value in found.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{path}: {len(broken)} of its tensors hold values that are not finite numbers ({some(broken)})"
        )
    return found


def _with_difference(source: Source) -> Any:
    """A stored 16-bit difference, added to its float32 base."""
    folder = source.path
    with reading(folder / DELTA, 'a difference from {"base": FOLDER}'):
        before = str(object_of(folder / DELTA)["base"])
        at = source.base(str((folder / before).resolve()), trust_remote_code=False)
    module = read(at).module
    own, file = module.state_dict(), folder / "difference.safetensors"
    differences = _tensors(file)
    foreign = [n for n, value in differences.items() if n not in own or own[n].shape != value.shape]
    if foreign:
        raise ValueError(f"{file}: {len(foreign)} tensors do not fit its base {before} ({some(foreign, differences)})")
    # Tied tensors are stored once.
    covered = {own[name].data_ptr() for name in differences}
    lacking = [name for name, value in module.named_parameters() if value.data_ptr() not in covered]
    if lacking:
        raise ValueError(
            f"{file}: lacks {len(lacking)} of its base's tensors ({some(lacking)}): a part of a difference"
        )
    with torch.no_grad():
        for name, difference in differences.items():
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
    with quiet():
        return fetched_file(source.name, source.revision, ADAPTER_WEIGHTS).parent


def _merged(source: Source, folder: Path, base: Any) -> Found:
    """An adapter on a copy of its base, merged in float32 (float64 where the base is)."""
    config = described(folder, str(source))
    # The base's place on the machine where the adapter was made, or beside it.
    name = str(config.base_model_name_or_path)
    name = str((folder / name).resolve()) if (folder / name).exists() else name
    facts, revision = {}, getattr(config, "revision", None) if not Path(name).exists() else None
    if base is None:
        if name in ("None", ""):
            raise ValueError(f"{folder / ADAPTER}: names no base (base_model_name_or_path): load it with like=BASE")
        module = read(source.base(name, revision, dtype="float32")).module
    else:
        facts = _on_this_base(source, name, revision, base)
        require(str(source), base.config, source.dtype, source.device)
        module = copy.deepcopy(base)
    module = module.to(torch.promote_types(getattr(torch, source.dtype), torch.float32)).eval()
    headers([folder / ADAPTER_WEIGHTS])
    with quiet():
        whole, about, factors = merged(module, folder, _tensors(folder / ADAPTER_WEIGHTS), config, str(source))
    return Found(whole.to(getattr(torch, source.dtype)), about | facts, name, factors)


def _on_this_base(source: Source, named: str, revision: str | None, base: Any) -> dict[str, str]:
    """What to say of an adapter that names a base other than the one it is put on.

    Raises:
        ValueError: where the base that it names can be read here, and has other weights.
    """
    own = base.name_or_path
    if named == own and revision is not None and not Path(named).exists():
        made = getattr(base, "commit_on_hub", None)
        with quiet():
            wanted = fetched_file(named, revision, "config.json").parent.name
        if made not in (None, wanted):
            raise ValueError(
                f"{source}: this adapter was trained on revision {revision!r} of {named} ({ADAPTER} says so), and the base "
                "that it is to be put on is another commit: give that revision as the base"
            )
    if named in (own, "None", "") or (Path(named).exists() and Path(own).exists() and Path(named).samefile(own)):
        return {}
    if not Path(named).is_dir():
        return {
            "adapter_base": f"the adapter names {named}, which is not here; it was put on {own or 'the given base'}"
        }
    other = _configured_otherwise(named, base)
    if other:
        raise ValueError(
            f"{source}: this adapter was trained on {named} ({ADAPTER} says so), which is configured otherwise than "
            f"{own or 'the base'} that it is to be put on ({other}): give its own base (like=BASE, --base BASE)"
        )
    if _same_weights(named, base):
        return {}
    raise ValueError(
        f"{source}: this adapter was trained on {named} ({ADAPTER} says so), whose weights are not those of "
        f"{own or 'the base'} that it is to be put on: load it by itself, or give its own base (like=BASE, --base BASE)"
    )


def _same_weights(folder: str, base: Any) -> bool:
    """Whether a folder's tensors are the base's, rows apart that only one of them has in its vocabulary."""
    here, compared = base.state_dict(), 0
    for file in sorted(Path(folder).glob("*.safetensors")):
        for name, there in _tensors(file).items():
            own = here.get(name)
            if own is None:
                continue
            compared += 1
            grown = own.ndim == 2 and own.shape[0] == base.config.vocab_size
            rows: Any = slice(min(len(own), len(there))) if grown else ...
            if not torch.equal(there[rows].to(own.dtype), own[rows].cpu()):
                return False
    return compared > 0


_ASIDE = (
    "_",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "architectures",
    "use_cache",
    "vocab_size",
    "name_or_path",
)
"""What two configurations of one model may differ in; token ids and dropout, too."""


def _configured_otherwise(folder: str, base: Any) -> str:
    """What a folder's configuration says and the base's does not, in words; nothing where they make one model."""
    there, here = configuration(Source(folder)).to_dict(), base.config.to_dict()
    for key in sorted(there.keys() & here.keys()):
        apart = key.startswith(_ASIDE) or key.endswith("_token_id") or "drop" in key or "label" in key
        if not apart and there[key] != here[key]:
            return f"{key} is {there[key]!r} there and {here[key]!r} here"
    return ""
