"""What another program is asked for, read from a folder; imported by scripts that run in environments without instar.

FOLDER/model/         a transformers model
FOLDER/pairs.json     tokens of both runs, answers and foils
FOLDER/places.json    by site, the [layer, position or head] that are to be patched
"""

import importlib.metadata
import json
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

BY_POSITION, BY_HEAD = ("resid_pre", "attn_out", "mlp_out"), ("z", "v", "pattern")


@dataclass(frozen=True)
class Asked:
    """Tokens [pair, position], and what is patched with the clean run's values in the corrupted one."""

    model: Any
    clean: torch.Tensor
    corrupted: torch.Tensor
    answer: torch.Tensor
    foil: torch.Tensor
    places: dict[str, list[list[int]]]

    def metric(self, logits: torch.Tensor) -> torch.Tensor:
        """Mean over pairs of logit(answer) − logit(foil) at the last token."""
        rows = torch.arange(len(self.answer))
        return (logits[rows, -1, self.answer] - logits[rows, -1, self.foil]).mean()


def finish(sweeps: Callable[[Asked], dict[str, Any]]) -> None:
    """Runs it once on two patches a site, which does not count, then on all, and prints the result as JSON."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    own, places = (json.loads((folder / name).read_text()) for name in ("pairs.json", "places.json"))
    tokens = {name: torch.tensor(own[name]) for name in ("clean", "corrupted", "answer", "foil")}

    def asked(most: int | None) -> Asked:
        model = AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="eager").eval()
        return Asked(model, **tokens, places={site: rows[:most] for site, rows in places.items()})

    sweeps(asked(2))
    found = sweeps(asked(None))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", *sys.argv[2:])}
    print(json.dumps({"found": found, "peak_mb": peak, "versions": versions}))
