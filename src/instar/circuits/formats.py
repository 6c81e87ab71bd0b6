"""Circuits in other tools' formats: the EAP-IG package's JSON, networkx, GraphML, Graphviz dot.

JSON is read back; the others are for drawing and for graph algorithms. Scores are in logits and a negative one means that
the edge helps the answer; the EAP-IG package's demonstrations score the loss −m, so signs are flipped in its files, and
only there. Every export states its convention.

Grouped-query attention: here the heads of a group share one key and one value reader (`a0.h1<k>` is key-value head 1).
The EAP-IG package (arXiv 2403.17806) gives each query head its own. In its files an edge into a shared reader stands
once for each head of the group that writes into the circuit, its score divided among them; read back, the copies are
one edge again and their scores are summed, as gradients are where an input is shared.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from instar.circuits.graph import Graph, Mask
from instar.circuits.reading import parsed

CONVENTION = "scores in logits, (corrupted - clean) . gradient of the metric: negative helps the answer"
COLOUR = {"helps": "#2a6f97", "hurts": "#c8553d", "": "#6b7280"}
_HEAD = re.compile(r"a(\d+)\.h(\d+)(?:<([qkv])>)?")
_READS = {"q": "query", "k": "key", "v": "value", None: "head"}
# What XML 1.0 cannot hold, even escaped, and lone surrogates: free text may come from somebody else's file.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Parts:
    """What a file says of a circuit: the fields of `instar.Circuit`."""

    graph: Graph
    edges: tuple[str, ...]
    scores: tuple[float, ...]
    selected: int | None
    how: str


class Written(Protocol):
    """What is written of a circuit: these fields, and what follows from them."""

    @property
    def graph(self) -> Graph: ...
    @property
    def edges(self) -> tuple[str, ...]: ...
    @property
    def scores(self) -> tuple[float, ...]: ...
    @property
    def selected(self) -> int | None: ...
    @property
    def how(self) -> str: ...
    @property
    def known(self) -> dict[str, float]: ...
    @property
    def mask(self) -> Mask: ...


def to_json(circuit: Written) -> str:
    """The EAP-IG package's layout and sign, with how the circuit was made under `instar`."""
    graph, known = circuit.graph, dict(zip(circuit.edges, circuit.scores or [0.0] * len(circuit.edges), strict=True))
    writers = _writers(circuit)
    inside: dict[str, float] = {}
    for name, score in known.items():
        copies = list(_by_query_head(name, graph, writers))
        inside |= dict.fromkeys(copies, score / len(copies))
    ungrouped = Graph(graph.n_layers, graph.n_heads, graph.n_heads, graph.parallel)
    every = ungrouped.names(ungrouped.exists)
    value = {
        "cfg": {
            "n_layers": graph.n_layers,
            "n_heads": graph.n_heads,
            "n_key_value_heads": graph.n_kv_heads,
            "parallel_attn_mlp": graph.parallel,
            "d_model": None,
        },
        "nodes": {name: {"in_graph": name in writers or name == "logits"} for name in (*graph.sources, "logits")},
        "edges": {name: {"score": -inside.get(name, 0.0), "in_graph": name in inside} for name in every},
        "instar": {"how": circuit.how, "selected": circuit.selected, "signs": "of the loss -m, as in EAP-IG"},
    }
    return json.dumps(value, indent=1)


def from_json(text: str, *how: Any) -> Parts:
    """A circuit from our JSON or the EAP-IG package's; `how` as of `reading.parsed`."""
    found = parsed(text, *how)
    if not found.chosen and any(found.scores.values()):
        raise ValueError(
            f"scores without a circuit: none of its {len(found.scores):,} edges is chosen (in_graph). Read them as scores "
            "and choose: instar.Edges.read(PATH).circuit(n=200), and .write(PATH) keeps what was chosen"
        )
    return Parts(found.graph, (*found.chosen,), (*found.chosen.values(),), found.selected, found.how)


def _writers(circuit: Written) -> set[str]:
    """The nodes that an edge of the circuit leaves."""
    writes: Any = circuit.mask.any(1)
    return {name for name, does in zip(circuit.graph.sources, writes, strict=True) if does}


def _by_query_head(name: str, graph: Graph, writers: set[str]) -> Iterator[str]:
    """An edge's names where every query head has its own keys and values."""
    source, _, reader = name.partition("->")
    part, share = _HEAD.fullmatch(reader), graph.n_heads // graph.n_kv_heads
    if share == 1 or part is None or part[3] == "q":
        yield name
        return
    first = int(part[2]) * share
    group = range(first, first + share)
    for head in [h for h in group if f"a{part[1]}.h{h}" in writers] or group:
        yield f"{source}->a{part[1]}.h{head}<{part[3]}>"


