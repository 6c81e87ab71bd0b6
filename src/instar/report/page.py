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

from instar.record.config import RunConfig
from instar.record.files import write_text
from instar.record.store import Store
from instar.report.changed import grafted, roles
from instar.report.interventions import BY_SLOT, SCALES, SITES, Circuits, Patched
from instar.report.panels import Panels, TaskPanels
from instar.stats.intervals import Interval

SCRIPTS = ("page", "verdict", "grafts", "changed", "roles")


def write_page(store: Store, found: Panels) -> None:
    """`report/index.html`."""
    text = {name: _asset(f"page.{name}") for name in ("html", "css")}
    summary = found.summary
    values = {
        "title": html.escape(f"instar: {summary['model']}, {summary['old']} → {summary['new']}"),
        "css": text["css"],
        "js": "\n".join([*(_asset(f"{name}.js") for name in SCRIPTS), "start();"]),
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
    return {
        "summary": found.summary,
        "inside": inside,
        "patched": {role: _patched(found, p) for role, p in found.patched.items()},
        "circuits": {role: _circuits(c) for role, c in found.circuits.items()},
        "grafted": _grafted(found, store),
        "roles": {role: roles(store, found.summary[role], _steps(found, role)) for role in ("old", "new")},
        "made": _made(found, store),
        "config": found.config.yaml(),
    }


def _steps(found: Panels, role: str) -> list[int]:
    return found.summary["tasks"][found.summary[role]]["steps"]


def _grafted(found: Panels, store: Store) -> dict[str, Any] | None:
    verdict = found.summary.get("verdict")
    return grafted(store, verdict["step"], verdict["seed"]) if verdict else None


def _patched(found: Panels, one: Patched) -> dict[str, Any]:
    return {
        "counterfactuals": one.counterfactuals,
        "slots": one.slots,
        "how": one.how,
        "effects": [[_numbers([e.value, e.low, e.high]) for e in row] for row in one.effects],
        "values": {s: {k: _numbers(v) for k, v in scales.items()} for s, scales in one.values.items()},
        "limits": {
            "places": {k: found.patched_limit(BY_SLOT, k) for k in SCALES},
            "heads": {k: found.patched_limit([s for s in SITES if s not in BY_SLOT], k) for k in SCALES},
        },
        "sites": SITES,
        "pairs": one.pairs,
    }


def _circuits(one: Circuits) -> dict[str, Any]:
    arrays = ("kept", "faithfulness", "low", "high", "random", "size", "cpr", "random_cpr", "rank_correlation")
    return {
        "groups": one.groups,
        "share": one.share.tolist(),
        **{name: _numbers(getattr(one, name)) for name in arrays},
        "edges": [[[[n, round(s, 4)] for n, s in edges] for edges in row] for row in one.edges],
        "layers": one.layers,
        "heads": one.heads,
    }


def _numbers(values: Any) -> Any:
    """Nested lists, four decimals, None for what is masked."""
    values = np.asarray(values, float)
    if values.ndim == 0:
        return round(float(values), 4) if np.isfinite(values) else None
    return [_numbers(v) for v in values]


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
        ("fine-tuning", _fine_tuning(config)),
        *_checkpoints(summary["checkpoints"]),
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
        *_interventions(found),
        (
            "intervals",
            "95 %: Wilson for shares, bootstrap over pairs for means, max-t bootstrap for lists of what moved",
        ),
        (
            "seeds of fine-tuning",
            ("one, not known here" if config.series is not None else ", ".join(map(str, train.seeds)))
            + ("; nothing here says how much another seed would differ" if len(train.seeds) == 1 else ""),
        ),
        ("instar", summary["instar"]),
    ]
    return rows


def _fine_tuning(config: RunConfig) -> str:
    train = config.train
    if config.series is not None:
        place = "recorded" if config.series.recorded else config.series.checkpoints
        return f"not instar's own ({place}): how it was trained is not known here"
    adapters = f", adapters of rank {train.lora.rank}" if train.lora is not None else ""
    return (
        f"{train.steps} steps of {train.batch_size} rows, AdamW at {train.learning_rate:g} ({train.schedule}){adapters}, "
        f"loss on {train.loss}, seed {train.seeds[0]}, float32"
    )


def _checkpoints(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The type that was measured in, what prompts were read as, and what merging adapters cost."""
    found = []
    for name, label in (("dtype", "measured in"), ("prompts", "prompts are read as")):
        values = sorted({row[name] for row in rows if row[name]})
        found += [(label, ", ".join(values))] if values else []
    errors = [row["merge_error"] for row in rows if row["merge_error"] is not None]
    kinds = sorted({row["adapter"] for row in rows if row["adapter"]})
    if errors:
        found.append(
            (
                "adapters",
                f"{', '.join(kinds)}, merged in float32; that moved logits by up to {max(errors):.1e} of the largest",
            )
        )
    return found


def _interventions(found: Panels) -> list[tuple[str, str]]:
    rows = []
    for role, one in found.patched.items():
        rows.append(
            (
                f"patching, {found.summary[role]}",
                f"{one.how}; clean values into the corrupted run (denoising), by slot or head, {one.pairs} pairs a "
                f"counterfactual; scaled by b − c of step {one.reference}; z before W_O",
            )
        )
    for role, one in found.circuits.items():
        rows.append(
            (
                f"circuits, {found.summary[role]}",
                f"{one.method} scores on {one.pairs} pairs a counterfactual, ranked by absolute value; faithfulness on as "
                "many other pairs, resample ablation, ratio of means; a negative score means that the edge helps",
            )
        )
    return rows
