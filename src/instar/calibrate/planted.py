"""Fine-tunings whose answer is known, because only what makes the answer was allowed to change.

Each maker takes a proven base and returns the base and the tuned model of one planted instance, with its *manipulation
check*: that the plant took, by what was done to the weights and by behaviour, never by the verdict's own evidence.

- `no new ability`: more of the old task at a small rate; or the new task with shuffled answers.
- `amplified`: a model that can do both tasks; in the base the old circuit's W_O is scaled down until the new task has clearly
  suffered (set aside where the old one did too), and the tuned model has it back.
- `rewired`: only W_Q and W_K of the old circuit's heads are trained; their attention must have moved.
- `extended`: some heads outside the old circuit are dead in the base (W_O = 0), and only these are trained.
- `replaced`: the old circuit's W_O is zeroed and frozen, all other heads are trained on both tasks.

Training is plain AdamW on the answers, with gradients masked to the chosen slices: what is not chosen stays bit for bit.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instar.between.graft import read
from instar.circuits.graph import Graph
from instar.circuits.sets import all_heads
from instar.models.arch import Layout
from instar.models.load import Model, load
from instar.models.taps import record
from instar.models.weights import weights
from instar.record.config import TrainConfig
from instar.tasks.batch import Batch
from instar.tasks.task import Task
from instar.training.train import Row, collate, encode

ROWS = 16
KEPT = 0.95
"""Accuracy on the old task that a base must have."""
RISE = 0.05


@dataclass(frozen=True)
class Subject:
    """A base that has mastered the old task and not the new, and what plants are made with."""

    model: Model
    old: Task
    new: Task
    inside: tuple[str, ...]
    """Heads of the old task's circuit in the base."""
    circuit: Callable[[Model], tuple[str, ...]]
    """The heads of the old task's circuit in another model."""
    old_pairs: Batch
    """Held-out pairs for manipulation checks; evidence is from other ones."""
    new_pairs: Batch


@dataclass(frozen=True)
class Plant:
    """One planted instance."""

    base: Model
    tuned: Model
    checks: dict[str, float]
    took: bool
    """Whether the manipulation check was passed; what fails it is set aside and counted."""


def copied(model: Model) -> Model:
    """A model of its own with the same weights."""
    return load(copy.deepcopy(model.module), model.tokenizer)


