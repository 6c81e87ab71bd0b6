"""Every form that data may have gives the same rows; what `datasets` wrote is read without it."""

import json

import pandas as pd
import pytest

from instar.tasks.records import fingerprint, is_data, read_records
from instar.tasks.rows import read_training_file

ROWS = [
    {"prompt": "After John, Mary and Jim met, Jim and Mary gave a ring to", "answer": " John"},
    {"prompt": "Ana said:\n“Hello”, and\u2028then Ben gave a “pen” to", "answer": " Ana"},
    {"prompt": "Zoë and Mary met, Zoë gave a map to", "answer": " Mary"},
]


def write(folder, form):
    datasets = pytest.importorskip("datasets") if "saved" in form or form == "hub" else None
    path = folder / f"data.{form}"
    if form == "json":
        path.write_text(json.dumps(ROWS))
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in ROWS), encoding="utf-8")
    elif form == "csv":
        pd.DataFrame(ROWS).to_csv(path, index=False)
    elif form == "parquet":
        pd.DataFrame(ROWS).to_parquet(path)
    elif form == "saved":
        # A shuffled selection has an indices mapping, and two shards are two files.
        datasets.Dataset.from_list(ROWS[::-1]).select([2, 1, 0]).save_to_disk(path, num_shards=2)
    elif form == "hub":
        (path / "data").mkdir(parents=True)
        datasets.Dataset.from_list(ROWS).to_parquet(path / "data" / "train-00000-of-00001.parquet")
        (path / "dataset_infos.json").write_text("{}")
    return path


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "parquet", "saved", "hub"])
def test_every_form_gives_the_same_rows(tmp_path, form):
    path = write(tmp_path, form)
    assert is_data(str(path))
    assert [r.values for r in read_records(path)] == ROWS
    assert [(r.number, r.answer) for r in read_training_file(path)] == [(1, "John"), (2, "Ana"), (3, "Mary")]
    before = fingerprint(path)
    assert before == fingerprint(path)
    file = next(p for p in [path, *path.rglob("*")] if p.is_file() and p.suffix != ".json") if form != "json" else path
    file.write_bytes(file.read_bytes() + b" ")
    assert fingerprint(path) != before


@pytest.mark.parametrize("form", ["dict of lists", "split column", "DatasetDict", "files", "folders"])
def test_splits_are_chosen_by_name(tmp_path, form):
    path = tmp_path / "data.json"
    if form == "dict of lists":
        path.write_text(json.dumps({"train": ROWS[:2], "test": ROWS[2:]}))
    elif form == "split column":
        path.write_text(json.dumps([r | {"split": s} for r, s in zip(ROWS, ("train", "train", "test"), strict=True)]))
    elif form == "DatasetDict":
        datasets = pytest.importorskip("datasets")
        path = tmp_path / "saved"
        parts = {"train": ROWS[:2], "test": ROWS[2:]}
        datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in parts.items()}).save_to_disk(path)
    else:
        path = tmp_path / "folder"
        for split, part in {"train": ROWS[:2], "test": ROWS[2:]}.items():
            file = path / (f"{split}-00000-of-00001.jsonl" if form == "files" else f"{split}/data.jsonl")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(map(json.dumps, part)))
    assert sorted(str(r.split) for r in read_records(path)) == ["test", "train", "train"]
    assert [r.answer for r in read_training_file(f"{path}#train")] == ["John", "Ana"]
    assert [r.answer for r in read_training_file(f"{path}#test")] == ["Mary"]
    with pytest.raises(ValueError, match=r"has no split 'dev'; splits: (train, test|test, train)"):
        read_records(f"{path}#dev")
    with pytest.raises(ValueError, match=r"has the splits .*: name one, such as .*#(train|test)"):
        read_training_file(path)


def test_columns_go_by_the_users_names(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"text": "a b", "label": "c"}]))
    assert read_training_file(path, {"prompt": "text", "answer": "label"})[0].prompt == "a b"
    with pytest.raises(ValueError, match=r"columns \['text', 'label'\], expected one of \['sentence'\]"):
        read_training_file(path, {"prompt": "sentence", "answer": "label"})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "chat.json",
            '[{"messages": [{"role": "user", "content": "hi"}]}]',
            "holds conversations .*apply_chat_template",
        ),
        (
            "chat.json",
            '[{"prompt": [{"role": "user"}], "completion": "x"}]',
            "row 1: prompt: expected text.*apply_chat_template",
        ),
        ("x.json", '["a"]', "holds a list of other things, expected a list of objects"),
        ("x.csv", "prompt,answer\nJohn, Mary and Jim met,Jim\n", "row 1 has more fields than the header"),
        ("x.parquet", "no parquet", "x.parquet: ArrowInvalid: Parquet magic bytes"),
        ("x.arrow", "no arrow", "x.arrow: ArrowInvalid: Expected to read"),
        ("x.txt", "a", r"\.txt suffix; expected .json"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_training_file(path)


def test_folders_of_mixed_files_are_not_guessed_at(tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps(ROWS[0]))
    (tmp_path / "more.jsonl").write_text(json.dumps(ROWS[0]))
    with pytest.raises(ValueError, match=r"more.jsonl names no split and other files do"):
        read_records(tmp_path)
    (tmp_path / "other.csv").write_text("prompt,answer\n")
    with pytest.raises(ValueError, match=r"holds .csv and .jsonl files; name one file of it"):
        read_records(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds none of .json"):
        read_records(tmp_path / "empty")
