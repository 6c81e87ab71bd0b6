"""Lens, direct attribution and patterns against TransformerLens 3.9's numbers (gpt2-tiny/README.md)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import instar
from instar.measure.attention import attention
from instar.measure.evaluate import evaluate
from instar.measure.lens import attribution, lens
from instar.models.load import load

FOLDER = Path(__file__).parent / "gpt2-tiny"
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def oracle():
    return json.loads((FOLDER / "oracle.json").read_text())


@pytest.fixture(scope="module")
def model():
    return load(AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32))


@pytest.fixture(scope="module")
def batch(oracle):
    columns = (torch.tensor(oracle[k]) for k in ("clean", "corrupted", "answer", "foil"))
    return instar.Batch.from_tokens(*columns)


def close(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert np.abs(ours - theirs).max() <= TOLERANCE * max(1.0, np.abs(theirs).max())


def test_logit_differences(model, batch, oracle):
    close(evaluate(model, batch)["logit_diff"], oracle["logit_diff_clean"])


def test_logit_lens(model, batch, oracle):
    close(lens(model, batch)["logit_diff"].mean("pair"), oracle["logit_lens_half_layers_mean_logit_diff"])


def test_direct_attribution_of_layers(model, batch, oracle):
    found = attribution(model, batch).mean("pair")
    theirs = oracle["direct_logit_attribution_layers"]
    close(found["embed"].values, [theirs["embed"], theirs["pos_embed"]])
    for layer in range(3):
        close(found["heads"].sel(layer=layer).sum() + found["attn_bias"].sel(layer=layer), theirs[f"{layer}_attn_out"])
        close(found["mlp"].sel(layer=layer), theirs[f"{layer}_mlp_out"])


def test_patterns_of_the_first_pair(model, batch, oracle):
    close(attention(model, batch, examples=1)["example"].values[0], oracle["attention_pattern_first_pair"])
