"""Resampled circuits, halves and chance: closed forms, what is kept by stratifying, and how the size is chosen anew."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.circuits.selection import grid_sizes, select
from instar.compare.floors import Scores, chance, draw, floors, halves, overlaps, resampled, strata
from remade import remade

GRAPH = Graph(3, 4, 2)
SHARE = np.array([0.02, 0.1, 0.3, 1.0])
SIZES = grid_sizes(GRAPH, SHARE)
PAIRS, KINDS = 24, 2
_PATHS = ("input->a0.h1<v>", "a0.h1->m1", "m1->logits", "a0.h1->a1.h2<q>", "a1.h2->logits", "input->m0", "m0->a2.h3<q>",
          "a2.h3->logits")  # fmt: skip
STRONG = [GRAPH.names(GRAPH.exists).index(name) for name in _PATHS]


def planted(noise: float = 0.0, f: tuple[float, ...] = (0.2, 0.95, 0.97, 1.0), spread: float = 0.0, seed: int = 0):
    """Scores with one true mean, and pairs around it; the curve likewise."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(KINDS, 1, GRAPH.n_edges)) * rng.permutation(np.geomspace(0.3, 1e-3, GRAPH.n_edges))
    true[..., STRONG] = -np.linspace(1, 3, len(STRONG))
    prompt = np.stack([np.arange(PAIRS), rng.permutation(PAIRS)])
    clean = np.full(2 * PAIRS, 3.0)
    metric = 4 * np.array(f)[:, None] - 1 + spread * rng.normal(size=(len(SIZES), 2 * PAIRS))
    return remade(Scores(
        GRAPH, true + noise * rng.normal(size=(KINDS, PAIRS, GRAPH.n_edges)), prompt, prompt % 4, SHARE, metric,
        clean, clean - 4, np.repeat(np.arange(PAIRS), 2), np.repeat(np.arange(PAIRS), 2) % 4, np.zeros(GRAPH.n_edges, bool),
    ))  # fmt: skip


def test_identical_pairs_give_the_same_circuit_every_time():
    scores = planted()
    assert scores.size == SIZES[1] and scores.circuit.any()
    masks = resampled(scores, 20)
    assert masks.shape == (20, GRAPH.n_edges) and (masks == scores.circuit).all()
    found = floors(scores, 20)
    for one in (*found.resampled.values(), *found.halves.values()):
        assert (one.value, one.low, one.high) == pytest.approx((1, 1, 1))
    assert found.empty == 0 and found.sizes.value == scores.size


def test_it_is_the_circuit_that_selection_makes():
    scores = planted(noise=0.5)
    table = np.zeros(GRAPH.exists.shape)
    table[GRAPH.exists] = scores.scores.mean((0, 1))
    expected = select(GRAPH, table, SIZES[1])
    assert GRAPH.names(GRAPH.exists) and (expected.mask[GRAPH.exists] == scores.circuit).all()


def test_noise_lowers_every_floor_and_draws_follow_the_seed():
    quiet, loud = (floors(planted(noise=n), 60) for n in (0.02, 1.0))
    for name in ("edges_jaccard", "nodes_jaccard", "spearman", "weighted_jaccard"):
        assert loud.resampled[name].value < quiet.resampled[name].value
        assert loud.halves[name].value < loud.resampled[name].value
    own = loud.resampled["edges_jaccard"]
    assert own.low < own.median < own.high < 1
    scores = planted(noise=1.0)
    assert (resampled(scores, 5, seed=3) == resampled(scores, 5, seed=3)).all()
    assert (resampled(scores, 5, seed=3) != resampled(scores, 5, seed=4)).any()


def test_the_faithful_size_goes_with_the_pairs_and_the_circuits_stay_as_large():
    """At the threshold it goes either way; far from it, never; where the largest fails, sometimes there is none."""
    at = planted(f=(0.2, 0.85, 0.95, 1.0), spread=0.3)
    found = floors(at, 100)
    assert found.sizes.low == SIZES[1] and found.sizes.high == SIZES[2]
    quiet = floors(planted(spread=0.01), 100)
    assert quiet.sizes.low == quiet.sizes.high == SIZES[1] and quiet.empty == 0
    assert 10 < floors(planted(f=(0.1, 0.2, 0.3, 0.85), spread=0.3), 100).empty < 90
    loud = planted(noise=1.0)
    edges = resampled(loud, 100).sum(1)
    assert floors(planted(f=(0.1,) * 4), 5).empty == 5
    # Pruning may leave no choice but a few more.
    assert edges.min() == loud.edges and np.median(edges) <= loud.edges + 2


