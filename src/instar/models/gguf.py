"""GGUF, in which llama.cpp keeps a model: settings, tokenizer and weights in one file, quantised as a rule.

1. The file's head is read here and bounded: nothing that it declares is believed unless the file's own size covers it.
2. Types that cannot be made floats are refused by name, and parts of a split file.
3. transformers' own loader reads settings, tokenizer and weights, every tensor as floats (`gguf.dequantize`). It is given an
   empty folder, so that nothing else that lies beside the file is read.
4. What that loader would leave out unsaid is refused: tensors without a place, settings that decide numbers.
5. The model forgets that it was quantised and is saved as any other; its configuration says what it was made from (`FROM`).

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import importlib.util
import math
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoTokenizer

from instar.models.accounts import Header, content, some
from instar.models.fetch import quiet
from instar.models.memory import bounded, empty
from instar.record.foreign import BYTES, reading, shown

FROM = "dequantised_from"
"""The key of a configuration, and of every measurement, that says from what the weights were made."""
VERSIONS = (2, 3)
TENSORS, SETTINGS, ELEMENTS = 100_000, 10_000, 2**24
"""The most tensors and settings that a file may have, and the most elements of a list."""
_PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""How numbers are packed, by the format's number for the type."""
_TEXT, _LIST = 8, 9
WINDOW = 1024
"""A shorter window of attention has to be read; a longer one that is not is said, since prompts are shorter."""


@dataclass(frozen=True)
class Head:
    """What a file says before its weights."""

    file: Path
    settings: dict[str, Any]
    """Numbers and texts by name; of a list its length."""
    tensors: dict[str, Header]
    """Each tensor's type by ggml's name, and its shape as torch has it."""

    @property
    def family(self) -> str:
        """What llama.cpp calls the architecture."""
        return str(self.settings["general.architecture"])

    def own(self) -> dict[str, Any]:
        """The settings of the architecture, without its name before them."""
        before = f"{self.family}."
        return {key.removeprefix(before): value for key, value in self.settings.items() if key.startswith(before)}

    @property
    def made_from(self) -> str:
        """The commonest type by weights, the tensors of each type, and the file, in words."""
        sizes, counts = Counter[str](), Counter(tensor.dtype for tensor in self.tensors.values())
        for tensor in self.tensors.values():
            sizes[tensor.dtype] += math.prod(tensor.shape)
        listed = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
        return f"{sizes.most_common(1)[0][0]} (GGUF; tensors: {listed}; sha256 {content(self.file)})"


class _Front:
    """The first bytes of a file, one after another, and never more than there are."""

    def __init__(self, data: mmap) -> None:
        self.data, self.at, self.end = data, 0, min(len(data), BYTES)

    def past(self, count: int) -> int:
        """Where the next so many bytes begin; they are passed."""
        begin, self.at = self.at, self.at + count
        if self.at > self.end:
            size = len(self.data)
            limit = f"{BYTES:,} bytes, the most that are read" if size > BYTES else f"the file's {size:,} bytes"
            raise ValueError(f"what it declares goes beyond {limit}: truncated or damaged")
        return begin

    def number(self, kind: str) -> Any:
        return struct.unpack_from("<" + kind, self.data, self.past(struct.calcsize("<" + kind)))[0]

    def count(self, what: str, most: int, kind: str = "Q") -> int:
        found = self.number(kind)
        if found > most:
            raise ValueError(f"declares {found:,} {what}, and the most that are read are {most:,}")
        return found

    def text(self) -> str:
        length = self.number("Q")
        begin = self.past(length)
        return self.data[begin : begin + length].decode("utf-8")

    def value(self) -> Any:
        kind = self.number("I")
        if kind in _PLAIN:
            return self.number(_PLAIN[kind])
        if kind == _TEXT:
            return self.text()
        inner = self.number("I") if kind == _LIST else kind
        if inner not in (*_PLAIN, _TEXT):
            raise ValueError(f"holds a value of type {inner}, which is none of the format's, or a list of lists")
        length = self.count("elements of a list", ELEMENTS)
        if inner in _PLAIN:
            self.past(length * struct.calcsize("<" + _PLAIN[inner]))
            return length
        at, size_at = self.at, struct.Struct("<Q").unpack_from
        for _ in range(length):
            at += 8 + size_at(self.data, at)[0] if at + 8 <= self.end else self.end
        self.past(at - self.at)
        return length


