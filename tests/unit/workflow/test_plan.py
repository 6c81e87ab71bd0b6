"""What a run will take: counted work against what stages really do, and what is given up where there is too much of it."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import instar
from instar.circuits.graph import Graph
from instar.cli.limits import limits
from instar.record.config import MeasureConfig, RunConfig
from instar.record.store import Store
from instar.record.times import NAME, Work
from instar.tasks.prepare import prepare
from instar.workflow.budget import FIRST, FOR_MEMORY, THEN, savings, within
from instar.workflow.costs import Asked, Costs, Shape
from instar.workflow.elsewhere import Elsewhere
from instar.workflow.experiment import Experiment
from instar.workflow.plan import Known, _drawn, plan
from instar.workflow.rates import Rates
from instar.workflow.stages import STAGES, Pairs

BIG = Shape(Graph(30, 9, 3), 576, 49_152, 134_515_008)
KNOWN = Known(
    BIG,
    Rates(call=1e-3, row=1e-4, back=3e-4, word=1e-3, mac=3e-11, number=2e-10, byte=1e-9),
    {"old": Asked(1, 20, 10, 8), "new": Asked(2, 24, 12, 10)},
    {"old": "ioi2", "new": "ioi3"},
    2,
)


def experiment(tmp_path, **parts):
    return Experiment(Store(tmp_path / "run"), RunConfig.checked({"model": "some/model", **parts}, "test"))


class Counted(TorchDispatchMode):
    """Multiplications and additions of every product that runs."""

    flops = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        count = flop_registry.get(operation._overloadpacket)
        self.flops += 0 if count is None else count(*args, **(kwargs or {}), out_val=out)
        return out


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    model = instar.load("embedded")
    how = MeasureConfig(patching_pairs=4, circuit_pairs=4, role_pairs=4)
    config = RunConfig(data={"test_size": 32, "measure_pairs": 16}, measure=how)
    store = Store.create(tmp_path_factory.mktemp("plan") / "run", config)
    prepare(store, config.tasks, config.data, model.tokenizer, trained=False)
    asked = dict(_drawn(Experiment(store, config), model.tokenizer, False))
    block = sum(p.numel() for n, p in model.module.named_parameters() if ".h.0." in n and p.ndim == 2)
    layout = model.layout
    shape = Shape(
        Graph.of(layout),
        layout.d_model,
        layout.unembed.weight.shape[0],
        sum(p.numel() for p in model.module.parameters()),
    )
    # A "second" is one floating-point operation.
    rates = Rates(0, 2 * block, 6 * block, 2 * layout.d_model * shape.vocabulary, 2, 0, 0)
    return model, store, config, asked, Costs(shape, rates, how)


@pytest.mark.parametrize("role", ["old", "new"])
@pytest.mark.parametrize("stage", ["evaluate", "lens", "attribution", "attention", "patching", "circuit", "roles"])
def test_counted_work_is_what_a_stage_does(embedded, stage, role):
    model, store, config, asked, costs = embedded
    name, task = asked[role]
    pairs = Pairs(store, name, model.tokenizer, config.data.measure_pairs)
    with Counted() as counted:
        STAGES[stage](model, pairs, config.measure, False)
    thought = costs.of_stage(stage, task, config.data.test_size, config.data.measure_pairs)
    assert 0.6 < counted.flops / thought < 1.7, counted.flops / thought


def test_what_is_done_is_not_left_and_corrects_the_rest(tmp_path):
    own = experiment(tmp_path, train={"seeds": [0], "steps": 4, "checkpoints": 2})
    before = plan(own, KNOWN)
    assert before.left == before.seconds and not before.done
    thought = {piece.work: piece.seconds for piece in before.pieces}
    (tmp_path / "run").mkdir()
    for work in [w for w in thought if w[0] == "lens"][:2]:
        path = own.store.measurement("lens", work[1], 0, work[3])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        with (own.store.root / NAME).open("a") as stream:
            stream.write(json.dumps(asdict(Work(work[0], 0.0, 0.0, *work[1:]))) + "\n")
    after = plan(own, KNOWN)
    assert len(after.done) == 2 and after.left < before.left
    # No time at all was needed for what was done, so none is thought to be needed for what is like it, or for any of it.
    assert after.left == pytest.approx(0, abs=1) and before.left > 100


def test_files_are_side_by_side_and_so_are_further_trainings(tmp_path):
    parts = {"train": {"seeds": [0, 1, 2], "steps": 8, "checkpoints": 4}, "threads": 1}
    one = plan(experiment(tmp_path, **parts), KNOWN)
    two = plan(experiment(tmp_path, **parts, measure={"executor": "ray"}), KNOWN)
    assert (one.side_by_side, two.side_by_side) == (1, 2)
    for piece in one.pieces:
        first = piece.stage in ("training", "reading", "comparing", "report") and piece.tuning in ("", "seed 0")
        assert two.wall(piece) == pytest.approx(piece.seconds / (1 if first else 2))
    # Threads are cores: two to a file leave room for one.
    assert plan(experiment(tmp_path, **parts | {"threads": 2}, measure={"executor": "ray"}), KNOWN).side_by_side == 1


def test_gpus_that_are_not_here_are_reckoned(tmp_path):
    def on(text, **measure):
        own = Elsewhere.checked(text, "--on")
        known = replace(KNOWN, rates=own.rates(BIG), elsewhere=own)
        return plan(experiment(tmp_path, measure=measure), known)

    one, eight = on("teraflops=40"), on("gpus=8,teraflops=40")
    assert (one.side_by_side, eight.side_by_side) == (1, 8) and eight.memory == one.memory
    assert on("gpus=2,teraflops=40", gpus=0.25).side_by_side == 8
    # A row of a block is two operations a weight, whatever else there is.
    rates = Elsewhere(teraflops=40).rates(BIG)
    block = (BIG.parameters - BIG.vocabulary * BIG.d_model) / 30
    assert rates.row * 40e12 == pytest.approx(2 * block) and rates.back == 3 * rates.row
    for wrong in ("gpus=8", "gpus=0,teraflops=1", "teraflops=-1", "H100", "teraflops=nan"):
        with pytest.raises(ValueError, match="--on"):
            Elsewhere.checked(wrong, "--on")


def test_further_seeds_of_a_large_model_are_planned_at_their_ends(tmp_path):
    pieces = plan(experiment(tmp_path, train={"seeds": [0, 1], "steps": 40, "checkpoints": 2}), KNOWN).pieces
    at = {seed: {p.step for p in pieces if p.tuning == seed and p.stage == "circuit"} for seed in ("seed 0", "seed 1")}
    assert len(at["seed 0"]) == 12 and at["seed 1"] == {40}
    assert {p.step for p in pieces if p.tuning == "control shuffled" and p.step is not None} == {40}


def test_a_budget_is_kept_and_nothing_of_the_training_is_changed(tmp_path):
    own = experiment(tmp_path)
    whole = plan(own, KNOWN)
    for share in (0.9, 0.6):
        fitted, given = within(own, KNOWN, seconds=whole.seconds * share)
        assert plan(fitted, KNOWN).seconds <= whole.seconds * share and given
        assert fitted.config.data == own.config.data
        assert fitted.config.train.model_copy(update={"seeds": own.config.train.seeds}) == own.config.train
        # Nothing was given up that need not be.
        for one in (*FIRST, *THEN):
            if one.of(fitted.config) != one.of(own.config):
                back = replace(own, config=one.put(fitted.config, one.of(own.config)))
                assert plan(back, KNOWN).seconds > whole.seconds * share, one
    assert within(own, KNOWN, seconds=whole.seconds) == (own, [])
    with pytest.raises(ValueError, match=r"takes \d+ min at the least, and 0 min"):
        within(own, KNOWN, seconds=1)


def test_memory_is_kept_and_a_run_that_has_begun_keeps_to_its_choice(tmp_path):
    own = experiment(tmp_path, measure={"executor": "ray", "chunk": 512})
    whole = plan(own, KNOWN)
    fitted, given = within(own, KNOWN, memory=whole.memory * 0.9)
    assert plan(fitted, KNOWN).memory <= whole.memory * 0.9 and any("measure." in text for text in given)
    assert {one.key for one in FOR_MEMORY if one.of(fitted.config) != one.of(own.config)}
    Experiment.create(own.store.root, fitted.config).store.write_config(fitted.config)
    again, said = within(own, KNOWN, memory=whole.memory * 2)
    assert again.config == fitted.config and said == given
    with pytest.raises(ValueError, match="GiB of memory at the least"):
        within(experiment(tmp_path / "other"), KNOWN, memory=1)


def test_every_saving_saves_or_is_for_memory(tmp_path):
    own = experiment(tmp_path)
    whole, found = plan(own, KNOWN), dict(savings(own, KNOWN))
    assert found["measure.patching: attribution"].seconds < whole.seconds
    assert found["measure.circuit_pairs: 16"].seconds < whole.seconds
    assert all(
        p.seconds <= whole.seconds or p.memory < whole.memory for text, p in found.items() if "chunk" not in text
    )


@pytest.mark.parametrize(
    ("budget", "memory", "expected"),
    [
        ("60m", None, (3600, None)),
        ("1.5h", "6G", (5400, 6 * 2**30)),
        ("90s", "800MiB", (90, 800 * 2**20)),
        ("60 min", None, (3600, None)),
    ],
)
def test_amounts(budget, memory, expected):
    assert limits(budget, memory) == expected


@pytest.mark.parametrize("wrong", ["60", "m", "-1m", "0m", "1e9m", "60x", "", "6G"])
def test_what_is_no_amount_is_refused(wrong):
    with pytest.raises(ValueError, match="expected an amount and its unit"):
        limits(wrong, None)


def test_rates_grow_with_the_model():
    from transformers import GPT2Config

    from instar.workflow.rates import rates

    before = torch.get_num_threads()
    small, large = (rates(GPT2Config(n_layer=3, n_head=4, n_embd=d, vocab_size=100 * d), threads=1) for d in (32, 512))
    assert 0 < small.row < large.row < large.back and small.word < large.word
    assert torch.get_num_threads() == before
