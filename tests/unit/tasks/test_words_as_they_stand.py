"""What follows a prompt is prompt + word as they stand, for every tokenizer; token ids are the tokens that they name."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vocabularies
from instar.record.config import DataConfig, TasksConfig, TrainConfig
from instar.record.files import read_json, read_rows
from instar.record.store import Store
from instar.tasks.batch import tokenize
from instar.tasks.fitting import Tokens
from instar.tasks.library import task
from instar.tasks.pair import Pair
from instar.tasks.prepare import control_rows, prepare, read_pairs
from instar.tasks.rows import ADDED, AS_IT_STANDS, BROKEN_LINE, IDS, joined, read_training_file
from instar.training.train import Row, encode
from vocabularies import NUMBERS, WORDS

YEAR = "The war lasted from the year 15{} to the year 15"
TOKENIZERS = {"byte level": vocabularies.byte_level, "pieces": vocabularies.pieces}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def saved(path, rows):
    path.write_text(json.dumps(rows))
    return str(path)


def years(count=40):
    return [
        {"clean": YEAR.format(b), "corrupted": YEAR.format("01"), "answer": a, "foils": ["01", "02"]}
        for b, a in zip(NUMBERS[10 : 10 + count], NUMBERS[50 : 50 + count], strict=True)
    ]


@pytest.mark.parametrize(
    ("prompt", "answer", "text", "word", "note"),
    [
        ("to the year 15", "29", "to the year 1529", "29", AS_IT_STANDS),
        ("to the year 15", " 29", "to the year 15 29", "29", None),
        ("gave a ring to", "Mary", "gave a ring to Mary", "Mary", ADDED),
        ("gave a ring to ", "Mary", "gave a ring to Mary", "Mary", "white space around the prompt"),
        ("gave a ring to", " Mary", "gave a ring to Mary", "Mary", None),
        ("gave a ring to ", " Mary", "gave a ring to Mary", "Mary", "white space around the prompt"),
        ("in the year", "1999", "in the year 1999", "1999", ADDED),
        ("He said “", "Mary", "He said “Mary", "Mary", AS_IT_STANDS),
        ("(", "Mary", "(Mary", "Mary", AS_IT_STANDS),
        ("well-", "known", "well-known", "known", AS_IT_STANDS),
        ("It is John'", "s", "It is John's", "s", AS_IT_STANDS),
        ("Answer:\n", "Mary", "Answer:\nMary", "Mary", BROKEN_LINE),
        ("Answer:", "\nMary", "Answer:\nMary", "Mary", BROKEN_LINE),
        ("Answer:\n", " Mary", "Answer:\n Mary", "Mary", BROKEN_LINE),
        ("我是", "中国", "我是中国", "中国", AS_IT_STANDS),
    ],
)
def test_a_space_is_added_only_where_words_would_run_together(prompt, answer, text, word, note):
    found, between, own, notes = joined(prompt, answer)
    assert found + between + own == text and own == word
    assert notes == (() if note is None else (note,))


def test_years_follow_their_century(tmp_path):
    tokenizer = vocabularies.byte_level()
    found = task(saved(tmp_path / "years.json", years())).fit(tokenizer)
    batch = tokenize(found.pairs(20), tokenizer)
    for i, pair in enumerate(batch.pairs):
        text = tokenizer(pair.clean + pair.answer)["input_ids"]
        assert [*batch.clean[i, : batch.end[i] + 1].tolist(), int(batch.answer[i])] == text
        assert tokenizer.convert_ids_to_tokens(batch.foils[i]) == ["01", "02"]


def test_a_space_in_the_file_is_a_space(tmp_path, tokenizer):
    rows = [r | {"answer": " " + r["answer"]} for r in years()]
    batch = tokenize(task(saved(tmp_path / "years.json", rows)).fit(tokenizer).pairs(20), tokenizer)
    for i, pair in enumerate(batch.pairs):
        text = tokenizer(f"{pair.clean} {pair.answer}")["input_ids"]
        assert [*batch.clean[i, : batch.end[i] + 1].tolist(), int(batch.answer[i])] == text


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.lists(st.sampled_from([*WORDS, *NUMBERS, "to", "the", "year", "gave", "a"]), min_size=1, max_size=6),
    end=st.sampled_from(["", " ", ":", ": ", "\n", " (", "-", " “"]),
    space=st.sampled_from(["", " "]),
    answer=st.sampled_from([*WORDS, *NUMBERS]),
    kind=st.sampled_from(sorted(TOKENIZERS)),
)
def test_a_words_tokens_are_those_of_the_whole_text(prompt, end, space, answer, kind):
    """What is asked for is the text of the file, but for the one space that is added and said."""
    tokenizer = TOKENIZERS[kind]()
    text, before = " ".join(prompt) + end, joined(" ".join(prompt) + end, space + answer)
    pair = Pair(before[0], before[0], "same", before[2], ("foil",), between=before[1])
    own = Tokens(tokenizer, [pair])
    ids = own.word(pair, pair.answer)
    as_written = text + space + answer
    if ADDED not in before[3] and "white space around the prompt" not in before[3]:
        assert before[0] + before[1] + before[2] == as_written
    whole = tokenizer(before[0] + before[1] + before[2])["input_ids"]
    if ids is not None:
        assert [*own.prompt(pair.clean), *ids] == whole
        row = Row(before[0], before[2], before[1])
        assert encode(row, tokenizer, TrainConfig())["input_ids"] == whole
    else:
        assert whole[: len(own.prompt(pair.clean))] != own.prompt(pair.clean)


def test_training_text_is_the_text_that_is_measured(tmp_path):
    tokenizer = vocabularies.byte_level()
    path = saved(
        tmp_path / "years.json", [r | {"split": s} for r, s in zip(years(), ["train", "test"] * 20, strict=True)]
    )
    other = saved(tmp_path / "old.json", years()[::-1])
    data = DataConfig(test_size=20, measure_pairs=8, allow_leaks=True)
    store = Store(tmp_path / "run")
    made = prepare(store, TasksConfig(old=other, new=path), data, tokenizer)
    assert all(row["between"] == "" for row in made.train)
    row = made.train[0]
    assert (
        encode(Row(**row), tokenizer, TrainConfig())["input_ids"]
        == tokenizer(row["prompt"] + row["answer"])["input_ids"]
    )
    assert {p.between for p in read_pairs(store, "years", "corrupted")} == {""}
    assert all(
        row["between"] == "" for control in ("old", "shuffled") for row in control_rows(store, data, made, control)
    )
    findings = {f["kind"]: f for f in read_json(store.data("audit.json"))["findings"]}
    assert findings[f"years: {AS_IT_STANDS}"]["count"] == 40


def test_words_that_join_with_the_prompt_are_refused():
    tokenizer = vocabularies.byte_level()
    # "The k" + "ey" is the one token "key".
    pair = Pair("The k", "The r", "x", "ey", ("amp",), between="")
    assert "joins 'ey' with the end of its prompt" in str(Tokens(tokenizer, [pair]).fault(pair))
    with pytest.raises(ValueError, match="joins 'ey'"):
        tokenize([pair], tokenizer)


def test_words_unknown_to_the_tokenizer_are_no_answers():
    tokenizer = vocabularies.pieces()
    pair = Pair("The key is in the", "The ring is in the", "x", "park", ("house",))
    assert tokenize([pair], tokenizer).answer.tolist() == tokenizer.convert_tokens_to_ids(["▁park"])
    odd = replace(pair, clean="(", corrupted="-", answer="é", foils=("ü",), between="")
    assert Tokens(tokenizer, [odd]).fault(odd).kind == "a word that the tokenizer does not know"


def test_a_rules_words_follow_as_the_rows_do(tmp_path):
    tokenizer = vocabularies.byte_level()
    saved(tmp_path / "rows.json", [{"prompt": r["clean"], "answer": r["answer"]} for r in years()])
    (tmp_path / "rule.py").write_text(
        "import instar\nROWS = 'rows.json'\n"
        "def corrupt(prompt, answer, rng):\n"
        "    return instar.Pair(prompt, prompt[:29] + '01' + prompt[31:], 'year', answer, ('01',))\n"
    )
    batch = tokenize(task(str(tmp_path / "rule.py")).fit(tokenizer).pairs(20), tokenizer)
    assert [tokenizer.convert_ids_to_tokens(int(i)) for i in batch.answer] == [p.answer for p in batch.pairs]


# Token ids


def ids_file(path, tokenizer, form="json", space=" "):
    """EAP-IG's columns: whole prompts, and answer and foil as ids."""
    import pandas as pd

    rows, named = [], [w for w in WORDS if len(tokenizer.tokenize("to" + space + w)) == 2]
    for i, word in enumerate(named * 8):
        foil = named[(i + 1) % len(named)]
        answer_id, foil_id = (
            tokenizer("to" + space + w, add_special_tokens=False)["input_ids"][-1] for w in (word, foil)
        )
        clean = f"After John and Mary met {i:02d}, John gave a ring to"
        own = {"clean": clean, "corrupted": clean.replace("and Mary", "and John"), "correct_idx": answer_id}
        rows.append(own | {"incorrect_idx": [foil_id] if i % 2 and form != "parquet" else foil_id})
    table = pd.DataFrame(rows)
    if form == "csv":
        table.to_csv(path)  # its own index is a column without a name
    elif form == "parquet":
        table.to_parquet(path)
    else:
        path.write_text(json.dumps(rows))
    return str(path), rows


