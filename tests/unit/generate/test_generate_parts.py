"""What is asked for, how answers are read, and which rows count."""

import json
from collections import Counter

import pytest

from instar.generate.ask import Uses, deal, messages
from instar.generate.choices import GenerateConfig
from instar.generate.journal import Journal
from instar.generate.judge import Judge
from instar.generate.key import Secret, check_address, in_the_open
from instar.generate.read import MOST_ROWS, UnreadableError, rows_in
from instar.tasks import words
from instar.tasks.library import ioi

ROW = {"prompt": "After John, Mary and Jim met, Mary and John gave a pen to", "completion": "Jim"}
PAIR = tuple(ROW.values())
TEXT = json.dumps(ROW)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        json.dumps([ROW]),
        json.dumps({"rows": [ROW]}),
        json.dumps({"note": "x", "data": [ROW | {"extra": [1, {"a": 2}]}]}),
        json.dumps({"question": PAIR[0], "completion": "Jim"}),
        json.dumps({"prompt": PAIR[0], "answer": "Jim"}),
        f"Here you are:\n```json\n[{TEXT}]\n```\nAnything else?",
        f'<think>Perhaps {{"prompt": "no", "completion": "no"}}?</think>\n{TEXT}',
        '{"rows": [' + TEXT + ', {"prompt": "After John, Ma',
        f'{TEXT}\n{{"prompt": broken}}\n',
    ],
)
def test_rows_are_read_however_they_are_dressed(text):
    assert rows_in(text).rows == [PAIR]


@pytest.mark.parametrize(
    "text",
    ["", "  ", "I cannot do that.", "[]", "{}", "7", "null", '"Jim"', "[" * 100_000, "{" * 100_000, "9" * 10_000,
     '{"rows": 5}', '{"rows": [[{"prompt": "a", "completion": "b"}]]}', '{"prompt": "no completion"}'],
)  # fmt: skip
def test_what_holds_no_row_is_unreadable(text):
    with pytest.raises(UnreadableError):
        rows_in(text)


def test_an_answer_of_thousands_of_rows_is_cut():
    found = rows_in(json.dumps([ROW] * 5000))
    assert len(found.rows) == MOST_ROWS and found.left == 5000 - MOST_ROWS


@pytest.mark.parametrize(
    ("prompt", "answer", "reason"),
    [
        (*PAIR, None),
        (" After José, Mary and Jim met, Mary and Jim gave a pen to ", " José.", None),
        (PAIR[0], "Mary", "answer among the givers"),
        (PAIR[0], "Peter", "not readable as IOI"),
        (PAIR[0], "the boy", "answer is not one name"),
        (PAIR[0], "", "answer is not one name"),
        (PAIR[0], None, "not text"),
        (["After"], "Jim", "not text"),
        (PAIR[0] + " Jim", "Jim", "wrong end"),
        (PAIR[0] + "...", "Jim", "wrong end"),
        (PAIR[0].replace("Mary", "Amy"), "Jim", "held-out name"),
        (PAIR[0].replace("Jim", "AMY"), "AMY", "held-out name"),
        (PAIR[0].replace("Mary", "\uff21\uff4d\uff59"), "Jim", "held-out name"),
        ("After John and Mary met, John gave a pen to", "Mary", "wrong number of names"),
        (PAIR[0].replace("pen", "\x1b[31mpen"), "Jim", "odd character"),
        (PAIR[0].replace("pen", "pen\u202e"), "Jim", "odd character"),
        (PAIR[0].replace("pen", "pen\u2028"), "Jim", "odd character"),
        (PAIR[0].replace("pen", "<b>pen</b>"), "Jim", "odd character"),
        (PAIR[0].replace("pen", "\ud800"), "Jim", "odd character"),
        (PAIR[0].replace("pen", "pen " * 200), "Jim", "too long"),
        ("John gave", "John", "wrong end"),
    ],
)
def test_a_row_is_judged_with_a_reason(prompt, answer, reason):
    judge = Judge(people=3, rows=10)
    found = judge.take(prompt, answer)
    assert (found and found.partition(":")[0]) == reason
    assert len(judge.accepted) == (reason is None) and judge.rejected.total() == (reason is not None)


def test_the_library_s_own_rows_all_count():
    for n in (2, 3, 4, 5):
        judge = Judge(people=n, rows=3000)
        reasons = Counter(judge.take(p.clean, p.answer) for p in ioi(n).pairs(60, seed=0, split="train"))
        assert reasons == {None: 60}


def test_near_duplicates_keep_other_people_and_lose_another_object():
    judge = Judge(people=3, rows=300)
    text = "After {}, {} and Jim went to the old market in town, {} and {} gave a {} to"
    assert judge.take(text.format("John", "Mary", "Mary", "John", "ring"), "Jim") is None
    assert judge.take(text.format("John", "Mary", "Mary", "John", "ring") + " ", "Jim") == "duplicate"
    assert (
        judge.take(text.format("John", "Mary", "Mary", "John", "drink"), "Jim") == "near-duplicate: of accepted row 1"
    )
    assert judge.take(text.format("Anna", "Mary", "Mary", "Anna", "ring"), "Jim") is None


