"""Prompts and answers of a user's data, repaired on reading.

1. Columns are `question`/`completion`, `prompt`/`completion`, `prompt`/`answer` and the like, or as the user names them. A
   column whose name says that it holds token ids (`correct_idx`) is read as these.
2. What follows the prompt is prompt + answer as they stand. A space at the prompt's end is the answer's; where neither has
   one and two words would run into one, it is added.
3. A completion that repeats one word is reduced to that word. What was repaired is noted on the row, never silent.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar.tasks import cells
from instar.tasks.pair import word_ids
from instar.tasks.records import Record, read_records

NAMES = {
    "prompt": ("prompt", "question", "clean"),
    "answer": ("answer", "completion", "correct_idx"),
    "foils": ("foils", "incorrect_idx"),
}
"""What a column is called where the user does not say; other columns go by their own name."""
Columns = Mapping[Any, str]
"""What the user calls a column, by what it is: `{"prompt": "text", "answer": "label"}`."""
ADDED = "no leading space before the answer"
AS_IT_STANDS = "the answer follows without a space"
BROKEN_LINE = "a line break before the answer"
IDS = "token ids read as words"
REPAIRS = {
    ADDED: "neither the prompt nor the answer has it; it was added between the two words",
    AS_IT_STANDS: "tokenised as prompt + answer stand; begin the answer with a space where one is meant",
    BROKEN_LINE: "kept as the end of the prompt",
    IDS: "see whether these are the words that are meant: another tokenizer's ids are other words",
}
"""What was done about a note, where its name does not say it."""
# Chinese, Japanese, Thai, Lao, Burmese and Khmer put no space between words.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@dataclass(frozen=True)
class DataRow:
    """One row as it will be used; `number` counts from 1, as in the file."""

    number: int
    prompt: str
    answer: str
    notes: tuple[str, ...] = ()
    split: str | None = None
    between: str = " "
    """What stands between prompt and answer, as in `Pair`."""


def read_training_file(
    path: str | Path, columns: Columns | None = None, every_split: bool = False, tokenizer: Any = None
) -> list[DataRow]:
    """All rows of a file or folder (`data#train`: of one split); of several splits only where `every_split` is wanted.

    Raises:
        ValueError: naming the file, what was found and what is expected.
    """
    records = read_records(path, (columns or {}).get("split", "split"))
    rows = data_rows(path, records, columns or {}, tokenizer)
    if not every_split:
        refuse_several_splits(path, records)
    return rows


def refuse_several_splits(path: str | Path, records: Sequence[Record]) -> None:
    """What is looked at or trained on as one is of one split."""
    splits = list(dict.fromkeys(str(record.split) for record in records))
    if len(splits) > 1:
        raise ValueError(f"{path} has the splits {', '.join(splits)}: name one, such as {path}#{splits[0]}")


def data_rows(path: str | Path, records: Sequence[Record], columns: Columns, tokenizer: Any = None) -> list[DataRow]:
    """Records as prompts and answers. Without a tokenizer an answer that is a token id is `<token 798>`."""
    values = records[0].values
    texts = {columns.get("prompt"), *NAMES["prompt"]}
    if not texts & set(values) and {"messages", "conversations"} & set(values):
        raise ValueError(
            f"{path} holds conversations ({', '.join(values)}). {_AS_TEXT} Give each row a prompt and a completion."
        )
    prompt, answer = (column(path, values, name, columns) for name in ("prompt", "answer"))
    refuse_bare_numbers(path, records, prompt, answer)
    return [_repaired(record, path, prompt, answer, tokenizer) for record in records]


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


def refuse_bare_numbers(path: str | Path, records: Sequence[Record], prompt: str, answer: str) -> None:
    """A table of text cannot say whether 943 is a word or a token's id; where no prompt has a number it may well be one."""
    found = [str(text) for r in records if not r.typed and (text := r.values.get(answer))]
    bare = bool(found) and not cells.holds_ids(answer) and all(re.fullmatch(r"\d+", text) for text in found)
    if bare and not any(re.search(r"\d", str(r.values.get(prompt))) for r in records):
        raise ValueError(
            f"{path}: column {answer!r} holds numbers ({', '.join(found[:3])}) and no prompt has one. Token ids? Call the "
            "column correct_idx (any name that ends in _idx). Words? Begin each with the space that it follows the prompt by"
        )


