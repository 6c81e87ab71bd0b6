"""What each stage of a run takes on one checkpoint, counted in rows that go through blocks.

A *row* is one token of one prompt in one block. The counts follow the algorithms: a forward pass of n prompts of T tokens is
n T rows in each of L blocks; a replay from the middle does half of the blocks, on the tokens from the first difference on.
`Rates` are seconds, measured on this machine with a block of the model's own shape.

Approximate by nature: which edges of a circuit are live, and where the largest effects lie, is known only afterwards.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from instar.between.ledger import NODES
from instar.circuits.graph import Graph
from instar.circuits.selection import FINE, GRID
from instar.measure.edges import CHECKED_EDGES
from instar.measure.edges import CHECKED_PAIRS as AGREED_PAIRS
from instar.measure.patching import CHECKED, CHECKED_PAIRS, EXACT_BELOW, SITES
from instar.record.config import CompareConfig, LearningConfig, MeasureConfig, TrainConfig
from instar.training.learning import SHARE
from instar.training.train import PROBES
from instar.workflow.rates import Rates
from instar.workflow.schedule import LEDGER_PROMPTS
from instar.workflow.stages import MANY_EDGES, RANDOM

REPEATED = 16 * 50
"""Rows of the random tokens that roles of heads are read from."""
FIXED = {
    **{"evaluate": 0.1, "lens": 0.06, "attribution": 0.1, "attention": 0.12, "patching": 0.1, "circuit": 0.4},
    **{"roles": 0.1, "drift": 0.1, "loading": 0.1, "causal": 1.0, "training": 0.5, "ledger": 0.2, "reuse": 0.5},
    "shapley": 0.2,
}
"""Seconds, for each giver or group of givers where interventions are done."""
TEXT = 150
"""Tokens of a text that drift is measured on."""
TAUGHT = 6
"""Positions at which some row of a batch has its answer, prompts being of different lengths."""
CLIPPED, STEPPED, MOVED = 3, 8, 6
"""How often each parameter is read or written in a step: by clipping, by AdamW, and to know how far it has moved."""


@dataclass(frozen=True)
class Asked:
    """One task as the model reads it."""

    givers: int
    tokens: float
    """Of a prompt, padded."""
    changed: float
    """Of these, from the first difference on."""
    slots: int


@dataclass(frozen=True)
class Shape:
    """The model, as far as it decides what things take."""

    graph: Graph
    d_model: int
    vocabulary: int
    parameters: int

    @property
    def is_large(self) -> bool:
        """Whether patching is estimated."""
        return self.parameters >= EXACT_BELOW


@dataclass(frozen=True)
class Costs:
    """Seconds of each stage."""

    shape: Shape
    rates: Rates
    measure: MeasureConfig
    texts: int = 0
    """That have nothing to do with the tasks."""

    def rows(self, prompts: float, tokens: float, chunk: int, depth: float = 1.0, back: bool = False) -> float:
        """Prompts through the blocks, `chunk` at a time; `depth`: through which share of them."""
        blocks = self.shape.graph.n_layers * depth
        calls = math.ceil(prompts / chunk)
        return blocks * (calls * self.rates.call + prompts * tokens * (self.rates.back if back else self.rates.row))

    @property
    def behind(self) -> float:
        """The share of the blocks that is run anew behind a patch, on average over layers: those after its own."""
        layers = self.shape.graph.n_layers
        return (layers - 1) / (2 * layers)

    def forward(self, prompts: float, of: Asked) -> float:
        """Clean prompts, read."""
        return self.rows(prompts, of.tokens, self.measure.chunk)

    def evaluate(self, of: Asked, pairs: int) -> float:
        """Behaviour."""
        return self.forward(pairs, of) + pairs * self.rates.word

    def patching(self, of: Asked) -> float:
        """Every site: exactly, or estimated and checked."""
        graph, n, chunk = self.shape.graph, self.measure.patching_pairs, self.measure.replay_chunk
        exact = self.measure.patching == "exact" or (self.measure.patching == "auto" and not self.shape.is_large)
        if exact:
            heads = 3 * graph.n_heads + 2 * graph.n_kv_heads
            # A slot is replayed from where it begins, and one that is the same on both sides not at all.
            entries = graph.n_layers * (3 * of.slots * 0.35 + heads)
            return of.givers * (
                2 * self.rows(n, of.tokens, chunk) + self.rows(n * entries, of.changed, chunk, self.behind)
            )
        estimated = self.rows(n, of.tokens, chunk, back=True) + self.rows(n, of.tokens, chunk)
        replayed = len(SITES) * 2 * CHECKED * min(CHECKED_PAIRS, n)
        checked = (
            0.0 if self.measure.patching == "attribution" else self.rows(replayed, of.changed, 4 * chunk, self.behind)
        )
        return of.givers * (estimated + checked)

    def circuit(self, of: Asked) -> float:
        """Scores, the curve of every group, and their agreement with exact patching."""
        n, chunk, graph = self.measure.circuit_pairs, self.measure.replay_chunk, self.shape.graph
        points = self.measure.edge_steps if self.measure.edges == "eap-ig" else 1
        scored = points * self.rows(n, of.changed, chunk, back=True) + 2 * self.rows(n, of.changed, chunk)
        summed = n * of.changed * graph.n_edges * self.shape.d_model * self.rates.mac
        groups = of.givers + (of.givers > 1)
        own = sum(self._live(graph.n_edges * share) for share in GRID[:-1])
        draws = RANDOM if graph.n_edges < MANY_EDGES else 1
        random = draws * sum(self._live(graph.n_edges * share / 3) for share in GRID[:-1])
        # Around the smallest faithful size, a few more.
        masks = (2 if of.givers > 1 else 1) * (own + 4 * self._live(graph.n_edges * 0.03)) + random
        one = self.rows(n, of.changed, chunk) + n * of.changed * graph.n_edges * self.shape.d_model * self.rates.mac
        agreed = groups * self.rows(CHECKED_EDGES * AGREED_PAIRS, of.changed, 4 * chunk, self.behind)
        return of.givers * (scored + summed + masks * one) + agreed

    def _live(self, edges: float) -> float:
        """Which share of the model a circuit of so many edges runs."""
        nodes = self.shape.graph.n_layers * (self.shape.graph.n_heads + 1)
        return 1 - math.exp(-edges / nodes)

    def roles(self, of: Asked) -> float:
        """Random tokens, the task's prompts, and S-inhibition: each head into the layers behind it."""
        n, graph = self.measure.role_pairs, self.shape.graph
        patched = self.rows(n * graph.n_heads * graph.n_layers, of.changed, self.measure.chunk, self.behind)
        return self.rows(REPEATED, 1, REPEATED) + of.givers * (2 * self.rows(n, of.tokens, n) + patched)

    def causal(
        self, tasks: dict[str, Asked], how: CompareConfig, exchanged: int, single: bool, by_layer: bool = True
    ) -> float:
        """Grafts of both tasks, exchanged outputs, necessity and transfer of the new one."""
        graph = self.shape.graph
        layers, heads = graph.n_layers, graph.n_heads * graph.n_layers
        whole, own = 8 + exchanged, layers if by_layer else 0
        # A layer's, and a head's, is run from there on.
        grafts = whole + 2 * own * 0.5 + (heads * 0.5 + layers if single else 0)
        total = sum(2 * grafts * self.forward(how.pairs, of) for of in tasks.values())
        new, old = tasks["new"], tasks["old"]
        total += 2 * (4 + exchanged + own) * self.forward(how.pairs, new)
        for of, sets in ((new, 1 + how.random_sets), (old, 1)):
            total += sets * self.rows(how.pairs // 2 * of.givers, of.changed, self.measure.chunk)
        return total + 4 * self.rows(how.pairs // 2 * new.givers, new.changed, self.measure.replay_chunk)

    def ledger(self, of: Asked, prompts: int, metrics: int) -> float:
        """One interval: at each node the weights, a pass and one of the change, and for each metric one back."""
        passed = self.rows(prompts, of.tokens, prompts)
        back = self.rows(prompts, of.tokens, prompts, back=True) - passed
        return 2 * passed + NODES * (2 * passed + metrics * back + 3 * self.shape.parameters * self.rates.number)

    def reuse(self, tasks: dict[str, Asked], prompts: int, draws: int) -> float:
        """Scores of both tasks, circuits of all sizes, and as many with permuted heads and without others, at two sizes."""
        n, chunk, graph, points = prompts // 3, self.measure.replay_chunk, self.shape.graph, self.measure.edge_steps
        old, new = tasks["old"], tasks["new"]
        scored = sum(points * self.rows(n * of.givers, of.changed, chunk, back=True) for of in (old, new))
        one = self.rows(n, new.changed, chunk) + n * new.changed * graph.n_edges * self.shape.d_model * self.rates.mac
        sized = sum(self._live(graph.n_edges * share) for share in FINE)
        small = (2 * (draws + 20) + 10) * self._live(graph.n_edges * 0.03)
        return scored + new.givers * one * (sized + small + draws)

    def shapley(self, of: Asked, prompts: int) -> float:
        """Every coalition of seven groups, run."""
        return 128 * (self.forward(prompts, of) + self.shape.parameters * 0.5 * self.rates.number)

    def of_stage(self, stage: str, of: Asked, pairs: int, inside: int) -> float:
        """One stage of one task on one checkpoint."""
        found: dict[str, Callable[[], float]] = {
            "evaluate": lambda: self.evaluate(of, pairs),
            "patching": lambda: self.patching(of),
            "circuit": lambda: self.circuit(of),
            "roles": lambda: self.roles(of),
            "drift": self.drift,
            "ledger": lambda: self.ledger(of, LEDGER_PROMPTS[self.shape.is_large], 2),
        }
        return found[stage]() if stage in found else self.forward(inside, of)

    def training(self, how: TrainConfig, tokens: float) -> float:
        """One fine-tuning; `tokens` of a row."""
        probes = isinstance(how.checkpoints, LearningConfig)
        rates, numbers, rows = self.rates, self.shape.parameters, how.batch_size
        blocks = self.shape.graph.n_layers
        # What is taught is unembedded, forwards and backwards.
        taught = tokens if how.loss == "full" else min(tokens, TAUGHT)
        step = blocks * (3 * rates.call + rows * tokens * rates.back) + rows * taught * 3 * rates.word
        # Clipping, AdamW's two moments, and the distance from step 0.
        step += numbers * rates.number * (CLIPPED + STEPPED + MOVED)
        if probes:
            step *= 1 + SHARE
        examined = self.rows(2 * PROBES, tokens, PROBES) + 2 * PROBES * rates.word
        kept = how.most_checkpoints
        # Where learning decides, some that are kept give way to later ones.
        written = min(how.steps + 1, 2 * kept) if probes else kept
        looks = 5 if probes else kept
        return how.steps * step + looks * examined + written * self.writing(how)

    def writing(self, how: TrainConfig) -> float:
        """One checkpoint: read the base, subtract, write, and hash twice."""
        each = 2 if how.save != "float32" else 4
        return self.shape.parameters * (8 * self.rates.number + 2 * each * self.rates.byte)

    def loading(self) -> float:
        """One checkpoint: read, hashed, laid over its base, and proven."""
        numbers = self.shape.parameters
        return numbers * (100 * self.rates.number + 12 * self.rates.byte) + self.rows(8, 20, 4) + 0.2

    def drift(self) -> float:
        """How far the weights have moved, and what is said about other texts, where there are any."""
        moved = self.shape.parameters * 40 * self.rates.number
        rows = self.texts * TEXT
        return moved + 2 * (self.rows(self.texts, TEXT, 16) + rows * self.rates.word)


def fixed(stage: str, givers: int) -> float:
    """Seconds of a stage that do not depend on the model: resampling, and a file."""
    groups = {"patching": givers, "roles": givers, "circuit": givers + (givers > 1)}
    return FIXED[stage] * groups.get(stage, 1)
