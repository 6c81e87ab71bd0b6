"""The page: one HTML file that opens without a network and asks nothing of one.

Data, style, code and libraries are written into it. Prompts, names and paths are foreign text: they enter as JSON in which no
`<` survives, and the page's code puts them on screen as text, never as HTML. A content security policy forbids requests. What
the first screen needs is there as it is; the rest is packed (gzip, base64) and unpacked by the browser when that is drawn.
"""

import base64
import gzip
import html
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from instar.record.store import Store
from instar.report.numbers.packed import as_bytes, as_text
from instar.report.numbers.page_data import page_data
from instar.report.numbers.panels import Panels

ASSETS = resources.files("instar.report") / "assets"
VENDOR = resources.files("instar.report") / "vendor"
LIBRARIES = ("d3.min.js", "plot.umd.min.js")
BASE = ("base", "terms", "tips", "charts", "grid", "panels", "taken")
SCREEN = (*BASE, "circuits", "circuit", "bar", "first")
SCRIPTS = (*SCREEN, "compared", "written", "heads", "direct", "roles", "patching", "prompts", "when", "start")
"""In the order in which they stand in the page, as one module."""
PARTS = ("head", "patterns", "steps")
"""Of templates, what several share."""
ALONE = {"circuit": ("circuit",), "behaviour": ("accuracy", "choosing"), "ledger": ("ribbon",)}
"""What can stand in a page of its own, and the panels of the first screen that show it."""


def write_page(
    store: Store, panels: Panels, made: Sequence[tuple[str, str]], config: str, key: str = "", under_way: str = ""
) -> None:
    """`report/index.html`. `made` says how the numbers were made, `config` is the configuration's text.

    `under_way`: of a run that has not ended, how far it is.
    """
    first, rest = page_data(panels, store)
    summary = panels.summary
    told = (summary.get("answer") or {}).get("headline") or f"{summary['old']} → {summary['new']}"
    unverified = [text for label, text in made if label == "not verified"]
    values = {
        "title": html.escape(f"instar: {summary['model']}, {summary['old']} → {summary['new']}"),
        "description": html.escape(told),
        "first": as_text(first | {"unverified": unverified, "under_way": under_way}),
        "rest": _packed(rest | {"made": made, "config": config}),
    }
    store.write_text(store.report("index.html"), _filled("page.html", SCRIPTS, values), key=key)


def write_runs(store: Store, found: dict[str, Any]) -> Path:
    """The page of several runs, `report/beside.html` of the first; `found` is `instar.report.numbers.beside`'s."""
    names = ", ".join(run["name"] for run in found["runs"])
    values = {"title": html.escape(f"instar: {names}"), "first": as_text(found)}
    store.write_text(path := store.report("beside.html"), _filled("runs.html", (*BASE, "runs"), values))
    return path


def alone(first: dict[str, Any], name: str, role: str, step: int) -> str:
    """One drawing of the first screen as a page of its own, to stand in somebody else's; what it does not draw is not in it.

    Args:
        first: the page's first part, as of `page_data`.
        name: of `ALONE`.
        role: the task that is shown first.
        step: the index of the checkpoint that is shown first.
    """
    answer, circuit = first["answer"], name == "circuit"
    if answer and not circuit:
        # What the ribbon names, and where the gain was booked; a circuit's nodes are shaded by it, too.
        answer = {k: answer.get(k) for k in ("headline", "step", "series", "written", "ledger")}
    kept = ("instar", "model", "old", "new", "tasks", "key", "events", "controls", "slots")
    own = {k: first[k] for k in kept} | {
        "answer": answer,
        "circuits": first["circuits"] if circuit else {},
        "examples": {},
        "alone": {"panels": ALONE[name], "state": {"task": role, "step": step}},
    }
    # The circuit is drawn without a library.
    code = [one for one in SCREEN if circuit or one != "circuit"]
    packed = [as_text(own), "" if circuit else _libraries(), _scripts((*code, "alone"))]
    tasks = f"{first['model']}, {first['old']} → {first['new']}"
    values = {
        "title": html.escape(f"instar: {name}, {tasks}"),
        "headline": html.escape((answer or {}).get("headline") or tasks),
        "source": html.escape(f"{tasks}; intervals are 95 %, over held-out prompts; instar {first['instar']}"),
        "packed": base64.b64encode(gzip.compress(as_text(packed).encode(), mtime=0)).decode(),
    }
    return _filled("panel.html", (), values)


def _filled(template: str, scripts: Sequence[str], values: dict[str, str]) -> str:
    text = _asset(template)
    for part in PARTS:
        text = text.replace(f"@@{part}@@\n", _asset(f"{part}.html"))
    own = {
        "css": _asset("page.css"),
        "svgcss": _asset("svg.css"),
        "js": _scripts(scripts),
        "vendor": _libraries(),
    } | values
    # Split once and joined, so that nothing inside a value is taken for a place-holder.
    pieces = text.split("@@")
    return "".join(own[p] if i % 2 else p for i, p in enumerate(pieces))


def _scripts(names: Sequence[str]) -> str:
    return "\n".join(_asset(f"{name}.js") for name in names)


def _libraries() -> str:
    return "\n".join((VENDOR / name).read_text(encoding="utf-8") for name in LIBRARIES)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _packed(value: Any) -> str:
    # Without a time in the header the same run gives the same bytes.
    return base64.b64encode(gzip.compress(as_bytes(value), mtime=0)).decode()
