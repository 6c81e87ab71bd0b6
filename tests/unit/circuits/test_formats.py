"""Circuits in other tools' formats, each read back by something that is not ours."""

import json
import re
from itertools import pairwise

import networkx
import numpy as np
import pytest

from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.circuits.selection import select

GRAPHS = [Graph(2, 3, 3), Graph(3, 4, 2), Graph(3, 4, 1), Graph(3, 4, 2, parallel=True), Graph(2, 2, 2, parallel=True)]
HOSTILE = 'a "quoted" \\ <script>alert(1)</script> & \n\x00\x1b[31m ]]> \ud800'


def a_circuit(graph: Graph, seed: int = 0, share: float = 0.5) -> Circuit:
    scores = np.random.default_rng(seed).normal(size=graph.exists.shape) * graph.exists
    circuit = select(graph, scores, round(share * graph.n_edges))
    assert len(circuit) > 3
    return circuit


def their_edges(layers: int, heads: int, parallel: bool) -> set[str]:
    """The EAP-IG package's edges, as its paper has them: every query head has its own q, k and v."""
    found, stream = set(), ["input"]
    for layer in range(layers):
        writers = [f"a{layer}.h{h}" for h in range(heads)]
        found |= {f"{u}->{w}<{p}>" for u in stream for w in writers for p in "qkv"}
        found |= {f"{u}->m{layer}" for u in (stream if parallel else stream + writers)}
        stream += [*writers, f"m{layer}"]
    return found | {f"{u}->logits" for u in stream}


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_eap_igs_json_has_their_edges_and_comes_back(graph, seed):
    circuit = a_circuit(graph, seed)
    value = json.loads(circuit.to_json())
    assert set(value["edges"]) == their_edges(graph.n_layers, graph.n_heads, graph.parallel)
    assert set(value["nodes"]) == {*graph.sources, "logits"}
    again = Circuit.from_json(circuit.to_json())
    assert (again.graph, again.edges, again.selected) == (graph, circuit.edges, circuit.selected)
    assert again.scores == pytest.approx(circuit.scores)
    # In their file, with the sign of their loss: each kept edge touches nodes that are in, and the total is ours.
    inside = {name: edge["score"] for name, edge in value["edges"].items() if edge["in_graph"]}
    assert sum(inside.values()) == pytest.approx(-sum(circuit.scores))
    for name in inside:
        source, reader = name.split("->")
        assert value["nodes"][source]["in_graph"] and value["nodes"][reader.split("<")[0]]["in_graph"]


def test_their_file_of_a_grouped_query_model_is_pooled_on_request():
    edges = {name: {"score": 0.0, "in_graph": False} for name in their_edges(2, 4, False)}
    for name, score in {
        "input->a1.h2<k>": 0.5,
        "input->a1.h3<k>": 0.25,
        "input->a1.h3<q>": -1.0,
        "a1.h3->logits": 2,
    }.items():
        edges[name] = {"score": score, "in_graph": True}
    text = json.dumps({"cfg": {"n_layers": 2, "n_heads": 4, "parallel_attn_mlp": False}, "nodes": {}, "edges": edges})
    alone, pooled = Circuit.from_json(text), Circuit.from_json(text, n_kv_heads=2)
    assert alone.known["input->a1.h3<k>"] == -0.25
    assert pooled.known == {"input->a1.h3<q>": 1.0, "input->a1.h1<k>": -0.75, "a1.h3->logits": -2.0}
    assert pooled.graph == Graph(2, 4, 2)
    with pytest.raises(ValueError, match="3 key-value heads for 4 heads"):
        Circuit.from_json(text, n_kv_heads=3)


def test_files_that_name_the_shared_readers_themselves_are_still_read():
    graph = Graph(1, 4, 2)
    names = graph.names(graph.exists)
    kept = {"input->a0.h1<k>": -0.5, "a0.h3->logits": -1.0}
    edges = {n: {"score": -kept.get(n, 0.0), "in_graph": n in kept} for n in names}
    cfg = {"n_layers": 1, "n_heads": 4, "n_key_value_heads": 2}
    assert Circuit.from_json(json.dumps({"cfg": cfg, "edges": edges})).known == kept


