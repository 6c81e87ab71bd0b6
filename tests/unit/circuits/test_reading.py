"""Files of circuits and scores, ours and other people's: what is read, what is refused and why, which sign helps."""

import json
import pickle
import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import instar
from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.circuits.selection import select

SHAPE = Graph(2, 3, 3)
NAMES = SHAPE.names(SHAPE.exists)


def theirs(scores: dict[str, float], chosen: object = (), graph: Graph = SHAPE, **nodes: object) -> dict:
    """A file as the EAP-IG package writes it, with the scores as they stand in it."""
    inside = set(chosen)  # pyright: ignore[reportArgumentType]
    names = graph.names(graph.exists)
    return {
        "cfg": {"n_layers": graph.n_layers, "n_heads": graph.n_heads, "parallel_attn_mlp": False, "d_model": 8},
        "nodes": {name: {"in_graph": True, **nodes} for name in (*graph.sources, "logits")},
        "edges": {name: {"score": scores.get(name, 0.0), "in_graph": name in inside} for name in names},
    }


def refused(value: dict, **options: object) -> str:
    with pytest.raises(ValueError, match=".") as error:
        Circuit.from_json(json.dumps(value), **options)  # pyright: ignore[reportArgumentType]
    return str(error.value)


@pytest.mark.parametrize("place", ["in the nodes", "at the top"])
def test_neurons_chosen_inside_nodes_are_refused_by_name(place):
    value = theirs({"input->m0": 1.0, "m0->logits": 2.0}, ["input->m0", "m0->logits"])
    some = [True, True] + [False] * 126
    if place == "in the nodes":
        value["nodes"]["m0"] |= {"neurons": some, "neurons_scores": [0.0] * 128}
    else:
        value |= {"neurons": {"m0": some}}
    assert "selects neurons inside 1 nodes (m0: 2 of 128)" in refused(value)


def test_whole_nodes_are_no_selection_of_neurons():
    value = theirs({"m0->logits": 2.0}, ["input->m0", "m0->logits"], neurons=[True] * 4)
    # A node outside of the circuit has none of its neurons.
    value["nodes"]["a0.h1"] = {"in_graph": False, "neurons": [False] * 4}
    assert Circuit.from_json(json.dumps(value)).edges == ("input->m0", "m0->logits")
    value["nodes"]["m0"]["neurons"] = [False] * 4
    assert "neurons" in refused(value)


def test_scores_without_a_circuit_are_offered_as_scores(tmp_path):
    scores = dict(zip(NAMES, np.random.default_rng(0).normal(size=len(NAMES)), strict=True))
    scores |= {name: abs(score) for name, score in scores.items() if name.endswith("->logits")}
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(theirs(scores)))
    with pytest.raises(ValueError, match=re.escape(f"none of its {len(NAMES)} edges is chosen")) as error:
        Circuit.read(path)
    assert "instar.Edges.read(PATH).circuit(n=" in str(error.value)
    edges = instar.Edges.read(path)
    assert edges["m0->logits"] == -scores["m0->logits"] and "method=read from a file" in repr(edges)
    table = np.zeros(SHAPE.exists.shape)
    table[SHAPE.exists] = [-scores[name] for name in NAMES]
    assert edges.circuit(n=20).edges == select(SHAPE, table, 20).edges
    # The other way round: what was chosen is a circuit, and no table of scores.
    edges.circuit(n=20).write(tmp_path / "own.json")
    with pytest.raises(ValueError, match="own edges only"):
        instar.Edges.read(tmp_path / "own.json")
    value = theirs(scores)
    value["edges"]["input->m0"]["score"] = None
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match="1 are missing"):
        instar.Edges.read(path)


def test_nothing_chosen_and_nothing_scored_is_an_empty_circuit():
    assert len(Circuit.from_json(json.dumps(theirs({})))) == 0


def test_scores_of_a_shared_reader_are_summed_over_its_heads(tmp_path):
    path = tmp_path / "s.json"
    value = theirs({"input->a1.h0<k>": 1.0, "input->a1.h1<k>": 2.0, "m0->logits": 1.0}, graph=Graph(2, 4, 4))
    path.write_text(json.dumps(value))
    edges = instar.Edges.read(path, n_kv_heads=2)
    assert edges["input->a1.h0<k>"] == -3.0 and edges.graph == Graph(2, 4, 2)


@pytest.mark.parametrize("name", ["c.pt", "c.bin", "c.json", "c"])
def test_a_pickle_is_named_with_what_converts_it(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"cfg": 1}, protocol=4))
    for read in (Circuit.read, instar.Edges.read):
        with pytest.raises(ValueError, match="a pickle, which can run code.*to_json") as error:
            read(path)
        assert f"Graph.from_pt('{path}')" in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_no_numbers_are_refused(value):
    said = refused(theirs({"input->m1": value, "m0->logits": 1.0}, ["m0->logits"]))
    assert f"1 of {len(NAMES)} scores are no finite numbers (input->m1: {value})" in said


