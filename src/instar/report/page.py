"""The page: one HTML file that opens without a network and asks nothing of one.

Data, style, code and plotly.js are written into it. Prompts, names and paths are foreign text: they enter as JSON in which
no `<` survives, and the page's code puts them on screen as text, never as HTML. A content security policy forbids requests.
"""

import base64
import html
import json
from importlib import resources
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from instar.stats.intervals import Interval
from instar.config import RunConfig
from instar.report.panels import Panels, TaskPanels, panels
from instar.store import Store, write_text


def write_page(store: Store, config: RunConfig) -> None:
    """`report/index.html`."""
    found = panels(store, config)
    text = {name: _asset(f"page.{name}") for name in ("html", "css", "js")}
    summary = found.summary
    values = {
        "title": html.escape(f"instar: {summary['model']}, {summary['old']} → {summary['new']}"),
        "css": text["css"],
        "js": text["js"],
        "plotly": get_plotlyjs(),
        "data": _json(_data(found, store)),
    }
    # Split once and joined, so that nothing inside a value is taken for a place-holder.
    pieces = text["html"].split("@@")
    write_text(store.report("index.html"), "".join(values[p] if i % 2 else p for i, p in enumerate(pieces)))


def _asset(name: str) -> str:
    return (resources.files("instar.report") / "assets" / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(found: Panels, store: Store) -> dict[str, Any]:
    inside: dict[str, Any] = {"old": None, "new": None}
    for task in found.tasks:
        inside[task.role] = _task(task)
    return {"summary": found.summary, "inside": inside, "made": _made(found, store), "config": found.config.yaml()}


def _task(task: TaskPanels) -> dict[str, Any]:
    return {
        "steps": task.steps,
        "stages": task.stages,
        "slots": task.slots,
        "tokens": task.tokens,
        "stream": _interval(task.stream),
        "layers": _interval(task.layers),
        "heads": _interval(task.heads),
        "by_slot": _packed(task.by_slot),
        "example": _packed(task.example),
    }


def _interval(interval: Interval) -> dict[str, Any]:
    return {name: np.round(getattr(interval, name), 4).tolist() for name in ("value", "low", "high")}


def _packed(shares: np.ndarray) -> dict[str, Any]:
    """Shares from 0 to 1 as bytes: a 255th is finer than a colour."""
    levels = np.rint(np.nan_to_num(shares) * 255).clip(0, 255).astype(np.uint8)
    return {"shape": list(levels.shape), "data": base64.b64encode(levels.tobytes()).decode()}


def _made(found: Panels, store: Store) -> list[tuple[str, str]]:
    """What a reader needs to judge or repeat the numbers."""
    config, summary = found.config, found.summary
    index = store.index() or {"steps": [{"sha256": "?"}]}
    inside = ", ".join(f"{t.name}: {t.pairs}" for t in found.tasks)
    behaviour = ", ".join(f"{name}: {t.get('pairs', 0)}" for name, t in summary["tasks"].items())
    train = config.train
    rows: list[tuple[str, str]] = [
        ("model", config.model.source),
        ("weights at step 0 (sha256)", index["steps"][0]["sha256"]),
        (
            "fine-tuning",
            f"{train.steps} steps of {train.batch_size} rows, AdamW at {train.learning_rate:g} ({train.schedule}), loss on "
            f"{train.loss}, seed {train.seeds[0]}, float32",
        ),
        ("training rows", f"{summary['audit']['rows'] if summary['audit'] else '?'}"),
        ("pairs for behaviour", behaviour),
        ("pairs for what is inside", inside),
        (
            "logit difference",
            "logit(answer) − mean logit of all other introduced names, at the last token; higher is better",
        ),
        ("logit lens", "final norm recomputed at each stage"),
        (
            "direct attribution",
            "final norm's scale frozen; a head is z W_O without the output bias; positive helps the answer",
        ),
        (
            "intervals",
            "95 %: Wilson for shares, bootstrap over pairs for means, max-t bootstrap for lists of what moved",
        ),
        (
            "seeds of fine-tuning",
            ", ".join(map(str, train.seeds))
            + ("; nothing here says how much another seed would differ" if len(train.seeds) == 1 else ""),
        ),
        ("instar", summary["instar"]),
    ]
    return rows
