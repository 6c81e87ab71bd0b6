"""Pairs as tokens, checked, and aligned: position by position, or slot by slot where their prompts differ in length.

Axis names: `pair` base prompts, `pos` token positions (right-padded), `foil` the names an answer is compared with.
The last *real* token of a row is at `end`; index −1 of a padded row is never read. Every position belongs to one slot:
a hole of the template, `opening` before the first hole, `end` for the last real token, `text` for the rest.

Of words of several tokens the one is read at which the answer first differs from a foil (`instar.tasks.fitting`): what
stands before it is put behind both prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from instar.tasks.align import NONE, NOT_ALIGNED, counterparts, offsets_of
from instar.tasks.fitting import Fault, Read, Tokens
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
    counterpart: Int[Tensor, "pair pos"] | None = None
    """Of each clean position the corrupted one, −1 where it has none (`instar.tasks.align`); None: all are aligned."""
    corrupted_end: Int[Tensor, " pair"] | None = None
    """The corrupted prompt's last real token, where that is another: with `counterpart`."""
    reads: tuple[Read, ...] = ()
    """The tokens of each pair, where any word has several."""
    left_out: tuple[str, ...] = ()
    """Clean prompts of pairs that were asked for and are not here: their tokens do not go position by position."""

    @property
    def unequal(self) -> Bool[Tensor, " pair"]:
        """Which pairs do not go position by position."""
        if self.counterpart is None:
            return torch.zeros(len(self), dtype=torch.bool, device=self.clean.device)
        here = torch.arange(self.clean.shape[1], device=self.clean.device)
        return ((self.counterpart != here) & self.mask).any(1)

    @property
    def ends(self) -> Int[Tensor, " pair"]:
        """The last real token of each corrupted prompt."""
        return self.end if self.corrupted_end is None else self.corrupted_end

    @property
    def corrupted_mask(self) -> Bool[Tensor, "pair pos"]:
        """Real tokens of the corrupted prompts."""
        if self.corrupted_end is None:
            return self.mask
        return torch.arange(self.clean.shape[1], device=self.clean.device) <= self.corrupted_end[:, None]

    @property
    def differs(self) -> Bool[Tensor, "pair pos"]:
        """Where the two prompts are not the same."""
        return (self.clean != self.corrupted) | (self.mask != self.corrupted_mask)

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: int | slice | Any) -> "Batch":
        """Some of the pairs (a number, a slice, or an array of indices), cut to their longest prompt."""
        if isinstance(rows, int | np.integer):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"pair {rows} of {len(self)}")
            rows = [int(rows) % len(self)]
        width = int(torch.maximum(self.end, self.ends)[rows].max()) + 1
        cut = {k: getattr(self, k)[rows, :width] for k in ("clean", "corrupted", "mask", "slots")}
        whole = {k: getattr(self, k)[rows] for k in ("end", "answer", "foils", "contrast")}
        if self.counterpart is not None:
            mixed = bool(self.unequal[rows].any())
            cut["counterpart"] = self.counterpart[rows, :width] if mixed else None
            whole["corrupted_end"] = self.ends[rows] if mixed else None
        chosen = np.arange(len(self))[rows]
        own = {k: tuple(getattr(self, k)[i] for i in chosen) for k in ("pairs", "reads") if getattr(self, k)}
        return replace(self, **cut, **whole, **own)

    def aligned(self) -> "Batch":
        """The pairs that go position by position; the others are named in `left_out`.

        Raises:
            ValueError: where none does.
        """
        return self if self.counterpart is None else self.without(self.unequal)

    def without(self, apart: Bool[Tensor, " pair"]) -> "Batch":
        """All but these pairs, which are named in `left_out`.

        Raises:
            ValueError: where none is left.
        """
        out = np.flatnonzero(apart.cpu().numpy())
        names = tuple(self.pairs[i].clean if self.pairs else f"pair {i}" for i in out)
        if len(out) == len(self):
            raise ValueError(f"{self.task}: {NOT_ALIGNED.format(len(out), len(out))}; the first: {names[0]!r}")
        return replace(self[np.setdiff1d(np.arange(len(self)), out)], left_out=(*self.left_out, *names))

    @classmethod
    def from_tokens(
        cls,
        clean: Any,
        corrupted: Any,
        answer: Any,
        foils: Any,
        mask: Any = None,
    ) -> "Batch":
        """A batch from token ids alone: tensors, arrays or lists.

        Slots are `same`, `changed` (clean and corrupted differ) and `end`.

        Args:
            clean: [pair, pos], padded on either side (it will be on the right); `corrupted` alike.
            answer: [pair].
            foils: [pair, foil], padded with −1, or [pair].
            mask: [pair, pos], 1 on real tokens; all by default.

        Raises:
            ValueError: naming what has which shape and should have which, or the pair that cannot be measured.
        """
        # Pieces are moved to the model's device when they are run.
        clean, corrupted, answer, foils = (
            _whole_numbers(name, value)
            for name, value in (("clean", clean), ("corrupted", corrupted), ("answer", answer), ("foils", foils))
        )
        mask = torch.ones_like(clean) if mask is None else _whole_numbers("mask", mask)
        foils = foils[:, None] if foils.ndim == 1 else foils
        _check_shapes(clean, corrupted, answer, foils, mask)
        mask = mask.bool()
        # Rows move left until their padding is behind them; a stable sort moves nothing else.
        order = (~mask).int().sort(dim=1, stable=True).indices
        if not torch.equal(order, (torch.arange(mask.shape[1]) + mask.int().argmax(1)[:, None]) % mask.shape[1]):
            raise ValueError("mask has padding inside the text; pad rows on one side")
        clean, corrupted, mask = (t.gather(1, order) for t in (clean, corrupted, mask))
        # What stands on padding is never read, but it has to be a token.
        clean, corrupted = (tokens.masked_fill(~mask, 0) for tokens in (clean, corrupted))
        foils = foils.clamp_min(PAD)
        _check_rows(clean, corrupted, answer, foils, mask)
        end = mask.sum(1) - 1
        slots = (clean != corrupted).long()
        slots[torch.arange(len(end)), end] = 2
        slots[~mask] = PAD
        return cls(clean, corrupted, mask, end, answer, foils, foils, slots, ("same", "changed", "end"))


