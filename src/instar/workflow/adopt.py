"""Checkpoints that somebody else trained, as a series: folders, files, or revisions on a model hub.

1. Braces are expanded as a shell does: `{1000,2000}` and `{1000..9000..1000}`. A folder or file that is here by the very name
   wins over what the name would mean as a pattern; `[{]` and `[[]` are a brace and a bracket in any case.
2. What matches here is a checkpoint; a name with an `@` that does not, and is no pattern, is a hub id and its revision.
3. The step is the number that the folder's, the file's or the revision's name ends in; the base is step 0. A single one
   whose name has none is step 1.
4. What identifies the weights is kept with each: sha256 of the files, or the commit of the revision.
Nothing is copied and no weights are read from a hub here; a checkpoint that cannot be read is found out when it is measured.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

from instar.models import organism
from instar.models.accounts import GGUF, gguf_file
from instar.models.hub import commit
from instar.notebook import some
from instar.record.foreign import cut
from instar.workflow.experiment import Experiment

_BRACES = re.compile(r"(?<!\[)\{([^{}]*)\}")
_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?@[^*?\[\]{}]+")
_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.(-?\d{1,18}))?")
NAMES, LONGEST = 10_000, 1_000
"""The most names that a pattern may stand for, and the longest pattern, in characters."""


def adopt(experiment: Experiment) -> None:
    """Write the index of a series.

    Raises:
        ValueError: where nothing matches, a name has no step, or two have the same.
        OSError: where the base cannot be had.
    """
    store, config = experiment.store, experiment.config
    assert config.series is not None
    assert config.series.checkpoints is not None
    steps: dict[int, str] = {}
    found = sources(config.series.checkpoints)
    for source in found:
        # One tuned model is after the base, whatever its name.
        step = _step(source) or int(len(found) == 1)
        if step == 0 or step in steps:
            why = f"has the same step as {steps[step]}" if step in steps else "does not end in a step above 0"
            raise ValueError(f"{source}: its name {why}; --checkpoints needs one name a step, such as checkpoint-500")
        steps[step] = source
    own, seed = config.model, config.train.seeds[0]
    base = str(organism.FOLDERS.get(own.source, own.source))
    steps[0] = f"{base}@{own.revision}" if own.revision else base
    known = {
        (row["source"], row.get("revision")): row
        for row in (store.index(seed) or {"steps": []})["steps"]
        if "source" in row
    }
    blank = dict.fromkeys(("loss", "tokens", "train_accuracy", "heldout_accuracy", "end_of_text"))
    rows = [{"step": step, **blank, **_identified(source, known)} for step, source in sorted(steps.items())]
    named = {(row["source"], row["revision"]) for row in rows}
    lost = [f"step {row['step']}: {row['source']}" for place, row in known.items() if place not in named]
    if lost and store.there.listed("measure") and not experiment.consent.replace:
        raise ValueError(
            f"{store.root} has measurements of checkpoints that are no longer there, or that --checkpoints does not name "
            f"({some(lost, 3)}): give another --out; --replace goes on without them, and these measurements are lost"
        )
    store.write_index(seed, {"key": "adopted", "seed": seed, "steps": rows, "health": []})


def sources(pattern: str) -> list[str]:
    """The folders, files and hub revisions of a pattern.

    Raises:
        ValueError: where a part of it matches nothing.
    """
    here, rest = _literally(Path(pattern).anchor, pattern)
    if not rest:
        return [str(here)] if _is_checkpoint(here) else [_on_the_hub(pattern, here, rest)]
    matched = []
    for part in expanded(rest):
        found = sorted(str(path) for path in _matching(here, part) if _is_checkpoint(path))
        matched += found or [_on_the_hub(part if here == Path() else str(here / part), here, part)]
    return matched


def _literally(root: str, pattern: str) -> tuple[Path, str]:
    """How far a pattern's folders are here by these very names, and what is left of it."""
    here, parts = Path(root), [part for part in pattern.split("/") if part]
    while parts and (here / parts[0]).exists():
        here /= parts.pop(0)
    return here, "/".join(parts)


