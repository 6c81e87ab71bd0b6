"""Lens, direct attribution and patterns against TransformerLens 3.9's numbers (gpt2-tiny/README.md)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import instar
from instar.measure.attention import attention
from instar.measure.direct_attribution import attribution
from instar.measure.evaluate import evaluate
from instar.measure.lens import lens
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


SITES = ("resid_pre", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern")


def test_activation_patching_of_every_site(model, batch, oracle):
    theirs = oracle["patching_clean_into_corrupted_mean_logit_diff"]
    found = instar.patching(model, batch, SITES, chunk=4)
    assert set(theirs) == set(SITES)
    for site in SITES:
        close(found[site], theirs[site])


@pytest.mark.parametrize(
    ("name", "options"), [("edges_EAP", {"method": "eap"}), ("edges_EAP-IG-inputs", {"rule": "left"})]
)
def test_edge_scores_of_all_262_edges(model, batch, oracle, name, options):
    found = instar.edges(model, batch, **options)
    assert found.graph.n_edges == len(oracle[name]) == 262
    close([found[edge] for edge in oracle[name]], list(oracle[name].values()))


def test_circuits(model, batch, oracle):
    graph = instar.edges(model, batch, "eap").graph
    masks = [graph.exists if c["edges"] == "all" else graph.mask(c["edges"]) for c in oracle["circuits"]]
    circuits = [instar.Circuit.of(graph, mask) for mask in masks]
    found = instar.faithfulness(model, batch, circuits)["metric"].mean("pair")
    close(found, [c["mean_logit_diff"] for c in oracle["circuits"]])


def test_top_edges_and_pruning_choose_their_circuits(model, batch, oracle):
    scores = instar.edges(model, batch, rule="left")
    for theirs in oracle["circuits"]:
        ours = scores.circuit(n=theirs["top_n"]).edges
        assert len(ours) == 262 if theirs["edges"] == "all" else set(ours) == set(theirs["edges"])