def _whole_numbers(name: str, value: Any) -> Int[Tensor, "..."]:
    try:
        tensor = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name}: expected token ids as a tensor, an array or lists of equal length (pad them, and give mask): {error}"
        ) from None
    if tensor.is_floating_point() or tensor.is_complex() or (tensor.dtype == torch.bool and name != "mask"):
        raise ValueError(f"{name}: expected whole numbers, found {str(tensor.dtype).removeprefix('torch.')}")
    return tensor.long()


def _check_shapes(clean: Tensor, corrupted: Tensor, answer: Tensor, foils: Tensor, mask: Tensor) -> None:
    if clean.ndim != 2 or 0 in clean.shape:
        raise ValueError(f"clean is {list(clean.shape)}, expected [pair, pos]: one row of token ids a pair")
    pairs = len(clean)
    for name, value, right, wanted in (
        ("corrupted", corrupted, corrupted.shape == clean.shape, f"{list(clean.shape)} as clean: align them"),
        ("mask", mask, mask.shape == clean.shape, f"{list(clean.shape)} as clean"),
        ("answer", answer, answer.shape == (pairs,), f"[{pairs}]: one token id a pair"),
        (
            "foils",
            foils,
            foils.ndim == 2 and len(foils) == pairs and foils.shape[1] > 0,
            f"[{pairs}, foil] or [{pairs}]",
        ),
    ):
        if not right:
            raise ValueError(f"{name} is {list(value.shape)}, expected {wanted}")


