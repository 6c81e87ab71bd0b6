"""Shapley shares of grafts, against averages over orders made by hand from edited models."""

from itertools import permutations

import numpy as np
import pytest
import torch

import families
from instar.between.graft import grafted
from instar.between.ledger import read
from instar.between.shapley import GROUPS, _members, _worth, shapley
from instar.calibrate.moves import moved
from instar.circuits.graph import Graph
from twins import named, noisy, prompts

INSIDE = ["input", "a0.h1", "a1.h0", "m1", "logits"]


def pair(row="gpt2", size=0.2):
    base = families.tiny(row)
    return named(base, "base"), named(noisy(base, size), "tuned")


@pytest.mark.parametrize("row", ["gpt2", "llama", "gemma2"])
def test_the_groups_are_every_weight_and_add_up_to_the_gain(row):
    base, tuned = pair(row)
    found = shapley(base, tuned, prompts(), INSIDE)
    np.testing.assert_allclose(found["value"].sum("group"), found["tuned"] - found["base"], atol=1e-9)
    for name, model in (("base", base), ("tuned", tuned)):
        own = read(model, prompts(), ("choosing", "logit_diff"))
        for metric, value in own.items():
            assert float(found[name].sel(metric=metric).mean()) == pytest.approx(value, abs=1e-6)


def test_a_value_is_the_mean_of_marginal_gains_over_all_orders():
    base, tuned = pair()
    batch, found = prompts(), shapley(base, tuned, prompts(), INSIDE, ("choosing",))
    members = _members(Graph.of(base.layout), INSIDE)
    known: dict[frozenset[int], float] = {}

    def value(some):
        """One after another into a copy, in no order that the measurement uses."""
        if some not in known:
            model = named(noisy(base.module, 0.0), "copy")
            for i in sorted(some, reverse=True):
                with grafted(model, tuned, *members[i]):
                    state = {k: v.clone() for k, v in model.module.state_dict().items()}
                model.module.load_state_dict(state)
            known[some] = read(model, batch, ("choosing",))["choosing"]
        return known[some]

    orders, group = list(permutations(range(len(GROUPS)))), 2
    total = 0.0
    for order in orders:
        before = frozenset(order[: order.index(group)])
        total += value(before | {group}) - value(before)
    mine = float(found["value"].sel(metric="choosing", group=GROUPS[group]).mean())
    assert mine == pytest.approx(total / len(orders), abs=1e-9)


def test_what_did_not_change_is_worth_nothing_and_the_base_is_left_alone():
    base, tuned = pair()
    kept = {k: v.clone() for k, v in base.module.state_dict().items()}
    with torch.no_grad():
        for name, own in tuned.module.named_parameters():
            if "mlp" not in name or ".1." not in name:
                own.copy_(base.module.get_parameter(name))
    found = shapley(base, tuned, prompts(), INSIDE)
    gain = (found["tuned"] - found["base"]).sel(metric="choosing")
    values = found["value"].sel(metric="choosing")
    np.testing.assert_allclose(values.sel(group="MLPs inside"), gain, atol=1e-12)
    assert float(abs(values.drop_sel(group="MLPs inside")).max()) == 0 < float(abs(gain).max())
    assert all(torch.equal(v, kept[k]) for k, v in base.module.state_dict().items())


def test_groups_that_only_work_together_share_what_they_do():
    """Where two halves of a change are needed, each is worth half of it, whatever single grafts say."""
    subsets = [tuple(i for i in range(7) if mask >> i & 1) for mask in range(128)]
    every = np.array([[[float(0 in some and 3 in some)] for some in subsets]])
    index = {some: i for i, some in enumerate(subsets)}
    worth = [float(_worth(every, index, i)[0, 0]) for i in range(7)]
    assert worth == pytest.approx([0.5, 0, 0, 0.5, 0, 0, 0])


def test_ends_that_one_model_shares_and_the_other_has_apart():
    """Untied before or after a training, the same weights: the ends have not moved, and are counted as two."""
    base, tuned = pair()
    untied, _ = moved(tuned, "gains", seed=0)
    # Only the unembedding is made a matrix of its own; gains and readers undo each other.
    found, own = (shapley(base, model, prompts(), INSIDE) for model in (tuned, untied))
    np.testing.assert_allclose(found["tuned"], own["tuned"], atol=1e-4)
    np.testing.assert_allclose(own["value"].sum("group"), own["tuned"] - own["base"], atol=1e-9)
    ends = base.layout.unembed.weight.numel()
    assert int(own["parameters"].sum()) == int(found["parameters"].sum()) + ends
