"""Tasks from a user's own data: what their counterfactuals mean, which rows are tested on, and which are refused."""

import json
from pathlib import Path

import pytest

from freewriting import rows
from instar.record.config import DataConfig, TasksConfig
from instar.record.files import read_json, read_rows
from instar.record.store import Store
from instar.tasks.align import changed
from instar.tasks.freetext import read_ioi
from instar.tasks.library import ioi, task
from instar.tasks.pair import Pair, normalised
from instar.tasks.prepare import control_rows, prepare, read_pairs

HELD = DataConfig(holdout=0.2, test_size=20, measure_pairs=8)


def written(path, content):
    path.write_text(json.dumps(content))
    return str(path)


@pytest.fixture
def mine(tmp_path):
    return written(tmp_path / "mine.json", rows(150, odd=True))


def word(pair, slot, text=None):
    span = next(s for s in pair.spans if s.slot == slot)
    return (text or pair.clean)[span.start : span.stop]


@pytest.mark.parametrize("n", [2, 3, 5])
def test_counterfactuals_mean_what_the_librarys_do(tmp_path, embedded, n):
    path = written(tmp_path / "mine.json", rows(60, n))
    found = task(path).fit(embedded.tokenizer)
    assert found.counterfactuals == ioi(n).counterfactuals and found.name == "mine"
    by_kind = {kind: found.pairs(40, seed=3, counterfactual=kind) for kind in found.counterfactuals}
    assert all([p.clean for p in pairs] == [p.clean for p in by_kind["abc"]] for pairs in by_kind.values())
    for i in range(1, n):
        for pair in by_kind[f"giver{i}"]:
            # Read again by the reader: the giver that left is now who receives.
            left = word(pair, f"giver{i}")
            assert pair.contrast == (left,) and read_ioi(pair.corrupted, left).givers != ()
            assert sum(a != b for a, b in zip(pair.clean.split(), pair.corrupted.split(), strict=True)) == 1
    for pair in by_kind["answer"]:
        reading = read_ioi(pair.corrupted, pair.contrast[0])
        assert pair.contrast[0] not in pair.clean and pair.answer not in pair.corrupted
        assert reading.place == pair.place and set(reading.givers) == set(pair.foils)
    for pair in by_kind["abc"]:
        gone = {pair.answer, *pair.foils}
        fresh = set(pair.corrupted.replace(",", " ").replace(".", " ").split()) - set(
            pair.clean.replace(",", " ").replace(".", " ").split()
        )
        assert not gone & set(pair.corrupted.split()) and len(fresh) == 2 * n - 1 and pair.contrast == pair.foils
    batch = found.batch(embedded, 40, counterfactual="abc")
    assert {"intro1", "giver1", "end"} <= set(batch.slot_names)


def test_a_name_that_comes_back_is_replaced_everywhere(tmp_path):
    text = "John's dog ran. John, Mary and Jim saw it. Jim and Mary gave a bone to"
    found = task(written(tmp_path / "a.json", [{"prompt": text, "answer": "John"}]))
    fresh = found.pairs(1, counterfactual="answer")[0].contrast[0]
    assert found.pairs(1, counterfactual="answer")[0].corrupted == text.replace("John", fresh)
    assert found.pairs(1, counterfactual="giver1")[0].corrupted == text.replace("Jim and", "John and")
    assert found.pairs(1)[0].spans[0].slot == "other1"


def test_rows_that_cannot_be_used_are_listed_with_their_reasons(mine, embedded):
    found = task(mine).fit(embedded.tokenizer)
    reasons = {r.number: r.reason for r in found.rejected}
    assert set(reasons) == {151, 152, 154} and found.rows == 154
    assert "'Bob' is named" in reasons[151] and "nobody is named again" in reasons[152]
    assert "2 introduced names, mine has 3" in reasons[154]
    # Of several tokens, and used: a name of several takes the place of another where there is one.
    assert any(p.answer == "Jim" and "Wilhelmina" in p.foils for p in found.pairs(151)) and found.lacking.words == (
        "Wilhelmina",
    )
    two = task(f"{mine}:ioi2").fit(embedded.tokenizer)
    assert two.name == "mine-ioi2" and len(two.pairs(1)) == 1 and len(two.rejected) == 153
    with pytest.raises(ValueError, match=r"rows with \[2, 3\] introduced names, expected 4"):
        task(f"{mine}:ioi4")
    with pytest.raises(ValueError, match=r"2 test pairs asked for, 1 found \(153 of 154 .* lower data.test_size"):
        two.pairs(2)


