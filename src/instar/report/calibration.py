"""The confusion matrix of the verdict on planted truths, as a table."""

from typing import Any

from rich.table import Table

from instar.progress import Screen

console = Screen()
KINDS = ("no new ability", "replaced", "extended", "rewired", "amplified", "undetermined")


def show_calibration(result: dict[str, Any]) -> None:
    """Rows are what was planted, columns what the verdict said, on seeds that fixed nothing."""
    found = result.get("shipped thresholds", result["fixed"])
    title = f"Planted truths, held-out seeds, bases {', '.join(result['bases'])}: {found['instances']} instances"
    table = Table(title=title, box=None)
    table.add_column("planted")
    for kind in KINDS:
        table.add_column(kind, justify="right")
    for planted, row in found["matrix"].items():
        table.add_row(planted, *(str(row.get(kind, "·")) for kind in KINDS))
    console.print(table)
    for name, label in (("right", "right"), ("right_or_undetermined", "right or undetermined")):
        console.print(f"{label}: {share(found[name])}")
    console.print(f"amplified and replaced confused: {found['amplified_replaced_confused']}")
    for base, own in found["by_base"].items():
        console.print(f"  right on {base}: {share(own)}")
    console.print(f"set aside, the plant did not take: {found['set_aside']}")
    for trap in found["traps"]:
        passed = "passed" if trap["passed"] else "FALLEN INTO"
        console.print(f"  trap, {trap['base']}: {trap['trap']}: {passed} ({trap['verdict']})")
    limits = ", ".join(f"{k} {v:g}" for k, v in found["thresholds"].items())
    console.print(f"thresholds, fixed on the other seeds: {limits}")
    if "shipped thresholds" in result:
        own = ", ".join(f"{k} {v:g}" for k, v in result["fixed"]["thresholds"].items())
        console.print(f"these seeds alone would fix: {own}; right {share(result['fixed']['right'])}")


def share(own: dict[str, Any]) -> str:
    """`45 of 48, 93.8 % [83.2, 97.9]`."""
    if not own["of"]:
        return "none"
    low, high = 100 * own["low"], 100 * own["high"]
    return f"{own['count']} of {own['of']}, {100 * own['share']:.1f} % [{low:.1f}, {high:.1f}]"
