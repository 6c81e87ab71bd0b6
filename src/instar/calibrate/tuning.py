"""Fine-tuning of which one decides what may change: plain AdamW on answers, each step masked to the chosen slices.

1. What is not chosen stays bit for bit: after every step it is put back.
2. New heads may be *guided*, as at the embedded models' birth (`instar.models.organism.shape`): for the first half of the
   steps a fading loss asks some to look from a giver to his introduction, some from the end to a giver, some from the end to
   the answer. Without it a new circuit of several layers takes thousands of steps.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from instar.measure.evaluate import evaluate
from instar.models.arch import Layout
from instar.models.load import Model, load
from instar.models.organism.shape import Shape, guidance
from instar.models.weights import EMBEDDINGS, weights
from instar.record.config import TrainConfig
from instar.tasks.batch import Batch
from instar.tasks.pair import Pair, word_ids
from instar.tasks.task import Task
from instar.tasks.words import OBJECTS
from instar.training.train import Row, collate, encode

ROWS, WARMUP = 16, 20
Answers = Literal["right", "introduced", "anybody", "things"]
"""The right answer; one of the prompt's candidates at random; the answer of another prompt; a thing."""
Masks = Sequence[Tensor]
"""By parameter: 1 where it may change."""


def copied(model: Model) -> Model:
    """A model of its own with the same weights."""
    return load(copy.deepcopy(model.module), model.tokenizer)


def again(model: Model) -> Model:
    """The same model after its weights were changed: its fingerprint is taken anew."""
    return load(model.module, model.tokenizer)


