"""`instar check`: a skill's circuit in a base and in a checkpoint, measured on the same held-out prompts."""

from pathlib import Path

import numpy as np

from instar.between.reuse import thirds
from instar.circuits.circuit import FAITHFUL
from instar.circuits.graph import Graph
from instar.compare.gate import Checked, Numbers, judged
from instar.measure.common import prompts
from instar.measure.edges import edges
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
    config = config or GateConfig()
    first = base if isinstance(base, Model) else load(str(base))
    last = checkpoint if isinstance(checkpoint, Model) else load(str(checkpoint), like=first)
    if Graph.of(first.layout) != Graph.of(last.layout):
        raise ValueError(f"{first.name} and {last.name} are not of one shape: no circuit is in both")
    last, coordinates = in_coordinates_of(first, last)
    large = sum(p.numel() for p in first.module.parameters()) >= EXACT_BELOW
    count, every = config.prompts or PROMPTS[large], list[Numbers]()
    for done, skill in enumerate(config.skills):
        tell(done, len(config.skills), skill)
        batches, told, _ = asked(skill, first, count, max(count, TOLD[large]), config.seed)
        choosing = np.stack([evaluate(model, told)["choosing"].values for model in (first, last)])
        every += [_numbers(first, last, kind, batch, choosing) for kind, batch in batches.items()]
    facts = {"prompts": count, "seed": config.seed, "coordinates": coordinates.said}
    return Checked(first.name, last.name, tuple(judged(every, config, coordinates.shared)), facts)


def _numbers(first: Model, last: Model, kind: str, batch: Batch, choosing: np.ndarray) -> Numbers:
    """Scores, size and what the circuit does, each from prompts of its own."""
    graph, (scored, sized, seen) = Graph.of(first.layout), thirds(batch)
    before, after = (edges(model, scored, per_pair=True) for model in (first, last))
    try:
        circuit = before.circuit(faithfulness=FAITHFUL, batch=sized)
    except ValueError as error:
        raise ValueError(
            f"{batch.task}, {kind}: {first.name} has no circuit of it that could change: {error}"
        ) from None
    pages = [np.nan_to_num(own.dataset["score"].values)[:, graph.exists] for own in (before, after)]
    done = [faithfulness(model, seen, circuit) for model in (first, last)]
    clean, corrupted = (np.stack([own[name].values for own in done]) for name in ("clean", "corrupted"))
    kept = np.stack([own["metric"].values[0] for own in done])
    return Numbers(
        batch.task, kind, choosing, clean, corrupted, kept, prompts(seen.aligned()), np.stack(pages), len(circuit)
    )  # fmt: skip
