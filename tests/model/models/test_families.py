"""Every family, with its odd settings, against an oracle that shares no code with instar (tests/reference.py)."""

import itertools

import numpy as np
import pytest
import torch

import families
import instar
import reference
import rules
from instar.circuits.circuit import Circuit
from instar.measure.backward import RULES, backward
from instar.measure.patches import HEAD_SITES
from instar.models.load import load
from instar.models.replay import Engine
from instar.models.taps import record

TIGHT, SINGLE = 1e-9, 1e-6
"""float64; families whose norms or softmax run in float32 agree to the second where the order of sums differs."""
SITES = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern")


@pytest.fixture(scope="module", params=families.ROWS)
def case(request):
    module = families.tiny(request.param)
    tokens = families.tokens(3, 7)
    corrupted = tokens.clone()
    # Different positions and the last token of one prompt; lengths 7, 6 and 5.
    corrupted[:, 2], corrupted[:, 4] = 3 + (tokens[:, 2] + 5) % 90, 3 + (tokens[:, 4] + 7) % 90
    corrupted[0, 6] = 3 + (tokens[0, 6] + 7) % 90
    mask = torch.arange(7)[None] < torch.tensor([[7], [6], [5]])
    answer, foils = torch.tensor([5, 6, 7]), torch.tensor([[9, 10], [11, 12], [13, 14]])
    batch = instar.Batch.from_tokens(tokens, corrupted, answer, foils, mask)
    return load(module), batch, (module, tokens, corrupted, mask, answer, foils)


def close(ours, theirs, tolerance=TIGHT):
    ours, theirs = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x) for x in (ours, theirs))
    assert np.abs(ours - theirs).max() <= tolerance * max(np.abs(theirs).max(), 1e-3)


def test_every_site_is_what_plain_hooks_see(case):
    model, _, (module, tokens, _, mask, *_) = case
    theirs = reference.sites(module, tokens, mask)
    seen = record(model.layout, tokens, mask, keep=tuple(s for s in SITES if s in theirs))
    for site in theirs:
        for ours, other in zip(seen[site], theirs[site], strict=True):
            if site == "pattern":
                close(ours.permute(0, 2, 1, 3)[mask], other.permute(0, 2, 1, 3)[mask])
            else:
                close((ours if ours.ndim == 3 else ours.transpose(1, 2))[mask], (
                    other if other.ndim == 3 else other.transpose(1, 2))[mask])  # fmt: skip


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing_in_float32(case, side):
    family = next(k for k, (kind, _) in families.ROWS.items() if kind == case[0].module.config.model_type)
    model = load(families.tiny(family, dtype=torch.float32))
    tokens, pad = families.tokens(1, 6), families.tokens(1, 4, seed=1)
    padded = torch.cat([tokens, pad] if side == "right" else [pad, tokens], 1)
    real = torch.arange(10)[None] < 6 if side == "right" else torch.arange(10)[None] >= 4
    keep = ("attn_out", "mlp_out", "z")
    alone, beside = record(model.layout, tokens, keep=keep), record(model.layout, padded, real, keep=keep)
    for site, layer in itertools.product(keep, range(2)):
        ours, other = alone[site][layer], beside[site][layer]
        other = other[:, real[0]] if other.ndim == 3 else other[:, :, real[0]]
        assert (ours - other).abs().max() <= 1e-5 * ours.abs().max()


def test_gradients_of_every_site_flow(case):
    model, batch, _ = case
    keep = tuple(s for s in SITES if not (model.layout.parallel and s == "resid_mid"))
    seen = record(model.layout, batch.clean, batch.mask, keep=keep)
    first = [seen[site][0] for site in keep]
    gradients = torch.autograd.grad(seen.final[batch.mask].square().sum(), first, allow_unused=True)
    for site, gradient in zip(keep, gradients, strict=True):
        # The norm's input is a branch: the stream itself goes on beside it.
        assert gradient is not None and gradient.abs().max() > 0, site


@pytest.mark.parametrize(("direction", "positions"), [("denoising", False), ("noising", True)])
def test_patching_equals_a_whole_run_for_each_patch(case, direction, positions):
    model, batch, (module, tokens, corrupted, *rest) = case
    base, source = (corrupted, tokens) if direction == "denoising" else (tokens, corrupted)
    sites = [s for s in SITES if not (model.layout.parallel and s == "resid_mid")]
    # Every third entry with positions: the oracle is slow.
    found = instar.patching(model, batch, sites, direction=direction, positions=positions, per_pair=True, chunk=2)
    for site in sites:
        values = found[site].values
        for entry in list(np.ndindex(values.shape[1:]))[:: 3 if positions else 1]:
            layer, first, *place = entry
            where = {"head": first, "pos": place[0] if place else None} if site in HEAD_SITES else {"pos": first}
            theirs = reference.patched(module, base, source, *rest, site, layer, **where).detach().numpy()
            ours = values[(slice(None), *entry)]
            there = ~np.isnan(ours)
            close(ours[there], theirs[there])