def _check_rows(clean: Tensor, corrupted: Tensor, answer: Tensor, foils: Tensor, mask: Tensor) -> None:
    equal = ((clean == corrupted) | ~mask).all(1)
    ordered = foils.sort(1).values
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(1)
    negative = ((clean < 0) | (corrupted < 0)).any(1) | (answer < 0)
    for wrong, why in (
        (~mask.any(1), "mask leaves no token"),
        (equal, "clean and corrupted are the same"),
        (negative, "a token id is below 0"),
        ((foils < 0).all(1), "it has no foil"),
        (twice, "a foil stands twice, and would count twice"),
        ((foils == answer[:, None]).any(1), "its answer is among its foils, so every logit difference would be 0"),
    ):
        if wrong.any():
            raise ValueError(f"row {int(wrong.nonzero()[0])}: {why}")


def tokenize(pairs: Sequence[Pair], tokenizer: Any, task: str = "custom") -> Batch:
    """Pairs as one aligned batch.

    Raises:
        ValueError: naming the pair and the words, where it cannot be aligned (`instar.tasks.fitting`).
    """
    if not pairs:
        raise ValueError("no pairs to tokenise")
    tokens, reads = Tokens(tokenizer, pairs), []
    for pair in pairs:
        read = tokens.read(pair)
        if isinstance(read, Fault):
            raise ValueError(f"pair {pair.base} ({pair.clean!r}): {read.reason}")
        reads.append(read)
    both = [[*tokens.prompt(p.clean), *r.lead] for p, r in zip(pairs, reads, strict=True)]
    other = [[*tokens.prompt(p.corrupted), *r.lead] for p, r in zip(pairs, reads, strict=True)]
    width = max(map(len, [*both, *other]))
    # Padding is masked and never read; the id only has to exist.
    pad = tokenizer.eos_token_id or 0
    end = torch.tensor([len(row) - 1 for row in both])
    offsets, others = (offsets_of(tokenizer, [getattr(p, side) for p in pairs]) for side in ("clean", "corrupted"))
    rows = [_slots(*each) for each in zip(pairs, offsets, reads, strict=True)]
    # A slot without a token in any prompt, as the opening where all begin with a name, would be nothing but NaN.
    names = tuple(name for name in _slot_names(pairs) if any(name in row for row in rows))
    found = [counterparts(p, a, b, len(r.lead)) for p, a, b, r in zip(pairs, offsets, others, reads, strict=True)]
    unequal = any(row is not None for row in found)
    return Batch(
        clean=_stack(both, width, pad),
        corrupted=_stack(other, width, pad),
        mask=torch.arange(width)[None] <= end[:, None],
        end=end,
        answer=torch.tensor([read.answer for read in reads]),
        foils=_ragged([read.foils for read in reads]),
        contrast=_ragged([read.contrast for read in reads]),
        slots=_stack([[names.index(slot) for slot in row] for row in rows], width, PAD),
        slot_names=names,
        pairs=tuple(pairs),
        task=task,
        counterfactual=pairs[0].counterfactual,
        counterpart=_stack([row or range(width) for row in found], width, NONE) if unequal else None,
        corrupted_end=torch.tensor([len(row) - 1 for row in other]) if unequal else None,
        reads=tuple(reads) if any(read.several for read in reads) else (),
    )


def _slot_names(pairs: Sequence[Pair]) -> tuple[str, ...]:
    holes = dict.fromkeys(span.slot for pair in pairs for span in sorted(pair.spans, key=lambda s: s.start))
    return ("opening", *holes, "text", "end")


def _slots(pair: Pair, offsets: Sequence[tuple[int, int]], read: Read) -> list[str]:
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
    row += ["text"] * len(read.lead)
    row[-1] = "end"
    return row


def _stack(rows: Sequence[Sequence[int]], width: int, pad: int) -> Int[Tensor, "pair pos"]:
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])


def _ragged(rows: Sequence[Sequence[int]]) -> Int[Tensor, "pair foil"]:
    return _stack(rows, max(map(len, rows)), PAD)
