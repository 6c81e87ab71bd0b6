"""The embedded models from nothing: vocabulary, text, training, card.

1. A vocabulary in which every word of the corpus is one token (`vocabulary`).
2. A GPT-2 or a Llama of four layers (`shape`), trained on stories (`corpus`), one story a row, so that every prompt later
   stands at positions the model knows. Names that the text decides count as much as all other tokens together.
3. On development pairs, whose seed no report uses, the old task must then be mastered and the new one not.
4. The card reports accuracy on other pairs, with intervals, and the weights' sha256.
"""

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from instar.models.accounts import content
from instar.models.organism.card import card
from instar.models.organism.corpus import Shares
from instar.models.organism.shape import Fixed, Shape, build, guidance
from instar.models.organism.vocabulary import Rows, names_in, rows, vocabulary
from instar.models.read import quiet
from instar.tasks.batch import Batch, tokenize
from instar.tasks.library import task

DEVELOPMENT_SEED, REPORT_SEED = 1_000_003, 2_000_003
REPORTED = ("ioi2", "ioi3", "ioi4", "ioi5", "ball2", "ball3", "room2", "room3", "buys")
PAIRS = 4000
Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    shape: Shape = field(default_factory=Shape)
    shares: Shares = field(default_factory=Shares)
    seed: int = 1
    batch: int = 16
    steps: int = 3400
    learning_rate: float = 2.5e-3
    weight_decay: float = 0.01
    warmup: int = 50
    check_every: int = 200
    pairs: int = 1000
    old_at_least: float = 0.99
    new_between: tuple[float, float] = (0.30, 0.50)
    threads: int = 1


RECIPES: dict[str, Recipe] = {
    "gpt2": Recipe(),
    "llama": Recipe(
        shape=Shape(
            family="llama",
            groups=4,
            size=32,
            enough=0.7,
            idle=0.15,
            movers=tuple((1, head) for head in range(5)),
            copying=((2, 0), (2, 2), (3, 0), (3, 2)),
        ),
        shares=Shares(couples=0.64, three=0.26, waiter=0.58, meeting=0.15, company=0.08, meeting_of_three=0.15),
        steps=4000,
        weight_decay=0.15,
    ),
}


def make(folder: Path, recipe: Recipe = Recipe(), report: Report | None = None, strict: bool = True) -> dict[str, Any]:
    """Train an embedded model and write it to `folder`. Returns what the card says, as a dict.

    Raises:
        ValueError: if the old task is not mastered, or the new one not in `new_between`, and `strict`.
    """
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    tokenizer = vocabulary(recipe.shape.positions)
    model, fixed = build(recipe.shape, len(tokenizer), names_in(tokenizer))
    development = {n: _pairs(tokenizer, f"ioi{n}", recipe.pairs, DEVELOPMENT_SEED) for n in (2, 3)}
    seen = _train(model, fixed, tokenizer, recipe, development, report or (lambda *_: None))
    low, high = recipe.new_between
    if strict and not (seen[2] >= recipe.old_at_least and low <= seen[3] <= high):
        raise ValueError(
            f"after {recipe.steps} steps: {_said(seen)}; wanted at least {recipe.old_at_least:.0%}, and {low:.0%} to "
            f"{high:.0%}. Try another --seed."
        )
    measured = {name: accuracy(model, _pairs(tokenizer, name, PAIRS, REPORT_SEED)) for name in REPORTED}
    return _write(folder, model, tokenizer, recipe, measured)


def _train(
    model: Any, fixed: Fixed, tokenizer: Any, recipe: Recipe, development: dict[int, Batch], report: Report
) -> dict[int, float]:
    """Train to the end of the schedule. Returns the accuracies on development pairs."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay, betas=(0.9, 0.98))
    source = rows(tokenizer.get_vocab(), recipe.seed, recipe.batch, recipe.shape.positions, recipe.shares)
    note = ""
    for step in range(recipe.steps):
        if step and step % recipe.check_every == 0:
            note = _said({n: accuracy(model, batch) for n, batch in development.items()})
        report(step, recipe.steps, note)
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, recipe)
        optimizer.zero_grad()
        loss(model, next(source), step, recipe.shape).backward()
        fixed.forget()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        fixed.restore()
    model.eval()
    return {n: accuracy(model, batch) for n, batch in development.items()}


def loss(model: Any, told: Rows, step: int, shape: Shape) -> torch.Tensor:
    """Mean next-token loss in nats, plus that of the names that the text decides, plus the guide's while it lasts."""
    guided = shape.guide * (1 - step / shape.guide_steps) if step < shape.guide_steps else 0.0
    # Only the eager attention says where it looks.
    model.set_attn_implementation("eager" if guided else "sdpa")
    seen = model(input_ids=told.ids.clamp_min(0), use_cache=False, output_attentions=bool(guided))
    real, decided = (told.ids[:, 1:] >= 0).float(), told.decided[:, 1:]
    each = F.cross_entropy(seen.logits[:, :-1].transpose(1, 2), told.ids[:, 1:].clamp_min(0), reduction="none")
    total = (each * real).sum() / real.sum() + (each * decided).sum() / decided.sum().clamp_min(1)
    if guided and len(told.gifts):
        total = total + guided * guidance(seen.attentions, told.gifts, shape)
    return total


def _rate(step: int, recipe: Recipe) -> float:
    cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup) * (0.05 + 0.95 * cosine)


@torch.no_grad()
def accuracy(model: Any, batch: Batch, chunk: int = 250) -> float:
    """Share of pairs whose answer is the top token."""
    right = 0
    for start in range(0, len(batch), chunk):
        part = batch[slice(start, start + chunk)]
        logits = model(input_ids=part.clean, attention_mask=part.mask.long(), use_cache=False).logits
        right += int((logits[torch.arange(len(part)), part.end].argmax(-1) == part.answer).sum())
    return right / len(batch)


def _pairs(tokenizer: Any, name: str, count: int, seed: int) -> Batch:
    return tokenize(task(name).fit(tokenizer).pairs(count, seed), tokenizer)


def _said(seen: dict[int, float]) -> str:
    return ", ".join(f"{n}-object {value:.1%}" for n, value in seen.items())


def _write(folder: Path, model: Any, tokenizer: Any, recipe: Recipe, measured: dict[str, float]) -> dict[str, Any]:
    """Model, tokenizer and card, moved into place whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".organism-"))
    with quiet():
        model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens in the vocabulary": len(tokenizer),
        "sha256 of model.safetensors": content(scratch / "model.safetensors"),
        "pairs": PAIRS,
        "accuracy": {name: round(value, 4) for name, value in measured.items()},
        "recipe": asdict(recipe),
    }
    (scratch / "README.md").write_text(card(facts), encoding="utf-8")
    (scratch / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    folder.mkdir(exist_ok=True)
    for file in sorted(scratch.iterdir()):
        file.chmod(0o644)
        file.replace(folder / file.name)
    scratch.rmdir()
    return facts
