"""What is said of a task's pairs where words are of several tokens, or prompts differ in length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from instar.record.store import Store
from instar.tasks.align import NOT_ALIGNED, intervened, out_of_line
from instar.tasks.finding import Finding
from instar.tasks.fitting import NAMED, Read, Tokens
from instar.tasks.pair import Pair
from instar.tasks.task import Split, Task

SHOWN = 5
LEAST = 2
"""Prompts that go position by position which edges and circuits need: one to score, one to measure."""
SEVERAL, LENGTHS, NOT_DRAWN = "words of several tokens", "prompts that differ in length", "names that are not drawn"


def several_tokens(pairs: Sequence[Pair], tokenizer: Any, numbers: Mapping[Pair, int] | None = None) -> list[Finding]:
    """Pairs whose answer or foils are several tokens, and how they are measured; `numbers`: the numbers of a file's."""
    tokens = Tokens(tokenizer, pairs)
    reads = {pair: read for pair in pairs if isinstance(read := tokens.read(pair), Read) and read.several}
    if not reads:
        return []
    later = sum(bool(read.lead) for read in reads.values())
    text = f"measured at the first of the answer's tokens that differs from a foil's ({later} at a later one than the first)"
    if alike := sum(len(read.alike) for read in reads.values()):
        text += f"; {alike} foils are still alike there and not compared"
    words = ((pair, f"{pair.answer!r} against {', '.join(map(repr, pair.foils))} in {pair.clean!r}") for pair in reads)
    examples = tuple(_numbered(pair, said, numbers) for pair, said in words)
    text += f"; {tokens.lacking(pairs)}"
    return [
        Finding(SEVERAL, "warning", len(reads), len(reads) / len(pairs), text, examples, "rows" if numbers else "pairs")
    ]


def _numbered(pair: Pair, said: str, numbers: Mapping[Pair, int] | None) -> str:
    return f"row {numbers[pair]}: {said}" if numbers else said


def lengths(
    pairs: Mapping[str, Sequence[Pair]], tokenizer: Any, numbers: Mapping[Pair, int] | None = None
) -> list[Finding]:
    """Prompts that a corruption which is intervened on makes longer or shorter; the share is of all prompts."""
    rows = [pairs[kind] for kind in intervened(list(pairs))]
    apart = out_of_line(tokenizer, rows)
    if not apart:
        return []
    total = len({pair.clean for own in rows for pair in own})
    text = (
        f"of {total}: a word and what replaces it are of different numbers of tokens. Behaviour is measured of all; these "
        "are patched slot by slot, and left out of edges, circuits and roles"
    )
    said = ((p, f"{p.counterfactual}: {p.clean!r} against {p.corrupted!r}") for p in apart.values())
    examples = tuple(_numbered(pair, words, numbers) for pair, words in said)
    return [Finding(LENGTHS, "warning", len(apart), len(apart) / total, text, examples, "prompts")]


def not_drawn(task: Task) -> list[Finding]:
    """Names of the library that this tokenizer splits, which no prompt is made with."""
    out: dict[Split, tuple[str, ...]] = {split: names for split, names in task.left_out.items() if names}
    if not out:
        return []
    count, kept = (sum(map(len, names.values())) for names in (out, task.names))
    pools = [f"{len(names)} of {len(names) + len(task.names[split])} {split} names" for split, names in out.items()]
    every = [name for names in out.values() for name in names]
    shown = ", ".join(every[: 2 * NAMED]) + (", …" if len(every) > 2 * NAMED else "")
    text = f"{' and '.join(pools)} have another number of tokens in this model's tokenizer than the others: {shown}"
    return [Finding(NOT_DRAWN, "warning", count, count / (count + kept), text, tuple(every), "names")]


@dataclass(frozen=True)
class ByTokens:
    """What is to be said of a task's pairs, and how many prompts go position by position, of how many; empty: all."""

    findings: list[Finding]
    aligned: list[int]


def by_tokens(task: Task, pairs: Mapping[str, Sequence[Pair]], tokenizer: Any) -> ByTokens:
    """A task's names, words of several tokens, and prompts that differ in length.

    Raises:
        ValueError: for a tokenizer that cannot say where in a prompt its tokens stand.
    """
    apart = lengths(pairs, tokenizer)
    totals = [(own.count, round(own.count / own.share)) for own in apart]
    aligned = [number for count, total in totals for number in (total - count, total)]
    every = [*not_drawn(task), *several_tokens(pairs[task.counterfactuals[0]], tokenizer), *apart]
    return ByTokens([replace(f, kind=f"{task.name}: {f.kind}", rows=f.rows[:SHOWN]) for f in every], aligned)


BY_POSITION = ("circuit", "roles")
"""Stages that put two prompts beside each other position by position."""


def refuse_too_few(store: Store, stages: Sequence[str]) -> None:
    """Whether stages have pairs to be made of.

    Raises:
        ValueError: where too few pairs go position by position for the stages that need it, with the numbers.
    """
    wanted = [stage for stage in BY_POSITION if stage in stages]
    aligned = (store.prepared() or {}).get("aligned", {})
    for task, found in aligned.items() if wanted and isinstance(aligned, dict) else ():
        kept, total = found if isinstance(found, list) and len(found) == 2 else (LEAST, LEAST)
        if isinstance(kept, int) and kept < LEAST:
            raise ValueError(
                f"{task}: {NOT_ALIGNED.format(total - kept, total)}; {' and '.join(wanted)} need {LEAST} that can. Corrupt "
                f"with words of as many tokens, take another model, or leave them out: measure.stages"
            )
