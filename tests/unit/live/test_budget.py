"""The budget of time: what is counted, what fits, what is given up first."""

import pytest

from instar.live.budget import Budget


class Clock:
    """Stands still unless it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def budget() -> Budget:
    clock = Clock()
    return Budget(0.1, clock)


def pass_time(budget: Budget, seconds: float) -> None:
    budget.clock.now += seconds


def record(budget: Budget, **seconds: float) -> None:
    with budget.spending() as done:
        for kind, took in seconds.items():
            pass_time(budget, took)
            done(kind)


STAGES = ["evaluate", "attribution", "patching"]


def test_time_is_counted_on_the_side_it_is_spent_on(budget):
    pass_time(budget, 7)
    record(budget, evaluate=2, rest=1)
    pass_time(budget, 23)
    with pytest.raises(KeyError), budget.spending():
        pass_time(budget, 4)
        raise KeyError
    budget.look()
    assert (budget.spent, budget.trained) == (7, 30)
    assert budget.overhead == pytest.approx(7 / 30)
    assert budget.costs == {"evaluate": 2, "rest": 4}


def test_the_dearest_so_far_is_expected_again(budget):
    record(budget, evaluate=2)
    record(budget, evaluate=5, load=1)
    record(budget, evaluate=1)
    assert budget.costs["evaluate"] == 5


def test_what_fits_leaves_room_for_the_last_step(budget):
    record(budget, evaluate=1, attribution=2, patching=3, rest=1, load=1)  # 8 s, and 8 s are set aside for the end
    assert budget.affordable(STAGES) == []
    pass_time(budget, 189)
    assert budget.affordable(STAGES) == []
    pass_time(budget, 1)  # 190 s: 19 s, of which 3 are left: load, rest and evaluate
    assert budget.affordable(STAGES) == ["evaluate"]
    pass_time(budget, 20)
    assert budget.affordable(STAGES) == ["evaluate", "attribution"]
    pass_time(budget, 30)
    assert budget.affordable(STAGES) == STAGES


def test_the_share_holds_to_the_end_whenever_the_estimates_do(budget):
    record(budget, evaluate=1, attribution=2, patching=3, rest=1, load=1)
    made = 0
    for _ in range(300):
        pass_time(budget, 3)
        stages = budget.affordable(STAGES)
        if stages:
            made += 1
            record(budget, **{k: budget.costs[k] for k in (*stages, "rest", "load")})
            assert budget.spent + 8 <= 0.1 * budget.trained + 1e-9
    record(budget, evaluate=1, attribution=2, patching=3, rest=1, load=1)
    assert made > 10
    assert budget.overhead is not None and 0.09 < budget.overhead <= 0.1


def test_nothing_between_the_ends_where_nothing_may_be_spent():
    budget = Budget(0.0, Clock())
    record(budget, evaluate=1)
    pass_time(budget, 1e9)
    assert budget.affordable(STAGES) == [] and budget.overhead == pytest.approx(1e-9)
