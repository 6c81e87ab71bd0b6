"""A corruption that makes no difference: nothing is divided by its b − c, what is in logits is kept, and it is said."""

import json
from dataclasses import asdict
from itertools import permutations

import numpy as np
import pytest
import torch

import families
import instar
from instar.circuits.circuit import Circuit
from instar.circuits.selection import FINE, GRID
from instar.compare.floors import Scores, floors
from instar.compare.summary import _circuits
from instar.models.load import load
from instar.progress import Screen
from instar.record.config import MeasureConfig
from instar.record.store import Store
from instar.report import terminal
from instar.stats.intervals import bootstrap_mean
from instar.tasks.pair import Pair
from instar.workflow import stages
from instar.workflow.stages import POOLED, Pairs, circuit, patched
from vocabularies import splitting

HOW = MeasureConfig(circuit_pairs=5, patching_pairs=5, edges="eap", patching="exact")
NAMES = ("Mary", "John", "Tom", "Bob", "Ann")
CLEAN = "When {} and {} met , Mary gave a ring to"
CHANGED = {"giver1": ("Mary gave", "Tom gave"), "giver2": ("ring", "key")}


def difference(model, text, answer, other):
    """In logits, by transformers."""
    own, others = (model.tokenizer(f" {word}")["input_ids"][0] for word in (answer, other))
    logits = model.module(**model.tokenizer(text, return_tensors="pt")).logits[0, -1].detach()
    return float(logits[own] - logits[others])


@pytest.fixture(scope="module")
def model():
    """To which Tom is Mary, bit for bit."""
    module, tokenizer = families.tiny("gpt2"), splitting(*NAMES)
    rows = module.transformer.wte.weight
    with torch.no_grad():
        rows[tokenizer(" Tom")["input_ids"][0]] = rows[tokenizer(" Mary")["input_ids"][0]]
    return load(module, tokenizer)


@pytest.fixture
def store(model, tmp_path):
    """Two tasks of the same prompts: `both` has a corruption without effect and one with, `blind` the first alone."""
    store = Store(tmp_path)
    rows = {kind: [] for kind in CHANGED}
    for base, (a, b) in enumerate(permutations(NAMES, 2)):
        clean = CLEAN.format(a, b)
        changed = {kind: clean.replace(*words) for kind, words in CHANGED.items()}
        own = [difference(model, text, "John", "Bob") for text in (clean, changed["giver2"])]
        # Which of the two names is called right is chosen so that the second corruption costs something.
        right, other = ("John", "Bob") if own[0] > own[1] else ("Bob", "John")
        for kind, text in changed.items():
            pair = Pair(clean, text, kind, right, (other,), (other,), wording="w", base=base)
            rows[kind].append(asdict(pair))
    for task, kinds in (("both", [*CHANGED]), ("blind", ["giver1"])):
        for kind in kinds:
            store.write_rows(store.pairs(task, kind), rows[kind])
    store.write_json(
        store.data("prepared.json"), {"key": "k", "counterfactuals": {"both": [*CHANGED], "blind": ["giver1"]}}
    )
    return store


def test_what_cannot_be_divided_by_is_not_measured_and_the_rest_is_as_ever(model, store):
    pairs = Pairs(store, "both", model.tokenizer)
    found = circuit(model, pairs, HOW, False)
    why = json.loads(found.attrs["not_measured"])
    assert why == {"giver1": "b − c is +0.000 [+0.000, +0.000] over 5 prompts, not clearly above 0"}
    blind, others = found.sel(group="giver1"), found.drop_sel(group="giver1")
    for name in ("faithfulness", "low", "high", "random", "curve_metric", "circuit_size", "cpr", "random_cpr"):
        assert np.isnan(blind[name].values).all()
    assert not blind["in_circuit"].any() and not np.isnan(found["score"]).any()
    # b and c themselves are of transformers' own logits, in the order of the pairs.
    rows = pairs.elsewhere(HOW.circuit_pairs, ("giver2",)).pairs
    sees = others.sel(group="giver2")
    there = sees["evaluated_prompt"].values >= 0
    for end, name in (("clean", "curve_clean"), ("corrupted", "curve_corrupted")):
        want = [difference(model, getattr(row, end), row.answer, row.contrast[0]) for row in rows]
        assert sees[name].values[there] == pytest.approx(want, abs=1e-4)
    # What is measured is what the public functions say of the same pairs.
    scored = instar.edges(model, pairs.batch(0, 5, ("giver2",)), "eap")
    alone = instar.curve(model, pairs.elsewhere(5, ("giver2",)), scored)
    coarse = np.isin(FINE, GRID)
    assert sees["faithfulness"].values[coarse] == pytest.approx(alone["faithfulness"].values, abs=1e-4)
    assert sees["kept"].values[coarse].tolist() == alone["edges"].values.tolist()
    # Between the sizes of the grid it is known only where the smallest faithful one is looked for.
    every = instar.curve(model, pairs.elsewhere(5, ("giver2",)), scored, shares=FINE)
    finer = ~np.isnan(sees["faithfulness"].values)
    assert coarse.sum() < finer.sum() <= coarse.sum() + 4
    assert sees["faithfulness"].values[finer] == pytest.approx(every["faithfulness"].values[finer], abs=1e-4)
    own = every["faithfulness"].values[finer]
    smallest = np.flatnonzero(own < 0.85)[-1] + 1
    assert int(sees["circuit_size"]) == sees["kept"].values[finer][smallest]
    blinded = instar.edges(model, pairs.batch(0, 5, ("giver1",)), "eap")
    sizes = [len(blinded.circuit(n=max(1, round(share * blinded.graph.n_edges)))) for share in FINE]
    assert blind["kept"].values.tolist() == sizes
    assert found.identical(circuit(model, Pairs(store, "both", model.tokenizer), HOW, False))