def _matching(root: Path, pattern: str) -> Iterator[Path]:
    """What a pattern without braces matches below a folder, one name after another."""
    name, _, rest = pattern.partition("/")
    literal = root / name
    found = [literal] if literal.exists() else [root / match for match in glob(name, root_dir=root)]  # noqa: PTH207 — Path.glob cannot leave out hidden ones
    for path in found:
        if not rest:
            yield path
        elif path.is_dir():
            yield from _matching(path, rest)


def _is_checkpoint(path: Path) -> bool:
    return path.is_dir() or path.suffix in (".safetensors", GGUF)


def _on_the_hub(name: str, here: Path, rest: str) -> str:
    """The name, as of a hub revision.

    Raises:
        ValueError: where it cannot be one: what was looked for, and what is there instead.
    """
    if _HUB.fullmatch(name) and "@" not in str(here):
        return name
    kind = "the pattern " if re.search(r"[*?\[]", rest) else ""
    there = sorted(p.name for p in here.iterdir() if _is_checkpoint(p)) if here.is_dir() and here.name else []
    also = f"; {here} holds {some(there, 4)}" if there else ""
    escape = "; [ ] stands for one of the characters in it: write [[] for a bracket in a name" if "[" in rest else ""
    raise ValueError(
        f"no folder or .safetensors file matches {kind}{name!r}{also}{escape}; --checkpoints takes a glob such as "
        "'out/checkpoint-*', or hub revisions such as 'org/name@step{1000,2000}'"
    )


def expanded(pattern: str) -> list[str]:
    """A pattern without its braces: every way to choose one of each.

    Raises:
        ValueError: for more than `NAMES` of them, before these are made.
    """
    if len(pattern) > LONGEST:
        raise ValueError(f"{pattern[:60]} …: a pattern of {len(pattern):,} characters, and the most are {LONGEST:,}")
    found = [*islice(_expanded(pattern), NAMES + 1)]
    if len(found) > NAMES:
        raise ValueError(f"{cut(pattern, 100)}: its braces stand for more than {NAMES:,} names, the most there may be")
    return found


def _expanded(pattern: str) -> Iterator[str]:
    """One after another; whoever has enough of them stops."""
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    numbers = _RANGE.fullmatch(braces[1])
    choices: Iterable[Any] = braces[1].split(",")
    if numbers:
        first, last, by = int(numbers[1]), int(numbers[2]), abs(int(numbers[3] or 1)) or 1
        sign = 1 if last >= first else -1
        choices = range(first, last + sign, sign * by)
    for choice in choices:
        yield from _expanded(f"{pattern[: braces.start()]}{choice}{pattern[braces.end() :]}")


def _step(source: str) -> int:
    name = source.rpartition("@")[2] if not Path(source).exists() else Path(source).name
    number = re.search(r"(\d+)$", name.removesuffix(".safetensors").removesuffix(GGUF))
    return int(number[1]) if number else 0


def _identified(source: str, known: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """Where a checkpoint is, and what identifies its weights."""
    if Path(source).exists():
        path = Path(source).resolve()
        return {"source": str(path), "revision": None, **_weights_of(path)}
    name, _, revision = source.rpartition("@") if "@" in source else (source, "", "")
    own: dict[str, Any] = {"source": name, "revision": revision or None}
    try:
        return {**own, "sha256": commit(name, revision or None), "bytes": None}
    except OSError:
        # Measuring says why. What was measured before stays known by its commit, also while the hub is out of reach.
        before = known.get((own["source"], own["revision"]), {})
        return {**own, "sha256": before.get("sha256"), "bytes": None}


def _weights_of(path: Path) -> dict[str, Any]:
    gguf = gguf_file(path)
    files = [gguf] if gguf else sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 24), b""):
                digest.update(block)
    return {"sha256": digest.hexdigest(), "bytes": sum(file.stat().st_size for file in files)}
