"""The pairs that say where learning happens are used for nothing else."""

import json

import pytest

from instar.record.config import DataConfig, RunConfig, TasksConfig
from instar.record.store import Store
from instar.tasks.pair import normalised
from instar.tasks.prepare import prepare, probe_pairs


def drawn(tmp_path, embedded, tasks, data, least=8, most=64):
    store = Store.create(tmp_path / "run", RunConfig())
    prepared = prepare(store, tasks, data, embedded.tokenizer)
    return store, probe_pairs(store, data, prepared, least, most)


def used(store) -> set[str]:
    """Every prompt of `data/`, clean and corrupted, but the probe's."""
    lines = [
        json.loads(line)
        for file in (store.root / "data").glob("*.jsonl")
        if file.name not in ("probe.jsonl", "baselines.jsonl", "rejected.jsonl")
        for line in file.read_text().splitlines()
    ]
    return {normalised(row[key]) for row in lines for key in ("prompt", "clean", "corrupted") if key in row}


def test_they_are_a_draw_of_their_own(tmp_path, embedded):
    data = DataConfig(train_size=200, test_size=400, measure_pairs=96)
    store, pairs = drawn(tmp_path, embedded, TasksConfig(), data)
    prompts = {normalised(pair.clean) for pair in pairs}
    assert len(pairs) == len(prompts) == 64 and not prompts & used(store)
    assert {pair.place for pair in pairs[:9]} == {0, 1, 2}
    assert len(store.read_rows(store.data("probe.jsonl"))) == 64 and not store.unverified("data")
    again, same = drawn(tmp_path, embedded, TasksConfig(), data)
    assert same == pairs and again.data("probe.jsonl").read_bytes() == store.data("probe.jsonl").read_bytes()


def test_of_a_file_they_are_what_is_left(tmp_path, embedded):
    names = ["Mary", "John", "Tom", "Anna", "Paul", "Kate"]
    rows = [
        {"clean": f"On day {day} {a} and {b} met, and {b} gave a ring to", "answer": a, "foils": [b],
         "corrupted": f"On day {day} {a} and {b} met, and {a} gave a ring to", "split": split}
        for split, days in (("train", range(1, 4)), ("test", range(4, 8))) for day in days
        for a in names for b in names if a != b
    ]  # fmt: skip
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(rows))
    tasks = TasksConfig(new=str(file))
    store, pairs = drawn(tmp_path, embedded, tasks, DataConfig(train_size=50, test_size=20, measure_pairs=8))
    assert len(pairs) >= 12 and not {normalised(pair.clean) for pair in pairs} & used(store)
    few = DataConfig(train_size=50, test_size=118, measure_pairs=8)
    with pytest.raises(ValueError, match=r"8 are needed, and \d are left\. Lower data\.test_size"):
        drawn(tmp_path / "few", embedded, tasks, few)