def test_a_large_graph_s_scores_are_short_and_its_circuit_is_theirs(model, store, monkeypatch):
    def made(limit):
        monkeypatch.setattr(stages, "MANY_EDGES", limit)
        return circuit(model, Pairs(store, "both", model.tokenizer), HOW, False)

    whole, short = made(10**9), made(1)
    assert not (short["score"].values.view(np.uint32) & 0x1FFF).any()
    np.testing.assert_allclose(short["score"], whole["score"], rtol=2**-11)
    # From the file the same edges are found that the stage has found.
    again = Circuit.stored(short, POOLED)
    best = Scores.of(short, POOLED)
    assert 0 < best.edges == len(again) and np.array_equal(best.at(best.edges + 1).circuit & best.circuit, best.circuit)
    assert "zlib" in short["score"].encoding and not whole["score"].encoding


def test_pooled_corruptions_are_judged_together(model, store):
    pairs = Pairs(store, "both", model.tokenizer)
    found = circuit(model, pairs, HOW, False).sel(group=POOLED)
    both = pairs.elsewhere(HOW.circuit_pairs, tuple(CHANGED))
    empty = instar.faithfulness(model, both, Circuit(instar.Graph.of(model.layout), ()))
    assert found["curve_clean"].values == pytest.approx(empty["clean"].values, abs=1e-4)
    known = ~np.isnan(found["faithfulness"].values)
    assert found["faithfulness"].values[-1] == pytest.approx(1) and known[np.isin(FINE, GRID)].all()
    assert not np.isnan(found["curve_metric"].values[known]).any()


def test_a_task_of_which_nothing_can_be_measured_says_so_and_keeps_what_is_in_logits(model, store, monkeypatch):
    pairs = Pairs(store, "blind", model.tokenizer)
    own, whole = circuit(model, pairs, HOW, False), circuit(model, Pairs(store, "both", model.tokenizer), HOW, False)
    for step, dataset in ((0, own), (8, own)):
        store.write_measurement(store.measurement("circuit", "blind", 0, step), dataset, f"k{step}")
    store.write_measurement(store.measurement("circuit", "both", 0, 0), whole, "k")
    assert own["group"].values.tolist() == [POOLED] and not np.isnan(own["score"]).any()
    # Twins: nothing moves when one takes the other's place, and that is measured, not supposed.
    moved = patched(model, pairs, HOW, False)
    assert np.isfinite(moved["z"]).all() and np.abs(moved["z"] - moved["corrupted"]).max() < 1e-5
    nothing = floors(Scores.of(own), 20, split=4)
    assert nothing.empty == nothing.count == 20
    told = {name: _circuits(store, name, [0, 8]) for name in ("blind", "both")}
    assert told["blind"][POOLED]["not_measured"] == [json.loads(own.attrs["not_measured"])[POOLED]] * 2
    assert told["blind"][POOLED]["effect"] == pytest.approx([0, 0], abs=1e-9)
    sees = told["both"]["giver2"]
    below = whole["curve_clean"] - whole["curve_corrupted"]
    expected = bootstrap_mean(below.sel(group="giver2").dropna("evaluated").values)
    assert (
        sees["not_measured"] == [None]
        and sees["effect_low"][0] == pytest.approx(float(expected.low))
        and expected.low > 0
    )
    console = Screen(width=80, force_terminal=False)
    monkeypatch.setattr(terminal, "console", console)
    with console.capture() as capture:
        terminal._show_circuits({"circuits": told | {"both": None}})
    said = " ".join(capture.get().split())
    assert "blind not measured (b − c is +0.000 [+0.000, +0.000] over 5 prompts, not clearly above 0) → not" in said
