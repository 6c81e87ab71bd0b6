"""Pairs in a user's data, one a row, with words or with token ids.

Columns are `clean` (or `prompt`, `question`), `corrupted`, `answer`, `foils`; and, if wanted, `contrast`, `counterfactual`,
`split`, `place`, `wording`, `spans`. Foils and contrast follow the prompt as the answer does, with or without a space.

Token ids (`correct_idx`, `incorrect_idx`, or any name that ends in `_idx`) are words only to a tokenizer: until the task is
fitted they are written `<token 798>`, and a row whose words do not give the same ids back is not used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from instar.record.config import DataConfig
from instar.record.foreign import json_text, shown
from instar.record.names import file_name
from instar.tasks import cells
from instar.tasks.fitting import Fault
from instar.tasks.pair import Pair, Span, word_ids
from instar.tasks.ready import Entry, PairSource, Rejected, from_entries
from instar.tasks.records import Record
from instar.tasks.rows import IDS, SETS, Columns, column, joined, one_answer, refuse_bare_numbers, spelled

NEEDED = ("prompt", "corrupted", "answer", "foils")
WORDS = ("answer", "foils", "contrast")
SEEN = 50
"""Rows that a suggestion looks at."""
NO_PAIR, OTHER_IDS = "a row that is no pair", "token ids that are no words after the prompt"
Ids = Mapping[str, tuple[int, ...]]
"""The token ids of a row, by the part of the pair that they are."""


def holds_pairs(records: Sequence[Record], columns: Columns) -> bool:
    """Whether these rows are pairs."""
    return bool({"clean", "corrupted", columns.get("corrupted")} & set(records[0].values))


def from_pairs(path: Path, name: str, records: Sequence[Record], data: DataConfig) -> PairSource:
    """The task of a file of pairs.

    Raises:
        ValueError: for missing columns, naming those there are, and where no row can be used.
    """
    keys = pair_columns(path, records, data.columns)
    entries, rejected, ids = [], [], {}
    for index, record in enumerate(records):
        try:
            pair, ids[index], notes = _pair(record, keys)
            entries.append(Entry(record.number, pair.clean, (pair,), record.split, index, notes))
        except ValueError as reason:
            prompt = str(record.values.get(keys["prompt"]) or "")
            kind = SETS if "a set of" in str(reason) else NO_PAIR
            rejected.append(Rejected(record.number, str(reason), prompt, kind, record.split))

    def expand(entries: Sequence[Entry], tokenizer: Any) -> list[Entry]:
        return [e if tokenizer is None or not ids[e.index] else _spelled(e, ids[e.index], tokenizer) for e in entries]

    return from_entries(name, entries, rejected, data.holdout, data.seed, expand)


def pair_columns(path: Path, records: Sequence[Record], columns: Columns) -> dict[str, str]:
    """What this file calls each part of a pair."""
    values, found, missing = records[0].values, {}, []
    for part in NEEDED:
        try:
            found[part] = column(path, values, part, columns)
        except ValueError:
            missing.append(part)
    if missing:
        rest = [name for name in values if name not in {*found.values(), *columns.values()}]
        fitting = [name for name in rest if _fits(missing[0], [r.values.get(name) for r in records[:SEEN]])]
        such = f", such as {{{missing[0]}: {fitting[0]}}}" if len(fitting) == 1 else ""
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(values)}. Name its columns in data.columns{such}"
        )
    for part in ("answer", "foils"):
        refuse_bare_numbers(path, records, found["prompt"], found[part])
    return found | {
        part: columns.get(part, part) for part in ("contrast", "counterfactual", "place", "wording", "spans")
    }


def _fits(part: str, values: Sequence[Any]) -> bool:
    """Whether a column's content could be this part: texts of several words for prompts, single words for the others."""
    several = part in ("prompt", "corrupted")
    texts = [v for v in values if isinstance(v, str) and not any(c.isdigit() for c in v)]
    return len(texts) == len(values) and all((len(v.split()) > 2) is several and v.strip() for v in texts)


def _pair(record: Record, keys: Mapping[str, str]) -> tuple[Pair, Ids, tuple[str, ...]]:
    """One row: the pair, the ids among its words, and what was repaired."""
    own = {part: record.values.get(key) for part, key in keys.items()}
    read = {part: _read(part, keys[part], own[part]) for part in keys}
    ids = {part: read[part] for part in WORDS if cells.holds_ids(keys[part]) and read[part]}
    shown: dict[str, Any] = {part: tuple(spelled(None, i)[1] for i in found) for part, found in ids.items()}
    words = {"foils": read["foils"], "contrast": read["contrast"], **shown}
    clean, corrupted, between, answer, notes = read["prompt"], read["corrupted"], " ", "", ()
    if "answer" in ids:
        answer, notes = words.pop("answer")[0], (IDS,)
    else:
        clean, between, answer, notes = joined(clean, read["answer"])
        corrupted = joined(corrupted, read["answer"])[0]
    rest = {part: read[part] for part in ("counterfactual", "wording")}
    rest |= {
        "place": _place(keys["place"], read["place"], clean),
        "spans": _placed(read["spans"], read["prompt"], clean),
    }
    return Pair(clean=clean, corrupted=corrupted, answer=answer, between=between, **words, **rest), ids, notes


