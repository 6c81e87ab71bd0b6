"""Every tensor of a checkpoint's files is accounted for: read, noticed by rule, or an error that names it.

1. Before anything is read, from the files' headers: pickles, missing shards, one tensor in two files, shells without
   values, integers where floats belong.
2. After transformers has put the tensors into the family's module: what the files lack, and what has no place there. Only
   what is harmless by rule (`HARMLESS`) may be left over, and is said in the measurement.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from instar.record.foreign import object_of, shown

ADAPTER = "adapter_config.json"
_WHOLE = "import sys, transformers as t; t.AutoModelForCausalLM.from_pretrained({}).save_pretrained(sys.argv[2])"
_TENSORS = (
    "import sys, torch, safetensors.torch as s; s.save_file({name: value.contiguous().clone() for name, value in "
    "torch.load(sys.argv[1], map_location='cpu', weights_only=True).items()}, sys.argv[2])"
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# The Trainer leaves these beside the weights; they hold none and are never opened.
_NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state", "random_states")
HARMLESS = {
    "buffers that the model makes itself": r"rotary_emb\.inv_freq$|\.attn(ention)?\.(masked_)?bias$",
    "a value or reward head": r"(^|\.)(v_head|value_head|score|reward_head|summary)\.",
}
"""What a file may hold beyond the model, and what that is. No prompt's logits depend on it."""
READ_BY = (
    *("config.json", ADAPTER, "instar-delta.json", "*.safetensors.index.json", "*.py"),
    *(
        "tokenizer*",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.*",
        "merges.txt",
        "*.model",
        "chat_template*",
    ),
)
"""The files of a checkpoint that decide how it is read."""
FLOATS = ("F64", "F32", "F16", "BF16")
GGUF = ".gguf"
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """One tensor as its file describes it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_by(source: str, known: Mapping[str, str] | None = None) -> str:
    """A hash of what decides, beside the weights, how a checkpoint is read: configurations, tokenizer, code of its own.

    "" for what is no folder here: a hub revision's commit stands for all of its files. `known`: the folder's files, each with
    its sha256, where they need not be read for it.
    """
    gguf = gguf_file(Path(source)) if known is None else None
    if gguf is not None:
        return sha256(f"{GGUF} {content(gguf)}".encode()).hexdigest()[:16]
    if known is None:
        files = {file for pattern in READ_BY for file in Path(source).glob(pattern)} if Path(source).is_dir() else ()
        known = {file.name: content(file) for file in files}
    deciding = sorted(name for name in known if any(fnmatchcase(name, pattern) for pattern in READ_BY))
    digest = sha256("".join(f"{name} {known[name]} " for name in deciding).encode())
    return digest.hexdigest()[:16] if deciding else ""


def gguf_file(place: Path) -> Path | None:
    """The GGUF file that a place is, or that a folder holds instead of safetensors; None for anything else.

    Raises:
        ValueError: for a part of a split file, or where there are several.
    """
    found = [place] if place.is_file() and place.suffix.lower() == GGUF else []
    if place.is_dir() and not any(place.glob("*.safetensors")):
        found = sorted(place.glob(f"*{GGUF}"))
    part = next((file for file in found if _PART.search(file.name)), None)
    if part is not None:
        raise ValueError(f"{part}: is one part of several; put them together first (llama-gguf-split --merge)")
    if len(found) > 1:
        raise ValueError(f"{place} holds {len(found)} GGUF files ({some([f.name for f in found])}): give the one meant")
    return found[0] if found else None


def content(file: Path) -> str:
    """sha256 of a file, read once as long as it does not change."""
    about = file.stat()
    return _content(file, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4096)
def _content(file: Path, changed: int, size: int) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


OBJECTS = (
    *("config.json", "generation_config.json", ADAPTER, "instar-delta.json", "*.index.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
"""What libraries read of a checkpoint as keys and values."""


def check_objects(folder: Path) -> None:
    """Refuse a file of settings that is not an object, is nested without end, or says something twice.

    Raises:
        ValueError: naming it.
    """
    for file in sorted({file for pattern in OBJECTS for file in folder.glob(pattern)}):
        object_of(file)


def check_folder(folder: Path) -> None:
    """Refuse what cannot be a checkpoint, before anything is read.

    Raises:
        ValueError: a pickle, a missing shard, whole weights twice, or whole weights beside an adapter.
        FileNotFoundError: no weights at all.
    """
    check_objects(folder)
    if not any(folder.glob("*.safetensors")):
        pickles = [p for kind in _PICKLES for p in sorted(folder.glob(f"*{kind}"))]
        pickles = [p for p in pickles if not p.name.startswith(_NOT_WEIGHTS)]
        if pickles:
            check_file(pickles[0])
        raise FileNotFoundError(f"{folder} holds no *.safetensors; it has {sorted(p.name for p in folder.iterdir())}")
    whole_files = sorted(p.name for p in folder.glob("model*.safetensors"))
    if whole_files and (folder / ADAPTER).exists():
        raise ValueError(
            f"{folder} holds whole weights ({whole_files[0]}) and an adapter ({ADAPTER}): which is meant? Put "
            "them into two folders"
        )
    for index in folder.glob("*.safetensors.index.json"):
        shards = shards_of(index)
        missing = [name for name in shards if not (folder / name).exists()]
        if missing:
            raise ValueError(
                f"{folder} lacks {len(missing)} of {len(shards)} shards that {index.name} names: {', '.join(missing)}"
            )
        whole = folder / "model.safetensors"
        if whole.exists() and whole.name not in shards:
            raise ValueError(
                f"{folder} holds {whole.name} and the shards of {index.name}: which of them is meant? Remove one"
            )


def check_file(file: Path) -> None:
    """Refuse a pickle, with the command that turns it into safetensors beside it.

    Raises:
        ValueError: for a pickle.
    """
    if file.suffix not in _PICKLES:
        return
    folder = file.parent
    whole = (
        (folder / "config.json").exists() and not (folder / ADAPTER).exists() and file.name.startswith("pytorch_model")
    )
    command = converting(str(folder)) if whole else _command(_TENSORS, str(file), str(file.with_suffix(".safetensors")))
    raise ValueError(
        f"{folder} holds its weights as a pickle ({file.name}), which can run code when it is read. instar reads "
        f"safetensors only. Convert it where you trust it:\n  {command}"
    )


def converting(name: str, wanted: str = "model.safetensors", revision: str | None = None) -> str:
    """The command that makes safetensors: of a folder in it, of a hub's repository in a new folder here."""
    if Path(name).is_dir():
        return _command(_WHOLE.format("sys.argv[1]"), name, name)
    # A series' step is what the folder's name ends in.
    short = "-".join(filter(None, (name.rpartition("/")[2], revision)))
    if wanted == "model.safetensors":
        at = f"sys.argv[1], revision={revision!r}" if revision else "sys.argv[1]"
        return _command(_WHOLE.format(at), name, short)
    pickle = str(Path(short) / Path(wanted).with_suffix(".bin"))
    chosen = ["--revision", revision] if revision else []
    fetch = shlex.join(["hf", "download", name, *chosen, "--local-dir", short])
    return f"{fetch}\n  {_command(_TENSORS, pickle, str(Path(short) / wanted))}"


