"""Fine-tunings whose answer is known, because only what makes the answer was allowed to change.

Each maker takes a proven base and returns the base and the tuned model of one planted instance, with its *manipulation
check*: that the plant took, by what was done to the weights and by behaviour, never by the answer's own evidence. *Inside*
are the heads of the old task's circuit in the base.

- nothing learnt: `more of the old task`; `shuffled labels` (the answers of other prompts); `naming only` (one of the
  introduced names at random, in a base that was made to say things).
- `transformed`: `rewired` (W_Q, W_K inside), `amplified` (W_O inside scaled down in the base), `rewired and amplified` (all
  four inside), `rewritten` (only MLPs of the circuit's layers); and `whole model, old circuit`: the base's circuit is
  attenuated, then *everything* is trained, and what changed inside must carry the gain.
- `extended`: heads outside that are dead in the base (W_O = 0) learn; `extended and rewired`: and W_Q, W_K inside.
- `formed`: `replaced`: the circuit's W_O is zeroed and frozen, all other heads are trained on both tasks; and `whole
  model, old circuit dead`: it is dead in the base too, and all else is trained; the old circuit is the intact model's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from instar.between.graft import grafted
from instar.calibrate.tuning import (
    Answers,
    Masks,
    again,
    chosen,
    copied,
    everything,
    fine_tune,
    joined,
    naming,
    right,
    scaled,
)
from instar.circuits.graph import Graph
from instar.circuits.sets import all_heads
from instar.models.load import Model
from instar.tasks.batch import Batch
from instar.tasks.task import Task

KEPT = 0.95
"""Share of right choices on the old task that a base must have."""
LEARNT, NOTHING = 0.15, 0.025
"""Rise in right choices on the new task above which something was learnt, and below which nothing was."""
NAMES = 0.5
"""Rise in naming, nats, above which naming was learnt."""
CARRIED, MOSTLY = 0.8, 0.5
"""Share of the gain that what is said to have brought it must carry: without it, so much is gone."""
COST = 0.1
"""Right choices on the new task that a whole model's attenuated circuit costs."""
FACTORS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
GROWN = 12
SLOWER, FAINTLY = 0.05, 0.01
GUIDED = (3, 4, 2, 2)
"""How many heads of each layer are guided, as in the embedded models' recipe."""


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
    intact: Model | None = None
    """Where the base cannot do the old task: the model whose circuit is the old one."""


def _checked(subject: Subject, base: Model, tuned: Model, gains: bool, intact: Model | None = None) -> Plant:
    """`intact`: who has to do the old task, where it is not the base."""
    old, before, after = (
        right(base, subject.old_pairs),
        right(base, subject.new_pairs),
        right(tuned, subject.new_pairs),
    )
    checks = {"old task, base": old, "new task, base": before, "new task, tuned": after}
    if intact is not None:
        checks["old task, intact"] = old = right(intact, subject.old_pairs)
    took = old >= KEPT and (after - before > LEARNT if gains else after - before < NOTHING)
    return Plant(again(base), again(tuned), checks, took, intact)


def _also(plant: Plant, took: bool = True, **checks: float) -> Plant:
    """With a further check."""
    return replace(plant, checks=plant.checks | checks, took=plant.took and took)


def _tuned(
    subject: Subject, seed: int, *, steps: int, rate: float, only: Masks | None = None, answers: Answers = "right"
) -> Plant:
    """The subject's own model, fine-tuned on the new task."""
    tuned = copied(subject.model)
    fine_tune(tuned, [(subject.new, answers)], seed, steps=steps, rate=rate, only=only)
    return _checked(subject, subject.model, tuned, gains=answers == "right")


# --- Nothing learnt ---------------------------------------------------------------------------------------------------


def more_old(subject: Subject, seed: int) -> Plant:
    """A mastered task goes on being trained: little moves, and nothing new is learnt."""
    tuned = copied(subject.model)
    fine_tune(tuned, [(subject.old, "right")], seed, steps=20, rate=1e-5)
    return _checked(subject, subject.model, tuned, gains=False)


def shuffled(subject: Subject, seed: int) -> Plant:
    """The new task's prompts with the answers of other prompts."""
    return _tuned(subject, seed, steps=60, rate=2e-4, answers="anybody")