def _place(key: str, place: int, clean: str) -> int:
    words = len(clean.split())
    if not 0 <= place < words:
        raise ValueError(
            f"{key}: expected the answer's place among the words of its prompt, 0 to {words - 1}, found {shown(place)}"
        )
    return place


def _placed(spans: Sequence[Span], written: str, clean: str) -> tuple[Span, ...]:
    """Spans of the prompt as it was written, in the prompt without the white space before it."""
    cut, found = len(written) - len(written.lstrip()), []
    for span in spans:
        if not 0 <= span.start - cut < span.stop - cut <= len(clean):
            raise ValueError(
                f"spans: {span.slot} is {span.start} to {span.stop}, expected two places in a prompt of {len(written)} "
                "characters, the first before the second"
            )
        found.append(replace(span, start=span.start - cut, stop=span.stop - cut))
    return tuple(found)


def _read(part: str, key: str, value: Any) -> Any:
    """One part of a row; an error names the column."""
    try:
        if part in WORDS:
            return _words(part, key, value)
        if part in ("prompt", "corrupted") and not (isinstance(value, str) and value.strip()):
            raise ValueError(f"expected text, found {value!r:.60}")
        if cells.hole(value):
            return {"counterfactual": "corrupted", "place": 0, "wording": "", "spans": ()}[part]
        readers = {"place": cells.whole_number, "spans": _spans, "counterfactual": _kind}
        return readers.get(part, str)(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _words(part: str, key: str, value: Any) -> Any:
    """The answer's text, the other words, or the ids of either."""
    value = one_answer(value) if part == "answer" else value
    found: tuple[Any, ...] = ()
    if cells.holds_ids(key):
        found = cells.ids(value)
    elif part == "answer":
        if isinstance(value, str) and value.strip():
            return value.rstrip()
        cells.words(value if isinstance(value, int | float) else None)  # numbers have a sentence of their own
    else:
        found = cells.words(value)
    if not found and part != "contrast":
        raise ValueError(f"expected {'text' if part == 'answer' else 'words'}, found {value!r:.60}")
    return found


def _kind(value: Any) -> str:
    return file_name(value if isinstance(value, str) else str(value), "counterfactual")


def _spans(value: Any) -> tuple[Span, ...]:
    found = json_text(value, "a list in a cell") if isinstance(value, str) else value
    try:
        return tuple(Span(str(s["slot"]), int(s["start"]), int(s["stop"])) for s in found or ())
    except (TypeError, KeyError, OverflowError):
        raise ValueError(f'expected [{{"slot": "…", "start": 0, "stop": 4}}, …], found {value!r:.60}') from None


def _spelled(entry: Entry, ids: Ids, tokenizer: Any) -> Entry:
    """The entry with words for its token ids, or with what is at fault."""
    (pair,) = entry.pairs
    try:
        texts = {part: [spelled(tokenizer, i) for i in found] for part, found in ids.items()}
        spaces = {between for found in texts.values() for between, _ in found}
        spaces |= set() if "answer" in ids else {pair.between}
        if len(spaces) > 1:
            raise ValueError(f"{_said(texts, ids)}: some begin with a space and some do not")
        words: dict[str, Any] = {part: tuple(word for _, word in found) for part, found in texts.items()}
        if "answer" in words:
            words["answer"] = words["answer"][0]
        if "foils" in words and "contrast" not in words and pair.contrast == pair.foils:
            words["contrast"] = words["foils"]
        pair = replace(pair, between=spaces.pop(), **words)
        for part, found in ids.items():
            for token, (between, word) in zip(found, texts[part], strict=True):
                read = word_ids(tokenizer, word, pair.clean, between)
                if read != [token]:
                    raise ValueError(f"token {token} is {between + word!r}, which this tokenizer reads as {read} there")
    except ValueError as reason:
        return replace(entry, fault=Fault(str(reason), OTHER_IDS))
    return replace(entry, pairs=(pair,))


def _said(texts: Mapping[str, Sequence[tuple[str, str]]], ids: Ids) -> str:
    every = [(i, b + w) for part, found in texts.items() for i, (b, w) in zip(ids[part], found, strict=True)]
    return ", ".join(f"token {i} is {text!r}" for i, text in every)
