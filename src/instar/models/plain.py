"""A model in memory is seen whole or refused, and what holds while it is measured.

Some functions run the model's own modules, others take weights out of them and replay a part. An adapter, a hook, a wrapper
or a quantised weight would be in one half of the results and not in the other. So every function that measures is entered
through one door (`measured`), where

1. the model has to be plain: nothing around its parts, nothing in the place of their weights;
2. autocast, inference mode and products of fewer digits (TF32) are off, whatever the caller has on;
3. a model is one thread's at a time, others wait; two models in two threads do not meet;
4. token ids have to be rows of the model's vocabulary.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from operator import attrgetter
from threading import Lock, RLock
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers import AttentionInterface
from transformers.pytorch_utils import Conv1D

from instar.models.arch import Layout, row
from instar.models.precision import whole_products
from instar.tasks.batch import Batch

P = ParamSpec("P")
R = TypeVar("R")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OWN_HOOKS = "transformers.utils.output_capturing"
"""Where transformers' own hooks come from, which change nothing."""
_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_of_locks = Lock()
_proved: WeakKeyDictionary[nn.Module, tuple[Any, ...]] = WeakKeyDictionary()
"""What each model was computed by when it was first seen."""
_entered: ContextVar[frozenset[int]] = ContextVar("entered", default=frozenset())
"""The modules that this thread is measuring already."""


