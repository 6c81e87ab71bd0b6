"""Restricting tasks to wordings: by name, and to those that a base answers, chosen on prompts of their own."""

import random
from dataclasses import replace

import pytest

from instar.record.config import DataConfig, TasksConfig
from instar.record.names import wording_name
from instar.record.store import Store
from instar.stats.intervals import wilson
from instar.tasks import words
from instar.tasks.library import TASKS, ioi
from instar.tasks.pair import normalised
from instar.tasks.prepare import control_rows, prepare, read_pairs, stored
from instar.tasks.wordings import HALF, PAIRS, Drawn, check

FIRST, SECOND, UNSEEN = "After … went", "When … came", "Last week … sat"
DATA = DataConfig(train_size=64, test_size=24, measure_pairs=8)


def named_as(drawn, rate):
    """Whether somebody was named, with exactly the share `rate(wording)` of each wording's pairs."""
    found = {}
    for task in drawn.pairs:
        found[task] = []
        for own in drawn.pairs[task].values():
            for wording, pairs in own.items():
                found[task] += [int(i < round(rate(task, wording) * len(pairs))) for i in range(len(pairs))]
    return found


def chosen_by(rate, tasks, seed=3):
    drawn = Drawn.of(tasks, seed)
    return drawn, drawn.chosen(named_as(drawn, rate), None, "w")


def test_every_wording_has_a_name_of_its_own_whatever_the_number_of_people(embedded):
    every = [*words.TRAIN_TEMPLATES, *words.TEST_TEMPLATES, *words.MORE_TRAIN_TEMPLATES, *words.MORE_TEST_TEMPLATES]
    names = [wording_name(w) for w in every]
    assert len(set(names)) == len(names) == 44 and names[0] == "After … went to the …, … gave a … to"
    for n in (2, 5):
        assert {wording_name(p.wording) for p in ioi(n).pairs(12, 1)} == set(map(wording_name, words.TEST_TEMPLATES))
    # The embedded model's vocabulary lacks a word of each of the further ones: it keeps to those it was made with.
    assert ioi(3).fit(embedded.tokenizer).wordings == words.TEMPLATES


class Whole:
    """A tokenizer that has every word, with its leading space or without."""

    eos_token_id = 0

    def __call__(self, text, **_):
        import re

        return {"input_ids": [hash(w) for w in re.findall(r" ?\w+|[^\w ]", text)]}


def test_a_vocabulary_that_has_all_words_gets_all_wordings_in_balance():
    task = ioi(3).fit(Whole())
    assert [len(task.wordings[s]) for s in ("train", "test")] == [30, 14]
    from instar.tasks.freetext import read_ioi

    for n in (2, 3, 4, 5):
        pairs = ioi(n).fit(Whole()).pairs(14 * n, 2)
        assert {sum(p.wording == w for p in pairs) for w in {p.wording for p in pairs}} == {n}
        assert {sum(p.place == k for p in pairs) for k in range(n)} == {14}
        # What is written can be read again: the audit of training rows does.
        for p in [*pairs, *ioi(n).fit(Whole()).pairs(30, 2, "train")]:
            assert set(read_ioi(p.clean, p.answer).introduced) == {p.answer, *p.foils}


@pytest.mark.parametrize("count", [*range(PAIRS + 1)])
def test_a_wording_is_kept_where_somebody_is_named_in_half_of_the_prompts(count):
    _, chosen = chosen_by(lambda task, wording: count / PAIRS, [TASKS["ball2"]])
    own = wilson(count, PAIRS)
    assert {row.kept for row in chosen.rows} == {count >= 8} == {count / PAIRS >= HALF}
    assert {(row.named, row.low, row.high) for row in chosen.rows} == {(count, float(own.low), float(own.high))}


def test_a_wording_of_both_tasks_is_kept_where_both_answer_it():
    tasks = [ioi(2), ioi(3)]
    low = {("ioi3", "After"): 0.3, ("ioi2", "As"): 0.0, ("ioi3", "As"): 0.0}
    _, chosen = chosen_by(lambda task, w: low.get((task, w.split()[0]), 1.0), tasks)
    gone = {row.wording.split()[0] for row in chosen.rows if not row.kept}
    assert gone == {"After", "As"} and len(chosen.rows) == 2 * 22 and all(row.pairs == PAIRS for row in chosen.rows)
    for task in map(chosen.restrict, tasks):
        for split, left in (("train", 15), ("test", 5)):
            pairs = task.pairs(left * 12, 1, split)
            assert len({p.wording for p in pairs}) == left and not any(
                p.clean.startswith(("After", "As ")) for p in pairs
            )
            assert {sum(p.wording == w for p in pairs) for w in {p.wording for p in pairs}} == {12}
    with pytest.raises(
        ValueError, match=r"ioi3 no wording to test on.*(?s:.)*0 of 16, 0% \[0%, 19%\]  Last week … sat"
    ):
        check(chosen_by(lambda task, w: 0.0, tasks)[1], [("ioi3", "test")])


