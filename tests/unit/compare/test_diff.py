"""Differences of hand-made circuits, by names, by scores and by intervals; the command that prints them."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.circuits.selection import select
from instar.cli import app
from instar.compare.diff import ALL_EDGES, IN_CIRCUITS, NO_SCORES, diff, reader, similarity

GRAPH = Graph(2, 3, 3)
NAMES = GRAPH.names(GRAPH.exists)


def circuit(**scores: float) -> Circuit:
    """Edges given as `input_m0=1.0`."""
    named = {name.replace("_", "->"): score for name, score in scores.items()}
    ordered = [n for n in NAMES if n in named]
    return Circuit(GRAPH, tuple(ordered), tuple(named[n] for n in ordered))


A = circuit(input_m0=1.0, m0_logits=-2.0, input_logits=0.5, input_m1=0.25, m1_logits=1.0)
B = circuit(input_m0=3.0, m0_logits=1.0, input_logits=0.25, **{"a0.h1_logits": 2.0, "input_a0.h1<v>": 1.0})


def some(seed: int, n: int) -> Circuit:
    return select(GRAPH, np.random.default_rng(seed).normal(size=GRAPH.exists.shape) * GRAPH.exists, n)


def test_a_hand_made_pair():
    found = diff(A, B)
    assert found.edges.kept == ("input->m0", "input->logits", "m0->logits")
    assert found.edges.gained == ("input->a0.h1<v>", "a0.h1->logits")
    assert found.edges.lost == ("input->m1", "m1->logits")
    assert (found.nodes.kept, found.nodes.gained, found.nodes.lost) == (("m0",), ("a0.h1",), ("m1",))
    assert found.nodes.heads.gained == ("a0.h1",) and found.nodes.heads.lost == ()
    assert found.nodes.mlps.lost == ("m1",) and found.nodes.mlps.gained == ()
    assert [(r.edge, r.before, r.after) for r in found.strengthened] == [("input->m0", 1.0, 3.0)]
    assert [r.edge for r in found.weakened] == ["input->logits"]
    assert [(r.edge, r.before, r.after) for r in found.sign_changed] == [("m0->logits", -2.0, 1.0)]
    assert found.how == "raw" and not found.empty
    assert found.by_reader["logits"] == {
        "kept": 2, "gained": 1, "lost": 1, "strengthened": 0, "weakened": 1, "sign_changed": 1,
    }  # fmt: skip
    assert found.by_reader["v"]["gained"] == 1 and found.by_reader["mlp"]["lost"] == 1


def test_the_measures_of_a_hand_made_pair():
    found = similarity(A, B)
    assert (found.edges.jaccard, found.edges.a_in_b, found.edges.b_in_a) == pytest.approx((3 / 7, 3 / 5, 3 / 5))
    assert (found.nodes.jaccard, found.nodes.a_in_b, found.nodes.b_in_a) == pytest.approx((1 / 3, 1 / 2, 1 / 2))
    assert found.heads.jaccard == 0 and math.isnan(found.heads.a_in_b) and found.heads.b_in_a == 0
    # Shared 1 + 1 + 0.25; larger ones 3 + 2 + 0.5, and 0.25 + 1 + 2 + 1 in one circuit only.
    assert found.weighted_jaccard == pytest.approx(2.25 / 9.75)
    assert found.weighted_over == IN_CIRCUITS and math.isnan(found.spearman)


def test_with_scores_of_all_edges_the_measures_are_of_all_edges():
    rng = np.random.default_rng(0)
    one = rng.normal(size=GRAPH.n_edges)
    table = np.zeros(GRAPH.exists.shape)
    table[GRAPH.exists] = -2 * one
    found = similarity(A, B, one, table)
    assert found.weighted_over == ALL_EDGES
    assert (found.weighted_jaccard, found.spearman) == pytest.approx((0.5, -1.0))
    assert similarity(A, B, one, 2 * one).spearman == pytest.approx(1.0)


@given(st.integers(0, 1000), st.integers(0, 60), st.integers(0, 1000), st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_nothing_differs_from_itself_and_gained_is_lost_the_other_way(seed, n, other_seed, other_n):
    a, b = some(seed, n), some(other_seed, other_n)
    assert diff(a, a).empty and diff(a, a).similarity.edges.shared == len(a)
    there, back = diff(a, b), diff(b, a)
    for view in ("edges", "nodes"):
        one, other = getattr(there, view), getattr(back, view)
        assert (one.kept, one.gained, one.lost) == (other.kept, other.lost, other.gained)
    assert {r.edge for r in there.strengthened} == {r.edge for r in back.weakened}
    assert {r.edge for r in there.sign_changed} == {r.edge for r in back.sign_changed}
    assert set(there.edges.kept) | set(there.edges.gained) == set(b.edges)
    assert sum(counts["gained"] for counts in there.by_reader.values()) == len(there.edges.gained)
    same = similarity(a, b).edges, similarity(b, a).edges
    np.testing.assert_equal((same[0].a_in_b, same[0].jaccard), (same[1].b_in_a, same[1].jaccard))


def test_empty_circuits_have_no_containment_and_are_no_error():
    nothing = Circuit(GRAPH, ())
    found = similarity(nothing, A)
    assert math.isnan(found.edges.a_in_b) and found.edges.b_in_a == 0 and found.edges.jaccard == 0
    assert math.isnan(similarity(nothing, nothing).edges.jaccard) and diff(nothing, nothing).empty
    assert json.loads(json.dumps(diff(nothing, A).as_dict(), allow_nan=False))["similarity"]["nodes"]["a_in_b"] is None


def test_unknown_scores_are_not_zeros():
    """A circuit without scores is written with zeros: read again, nothing became weaker."""
    bare = Circuit.from_json(Circuit(GRAPH, A.edges).to_json())
    for one, other in ((A, bare), (bare, A), (Circuit(GRAPH, A.edges), A)):
        found = diff(one, other)
        assert found.empty and found.how == "no scores" and found.similarity.weighted_over == NO_SCORES
        assert math.isnan(found.similarity.weighted_jaccard)


def test_small_raw_changes_can_be_left_out():
    assert [r.edge for r in diff(A, B, tolerance=0.5).weakened] == []
    assert [r.edge for r in diff(A, B, tolerance=2.5).sign_changed] == ["m0->logits"]


def rows(seed: int, pairs: int = 40, moved: float = 0.0) -> np.ndarray:
    found = np.random.default_rng(seed).normal(1.0, 0.2, size=(pairs, GRAPH.n_edges))
    found[:, NAMES.index("input->m0")] += moved
    return found


@pytest.mark.parametrize("paired", [True, False])
def test_with_pairs_only_what_is_beyond_its_interval_counts(paired):
    whole = Circuit.of(GRAPH, GRAPH.exists)
    assert len(diff(whole, whole, rows(0).mean(0), rows(1, moved=1.0).mean(0)).weakened) > 20
    found = diff(whole, whole, rows(0), rows(1, 40 if paired else 31, moved=1.0), paired=paired)
    assert found.how == "intervals"
    assert [r.edge for r in found.strengthened] == ["input->m0"] and not found.weakened and not found.sign_changed
    turned = diff(whole, whole, rows(0), rows(1, moved=-3.0), paired=paired)
    assert [r.edge for r in turned.sign_changed] == ["input->m0"]


@pytest.mark.parametrize("paired", [True, False])
def test_intervals_hold_for_the_whole_list(paired):
    """Where nothing moved, an interval of all 56 edges leaves 0 in few experiments; single ones would in almost all."""
    whole = Circuit.of(GRAPH, GRAPH.exists)
    wrong = sum(not diff(whole, whole, rows(i), rows(1000 + i), paired=paired).empty for i in range(40))
    assert wrong <= 7


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="2 layers of 3 heads and 3 layers of 3 heads"):
        diff(A, Circuit(Graph(3, 3, 3), ()))
    with pytest.raises(ValueError, match="scores of shape"):
        diff(A, B, np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="one circuit only"):
        diff(A, B, np.zeros(GRAPH.n_edges))
    with pytest.raises(ValueError, match="not paired"):
        diff(A, B, rows(0), rows(1, 30))


def test_readers():
    ends = {"input->a0.h0<q>": "q", "m0->a1.h2<k>": "k", "m0->a1.h2<v>": "v", "m0->m1": "mlp", "m1->logits": "logits"}
    assert {name: reader(name) for name in ends} == ends


def call(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["diff", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_reads_both_packages_files(tmp_path, monkeypatch):
    A.write(tmp_path / "a.json")
    theirs = json.loads(B.to_json())
    del theirs["instar"], theirs["cfg"]["n_key_value_heads"]
    for name, edge in theirs["edges"].items():
        # Theirs has scores outside the circuit too.
        edge["score"] = edge["score"] if edge["in_graph"] else 0.01 * len(name)
    (tmp_path / "b.json").write_text(json.dumps(theirs))
    # Random scores, whose direct edges say the opposite of the convention: it is said, and nothing is changed.
    with pytest.warns(UserWarning, match="its signs look reversed"):
        value = json.loads(call(tmp_path / "a.json", tmp_path / "b.json", "--json"))
    expected = json.loads(json.dumps(diff(A, B).as_dict()))
    assert {k: v for k, v in value.items() if k not in ("chance", "floors")} == expected
    assert value["edges"]["gained"] == ["input->a0.h1<v>", "a0.h1->logits"] and "no pairs" in value["floors"]
    assert 0 < value["chance"]["edges"]["jaccard"] < value["chance"]["edges"]["jaccard_high"] < 1
    monkeypatch.setattr("instar.report.terminal.console.width", 160)
    with pytest.warns(UserWarning, match="its signs look reversed"):
        text = call(tmp_path / "a.json", tmp_path / "b.json")
    assert "0.43 (" in text and "a0.h1" in text and "no pairs to resample" in text
    assert "sign changed (raw): 1: m0->logits -2 → +1" in text


def test_the_command_needs_no_torch(tmp_path):
    import subprocess
    import sys

    A.write(tmp_path / "a.json")
    code = (
        "import sys\nfrom instar.cli import app\ntry:\n"
        f"    app(['diff', r'{tmp_path / 'a.json'}', r'{tmp_path / 'a.json'}'])\n"
        "except SystemExit:\n    pass\nprint([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "1.00" in done.stdout and done.stdout.strip().endswith("[]")


def test_what_rounding_makes_of_nothing_is_no_change():
    """Differences that are always the same way and a millionth of the scores: an interval without 0, and no change."""
    whole, draw, before = Circuit.of(GRAPH, GRAPH.exists), np.random.default_rng(0), rows(0)

    def moved(by: float) -> np.ndarray:
        return before + by * (1 + 0.01 * draw.normal(size=before.shape))

    assert diff(whole, whole, before, moved(1e-6)).empty
    assert len(diff(whole, whole, before, moved(1e-2)).strengthened) == GRAPH.n_edges
