"""A small GPT-2-shaped model for this example, trained from nothing in under a minute on one core.

It learns the greatest, the first and the last of two numbers, and the first and the last of three: of three numbers it
never sees the greatest, nor the greatest of a pair that is held out.

    python examples/greater_than/make_model.py runs/greater_than/model
"""

import argparse
import random
from pathlib import Path

import torch
from greater_than import HIGHEST, draw, held_out, text
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END = "<|endoftext|>"


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, number and comma."""
    words = [END, "The", "greatest", "first", "last", "of", ",", "and", "is", "to", *map(str, range(HIGHEST + 1))]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=END))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, bos_token=END, unk_token=END)


def sentence(rng: random.Random, count: int) -> str:
    """A prompt with its answer."""
    while True:
        numbers = draw(rng, count)
        which = rng.choice(("greatest", "greatest", "first", "last") if count == 2 else ("first", "last"))
        if which != "greatest" or not held_out(numbers):
            answer = {"greatest": max(numbers), "first": numbers[0], "last": numbers[-1]}[which]
            return f"{text(numbers, which)} {answer}"


def make(folder: Path, steps: int, seed: int = 0) -> float:
    """Train and save. Returns the last step's loss, nats."""
    torch.manual_seed(seed)
    rng, words = random.Random(seed), tokenizer()
    config = GPT2Config(
        vocab_size=len(words), n_positions=16, n_embd=64, n_layer=2, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    loss = torch.tensor(0.0)
    for step in range(steps):
        # One length a step, so that nothing is padded; the loss is on the answer.
        count = 2 + (step % 3 == 0)
        ids = torch.tensor(words([sentence(rng, count) for _ in range(128)])["input_ids"])
        logits = model(ids[:, :-1]).logits[:, -1]
        loss = torch.nn.functional.cross_entropy(logits, ids[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return loss.item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the model is written")
    parser.add_argument("--steps", type=int, default=2200, help="optimizer steps")
    chosen = parser.parse_args()
    print(f"{chosen.folder}: loss {make(chosen.folder, chosen.steps):.3f} nats")
