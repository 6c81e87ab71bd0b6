"""What moved against planted changes."""

import numpy as np
import pytest
import xarray as xr

from instar.compare.changed import changed_heads, changed_layers


def attribution_series(moved: float) -> xr.Dataset:
    rng = np.random.default_rng(2)
    heads = rng.normal(scale=0.1, size=(2, 50, 3, 4)) + 1.0
    heads[1, :, 2, 1] += moved
    return xr.Dataset(
        {
            "heads": (("step", "pair", "layer", "head"), heads),
            "attn_bias": (("step", "pair", "layer"), np.zeros((2, 50, 3))),
            "mlp": (("step", "pair", "layer"), np.ones((2, 50, 3))),
        }
    )


def test_the_planted_head_is_found_and_only_it():
    rows = changed_heads(attribution_series(-2.0))
    assert rows[0]["head"] == "a2.h1" and rows[0]["change"] == pytest.approx(-2.0, abs=0.1)
    assert rows[0]["low"] < rows[0]["change"] < rows[0]["high"] < 0
    assert [r["head"] for r in rows if r["moved"]] == ["a2.h1"]
    layers = changed_layers(attribution_series(-2.0))
    assert (layers[0]["layer"], layers[0]["part"], layers[0]["moved"]) == (2, "attention", True)


def test_nothing_moved_is_an_answer():
    assert not any(r["moved"] for r in changed_heads(attribution_series(0.0)))
