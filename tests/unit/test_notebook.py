"""What a notebook and a terminal show of values: short, complete in what they claim, and foreign text stays text."""

from html.parser import HTMLParser

import numpy as np
import yaml

import instar
from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.circuits.selection import select
from instar.record.config import RunConfig

HOSTILE = '</table><script>alert("x")</script><img src=x onerror=alert(1)>\x1b[31m'
PLAIN = {"div", "b", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"}


class Elements(HTMLParser):
    """Which elements and attributes there are; every one opened is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.said = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert {name for name, _ in attrs} <= {"style"} and not any("url" in value for _, value in attrs)
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said += data


def shown(value) -> str:
    """The words of its HTML, which is plain; its text is short and has no character that a terminal obeys."""
    found = Elements(value._repr_html_())
    assert found.seen <= PLAIN
    text = repr(value)
    assert len(text.splitlines()) <= 12 and all(len(line) <= 130 for line in text.splitlines())
    assert all(c.isprintable() or c == "\n" for c in text)
    return found.said


def test_a_circuit_shows_its_size_its_strongest_edges_and_the_sign():
    graph = Graph(6, 8, 4)
    scores = np.random.default_rng(0).normal(size=graph.exists.shape) * graph.exists
    plain = select(graph, scores, 500)
    circuit = Circuit(graph, plain.edges, plain.scores, plain.selected, HOSTILE)
    strongest = max(circuit.known, key=lambda e: abs(circuit.known[e]))
    for text in (shown(circuit), repr(circuit)):
        assert f"{len(circuit):,} of {graph.n_edges:,} edges" in text and "8 heads (4 key-value)" in text
        assert strongest in text and "negative score means that the edge helps" in text
    assert HOSTILE[:40] in shown(circuit) and "no scores" in shown(Circuit(graph, plain.edges))
    assert "0 of" in repr(Circuit(graph, ()))


def test_a_run_shows_foreign_names_as_text(tmp_path):
    config = RunConfig.model_validate({"model": HOSTILE, "tasks": {"old": HOSTILE}})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    run = instar.load_run(tmp_path)
    words = shown(run)
    assert (
        "Run of" in words
        and str(tmp_path) in words
        and '<script>alert("x")</script>' in words
        and "not measured: evaluate" in words
    )


def test_models_and_scores_have_short_names(embedded):
    assert repr(embedded).startswith(
        "Model('embedded': GPT2LMHeadModel, 4 layers of 8 heads, d_model 192, torch.float32"
    )
    edges = instar.edges(embedded, instar.ioi(3).batch(embedded, n=2, seed=0), "eap")
    assert repr(edges) == "Edges(1,519 edges, method=eap, task=ioi3; a negative score helps the answer)"
