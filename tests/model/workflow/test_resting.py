"""What is not needed for a while is not in memory, and is as it was afterwards."""

import shutil

import pytest
import torch

import instar
from instar.models import memory
from instar.workflow import sweep
from instar.workflow.experiment import Experiment
from instar.workflow.pipeline import measure_stage
from small_run import results


def test_a_large_model_s_weights_go_and_come_back(monkeypatch):
    model, fresh = instar.load("embedded"), instar.load("embedded")
    with memory.resting(model, lambda: pytest.fail("a small one stays")):
        assert all(p.numel() for p in model.module.parameters())
    monkeypatch.setattr(memory, "RESTED", 0)
    with memory.resting(model, lambda: instar.load("embedded")):
        assert not any(p.numel() for p in model.module.parameters())
    own, other = (one.module.state_dict() for one in (model, fresh))
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
    # What the unembedding shares with the embedding, it shares still.
    assert model.layout.unembed.weight is model.layout.embeddings[0].weight


def test_later_intervals_are_booked_without_the_base_in_memory(small_run, tmp_path, monkeypatch):
    root = shutil.copytree(small_run, tmp_path / "run")
    shutil.rmtree(root / "measure")
    kept, real = [], sweep.line

    def line(start, end, batch, of, **options):
        kept.append([sum(p.numel() for p in base.module.parameters()) for base in workers[0].bases.values()])
        return real(start, end, batch, of, **options)

    workers, make = [], sweep.Worker.__init__
    monkeypatch.setattr(sweep.Worker, "__init__", lambda self, own: (make(self, own), workers.append(self))[0])
    monkeypatch.setattr(sweep, "line", line)
    monkeypatch.setattr(memory, "RESTED", 0)
    assert measure_stage(Experiment.open(root), stages=("ledger",)) == []
    assert any(0 in sizes for sizes in kept) and any(0 not in sizes for sizes in kept)
    there, before = results(root), results(small_run)
    made = [name for name in there if name.endswith(".nc")]
    assert made and all(there[name] == before[name] for name in made)
