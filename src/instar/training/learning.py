"""The course of a fine-tuning, step by step: loss, gradient norm, how far the weights have moved, and what is learnt.

1. *Choosing* (docs/metrics.md): log p(answer) − log Σ p(n) over the answer and its foils n at the prompt's last token, in
   nats; the mean over pairs that are never trained, tested or measured on.
2. A probe takes at most a fifth of the training's own time by count of tokens, a forward pass being a third of forward and
   backward; the rest up to a quarter is for what a pass costs whatever its size. `LEAST` pairs are probed at the least;
   where these are too many for every step, every second, third, … step. Counts and not clocks decide, so the same
   training is probed at the same steps wherever it runs.
3. ‖Δθ‖ is the L2 norm of all trained parameters minus step 0's, which are read from its file tensor by tensor. Of adapters
   it is the norm of the merged change: ‖s B A‖² = s² tr(BᵀB AAᵀ), summed over the adapters.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from instar.measure.common import candidates_of, in_nats
from instar.models.load import Model
from instar.models.taps import logits_at, record
from instar.tasks.batch import Batch

SHARE = 0.2
"""Of the training's time, for the probe."""
BACKWARD = 3
"""Forward and backward pass, in forward passes."""
LEAST, MOST = 8, 64
"""Pairs of a probe."""
CHUNK = 2**20
"""Numbers that are subtracted at a time."""


@dataclass(frozen=True)
class Due:
    """How many pairs are probed, and every how many steps."""

    pairs: int
    every: int


def affordable(training: float, probe: float, there: int) -> Due:
    """What fits into `SHARE` of the training.

    Args:
        training: tokens of one training step.
        probe: tokens of one pair's prompt.
        there: how many pairs there are.
    """
    fitting = SHARE * BACKWARD * training / probe
    least = min(LEAST, there)
    every = max(1, math.ceil(least / fitting))
    return Due(max(least, min(int(every * fitting), MOST, there)), every)


@dataclass
class Learning:
    """The probe of one fine-tuning."""

    batch: Batch
    """The pairs that are probed."""
    every: int
    seconds: float = 0.0

    @classmethod
    def of(cls, pairs: Batch, training: float) -> "Learning":
        """The probe that a training step of so many tokens affords.

        Raises:
            ValueError: for pairs of which none has a foil: there is nothing to choose among.
        """
        if not bool((pairs.foils >= 0).any()):
            raise ValueError(
                f"train.checkpoints: learning looks at how {pairs.task} chooses among an answer and its foils, and no pair "
                "has a foil: give checkpoints as steps"
            )
        due = affordable(training, float(pairs.mask.sum(1).double().mean()), len(pairs))
        return cls(pairs[slice(0, due.pairs)], due.every)

    @torch.no_grad()
    def probe(self, model: Model) -> float:
        """Mean choosing, in nats."""
        began, batch, device = time.perf_counter(), self.batch, model.device
        final = record(model.layout, batch.clean.to(device), batch.mask.to(device)).final
        logits = logits_at(model.layout, final, batch.end.to(device)).cpu()
        value = float(in_nats(logits, candidates_of(batch.answer, batch.foils))["choosing"].nanmean())
        self.seconds += time.perf_counter() - began
        return value

    def took(self, training: float) -> str:
        """How long it took, beside so many seconds of training."""
        every = "every step" if self.every == 1 else f"every {self.every} steps"
        return (
            f"learning: {len(self.batch)} pairs were probed {every}, {self.seconds:.1f} s beside {training:.1f} s of "
            f"training ({self.seconds / training:.0%})"
        )


@dataclass
class Course:
    """What is kept of every step, 0 included: `rows`."""

    base: Path
    """Step 0's weights."""
    rows: list[dict[str, Any]] = field(default_factory=list)

    def begin(self, step: int, model: Model, adapted: Any, choosing: float | None) -> None:
        """A step has been made. Its loss and gradient norm are told later."""
        moved = distance(model.module, self.base) if adapted is None else adapted_distance(adapted)
        row = {"step": step, "loss": None, "gradient_norm": None, "change": moved, "choosing": choosing}
        self.rows.append({name: _number(value) for name, value in row.items()})

    def end(self, step: int, logs: Mapping[str, Any]) -> None:
        """The last step's loss and the norm of its gradient before clipping."""
        if self.rows and self.rows[-1]["step"] == step:
            own = {"loss": logs.get("loss"), "gradient_norm": logs.get("grad_norm")}
            self.rows[-1] |= {name: _number(value) for name, value in own.items()}

    def loss_between(self, before: int, step: int) -> float | None:
        """Mean loss of the steps after `before`, up to `step`."""
        found = [row["loss"] for row in self.rows if before < row["step"] <= step]
        return None if not found or None in found else sum(found) / len(found)


def _number(value: Any) -> Any:
    """What is no number has no place in JSON."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@torch.no_grad()
def distance(module: Any, base: Path) -> float | None:
    """L2 norm of the trained parameters minus those of a safetensors file; None where it names them otherwise.

    Summed in float64. The file is mapped, not read, so that no second copy of the weights is held.
    """
    now, norms = module.state_dict(keep_vars=True), []
    with safe_open(base, "pt") as file:
        names = list(file.keys())
        if not now.keys() >= set(names):
            return None
        for name in (name for name in names if now[name].requires_grad):
            then = file.get_tensor(name).flatten()
            for a, b in zip(now[name].flatten().split(CHUNK), then.split(CHUNK), strict=True):
                norms.append(_norm(a - b.to(a.device)))
    # One question to a GPU at the end, not one for each: it would stand still between them.
    return sum(norm**2 for norm in torch.stack(norms).tolist()) ** 0.5 if norms else 0.0


@torch.no_grad()
def adapted_distance(adapted: Any) -> float:
    """L2 norm of what peft's adapters add to the weights once they are merged."""
    total = 0.0
    for module in adapted.modules():
        for name in getattr(module, "lora_A", None) or ():
            a, b = (getattr(module, part)[name].weight.cpu().double() for part in ("lora_A", "lora_B"))
            total += module.scaling[name] ** 2 * float(((b.T @ b) * (a @ a.T)).sum())
    return max(total, 0.0) ** 0.5


def _norm(x: Tensor) -> Tensor:
    # Apple's GPUs have no float64.
    return torch.linalg.vector_norm(x, dtype=None if x.device.type == "mps" else torch.float64)