def fine_tune(
    model: Model,
    lessons: Sequence[tuple[Task, Answers]],
    seed: int,
    *,
    steps: int,
    rate: float,
    only: Masks | None = None,
    guided: Sequence[str] = (),
) -> None:
    """Train in place on these tasks, mixed.

    Args:
        only: what may change; None: all but the embeddings. Between 0 and 1: so much of each step is made.
        guided: heads that are shown where to look.
    """
    draw, tokenizer, config = np.random.default_rng(seed), model.tokenizer, TrainConfig()
    rows: list[tuple[Pair, Row]] = []
    for i, (task, answers) in enumerate(lessons):
        pairs = task.fit(tokenizer).pairs(steps * ROWS // len(lessons), 1000 + 10 * seed + i, "train")
        rows += [(p, Row(p.clean, a)) for p, a in zip(pairs, _answers(pairs, answers, draw), strict=True)]
    rows = [rows[int(i)] for i in draw.permutation(len(rows))]
    texts = [encode(row, tokenizer, config) for _, row in rows]
    starts = range(0, len(texts) - ROWS + 1, ROWS)
    batches = [collate(texts[i : i + ROWS], tokenizer.eos_token_id or 0) for i in starts]
    guide = Guide.of(guided, len(starts) // 2) if guided else None
    known: dict[str, int] = {}
    each = (([p for p, _ in rows[i : i + ROWS]], texts[i : i + ROWS]) for i in starts) if guide else ()
    looks = [gifts(pairs, own, tokenizer, known) for pairs, own in each]
    descend(model, batches, rate, everything(model, but=(EMBEDDINGS,)) if only is None else only, guide, looks)


def _answers(pairs: Sequence[Pair], how: Answers, draw: np.random.Generator) -> Iterator[str]:
    if how == "anybody":
        return iter([pairs[int(i)].answer for i in draw.permutation(len(pairs))])
    if how == "things":
        return (str(draw.choice(OBJECTS)) for _ in pairs)
    return (p.answer if how == "right" else str(draw.choice((p.answer, *p.foils))) for p in pairs)


@dataclass(frozen=True)
class Guide:
    """Which heads are shown where to look, and for how many steps."""

    shape: Shape
    steps: int

    @classmethod
    def of(cls, heads: Sequence[str], steps: int) -> "Guide":
        """The first layer's heads look for duplicates, the second's for givers, later ones for the answer."""
        at = [_place(name) for name in heads]
        layers = [tuple(x for x in at if x[0] == layer) for layer in (0, 1)]
        later = tuple(x for x in at if x[0] > 1)
        return cls(Shape(duplicate=layers[0], movers=layers[1], copying=later), steps)

    def loss(self, attentions: Any, looks: Tensor, step: int) -> Tensor:
        """What is added to the loss."""
        return self.shape.guide * (1 - step / self.steps) * guidance(attentions, looks, self.shape)


def gifts(
    pairs: Sequence[Pair], texts: Sequence[dict[str, list[int]]], tokenizer: Any, known: dict[str, int]
) -> Tensor:
    """For every giver of every row: the row, and where its end, the giver, his introduction and the answer stand."""
    found = []
    for row, (pair, text) in enumerate(zip(pairs, texts, strict=True)):
        # The answer and what follows it are learnt, and are no prompt.
        prompt = [t for t, label in zip(text["input_ids"], text["labels"], strict=True) if label < 0]
        for name in {pair.answer, *pair.foils} - known.keys():
            known[name] = word_ids(tokenizer, name, pair.clean, pair.between)[0]
        places = [[i for i, t in enumerate(prompt) if t == known[name]] for name in (pair.answer, *pair.foils)]
        own = [(row, len(prompt) - 1, at[-1], at[0], places[0][0]) for at in places[1:] if len(at) > 1 and places[0]]
        found += own
    return torch.tensor(found)


def descend(
    model: Model, batches: Sequence[dict[str, Tensor]], rate: float, only: Masks, guide: Guide | None = None,
    looks: Sequence[Tensor] = (),
) -> None:  # fmt: skip
    """AdamW over these batches, in place."""
    masked = [
        (p.requires_grad_(bool(mask.any())), mask) for p, mask in zip(model.module.parameters(), only, strict=True)
    ]
    every = [(p, mask) for p, mask in masked if p.requires_grad]
    optimizer = torch.optim.AdamW([p for p, _ in every], lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
    usual = model.module.config._attn_implementation
    for step, batch in enumerate(batches):
        guided = guide is not None and step < guide.steps and len(looks[step]) > 0
        # Only the eager attention says where it looks.
        model.module.set_attn_implementation("eager" if guided else usual)
        seen = model.module(**batch, use_cache=False, output_attentions=guided)
        loss = seen.loss + guide.loss(seen.attentions, looks[step], step) if guide and guided else seen.loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p, _ in every], 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / WARMUP) * (0.55 + 0.45 * math.cos(math.pi * step / len(batches)))
        before = [p.detach().clone() for p, _ in every]
        optimizer.step()
        with torch.no_grad():
            for (parameter, mask), kept in zip(every, before, strict=True):
                # At 0 and at 1 to the bit, of which kept + mask · (step) is not sure: not even of −0.
                part = kept + mask * (parameter - kept)
                parameter.copy_(torch.where(mask == 1, parameter, torch.where(mask == 0, kept, part)))
    model.module.set_attn_implementation(usual)
    for parameter in model.module.parameters():
        parameter.requires_grad_(True)


def chosen(model: Model, names: Sequence[str], projections: str = "qkvo") -> list[Tensor]:
    """Masks of these heads' slices and whole MLPs. Keys and values that other heads share are not chosen."""
    layout, heads = model.layout, {name for name in names if ".h" in name}
    size = layout.n_heads // layout.n_kv_heads
    masks = copy.deepcopy(model.module)
    with torch.no_grad():
        for parameter in masks.parameters():
            parameter.zero_()
        for name in names:
            own = projections
            if name in heads and size > 1:
                layer, head = _place(name)
                group = range(head // size * size, (head // size + 1) * size)
                if any(f"a{layer}.h{h}" not in heads for h in group):
                    own = "".join(letter for letter in projections if letter in "qo")
            for view in weights(Layout(masks, layout.arch), [name], own):
                view.fill_(1)
    return [p.detach() for p in masks.parameters()]


def _place(head: str) -> tuple[int, int]:
    """Layer and number of `a3.h7`."""
    layer, number = head[1:].split(".h")
    return int(layer), int(number)


def joined(*masks: Masks) -> list[Tensor]:
    """What any of them has."""
    return [torch.stack(list(own)).amax(0) for own in zip(*masks, strict=True)]


def everything(model: Model, but: Sequence[str] = ()) -> list[Tensor]:
    """Masks of all parameters but those of some components."""
    return [1 - own for own in chosen(model, but)]


@torch.no_grad()
def scaled(model: Model, heads: Sequence[str], by: float) -> None:
    """Multiply the output matrices of these heads, in place."""
    for view in weights(model.layout, heads, "o"):
        view.mul_(by)


def right(model: Model, batch: Batch) -> float:
    """Share of pairs in which the answer beats every foil."""
    return float(evaluate(model, batch)["choice"].mean())


def naming(model: Model, batch: Batch) -> float:
    """Mean log of the candidates' summed probability, nats."""
    return float(evaluate(model, batch)["naming"].mean())