@pytest.mark.parametrize("made", [{"how": {"a": 1}, "selected": "7"}, {"how": None}, None])
def test_a_strange_entry_of_ours_does_no_harm(made):
    value = json.loads(a_circuit(GRAPHS[0]).to_json()) | {"instar": made}
    assert isinstance(Circuit.from_json(json.dumps(value)).how, str)


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_networkx_has_the_edges_and_the_paths(graph):
    circuit = a_circuit(graph)
    found = circuit.networkx()
    own = {d["name"]: d["score"] for _, _, d in found.edges(data=True) if d["kind"] == "edge"}
    assert own == circuit.known
    assert all(
        (d["effect"] == "helps") is (d["score"] < 0) for _, _, d in found.edges(data=True) if d["kind"] == "edge"
    )
    # A pruned circuit lies on paths from input to logits, and so does its picture.
    assert networkx.is_directed_acyclic_graph(found)
    reached = networkx.descendants(found, "input") & networkx.ancestors(found, "logits")
    assert set(found) == reached | {"input", "logits"}
    writers = {n for n, d in found.nodes(data=True) if d["kind"] == "head"}
    assert writers == {f"a{layer}.h{head}" for layer, head in circuit.heads}
    assert "negative helps" in found.graph["convention"] and found.graph["n_kv_heads"] == graph.n_kv_heads


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_graphml_comes_back_with_edges_signs_and_scores(graph, tmp_path):
    scored = a_circuit(graph)
    circuit = Circuit(graph, scored.edges, scored.scores, how=HOSTILE)
    text = circuit.graphml(tmp_path / "c.graphml")
    again = networkx.read_graphml(tmp_path / "c.graphml")
    assert again.nodes == circuit.networkx().nodes and set(again.edges) == set(circuit.networkx().edges)
    own = {f"{u}->{v}": d for u, v, d in again.edges(data=True) if d["kind"] == "edge"}
    assert {n: d["score"] for n, d in own.items()} == circuit.known and all(d["name"] == n for n, d in own.items())
    assert any("<q>" in name for name in own) and "<script>" not in text
    assert "<script>alert(1)</script> & " in again.graph["how"] and "\ufffd" in again.graph["how"]
    assert again.graph["parallel"] is graph.parallel and "negative helps" in again.graph["convention"]


def test_without_scores_there_is_none_and_no_effect():
    circuit = Circuit(GRAPHS[0], a_circuit(GRAPHS[0]).edges)
    assert circuit.known == {}
    assert not any({"score", "effect"} & set(d) for _, _, d in circuit.networkx().edges(data=True))
    assert "no scores" in circuit.dot()


TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|(->|[{}\[\];,=])|([A-Za-z_]\w*|-?\d+(?:\.\d+)?))')


def tokens(text: str) -> list[str]:
    found, at = [], 0
    while text[at:].strip():
        match = TOKEN.match(text, at)
        assert match, f"no DOT at {text[at : at + 40]!r}"
        found.append(match[1] or match[2] or match[3])
        at = match.end()
    return found


