"""Pairs as tokens, aligned position by position and checked.

Axis names: `pair` base prompts, `pos` token positions (right-padded), `foil` the names an answer is compared with.
The last *real* token of a row is at `end`; index −1 of a padded row is never read. Every position belongs to one slot:
a hole of the template, `opening` before the first hole, `end` for the last real token, `text` for the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from instar.tasks.fitting import Tokens
from instar.tasks.pair import Pair

PAD = -1


@dataclass(frozen=True)
class Batch:
    """Tokenised pairs; see the module's legend of axes."""

    clean: Int[Tensor, "pair pos"]
    corrupted: Int[Tensor, "pair pos"]
    mask: Bool[Tensor, "pair pos"]
    end: Int[Tensor, " pair"]
    answer: Int[Tensor, " pair"]
    foils: Int[Tensor, "pair foil"]
    """Behavioural foils, padded with −1."""
    contrast: Int[Tensor, "pair contrast"]
    """Interventional foils, padded with −1."""
    slots: Int[Tensor, "pair pos"]
    """Index into `slot_names`, −1 on padding."""
    slot_names: tuple[str, ...]
    pairs: tuple[Pair, ...] = ()
    task: str = "tokens"
    counterfactual: str = "corrupted"

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: slice | Any) -> "Batch":
        """Some of the pairs (a slice, or an array of indices), cut to their longest prompt."""
        width = int(self.end[rows].max()) + 1
        cut = {k: getattr(self, k)[rows, :width] for k in ("clean", "corrupted", "mask", "slots")}
        whole = {k: getattr(self, k)[rows] for k in ("end", "answer", "foils", "contrast")}
        chosen = np.arange(len(self))[rows] if self.pairs else ()
        return replace(self, **cut, **whole, pairs=tuple(self.pairs[i] for i in chosen))

    @classmethod
    def from_tokens(
        cls,
        clean: Int[Tensor, "pair pos"],
        corrupted: Int[Tensor, "pair pos"],
        answer: Int[Tensor, " pair"],
        foils: Int[Tensor, "pair foil"] | Int[Tensor, " pair"],
        mask: Bool[Tensor, "pair pos"] | None = None,
    ) -> "Batch":
        """A batch from token ids alone, padded on either side (it will be on the right).

        Slots are `same`, `changed` (clean and corrupted differ) and `end`.
        """
        # Pieces are moved to the model's device when they are run.
        clean, corrupted, answer, foils = (t.cpu() for t in (clean, corrupted, answer, foils))
        mask = None if mask is None else mask.cpu()
        if clean.shape != corrupted.shape:
            raise ValueError(f"clean is {tuple(clean.shape)} and corrupted {tuple(corrupted.shape)}: align them")
        mask = torch.ones_like(clean, dtype=torch.bool) if mask is None else mask.bool()
        # Rows move left until their padding is behind them; a stable sort moves nothing else.
        order = (~mask).int().sort(dim=1, stable=True).indices
        if not torch.equal(order, (torch.arange(mask.shape[1]) + mask.int().argmax(1)[:, None]) % mask.shape[1]):
            raise ValueError("mask has padding inside the text; pad rows on one side")
        clean, corrupted, mask = (t.gather(1, order) for t in (clean, corrupted, mask))
        equal = ((clean == corrupted) | ~mask).all(1)
        if equal.any():
            raise ValueError(f"row {int(equal.nonzero()[0])}: clean and corrupted are the same")
        foils = foils[:, None] if foils.ndim == 1 else foils
        end = mask.sum(1) - 1
        slots = (clean != corrupted).long()
        slots[torch.arange(len(end)), end] = 2
        slots[~mask] = PAD
        return cls(clean, corrupted, mask, end, answer, foils, foils, slots, ("same", "changed", "end"))


def tokenize(pairs: Sequence[Pair], tokenizer: Any, task: str = "custom") -> Batch:
    """Pairs as one aligned batch.

    Raises:
        ValueError: naming the pair and the words, where it cannot be aligned (`instar.tasks.fitting`).
    """
    if not pairs:
        raise ValueError("no pairs to tokenise")
    tokens = Tokens(tokenizer, pairs)
    for pair in pairs:
        if fault := tokens.fault(pair):
            raise ValueError(f"pair {pair.base} ({pair.clean!r}): {fault.reason}")
    clean = [tokens.prompt(p.clean) for p in pairs]
    width = max(map(len, clean))
    # Padding is masked and never read; the id only has to exist.
    pad = tokenizer.eos_token_id or 0
    end = torch.tensor([len(row) - 1 for row in clean])
    offsets = tokenizer([p.clean for p in pairs], return_offsets_mapping=True)["offset_mapping"]
    rows = [_slots(pair, row) for pair, row in zip(pairs, offsets, strict=True)]
    # A slot without a token in any prompt, as the opening where all begin with a name, would be nothing but NaN.
    names = tuple(name for name in _slot_names(pairs) if any(name in row for row in rows))

    def ids(words: Callable[[Pair], Sequence[str]]) -> list[list[int]]:
        return [[tokens.id(pair, word) for word in words(pair)] for pair in pairs]

    return Batch(
        clean=_stack(clean, width, pad),
        corrupted=_stack([tokens.prompt(p.corrupted) for p in pairs], width, pad),
        mask=torch.arange(width)[None] <= end[:, None],
        end=end,
        answer=_ragged(ids(lambda pair: (pair.answer,)))[:, 0],
        foils=_ragged(ids(lambda pair: pair.foils)),
        contrast=_ragged(ids(lambda pair: pair.contrast)),
        slots=_stack([[names.index(slot) for slot in row] for row in rows], width, PAD),
        slot_names=names,
        pairs=tuple(pairs),
        task=task,
        counterfactual=pairs[0].counterfactual,
    )


def _slot_names(pairs: Sequence[Pair]) -> tuple[str, ...]:
    holes = dict.fromkeys(span.slot for pair in pairs for span in sorted(pair.spans, key=lambda s: s.start))
    return ("opening", *holes, "text", "end")


def _slots(pair: Pair, offsets: Sequence[tuple[int, int]]) -> list[str]:
    """The slot of each token: a token belongs where its last character stands (its first may be the space before)."""
    row: list[str] = []
    first = min((s.start for s in pair.spans), default=0)
    for start, stop in offsets:
        if start == stop:  # a token of the tokenizer's own, such as beginning-of-text, is no character of the prompt
            row.append("text" if row else "opening")
            continue
        at = max(start, stop - 1)
        hole = next((s.slot for s in pair.spans if s.start <= at < s.stop), None)
        row.append(hole or ("opening" if at < first else "text"))
    row[-1] = "end"
    return row


def _stack(rows: Sequence[Sequence[int]], width: int, pad: int) -> Int[Tensor, "pair pos"]:
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])


def _ragged(rows: Sequence[Sequence[int]]) -> Int[Tensor, "pair foil"]:
    return _stack(rows, max(map(len, rows)), PAD)