def test_a_share_is_held_out_and_nothing_leaks(mine, embedded, tmp_path):
    store = Store(tmp_path / "run")
    made = prepare(store, TasksConfig(old="ioi2", new=mine), HELD, embedded.tokenizer)
    held = {normalised(p.clean) for kind in ioi(3).counterfactuals for p in read_pairs(store, "mine", kind)}
    trained = {normalised(row["prompt"]) for row in made.train}
    assert len(held) == 20 and not held & trained and 110 <= len(trained) <= 120
    report = read_json(store.data("audit.json"))
    assert report["ok"] and report["rows"] == len(made.train)
    assert [f["count"] for f in report["findings"] if f["kind"] == "mine: rows not used"] == [3]
    listed = read_rows(store.data("rejected.jsonl"))
    assert [(r["task"], r["number"]) for r in listed] == [("mine", n) for n in (151, 152, 154)]
    again = prepare(Store(tmp_path / "again"), TasksConfig(old="ioi2", new=mine), HELD, embedded.tokenizer)
    assert again.key == made.key
    other = HELD.model_copy(update={"seed": 1})
    assert prepare(Store(tmp_path / "o"), TasksConfig(new=mine), other, embedded.tokenizer).key != made.key
    control = control_rows(store, HELD, made, "shuffled")
    assert [r["prompt"] for r in control] == [r["prompt"] for r in made.train]
    assert {r["answer"] in r["prompt"] for r in control} == {True} and control != made.train


def test_one_file_on_both_sides_is_a_leak(mine, embedded, tmp_path):
    both = HELD.model_copy(update={"holdout": None})
    with pytest.raises(ValueError, match=r"are test prompts .*hold some out: data.holdout: 0.1"):
        prepare(Store(tmp_path / "run"), TasksConfig(new=mine), both, embedded.tokenizer)


def test_prompts_that_are_the_same_stay_on_one_side(tmp_path):
    content = rows(100)
    content += [{"question": r["question"].upper(), "completion": r["completion"]} for r in content[:1]]
    content += [{"question": r["question"] + " ", "completion": r["completion"]} for r in content[:100]]
    found = task(written(tmp_path / "twice.json", content), HELD)
    tests, trains = ({normalised(p.clean) for p in found.source(10**6, 0, split)} for split in ("test", "train"))
    assert len(tests) == 20 and len(trains) == 80 and not tests & trains
    same = [r for r in found.rejected if "tested on already" in r.kind]
    assert len(same) == 20  # the second of each held-out prompt


def test_splits_are_the_users(tmp_path, embedded):
    content = [
        r | {"split": s} for r, s in zip(rows(90), ["train"] * 50 + ["validation"] * 20 + ["test"] * 20, strict=True)
    ]
    path = written(tmp_path / "split.json", content)
    store = Store(tmp_path / "run")
    made = prepare(store, TasksConfig(new=path), HELD, embedded.tokenizer)
    assert {r["prompt"] for r in made.train} == {r["question"] for r in content[:50]}
    assert {p.clean for p in read_pairs(store, "split", "abc")} == {r["question"] for r in content[70:]}
    assert [r["reason"] for r in read_rows(store.data("rejected.jsonl"))] == ["split 'validation'"] * 20
    chosen = task(f"{path}#validation")
    assert chosen.name == "split-validation" and len(chosen.pairs(20)) == 20


def pair(place, thing, other, answer, *foils):
    text = f"The key is in the {place}. The"
    return {"clean": text, "corrupted": other and text.replace(thing, other), "answer": answer, "foils": list(foils)}


def test_rows_of_two_splits_may_have_the_same_number(tmp_path, embedded):
    content = rows(60, 2)
    path = written(tmp_path / "parts.json", {"train": content[:40], "test": content[40:]})
    found = task(path).fit(embedded.tokenizer)
    assert found.rejected == () and len(found.training(100)) == 40
    for p in found.pairs(20, counterfactual="giver1"):
        assert read_ioi(p.corrupted, p.contrast[0]).givers == (p.answer,)


PAIRS = [
    pair("park", "key", "ring", " key", "ring") | {"foils": "ring"},
    pair("house", "key", "lamp", "key", "lamp", " ring"),
    pair("school", "key", "very old key", "key", "lamp"),
    pair("store", "key", "map", "Wilhelmina", "lamp"),
    pair("office", "key", "", "key", "lamp"),
]


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "parquet"])
def test_given_pairs_come_in_every_form(tmp_path, embedded, form):
    import pandas as pd

    path = tmp_path / f"pairs.{form}"
    flat = [r | {"foils": json.dumps(r["foils"]) if isinstance(r["foils"], list) else r["foils"]} for r in PAIRS]
    renamed = [{"premise" if k == "clean" else k: v for k, v in r.items()} for r in flat]
    if form in ("json", "jsonl"):
        path.write_text(json.dumps(PAIRS) if form == "json" else "\n".join(map(json.dumps, PAIRS)))
        data = DataConfig()
    else:
        table = pd.DataFrame(renamed)
        table.to_csv(path, index=False) if form == "csv" else table.to_parquet(path)
        data = DataConfig(columns={"prompt": "premise"})
    found = task(str(path), data).fit(embedded.tokenizer)
    assert {r.number: r.kind for r in found.rejected} == {5: "a row that is no pair"}
    whole = found.batch(embedded, 4)
    assert {PAIRS[2]["clean"]} == {p.clean for p, apart in zip(whole.pairs, whole.unequal, strict=True) if apart}
    rows = [i for i, p in enumerate(whole.pairs) if p.clean in (PAIRS[0]["clean"], PAIRS[1]["clean"])]
    batch = whole[rows]
    pairs = sorted(batch.pairs, key=lambda p: len(p.foils))
    assert [p.answer for p in pairs] == ["key", "key"] and pairs[1].foils == ("lamp", "ring") == pairs[1].contrast
    at = batch.slots == batch.slot_names.index("changed")
    assert torch_words(embedded, batch, at) == ["key", "key"]
    assert not ((batch.clean != batch.corrupted) & ~at).any()


