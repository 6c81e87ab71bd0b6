"""Which checkpoints a stage is measured at."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.record.config import MeasureConfig, RunConfig
from instar.workflow.schedule import Depth, by_layer, compared_at, depth_of, measured_at
from instar.workflow.tunings import _keeps_more


def rows(steps, parameters=1_000):
    return [{"step": step, "bytes": 4 * parameters} for step in steps]


@given(steps=st.sets(st.integers(1, 500), min_size=1).map(lambda s: [0, *sorted(s)]), count=st.integers(2, 40))
def test_a_number_is_that_many_evenly_spread_with_both_ends(steps, count):
    found = measured_at("patching", MeasureConfig(checkpoints={"patching": count}), rows(steps), 0, True)
    assert len(found) == min(count, len(steps)) and {found[0], found[-1]} == {steps[0], steps[-1]}
    gaps = [steps.index(b) - steps.index(a) for a, b in pairwise(found)]
    assert max(gaps) - min(gaps) <= 1 and measured_at("lens", MeasureConfig(), rows(steps), 0, True) == steps


@pytest.mark.parametrize(
    ("stage", "how", "parameters", "expected"),
    [
        ("patching", {}, 1_000, 21),
        ("patching", {}, 10_000_000, 6),
        ("circuit", {}, 10_000_000, 12),
        ("roles", {}, 10_000_000, 2),
        ("evaluate", {}, 10_000_000, 21),
        ("roles", {"checkpoints": {"roles": "all"}}, 10_000_000, 21),
        ("circuit", {"checkpoints": "ends"}, 1_000, 2),
        ("evaluate", {"checkpoints": "ends"}, 1_000, 21),
    ],
)
def test_large_models_are_measured_at_fewer_where_nothing_else_is_said(stage, how, parameters, expected):
    steps = rows(range(0, 84, 4), parameters)
    assert len(measured_at(stage, MeasureConfig(**how), steps, 0, True)) == expected


@pytest.mark.parametrize(
    ("seeds", "parameters", "expected"), [("auto", 1_000, 21), ("auto", 2e7, 2), ("ends", 1, 2), ("all", 2e7, 21)]
)
def test_further_seeds_and_controls(seeds, parameters, expected):
    steps, how = rows(range(0, 84, 4), parameters), MeasureConfig(further_seeds=seeds)
    assert len(measured_at("evaluate", how, steps, 1, False)) == expected
    assert measured_at("evaluate", how, steps, "old", False) == [80]


def test_of_the_base_alone_there_is_the_base():
    for places in ("all", "ends", 5):
        assert measured_at("circuit", MeasureConfig(checkpoints=places), rows([0]), 0, True) == [0]


@pytest.mark.parametrize(
    ("asked", "changed", "kept"),
    [([8], {}, True), ([4, 8], {}, False), (4, {}, False), ([8], {"weights": "other"}, False), ([6], {}, False)],
)
def test_more_checkpoints_than_are_asked_for_are_the_same_training(asked, changed, kept):
    there = {"weights": "w", "train": {"steps": 8, "checkpoints": 4}}
    wanted = {"weights": "w", "train": {"steps": 8, "checkpoints": asked}} | changed
    assert _keeps_more({"decided_by": there, "steps": [{"step": 0}, {"step": 4}, {"step": 8}]}, wanted) is kept
    assert not _keeps_more({"steps": [{"step": 8}]}, wanted), "without a record nothing is known"


@pytest.mark.parametrize(
    ("asked", "parameters", "expected"), [(None, 1_000, 6), (None, 2e7, 3), (2, 2e7, 2), (8, 1_000, 8)]
)
def test_causal_tests_are_made_where_there_are_circuits(asked, parameters, expected):
    steps, config = rows(range(0, 84, 4), parameters), RunConfig(compare={"checkpoints": asked})
    found = compared_at(config, steps, 0, True)
    assert len(found) == expected and found[-1] == 80
    assert set(found) < set(measured_at("circuit", config.measure, steps, 0, True))
    assert compared_at(config, steps, 1, False) == [80]


@pytest.mark.parametrize(
    ("asked", "parameters", "expected"),
    [
        ({}, 1_000, Depth(6, 30, True, 96, 100)),
        ({}, 2e7, Depth(3, 10, False, 36, 30)),
        ({"single": True, "exchanged_sets": 0}, 2e7, Depth(3, 0, True, 36, 30)),
        ({"single": False, "exchanged_sets": 50}, 1_000, Depth(6, 50, False, 96, 100)),
    ],
)
def test_what_is_left_open_goes_by_the_models_size(asked, parameters, expected):
    assert depth_of(RunConfig(compare=asked).compare, rows([0, 4], parameters)) == expected


@pytest.mark.parametrize(
    ("parameters", "first", "last", "seeds", "expected"),
    [
        (1_000, True, False, "auto", True),
        (1_000, False, True, "auto", True),
        (1_000, False, True, "ends", False),
        (2e7, True, False, "auto", False),
        (2e7, True, True, "auto", True),
        (2e7, False, True, "auto", False),
        (2e7, False, True, "all", True),
    ],
)
def test_where_causal_tests_go_layer_by_layer(parameters, first, last, seeds, expected):
    config = RunConfig(measure={"further_seeds": seeds})
    assert by_layer(config, rows([0, 4], parameters), first, last) is expected
