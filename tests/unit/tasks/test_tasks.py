"""Tasks: balance, alignment and what each counterfactual means."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import instar
from instar.tasks import words
from instar.tasks.library import TASKS, ioi, task
from instar.tasks.pair import usable_words, word_ids
from instar.tasks.task import render


def word(pair, slot, text=None):
    span = next(s for s in pair.spans if s.slot == slot)
    return (text or pair.clean)[span.start : span.stop]


def test_pools_share_nothing_and_templates_are_enough():
    assert not set(words.TRAIN_NAMES) & set(words.TEST_NAMES)
    assert not set(words.TRAIN_TEMPLATES) & set(words.TEST_TEMPLATES)
    assert len(words.TRAIN_TEMPLATES) >= 8
    assert len(words.TEST_NAMES) >= 14


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_ioi_is_what_it_says(n):
    for pair in ioi(n).pairs(200, seed=1, split="train"):
        introduced = [word(pair, f"intro{i + 1}") for i in range(n)]
        givers = [word(pair, f"giver{i + 1}") for i in range(n - 1)]
        assert len(set(introduced)) == n
        assert set(givers) == set(introduced) - {pair.answer}
        assert introduced[pair.place] == pair.answer
        assert set(pair.foils) == set(givers)


@pytest.mark.parametrize(("n", "orders"), [(2, 1), (3, 2), (4, 6)])
def test_balance_is_exact_in_every_block(n, orders):
    block = n * orders
    pairs = ioi(n).pairs(4 * block, seed=2)
    seen = Counter()
    for pair in pairs:
        introduced = [word(pair, f"intro{i + 1}") for i in range(n)]
        order = tuple(introduced.index(word(pair, f"giver{i + 1}")) for i in range(n - 1))
        seen[pair.place, order] += 1
    assert len(seen) == block and set(seen.values()) == {4}
    wordings = Counter(p.wording for p in ioi(n).pairs(96, seed=2, split="train"))
    assert set(wordings.values()) == {6}


def test_answers_are_balanced_over_names():
    counts = Counter(p.answer for p in ioi(3).pairs(len(words.TRAIN_NAMES) * 3, split="train"))
    assert set(counts.values()) == {3}


@pytest.mark.parametrize("n", [2, 3, 5])
def test_counterfactuals(n):
    subject = ioi(n)
    by_kind = {kind: subject.pairs(50, seed=3, counterfactual=kind) for kind in subject.counterfactuals}
    assert set(by_kind) == {*(f"giver{i + 1}" for i in range(n - 1)), "answer", "abc"}
    cleans = {kind: [p.clean for p in pairs] for kind, pairs in by_kind.items()}
    assert all(c == cleans["giver1"] for c in cleans.values())
    for i in range(n - 1):
        for pair in by_kind[f"giver{i + 1}"]:
            left = word(pair, f"giver{i + 1}")
            swapped = {s.slot: word(pair, s.slot) for s in pair.spans} | {f"giver{i + 1}": pair.answer}
            assert pair.contrast == (left,)
            assert pair.corrupted == render(pair.wording, swapped)[0]
    for pair in by_kind["answer"]:
        fresh = pair.contrast[0]
        assert fresh not in pair.clean and fresh in pair.corrupted and pair.answer not in pair.corrupted
    for pair in by_kind["abc"]:
        mentions = [m for m in pair.corrupted.replace(",", " ").replace(".", " ").split() if m in words.TEST_NAMES]
        assert len(mentions) == len(set(mentions)) == 2 * n - 1
        assert not set(mentions) & {pair.answer, *pair.foils}
        assert pair.contrast == pair.foils


@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_is_aligned_for_the_embedded_model(name, embedded):
    subject = TASKS[name]
    for split in ("train", "test"):
        for kind in subject.counterfactuals:
            batch = subject.batch(embedded, n=24, seed=4, split=split, counterfactual=kind)
            assert (batch.clean != batch.corrupted).any(1).all()
            assert (batch.mask.sum(1) - 1 == batch.end).all()
            for row, pair in enumerate(batch.pairs):
                assert embedded.tokenizer.decode(batch.answer[row]) == " " + pair.answer
                for span in pair.spans:
                    at = batch.slots[row] == batch.slot_names.index(span.slot)
                    assert embedded.tokenizer.decode(batch.clean[row][at]).strip() == word(pair, span.slot)
                assert batch.slot_names[batch.slots[row, batch.end[row]]] == "end"


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 5), seed=st.integers(0, 10**6), count=st.integers(1, 40))
def test_every_seed_gives_well_formed_pairs(n, seed, count):
    pairs = ioi(n).pairs(count, seed)
    assert pairs == ioi(n).pairs(count, seed)
    assert [p.base for p in pairs] == list(range(count))
    for pair in pairs:
        assert pair.answer not in pair.foils and len(set(pair.foils)) == n - 1


def test_names_that_are_not_one_token_are_refused_by_name(embedded):
    kept, refused = usable_words(embedded.tokenizer, ("Mary", "Wilhelmina", "John"))
    assert kept == ("Mary", "John") and refused == ("Wilhelmina",)
    from dataclasses import replace

    odd = replace(ioi(2), names={"train": ("Wilhelmina", "Mary"), "test": words.TEST_NAMES})
    with pytest.raises(ValueError, match="splits Wilhelmina"):
        odd.fit(embedded.tokenizer)


def test_every_name_is_one_token_with_its_space(embedded):
    for name in words.TRAIN_NAMES + words.TEST_NAMES:
        assert len(word_ids(embedded.tokenizer, name)) == 1
        assert len(embedded.tokenizer(" " + name)["input_ids"]) == 1


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="Did you mean 'ioi3'"):
        task("ioi33")
    with pytest.raises(ValueError, match="n from 2 to 5, got 6"):
        ioi(6)
    with pytest.raises(ValueError, match=r"takes one of \['giver1', 'answer', 'abc'\]"):
        ioi(2).pairs(1, counterfactual="giver2")


def test_misaligned_and_identical_pairs_are_refused(embedded):
    from instar.tasks.batch import tokenize

    good = ioi(2).pairs(1)[0]
    from dataclasses import replace

    longer = tokenize([replace(good, corrupted=good.corrupted + " the"), good], embedded.tokenizer)
    assert longer.unequal.tolist() == [True, False] and len(longer.aligned()) == 1
    with pytest.raises(ValueError, match="are the same"):
        tokenize([replace(good, corrupted=good.clean)], embedded.tokenizer)
    assert tokenize([replace(good, answer="Wilhelmina")], embedded.tokenizer).reads[0].several


def test_the_public_names_are_there():
    for name in instar.__all__:
        assert getattr(instar, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = instar.nothing


def test_custom_tasks_from_python_and_json_lines(tmp_path, embedded):
    script = tmp_path / "mine.py"
    script.write_text(
        "import instar\n"
        "def pairs(n, seed, split):\n"
        "    return [instar.Pair('Today John went to the', 'Today Mary went to the', 'who', 'store', ('park',), ('park',))\n"
        "            for _ in range(n)]\n"
    )
    found = task(str(script))
    assert found.name == "mine" and found.counterfactuals == ("who",)
    assert len(found.batch(embedded, n=3)) == 3
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"clean": "John gave a ball to", "corrupted": "Mary gave a ball to", "answer": " Mary", "foils": ["John"]}\n'
        * 4
    )
    batch = task(str(rows)).batch(embedded, n=4)
    assert batch.slot_names[-1] == "end" and len(batch) == 4
    with pytest.raises(ValueError, match="5 test pairs asked for, 4 found"):
        task(str(rows)).pairs(5)
    rows.write_text('{"clean": "a"}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl lacks corrupted, answer, foils"):
        task(str(rows))