def torch_words(model, batch, at):
    return [model.tokenizer.decode(row[here]).strip() for row, here in zip(batch.clean, at, strict=True)]


def test_what_changed_is_found_by_words():
    span = changed(Pair("a b c b d", "a b x y d", "x", "q", ("r",)))
    assert (span.start, span.stop) == (4, 7)
    assert changed(Pair("b c", "a c", "x", "q", ("r",))).stop == 1


def test_a_rule_in_a_python_file_corrupts_a_files_rows(tmp_path, embedded):
    written(
        tmp_path / "rows.json",
        [{"prompt": f"The {w} is in the park. The", "answer": w} for w in ("key", "lamp", "map", "pen")],
    )
    rule = tmp_path / "rule.py"
    rule.write_text(
        "import instar\n"
        "ROWS = 'rows.json'\n"
        "def corrupt(prompt, answer, rng):\n"
        "    if answer == 'pen':\n"
        "        raise ValueError('pens are not kept')\n"
        "    other = rng.choice([w for w in ('key', 'lamp', 'map') if w != answer])\n"
        "    return instar.Pair(prompt, prompt.replace(answer, other), 'thing', answer, (other,))\n"
    )
    found = task(str(rule)).fit(embedded.tokenizer)
    assert found.counterfactuals == ("thing",) and len(found.batch(embedded, 3)) == 3
    assert [(r.number, r.reason) for r in found.rejected] == [(4, "pens are not kept")]
    assert found.pairs(3) == task(str(rule)).pairs(3)
    rule.write_text("def other(): pass\n")
    with pytest.raises(ValueError, match="has neither TASK, nor pairs.*nor ROWS with corrupt"):
        task(str(rule))


def test_an_edited_file_is_prepared_again(tmp_path, embedded, mine):
    store = Store(tmp_path / "run")
    first = prepare(store, TasksConfig(new=mine), HELD, embedded.tokenizer)
    written(Path(mine), rows(150, seed=5))
    assert prepare(store, TasksConfig(new=mine), HELD, embedded.tokenizer).key != first.key
    assert not store.data("rejected.jsonl").exists()


def test_unreadable_files_say_what_to_do(tmp_path, embedded):
    nothing = written(tmp_path / "x.json", [{"prompt": "Two and two is", "answer": "four"}])
    with pytest.raises(ValueError, match=r"none of 1 rows can be read as N-object IOI.*corrupted prompts"):
        task(nothing)
    # No token of a name tells it from the other, but that one goes on.
    one = {"clean": "The key is there. The", "corrupted": "The ring is there. The", "answer": "Z", "foils": ["Zo"]}
    with pytest.raises(
        ValueError, match=r"none of 1 rows can be used: 1 × words that begin alike.*row 1: the tokens of 'Z'"
    ):
        task(written(tmp_path / "y.json", [one])).fit(embedded.tokenizer)


def test_a_tokens_own_beginning_is_in_no_hole(embedded):
    from instar.tasks.batch import tokenize
    from instar.tasks.frame import Framed

    beginning = Framed(embedded.tokenizer, [embedded.tokenizer.eos_token_id], "as Llama's or Gemma's")
    prompt = "Mary and John met. Mary gave a ring to"
    pair = Pair(
        prompt, prompt.replace(". Mary", ". John"), "giver1", "John", ("Mary",), spans=read_ioi(prompt, "John").mentions
    )
    batch = tokenize([pair], beginning)
    names = [batch.slot_names[i] for i in batch.slots[0]]
    assert names[:4] == ["opening", "intro1", "text", "intro2"] and names[-1] == "end"


def test_no_slot_is_without_a_token(embedded):
    from instar.tasks.batch import tokenize

    prompt = "Mary and John met. Mary gave a ring to"
    mentions = read_ioi(prompt, "John").mentions
    swapped = prompt.replace(". Mary", ". John")
    batch = tokenize([Pair(prompt, swapped, "giver1", "John", ("Mary",), spans=mentions)], embedded.tokenizer)
    assert batch.slot_names == ("intro1", "intro2", "giver1", "text", "end")
