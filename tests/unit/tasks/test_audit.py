"""The audit against files whose faults are known."""

import json
import random

import pandas as pd
import pytest

from instar.tasks.audit import audit, normalised
from instar.tasks.library import ioi
from instar.tasks.rows import DataRow, read_training_file

GOOD = [DataRow(i, p.clean, p.answer) for i, p in enumerate(ioi(3).pairs(300, seed=0, split="train"), 1)]


def kinds(report):
    return {f.kind: f for f in report.findings}


def test_a_clean_file_is_clean(embedded):
    report = audit(GOOD, [p.clean for p in ioi(3).pairs(100, seed=1)], embedded.tokenizer, "ioi3")
    assert report.ok and report.findings == ()
    assert report.balance["answer place (3 introduced)"].counts == {"place 1": 100, "place 2": 100, "place 3": 100}
    assert report.prompt_tokens["least"] > 10


def test_a_leak_is_an_error_also_under_another_spelling():
    leaked = GOOD[7].prompt.upper().replace(",", "  ,")
    report = audit(GOOD, [leaked])
    assert not report.ok and report.leaks == 1
    assert kinds(report)["train/test overlap"].rows[0].startswith("row 8: ")


def test_duplicates_are_told_apart():
    rows = [
        *GOOD,
        DataRow(301, GOOD[0].prompt, GOOD[0].answer),
        DataRow(302, GOOD[1].prompt.lower(), GOOD[1].answer.lower()),
    ]
    found = kinds(audit(rows))
    assert found["exact duplicates"].count == 1 and found["normalised duplicates"].count == 1
    assert "row 301: the same prompt as row 1" in found["exact duplicates"].rows[0]
    assert normalised("After  John, and Mary!") == "after john and mary"


@pytest.mark.parametrize(("broken", "ok"), [(3, True), (4, False)])
def test_more_than_one_percent_ill_formed_is_an_error(broken, ok):
    bad = [DataRow(row.number, row.prompt, "Nobody") for row in GOOD[:broken]]
    report = audit([*bad, *GOOD[broken:]], task="ioi3")
    assert report.ok is ok
    assert kinds(report)["answer missing from the prompt"].count == broken


def test_answers_among_the_givers_and_unreadable_rows_have_reasons():
    among = DataRow(1, "After John, Mary and Jim went to the store, Mary and Jim gave a bottle of milk to", "Jim")
    nobody = DataRow(2, "John and Mary and Jim went to the store and a drink went to", "Jim")
    two = DataRow(3, "After John and Mary went out, John gave a ring to", "Mary")
    found = kinds(audit([among, nobody, two], task="ioi3"))
    assert "the answer 'Jim' is among the givers ['Mary', 'Jim']" in found["answer among the givers"].rows[0]
    assert found["not readable as IOI"].count == 2
    assert "2 introduced names, ioi3 has 3" in found["not readable as IOI"].rows[1]


def test_imbalance_like_the_logs_is_found():
    rng = random.Random(0)
    pairs = [p for p in ioi(3).pairs(900, seed=0, split="train") if p.place == 1 or rng.random() < 0.4]
    report = audit([DataRow(i, p.clean, p.answer) for i, p in enumerate(pairs, 1)], task="ioi")
    finding = kinds(report)["unbalanced answer place (3 introduced)"]
    assert finding.severity == "warning" and "place 2 in 5" in finding.text and report.ok


def test_multi_token_answers_are_named(embedded):
    rows = [DataRow(1, "After Wilhelmina and John met, John gave a ring to", "Wilhelmina")]
    finding = kinds(audit(rows, tokenizer=embedded.tokenizer))["multi-token answers"]
    assert finding.rows[0].startswith("row 1: 'Wilhelmina' is ")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize(
    ("prompt", "answer"), [("question", "completion"), ("prompt", "completion"), ("prompt", "answer")]
)
def test_every_format_and_naming(tmp_path, suffix, prompt, answer):
    path = tmp_path / f"data{suffix}"
    records = [
        {prompt: "\nAfter John and Mary met, John gave a ring to", answer: a}
        for a in (" Mary", "Mary", " Mary" * 20, " Mary.")
    ]
    table = pd.DataFrame(records)
    if suffix == ".json":
        path.write_text(json.dumps(records))
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    elif suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    rows = read_training_file(path)
    assert [r.answer for r in rows] == ["Mary"] * 4
    assert [set(r.notes) - {"white space around the prompt"} for r in rows] == [
        set(),
        {"no leading space before the answer"},
        {"completion repeats one word"},
        {"punctuation after the answer"},
    ]
    assert all(not r.prompt.endswith(" ") for r in rows)


def test_files_that_cannot_be_read_say_so(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(ValueError, match="no file"):
        read_training_file(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"x.json cannot be read as json"):
        read_training_file(path)
    path.write_text('[{"text": "a"}]')
    with pytest.raises(ValueError, match=r"columns \['text'\], expected one of \['prompt', 'question', 'clean'\]"):
        read_training_file(path)
    path.write_text('[{"prompt": "a", "answer": 3}]')
    with pytest.raises(ValueError, match="row 1: answer: expected text, found 3. Numbers: token ids?"):
        read_training_file(path)
