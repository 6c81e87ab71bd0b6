"""instar: what did fine-tuning do inside a language model?

The public names, imported when first used: `import instar` stays fast and `instar --help` never loads torch.
"""

import importlib
from typing import Any

__version__ = "0.3.0"

_HOME = {
    "Answer": "instar.compare.answer",
    "Batch": "instar.tasks.batch",
    "Circuit": "instar.circuits.circuit",
    "CircuitCallback": "instar.live.callback",
    "Edges": "instar.measure.edges",
    "GateConfig": "instar.record.config.gate",
    "Graph": "instar.circuits.graph",
    "Model": "instar.models.load",
    "Pair": "instar.tasks.pair",
    "Recorder": "instar.live.recorder",
    "Run": "instar.workflow.opened",
    "RunConfig": "instar.record.config",
    "Span": "instar.tasks.pair",
    "Store": "instar.record.store",
    "Task": "instar.tasks.task",
    "answer": "instar.workflow.answering",
    "attention": "instar.measure.attention",
    "attribution": "instar.measure.direct_attribution",
    "audit": "instar.tasks.audit",
    "booked": "instar.compare.booking",
    "check": "instar.workflow.gate",
    "completeness": "instar.measure.faithfulness",
    "curve": "instar.measure.faithfulness",
    "diff": "instar.compare.diff",
    "edges": "instar.measure.edges",
    "evaluate": "instar.measure.evaluate",
    "exchange": "instar.between.exchange",
    "faithfulness": "instar.measure.faithfulness",
    "graft": "instar.between.graft",
    "interpolate": "instar.between.graft",
    "ioi": "instar.tasks.library",
    "ledger": "instar.between.ledger",
    "lens": "instar.measure.lens",
    "load": "instar.models.load",
    "load_run": "instar.workflow.opened",
    "minimality": "instar.measure.faithfulness",
    "patching": "instar.measure.patching",
    "path_patching": "instar.measure.paths",
    "recorder": "instar.live.recorder",
    "residual_learning": "instar.between.exchange",
    "reuse": "instar.between.reuse",
    "roles": "instar.measure.roles",
    "set_patching": "instar.measure.paths",
    "shapley": "instar.between.shapley",
    "task": "instar.tasks.library",
}

__all__ = ["__version__", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'instar' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
