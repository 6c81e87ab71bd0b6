"""The audit against files whose faults are known."""

import json
import random

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.tasks.audit import audit, audit_data, normalised
from instar.tasks.batch import tokenize
from instar.tasks.library import ioi, task
from instar.tasks.pair import Pair
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


def test_answers_outside_the_prompt_are_an_error_only_for_tasks_that_copy():
    rows = [DataRow(i, f"The nurse number {i} said that", "she") for i in range(1, 41)]
    plain, ioi_like = audit(rows), audit(rows, task="ioi")
    assert plain.ok and kinds(plain)["answer missing from the prompt"].severity == "note"
    assert not ioi_like.ok and kinds(ioi_like)["answer missing from the prompt"].severity == "error"
    assert not audit([DataRow(1, "a b", "")]).ok


def test_one_prompt_with_different_answers_is_found_and_both_rows_named():
    text = "During their visit to the bakery, Sarah, Tom, and Emma decided to buy a cake for"
    rows = [*GOOD, DataRow(301, text, "Tom"), DataRow(302, text.replace("visit to", "visit  to"), "Emma")]
    rows += [DataRow(303, "2 + 2 is", "4"), DataRow(304, "2 - 2 is", "0")]
    finding = kinds(audit(rows, task="ioi"))["one prompt with different answers"]
    assert finding.count == 2 and finding.severity == "warning"
    assert finding.rows[0].startswith("row 301: answers 'Tom', and row 302, which has the same prompt, 'Emma'")
    assert finding.rows[1].startswith("row 302: answers 'Emma', and row 301, which has the same prompt, 'Tom'")


def test_leaks_are_counted_in_test_prompts_first_and_every_row_is_listed():
    tests = [row.prompt for row in GOOD[:12]]
    twice = [DataRow(301, GOOD[0].prompt, GOOD[0].answer)]
    finding = kinds(audit([*GOOD, *twice], [*tests, "another"]))["train/test overlap"]
    assert finding.said.startswith("train/test overlap: 12 of 13 test prompts (92.3%), 13 training rows (4.3%)")
    assert len(finding.rows) == 13
    corrupted = audit(GOOD, [("something else", tests[0]), ("a", "b")])
    assert kinds(corrupted)["train/test overlap"].tested == "1 of 2 test prompts (50.0%)"


def saved(path, rows):
    path.write_text(json.dumps(rows))
    return str(path)


def test_the_test_datas_own_faults_are_reported(tmp_path):
    train = saved(tmp_path / "train.json", [{"prompt": r.prompt, "answer": r.answer} for r in GOOD])
    tests = [{"prompt": p.clean, "answer": p.answer} for p in ioi(3).pairs(50, seed=1)]
    assert audit_data(train, saved(tmp_path / "test.json", tests), task="ioi3").ok
    tests[7]["answer"] = "Nobody"
    report = audit_data(train, saved(tmp_path / "test.json", tests), task="ioi3")
    assert {f.severity for f in report.findings} == {"note"} and not report.ok and report.test is not None
    assert report.as_dict()["test"]["findings"][0]["rows"][0].startswith("row 8: 'Nobody' not in")


def pair_rows():
    text = "The {} is in the {}. The"
    rows = [
        {"clean": text.format("key", p), "corrupted": text.format("ring", p), "answer": "key", "foils": ["ring"]}
        for p in ("park", "house", "school", "store", "office", "garden", "market")
    ]
    rows[1] |= {"foils": ["ring", "key"]}
    rows[2] |= {"corrupted": text.format("very old ring", "school")}
    rows[3] |= {"corrupted": rows[3]["clean"]}
    rows[4] |= {"foils": ["Wilhelmina"]}
    rows[5] |= {"contrast": ["key"]}
    return rows


