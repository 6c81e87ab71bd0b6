"""From a hub id, a folder or a model in memory to a `Model` that has been proven.

1. Weights are read (`instar.models.read`) from safetensors only, and code from a repository is run only where the caller asks
   for it by name.
2. float32 unless asked otherwise: small fine-tuning updates vanish in the 16-bit types that checkpoints are often in.
3. A vocabulary that was grown for a pad token, or for the marks of a chat, is trimmed, with a notice. A model in memory is
   the caller's: nothing of it is changed.
4. A checkpoint of a series is read with its own tokenizer where that reads prompts otherwise than its base's.
5. The family's row is found, and the checks of `instar.models.checks` are run.
"""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import AutoTokenizer

from instar.models import organism
from instar.models.accounts import check_objects, gguf_file
from instar.models.adapters import Factors
from instar.models.arch import Layout, row
from instar.models.checks import check
from instar.models.gguf import tokenizer_of
from instar.models.memory import bounded
from instar.models.plain import measuring, seen_anew, unwrapped
from instar.models.read import Source, quiet, read
from instar.record.foreign import cut, object_of
from instar.record.names import at_home, device_name, dtype_name
from instar.tasks.frame import Framed, framed
from instar.tasks.words import OBJECTS, PLACES, TEST_NAMES, TRAIN_NAMES


@dataclass(frozen=True)
class Model:
    """A proven model, its tokenizer, and what identifies its weights."""

    module: Any
    tokenizer: Any
    layout: Layout
    name: str
    weights: str
    """sha256 over the names, shapes and bytes of all parameters, as loaded."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How it was put together, where that is not plain: `adapter`, `merge_error` (of the largest logit)."""
    again: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    """What `load` was called with, where the weights were read from files."""
    factors: Mapping[str, Factors] = field(default_factory=dict, repr=False, compare=False)
    """By parameter, what the low-rank adapter is made of that was merged into it."""

    def __reduce__(self) -> Any:
        """Sent to another process by where its weights are, not with them; by value where they are only in memory."""
        if self.again is None or fingerprint(self.module) != self.weights:
            return _rebuilt, (Model, {**vars(self), "again": None})
        return _reread, (dict(self.again), self.name, self.weights)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.device

    def __repr__(self) -> str:
        own, kind = self.layout, type(self.module).__name__
        shape = f"{own.n_layers} layers of {own.n_heads} heads, d_model {own.d_model}"
        return f"Model({self.name!r}: {kind}, {shape}, {self.module.dtype}, weights {self.weights[:12]})"


def _rebuilt(kind: Any, fields: Mapping[str, Any]) -> Model:
    return kind(**fields)


def _reread(call: Mapping[str, Any], name: str, weights: str) -> Model:
    model = load(**call)
    if model.weights != weights:
        raise ValueError(f"{call['source']}: its weights have changed since this model was sent (hash {weights[:12]})")
    return replace(model, name=name)


_loading = RLock()
"""Loading quiets transformers' log for the whole process, so it is one thread's at a time."""


