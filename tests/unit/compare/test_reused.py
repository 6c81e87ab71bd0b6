"""The word for one counterfactual, on measurements whose answer is known."""

import numpy as np
import pytest
import xarray as xr

from instar.compare.reused import Limits, reused, together

PAIRS, EDGES = 40, 400
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def measured(old=0.9, new=0.92, floor=0.05, ceiling=0.9, both=0.93, without=0.0, others=0.98, twice=None, effect=5.0,
             noise=0.2, seed=0, task=None):  # fmt: skip
    """Faithfulness of everything by hand; the corruption's effect is `effect` logits, c = −1."""
    generator = np.random.default_rng(seed)
    corrupted = np.full(PAIRS, -1.0)
    clean = corrupted + effect + generator.normal(0, noise, PAIRS)

    def at(share, *shape):
        return corrupted + share * effect + generator.normal(0, noise, (*shape, PAIRS))

    sizes = [at(0.1), at(old / 2), at(old), at(old if twice is None else twice), at(0.98)]
    own = [at(0.1), at(new / 2), at(new), at(max(new, 0.95)), at(0.99)]
    in_old = np.arange(EDGES) < 40
    data = {
        "clean": ("pair", clean), "corrupted": ("pair", corrupted), "prompt": ("pair", np.arange(PAIRS)),
        "old": (("size", "pair"), np.stack(sizes)), "new": (("size", "pair"), np.stack(own)),
        "both": ("pair", at(both)), "n": 40, "edges": ("size", np.array([10, 20, 40, 80, 160])),
        "why": "", "in_old": ("edge", in_old), "in_new": ("edge", in_old),
        "permuted": (("level", "draw", "pair"), np.stack([at(floor, 20)] * 2)),
        "again": (("level", "redraw", "pair"), np.stack([at(ceiling, 5)] * 2)),
        "other": (("level", "task", "pair"), np.stack([at(task[0] if task else 0.0, int(task is not None))] * 2)),
        "other_does_old": ("task", np.array([task[1]] if task else [])), "old_does_old": 0.95,
        "without": ("pair", at(without)), "without_others": (("removed", "pair"), at(others, 30)), "matched": 0.9,
        **{f"{name}{end}": 1.0 for name in ("slope", "correlation") for end in ("", "_low", "_high")},
        **{f"shared_{what}{end}": 0.5 for what in ("edges", "heads") for end in ("", "_floor", "_ceiling")},
    }  # fmt: skip
    coords = {"factor": ("size", np.array(FACTORS)), "level": [1.0, 2.0], "task": ["room2"] if task else []}
    return xr.Dataset(data, coords=coords).expand_dims(counterfactual=["giver1"])


def word(**options):
    return reused(measured(**options))[0]


def test_reuse_is_where_the_old_circuit_lies_between_floor_and_ceiling():
    own = word(old=0.5, floor=0.1, ceiling=0.9, noise=0.01)
    assert own.reuse.value == pytest.approx(0.5, abs=0.01) and own.reuse.low < 0.5 < own.reuse.high + 0.02
    assert own.floor == pytest.approx(0.1, abs=0.01) and own.ceiling == pytest.approx(0.9, abs=0.01)
    assert own.old.value == pytest.approx(0.5, abs=0.01) and own.edges == 40 and own.of == EDGES
    assert own.necessity.value == pytest.approx(1.0, abs=0.01)
    assert own.necessity_null.value == pytest.approx(0.02, abs=0.01)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "transformed"),
        ({"old": 0.05, "without": 0.97}, "formed"),
        ({"old": 0.5, "both": 0.9}, "extended"),
        # Alone it does nothing, and without it the skill is gone: no new circuit to be claimed.
        ({"old": 0.05, "without": 0.0}, "undetermined"),
        # Other edges of the same kinds take as much.
        ({"without": 0.99, "others": 0.8}, "undetermined"),
        # Nothing is added by the new circuit's other edges.
        ({"old": 0.5, "both": 0.5}, "undetermined"),
        # Not at twice the size.
        ({"twice": 0.4}, "undetermined"),
        # Any circuit of this size does it.
        ({"floor": 0.7}, "undetermined"),
        # The new circuit is not faithful, or there is no effect.
        ({"new": 0.3, "old": 0.3, "ceiling": 0.3}, "undetermined"),
        ({"effect": 0.0}, "undetermined"),
    ],
)  # fmt: skip
def test_words(options, expected):
    found = word(**options)
    assert found.word == expected, found
    assert bool(found.open) == (expected == "undetermined"), found.open


def test_an_interval_that_spans_a_limit_is_open_and_asks_for_pairs():
    found = word(old=0.72, noise=2.0)
    assert found.word == "undetermined" and any("more pairs" in text for text in found.open)


def test_another_tasks_circuit_is_a_floor_unless_it_is_the_old_one_by_another_name():
    foreign = word(task=(0.8, 0.1))
    assert foreign.word == "undetermined" and "room2" in foreign.open[0] and foreign.same_as == ()
    same = word(task=(0.8, 0.9))
    assert same.word == "transformed" and same.same_as == ("room2",)


def test_counterfactuals_that_differ_are_extended_and_silent_ones_do_not_count():
    kinds = [word(), word(old=0.05, without=0.97), word(floor=0.7)]
    assert together(kinds[:1]) == together([kinds[0], kinds[2]]) == "transformed"
    assert together(kinds) == "extended" and together(kinds[2:]) == "undetermined"


def test_limits_are_what_decides():
    assert reused(measured(old=0.5), Limits(high=0.4))[0].word == "transformed"
