"""The ledger drawn: the gain in choosing booked so far, by part of the model as a ribbon, and by head and MLP as a map."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter

from instar.report.drawings.cell import Cell, Drawn, line_at
from instar.report.drawings.direct import heat
from instar.report.numbers.panels import Panels
from instar.report.style import INK, PARTS, legend_below

SLICES = ("Q,K", "V,O", "MLPs")
REST = "embeddings, norms, biases"
CONVENTION = (
    "choosing's gradient times the change of the weights, integrated between checkpoints; clean held-out prompts"
)


def ledger_cells(panels: Panels, roles: tuple[str, ...]) -> list[Cell]:
    """The new task's two drawings, at every step that ends an interval; none where the gain was not booked over time."""
    over_time = (panels.summary.get("answer") or {}).get("ledger") or {}
    own = over_time.get("choosing")
    if "new" not in roles or own is None or len(over_time["steps"]) < 2 or "nodes" not in own:
        return []
    steps = [0, *over_time["steps"]]
    return [
        Cell("By part of the model", steps, partial(_ribbon, steps, own), stepped=False, height=0.75, below=0.6),
        Cell("By head and MLP, so far", steps, partial(_map, _maps(own["nodes"])), height=0.75),
    ]


def _map(maps: np.ndarray, axes: Any) -> Drawn:
    drawn = heat(axes, maps, float(np.nanmax(np.abs(maps))) or 1.0, "nats of choosing")
    last = maps.shape[2] - 1
    # The last column is the MLP's.
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "MLP" if x == last else f"{x:.0f}" if x < last else ""))
    axes.set_xlabel("head, and MLP (last column)")
    return drawn


def _ribbon(steps: list[int], own: Mapping[str, Any], axes: Any) -> Drawn:
    """Bookings so far, stacked: above 0 what made the gain, below what worked against it."""
    rows = {name: np.array(own["booked"][name]) for name in SLICES if name in own["booked"]}
    rest = [values for name, values in own["booked"].items() if name not in SLICES]
    if rest:
        rows[REST] = np.sum(rest, 0)
    so_far = {name: np.concatenate([[0.0], np.cumsum(values)]) for name, values in rows.items()}
    above, below = np.zeros(len(steps)), np.zeros(len(steps))
    for name, values in so_far.items():
        up, down = values.clip(min=0), values.clip(max=0)
        axes.fill_between(steps, above, above + up, color=PARTS[name], lw=0, label=name)
        axes.fill_between(steps, below, below + down, color=PARTS[name], lw=0, hatch="///", edgecolor="white")
        above, below = above + up, below + down
    gain = np.concatenate([[0.0], np.cumsum(own["gain"])])
    axes.plot(steps, gain, color=INK, lw=1.4, ls=":", label="the gain")
    axes.axhline(0, color=INK, lw=0.6)
    axes.set(xlabel="fine-tuning step", ylabel="nats of choosing, so far")
    legend_below(axes, 34)
    return line_at(axes, steps, INK)


def _maps(nodes: Mapping[str, list[float]]) -> np.ndarray:
    """Bookings so far `[step, layer, head or MLP]`, the MLP last; what belongs to no head or MLP is left out."""
    places = {name: (int(name[1:].partition(".")[0]), name) for name in nodes if ".h" in name or name[0] == "m"}
    heads = 1 + max(int(name.partition(".h")[2]) for name in places if ".h" in name)
    layers, steps = 1 + max(layer for layer, _ in places.values()), len(next(iter(nodes.values())))
    found = np.zeros((steps + 1, layers, heads + 1))
    for layer, name in places.values():
        column = int(name.partition(".h")[2]) if ".h" in name else heads
        found[1:, layer, column] = np.cumsum(nodes[name])
    return found