def spelled(tokenizer: Any, token: int) -> tuple[str, str]:
    """A token as what stands before its word, a space or nothing, and the word. Without a tokenizer: `<token 798>`.

    Raises:
        ValueError: for an id that the tokenizer does not have.
    """
    if tokenizer is None:
        return " ", f"<token {token}>"
    if token >= len(tokenizer):
        raise ValueError(f"token id {token}: this tokenizer has {len(tokenizer)} tokens")
    # After another token: some tokenizers leave out the space of a text's first word.
    before = tokenizer("to", add_special_tokens=False)["input_ids"]
    how = {"clean_up_tokenization_spaces": False}
    text = tokenizer.decode([*before, token], **how)[len(tokenizer.decode(before, **how)) :]
    return (" ", text[1:]) if text.startswith(" ") else ("", text)


def joined(prompt: str, answer: str) -> tuple[str, str, str, tuple[str, ...]]:
    """Prompt, what stands between, answer, and notes: prompt + answer as they stand, or with the space that lacks."""
    notes = []
    head, tail = prompt.rstrip(), answer.lstrip()
    space = prompt[len(head) :] + answer[: len(answer) - len(tail)]
    kept = space.rstrip(" ")  # a line break is the prompt's, the space after it the word's
    if space not in ("", kept, kept + " ") or prompt != prompt.lstrip() or prompt.endswith(" "):
        notes.append("white space around the prompt")
    if kept:
        notes.append(BROKEN_LINE)
    between = " " if len(space) > len(kept) else ""
    if not space and _run_together(head[-1:], tail[:1]):
        between = " "
        notes.append(ADDED)
    elif not space:
        notes.append(AS_IT_STANDS)
    return head.lstrip() + kept, between, tail, tuple(notes)


def _run_together(last: str, first: str) -> bool:
    """Whether two words would become one: a letter or digit after another, but for a number's own digits."""
    unspaced = _UNSPACED.match(last) or _UNSPACED.match(first)
    return last.isalnum() and first.isalnum() and not (last.isdigit() and first.isdigit()) and not unspaced


def one_answer(value: Any) -> Any:
    """The answer of a cell.

    Raises:
        ValueError: for a set of several right answers.
    """
    text = isinstance(value, str) and re.fullmatch(r"\s*\[.*\]\s*", value, re.DOTALL)
    found = cells.written_list(value) if text and isinstance(value, str) else value
    if isinstance(found, list | tuple):
        if len(found) != 1:
            raise ValueError(
                f"expected one answer, found a set of {len(found)}: {found!r:.60}; keep one right answer a row"
            )
        return found[0]
    return found


SETS = "a set of right answers"


def _repaired(record: Record, path: str | Path, prompt_key: str, answer_key: str, tokenizer: Any) -> DataRow:
    prompt, answer = record.values.get(prompt_key), record.values.get(answer_key)
    where = f"{path}, row {record.number}"
    chat = f" {_AS_TEXT}" if isinstance(prompt, list) else ""
    if not isinstance(prompt, str):
        raise ValueError(f"{where}: {prompt_key}: expected text, found {prompt!r:.200}.{chat}")
    try:
        answer = one_answer(answer)
        if cells.holds_ids(answer_key):
            return _of_id(record, prompt, cells.whole_number(answer), tokenizer)
    except ValueError as error:
        raise ValueError(f"{where}: {answer_key}: {error}") from None
    if not isinstance(answer, str):
        numbers = f". {cells.NUMBERS}" if isinstance(answer, int | float) else ""
        raise ValueError(f"{where}: {answer_key}: expected text, found {answer!r:.200}{numbers}")
    prompt, between, answer, found = joined(prompt, answer)
    notes, words = list(found), answer.split()
    if len(words) > 1 and len(set(words)) == 1:
        notes.append("completion repeats one word")
        words = words[:1]
    text = " ".join(words)
    if text.rstrip(".!") not in ("", text):
        notes.append("punctuation after the answer")
        text = text.rstrip(".!")
    return DataRow(record.number, prompt, text, tuple(notes), record.split, between)


def _of_id(record: Record, prompt: str, token: int, tokenizer: Any) -> DataRow:
    between, word = spelled(tokenizer, token)
    if tokenizer is not None and word_ids(tokenizer, word, prompt, between) != [token]:
        raise ValueError(
            f"token {token} is {between + word!r}, and after this prompt that text is read as other tokens"
        )
    return DataRow(record.number, prompt, word, (IDS,), record.split, between)
