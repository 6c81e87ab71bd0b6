"""The embedded model from nothing: vocabulary, text, training, stop, model card.

1. A byte-level BPE vocabulary in which every word of the corpus is one token, with its leading space as in GPT-2.
2. A GPT-2 of 6 layers × 8 heads × 128 trained on stories (`corpus`), one story a row, so that every prompt later
   stands at positions the model knows.
3. Three-object accuracy wanders while two-object accuracy rises, so training stops at the first check that finds the
   old task mastered and the new one not, on development pairs whose seed no report uses.
4. The card reports accuracy on other pairs, with intervals, and the weights' sha256.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from instar.models.organism import corpus
from instar.models.read import quiet
from instar.tasks.batch import Batch, tokenize
from instar.tasks.library import ioi

END_OF_TEXT = "<|endoftext|>"
DEVELOPMENT_SEED, REPORT_SEED = 1_000_003, 2_000_003


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 1
    layers: int = 6
    heads: int = 8
    width: int = 128
    positions: int = 96
    batch: int = 32
    steps: int = 1600
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 100
    check_every: int = 25
    pairs: int = 1000
    old_at_least: float = 0.997
    new_between: tuple[float, float] = (0.34, 0.41)
    threads: int = 2


def vocabulary(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that keeps every word of the corpus whole."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=1,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    source = corpus.stories(recipe.seed)
    sentences = {sentence for _ in range(20_000) for sentence in next(source)}
    tokenizer.train_from_iterator(sorted(sentences), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        model_max_length=recipe.positions,
    )


def rows(tokenizer: Any, seed: int, size: int, width: int) -> Iterator[Int[Tensor, "row pos"]]:
    """Batches of stories, each ended by end-of-text and right-padded with −1."""
    source = corpus.stories(seed)
    while True:
        texts = [" ".join(next(source)) for _ in range(size)]
        cut = tokenizer(texts, truncation=True, max_length=width - 1)["input_ids"]
        ids = [[*row, tokenizer.eos_token_id] for row in cut]
        longest = max(map(len, ids))
        yield torch.tensor([[*row, *[-1] * (longest - len(row))] for row in ids])


def language_loss(model: Any, ids: Int[Tensor, "row pos"]) -> Tensor:
    """Mean next-token loss in nats over the real tokens."""
    logits = model(input_ids=ids.clamp_min(0), attention_mask=(ids >= 0).long(), use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=-1)


@torch.no_grad()
def accuracy(model: Any, batch: Batch, chunk: int = 250) -> float:
    """Share of pairs whose answer is the top token."""
    right = 0
    for start in range(0, len(batch), chunk):
        part = batch[slice(start, start + chunk)]
        logits = model(input_ids=part.clean, attention_mask=part.mask.long(), use_cache=False).logits
        right += int((logits[torch.arange(len(part)), part.end].argmax(-1) == part.answer).sum())
    return right / len(batch)


def make(folder: Path, recipe: Recipe = Recipe(), report: Callable[[int, int, str], None] | None = None) -> dict:
    """Train the embedded model and write it to `folder`. Returns what the card says, as a dict."""
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    tokenizer = vocabulary(recipe)
    model = GPT2LMHeadModel(_config(recipe, len(tokenizer)))
    development = {n: _pairs(tokenizer, n, recipe.pairs, DEVELOPMENT_SEED) for n in (2, 3)}
    step = _train(model, tokenizer, recipe, development, report or (lambda *_: None))
    measured = {n: accuracy(model, _pairs(tokenizer, n, 4000, REPORT_SEED)) for n in (2, 3, 4, 5)}
    return _write(folder, model, tokenizer, recipe, step, measured)


def _config(recipe: Recipe, tokens: int) -> GPT2Config:
    return GPT2Config(
        vocab_size=tokens,
        n_positions=recipe.positions,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )


def _pairs(tokenizer: Any, n: int, count: int, seed: int) -> Batch:
    return tokenize(ioi(n).pairs(count, seed), tokenizer)


def _rate(step: int, recipe: Recipe) -> float:
    cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    return min(1.0, (step + 1) / recipe.warmup) * (0.05 + 0.95 * cosine)


def _train(model: Any, tokenizer: Any, recipe: Recipe, development: dict[int, Batch], report: Callable) -> int:
    """Train until the old task is mastered and the new one is not. Returns the step."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    note = ""
    for step, ids in enumerate(rows(tokenizer, recipe.seed, recipe.batch, recipe.positions)):
        if step and step % recipe.check_every == 0:
            model.eval()
            old, new = (accuracy(model, development[n]) for n in (2, 3))
            note = f"2-object {old:.1%}, 3-object {new:.1%}"
            low, high = recipe.new_between
            if old >= recipe.old_at_least and low <= new <= high:
                report(step, recipe.steps, note + ": mastered and not; stopped")
                return step
            model.train()
        report(step, recipe.steps, note)
        if step == recipe.steps:
            raise ValueError(
                f"after {step} steps: {note}; wanted at least {recipe.old_at_least:.1%} and within "
                f"{recipe.new_between}. Try another --seed."
            )
        loss = language_loss(model, ids)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    raise AssertionError("the corpus has no end")


def _write(folder: Path, model: Any, tokenizer: Any, recipe: Recipe, step: int, measured: dict[int, float]) -> dict:
    """Model, tokenizer and card, moved into place whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".organism-"))
    with quiet():
        model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    digest = hashlib.sha256((scratch / "model.safetensors").read_bytes()).hexdigest()
    facts = {
        "step": step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens in the vocabulary": len(tokenizer),
        "sha256 of model.safetensors": digest,
        "pairs": 4000,
        "accuracy": {f"ioi{n}": round(value, 4) for n, value in measured.items()},
        "recipe": asdict(recipe),
    }
    (scratch / "README.md").write_text(_card(facts), encoding="utf-8")
    (scratch / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    folder.mkdir(exist_ok=True)
    for file in sorted(scratch.iterdir()):
        file.chmod(0o644)
        file.replace(folder / file.name)
    scratch.rmdir()
    return facts


def _card(facts: dict) -> str:
    table = "\n".join(f"| {name} | {value:.2%} |" for name, value in facts["accuracy"].items())
    recipe = "\n".join(f"- {key}: {value}" for key, value in facts["recipe"].items())
    return f"""# The embedded model of instar

A GPT-2 with {facts["parameters"]:,} parameters and {facts["tokens in the vocabulary"]} tokens, trained from nothing on
generated stories for {facts["step"]} steps. It has mastered 2-object indirect-object identification and not 3-object;
its training text holds no sentence in which three people are introduced, two give and the third receives.

For demonstrations and tests of instar. It knows {len(corpus.NAMES)} names and a few hundred words, and nothing else.

| task | accuracy on {facts["pairs"]:,} pairs with held-out names and wordings |
|---|---|
{table}

sha256 of model.safetensors: `{facts["sha256 of model.safetensors"]}`

Made by `instar organism`, from nothing, with

{recipe}

On another machine or thread count the sums round differently: the weights differ, the stopping rule is the same.
"""