@pytest.mark.parametrize("form", ["json", "csv", "parquet"])
@pytest.mark.parametrize("columns", [{}, {"answer": "correct_idx", "foils": "incorrect_idx"}])
def test_columns_of_token_ids_are_these_tokens(tmp_path, tokenizer, form, columns):
    path, rows = ids_file(tmp_path / f"eap.{form}", tokenizer, form)
    bare = task(path, DataConfig(columns=columns))
    assert bare.pairs(1)[0].answer.startswith("<token ")
    found = bare.fit(tokenizer)
    assert found.rejected == ()
    batch = tokenize(found.pairs(len(rows)), tokenizer)
    own = {r["clean"]: r for r in rows}
    for i, pair in enumerate(batch.pairs):
        row = own[pair.clean]
        foil = row["incorrect_idx"]
        assert int(batch.answer[i]) == row["correct_idx"] and pair.answer in WORDS
        assert batch.foils[i].tolist() == ([foil] if isinstance(foil, int) else foil) == batch.contrast[i].tolist()
        assert batch.clean[i, : batch.end[i] + 1].tolist() == tokenizer(row["clean"])["input_ids"]
    rows = read_training_file(path, {"answer": "correct_idx"}, tokenizer=tokenizer)
    assert {r.answer for r in rows} <= set(WORDS) and {(r.between, r.notes) for r in rows} == {(" ", (IDS,))}