def head_of(file: Path) -> Head:
    """What a file says before its weights; none of them is read.

    Raises:
        ValueError: no GGUF, a truncated or damaged one, a part of several, or one with tensors that cannot be made floats.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"{file}: reading GGUF needs the extra: pip install 'instar[gguf]'")
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ValueError(f"{file}: is no GGUF file: it does not begin with the letters GGUF")
        front = _Front(mmap(stream.fileno(), 0, access=ACCESS_READ))
        front.past(4)
        version = front.number("I")
        if version not in VERSIONS:
            known = " and ".join(map(str, VERSIONS))
            raise ValueError(f"{file}: is GGUF of version {version}; versions {known} are read, in little-endian order")
        tensors, settings = front.count("tensors", TENSORS), front.count("settings", SETTINGS)
        said: dict[str, Any] = {}
        for _ in range(settings):
            key = front.text()
            if key in said:
                raise ValueError(f"{file}: the setting {shown(key)} stands twice")
            said[key] = front.value()
        places = [_place(front) for _ in range(tensors)]
    if not isinstance(said.get("general.architecture"), str):
        raise ValueError(f"{file}: says of no architecture (general.architecture)")
    parts = said.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise ValueError(f"{file}: is one of {parts} parts; put them together first (llama-gguf-split --merge)")
    found = Head(file, said, _tensors(file, places, front.at, said.get("general.alignment", 32)))
    bounded(
        {key.replace("block_count", "block_count (layers)"): value for key, value in found.own().items()}, str(file)
    )
    return found


def _place(front: _Front) -> tuple[str, tuple[int, ...], int, int]:
    name = front.text()
    sides = front.count(f"dimensions of {shown(name)}", 4, "I")
    shape = tuple(front.number("Q") for _ in range(sides))
    # The side that moves fastest comes first.
    return name, shape[::-1], front.number("I"), front.number("Q")


def _tensors(file: Path, places: list[Any], at: int, alignment: Any) -> dict[str, Header]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    if not isinstance(alignment, int) or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
        raise ValueError(f"{file}: general.alignment is {shown(alignment)}, expected a power of two")
    begin, size = -(-at // alignment) * alignment, file.stat().st_size
    found: dict[str, Header] = {}
    for name, shape, number, offset in places:
        try:
            kind = GGMLQuantizationType(number)
            block, stored = GGML_QUANT_SIZES[kind]
            dequantize(np.zeros((1, stored), np.uint8), kind)
        except (ValueError, KeyError, NotImplementedError):
            known = {own.value: own.name for own in GGMLQuantizationType}.get(number, f"number {number}")
            raise ValueError(
                f"{file}: {shown(name)} is of type {known}, which cannot be made floats here: take a file of another "
                "quantisation, or a newer gguf package"
            ) from None
        if name in found:
            raise ValueError(f"{file}: the tensor {shown(name)} stands twice")
        if not shape or 0 in shape or shape[-1] % block:
            raise ValueError(f"{file}: {shown(name)} has shape {list(shape)}, which is not made of blocks of {block}")
        if begin + offset + math.prod(shape) // block * stored > size:
            raise ValueError(
                f"{file}: {shown(name)} {list(shape)} goes beyond the file's {size:,} bytes: truncated or damaged"
            )
        found[name] = Header(file, kind.name, shape)
    if not found:
        raise ValueError(f"{file}: holds no tensors (a vocabulary alone?)")
    return found


@contextmanager
def alone() -> Iterator[str]:
    """An empty folder to load from, and silence: the loader's bar minds no setting of transformers'."""
    with TemporaryDirectory() as folder, quiet(), redirect_stderr(StringIO()):
        yield folder


def _by_transformers(kind: Any, file: Path) -> Any:
    """A configuration or a tokenizer, of the caller's own; a file is taken apart once, which takes seconds."""
    return deepcopy(_kept(kind, file.absolute(), content(file)))


@lru_cache(maxsize=4)
def _kept(kind: Any, file: Path, sha256: str) -> Any:
    with alone() as folder:
        return kind.from_pretrained(folder, gguf_file=str(file))


def configuration_of(head: Head) -> Any:
    """Its settings as transformers' configuration.

    Raises:
        ValueError: an architecture that transformers does not read from GGUF, or one whose settings it would change.
    """
    try:
        config = _by_transformers(AutoConfig, head.file)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{head.file}: its settings make no {head.family} model: {error!r}") from None
    bounded(config.to_diff_dict(), str(head.file))
    # The name that its maker gave it, which is no place.
    vars(config).pop("_model_name_or_path", None)
    setattr(config, FROM, head.made_from)
    return config