def test_a_circuit_at_another_size_is_that_of_its_scores():
    scores = planted(noise=0.5)
    assert scores.at(scores.edges) is scores
    larger = scores.at(scores.edges + 7)
    assert scores.edges + 7 <= larger.edges < scores.edges + 14 and (larger.circuit >= scores.circuit).all()
    none = replace(scores, circuit=np.zeros(GRAPH.n_edges, bool))
    assert none.at(20).edges == 0


def test_without_an_effect_there_is_no_circuit():
    """The ratio may look faithful; its denominator's interval spans 0, and the run has masked it."""
    scores = planted()
    noise = np.random.default_rng(0).normal(size=2 * PAIRS)
    masked = remade(replace(scores, corrupted=scores.clean - noise, metric=scores.clean[None].repeat(len(SIZES), 0)))
    assert masked.size is None and not masked.circuit.any()
    found = floors(masked, 100)
    assert found.empty > 50 and not resampled(masked, 5).any()
    overlap = {k: q.value for k, q in found.halves.items() if k not in ("spearman", "weighted_jaccard")}
    assert np.isnan([*overlap.values()]).all()


def test_counterfactuals_of_a_prompt_are_drawn_together():
    """Noise that a prompt's two pairs share with opposite signs cancels only if both are drawn as often."""
    scores = planted()
    shift = np.random.default_rng(1).normal(size=(PAIRS, GRAPH.n_edges))
    signs = np.array([1, -1])[:, None, None]
    cancelling = remade(replace(scores, scores=scores.scores + signs * shift[scores.prompt]))
    assert (resampled(cancelling, 20) == scores.circuit).all()
    np.testing.assert_allclose(cancelling.per_pair.mean(0), cancelling.scores.mean((0, 1)))
    apart = replace(cancelling, prompt=np.arange(KINDS * PAIRS).reshape(KINDS, PAIRS))
    assert (resampled(apart, 20) != scores.circuit).any()


def test_stratifying_keeps_the_counts_of_wordings_and_counterfactuals():
    prompt = np.array([[0, 1, 2, 3, 4, 5, 6, 7], [7, 1, 0, 2, 8, 9, 10, 11]])
    wording = prompt % 3
    own = strata(prompt, wording)
    drawn = draw(own, 200)
    names = np.arange(12)
    for row in drawn:
        # Prompts with one pair in each counterfactual are drawn from their like, so both keep their numbers.
        for kind in prompt:
            assert np.isin(row, kind).sum() == 8
    # A wording that only one prompt of its kind has is pooled with other such: the rest keep their counts exactly.
    counts = np.array([np.bincount(names[row] % 3, minlength=3) for row in drawn])
    assert len(own) == 12 and counts.sum(1).tolist() == [12] * 200
    several = strata(np.arange(30)[None], (np.arange(30) % 5)[None])
    for row in draw(several, 100):
        assert np.bincount(row % 5).tolist() == [6] * 5
    assert len({tuple(row) for row in draw(several, 100)}) == 100
    # Wordings of one prompt each: they are resampled among themselves, not kept as they are.
    assert len(np.unique(strata(np.arange(9)[None], np.arange(9)[None]))) == 1


def test_what_differs_only_between_wordings_is_no_noise():
    """Draws and halves have as many pairs of each wording."""
    scores = planted()
    shift = np.random.default_rng(1).normal(size=(4, GRAPH.n_edges))
    worded = remade(replace(scores, scores=scores.scores + shift[scores.wording]))
    assert (resampled(worded, 20) == worded.circuit).all()
    assert halves(worded, 10)["spearman"] == pytest.approx(1)


def test_a_bootstrap_has_the_variance_of_a_mean():
    drawn = draw(np.zeros(50, int), 4000)
    values = np.random.default_rng(2).normal(size=50)
    assert values[drawn].mean(1).std() == pytest.approx(values.std() / np.sqrt(50), rel=0.05)


def test_halves_share_no_prompt():
    """With one prompt's scores apart from all others, one half has it whole and the other not at all."""
    scores = planted()
    pairs = np.zeros((KINDS, PAIRS, GRAPH.n_edges)) + np.geomspace(1, 1e-3, GRAPH.n_edges)
    pairs[scores.prompt == 5] *= -40
    found = halves(replace(scores, scores=pairs), 10)
    assert found["spearman"] == pytest.approx(-1)
    assert len(found["edges_jaccard"]) == 10