def test_quotas_bind_places_answers_and_wordings():
    judge = Judge(people=3, rows=7)
    reasons = []
    for a, b, c in zip(words.TRAIN_NAMES[:20], words.TRAIN_NAMES[20:40], words.TRAIN_NAMES[40:60], strict=True):
        reasons.append(
            judge.take(
                f"After {a}, {b} and {c} met at the {a[::-1].lower()} sea, {c} and {a} gave a {b[::-1].lower()} to", b
            )
        )
    assert judge.uses.places == {1: 3} and "over quota: answer place 2" in reasons
    again = judge.accepted[0].answer
    moved = f"Today {again}, Mary and Bob ate, and Bob and Mary gave a pie to"
    assert judge.take(moved, again) == f"over quota: answer {again!r}"
    many = Judge(people=3, rows=30)
    text = "At noon {0}, {1} and {2} were in, so {0} and {1} gave a coat to"
    people = [words.TRAIN_NAMES[i : i + 3] for i in range(0, 15, 3)]
    assert [many.take(text.format(*p), p[2]) for p in people] == [None, None, *["over quota: one wording"] * 3]


def test_plans_of_an_obedient_model_are_balanced_and_reproducible():
    uses, plans = Uses.none(), []
    for index in range(90):
        plans += deal(index, 2, 3, seed=4, uses=uses).plans
    assert Counter(p.place_of_answer for p in plans) == {0: 60, 1: 60, 2: 60}
    assert max(uses.answers.values()) - min(uses.answers.values()) <= 1
    assert all(set(p.givers) == set(p.names) - {p.answer} and len(set(p.names)) == 3 for p in plans)
    assert max(uses.introduced.values()) <= 2 * 540 / len(words.TRAIN_NAMES)
    one, same, other = (deal(i, 1, 3, seed=4, uses=Uses.none()) for i in (3, 3, 4))
    assert one == same != other and one.seed != other.seed
    asked = messages(one, repair=("nonsense", "not JSON"))
    assert [m["role"] for m in asked] == ["system", "user", "assistant", "user"]
    assert f"Seed: {one.seed}" in asked[1]["content"]


SETTINGS = {"task": "ioi3", "model": "m"}


def test_a_journal_survives_a_torn_line_and_refuses_what_is_not_its_own(tmp_path):
    path = tmp_path / "data.journal.jsonl"
    with Journal(path, SETTINGS) as journal:
        journal.write({"kind": "back", "text": "\x1b]0;é\ud800"})
        with pytest.raises(ValueError, match="in use"):
            Journal(path, SETTINGS)
    whole = path.read_bytes()
    assert whole.isascii() and b"\x1b" not in whole
    for cut in (1, 10):
        path.write_bytes(whole[:-cut])
        with Journal(path, SETTINGS) as journal:
            assert journal.lines == []
            journal.write({"kind": "next"})
        with Journal(path, SETTINGS) as journal:
            assert journal.lines == [{"kind": "next"}]
        path.write_bytes(whole)
    with Journal(path, SETTINGS) as journal:
        assert [line["kind"] for line in journal.lines] == ["back"]
    with pytest.raises(ValueError, match="task is 'ioi3' there and 'ioi4' here"):
        Journal(path, SETTINGS | {"task": "ioi4"})
    path.write_bytes(whole + b"nonsense\n" + whole)
    with pytest.raises(ValueError, match="line 3"):
        Journal(path, SETTINGS)
    assert path.read_bytes() == whole + b"nonsense\n" + whole


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8000",
        "ftp://x/v1",
        "http://",
        "http://me:pass-word@x/v1",
        "https://x/v1?key=pass-word",
        "http://x:99999/v1",
    ],
)
def test_an_address_that_is_none_or_holds_a_password_is_refused_unrepeated(address):
    with pytest.raises(ValueError, match="--base-url") as error:
        check_address(address)
    assert "pass-word" not in str(error.value)


def test_a_key_in_the_wrong_place_is_not_repeated(monkeypatch):
    with pytest.raises(ValueError, match="api_key_env") as error:
        GenerateConfig(model="m", api_key_env="sk-proj-1234567")
    assert "sk-proj" not in str(error.value)
    monkeypatch.setenv("SOME_KEY", "sk-proj 1234567\n")
    with pytest.raises(ValueError, match="SOME_KEY") as error:
        Secret.find("SOME_KEY", needed=True)
    assert "sk-proj" not in str(error.value)
    monkeypatch.setenv("SOME_KEY", "sk-proj-1234567\n")
    key = Secret.find("SOME_KEY", needed=True)
    assert key.value == "sk-proj-1234567" and "1234567" not in repr(key)
    assert "sk-p" not in key.safe("a" * 10 + " " * 4080 + "sk-proj") and not in_the_open("http://localhost:1/v1")
    assert in_the_open("http://example.org/v1") and not in_the_open("https://example.org/v1")
    assert key.safe("\x1b[2Jno sk-proj-1234567\n\u202ehere") == "[2Jno [key] here"
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(ValueError, match="SOME_KEY is not set"):
        Secret.find("SOME_KEY", needed=True)
