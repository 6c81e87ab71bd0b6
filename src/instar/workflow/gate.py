"""`instar check`: a skill's circuit in a base and in a checkpoint, measured on the same held-out prompts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from instar.between.reuse import thirds
from instar.circuits.circuit import FAITHFUL, Circuit
from instar.circuits.graph import Graph
from instar.compare.gate import Checked, Numbers, judged
from instar.measure.common import prompts
from instar.measure.edges import Edges, edges
from instar.measure.evaluate import evaluate
from instar.measure.faithfulness import faithfulness
from instar.measure.patching import EXACT_BELOW
from instar.models.coordinates import in_coordinates_of
from instar.models.load import Model, load
from instar.progress import Tell, untold
from instar.record.config.gate import GateConfig
from instar.tasks.batch import Batch
from instar.workflow.answering import TOLD, asked

PROMPTS = {False: 96, True: 36}
"""Of small and of large models."""


def check(
    base: Model | str | Path, checkpoint: Model | str | Path, config: GateConfig | None = None, tell: Tell = untold
) -> Checked:
    """Whether skills' circuits have changed, by how much, and what change would have been seen (`instar.compare.gate`).

    Raises:
        ValueError: for models of different shapes, too few prompts, or a skill that the base does not have.
    """
    first = base if isinstance(base, Model) else load(str(base))
    last = checkpoint if isinstance(checkpoint, Model) else load(str(checkpoint), like=first)
    return Gate(first, config or GateConfig()).of(last, tell)


@dataclass
class Gate:
    """Checks one checkpoint after another against a base, whose own numbers are measured once."""

    base: Model
    config: GateConfig
    _skills: dict[str, "_Skill"] = field(default_factory=dict, init=False)

    def of(self, last: Model, tell: Tell = untold) -> Checked:
        """A checkpoint's; errors as of `check`."""
        first, config = self.base, self.config
        if Graph.of(first.layout) != Graph.of(last.layout):
            raise ValueError(f"{first.name} and {last.name} are not of one shape: no circuit is in both")
        last, coordinates = in_coordinates_of(first, last)
        large = sum(p.numel() for p in first.module.parameters()) >= EXACT_BELOW
        count, every = config.prompts or PROMPTS[large], list[Numbers]()
        for done, skill in enumerate(config.skills):
            tell(done, len(config.skills), skill)
            if skill not in self._skills:
                batches, told, _ = asked(skill, first, count, max(count, TOLD[large]), config.seed)
                self._skills[skill] = _Skill.of(first, batches, told)
            every += self._skills[skill].numbers(last)
        facts = {"prompts": count, "seed": config.seed, "coordinates": coordinates.said}
        return Checked(first.name, last.name, tuple(judged(every, config, coordinates.shared)), facts)


@dataclass(frozen=True)
class _Skill:
    """What the base does, and on which prompts."""

    told: Batch
    choosing: np.ndarray
    kinds: dict[str, "_Kind"]

    @classmethod
    def of(cls, base: Model, batches: Mapping[str, Batch], told: Batch) -> "_Skill":
        kinds = {kind: _Kind.of(base, kind, batch) for kind, batch in batches.items()}
        return cls(told, evaluate(base, told)["choosing"].values, kinds)

    def numbers(self, last: Model) -> Iterator[Numbers]:
        """Beside a checkpoint's, for each counterfactual."""
        choosing = np.stack([self.choosing, evaluate(last, self.told)["choosing"].values])
        for name, kind in self.kinds.items():
            clean, corrupted, kept, scores = (np.stack(two) for two in zip(kind.base, kind.half(last), strict=True))
            prompt, size = prompts(kind.seen.aligned()), len(kind.circuit)
            yield Numbers(kind.seen.task, name, choosing, clean, corrupted, kept, prompt, scores, size)


_Half = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Of one model b, c and what the base's circuit does `[pair]`, and scores `[pair, edge]`."""


@dataclass(frozen=True)
class _Kind:
    """One counterfactual: scores, size and what the circuit does, each from prompts of its own."""

    scored: Batch
    seen: Batch
    circuit: Circuit
    base: _Half

    @classmethod
    def of(cls, base: Model, kind: str, batch: Batch) -> "_Kind":
        scored, sized, seen = thirds(batch)
        found = edges(base, scored, per_pair=True)
        try:
            circuit = found.circuit(faithfulness=FAITHFUL, batch=sized)
        except ValueError as error:
            raise ValueError(
                f"{batch.task}, {kind}: {base.name} has no circuit of it that could change: {error}"
            ) from None
        return cls(scored, seen, circuit, _half(base, found, seen, circuit))

    def half(self, model: Model) -> _Half:
        """A checkpoint's."""
        return _half(model, edges(model, self.scored, per_pair=True), self.seen, self.circuit)


def _half(model: Model, scored: Edges, seen: Batch, circuit: Circuit) -> _Half:
    done = faithfulness(model, seen, circuit)
    page = np.nan_to_num(scored.dataset["score"].values)[:, circuit.graph.exists]
    return done["clean"].values, done["corrupted"].values, done["metric"].values[0], page