def measured(function: Callable[P, R]) -> Callable[P, R]:
    """A function that measures the models among its arguments, entered through the door."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def entered(*args: P.args, **kwargs: P.kwargs) -> R:
        given = [*_each(signature.bind(*args, **kwargs).arguments.values())]
        models = [value for value in given if isinstance(getattr(value, "layout", None), Layout)]
        with measuring(*(model.layout for model in models)):
            for batch in (value for value in given if isinstance(value, Batch)):
                for model in models:
                    _check_ids(batch, model.layout, model.name)
            return function(*args, **kwargs)

    return entered


def _each(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, Mapping):
            yield from value.values()
        yield value if hasattr(value, "layout") else getattr(value, "model", value)


@contextmanager
def measuring(*layouts: Layout) -> Iterator[None]:
    """What holds while these models are measured; see the module.

    Raises:
        ValueError: for a model that is not plain.
    """
    # In one order, so that two threads with the same two models do not wait for each other.
    each = sorted({id(layout.module): layout for layout in layouts}.items())
    with ExitStack() as stack:
        for _, layout in each:
            stack.enter_context(_lock(layout.module))
        inside = _entered.get()
        for key, layout in each:
            if key not in inside:
                refuse_unplain(layout)
        token = _entered.set(inside | {key for key, _ in each})
        stack.callback(_entered.reset, token)
        grad = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(grad))
        for device in {"cpu", *(layout.module.device.type for _, layout in each)}:
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(whole_products())
        yield


def _lock(module: nn.Module) -> Any:
    with _of_locks:
        return _locks.setdefault(module, RLock())


def unwrapped(model: Any) -> Any:
    """The transformers model inside the wrappers of several devices and of torch.compile.

    Raises:
        ValueError: for what is no causal language model of transformers, or of a family that instar does not know.
    """
    module = extract_model_from_parallel(model, keep_torch_compile=False)
    kind = type(module).__name__
    if not hasattr(getattr(module, "config", None), "model_type"):
        raise ValueError(
            f"model: {kind} is not a transformers model; give what AutoModelForCausalLM.from_pretrained returns"
        )
    arch = row(module.config)
    inner = module.get_base_model() if hasattr(module, "get_base_model") else module
    for path in (arch.unembed, arch.blocks):
        try:
            attrgetter(path)(inner)
        except AttributeError:
            raise ValueError(
                f"model: {kind} has no {path}, so it is not a language model that says a next token; load it with "
                "AutoModelForCausalLM"
            ) from None
    return module


def seen_anew(module: nn.Module) -> None:
    """Loaded again: what it is computed by now is what it is to stay."""
    _proved.pop(module, None)


def _code_of(layout: Layout) -> tuple[Any, ...]:
    """What a model is computed by: its parts' classes and their code, its family's functions, its attention function."""
    module = layout.module
    parts = tuple((path, type(part), type(part).forward) for path, part in module.named_modules())
    family = tuple(own for kind in dict.fromkeys(map(type, layout.blocks)) for own in _functions(kind))
    chosen = module.config._attn_implementation
    causal = tuple(getattr(layout.part(i, layout.arch.attn), "is_causal", None) for i in range(layout.n_layers))
    return parts, family, chosen, AttentionInterface().get(chosen, None), causal


def _functions(kind: type) -> list[tuple[str, Any]]:
    return inspect.getmembers(sys.modules[kind.__module__], inspect.isfunction)


def refuse_unplain(layout: Layout) -> None:
    """One sentence on what stands around or in the place of a model's parts.

    Raises:
        ValueError: for adapters, hooks, compiled, offloaded, sharded or quantised parts, or blocks that were replaced.
    """
    module = layout.module
    if torch.nn.modules.module._has_any_global_hook():
        raise ValueError("a hook is registered for all modules (register_module_forward_hook and the like): remove it")
    for path, part in module.named_modules():
        why = _around(part)
        if why is not None:
            raise ValueError(f"model: {path or type(module).__name__} {why}")
    for path, value in module.named_parameters():
        why = _no_weight(value)
        if why is not None:
            raise ValueError(f"model: {path} {why}")
    now: Any = attrgetter(layout.arch.blocks)(module)
    if [*now] != layout.blocks:
        raise ValueError("model: its blocks are other ones than when it was loaded: instar.load it again")
    for path, part in _read_by_weight(layout):
        if type(part) not in (nn.Linear, Conv1D):
            raise ValueError(
                f"model: {path} is a {type(part).__module__}.{type(part).__name__}, and instar reads the weights of plain "
                "linear layers: give the model with float weights and nothing in their place"
            )
    code = _code_of(layout)
    if _proved.setdefault(module, code) != code:
        raise ValueError(
            "model: what it is computed by (a class, its forward method, a function of its family, its attention) is not "
            "what it was when it was loaded: instar.load it again"
        )


def _around(part: nn.Module) -> str | None:
    own, kind = vars(part), type(part)
    if kind.__module__.startswith("peft."):
        return (
            f"is an adapter of peft ({kind.__name__}), which instar would see in some functions only: give "
            "model.merge_and_unload(), or record the training with instar.recorder, which merges a copy"
        )
    if kind.__name__ == "OptimizedModule" or own.get("_compiled_call_impl") is not None:
        return "is compiled: give the model as it was before torch.compile"
    if "_hf_hook" in own:
        return "is offloaded or spread over devices (accelerate): load the model whole on one device"
    for name in _HOOKS:
        for hook in own.get(name, {}).values():
            if getattr(hook, "__module__", "") != _OWN_HOOKS:
                said = getattr(hook, "__qualname__", type(hook).__qualname__)
                return (
                    f"has a hook ({said}), which instar would see in some functions only: remove it (handle.remove())"
                )
    if "forward" in own:
        return "has had its forward method replaced, which instar would see in some functions only: give a plain model"
    return None


def _no_weight(value: torch.Tensor) -> str | None:
    if value.device.type == "meta":
        return "has no values in memory (it is offloaded, or on the meta device): load the model whole on one device"
    if value.numel() == 0:
        return "has no values: sharded training (ZeRO-3) keeps them elsewhere; gather them first"
    if type(value) not in (nn.Parameter, torch.Tensor) or not value.is_floating_point():
        kind = f"{type(value).__name__} of {value.dtype}"
        return f"is a {kind}: instar measures whole float weights; load it unquantised and on one device"
    if value.is_inference():
        return "was made under torch.inference_mode(), which allows no gradients: load the model outside of it"
    return None


def _read_by_weight(layout: Layout) -> Iterator[tuple[str, Any]]:
    """The parts whose weights are read by themselves."""
    arch = layout.arch
    for layer in range(layout.n_layers):
        for path in (*arch.qkv, arch.out_proj):
            yield f"{arch.blocks}.{layer}.{path}", layout.part(layer, path)
    yield arch.unembed, layout.unembed


def _check_ids(batch: Batch, layout: Layout, name: str) -> None:
    embedding: Any = layout.embeddings[0]
    read, said = embedding.weight.shape[0], layout.unembed.weight.shape[0]
    for what, limit in (("clean", read), ("corrupted", read), ("answer", said), ("foils", said), ("contrast", said)):
        largest = int(getattr(batch, what).max())
        if largest >= limit:
            raise ValueError(
                f"{name}: {what} has token id {largest} and the model has {limit} rows in its vocabulary (0 to {limit - 1}): "
                "was the batch made with another model's tokenizer?"
            )
