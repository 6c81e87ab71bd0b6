"""Edge scores and circuits from JSON: our own files and the EAP-IG package's (arXiv 2403.17806).

1. Every name is one of the graph that `cfg` describes, and every score a finite number; anything else is an error.
2. A selection of neurons inside nodes is refused: read as edges, it would be another circuit.
3. Which sign helps the answer is a convention that the file does not state. The package's demonstrations score the loss −m,
   so a positive score helps there; other people score m itself. The reader says which (`sign`), and the scores are looked
   at: those of the direct edges into `logits` add up to about what corrupting the prompt does to what was scored.
"""

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from instar.circuits.graph import Graph
from instar.notebook import some
from instar.record.foreign import bytes_of, clean, json_text

Sign = Literal["positive", "negative"]
"""Which scores of a file help the answer."""
CLEAR = 0.1
"""The direct edges' scores say which sign helps where their sum is at least this share of their sizes' sum."""
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin")
_HEAD = re.compile(r"a(\d+)\.h(\d+)(?:<([qkv])>)?")


@dataclass(frozen=True)
class Scored:
    """What a file says."""

    graph: Graph
    scores: dict[str, float]
    """In logits, of every edge that has one, as here: negative helps. Copies of a shared reader are summed."""
    chosen: dict[str, float]
    """The edges that are in its circuit, in the graph's order, 0 where there is no score. Of copies, those in it."""
    how: str = ""
    selected: int | None = None
    own: bool = False
    """Written by instar: only the chosen edges have scores."""


