"""Other people's training files: prompts and answers from JSON, JSON Lines, CSV or Parquet, repaired on reading.

Columns are `question`/`completion`, `prompt`/`completion` or `prompt`/`answer`. An answer is kept without its leading
space (it is added back as a token), a completion that repeats one word is reduced to that word, and white space around
a prompt is cut. What was repaired is noted on the row, never silent.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPTS = ("prompt", "question")
ANSWERS = ("answer", "completion")


@dataclass(frozen=True)
class DataRow:
    """One row as it will be used; `number` counts from 1, as in the file."""

    number: int
    prompt: str
    answer: str
    notes: tuple[str, ...] = ()


def read_training_file(path: Path) -> list[DataRow]:
    """All rows of a file.

    Raises:
        ValueError: naming the file, what was found and what is expected.
    """
    if not path.exists():
        raise ValueError(f"no file {path}")
    records = _records(path)
    if not records:
        raise ValueError(f"{path} has no rows")
    prompt, answer = (_column(path, records[0], names) for names in (PROMPTS, ANSWERS))
    return [_repaired(i, path, record, prompt, answer) for i, record in enumerate(records, 1)]


def _records(path: Path) -> list[dict[str, Any]]:
    kind = path.suffix.lower()
    try:
        if kind == ".json":
            found = json.loads(path.read_text(encoding="utf-8-sig"))
        elif kind in (".jsonl", ".ndjson"):
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            found = [json.loads(line) for line in lines if line.strip()]
        elif kind in (".csv", ".parquet"):
            import pandas as pd

            table = pd.read_csv(path, dtype=str, keep_default_na=False) if kind == ".csv" else pd.read_parquet(path)
            found = table.to_dict("records")
        else:
            raise ValueError(f"{path}: {kind or 'no'} suffix; expected .json, .jsonl, .csv or .parquet")
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as {kind[1:]}: {error}") from None
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise ValueError(f"{path} holds {type(found).__name__}, expected a list of objects")
    return found


def _column(path: Path, record: dict[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        if name in record:
            return name
    raise ValueError(f"{path}: columns {list(record)}, expected one of {list(names)}")


def _repaired(number: int, path: Path, record: dict[str, Any], prompt_key: str, answer_key: str) -> DataRow:
    prompt, answer = record.get(prompt_key), record.get(answer_key)
    if not isinstance(prompt, str) or not isinstance(answer, str):
        found = {prompt_key: prompt, answer_key: answer}
        raise ValueError(f"{path}, row {number}: expected text, found {found}")
    notes = []
    if prompt != prompt.strip():
        notes.append("white space around the prompt")
    if not answer.startswith(" "):
        notes.append("no leading space before the answer")
    words = answer.split()
    if len(words) > 1 and len(set(words)) == 1:
        notes.append("completion repeats one word")
        words = words[:1]
    text = " ".join(words)
    if text.endswith((".", "!")):
        notes.append("punctuation after the answer")
        text = text.rstrip(".!")
    return DataRow(number, prompt.strip(), text, tuple(notes))