@pytest.mark.parametrize("known", [True, False])
def test_pairs_are_looked_at_as_a_run_does(tmp_path, embedded, known):
    path = saved(tmp_path / "pairs.json", pair_rows())
    tokenizer = embedded.tokenizer if known else None
    report = audit_data(path, tokenizer=tokenizer)
    found = {kind: [r.split(":")[0] for r in f.rows] for kind, f in kinds(report).items() if f.severity != "note"}
    with_model = {"prompts that differ in length": ["row 3"], "words of several tokens": ["row 5"]}
    assert found == {
        "the answer is its own foil": ["row 2"],
        "clean and corrupted the same": ["row 4"],
        "the answer is its own contrast": ["row 6"],
        **(with_model if known else {}),
    }
    assert not report.ok and report.rows == 7
    source = task(path)
    source = source.fit(tokenizer) if known else source
    assert {r.number for r in source.rejected} == {2, 4, 6}
    if known:
        text = kinds(report)["words of several tokens"].text
        assert text.endswith("this model's tokenizer lacks 1 of 3 names or words as one token (Wilhelmina)")


def test_names_that_the_tokenizer_lacks_are_counted(embedded):
    rows = [DataRow(1, "After Wilhelmina, Mary and Jim met, Mary and Jim gave a ring to", "Wilhelmina"), *GOOD[1:]]
    rows[1] = DataRow(2, "After Kunigunde, Mary and Jim met, Mary and Kunigunde gave a ring to", "Jim")
    found = kinds(audit(rows, tokenizer=embedded.tokenizer, task="ioi3"))
    assert "patched slot by slot" in found["multi-token names"].text
    assert (
        "lacks 2 of " in found["multi-token names"].text
        and "(Kunigunde, Wilhelmina)" in found["multi-token answers"].text
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_row_whose_answer_is_a_foil_reaches_a_batch(embedded, tmp_path_factory, data):
    things = ("key", "ring", "lamp", "map", "pen")
    rows = []
    for i in range(8):
        own, other, *rest = data.draw(st.permutations(things))
        foils = data.draw(st.lists(st.sampled_from([own, other, *rest]), min_size=1, max_size=3, unique=True))
        contrast = data.draw(st.one_of(st.none(), st.sampled_from([own, other])))
        answer = data.draw(st.sampled_from([own, " " + own]))
        text = f"The {{}} is in place {i}. The"
        rows.append({"clean": text.format(own), "corrupted": text.format(other), "answer": answer, "foils": foils})
        rows[-1] |= {"contrast": [contrast] if contrast else None}
    path = tmp_path_factory.mktemp("p") / "rows.json"
    path.write_text(json.dumps(rows))
    good = [r for r in rows if r["answer"].strip() not in [*r["foils"], *(r["contrast"] or ())]]
    if not good:
        with pytest.raises(ValueError, match=r"none of 8 rows can be used: .* own"):
            task(str(path))
        return
    found = task(str(path)).fit(embedded.tokenizer)
    batch = tokenize(found.pairs(len(good)), embedded.tokenizer)
    assert len(batch) == len(good) and len(found.rejected) == 8 - len(good)
    for others in (batch.foils, batch.contrast):
        assert not (others == batch.answer[:, None]).any()


def test_words_by_hand_are_checked_too(embedded):
    pair = Pair("The key is in the park. The", "The ring is in the park. The", "x", "key", ("key", "ring"))
    with pytest.raises(ValueError, match=r"pair 0 .*the answer 'key' is among its foils"):
        tokenize([pair], embedded.tokenizer)


def test_rows_that_contradict_each_other_are_no_rows_of_a_task(tmp_path, embedded):
    rows = pair_rows()[:1] * 2 + pair_rows()[6:]
    rows[1] = rows[1] | {"answer": "lamp"}
    found = task(saved(tmp_path / "pairs.json", rows)).fit(embedded.tokenizer)
    assert {r.number: r.kind for r in found.rejected} == dict.fromkeys((1, 2), "one prompt with different answers")
    assert "answers 'key', and row 2, which has the same prompt, 'lamp'" in found.rejected[0].reason