def _command(code: str, *options: str) -> str:
    return f'python -c "{code}" {shlex.join(options)}'


def shards_of(index: Path) -> list[str]:
    """The files that an index names.

    Raises:
        ValueError: for a damaged index.
    """
    try:
        names = sorted({str(name) for name in object_of(index)["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{index} is damaged: expected an object with a weight_map") from None
    outside = next((name for name in names if Path(name).name != name), None)
    if outside is not None:
        raise ValueError(f"{index}: {shown(outside)} is no file beside it")
    return names


def headers(files: Iterable[Path]) -> dict[str, Header]:
    """Every tensor of some files, by name; no weights are read.

    Raises:
        ValueError: a damaged file, a tensor in two files, an empty shell, or integers in the place of floats.
    """
    every: dict[str, Header] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 — not a mapping
                    part = opened.get_slice(name)
                    own = Header(file, part.get_dtype(), tuple(part.get_shape()))
                    if name in every:
                        raise ValueError(
                            f"{name} is in two files, {every[name].file} and {file}: which of them is meant?"
                        )
                    every[name] = own
        except SafetensorError as error:
            raise ValueError(f"{file}: damaged or half-written: {error}") from None
    twice = next((name for name in every if name.partition(".")[2] in every), None)
    if twice is not None:
        other = twice.partition(".")[2]
        raise ValueError(f"{every[twice].file}: {twice} and {other} are one tensor: which of them is meant?")
    empty = [name for name, header in every.items() if 0 in header.shape]
    if empty:
        raise ValueError(
            f"{every[empty[0]].file}: {len(empty)} of {len(every)} tensors have no values ({some(empty)}): a shell, as "
            "sharded training (ZeRO-3) leaves it. Gather them before saving (stage3_gather_16bit_weights_on_model_save)"
        )
    whole = [name for name, header in every.items() if header.dtype not in FLOATS and not _harmless(name)]
    if whole:
        first = every[whole[0]]
        raise ValueError(
            f"{first.file}: {len(whole)} of {len(every)} tensors are no floats ({some(whole)}: {first.dtype}), as quantised "
            "weights are: instar measures float weights: dequantise it first"
        )
    return every


def once(names: Iterable[str], plain: Callable[[str], str], where: str) -> None:
    """Refuse two tensors that become one when prefixes are dropped.

    Raises:
        ValueError: naming them.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(plain(name), name)
        if other != name:
            raise ValueError(f"{where}: {other} and {name} are one tensor: which of them is meant?")


def left_over(name: str, missing: Sequence[str], foreign: Sequence[str], sizes: dict[str, Any]) -> str:
    """What of the files the model has no place for, in words; nothing by default.

    Args:
        name: of the checkpoint.
        missing: weights that the files lack.
        foreign: tensors that the model has no place for.
        sizes: what is known of the files' tensors.

    Raises:
        ValueError: where weights are missing, or a tensor is left over that is not harmless by rule.
    """
    rest = [key for key in foreign if not _harmless(key)]
    if missing:
        others = f"; it has {len(foreign)} that the model does not know ({some(foreign, sizes)})" if foreign else ""
        raise ValueError(
            f"{name}: {len(missing)} weights are not in its files and would be random "
            f"({some(missing)}){others}: not a checkpoint of this model"
        )
    if rest:
        raise ValueError(
            f"{name}: {len(rest)} tensors in its files have no place in the model of its config.json ({some(rest, sizes)}): "
            "without them it would be another model. Correct config.json (number of layers, biases), or remove them"
        )
    kinds = [f"{what} ({some(own)})" for what, rule in HARMLESS.items() if (own := _of(rule, foreign))]
    return "not read: " + "; ".join(kinds) if kinds else ""


def some(names: Sequence[str], sizes: dict[str, Any] | None = None) -> str:
    """The first few names, with their sizes where they are known."""
    shown = [f"{name} {list(sizes[name].shape)}" if sizes and name in sizes else name for name in names[:3]]
    return ", ".join(shown) + (", …" if len(names) > 3 else "")


def _harmless(name: str) -> bool:
    return any(re.search(rule, name) for rule in HARMLESS.values())


def _of(rule: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if re.search(rule, name))