@pytest.mark.parametrize("name", ["ioi2", "room2", "ball2", "file"])
def test_no_prompt_that_was_chosen_on_is_trained_or_tested_on(name, tmp_path):
    """One wording, and the very seed that is tested with: without a choice the same prompts would come again."""
    task, seed = TASKS.get(name), 1
    if task is None:
        path = tmp_path / "rows.csv"
        pairs = TASKS["room2"].pairs(300, 0)
        rows = [f"{p.clean},{p.corrupted},{p.answer},{p.foils[0]},{'a' if i % 3 else 'b'}" for i, p in enumerate(pairs)]
        path.write_text("\n".join(["clean,corrupted,answer,foils,wording", *rows]))
        from instar.tasks.library import task as find

        task = find(str(path))
    else:
        one = {s: own[:1] for s, own in task.wordings.items()}
        task = replace(task, names={s: task.names[s][:7] for s in ("train", "test")}, wordings=one)
    drawn, chosen = chosen_by(lambda *_: 1.0, [task], seed)
    asked = {normalised(p.clean) for p in drawn.of_task(task.name)}
    own = chosen.restrict(task)
    kinds = task.counterfactuals
    wanted = 8
    tested = {kind: own.pairs(wanted, seed, "test", kind) for kind in kinds}
    every = [p for pairs in tested.values() for p in pairs] + own.training(wanted, seed)
    assert asked and not asked & {normalised(text) for p in every for text in (p.clean, p.corrupted)}
    assert all([p.clean for p in pairs] == [p.clean for p in tested[kinds[0]]] for pairs in tested.values())
    assert [p.base for p in tested[kinds[0]]] == list(range(wanted))
    # The same seed without the choice has some of them.
    assert asked & {normalised(p.clean) for p in [*task.pairs(wanted, seed), *task.training(wanted, seed)]}


def test_wordings_by_name_decide_the_data(tmp_path, embedded):
    def made(folder, wordings):
        store = Store(tmp_path / folder)
        return store, prepare(store, TasksConfig(wordings=wordings), DATA, embedded.tokenizer)

    store, some = made("some", (FIRST, SECOND, UNSEEN))
    assert {r["prompt"].split()[0] for r in some.train} == {"After", "When"}
    assert {r["prompt"].split()[0] for r in control_rows(store, DATA, some, "old")} == {"After", "When"}
    for task in some.names:
        assert {wording_name(p.wording) for p in read_pairs(store, task, "giver1")} == {
            "Last week … sat in the …, and … gave a … to"
        }
    again = stored(store, TasksConfig(wordings=(FIRST, SECOND, UNSEEN)), DATA, lambda: embedded.tokenizer)
    assert again is not None and again.key == some.key and again.tasks["ioi3"].kept == some.tasks["ioi3"].kept
    assert made("all", None)[1].key != some.key
    for wordings, why in (
        (("After … flew",), "no wording is called so"),
        (("Before",), "2 wordings begin so"),
        ((FIRST,), "names none to test ioi2 on; there are As … worked"),
        ("answered", "a choice that the base makes"),
    ):
        with pytest.raises(ValueError, match=why):
            made("wrong", wordings)


def test_the_choice_is_part_of_the_data_and_read_back(tmp_path, embedded):
    tasks = [ioi(n).fit(embedded.tokenizer) for n in (2, 3)]
    rng = random.Random(0)
    kept = {w for w in map(wording_name, (*words.TRAIN_TEMPLATES, *words.TEST_TEMPLATES)) if rng.random() < 0.6}
    _, chosen = chosen_by(lambda task, w: float(w in kept), tasks)
    _, other = chosen_by(lambda task, w: float(w not in kept), tasks)
    config, store = TasksConfig(wordings="answered"), Store(tmp_path / "run")
    made = prepare(store, config, DATA, embedded.tokenizer, chosen=chosen)
    from instar.tasks.wordings import Chosen

    assert Chosen.read(store) == chosen
    assert {wording_name(p.wording) for p in read_pairs(store, "ioi3", "giver1")} <= kept
    assert prepare(store, config, DATA, embedded.tokenizer, chosen=chosen).key == made.key
    assert prepare(Store(tmp_path / "b"), config, DATA, embedded.tokenizer, chosen=other).key != made.key