def test_edges_equal_the_oracles(case):
    model, batch, (module, tokens, corrupted, mask, answer, foils) = case
    prompts = (module, tokens, corrupted, mask, answer, foils)
    for ours, theirs, tolerance in (
        (instar.edges(model, batch, "exact", chunk=2), reference.edges_exact(*prompts), TIGHT),
        (instar.edges(model, batch, "eap", chunk=2), reference.edges_eap(*prompts), SINGLE),
        (instar.edges(model, batch, steps=3, chunk=2), reference.edges_eap(*prompts, steps=3), SINGLE),
        (
            instar.edges(model, batch, steps=2, rule="left", chunk=2),
            reference.edges_eap(*prompts, steps=2, rule="left"),
            SINGLE,
        ),
    ):
        assert set(ours.graph.names(ours.graph.exists)) == set(theirs)
        close([ours[name] for name in theirs], list(theirs.values()), tolerance)


@pytest.mark.parametrize("method", ["gim", "relp"])
def test_edges_by_other_backward_rules_are_the_rules_written_out_by_hand(case, method):
    model, batch, (module, *prompts) = case
    with rules.following(module, method):
        theirs = reference.edges_eap(module, *prompts)
    ours = instar.edges(model, batch, method, chunk=2)
    close([ours[name] for name in theirs], list(theirs.values()), SINGLE)
    # Not a bit of the forward pass differs.
    engine = Engine(model.layout)
    frame = engine.frame(batch.clean, batch.mask)
    with backward(engine, RULES[method]) as edit:
        changed = engine.run(frame, x=frame.x.clone().requires_grad_(), edit=edit).final
    assert changed.requires_grad and torch.equal(changed, engine.run(frame).final)


def test_circuits_equal_the_oracles(case):
    model, batch, prompts = case
    scores = instar.edges(model, batch, "eap")
    graph, draw = scores.graph, np.random.default_rng(0)
    chosen = [Circuit.of(graph, graph.exists & (draw.random(graph.exists.shape) < p)) for p in (0, 0.15, 0.5, 0.9, 1)]
    chosen += [scores.circuit(n=25), scores.circuit(n=25, selection="greedy")]
    found = instar.faithfulness(model, batch, chosen, chunk=2)
    for circuit, ours in zip(chosen, found["metric"].values, strict=True):
        close(ours, reference.circuit(*prompts, set(circuit.edges)).detach().numpy())
    close(found["metric"].values[0], found["corrupted"])
    close(found["metric"].values[4], found["clean"])


@pytest.mark.parametrize("ablation", ["mean", "zero"])
def test_the_whole_circuit_is_the_model_under_other_ablations(case, ablation):
    model, batch, _ = case
    graph = instar.edges(model, batch, "eap").graph
    whole, some = (
        Circuit.of(graph, graph.exists),
        Circuit.of(graph, graph.exists & (np.indices(graph.exists.shape).sum(0) % 3 > 0)),
    )
    found = instar.faithfulness(model, batch, [whole, some], ablation=ablation, chunk=2)
    close(found["metric"].values[0], found["clean"], SINGLE)
    # The mean over one prompt is that prompt.
    if ablation == "mean":
        one = batch[slice(0, 1)]
        both = [instar.faithfulness(model, one, some, ablation=a)["metric"].values for a in ("mean", "resample")]
        close(*both, SINGLE)


def test_a_path_with_frozen_mlps_is_its_edges_exact_score(case):
    model, batch, _ = case
    scores = instar.edges(model, batch, "exact")
    for name in scores.graph.names(scores.graph.exists)[::9]:
        sender, receiver = name.split("->")
        found = instar.path_patching(model, batch, [sender], [receiver], chunk=2)
        close([-float(found["change"].mean())], [scores[name]])


def test_attributions_sum_and_lens_ends_at_the_logits(case):
    model, batch, _ = case
    assert np.isfinite(instar.attribution(model, batch)["total"]).all()  # raises where the sum is off
    ends, behaviour = instar.lens(model, batch), instar.evaluate(model, batch)
    if model.layout.cap is None:
        close(ends["logit_diff"].sel(stage="final"), behaviour["logit_diff"], SINGLE)