@pytest.mark.parametrize(("n", "a", "b"), [(50, 10, 20), (200, 30, 7), (12, 12, 5), (9, 8, 7)])
def test_chance_is_that_of_simulated_sets(n, a, b):
    rng, shared = np.random.default_rng(0), []
    for _ in range(20_000):
        mine = np.zeros(n, bool)
        mine[rng.permutation(n)[:a]] = True
        shared.append(mine[rng.permutation(n)[:b]].sum())
    shared = np.array(shared)
    found = chance(n, a, b)
    assert found.shared == pytest.approx(a * b / n)
    assert found.shared == pytest.approx(shared.mean(), rel=0.02)
    assert found.jaccard == pytest.approx((shared / (a + b - shared)).mean(), rel=0.02)
    assert found.a_in_b == pytest.approx(b / n) and found.b_in_a == pytest.approx(a / n)
    assert (shared <= found.shared_high).mean() >= 0.945 and (shared <= found.shared_high - 1).mean() < 0.955
    assert found.jaccard_high == pytest.approx(found.shared_high / (a + b - found.shared_high))
    assert found.a_in_b_high == pytest.approx(found.shared_high / a)


def test_chance_of_nothing_and_of_too_much():
    assert np.isnan(chance(10, 0, 3).a_in_b) and chance(10, 0, 3).jaccard == 0 and chance(10, 3, 0).shared == 0
    with pytest.raises(ValueError, match="among 5"):
        chance(5, 6, 1)


def test_the_node_views_are_those_of_circuits():
    rng = np.random.default_rng(3)
    # Not pruned: some nodes are only written from, some only read into.
    masks = [GRAPH.exists & (rng.random(GRAPH.exists.shape) < 0.03) for _ in range(2)]
    circuits = [Circuit.of(GRAPH, m) for m in masks]
    nodes = [set(c.nodes) - {"input", "logits"} for c in circuits]
    found = overlaps(GRAPH, *(m[GRAPH.exists][None] for m in masks))
    assert found["nodes_jaccard"][0] == pytest.approx(len(nodes[0] & nodes[1]) / len(nodes[0] | nodes[1]))
    heads = [{n for n in own if n[0] == "a"} for own in nodes]
    assert found["heads_a_in_b"][0] == pytest.approx(len(heads[0] & heads[1]) / len(heads[0]))
    assert found["edges_b_in_a"][0] == pytest.approx((masks[0] & masks[1]).sum() / masks[1].sum())


def dataset() -> xr.Dataset:
    """A measurement of two givers, pooled and alone; alone they have fewer evaluated pairs."""
    rng, own = np.random.default_rng(4), planted(noise=0.1)
    evaluated = 2 * PAIRS
    whole = np.arange(evaluated)[None].repeat(3, 0)
    whole[1:, PAIRS:] = -1
    value = np.where(whole[:, None] >= 0, own.metric[None], np.nan)
    return xr.Dataset(
        {
            "score": (("counterfactual", "pair", "edge"), own.scores),
            "prompt": (("counterfactual", "pair"), own.prompt),
            "wording": (("counterfactual", "pair"), own.wording),
            "curve_metric": (("group", "size", "evaluated"), value),
            "curve_clean": (("group", "evaluated"), np.where(whole >= 0, 3.0, np.nan)),
            "curve_corrupted": (("group", "evaluated"), np.where(whole >= 0, -1.0, np.nan)),
            "evaluated_prompt": (("group", "evaluated"), whole),
            "evaluated_wording": (("group", "evaluated"), np.where(whole >= 0, whole % 4, -1)),
            "in_circuit": (("group", "edge"), rng.random((3, GRAPH.n_edges)) < 0.1),
        },
        coords={
            "counterfactual": ["giver1", "giver2"],
            "group": ["givers", "giver1", "giver2"],
            "share": ("size", SHARE),
        },
    ).assign_attrs(n_layers=3, n_heads=4, n_kv_heads=2, parallel=0)


def test_a_stored_measurement_is_read_by_group():
    stored = dataset()
    pooled, alone = Scores.of(stored), Scores.of(stored, "giver2")
    assert pooled.graph == GRAPH and pooled.scores.shape[0] == 2 and pooled.metric.shape == (4, 2 * PAIRS)
    assert (alone.scores == stored["score"].values[1:]).all() and alone.metric.shape == (4, PAIRS)
    assert not np.isnan(alone.metric).any() and (alone.circuit == stored["in_circuit"].values[2]).all()
    assert resampled(alone, 5).any(1).all()
    with pytest.raises(ValueError, match="giver3"):
        Scores.of(stored, "giver3")
    with pytest.raises(ValueError, match="measure again"):
        Scores.of(stored.drop_vars("curve_metric"))
