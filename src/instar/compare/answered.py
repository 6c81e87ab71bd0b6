"""The answers of a run: one for every checkpoint that was tested, from what is stored."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from instar.compare.answer import Answer, Found, answer
from instar.compare.baselines import stored
from instar.compare.booking import booked, sums
from instar.compare.diff import plain
from instar.compare.written import PARTS, written
from instar.record.store import SHARED, Store, Tuning


def answers(
    store: Store, tasks: Mapping[str, str], seeds: Sequence[int], controls: Mapping[str, Any], ours: bool = True
) -> dict[str, Any] | None:
    """The last checkpoint's answer, every tested one's in short, and every seed's; None where nothing was tested."""
    tested = [
        (step, _one(store, tasks, (len(seeds), tuple(controls), ours), seeds[0], step))
        for step in _tested(store, seeds[0])
    ]
    series = [(step, own) for step, own in tested if own is not None]
    if not series:
        return None
    step, last = series[-1]
    others = {str(seeds[0]): last.kind}
    for seed in seeds[1:]:
        steps = _tested(store, seed)
        own = _one(store, tasks, (len(seeds), tuple(controls), ours), seed, steps[-1]) if steps else None
        others |= {str(seed): own.kind} if own is not None else {}
    brief = [{"step": at, "kind": own.kind, "headline": own.headline} for at, own in series]
    over_time = _over_time(ledger_of(store, tasks["new"], seeds[0], step))
    beside = {name: own for name in controls if (own := _control(store, tasks["new"], name)) is not None}
    return {
        "step": step, **last.as_dict(), "series": brief, "seeds": others, "ledger": over_time, "controls": beside
    }  # fmt: skip


def _control(store: Store, task: str, name: str) -> dict[str, Any] | None:
    """What a control fine-tuning gained in choosing on the same task, and in which parts: nats."""
    steps = store.measured_steps("ledger", task, name)
    whole = ledger_of(store, task, name, steps[-1]) if steps else None
    if whole is None:
        return None
    found = written(whole, (), None)
    return plain({"gain": vars(found.gain), "parts": {one.part: vars(one.booked) for one in found.parts[: len(PARTS)]}})


def _tested(store: Store, seed: Tuning) -> list[int]:
    """Steps with tests; of a run without any, none."""
    return store.measured_steps("reuse", SHARED, seed)


def _one(
    store: Store, tasks: Mapping[str, str], beside: tuple[int, tuple[str, ...], bool], seed: int, step: int
) -> Answer | None:
    first = store.measured_steps("evaluate", tasks["new"], seed)[:1]
    if not first:
        return None
    ends: dict[str, tuple[xr.Dataset, xr.Dataset]] = {}
    for role in ("old", "new"):
        before, after = (store.read_measurement("evaluate", tasks[role], seed, at) for at in (*first, step))
        if before is None or after is None:
            return None
        ends[role] = before, after
    way = ledger_of(store, tasks["new"], seed, step)
    to_here = [at for at in store.measured_steps("evaluate", tasks["new"], seed) if at <= step]
    course = store.series("evaluate", tasks["new"], seed, to_here, only=lambda dataset: dataset[["choosing"]])
    found = Found(
        ends, store.read_measurement("reuse", SHARED, seed, step), way, store.read_measurement("shapley", SHARED, seed, step),
        stored(store, tasks["new"]), None if course is None else course["choosing"], *beside,
    )  # fmt: skip
    return answer(found)


def ledger_of(store: Store, task: str, seed: Tuning, step: int) -> xr.Dataset | None:
    """A task's ledger from the base to a step, its intervals by the step at which they end; None where one is missing."""
    pages, at = [], step
    steps = store.measured_steps("ledger", task, seed)
    while at in steps:
        page = store.read_measurement("ledger", task, seed, at)
        if page is None:
            return None
        pages.append(page.expand_dims(interval=[at]) if "interval" not in page.dims else page)
        before = int(page.attrs["from_step"])
        if before >= at:
            raise ValueError(f"{store.root}: the ledger of {task} at step {at} begins at step {before}: remeasure it")
        at = before
    if not pages or at != min([*store.measured_steps("evaluate", task, seed), at]):
        return None
    whole: Any = xr.concat(pages[::-1], "interval", combine_attrs="override", coords="minimal", compat="override")
    return whole.assign(prompts=pages[0]["prompts"].isel(interval=0, drop=True))


def _over_time(whole: xr.Dataset | None) -> dict[str, Any] | None:
    """By metric: the gain and every slice's bookings, interval by interval, in nats or logits; of choosing, every head's."""
    if whole is None:
        return None
    found: dict[str, Any] = {"steps": whole["interval"].values.tolist(), "prompts": int(whole["prompts"].sum())}
    for metric in (str(m) for m in whole["metric"].values):
        own = booked(whole, "slice", metric, over_time=True)
        gains = sums(whole, metric)[1].sum(0) / float(whole["prompts"].sum())
        rows = own["booked"].transpose("group", "interval").values
        found[metric] = {
            "gain": gains.tolist(),
            "booked": {str(g): row.tolist() for g, row in zip(own["group"].values, rows, strict=True)},
            "residual": whole["residual"].sel(metric=metric).values.tolist(),
        }
        if metric == "choosing":
            nodes = booked(whole, "head", metric, over_time=True)["booked"].transpose("group", "interval")
            pages = zip(nodes["group"].values, nodes.values, strict=True)
            found[metric]["nodes"] = {str(name): np.round(row, 5).tolist() for name, row in pages}
    return found