def to_networkx(circuit: Written) -> Any:
    """A `networkx.DiGraph` in which every path from `input` to `logits` is a path of the circuit.

    Nodes are what writes (`input`, `a0.h1`, `m0`) and what reads (`a2.h0<q>`, `m0`, `logits`), with `kind` and, inside a
    layer, `layer` and `head` (of `<k>` and `<v>` the key-value head). Edges of the circuit have `kind="edge"`, their
    `name`, and where scores are known `score` and `effect` (helps, hurts, none). From each reader of a head to the head
    goes one with `kind="inside"`: it has no score and is no edge of the circuit. The graph's attributes say the rest.
    """
    import networkx

    graph, known = circuit.graph, circuit.known
    found = networkx.DiGraph()
    found.graph |= {k: getattr(graph, k) for k in ("n_layers", "n_heads", "n_kv_heads", "parallel")}
    found.graph |= {"edges": len(circuit.edges), "how": _clean(circuit.how), "convention": CONVENTION}
    found.graph |= {} if circuit.selected is None else {"selected": circuit.selected}
    for node in ("input", "logits", *(n for edge in circuit.edges for n in edge.split("->"))):
        found.add_node(node, **_node(node))
    for name in circuit.edges:
        scored = {"score": known[name], "effect": _effect(known[name]) or "none"} if name in known else {}
        found.add_edge(*name.split("->"), kind="edge", name=name, **scored)
    mask = circuit.mask
    for v in np.flatnonzero(mask.any(0)):
        for u in np.flatnonzero(graph.feeds[v] & mask.any(1)):
            if graph.sources[u] != graph.destinations[v]:
                found.add_edge(graph.destinations[v], graph.sources[u], kind="inside")
    return found


def to_graphml(circuit: Written) -> str:
    """The text of `to_networkx` as GraphML, attributes as plain numbers, truths and words."""
    import networkx

    return "\n".join(networkx.generate_graphml(to_networkx(circuit))) + "\n"


def to_dot(circuit: Written) -> str:
    """Graphviz text: one box a head or MLP, in rows by layer; an edge says which of q, k and v reads it.

    Colour and dashes say the sign, width the size. An edge into keys or values that heads share is drawn to each of them
    that writes into the circuit; its tooltip is its name here.
    """
    known, largest = circuit.known, max((abs(s) for s in circuit.known.values()), default=0.0)
    meaning = "blue helps the answer (negative score), red and dashed hurts, grey: no score" if known else "no scores"
    title = f"{circuit.how or 'circuit'}; {meaning}"
    drawn = list(_drawn(circuit))
    nodes = {node for source, target, *_ in drawn for node in (source, target)} | {"input", "logits"}
    lines = [
        "digraph circuit {",
        f"  graph [rankdir=BT, label={_quoted(title)}, comment={_quoted(CONVENTION)}];",
        '  node [shape=box, style=rounded, fontname="Helvetica"];',
    ]
    rows = _rows(circuit.graph, nodes)
    lines += [f"  {_quoted(row)} [shape=plaintext];" for row in rows]
    lines += [f"  {' -> '.join(map(_quoted, rows))} [style=invis];"]
    for row, names in rows.items():
        lines.append(f"  {{ rank=same; {' '.join(f'{_quoted(n)};' for n in (row, *names))} }}")
    for source, target, reader, name in drawn:
        score = known.get(name)
        effect = _effect(score)
        width = 0.6 + 3.4 * abs(score) / largest if effect and score is not None else 0.6
        style = "dashed" if effect == "hurts" else "solid"
        hover = name if score is None else f"{name} {score:+.4g}"
        look = {"color": COLOUR[effect], "style": style, "penwidth": f"{width:.2f}", "label": reader, "tooltip": hover}
        lines.append(f"  {_quoted(source)} -> {_quoted(target)} [{_attributes(look)}];")
    return "\n".join([*lines, "}", ""])


def _drawn(circuit: Written) -> Iterator[tuple[str, str, str, str]]:
    """Source, drawn target, what reads, and the edge's name."""
    writers = _writers(circuit)
    for name in circuit.edges:
        for copy in _by_query_head(name, circuit.graph, writers):
            source, _, reader = copy.partition("->")
            part = _HEAD.fullmatch(reader)
            yield source, f"a{part[1]}.h{part[2]}" if part else reader, part[3] if part else "", name


def _rows(graph: Graph, nodes: set[str]) -> dict[str, list[str]]:
    """What stands side by side, from the input up: each layer's heads, then its MLP (beside them in parallel blocks)."""
    rows = {"embeddings": ["input"]}
    for layer in range(graph.n_layers):
        heads = [n for h in range(graph.n_heads) if (n := f"a{layer}.h{h}") in nodes]
        mlp = [f"m{layer}"] if f"m{layer}" in nodes else []
        parts = {f"layer {layer}": heads + mlp} if graph.parallel else {f"heads {layer}": heads, f"MLP {layer}": mlp}
        rows |= {title: names for title, names in parts.items() if names}
    return rows | {"output": ["logits"]}


def _effect(score: float | None) -> str:
    """What a negative and a positive score do; nothing for 0, NaN and none."""
    return "" if score is None else "helps" if score < 0 else "hurts" if score > 0 else ""


def _node(name: str) -> dict[str, Any]:
    part = _HEAD.fullmatch(name)
    if part:
        return {"kind": _READS[part[3]], "layer": int(part[1]), "head": int(part[2])}
    return {"kind": name} if name in ("input", "logits") else {"kind": "mlp", "layer": int(name[1:])}


def _attributes(values: dict[str, str]) -> str:
    return ", ".join(f"{key}={_quoted(value)}" for key, value in values.items() if value)


def _quoted(text: str) -> str:
    """A double-quoted DOT string: a backslash begins an escape there, a line break ends no string but reads badly."""
    plain = " ".join(_clean(text).split())
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
