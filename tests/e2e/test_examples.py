"""The examples that need weights which are not here, on a folder of the same shape."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from instar.models.load import load
from instar.models.organism import FOLDER
from instar.record.config import RunConfig
from instar.workflow.experiment import Experiment
from instar.workflow.pipeline import run_all

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_the_log_s_experiment_on_a_folder_of_gpt2_small_s_shape(tmp_path):
    """A few steps of it: random weights, and the embedded model's words in GPT-2's vocabulary size."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    GPT2LMHeadModel(GPT2Config(**ends)).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    few = {
        "model": {"source": str(tmp_path / "gpt2")},
        "data": {"train_size": 8, "test_size": 20, "measure_pairs": 8},
        "train": {"steps": 2, "checkpoints": 2, "batch_size": 4, "seeds": [0]},
        "measure": {"stages": ["evaluate"]},
        "compare": {"controls": []},
        "report": {"gifs": False, "static": False},
    }
    config = RunConfig.read(EXAMPLES / "gpt2-ioi3.yaml", few)
    assert config.train.learning_rate == 1e-5 and config.train.save == "bfloat16"
    experiment = Experiment.create(tmp_path / "out", config)
    store = experiment.store
    summary = run_all(experiment)
    assert summary["tasks"]["ioi3"]["steps"] == [0, 2] and not summary["failed"]
    sizes = summary["training"]["0"]["bytes"]
    assert sizes[0] > 4.9e8 and sizes[1] < 0.51 * sizes[0]
    assert (
        load(store.checkpoint(0, 2), like=load(store.checkpoint(0, 0))).weights != summary["checkpoints"][0]["weights"]
    )