def check_whole(head: Head, config: Any) -> None:
    """Refuse what transformers would leave out: tensors without a place, and settings that decide numbers.

    Raises:
        ValueError: naming them.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    family = next((own for own, name in MODEL_ARCH_NAMES.items() if name == head.family), None)
    if family is None:
        raise ValueError(f"{head.file}: architecture {shown(head.family)} is unknown to this gguf package")
    model, names = empty(config), get_tensor_name_map(family, config.num_hidden_layers)
    wanted = {}
    for name, value in model.state_dict().items():
        part, _, kind = name.rpartition(".")
        wanted[f"{names.get_name(part)}.{kind}"] = (name, value)
    rest = [name for name in head.tensors if name not in wanted]
    if rest:
        raise ValueError(
            f"{head.file}: {len(rest)} of its tensors have no place in transformers' {config.model_type} "
            f"({some(rest, head.tensors)}), and without them it would be another model"
        )
    for name, header in head.tensors.items():
        own, value = wanted[name]
        if math.prod(header.shape) != value.numel():
            raise ValueError(
                f"{head.file}: its weights do not fit its settings: {name} is {list(header.shape)}, and {own} is expected to "
                f"be {list(value.shape)}"
            )
    other = [
        f"{key} is {shown(value)} there and {shown(expected)} in transformers' configuration"
        for key, value, expected in _settings(head, config)
        if expected is not None and not _alike(value, expected)
    ]
    if other:
        raise ValueError(
            f"{head.file}: transformers reads it as another model: {'; '.join(other[:3])}. Use the checkpoint that it was "
            "made from"
        )


def _settings(head: Head, config: Any) -> Iterator[tuple[str, Any, Any]]:
    """Settings that decide numbers and that transformers may pass over: name, value in the file, value in use."""
    own = head.own()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    ropes = getattr(config, "rope_parameters", None) or {}
    rope = ropes.get("full_attention", ropes)
    turned = int(width * (rope.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1))
    in_use = {
        "rope.freq_base": rope.get("rope_theta"),
        "rope.dimension_count": turned if rope else None,
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.scale": (getattr(config, "query_pre_attn_scalar", None) or width) ** -0.5,
        "attn_logit_softcapping": getattr(config, "attn_logit_softcapping", None) or 0,
        "final_logit_softcapping": getattr(config, "final_logit_softcapping", None) or 0,
        "use_parallel_residual": getattr(config, "use_parallel_residual", False),
        "attention.causal": True,
        **dict.fromkeys(("expert_count", "attention.clamp_kqv", "attention.max_alibi_bias"), 0),
        **dict.fromkeys(("logit_scale", "residual_scale", "embedding_scale", "rope.scale_linear"), 1),
    }
    for key, expected in in_use.items():
        if key in own:
            yield key, own[key], expected
    scaled_by = getattr(config, "query_pre_attn_scalar", None)
    if scaled_by is not None:
        # Gemma's scores are divided by the root of a head's width, which is no setting of the file.
        yield "width that scores are scaled by", own.get("attention.key_length", width), scaled_by
    window = own.get("attention.sliding_window")
    if window and window < WINDOW:
        yield "attention.sliding_window", window, _window(config) or 0
    if own.get("rope.scaling.type", "none") not in ("none", rope.get("rope_type")):
        yield "rope.scaling.type", own["rope.scaling.type"], rope.get("rope_type", "none")
    if rope and "rope.freq_base" not in own:
        # llama.cpp's own where a file is silent.
        yield "rope.freq_base", 10_000.0, rope.get("rope_theta")


def _window(config: Any) -> int | None:
    """How far attention looks back, where that is bounded."""
    return getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None


def not_read(head: Head, config: Any) -> dict[str, str]:
    """What is to be said of a long window that transformers does not read."""
    window = head.own().get("attention.sliding_window")
    if not window or window == _window(config) or window >= config.max_position_embeddings:
        return {}
    return {"left_over": f"not read: a window of attention of {window} tokens, which only longer prompts would notice"}


def _alike(value: Any, expected: Any) -> bool:
    if isinstance(value, str) or isinstance(expected, str):
        return value == expected
    return math.isclose(value, expected, rel_tol=1e-5)


def plain(module: Any, name: str) -> Any:
    """The model, as one that was never quantised."""
    if getattr(module, "hf_quantizer", None) is not None:
        module.hf_quantizer.remove_quantization_config(module)
    module.config.name_or_path = module.name_or_path = name
    return module


def tokenizer_of(file: Path) -> Any:
    """The file's tokenizer and chat template.

    Raises:
        FileNotFoundError: where it has none.
        ValueError: for a kind that transformers cannot make from a GGUF.
    """
    with reading(file, "a tokenizer"):
        if not head_of(file).settings.get("tokenizer.ggml.tokens"):
            raise FileNotFoundError(f"{file}: holds no tokenizer; load it as a checkpoint of its base (like=BASE)")
        found = _by_transformers(AutoTokenizer, file)
        found.name_or_path = str(file)
        return found
    raise AssertionError  # for type checkers: `reading` swallows nothing
