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
SCRIPTS = (
    *(*BASE, "circuits", "circuit", "bar", "first", "compared", "written"),
    *("heads", "direct", "roles", "patching", "prompts", "when", "start"),
)
"""In the order in which they stand in the page, as one module."""


def write_page(store: Store, panels: Panels, made: Sequence[tuple[str, str]], config: str, key: str = "") -> None:
    """`report/index.html`. `made` says how the numbers were made, `config` is the configuration's text."""
    first, rest = page_data(panels, store)
    summary = panels.summary
    told = (summary.get("answer") or {}).get("headline") or f"{summary['old']} → {summary['new']}"
    values = {
        "title": html.escape(f"instar: {summary['model']}, {summary['old']} → {summary['new']}"),
        "description": html.escape(told),
        "first": as_text(first | {"unverified": [text for label, text in made if label == "not verified"]}),
        "rest": _packed(rest | {"made": made, "config": config}),
    }
    store.write_text(store.report("index.html"), _filled("page.html", SCRIPTS, values), key=key)


def write_runs(store: Store, found: dict[str, Any]) -> Path:
    """The page of several runs, `report/beside.html` of the first; `found` is `instar.report.numbers.beside`'s."""
    names = ", ".join(run["name"] for run in found["runs"])
    values = {"title": html.escape(f"instar: {names}"), "first": as_text(found)}
    store.write_text(path := store.report("beside.html"), _filled("runs.html", (*BASE, "runs"), values))
    return path


def _filled(template: str, scripts: Sequence[str], values: dict[str, str]) -> str:
    own = values | {
        "css": _asset("page.css"),
        "svgcss": _asset("svg.css"),
        "js": "\n".join(_asset(f"{name}.js") for name in scripts),
        "vendor": "\n".join((VENDOR / name).read_text(encoding="utf-8") for name in LIBRARIES),
    }
    # Split once and joined, so that nothing inside a value is taken for a place-holder.
    pieces = _asset(template).split("@@")
    return "".join(own[p] if i % 2 else p for i, p in enumerate(pieces))


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _packed(value: Any) -> str:
    # Without a time in the header the same run gives the same bytes.
    return base64.b64encode(gzip.compress(as_bytes(value), mtime=0)).decode()