def load(
    source: Any,
    tokenizer: Any = None,
    *,
    revision: str | None = None,
    dtype: Any = "float32",
    device: Any = "cpu",
    like: Model | None = None,
    chat: str | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load and prove a model.

    Args:
        source: "embedded" (or "embedded-llama", "embedded-shallow"), a folder, a GGUF file, a hub id, or a transformers model
            that is already in memory: not copied, not changed.
        tokenizer: the tokenizer (or where it is) of a model in memory; of others, instead of their own.
        revision: the hub revision.
        dtype: "float32", "float64", "bfloat16" or "float16", or torch's own. A model in memory keeps its own.
        device: a torch device ("gpu" is "cuda"). A model in memory stays where it is.
        like: the base of a series. Its tokenizer is used unless the checkpoint's own reads prompts otherwise, and a
            vocabulary larger than its own is trimmed.
        chat: a user's message: prompts then begin the assistant's turn of the model's chat template. None: plain text.
        trust_remote_code: run code that comes with the repository.

    Raises:
        ValueError: an unsupported family, a pickle, a grown vocabulary in use, a model that is not plain, or a failed check.
        FileNotFoundError: nothing to load there, or the hub cannot be reached.
    """
    call = dict(locals())
    with _loading:
        if isinstance(tokenizer, str):
            tokenizer = load_tokenizer(tokenizer)
        if isinstance(source, nn.Module):
            return _in_memory(source, tokenizer, like, chat)
        name, device, dtype = _named(source), device_name(device), dtype_name(dtype)
        where = Source(local(name), revision, dtype, device, trust_remote_code)
        found = read(where, None if like is None else like.module)
        module, facts = _on_device(found.module, device), dict(found.facts)
        layout = Layout(module, row(module.config))
        if like is not None:
            _check_rows(layout, name, like)
        if tokenizer is None:
            tokenizer, how = (
                (_tokenizer_of(where, found.base), {}) if like is None else _tokenizer_in_series(where, like, chat)
            )
            facts |= how
        if tokenizer is not None:
            _trim_vocabulary(layout, tokenizer, name, revision, like)
            tokenizer = _as_read(tokenizer, chat)
        _prove(layout, name)
        return Model(module, tokenizer, layout, name, _hash(module), facts, call, found.factors)


def _in_memory(source: nn.Module, tokenizer: Any, like: Model | None, chat: str | None) -> Model:
    module = unwrapped(source)
    name = getattr(module, "name_or_path", "") or type(module).__name__
    layout = Layout(module, row(module.config))
    if like is not None:
        _check_rows(layout, name, like)
        tokenizer = like.tokenizer if tokenizer is None else tokenizer
    seen_anew(module)
    _prove(layout, name, in_memory=True)
    tokenizer = None if tokenizer is None else _as_read(tokenizer, chat)
    return Model(module, tokenizer, layout, name, _hash(module))


def _check_rows(layout: Layout, name: str, like: Model) -> None:
    rows, wanted = layout.unembed.weight.shape[0], like.module.config.vocab_size
    if rows < wanted:
        raise ValueError(f"{name}: the unembedding has {rows} rows, its base {wanted}: not a checkpoint of that base")


def _prove(layout: Layout, name: str, in_memory: bool = False) -> None:
    with measuring(layout):
        _check_type(layout.module, name)
        _check_finite(layout.module, name)
        try:
            check(layout, name, in_memory)
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{name}: its parts cannot be taken apart as its family's can ({type(error).__name__}: {error}): some were "
                "replaced; give the family's own model"
            ) from error


def _as_read(tokenizer: Any, chat: str | None) -> Any:
    return tokenizer if isinstance(tokenizer, Framed) else framed(tokenizer, chat)


_WORDS = (*TRAIN_NAMES, *TEST_NAMES, *PLACES, *OBJECTS)
PROBES = (
    "When Mary and John went to the store, John gave a bottle of milk to",
    "There Rebecca, Ángel and O'Neil handed 29 pens (of 1,815) to the “new” owner:",
    "Alice",
    *(" ".join(_WORDS[i : i + 8]) for i in range(0, len(_WORDS), 8)),
)
"""Texts that two tokenizers have to read alike to be one."""


def _tokenizer_in_series(where: Source, like: Model, chat: str | None) -> tuple[Any, dict[str, str]]:
    """The base's tokenizer, or the checkpoint's own where that reads prompts otherwise; and what to say of it."""
    try:
        own = load_tokenizer(where.name, **where.remote)
    except OSError:
        return like.tokenizer, {}
    if like.tokenizer is None:
        return own, {}
    chat = getattr(like.tokenizer, "chat", None) if chat is None else chat
    if chat is not None and not own.chat_template:
        own.chat_template = like.tokenizer.chat_template
    read = _as_read(own, chat)
    words, known = own.get_vocab(), like.tokenizer.get_vocab()
    other = next((word for word, index in known.items() if words.get(word) != index), None)
    if other is not None:
        text = f"token {known[other]} of the base is {other!r}, here that is token {words.get(other)}"
        return read, {"tokenizer": f"its own, which reads prompts otherwise than the base's: {text}"}
    for text in PROBES:
        here, there = (list(each(text)["input_ids"]) for each in (read, like.tokenizer))
        if here != there:
            at = next(
                (i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), min(len(here), len(there))
            )
            said = f"its own, which reads prompts otherwise than the base's: {text[:40]!r} differs from token {at} on"
            return read, {"tokenizer": said}
    return like.tokenizer, {}


def _check_type(module: Any, name: str) -> None:
    if getattr(module.config, "reorder_and_upcast_attn", False) and module.dtype == torch.float64:
        raise ValueError(
            f"{name}: reorder_and_upcast_attn=True computes attention in float32, which transformers cannot do with float64 "
            "weights: measure it in float32"
        )


def _check_finite(module: Any, name: str) -> None:
    """Weights of a training that has diverged, or was saved in too small a type, are no family's fault."""
    broken = [key for key, value in module.named_parameters() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{name}: {len(broken)} of its tensors hold values that are not finite numbers ({', '.join(broken[:3])}): its "
            "training diverged, or it was saved in a type too small for it; take an earlier checkpoint"
        )


def _named(source: Any) -> str:
    """A place's name.

    Raises:
        ValueError: for what is neither a place nor a model.
    """
    if isinstance(source, str | Path):
        return str(source)
    kind = type(source).__name__
    if isinstance(source, Mapping):
        why = "weights without a model: load_state_dict them into one, or save them as .safetensors and load with like=BASE"
    elif hasattr(source, "model_type"):
        why = "a configuration, without weights: give the model, or the folder that it is saved in"
    else:
        why = 'no model: give "embedded", a folder, a hub id, or a transformers model'
    raise ValueError(f"load() was given a {kind}: {why}")


def local(name: str) -> str:
    """Where a model is to be read from: the embedded ones are folders of the package."""
    return str(organism.FOLDERS[name]) if name in organism.FOLDERS else at_home(name)


def _tokenizer_of(where: Source, base: str | None) -> Any:
    """Its own; an adapter may have left it with its base."""
    try:
        return load_tokenizer(where.name, **where.remote)
    except OSError:
        if base is None:
            raise
        return load_tokenizer(base)


def load_tokenizer(source: str, **remote: Any) -> Any:
    """The tokenizer of "embedded", a folder, a GGUF file or a hub id; no weights are read.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: where its files are damaged.
    """
    folder = Path(local(source))
    quantised = gguf_file(folder)
    if quantised is not None:
        return tokenizer_of(quantised)
    if folder.is_dir():
        check_objects(folder)
        if (folder / "config.json").exists():  # tokenizers look into it
            bounded(object_of(folder / "config.json"), str(folder / "config.json"))
    try:
        with quiet():
            found = AutoTokenizer.from_pretrained(local(source), **remote)
        # Where there is a configuration and no tokenizer's file, transformers makes one that has no words.
        if not found("to", add_special_tokens=False)["input_ids"]:
            raise ValueError("the tokenizer that is found has no words")
        return found
    except BaseException as error:
        there = not isinstance(error, OSError) and (folder / "tokenizer.json").is_file()
        if isinstance(error, OSError | ValueError) and not there:
            reason = next(iter(str(error).splitlines()), "")
            raise FileNotFoundError(
                f"{source}: no tokenizer there ({reason}); save one beside the weights (tokenizer.save_pretrained), or load "
                "the weights as a checkpoint of their base (like=BASE)"
            ) from None
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        what = "its tokenizer (tokenizer.json, tokenizer_config.json or what stands for them)"
        raise ValueError(cut(f"{source}: {what} cannot be read: {type(error).__name__}: {error}", 600)) from error


def fingerprint(module: nn.Module) -> str:
    """sha256 over the names, types, shapes and bytes of all parameters."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        value = value.detach().contiguous().cpu()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.view(torch.uint8).numpy() if value.ndim else repr(value.item()).encode())
    return digest.hexdigest()


_hashed: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()
"""The fingerprint of each model, and by what its weights were known then."""


def weights_now(model: Model) -> str:
    """The fingerprint of the weights as they are: of a model in memory they may have changed since it was loaded."""
    known = _hashed.get(model.module)
    return known[1] if known is not None and known[0] == _state(model.module) else _hash(model.module)


def _hash(module: nn.Module) -> str:
    found = fingerprint(module)
    _hashed[module] = _state(module), found
    return found


def _state(module: nn.Module) -> tuple[Any, ...]:
    values = module.state_dict(keep_vars=True).values()
    return tuple((value.data_ptr(), value._version, value.dtype) for value in values)


def _on_device(module: Any, device: str) -> Any:
    try:
        return module.to(device).eval()
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"device {device!r} cannot be used here: {error}") from None


def _trim_vocabulary(layout: Layout, tokenizer: Any, name: str, revision: str | None, like: Model | None) -> None:
    """Cut the rows that a pad token or a chat's marks added to the embedding (50,258 for 50,257), as they were before."""
    rows = layout.unembed.weight.shape[0]
    wanted = like.module.config.vocab_size if like is not None else _rows_without_pad(tokenizer, rows)
    if rows == wanted:
        return
    own = _own_tokenizer(name, revision, tokenizer)
    # Special tokens are marks that no prompt's text contains; a word that was added changes how prompts are read.
    marks = {index for index, token in own.added_tokens_decoder.items() if token.special} | {own.pad_token_id}
    needed = [token for token, index in own.get_vocab().items() if index >= wanted and index not in marks]
    if needed:
        raise ValueError(
            f"{name}: {rows} vocabulary rows where {wanted} are expected, and the extra ones are tokens that prompts can "
            f"use ({', '.join(map(repr, needed[:5]))}); load it with the tokenizer it was trained with, or resize it back"
        )
    cut = own.convert_ids_to_tokens([i for i in sorted(marks - {None}) if i >= wanted])
    warnings.warn(
        f"{name}: {rows} vocabulary rows for {wanted} tokens; the {rows - wanted} extra, added for padding or as marks and "
        f"used by no prompt, were cut off ({', '.join(cut) or 'no token at all'})",
        stacklevel=4,
    )
    with quiet():
        layout.module.resize_token_embeddings(wanted)


def _own_tokenizer(name: str, revision: str | None, tokenizer: Any) -> Any:
    """The tokenizer that lies beside a checkpoint's weights; its base's where there is none."""
    try:
        return load_tokenizer(name, revision=revision)
    except OSError:
        return tokenizer


def _rows_without_pad(tokenizer: Any, rows: int) -> int:
    pad = tokenizer.pad_token_id
    grown = pad is not None and pad == rows - 1 and tokenizer.pad_token != tokenizer.eos_token
    return rows - 1 if grown and pad == len(tokenizer) - 1 else rows
