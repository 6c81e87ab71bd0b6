"""Prompts and answers of a user's data, repaired on reading.

Columns are `question`/`completion`, `prompt`/`completion`, `prompt`/`answer` and the like, or as the user names them. An
answer is kept without its leading space (it is added back as a token), a completion that repeats one word is reduced to
that word, and white space around a prompt is cut. What was repaired is noted on the row, never silent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar.tasks.records import Record, read_records

NAMES = {"prompt": ("prompt", "question", "clean"), "answer": ("answer", "completion")}
"""What a column is called where the user does not say; other columns go by their own name."""
Columns = Mapping[Any, str]
"""What the user calls a column, by what it is: `{"prompt": "text", "answer": "label"}`."""


@dataclass(frozen=True)
class DataRow:
    """One row as it will be used; `number` counts from 1, as in the file."""

    number: int
    prompt: str
    answer: str
    notes: tuple[str, ...] = ()
    split: str | None = None


def read_training_file(path: str | Path, columns: Columns | None = None, every_split: bool = False) -> list[DataRow]:
    """All rows of a file or folder (`data#train`: of one split); of several splits only where `every_split` is wanted.

    Raises:
        ValueError: naming the file, what was found and what is expected.
    """
    rows = data_rows(path, read_records(path, (columns or {}).get("split", "split")), columns or {})
    splits = list(dict.fromkeys(str(row.split) for row in rows))
    if len(splits) > 1 and not every_split:
        raise ValueError(f"{path} has the splits {', '.join(splits)}: name one, such as {path}#{splits[0]}")
    return rows


def data_rows(path: str | Path, records: list[Record], columns: Columns) -> list[DataRow]:
    """Records as prompts and answers."""
    values = records[0].values
    texts = {columns.get("prompt"), *NAMES["prompt"]}
    if not texts & set(values) and {"messages", "conversations"} & set(values):
        raise ValueError(
            f"{path} holds conversations ({', '.join(values)}). {_AS_TEXT} Give each row a prompt and a completion."
        )
    prompt, answer = (column(path, values, name, columns) for name in ("prompt", "answer"))
    return [_repaired(record, path, prompt, answer) for record in records]


_AS_TEXT = (
    "instar reads plain text: the prompt up to the answer, as the model is to see it (for a chat model, what "
    "tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) returns)."
)


def column(path: str | Path, values: Mapping[str, Any], name: str, columns: Columns) -> str:
    """What this file calls the column `name`: what the user says, where it has that, or one of its usual names."""
    usual = NAMES.get(name, (name,))
    for key in (columns.get(name), *usual):
        if key is not None and key in values:
            return key
    expected = [columns[name]] if name in columns else list(usual)
    raise ValueError(f"{path}: columns {list(values)}, expected one of {expected}; or say which: data.columns")


def _repaired(record: Record, path: str | Path, prompt_key: str, answer_key: str) -> DataRow:
    prompt, answer = record.values.get(prompt_key), record.values.get(answer_key)
    if not isinstance(prompt, str) or not isinstance(answer, str):
        found = {prompt_key: prompt, answer_key: answer}
        chat = f" {_AS_TEXT}" if isinstance(prompt, list) else ""
        raise ValueError(f"{path}, row {record.number}: expected text, found {found}.{chat}")
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
    return DataRow(record.number, prompt.strip(), text, tuple(notes), record.split)
