"""How the numbers of a run were made, as a table that its page ends with."""

from typing import Any

from instar.record.config import SeriesConfig, TrainConfig
from instar.record.store import Store
from instar.report.numbers.panels import Panels


def made(panels: Panels, store: Store, train: TrainConfig, series: SeriesConfig | None = None) -> list[tuple[str, str]]:
    """What a reader needs to judge or repeat the numbers: what it is, and how it was made."""
    summary = panels.summary
    index = store.index() or {"steps": [{"sha256": "?"}]}
    inside = ", ".join(f"{t.name}: {t.pairs}" for t in panels.tasks)
    behaviour = ", ".join(f"{name}: {t.get('pairs', 0)}" for name, t in summary["tasks"].items())
    rows: list[tuple[str, str]] = [
        ("model", summary["model"]),
        ("weights at step 0 (sha256)", index["steps"][0]["sha256"]),
        ("fine-tuning", fine_tuning(train, series)),
        *_checkpoints(summary["checkpoints"]),
        *(("notice", notice["text"]) for notice in summary.get("notices", ())),
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
        *_interventions(panels),
        (
            "intervals",
            "95 %: Wilson for shares, bootstrap over pairs for means, max-t bootstrap for lists of what moved",
        ),
        (
            "seeds of fine-tuning",
            ("one, not known here" if series is not None else ", ".join(map(str, train.seeds)))
            + ("; nothing here says how much another seed would differ" if len(train.seeds) == 1 else ""),
        ),
        ("instar", summary["instar"]),
    ]
    return rows


def fine_tuning(train: TrainConfig, series: SeriesConfig | None) -> str:
    """In words."""
    if series is not None:
        source = "recorded" if series.recorded else series.checkpoints
        return f"not instar's own ({source}): how it was trained is not known here"
    adapters = f", adapters of rank {train.lora.rank}" if train.lora is not None else ""
    return (
        f"{train.steps} steps of {train.batch_size} rows, AdamW at {train.learning_rate:g} ({train.schedule}){adapters}, "
        f"loss on {train.loss}, seed {train.seeds[0]}, float32"
    )


def _checkpoints(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What weights began as, the type that was measured in, how prompts were read, and what merging adapters cost."""
    listed = []
    kinds_of = (("dequantised_from", "weights began as"), ("dtype", "measured in"), ("prompts", "prompts are read as"))
    for name, label in kinds_of:
        values = sorted({row[name] for row in rows if row.get(name)})
        listed += [(label, ", ".join(values))] if values else []
    errors = [row["merge_error"] for row in rows if row["merge_error"] is not None]
    kinds = sorted({row["adapter"] for row in rows if row["adapter"]})
    if errors:
        listed.append(
            (
                "adapters",
                f"{', '.join(kinds)}, merged in float32; that moved logits by up to {max(errors):.1e} of the largest",
            )
        )
    return listed


def _interventions(panels: Panels) -> list[tuple[str, str]]:
    rows = []
    for role, one in panels.patched.items():
        rows.append(
            (
                f"patching, {panels.summary[role]}",
                f"{one.how}; clean values into the corrupted run (denoising), by slot or head, {one.pairs} pairs a "
                f"counterfactual; scaled by b − c of step {one.reference}; z before W_O",
            )
        )
    for role, one in panels.circuits.items():
        rows.append(
            (
                f"circuits, {panels.summary[role]}",
                f"{one.method} scores on {one.pairs} pairs a counterfactual, ranked by absolute value; faithfulness on as "
                "many other pairs, resample ablation, ratio of means; on this page a positive score helps (in files a "
                "negative one)",
            )
        )
    return rows
