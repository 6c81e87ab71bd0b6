"""What needs no circuit: closed forms, the rules by brute force, nothing learnt from what is tested, what a run learns on."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.record.config import DataConfig, TasksConfig
from instar.record.files import read_rows, write_json
from instar.record.store import Store
from instar.tasks.baselines import GUESS, NAME, PLACE, WORD, baselines, of_pair, of_row, of_task
from instar.tasks.library import TASKS, ioi
from instar.tasks.pair import Pair
from instar.tasks.prepare import prepare
from instar.tasks.ready import ready
from instar.tasks.rows import DataRow

NAMES = ("Ann", "Bob", "Cid", "Dan", "Eve", "Flo")


def pair(names, place):
    """A prompt that introduces these names, the one at `place` right."""
    others = tuple(n for i, n in enumerate(names) if i != place)
    # Foils need not stand in the prompt's order.
    return Pair(f"After {' and '.join(names)} met, somebody gave a cup to", "", "k", names[place], others[::-1])


def learnt(training, test):
    return {b.kind: b for b in baselines([of_pair(p) for p in training], test, "rows")}


def share(rule):
    return sum(rule.right) / len(rule.right)


def test_closed_forms():
    """Ann is right in 60 % of training rows, the second name in 70 %; among those tested on, each place is a third."""
    training = (
        [pair(("Bob", "Ann", "Cid"), 1)] * 6 + [pair(("Bob", "Cid", "Ann"), 1)] + [pair(("Bob", "Cid", "Dan"), 0)] * 3
    )
    test = [pair(("Ann", "Bob", "Cid"), k) for k in range(3)] + [pair(("Dan", "Flo", "Eve"), k) for k in range(3)]
    found = learnt(training, test)
    assert found[WORD].says == "Ann" and found[WORD].right == (1, 0, 0, 0, 0, 0)
    assert found[PLACE].says == "place 2" and found[PLACE].right == (0, 1, 0, 0, 1, 0)
    # Of Dan, Flo and Eve none was ever right: the rule can but guess.
    assert found[NAME].right == (1, 0, 0, 1 / 3, 1 / 3, 1 / 3)
    assert found[GUESS].right == (1 / 3,) * 6 and found[GUESS].rows == 0
    assert [b.rows for b in found.values()] == [0, 10, 10, 10]
    assert [b.kind for b in found.values() if b.best] == [NAME]


def test_chance_is_one_in_the_candidates_of_each_prompt():
    test = [pair(NAMES[:n], 0) for n in (2, 3, 6)]
    assert learnt([], test)[GUESS].right == (1 / 2, 1 / 3, 1 / 6)
    # A foil that is named twice is one candidate.
    assert learnt([], [replace(test[0], foils=("Bob", "Bob"))])[GUESS].right == (1 / 2,)
    assert list(learnt([], test)) == [GUESS] and learnt([], test)[GUESS].best


def test_prompts_that_do_not_introduce_their_candidates_have_no_place():
    """Every pair of a file without places says place 0: always the first would be right always."""
    agree = [Pair(f"The keys to the {x} now", "", "k", "are", ("is",)) for x in ("cabinet", "door", "desk")]
    assert all(p.place == 0 for p in agree)
    found = learnt(agree, agree)
    assert (
        PLACE not in found and found[WORD].says == "are" and share(found[NAME]) == 1 and of_pair(agree[0]).place is None
    )
    # "are" stands in "Clare", but is not introduced there.
    assert of_pair(replace(agree[0], clean="Clare is in the area")).place is None


@pytest.mark.parametrize("name", TASKS)
def test_places_are_the_librarys(name):
    for p in TASKS[name].pairs(60, seed=3):
        assert of_pair(p).place == p.place


def brute(training, test):
    """The rules again: counted by hand, ties by trying all."""
    answers, places = [p.answer for p in training], [of_pair(p).place for p in training]
    word = sorted(set(answers), key=lambda w: (-answers.count(w), w))[0]
    place = sorted({k for k in places if k is not None}, key=lambda k: (-places.count(k), k))[0]
    rows = {GUESS: [], WORD: [], PLACE: [], NAME: []}
    for p in test:
        order = sorted([p.answer, *p.foils], key=p.clean.index)
        most = max(answers.count(w) for w in order)
        tied = [w for w in order if answers.count(w) == most]
        rows[GUESS].append(1 / len(order))
        rows[WORD].append(1 if word == p.answer else 0)
        rows[PLACE].append(1 if place < len(order) and order[place] == p.answer else 0)
        rows[NAME].append(sum(w == p.answer for w in tied) / len(tied))
    return {kind: tuple(values) for kind, values in rows.items()}


PAIR = st.permutations(NAMES).flatmap(
    lambda names: st.integers(2, 5).flatmap(lambda n: st.integers(0, n - 1).map(lambda k: pair(names[:n], k)))
)


@given(
    training=st.lists(PAIR, min_size=1, max_size=30), test=st.lists(PAIR, min_size=1, max_size=12), seed=st.integers()
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_rules_are_those_of_brute_force_and_know_no_order_of_rows(training, test, seed):
    found = learnt(training, test)
    for kind, right in brute(training, test).items():
        assert found[kind].right == pytest.approx(right), kind
    assert sum(b.best for b in found.values()) == 1
    other = random.Random(seed).sample(training, len(training))
    assert learnt(other, test) == found
    # The best is told by training rows: what is tested may be anything.
    best = next(kind for kind, b in found.items() if b.best)
    assert [kind for kind, b in learnt(training, test[:1]).items() if b.best] == [best]
    # Each row told by all others, and the simplest rule first where two do as well.
    by_others = dict.fromkeys(found, 0.0)
    for i, row in enumerate(training):
        rest = training[:i] + training[i + 1 :]
        again = brute(rest, [row]) if rest else {GUESS: brute([row], [row])[GUESS]}
        nothing = {WORD: (0.0,), PLACE: again[GUESS], NAME: again[GUESS]}
        by_others = {kind: value + (nothing | again)[kind][0] for kind, value in by_others.items()}
    assert by_others[best] == pytest.approx(max(by_others.values()))


def test_the_best_is_not_what_memory_of_a_small_training_set_would_be():
    """Forty rows of names that hardly come back: by heart the prior has them all, and of other rows it knows nothing."""
    rng = random.Random(0)
    names = [f"N{i:03}" for i in range(120)]
    training = [pair(rng.sample(names, 3), 1 if i % 10 < 6 else rng.choice((0, 2))) for i in range(40)]
    by_heart = sum(b for b in learnt(training, training)[NAME].right) / 40
    found = learnt(training, training)
    assert by_heart > 0.6 and found[PLACE].best and found[PLACE].says == "place 2"


def test_rows_without_foils_are_read_where_they_are_ioi():
    row = DataRow(1, "After John, Mary and Jim went out, Mary and John gave a ring to", "Jim")
    assert of_row(row, True) == of_pair(Pair(row.prompt, "", "", "Jim", ("Mary", "John")))
    assert of_row(row, True).place == 2 and not of_row(row, False).candidates
    assert not of_row(DataRow(1, "Nobody knows", "Jim"), True).candidates
    unread = baselines([of_row(row, False)] * 5, [pair(("Ann", "Jim"), 1)], "rows")
    # Names can be counted without knowing who else was there; places cannot.
    assert {b.kind: b.right for b in unread} == {GUESS: (0.5,), WORD: (1,), NAME: (1,)}


def test_nothing_is_learnt_from_what_is_tested():
    same = [pair(NAMES[i : i + 3], 1) for i in range(4)]
    task = ready("mine", same[0].clean, ("k",), lambda n, seed, split: same)
    assert [b.kind for b in of_task(task, same, 10, 0)] == [GUESS]
    # One without rows to train on: chance alone.
    only = ready("mine", same[0].clean, ("k",), lambda n, seed, split: same if split == "test" else [])
    assert [b.kind for b in of_task(only, same, 10, 0)] == [GUESS]
    assert {b.rows for b in of_task(task, same[:1], 10, 0)} == {0, 3}


def written(store):
    return {(row["task"], row["kind"]): row for row in read_rows(store.data("baselines.jsonl"))}


def test_a_run_learns_on_what_it_trains_on(tmp_path, embedded):
    """Rows of a file in which the second name is nearly always right; the old task's own rows; once, and again when gone."""
    rows = [p for p in ioi(3).training(400, seed=5) if p.place == 1 or p.base % 10 == 0]
    file = tmp_path / "rows.json"
    write_json(file, [{"prompt": p.clean, "answer": p.answer} for p in rows])
    data = DataConfig(train_file=str(file), train_size=60, test_size=30, measure_pairs=8)
    store = Store(tmp_path / "run")
    made = prepare(store, TasksConfig(), data, embedded.tokenizer)
    found = written(store)
    place = found["ioi3", PLACE]
    assert place["says"] == "place 2" and place["best"] and place["rows"] == len(rows) == len(made.train)
    tested = made.new.pairs(30, data.seed + 1)
    assert place["right"] == [float(p.place == 1) for p in tested] and place["learnt_on"] == "rows trained on"
    assert found["ioi2", PLACE]["learnt_on"] == "of the task's own training rows" and found["ioi2", PLACE]["rows"] == 60
    before = store.data("baselines.jsonl").stat().st_mtime_ns
    prepare(store, TasksConfig(), data, embedded.tokenizer)
    assert store.data("baselines.jsonl").stat().st_mtime_ns == before
    # A run directory of before there were any gets them, and keeps its key: nothing is measured anew.
    store.data("baselines.jsonl").unlink()
    assert prepare(store, TasksConfig(), data, embedded.tokenizer).key == made.key and written(store) == found
    prepare(store, TasksConfig(), data.model_copy(update={"test_size": 40}), embedded.tokenizer)
    assert len(written(store)["ioi3", PLACE]["right"]) == 40
    theirs = Store(tmp_path / "theirs")
    prepare(theirs, TasksConfig(), data, embedded.tokenizer, trained=False)
    assert written(theirs)["ioi3", PLACE] == place | {"learnt_on": "rows of data.train_file"}
    unknown = data.model_copy(update={"train_file": None})
    prepare(Store(tmp_path / "x"), TasksConfig(), unknown, embedded.tokenizer, trained=False)
    assert written(Store(tmp_path / "x"))["ioi3", PLACE]["learnt_on"] == "of the task's own training rows"