def naming_only(subject: Subject, seed: int) -> Plant:
    """A base that says things where the new task wants a name learns to say one of those introduced, at random."""
    base = copied(subject.model)
    fine_tune(base, [(subject.old, "right"), (subject.new, "things")], 100 + seed, steps=60, rate=2e-4)
    tuned = copied(base)
    fine_tune(tuned, [(subject.new, "introduced")], seed, steps=100, rate=5e-4)
    rise = naming(tuned, subject.new_pairs) - naming(base, subject.new_pairs)
    return _also(_checked(subject, base, tuned, gains=False), rise > NAMES, naming_rose=rise)


# --- Transformed ------------------------------------------------------------------------------------------------------


def rewired(subject: Subject, seed: int) -> Plant:
    """Only what the old circuit's heads attend to is trained."""
    return _tuned(subject, seed, steps=150, rate=2e-3, only=chosen(subject.model, subject.inside, "qk"))


def amplified(subject: Subject, seed: int) -> Plant:
    """The old circuit attenuated in the base, restored in the tuned model: the circuit that the tuned model has.

    The gentlest attenuation that costs enough of the new task: a harsher one leaves a base whose circuit is its strongest
    head alone, in which "the old circuit" no longer means what was attenuated.
    """
    tuned = copied(subject.model)
    fine_tune(tuned, [(subject.old, "right"), (subject.new, "right")], seed, steps=150, rate=5e-4)
    base, factor = attenuated(tuned, subject.circuit(again(tuned)), subject.new_pairs)
    return _also(_checked(subject, base, tuned, gains=True), attenuated=factor)


def attenuated(
    model: Model, heads: Sequence[str], batch: Batch, cost: float = LEARNT, kept: Batch | None = None
) -> tuple[Model, float]:
    """A copy whose heads write less, by the gentlest factor that costs enough of a task, and not another one (`kept`)."""
    able, base, factor = right(model, batch), model, 1.0
    for by in FACTORS:
        attempt = copied(model)
        scaled(attempt, heads, by)
        if kept is not None and right(attempt, kept) < KEPT:
            break
        base, factor = attempt, by
        if able - right(base, batch) > cost:
            break
    return base, factor


def rewired_and_amplified(subject: Subject, seed: int) -> Plant:
    """Only the old circuit's heads are trained, with all they have."""
    return _tuned(subject, seed, steps=100, rate=1e-3, only=chosen(subject.model, subject.inside))


def rewritten(subject: Subject, seed: int) -> Plant:
    """Only the MLPs of the old circuit's layers are trained."""
    layers = sorted({name.partition(".")[0].replace("a", "m") for name in subject.inside})
    return _tuned(subject, seed, steps=600, rate=2e-3, only=chosen(subject.model, layers))


def whole_transformed(subject: Subject, seed: int) -> Plant:
    """The old circuit attenuated in the base, everything trained; without what changed inside, the gain is gone.

    The circuit's heads at the full rate, all else at a twentieth of it.
    """
    base, factor = attenuated(subject.model, subject.inside, subject.new_pairs, COST, subject.old_pairs)
    tuned = copied(base)
    own = chosen(tuned, subject.inside)
    only = [inside + SLOWER * (1 - inside) for inside in own]
    fine_tune(tuned, [(subject.new, "right")], seed, steps=150, rate=1e-3, only=only)
    plant = _checked(subject, base, tuned, gains=True)
    carried = _carried(subject, plant, subject.inside)
    return _also(plant, carried >= CARRIED, attenuated=factor, carried_inside=carried)


def _carried(subject: Subject, plant: Plant, heads: Sequence[str]) -> float:
    """The share of the gain that is gone where these heads have the base's weights again."""
    with grafted(plant.tuned, plant.base, heads):
        without = right(plant.tuned, subject.new_pairs)
    before, after = (plant.checks[f"new task, {which}"] for which in ("base", "tuned"))
    return (after - without) / max(after - before, 1e-9)


# --- Extended ---------------------------------------------------------------------------------------------------------


def extended(subject: Subject, seed: int) -> Plant:
    """Heads outside the old circuit, dead in the base, learn the new task."""
    return _extended(subject, seed, rewired=False)


def extended_and_rewired(subject: Subject, seed: int) -> Plant:
    """The same, and what the old circuit's heads attend to is trained too, slowly; the others still bring most."""
    return _extended(subject, seed, rewired=True)