def test_names_of_another_model_are_named_with_the_shape():
    larger = theirs({"a2.h1->logits": 1.0}, ["a2.h1->logits"], graph=Graph(3, 3, 3))
    larger["cfg"]["n_layers"] = 2
    assert "4 nodes that a model of 2 layers of 3 heads has not (a2.h0, a2.h1, a2.h2 and 1 more)" in refused(larger)
    wrong = theirs({})
    wrong["edges"]["m1->a0.h0<q>"] = {"score": 1.0, "in_graph": True}
    assert "(m1->a0.h0<q>): the first does not write before the second reads" in refused(wrong)


def test_shapes_that_do_not_fit_are_both_named(tmp_path, embedded):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(theirs({"m0->logits": 1.0}, ["input->m0", "m0->logits"])))
    batch = instar.ioi(2).batch(embedded, n=2, seed=0)
    with pytest.raises(ValueError, match=r"2 layers of 3 heads and 4 layers of 8 heads"):
        instar.faithfulness(embedded, batch, Circuit.read(path))
    with pytest.raises(
        ValueError, match=r"4 layers of 4 heads.*\(2 key-value\): read the file of the first with n_kv_heads=2"
    ):
        instar.diff(Circuit(Graph(4, 4, 4), ()), Circuit(Graph(4, 4, 2), ()))


@pytest.mark.parametrize("sign", ["positive", "negative"])
def test_the_sign_that_helps_is_the_readers_choice(sign):
    scores = {"input->m0": 1.0, "m0->logits": 2.0, "a1.h0->logits": -0.5}
    own = {name: score if sign == "positive" else -score for name, score in scores.items()}
    circuit = Circuit.from_json(json.dumps(theirs(own, scores)), sign=sign)
    assert circuit.known == {name: -score for name, score in scores.items()}
    # By the other convention, what writes the answer would hurt it: said, and nothing is turned round.
    other = "negative" if sign == "positive" else "positive"
    with pytest.warns(UserWarning, match=f"signs look reversed.*sign='{sign}'.*--sign {sign}"):
        turned = Circuit.from_json(json.dumps(theirs(own, scores)), sign=other)  # pyright: ignore[reportArgumentType]
    assert turned.known == scores
    with pytest.raises(ValueError, match="sign='loss'"):
        Circuit.from_json(json.dumps(theirs(own, scores)), sign="loss")  # pyright: ignore[reportArgumentType]


def test_our_own_files_say_their_sign():
    circuit = Circuit(SHAPE, ("input->m0", "m0->logits"), (-1.0, 2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Circuit.from_json(circuit.to_json()).known == circuit.known
    assert "instar wrote this file" in refused(json.loads(circuit.to_json()), sign="negative")


@pytest.mark.parametrize("count", [2, 3])
def test_real_scores_look_right_by_their_convention_and_reversed_by_the_other(embedded, count, tmp_path):
    """Two-object IOI is mastered, three-object IOI is not; a head that helps most is the largest in only one of them."""
    batch = instar.ioi(count).batch(
        embedded, n=16, seed=0, counterfactual=f"giver{count - 1}"
    )  # the one that it looks at
    scored = instar.edges(embedded, batch, method="eap")
    names = scored.graph.names(scored.graph.exists)
    values = dict(zip(names, scored.scores[scored.graph.exists].tolist(), strict=True))
    path = tmp_path / "s.json"
    path.write_text(json.dumps(theirs(values, graph=scored.graph)))
    right = instar.Edges.read(path, sign="negative")
    np.testing.assert_allclose(right.scores, scored.scores)
    with pytest.warns(UserWarning, match="signs look reversed"):
        turned = instar.Edges.read(path)
    np.testing.assert_allclose(turned.scores, -scored.scores)


@given(
    scores=st.lists(st.floats(-5, 5), min_size=len(NAMES), max_size=len(NAMES)),
    inside=st.sets(st.sampled_from(NAMES), min_size=1),
    sign=st.sampled_from(["positive", "negative"]),
)
def test_what_is_read_is_what_the_file_says(scores, inside, sign):
    value = dict(zip(NAMES, scores, strict=True))
    factor = -1.0 if sign == "positive" else 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        circuit = Circuit.from_json(json.dumps(theirs(value, inside)), sign=sign)
    assert set(circuit.edges) == inside
    assert dict(zip(circuit.edges, circuit.scores, strict=True)) == {n: factor * value[n] for n in inside}