class Dot:
    """The part of the DOT grammar that a directed graph without ports needs; anything else fails."""

    def __init__(self, text: str):
        self.left = tokens(text)
        self.edges: list[tuple[str, str, dict[str, str]]] = []
        self.ranks: list[list[str]] = []
        self.graph: dict[str, str] = {}
        assert self.take() == "digraph"
        self.name()
        self.statements()
        assert not self.left

    def take(self, wanted: str | None = None) -> str:
        token = self.left.pop(0)
        assert wanted in (None, token), f"{token!r} where {wanted!r} is expected"
        return token

    def name(self) -> str:
        token = self.take()
        assert token not in "{}[];,=->", f"{token!r} is no name"
        return re.sub(r"\\(.)", r"\1", token[1:-1]) if token[0] == '"' else token

    def statements(self, inner: bool = False) -> None:
        self.take("{")
        nodes = []
        while self.left[0] != "}":
            if self.left[0] == "{":
                self.statements(inner=True)
                continue
            first = self.name()
            if self.left[0] == "=":
                self.take("=")
                assert (first, self.name()) == ("rank", "same") and inner
            else:
                chain = [first]
                while self.left[0] == "->":
                    self.take("->")
                    chain.append(self.name())
                own = self.attributes()
                self.graph |= own if first == "graph" else {}
                self.edges += [(u, v, own) for u, v in pairwise(chain)]
                nodes += chain
            if self.left[0] == ";":
                self.take(";")
        self.take("}")
        if inner:
            self.ranks.append(nodes)

    def attributes(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.left[0] == "[":
            self.take("[")
            while self.left[0] != "]":
                key = self.name()
                self.take("=")
                found[key] = self.name()
                if self.left[0] == ",":
                    self.take(",")
            self.take("]")
        return found


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_dot_is_dot_and_draws_every_edge(graph, tmp_path):
    scored = a_circuit(graph)
    circuit = Circuit(graph, scored.edges, scored.scores, how=HOSTILE)
    text = circuit.dot(tmp_path / "c.dot")
    assert (tmp_path / "c.dot").read_text(encoding="utf-8") == text
    found = Dot(text)
    drawn = [(u, v, d) for u, v, d in found.edges if d["style"] != "invis"]
    assert {d["tooltip"].split(" ")[0] for _, _, d in drawn} == set(circuit.edges)
    for u, v, d in drawn:
        name, score = d["tooltip"].split(" ")
        source, reader = name.split("->")
        assert u == source and v.split(".")[0] == re.split(r"[.<]", reader)[0]
        assert float(score) == pytest.approx(circuit.known[name], rel=1e-3)
        assert (d["style"] == "dashed") is (circuit.known[name] > 0)
        assert d.get("label", "") == (reader[-2] if "<" in reader else "")
    if graph.n_kv_heads == graph.n_heads:
        assert len(drawn) == len(circuit)
    # Every box stands in one row, and rows go from the input to the logits.
    boxes = [name for row in found.ranks for name in row[1:]]
    assert sorted(boxes) == sorted({n for u, v, _ in drawn for n in (u, v)} | {"input", "logits"})
    row_of = {name: i for i, row in enumerate(found.ranks) for name in row}
    assert all(row_of[u] < row_of[v] for u, v, _ in found.edges)
    assert "negative helps" in found.graph["comment"] and '"quoted" \\ <script>' in found.graph["label"]
    assert "\x1b" not in text and "\x00" not in text


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_a_list_of_heads_is_a_circuit_and_comes_back(graph):
    heads = [(1, 1), (0, 0)]
    circuit = Circuit.from_heads(graph, heads)
    assert circuit.heads == sorted(heads) and {n for n in circuit.nodes if n[0] == "m"} == {
        f"m{i}" for i in range(graph.n_layers)
    }
    # Induced: no edge between what is in is left out, and none touches another head's query or output.
    names = {"input", "a0.h0", "a1.h1", *(f"m{i}" for i in range(graph.n_layers))}
    reads = {f"a{i}.h{h if p == 'q' else h * graph.n_kv_heads // graph.n_heads}<{p}>" for i, h in heads for p in "qkv"}
    reads |= {n for n in names if n[0] == "m"} | {"logits"}
    assert set(circuit.edges) == {
        e for e in graph.names(graph.exists) if e.split("->")[0] in names and e.split("->")[1] in reads
    }
    bare = Circuit.from_heads(graph, heads, mlps=False)
    assert bare.heads == sorted(heads) and not any("m" in e.split("->")[0][0] for e in bare.edges)
    assert len(Circuit.from_heads(graph, [], mlps=[0]).edges) == 3
    for wrong in [(graph.n_layers, 0)], [(0, graph.n_heads)], [(-1, 0)]:
        with pytest.raises(ValueError, match=f"this graph has {graph.n_layers} layers of {graph.n_heads} heads"):
            Circuit.from_heads(graph, wrong)
