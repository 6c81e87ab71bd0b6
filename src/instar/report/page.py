"""The page: one HTML file that opens without a network and asks nothing of one.

Data, style, code and plotly.js are written into it. Prompts, names and paths are foreign text: they enter as JSON in which
no `<` survives, and the page's code puts them on screen as text, never as HTML. A content security policy forbids requests.
"""

import html
import json
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs

from instar.record.store import Store
from instar.report.numbers.page_data import page_data
from instar.report.numbers.panels import Panels

ASSETS = resources.files("instar.report") / "assets"


def write_page(store: Store, panels: Panels, made: Sequence[tuple[str, str]], config: str, key: str = "") -> None:
    """`report/index.html`. `made` says how the numbers were made, `config` is the configuration's text."""
    text = {name: _asset(f"page.{name}") for name in ("html", "css")}
    summary = panels.summary
    values = {
        "title": html.escape(f"instar: {summary['model']}, {summary['old']} → {summary['new']}"),
        "css": text["css"],
        "js": "\n".join([*_scripts(), "start();"]),
        "plotly": get_plotlyjs(),
        "data": _json(page_data(panels, store) | {"made": made, "config": config}),
    }
    # Split once and joined, so that nothing inside a value is taken for a place-holder.
    pieces = text["html"].split("@@")
    store.write_text(
        store.report("index.html"), "".join(values[p] if i % 2 else p for i, p in enumerate(pieces)), key=key
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _scripts() -> Iterator[str]:
    """`page.js`, then every other script: each is a drawing that adds itself to the page's."""
    names = sorted(file.name for file in ASSETS.iterdir() if file.name.endswith(".js"))
    for name in sorted(names, key=lambda name: name != "page.js"):
        yield _asset(name)


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