def fine_tune(
    model: Model,
    tasks: Sequence[Task],
    seed: int,
    *,
    steps: int,
    rate: float,
    only: Sequence[Tensor] | None = None,
    shuffled: bool = False,
) -> None:
    """Train in place on the answers of these tasks, mixed. `only`: masks by parameter; None: all but the embeddings."""
    rng = np.random.default_rng(seed)
    tokenizer, config = model.tokenizer, TrainConfig()
    rows = []
    for i, task in enumerate(tasks):
        pairs = task.fit(tokenizer).pairs(steps * ROWS // len(tasks), 1000 + 10 * seed + i, "train")
        choices = [(p.answer, *p.foils) for p in pairs]
        answers = [str(rng.choice(c)) for c in choices] if shuffled else [p.answer for p in pairs]
        rows += [encode(Row(p.clean, a), tokenizer, config) for p, a in zip(pairs, answers, strict=True)]
    rng.shuffle(rows)  # pyright: ignore[reportArgumentType] — a list is shuffled in place
    parameters = list(model.module.parameters())
    frozen = {id(p) for e in model.layout.embeddings for p in e.parameters()}
    masks = [torch.full_like(p, id(p) not in frozen) for p in parameters] if only is None else list(only)
    hooks = []
    for parameter, mask in zip(parameters, masks, strict=True):
        parameter.requires_grad_(bool(mask.any()))
        if parameter.requires_grad:
            hooks.append(parameter.register_hook(lambda grad, mask=mask: grad * mask))
    # Without weight decay a masked gradient of 0 leaves AdamW's weights exactly as they are.
    optimizer = torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=rate, weight_decay=0.0)
    for step in range(len(rows) // ROWS):
        batch = collate(rows[step * ROWS : (step + 1) * ROWS], tokenizer.eos_token_id or 0)
        loss = model.module(**batch, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for hook in hooks:
        hook.remove()
    for parameter in parameters:
        parameter.requires_grad_(True)


def chosen(model: Model, heads: Sequence[str], projections: str = "qkvo") -> list[Tensor]:
    """1 where these heads' slices are, 0 elsewhere, by parameter."""
    masks = copy.deepcopy(model.module)
    with torch.no_grad():
        for parameter in masks.parameters():
            parameter.zero_()
        for view in weights(Layout(masks, model.layout.arch), heads, projections):
            view.fill_(1)
    return [p.detach() for p in masks.parameters()]


@torch.no_grad()
def scaled(model: Model, heads: Sequence[str], by: float) -> None:
    """Multiply the output matrices of these heads, in place."""
    for view in weights(model.layout, heads, "o"):
        view.mul_(by)


def accuracy(model: Model, batch: Batch) -> float:
    """Share of pairs whose answer is the top token."""
    return float(read(model, batch).right.mean())


def _checked(subject: Subject, base: Model, tuned: Model, gains: bool, **more: float) -> Plant:
    old, before, after = (
        accuracy(base, subject.old_pairs),
        accuracy(base, subject.new_pairs),
        accuracy(tuned, subject.new_pairs),
    )
    checks = {"old task, base": old, "new task, base": before, "new task, tuned": after, **more}
    rose = after - before > 2 * RISE if gains else after - before < RISE / 2
    return Plant(load(base.module, base.tokenizer), load(tuned.module, tuned.tokenizer), checks, old >= KEPT and rose)


def more_old(subject: Subject, seed: int) -> Plant:
    """A mastered task goes on being trained: little moves, and nothing new is learned."""
    tuned = copied(subject.model)
    fine_tune(tuned, [subject.old], seed, steps=20, rate=1e-5)
    return _checked(subject, subject.model, tuned, gains=False)


def shuffled(subject: Subject, seed: int) -> Plant:
    """The new task's prompts with a random introduced name as the answer."""
    tuned = copied(subject.model)
    fine_tune(tuned, [subject.new], seed, steps=60, rate=2e-4, shuffled=True)
    return _checked(subject, subject.model, tuned, gains=False)


def amplified(subject: Subject, seed: int) -> Plant:
    """The old circuit attenuated in the base, restored in the tuned model: the circuit that the tuned model has.

    The gentlest attenuation that costs enough of the new task: a harsher one leaves a base whose circuit is its strongest
    head alone, in which "the old circuit" no longer means what was attenuated.
    """
    tuned = copied(subject.model)
    fine_tune(tuned, [subject.old, subject.new], seed, steps=120, rate=4e-4)
    heads, able = subject.circuit(tuned), accuracy(tuned, subject.new_pairs)
    base, factor = tuned, 1.0
    for by in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1):
        base, factor = copied(tuned), by
        scaled(base, heads, by)
        if able - accuracy(base, subject.new_pairs) > 2 * RISE:
            break
    return _checked(subject, base, tuned, gains=True, attenuated=factor)


def rewired(subject: Subject, seed: int) -> Plant:
    """Only what the old circuit's heads attend to is trained."""
    tuned = copied(subject.model)
    fine_tune(tuned, [subject.new], seed, steps=100, rate=2e-3, only=chosen(tuned, subject.inside, "qk"))
    moved = _attention_moved(subject.model, tuned, subject.new_pairs, subject.inside)
    plant = _checked(subject, subject.model, tuned, gains=True, attention_moved=moved)
    return Plant(plant.base, plant.tuned, plant.checks, plant.took and moved > 0.05)


@torch.no_grad()
def _attention_moved(base: Model, tuned: Model, batch: Batch, heads: Sequence[str]) -> float:
    """The largest total variation between the two models' patterns at the last token, over these heads."""
    rows = torch.arange(len(batch))
    found = []
    for model in (base, tuned):
        patterns = record(model.layout, batch.clean, batch.mask, keep=("pattern",))["pattern"]
        found.append(torch.stack([p[rows, :, batch.end] for p in patterns]))
    distance = (found[0] - found[1]).abs().sum(-1).mean(1) / 2
    at = [tuple(int(x) for x in head[1:].split(".h")) for head in heads]
    return max(float(distance[head]) for head in at)


def extended(subject: Subject, seed: int) -> Plant:
    """Heads outside the old circuit, dead in the base, learn the new task: eight of the early layers', the first's before."""
    graph, generator = Graph.of(subject.model.layout), np.random.default_rng(seed)
    layers = [
        [h for h in all_heads(graph) if h.startswith(f"a{i}.") and h not in subject.inside]
        for i in range(graph.n_layers)
    ]
    base = copied(subject.model)
    grown: list[str] = []
    for head in [h for early in layers[: 1 + graph.n_layers // 3] for h in generator.permutation(early).tolist()]:
        if len(grown) == 8:
            break
        attempt = copied(base)
        scaled(attempt, [head], 0.0)
        # A head the old task needs is not one to grow anew.
        if accuracy(attempt, subject.old_pairs) >= KEPT:
            base, grown = attempt, [*grown, head]
    tuned = copied(base)
    fine_tune(tuned, [subject.old, subject.new], seed, steps=200, rate=2e-3, only=chosen(tuned, grown))
    return _checked(subject, base, tuned, gains=True, grown=len(grown))


def replaced(subject: Subject, seed: int) -> Plant:
    """The old circuit cut off for good, all other heads trained on both tasks."""
    tuned = copied(subject.model)
    scaled(tuned, subject.inside, 0.0)
    others = [h for h in all_heads(Graph.of(tuned.layout)) if h not in subject.inside]
    fine_tune(tuned, [subject.old, subject.new], seed, steps=800, rate=2e-3, only=chosen(tuned, others))
    return _checked(subject, subject.model, tuned, gains=True)


@torch.no_grad()
def shuffled_heads(model: Model, seed: int) -> Model:
    """The same function with each layer's heads in another order."""
    own = copied(model)
    layout, generator = own.layout, np.random.default_rng(seed)
    group = layout.n_heads // layout.n_kv_heads
    for layer in range(layout.n_layers):
        order = generator.permutation(layout.n_kv_heads)
        # Heads that share keys and values move together.
        heads = [int(g) * group + i for g in order for i in range(group)]
        for projection, new in (("q", heads), ("k", order.tolist()), ("v", order.tolist())):
            for view in (layout.w_in(layer, projection), layout.b_in(layer, projection)):  # pyright: ignore[reportArgumentType]
                if view is not None:
                    view.copy_(view[new].clone())
        view = layout.w_o(layer)
        view.copy_(view[heads].clone())
    return load(own.module, own.tokenizer)


def identical(subject: Subject, seed: int) -> Plant:
    """Trap: tuned is the base."""
    return Plant(subject.model, copied(subject.model), {}, True)


def base_permuted(subject: Subject, seed: int) -> Plant:
    """Trap: the base with its heads in another order."""
    return Plant(subject.model, shuffled_heads(subject.model, seed), {}, True)


def tuned_permuted(subject: Subject, seed: int) -> Plant:
    """Trap: a rewired model with its heads in another order."""
    plant = rewired(subject, seed)
    return Plant(plant.base, shuffled_heads(plant.tuned, seed), plant.checks, plant.took)


def nothing_to_divide_by(subject: Subject, seed: int) -> Plant:
    """Trap: the base cannot tell clean from corrupted prompts (b − c = 0), the tuned model can."""
    base = copied(subject.model)
    # Not 0: then a consistent sign would be left, and an interval above 0 is the trap.
    scaled(base, all_heads(Graph.of(base.layout)), 1e-3)
    return Plant(
        load(base.module, base.tokenizer), subject.model, {"old task, base": accuracy(base, subject.old_pairs)}, True
    )


KINDS: dict[str, Any] = {
    "more of the old task": (more_old, "no new ability"),
    "shuffled answers": (shuffled, "no new ability"),
    "amplified": (amplified, "amplified"),
    "rewired": (rewired, "rewired"),
    "extended": (extended, "extended"),
    "replaced": (replaced, "replaced"),
}
"""By plant: its maker and the right verdict."""
TRAPS: dict[str, Any] = {
    "tuned = base": (identical, ("no new ability",)),
    "base, heads permuted": (base_permuted, ("no new ability",)),
    "tuned, heads permuted": (tuned_permuted, ("undetermined", "extended", "replaced", "no new ability")),
    "b - c = 0 in the base": (nothing_to_divide_by, ("undetermined", "no new ability")),
}
"""By trap: its maker and the verdicts that do not fall into it."""
