"""An adapter (peft) merged into a copy of its base, as the model that was trained.

1. Every tensor of the file is accounted for: one that the adapter's configuration has no place for, or a place without a
   tensor, is an error. peft itself only warns, and the model measured would be another one.
2. Where the adapter changes one end of a matrix that embedding and unembedding share, they are untied first: merging would
   change both (peft says so in a warning).
3. Rows that were added to the vocabulary and saved with the adapter are made in the base before it is put on.
4. How far merging moves the logits of a short prompt is kept; where it is more than rounding, it is an error.
"""

import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from instar.models.accounts import ADAPTER, once, some
from instar.models.memory import bounded
from instar.record.apart import apart
from instar.record.foreign import cut, object_of, reading, shown

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ROUNDING = 1e-3
"""Of the largest logit. Merging in float32 moves logits by about 1e-6 of it."""
LONGEST = 20_000
"""Characters of all patterns of module names together."""
_PATTERNS = ("target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "modules_to_save", "layers_pattern")
_WRAPPERS = re.compile(r"(?<![^.])(?:module|_orig_mod)\.")
"""What DistributedDataParallel and torch.compile put into names, wherever they wrapped."""


@dataclass(frozen=True)
class Factors:
    """Of one matrix, what a low-rank adapter adds to it: scale · B A."""

    a: Tensor
    """What is read [rank, in]."""
    b: Tensor
    """What is written [out, rank]."""
    scale: float
    transposed: bool
    """Whether the matrix is kept as [in, out]."""

    def times(self, b: Tensor, a: Tensor) -> Tensor:
        """scale · b a, as the matrix is kept."""
        found = self.scale * (b @ a)
        return found.T if self.transposed else found


def by_factor(before: Mapping[str, Factors], after: Mapping[str, Factors]) -> dict[str, dict[str, Tensor]]:
    """By factor and parameter, what of its change that factor made; the two add up to the change.

    B₁A₁ − B₀A₀ = B̄ (A₁ − A₀) + (B₁ − B₀) Ā, with the means of before and after. Where there was no adapter before (B₀ = 0,
    and A₀ is not known), all of it is B's.
    """
    found: dict[str, dict[str, Tensor]] = {"A": {}, "B": {}}
    for name, own in after.items():
        then = before.get(name, replace(own, b=torch.zeros_like(own.b)))
        if then.a.shape == own.a.shape:
            found["A"][name] = own.times((then.b + own.b) / 2, own.a - then.a)
            found["B"][name] = own.times(own.b - then.b, (then.a + own.a) / 2)
    return found


def described(folder: Path, name: str) -> Any:
    """The adapter's configuration.

    Raises:
        ValueError: for one that adds prompts, or that cannot be read.
    """
    from peft import PeftConfig

    bounded(object_of(folder / ADAPTER), str(folder / ADAPTER))
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # of a file of any shape
        raise ValueError(cut(f"{folder / ADAPTER}: not an adapter's configuration: {error!r}", 600)) from error
    if config.is_prompt_learning:
        raise ValueError(f"{name}: a {config.peft_type} adapter adds prompts, not weights: it cannot be merged")
    return config


def merged(
    module: Any, folder: Path, tensors: dict[str, Tensor], config: Any, name: str
) -> tuple[Any, dict[str, Any], dict[str, Factors]]:
    """The adapter put on `module`, which becomes the merged model; what is to be said of it; its factors by parameter.

    Args:
        module: a copy of the base that is nobody else's, in float32 or float64.
        folder: of the adapter's configuration.
        tensors: of the adapter's file.
        config: what `described` returned.
        name: of the adapter, for errors.

    Raises:
        ValueError: an adapter that does not fit its base, or whose merging is more than rounding.
    """
    once(tensors, lambda key: _WRAPPERS.sub("", key), str(folder / ADAPTER_WEIGHTS))
    own = _copies_once({_WRAPPERS.sub("", key): value for key, value in tensors.items()})
    _grown(module, own, name)
    _ends(config, module, folder / ADAPTER)
    _ranks(config, own, folder / ADAPTER)
    with _as_file(folder, own, changed=own.keys() != tensors.keys()) as source:
        adapted = _put_on(module, source, name)
    _account(adapted, own, folder / ADAPTER_WEIGHTS)
    factors = _factors(adapted)
    whole, error = folded(adapted, name)
    kind, rank = str(getattr(config.peft_type, "value", config.peft_type)), getattr(config, "r", None)
    return whole, {"adapter": kind.lower() + (f" rank {rank}" if rank else ""), "merge_error": error}, factors


def _factors(adapted: Any) -> dict[str, Factors]:
    """Of matrices that a plain LoRA changes; not of embeddings, nor where DoRA scales the sum."""
    from peft.tuners.lora import LoraLayer

    found = {}
    for path, layer in adapted.get_base_model().named_modules():
        if not isinstance(layer, LoraLayer) or len(layer.lora_A) != 1 or any(layer.use_dora.values()):
            continue
        own = next(iter(layer.lora_A))
        a, b = (getattr(part[own], "weight", None) for part in (layer.lora_A, layer.lora_B))
        if a is not None and b is not None and a.ndim == 2:
            kept = bool(getattr(layer, "fan_in_fan_out", False))
            found[f"{path}.weight"] = Factors(a.detach().clone(), b.detach().clone(), float(layer.scaling[own]), kept)
    return found


def _ranks(config: Any, own: dict[str, Tensor], file: Path) -> None:
    """Refuse ranks that no tensor of the file has, before matrices of them are made.

    Raises:
        ValueError: naming the rank and the largest dimension there is; for layers that are repeated.
    """
    most = max((size for value in own.values() for size in value.shape), default=0)
    patterns = getattr(config, "rank_pattern", None) or {}
    for rank in (getattr(config, "r", None), *(patterns.values() if isinstance(patterns, dict) else ())):
        if isinstance(rank, int | float) and not rank <= most:
            raise ValueError(f"{file}: rank {rank}, and its tensors have no dimension above {most:,}")
    if getattr(config, "layer_replication", None):
        raise ValueError(
            f"{file}: layer_replication makes a model of other layers than its base's; give the whole model"
        )


def _ends(config: Any, module: Any, file: Path) -> None:
    """Refuse a pattern of module names that takes no end of time: they are matched apart before peft matches them.

    Raises:
        ValueError: naming the file and the pattern.
    """

    def listed(name: str) -> list[str]:
        own = getattr(config, name, None) or ()
        return [own] if isinstance(own, str) else [str(part) for part in own]

    # As peft wraps each of them; names in lists are compared and not matched.
    whole = [
        own for name in ("target_modules", "exclude_modules") if isinstance(own := getattr(config, name, None), str)
    ]
    ends = [rf"(.*\.)?({key})" for name in ("rank_pattern", "alpha_pattern") for key in listed(name)]
    saved = [rf"(^|.*\.){name}($|\..*)" for name in listed("modules_to_save")]
    layers = [rf"(?:^|.*?\.){own}\.(?P<idx>\d+)\..*" for own in listed("layers_pattern")]
    patterns = [own for own in (*whole, *ends, *saved, *layers) if own != "all-linear"]
    size = sum(map(len, patterns))
    if size > LONGEST:
        raise ValueError(f"{file}: patterns of {size:,} characters, and the most are {LONGEST:,}")
    if patterns and not all(re.fullmatch(r"[\w.-]*", own) for name in _PATTERNS for own in listed(name)):
        names = [name for name, _ in module.named_modules()]
        with reading(f"{file}: its pattern {shown(patterns[0])}"):
            apart("instar.record.apart:matches", {"patterns": patterns, "names": names}, 1000)


def folded(adapted: Any, name: str) -> tuple[Any, float]:
    """The adapters of a peft model folded into its weights, in place, and by how much that moved logits (of the largest).

    Raises:
        ValueError: where that is more than rounding.
    """
    base = adapted.get_base_model()
    before = _some_logits(adapted, base)
    _untie(base)
    whole = adapted.merge_and_unload()
    after = _some_logits(whole, base)
    error = float((before - after).abs().max() / before.abs().max())
    if not error <= ROUNDING:
        raise ValueError(
            f"{name}: merging this adapter into its base moves logits by {error:.2g} of the largest, more than rounding "
            f"({ROUNDING:g}): the merged weights are not the model that was trained. Merge it where it was trained, and "
            "give the whole model"
        )
    return whole, error


def _put_on(module: Any, folder: Path, name: str) -> Any:
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            # Of missing and unexpected tensors the account says more, and ties are undone before merging.
            warnings.simplefilter("ignore")
            return PeftModel.from_pretrained(module, str(folder)).eval()
    except (ValueError, RuntimeError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{name}: this adapter does not fit its base: {' '.join(lines[:3]) or repr(error)}") from None


def _account(adapted: Any, own: dict[str, Tensor], file: Path) -> None:
    from peft import get_peft_model_state_dict

    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    # peft saves whole embeddings beside an adapter that it thinks may need them.
    missing, foreign = sorted(expected - own.keys()), sorted(own.keys() - expected - adapted.state_dict().keys())
    if missing or foreign:
        lacks = f"lacks {len(missing)} of {len(expected)} tensors that {ADAPTER} asks for ({some(missing)})"
        holds = f"holds {len(foreign)} that match nothing in the base ({some(foreign, own)})"
        parts = [text for text, names in ((lacks, missing), (holds, foreign)) if names]
        raise ValueError(
            f"{file}: {' and '.join(parts)}: not measured, since it would be another model than was trained. Is it the "
            "adapter of this base, saved whole?"
        )


def _copies_once(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Beside a grown vocabulary peft saves a module that was trained whole twice, by two names."""
    found = dict(tensors)
    for key, value in tensors.items():
        plain = key.replace(".modules_to_save.", ".")
        if plain != key and torch.equal(found.get(plain, value), value):
            found[plain] = found.pop(key)
    return found


def _grown(module: Any, own: dict[str, Tensor], name: str) -> None:
    """Vocabulary rows that the adapter's file has and the base has not.

    Raises:
        ValueError: where it has fewer.
    """
    ends = [end for end in (module.get_input_embeddings(), module.get_output_embeddings()) if end is not None]
    paths = [path for path, part in module.named_modules() if any(part is end for end in ends)]
    there = ends[0].weight.shape[0]
    kinds = ("weight", "base_layer.weight", "original_module.weight")
    saved = (own.get(f"base_model.model.{path}.{kind}") for path in paths for kind in kinds)
    rows = next((value.shape[0] for value in saved if value is not None), there)
    if rows < there:
        raise ValueError(
            f"{name}: its vocabulary has {rows:,} rows and its base's {there:,}: not an adapter of this base"
        )
    if rows > there:
        module.resize_token_embeddings(rows, mean_resizing=False)


def _untie(module: Any) -> None:
    """Where an adapter is on one end of a shared embedding matrix, or stands in for it: two matrices, as it was trained."""
    ends = module.get_input_embeddings(), module.get_output_embeddings()
    inside = [getattr(end, "base_layer", getattr(end, "original_module", end)) for end in ends]
    if all(end is own for end, own in zip(ends, inside, strict=True)):
        return
    if inside[1] is not None and inside[1].weight is inside[0].weight:
        inside[1].weight = nn.Parameter(inside[1].weight.detach().clone(), requires_grad=False)
    module.config.tie_word_embeddings = False


@contextmanager
def _as_file(folder: Path, tensors: dict[str, Tensor], changed: bool) -> Iterator[Path]:
    """The adapter's folder, or one with other names in its file."""
    if not changed:
        yield folder
        return
    with TemporaryDirectory() as scratch:
        save_file(tensors, Path(scratch) / ADAPTER_WEIGHTS)
        shutil.copy(folder / ADAPTER, scratch)
        yield Path(scratch)


@torch.no_grad()
def _some_logits(module: nn.Module, base: Any) -> Tensor:
    """Logits of one short prompt of arbitrary tokens."""
    return module(input_ids=torch.arange(1, 9, device=base.device)[None] % base.config.vocab_size).logits