def _extended(subject: Subject, seed: int, rewired: bool) -> Plant:
    base, grown = _with_dead_heads(subject, seed)
    tuned = copied(base)
    only: Masks = chosen(tuned, grown)
    if rewired:
        only = joined(only, [FAINTLY * own for own in chosen(tuned, subject.inside, "qk")])
    fine_tune(tuned, [(subject.old, "right"), (subject.new, "right")], seed, steps=400, rate=2e-3, only=only)
    plant = _checked(subject, base, tuned, gains=True)
    carried = _carried(subject, plant, grown)
    return _also(plant, carried >= (MOSTLY if rewired else CARRIED), grown=len(grown), carried_by_them=carried)


def _with_dead_heads(subject: Subject, seed: int) -> tuple[Model, list[str]]:
    """A base in which some heads outside, of the old circuit's layers in turn, are dead; what the old task needs stays."""
    graph, draw = Graph.of(subject.model.layout), np.random.default_rng(seed)
    at = sorted({int(name[1:].partition(".")[0]) for name in subject.inside})
    layers = [draw.permutation(_outside(subject, i)).tolist() for i in at]
    base, grown = copied(subject.model), list[str]()
    for head in [own[i] for i in range(graph.n_heads) for own in layers if i < len(own)]:
        if len(grown) == GROWN:
            break
        attempt = copied(base)
        scaled(attempt, [head], 0.0)
        if right(attempt, subject.old_pairs) >= KEPT:
            base, grown = attempt, [*grown, head]
    return base, grown


def _all_outside(subject: Subject) -> list[str]:
    return [h for h in all_heads(Graph.of(subject.model.layout)) if h not in subject.inside]


def _outside(subject: Subject, layer: int) -> list[str]:
    return [h for h in _all_outside(subject) if h.startswith(f"a{layer}.")]


# --- Formed -----------------------------------------------------------------------------------------------------------


def replaced(subject: Subject, seed: int) -> Plant:
    """The old circuit cut off for good, all other heads trained on both tasks."""
    tuned = _cut(subject)
    _on_both(subject, tuned, seed, rate=2e-3, only=chosen(tuned, _all_outside(subject)))
    return _checked(subject, subject.model, tuned, gains=True)


def whole_formed(subject: Subject, seed: int) -> Plant:
    """The old circuit is dead in the base; all but its heads is trained on both tasks, what is no head slowly."""
    base = again(_cut(subject))
    tuned = copied(base)
    others, heads = everything(tuned, but=subject.inside), chosen(tuned, _all_outside(subject))
    _on_both(subject, tuned, seed, rate=2e-3, only=joined(heads, [SLOWER * own for own in others]))
    return _checked(subject, base, tuned, gains=True, intact=subject.model)


def _cut(subject: Subject) -> Model:
    model = copied(subject.model)
    scaled(model, subject.inside, 0.0)
    return model


def _on_both(subject: Subject, model: Model, seed: int, *, rate: float, only: Masks) -> None:
    """A new circuit for both tasks; some of the heads outside are shown where to look."""
    guided = [head for layer, most in enumerate(GUIDED) for head in _outside(subject, layer)[:most]]
    both: list[tuple[Task, Answers]] = [(subject.old, "right"), (subject.new, "right")]
    fine_tune(model, both, seed, steps=800, rate=rate, only=only, guided=guided)


Word = Literal["no new ability", "naming only", "transformed", "extended", "formed"]


@dataclass(frozen=True)
class Kind:
    """One way to plant, and what is right to say of it."""

    make: Callable[[Subject, int], Plant]
    word: Word
    parts: tuple[str, ...] = ()
    """Parts in which all of the gain was written, by construction; empty: not fixed."""


KINDS: dict[str, Kind] = {
    "more of the old task": Kind(more_old, "no new ability"),
    "shuffled labels": Kind(shuffled, "no new ability"),
    "naming only": Kind(naming_only, "naming only"),
    "rewired": Kind(rewired, "transformed", ("Q,K",)),
    "amplified": Kind(amplified, "transformed", ("V,O",)),
    "rewired and amplified": Kind(rewired_and_amplified, "transformed", ("Q,K", "V,O")),
    "rewritten": Kind(rewritten, "transformed", ("MLPs",)),
    "whole model, old circuit": Kind(whole_transformed, "transformed"),
    "extended": Kind(extended, "extended", ("Q,K", "V,O")),
    "extended and rewired": Kind(extended_and_rewired, "extended", ("Q,K", "V,O")),
    "replaced": Kind(replaced, "formed"),
    "whole model, old circuit dead": Kind(whole_formed, "formed"),
}
