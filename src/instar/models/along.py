"""What a change of the weights does to a number that the model computes, part by part and prompt by prompt.

A module's output y is linear in its weights, so along a change Δ of them it moves by Δy = ∂y/∂θ · Δ, and a number m by
Σ ∂m/∂y · Δy over positions. That is one more product of each module's inputs, with Δ in the place of the weights, and a
backward pass of activations alone: no weight has a gradient, and prompts stay apart in one batch. Heads of an output
projection are told apart by what it reads: Σ (∂m/∂y · Δ) · x.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from instar.models.parts import Part, Share


@dataclass
class Along:
    """Bookings of one forward pass, while `watching` it."""

    module: nn.Module
    changed: Mapping[str, Tensor]
    """By parameter: its change, asked for where it is used: it may be made anew each time."""
    shares: Mapping[str, Sequence[Share]]
    _roots: list[Tensor] = field(default_factory=list)
    _rows: int = 0
    _page: np.ndarray = field(default_factory=lambda: np.zeros(0))
    _silent: set[str] = field(default_factory=set)
    _place: dict[Part, int] = field(default_factory=dict)
    _busy: bool = False

    @contextmanager
    def watching(self, parts: Sequence[Part]) -> Iterator[None]:
        """While open, forward passes are seen; a page's columns are these parts."""
        self._place = {part: i for i, part in enumerate(parts)}
        owned: dict[str, list[str]] = {}
        for name in self.changed:
            path, _, own = name.rpartition(".")
            owned.setdefault(path, []).append(own)
        with ExitStack() as stack:
            for path, names in owned.items():
                hook = partial(self._seen, path, self._groups(path, names))
                stack.callback(self.module.get_submodule(path).register_forward_hook(hook).remove)
            self._silent = set(owned)
            yield

    def passes(self, rows: int) -> None:
        """What comes is a forward pass of so many prompts."""
        self._rows, self._roots = rows, []

    def booked(self, value: Tensor, keep: bool) -> np.ndarray:
        """By prompt and part: what the change adds to a number of the last forward pass, which is a sum over prompts.

        Args:
            keep: whether another number of the same pass is asked for next.
        """
        if self._silent:
            raise ValueError(
                f"{sorted(self._silent)[0]}: its weights changed, and it is not run as a module: no booking"
            )
        self._page = np.zeros((self._rows, len(self._place)))
        torch.autograd.grad(value, self._roots, retain_graph=keep, allow_unused=True)
        return self._page

    def _groups(self, path: str, names: Sequence[str]) -> list[tuple[list[str], list[Share]]]:
        """Of one module: parameters whose parts are cut alike, and how."""
        found: list[tuple[list[str], list[Share]]] = []
        for own in names:
            shares = list(self.shares[f"{path}.{own}"])
            alike = next((g for g in found if [s.parts for s in g[1]] == [s.parts for s in shares]), None)
            if alike is None:
                found.append(([own], shares))
            else:
                alike[0].append(own)
        return found

    def _seen(self, path: str, groups: Any, module: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> Tensor | None:
        if self._busy:
            return None
        self._silent.discard(path)
        if not out.requires_grad:
            # The first modules that changed: gradients go back to here. A copy, as a leaf must not be written into.
            out = out.detach().requires_grad_()
            self._roots.append(out)
            out = out.clone()
        read = [x.detach() if isinstance(x, Tensor) else x for x in inputs]
        for names, shares in groups:
            if shares[0].inputs:
                out.register_hook(partial(self._by_inputs, module, read[0], f"{path}.weight", shares[0]))
            else:
                deltas = {own: self.changed[f"{path}.{own}"] for own in names}
                out.register_hook(partial(self._by_outputs, self._moved(module, read, deltas), shares))
        return out

    @torch.no_grad()
    def _moved(self, module: nn.Module, inputs: list[Any], deltas: dict[str, Tensor]) -> Tensor:
        """Δy."""
        weight, bias = deltas.get("weight"), deltas.get("bias")
        if weight is not None and isinstance(module, nn.Linear):
            return functional.linear(inputs[0], weight, bias)
        if weight is not None and isinstance(module, Conv1D):
            return inputs[0] @ weight if bias is None else inputs[0] @ weight + bias
        if type(module) is nn.Embedding:
            return functional.embedding(inputs[0], deltas["weight"])
        # Norms: affine in their weights, so a change as large as these are tells the same, without rounding.
        weights = {name: module.get_parameter(name).detach() for name in deltas}
        large = max(float(own.abs().max()) for own in weights.values()) or 1.0
        times = large / max(float(delta.abs().max()) for delta in deltas.values())
        further = {name: own + times * deltas[name] for name, own in weights.items()}
        self._busy = True
        try:
            here, there = (torch.func.functional_call(module, own, tuple(inputs)) for own in (weights, further))
        finally:
            self._busy = False
        return (there - here) / times

    @torch.no_grad()
    def _by_outputs(self, moved: Tensor, shares: Sequence[Share], gradient: Tensor) -> None:
        self._book(gradient * moved, shares)

    @torch.no_grad()
    def _by_inputs(self, module: nn.Module, read: Tensor, name: str, share: Share, gradient: Tensor) -> None:
        delta = self.changed[name]
        back = gradient @ (delta if isinstance(module, nn.Linear) else delta.T)
        self._book(back * read, [share])

    def _book(self, product: Tensor, shares: Sequence[Share]) -> None:
        """Products in the model's own precision, their sums in float64."""
        if product.shape[0] % self._rows:
            raise ValueError(f"{tuple(product.shape)}: not a row for each of {self._rows} prompts")
        by_feature = product.reshape(self._rows, -1, product.shape[-1]).double().sum(1).T
        for share in shares:
            sums = share.features(by_feature).flatten(1, -2).sum(1)
            self._page[:, [self._place[part] for part in share.parts]] += sums.T.cpu().numpy()
