"""Fine-tunings that go wrong are named, and those that do not are not accused."""

import pytest

from instar.training.health import Probe, examine


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (Probe(92, 0.5, 0.4, 0.3), "end-of-text collapse"),
        (Probe(92, 0.42, 0.40, 0.0), "not learning"),
        (Probe(16, 0.95, 0.5, 0.0), "overfitting"),
    ],
)
def test_each_failure_is_named(last, kind):
    found = examine([Probe(0, 0.4, 0.38, 0.0), last], steps=184)
    assert [f.kind for f in found] == [kind] and found[0].step == last.step


def test_a_healthy_run_is_not_accused():
    assert examine([Probe(0, 0.5, 0.4, 0.0)], 184) == []
    assert examine([Probe(0, 0.6, 0.4, 0.0), Probe(184, 0.99, 0.95, 0.0)], 184) == []
    assert examine([Probe(0, 0.97, 0.97, 0.0), Probe(184, 0.98, 0.97, 0.0)], 184) == []
