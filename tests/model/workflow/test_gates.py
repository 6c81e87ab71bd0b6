"""One base, several checkpoints: its own half is measured once, and every check is as if it were the only one."""

from dataclasses import asdict

import numpy as np
import torch

import instar
from instar.calibrate.tuning import copied
from instar.record.config.gate import GateConfig
from instar.workflow import gate
from instar.workflow.gate import Gate, check


def test_the_base_s_half_is_measured_once(embedded, monkeypatch):
    config, seen, real = GateConfig(prompts=24), [], gate.edges
    monkeypatch.setattr(gate, "edges", lambda model, *a, **k: seen.append(model.name) or real(model, *a, **k))
    changed = copied(embedded)
    with torch.no_grad():
        changed.layout.w_o(2).mul_(0.5)
    changed = instar.load(changed.module, embedded.tokenizer)
    own = Gate(embedded, config)
    one, two, again = own.of(embedded), own.of(changed), own.of(embedded)
    assert seen.count(changed.name) == 1 and len(seen) == 4
    np.testing.assert_equal(asdict(again), asdict(one))
    np.testing.assert_equal(asdict(two), asdict(check(embedded, changed, config)))
    assert all(test.change.value == 0 for test in one.tests) and any(test.change.value for test in two.tests)
