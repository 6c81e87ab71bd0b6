"""GPUs that are not here: what a run would take there, by arithmetic (`instar plan RUN --on gpus=8,teraflops=40`).

Nothing is timed. How fast such a GPU multiplies is said by whoever asks; what else there is was fitted once to the stages of
three shapes on one H100 (`benchmarks/device.json`), which it gives back within a factor that docs/scaling.md states.
"""

from typing import Any

from pydantic import Field, model_validator

from instar.record.config.part import Part, in_short
from instar.workflow.costs import Shape
from instar.workflow.rates import Rates

CALL = 2e-3
"""Seconds of a block, however few its rows: one core of the host asks for its kernels one by one."""
THIN = 4.0
"""By how much the products are slower in which edges are summed: their sides are as few as a block's heads."""
NUMBER, BYTE = 12 / 2e12, 5e-10
"""Seconds of a float32 number read, changed and written at 2 TB/s, and of a byte that the host hashes."""


class Elsewhere(Part):
    """So many GPUs, each of them so fast."""

    gpus: int = Field(default=1, ge=1, le=100_000, description="how many")
    teraflops: float = Field(
        gt=0, le=100_000, description="float32 products that one really does in a second, in 10^12 (an H100: some 40)"
    )

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, value: Any) -> Any:
        return in_short(value)

    def rates(self, shape: Shape) -> Rates:
        """Seconds of a model's shape on one of them."""
        flop = 1e-12 / self.teraflops
        row = 2 * (shape.parameters - shape.vocabulary * shape.d_model) / shape.graph.n_layers * flop
        word = 2 * shape.vocabulary * shape.d_model * flop
        return Rates(CALL, row, 3 * row, word, 2 * THIN * flop, NUMBER, BYTE)