def text_of(path: Path | str) -> str:
    """A file's text.

    Raises:
        ValueError: for a pickle, with what turns it into JSON.
    """
    path = Path(path).expanduser()
    content = bytes_of(path)
    if path.suffix in _PICKLES or content[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        raise ValueError(
            "a pickle, which can run code when it is read: write it with to_json where you trust it:\n  "
            f"python -c \"from eap.graph import Graph; Graph.from_pt('{path}').to_json('{path.with_suffix('.json')}')\""
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("no text: a circuit is a JSON file") from None


def parsed(text: str, n_kv_heads: int | None = None, sign: Sign | None = None, name: str = "this text") -> Scored:
    """A file's graph, scores and circuit.

    Args:
        text: the file's content.
        n_kv_heads: key-value heads of a model with grouped-query attention, which their files do not say.
        sign: of the file's scores that help the answer; "positive", as in the package's demonstrations, if left out.
        name: of the file, for a warning.

    Raises:
        ValueError: for text that is no circuit, another model's names, scores that are no numbers, or selected neurons.
    """
    if sign not in (None, "positive", "negative"):
        raise ValueError(f"sign={sign!r}: the scores that help the answer are 'positive' or 'negative'")
    try:
        value = json_text(text, "this text")
        cfg, edges, nodes = value["cfg"], value["edges"], value.get("nodes") or {}
        heads = _whole(cfg["n_heads"])
        groups = n_kv_heads or _whole(cfg.get("n_key_value_heads") or heads)
        graph = Graph(_whole(cfg["n_layers"]), heads, groups, bool(cfg.get("parallel_attn_mlp", False)))
        # Until version 0.2 our files of grouped-query models named the shared readers themselves.
        share = heads // groups if f"input->a0.h{heads - 1}<k>" in edges else 1
        inside = {name for name, edge in edges.items() if edge["in_graph"]}
        made = value.get("instar") or {}
        how, selected = str(made.get("how") or ""), made.get("selected")
        selected = None if selected is None else int(selected)
        theirs = {name: float(s) for name, edge in edges.items() if (s := edge.get("score")) is not None}
        neurons = _neurons(value, nodes)
    except Exception as error:  # of a file of any shape
        raise ValueError(
            f"not a circuit: {clean(repr(error)[:400])}; expected an object with cfg, nodes and edges"
        ) from None
    _refuse_neurons(neurons, {name.partition("->")[0] for name in inside})
    _refuse_values(theirs)
    _refuse_names(graph, [*edges], [*nodes], share)
    own = "signs" in made
    if own and sign == "negative":
        raise ValueError("sign='negative': instar wrote this file, and its positive scores help the answer (signs)")
    turned = 1.0 if sign == "negative" else -1.0

    def pooled(names: Iterable[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name in names:
            found[grouped(name, share)] = found.get(grouped(name, share), 0.0) + turned * theirs.get(name, 0.0)
        return found

    scores, kept = pooled(theirs), pooled(name for name in edges if name in inside)
    chosen = {name: kept[name] for name in graph.names(graph.mask(kept))}
    if not own:
        _look_at_signs(name, scores, sign or "positive")
    return Scored(graph, scores, chosen, how, selected, own)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or int(value) != float(value):
        raise ValueError(f"{value!r:.40} is no whole number")
    return int(value)


def grouped(name: str, share: int) -> str:
    """The name of an edge where `share` query heads have one key and one value reader."""
    source, _, reader = name.partition("->")
    part = _HEAD.fullmatch(reader)
    if share == 1 or part is None or part[3] not in ("k", "v"):
        return name
    return f"{source}->a{part[1]}.h{int(part[2]) // share}<{part[3]}>"


def _neurons(value: Mapping[str, Any], nodes: Mapping[str, Any]) -> dict[str, list[bool]]:
    """Which neurons of each node are selected; the package has written them in two places."""
    found = {name: node["neurons"] for name, node in nodes.items() if isinstance(node, dict) and node.get("neurons")}
    return {name: [bool(n) for n in own] for name, own in {**found, **(value.get("neurons") or {})}.items()}


def _refuse_neurons(neurons: Mapping[str, list[bool]], writers: set[str]) -> None:
    partly = [name for name, own in neurons.items() if not all(own) and (any(own) or name in writers)]
    if partly:
        first = neurons[partly[0]]
        raise ValueError(
            f"it selects neurons inside {len(partly)} nodes ({partly[0]}: {sum(first)} of {len(first)}): instar's circuits "
            "are of whole edges, and reading it as these would be another circuit. Select edges or nodes, and write it again"
        )


def _refuse_values(scores: Mapping[str, float]) -> None:
    broken = [name for name, score in scores.items() if not math.isfinite(score)]
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(scores):,} scores are no finite numbers ({broken[0]}: {scores[broken[0]]}): edges cannot "
            "be ranked by them; score them again, or write the file without these edges"
        )


def _refuse_names(graph: Graph, edges: list[str], nodes: list[str], share: int) -> None:
    """Names that the graph of `cfg` has not."""
    known = {*graph.sources, "logits"}
    ends = [part.split("<")[0] for name in edges for part in name.split("->")]
    strange = [name for name in dict.fromkeys([*nodes, *ends]) if name not in known]
    if strange:
        raise ValueError(
            f"{len(strange)} nodes that a model of {graph.shape} has not ({some(strange, 3)}): its cfg says {graph.shape}; "
            "is it of another model?"
        )
    wrong = [name for name in edges if not graph.has(grouped(name, share))]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(edges):,} edges cannot be in a model of {graph.shape} ({some(wrong, 3)}): the first does "
            "not write before the second reads, or no such reader"
        )


def _look_at_signs(name: str, scores: Mapping[str, float], sign: Sign) -> None:
    """Warn where the direct edges say that the file's signs are the other ones.

    Together they are about what was scored on corrupted prompts less on clean ones, so they help, taken together.
    """
    direct = {name: score for name, score in scores.items() if name.endswith("->logits") and score}
    size = sum(map(abs, direct.values()))
    if not size or sum(direct.values()) < CLEAR * size:
        return
    turned = 1.0 if sign == "negative" else -1.0
    largest = sorted((n for n in direct if n.startswith("a")), key=lambda n: -abs(direct[n]))[:3] or [*direct][:3]
    other = "positive" if sign == "negative" else "negative"
    shown = ", ".join(f"{edge} {turned * direct[edge]:+.3g}" for edge in largest)
    warnings.warn(
        f"{name}: its signs look reversed: they were read as if a {sign} score helps the answer, and by that its "
        f"direct edges into logits hurt it, taken together (in the file: {shown}). Nothing was changed; if a "
        f"{other} score helps in this file, read it with sign={other!r} (--sign {other})",
        stacklevel=4,
    )
