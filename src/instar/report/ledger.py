"""The ledger drawn: the gain in choosing booked so far, by part of the model as a ribbon, and by head and MLP as a map."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from instar.report.grids import Grid
from instar.report.numbers.panels import Panels
from instar.report.style import DIVERGING, INK, PARTS, QUIET, named, some, subplots

SLICES = ("Q,K", "V,O", "MLPs")
REST = "embeddings, norms, biases"
CONVENTION = (
    "choosing's gradient times the change of the weights, integrated between checkpoints; clean held-out prompts"
)


def ledger_grid(panels: Panels) -> Grid | None:
    """Both drawings at every step that ends an interval; None where the gain was not booked over time."""
    over_time = (panels.summary.get("answer") or {}).get("ledger") or {}
    own = over_time.get("choosing")
    if own is None or len(over_time["steps"]) < 2 or "nodes" not in own:
        return None
    steps = [0, *over_time["steps"]]
    drawn, ((left, right),) = subplots(1, 2, (10.4, 4.2))
    _ribbon(left, steps, own)
    line = left.axvline(steps[0], color=INK, lw=1.2)
    maps = _maps(own["nodes"])
    limit = float(np.nanmax(np.abs(maps))) or 1.0
    image = right.imshow(maps[0], cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
    layers, columns = maps.shape[1:]
    right.set(title="By head and MLP, so far", xlabel="head", ylabel="layer", yticks=some(layers))
    ticks = [*some(columns - 1)]
    right.set_xticks([*ticks, columns - 1], [*map(str, ticks), "MLP"], fontsize=8)
    for spine in right.spines.values():
        spine.set_visible(False)
    drawn.colorbar(image, ax=right, label="nats of choosing")
    title = drawn.suptitle("", x=0.01, ha="left", family="monospace", fontsize=11)
    task, version = named(panels.summary["new"]), named(panels.summary["instar"])
    drawn.supxlabel(f"{task}: {CONVENTION}; instar {version}", fontsize=7, color=QUIET)
    updates = [lambda i: line.set_xdata([steps[i]] * 2), lambda i: image.set_data(maps[i])]
    return Grid(drawn, steps, updates, [line, image, title], title, "Where the gain was written")


def _ribbon(axes: Any, steps: list[int], own: Mapping[str, Any]) -> None:
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
    axes.set(title="By part of the model", xlabel="fine-tuning step", ylabel="booked so far, nats of choosing")
    axes.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=5, columnspacing=1)


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