def test_ids_without_a_space_are_words_without_one(tmp_path):
    tokenizer = vocabularies.byte_level()
    ids = [tokenizer.convert_tokens_to_ids(n) for n in NUMBERS]
    rows = [
        {
            "clean": YEAR.format(n),
            "corrupted": YEAR.format("01"),
            "correct_idx": ids[60],
            "incorrect_idx": f"[{ids[2]}, {ids[3]}]",
        }
        for n in NUMBERS[10:40]
    ]
    batch = tokenize(task(saved(tmp_path / "gt.json", rows)).fit(tokenizer).pairs(30), tokenizer)
    assert set(batch.answer.tolist()) == {ids[60]} and batch.foils[0].tolist() == [ids[2], ids[3]]
    assert {(p.answer, p.between) for p in batch.pairs} == {("61", "")}


def test_ids_that_are_no_such_words_are_refused_with_the_reason(tmp_path):
    tokenizer = vocabularies.byte_level()
    mary, bare, ring = (tokenizer.convert_tokens_to_ids(t) for t in ("ĠMary", "Mary", "Ġring"))
    clean = "The key is in the {}. The"
    odd = [
        (mary, [ring]),
        (mary, [bare]),
        (10**6, [ring]),
        ([mary, ring], [ring]),
        (mary, [mary]),
        (tokenizer.convert_tokens_to_ids("r"), [tokenizer.convert_tokens_to_ids("k")]),
        (mary, [1.5]),
        (tokenizer.convert_tokens_to_ids("ľ"), [bare]),  # half of a letter
    ]
    rows = [
        {"clean": clean.format(n), "corrupted": clean.format("01"), "correct_idx": a, "incorrect_idx": f}
        for n, (a, f) in zip(NUMBERS[20:], odd, strict=False)
    ]
    found = task(saved(tmp_path / "odd.json", rows)).fit(tokenizer)
    reasons = {r.number: r.reason for r in found.rejected}
    assert set(reasons) == {2, 3, 4, 5, 7, 8} and len(found.used) == 2
    assert "some begin with a space and some do not" in reasons[2]
    assert f"token id 1000000: this tokenizer has {len(tokenizer)} tokens" in reasons[3]
    assert "correct_idx: expected one answer, found a set of 2" in reasons[4]
    assert "is among its foils" in reasons[5]
    assert "which this tokenizer reads as" in reasons[8]
    assert reasons[7] == "incorrect_idx: expected a whole number, found 1.5"


