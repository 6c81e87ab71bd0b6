"""The benchmark's numbers (benchmarks/agreement.py) against those that the library gives one at a time."""

from pathlib import Path

import numpy as np
import pytest

import instar
from instar.measure.faithfulness import curve
from instar.stats.intervals import rank_correlation

ROOT = Path(__file__).parents[3]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import agreement

    return agreement


def test_correlation_and_overlap_are_those_of_the_means(bench):
    draw = np.random.default_rng(0)
    patched = draw.normal(size=(6, 50))
    ours = {"same": 3 * patched, "opposite": -patched, "other": patched + draw.normal(size=(6, 50))}
    found = bench.agreement(patched, ours)
    for name, values in ours.items():
        assert found["spearman"][name][0] == pytest.approx(rank_correlation(values.mean(0), patched.mean(0)))
    assert (found["spearman"]["same"] > 1 - 1e-9).all() and (found["spearman"]["opposite"] < 1e-9 - 1).all()
    largest = [set(np.argsort(-np.abs(x.mean(0)))[:5]) for x in (patched, ours["other"])]
    assert found["top 10%"]["other"][0] == len(largest[0] & largest[1]) / 5
    # The sign is not what is ranked.
    assert (found["top 1%"]["opposite"] == 1).all()


def test_areas_are_those_of_the_curve(bench, embedded, monkeypatch):
    sizes = (0.01, 0.1, 1.0)
    monkeypatch.setattr(bench, "GRID", sizes)
    batch = instar.ioi(2).batch(embedded, n=2, seed=1)
    scored = instar.edges(embedded, batch, "relp")
    alone = curve(embedded, batch, scored, shares=sizes, random=0)
    found = bench.areas(embedded, [batch[slice(0, 1)], batch[slice(1, 2)]], {"relp": scored.scores})
    assert found["cpr"]["relp"][0] == pytest.approx(alone.attrs["cpr"], abs=1e-5)
    assert found["cmd"]["relp"][0] == pytest.approx(alone.attrs["cmd"], abs=1e-5)
