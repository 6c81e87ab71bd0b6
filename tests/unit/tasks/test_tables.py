"""A table of text in any dialect gives the same rows; holes, lists and numbers mean what they look like."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.record.config import DataConfig
from instar.tasks import cells
from instar.tasks.library import task
from instar.tasks.records import is_data, read_records

# What a form keeps: no line break alone (\r is one to csv) and no NUL.
TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")) | st.sampled_from(",;\t\"'\n"), max_size=30)
NAMED = ({"prompt", "answer"}, {"question", "completion"}, {"clean", "corrupted", "correct_idx", "incorrect_idx"})


@settings(max_examples=150, deadline=None)
@given(
    names=st.sampled_from([sorted(n) for n in NAMED]),
    more=st.lists(st.sampled_from(["id", "note, if any", "a;b", "weight"]), unique=True),
    texts=st.lists(st.lists(TEXT, min_size=8, max_size=8), min_size=1, max_size=5),
    delimiter=st.sampled_from(",;\t"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    suffix=st.sampled_from([".csv", ".tsv", ".CSV", ".csv.gz", ".tsv.gz"]),
)
def test_any_dialect_gives_the_same_rows(
    tmp_path_factory, names, more, texts, delimiter, quoting, end, encoding, suffix
):
    header = [*names, *more]
    rows = [dict(zip(header, row, strict=False)) for row in texts]
    written = io.StringIO()
    table = csv.DictWriter(written, header, delimiter=delimiter, quoting=quoting, lineterminator=end)
    table.writeheader()
    table.writerows(rows)
    raw = written.getvalue().encode(encoding)
    path = tmp_path_factory.mktemp("t") / f"data{suffix}"
    path.write_bytes(gzip.compress(raw) if suffix.endswith(".gz") else raw)
    assert is_data(str(path))
    assert [r.values for r in read_records(path)] == rows


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text(st.characters(blacklist_categories=("Cs",)), min_size=1).filter(str.strip), min_size=1, max_size=4)
)
def test_lists_are_read_as_python_and_json_write_them(words):
    wanted = tuple(w.strip() for w in words)
    for text in (repr(words), json.dumps(words), json.dumps(words, ensure_ascii=False)):
        try:
            assert cells.words(text) == wanted
        except ValueError:  # two quotes around white space: it may be numpy's list, whose words Python would join
            assert cells._NO_COMMA.search(text)
    assert cells.words(words) == wanted


@pytest.mark.parametrize("value", [None, "", " ", float("nan"), "nan", "NaN", "None", "<NA>"])
def test_a_hole_says_nothing(value):
    assert cells.hole(value) and cells.words(value) == () and cells.ids(value) == ()


def test_lists_that_are_none_are_refused():
    for text in ("['a' 'b']", '["a" "b"]', "[a, b]", "['a'", "[798 799]"):
        with pytest.raises(ValueError, match="expected a list such as"):
            cells.words(text)
    with pytest.raises(ValueError, match=r"expected words, found 798. Numbers: token ids\?"):
        cells.words([798])
    assert cells.words("ring, lamp ,") == ("ring", "lamp")
    for value in (True, "1.5", 2.5, "a", "٣x"):
        with pytest.raises(ValueError, match="expected a whole number, found"):
            cells.whole_number(value)
    assert [cells.whole_number(v) for v in (2, 2.0, "2", "2.0", " 2. ")] == [2] * 5


def test_optional_columns_have_holes_and_errors_name_the_column(tmp_path):
    import pandas as pd

    prompts = [f"The key {i} is here. The" for i in range(6)]
    table = pd.DataFrame(
        {
            "clean": prompts,
            "corrupted": [p.replace("key", "ring") for p in prompts],
            "answer": "key",
            "foils": "['ring']",
            "place": [0, 1, None, 2, 0, 1],
            "contrast": ["map", None, None, None, None, None],
            "wording": ["w", None, None, None, None, None],
            "split": None,
        }
    )
    for form in ("csv", "parquet", "json"):
        path = tmp_path / f"holes.{form}"
        {"csv": table.to_csv, "parquet": table.to_parquet, "json": lambda p: table.to_json(p, orient="records")}[form](
            path
        )
        found = task(str(path))
        pairs = sorted(found.pairs(6), key=lambda p: p.clean)
        assert found.rejected == () and [p.place for p in pairs] == [0, 1, 0, 2, 0, 1]
        assert pairs[0].contrast == ("map",) and pairs[1].contrast == ("ring",) == pairs[1].foils
        assert [p.wording for p in pairs] == ["w", "", "", "", "", ""]
    path = tmp_path / "odd.csv"
    table.assign(place=["x", *"01201"]).to_csv(path)
    assert task(str(path)).rejected[0].reason == "place: expected a whole number, found 'x'"


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("x.csv", b"prompt,answer,answer\na,b,c\n", "column 'answer' stands twice in the header"),
        ("x.csv", b"prompt;answer\na;b;c\n", r"row 1 has more fields than the header \(3, expected 2\)"),
        ("x.csv.gz", b"prompt,answer\n", r"x.csv.gz cannot be read as csv: Not a gzipped file"),
        ("x.json.gz", gzip.compress(b"{}", mtime=0)[:-9], "cannot be read as json"),
        ("x.csv", b"\xff\xfe\xff", "cannot be read as csv"),
        ("x.parquet.gz", b"", r"\.gz suffix; expected .json"),
        ("x.csv", b"", "has no rows"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, name, raw, message):
    path = tmp_path / name
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        read_records(path)


def test_known_columns_decide_the_delimiter(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("prompt;answer;note, in, three, parts\nx;y;a, b, c, d\n")
    assert read_records(path)[0].values == {"prompt": "x", "answer": "y", "note, in, three, parts": "a, b, c, d"}


def test_compressed_texts_are_tasks_named_without_their_suffixes(tmp_path):
    rows = [{"clean": "The key is here. The", "corrupted": "The ring is here. The", "answer": "key", "foils": ["ring"]}]
    for name, text in (("a.jsonl.gz", json.dumps(rows[0])), ("a.json.gz", json.dumps(rows))):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        found = task(str(tmp_path / name), DataConfig())
        assert found.name == "a" and found.pairs(1)[0].foils == ("ring",)


def test_quotation_marks_neither_swallow_rows_nor_vanish(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text('prompt\tanswer\twording\na b c\tone\t"odd\nd e f\ttwo\t\n')
    with pytest.raises(ValueError, match=r"line \d: .*each mark in it twice"):
        read_records(path)
    path.write_text('prompt\tanswer\n"Mary left," said John. He gave it to\tMary\n')
    with pytest.raises(ValueError, match="line 2"):
        read_records(path)
    path.write_text('prompt\tanswer\n"""Mary left,"" said John. He gave it to"\tMary\n')
    assert read_records(path)[0].values["prompt"] == '"Mary left," said John. He gave it to'


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"place": 7}, "place: expected the answer's place among the words of its prompt, 0 to 4, found 7"),
        ({"spans": [{"slot": "thing", "start": 900, "stop": 910}]}, "spans: thing is 900 to 910, expected two places"),
        ({"spans": [{"slot": "thing", "start": 7, "stop": 4}]}, "spans: thing is 7 to 4"),
        ({"foils": ["ring", "ring"]}, "'ring' stands twice among the foils"),
    ],
)
def test_labels_of_a_pair_are_checked(tmp_path, more, said):
    row = {"clean": "The key is here. The", "corrupted": "The ring is here. The", "answer": "key", "foils": ["ring"]}
    path = tmp_path / "pairs.json"
    path.write_text(
        json.dumps(
            [row | more, row | {"clean": "  The key is here. The", "spans": [{"slot": "x", "start": 6, "stop": 9}]}]
        )
    )
    found = task(str(path))
    assert [r.number for r in found.rejected] == [1] and said in found.rejected[0].reason
    [pair] = [entry.pairs[0] for entry in found.used]
    assert pair.clean[pair.spans[0].start : pair.spans[0].stop] == "key"