def test_numbers_are_ids_or_words_and_never_guessed(tmp_path):
    clean = "The key is in the park. The"
    row = {"clean": clean, "corrupted": clean.replace("key", "ring"), "answer": 798, "foils": [262]}
    with pytest.raises(ValueError, match="answer: expected words, found 798. Numbers: token ids.*correct_idx"):
        task(saved(tmp_path / "x.json", [row]))
    table = tmp_path / "x.csv"
    table.write_text(f"clean,corrupted,answer,foils\n{clean},{row['corrupted']},943,981\n")
    with pytest.raises(ValueError, match="column 'answer' holds numbers .943. and no prompt has one.*correct_idx"):
        task(str(table))
    with pytest.raises(ValueError, match="holds numbers"):
        read_training_file(table)
    table.write_text(f"clean,corrupted,answer,foils\n{clean},{row['corrupted']}, 943, 981\n")
    assert task(str(table)).pairs(1)[0].answer == "943"
    table.write_text("prompt,answer\nto the year 15,29\n")
    assert read_training_file(table)[0].answer == "29"
    named = tmp_path / "y.csv"
    named.write_text("clean,corrupted,label,other\na b c,a d c,x,y\n")
    with pytest.raises(ValueError, match=r"lacks answer, foils; it has clean, corrupted, label, other.*data.columns$"):
        task(str(named))
    named.write_text("clean,corrupted,label,number\na b c,a d c,x,7\n")
    with pytest.raises(ValueError, match=r"data.columns, such as \{answer: label\}$"):
        task(str(named))


def test_sets_of_right_answers_are_refused(tmp_path):
    rows = [{"prompt": "to the year 15", "answer": ["30", "31"]}]
    with pytest.raises(
        ValueError, match=r"row 1: answer: expected one answer, found a set of 2.*one right answer a row"
    ):
        read_training_file(saved(tmp_path / "x.json", rows))
    table = tmp_path / "x.csv"
    table.write_text("prompt,answer\nto the year 15,\"['30', '31']\"\nto the year 16,['30']\n")
    with pytest.raises(ValueError, match="found a set of 2"):
        read_training_file(table)
    table.write_text("prompt,answer\nto the year 16,['30']\n")
    assert read_training_file(table)[0].answer == "30"


def test_rows_to_train_on_that_join_are_set_aside(tmp_path):
    tokenizer = vocabularies.byte_level()
    path = saved(
        tmp_path / "years.json", [r | {"split": s} for r, s in zip(years(), ["train", "test"] * 20, strict=True)]
    )
    other = saved(tmp_path / "old.json", years()[::-1])
    taught = [{"prompt": "in 18", "answer": "15"}, {"prompt": "in 15", "answer": "29"}, {"prompt": "in", "answer": " "}]
    trained = saved(tmp_path / "t.json", taught)
    assert tokenizer.tokenize("in 1815")[-1] == "Ġ1815"
    data = DataConfig(test_size=20, measure_pairs=8, train_file=trained, allow_leaks=True)
    store = Store(tmp_path / "run")
    made = prepare(store, TasksConfig(old=other, new=path), data, tokenizer)
    assert made.train == [{"prompt": "in 15", "answer": "29", "between": ""}]
    assert [(r["task"], r["number"]) for r in read_rows(store.data("rejected.jsonl"))] == [
        ("data.train_file", n) for n in (1, 3)
    ]
    findings = {f["kind"]: f["count"] for f in read_json(store.data("audit.json"))["findings"]}
    assert findings["data.train_file: rows not used"] == 2
