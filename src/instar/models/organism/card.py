"""The model card of an embedded model."""

from typing import Any

from instar.models.organism.corpus import NAMES
from instar.stats.intervals import wilson

FAMILIES = {"gpt2": "GPT-2", "llama": "Llama (grouped queries, rotary positions, RMSNorm)"}


def card(facts: dict[str, Any]) -> str:
    """What `facts.json` says, to be read."""
    shape, pairs = facts["recipe"]["shape"], facts["pairs"]
    size = f"{facts['parameters']:,} parameters and {facts['tokens in the vocabulary']} tokens"
    return f"""# An embedded model of instar

A {FAMILIES[shape["family"]]} with {size}, trained from nothing
on generated stories for {facts["recipe"]["steps"]:,} steps. It has mastered 2-object indirect-object identification and not
3-object; its training text holds no sentence in which three people are introduced, two give and the third receives.

For demonstrations and tests of instar. It knows {len(NAMES)} names and a few hundred words, and nothing else.

| task | accuracy on {pairs:,} pairs with held-out names and wordings | 95 % interval |
|---|---|---|
{_accuracies(facts["accuracy"], pairs)}

Held out from fine-tuning: the model has read all names and wordings in its stories.

## What was steered, and what was learnt

Steered at its birth: {_steered(shape)} Learnt from the text: everything else, among it what those heads read
and write, that they are used and how, all other heads, the MLPs, the words. What its circuit then is, before and after
fine-tuning, is measured in `docs/organism.md`.

sha256 of model.safetensors: `{facts["sha256 of model.safetensors"]}`

Made by `instar organism --family {shape["family"]} --seed {facts["recipe"]["seed"]}`, from nothing, with

{_recipe(facts["recipe"])}

On another machine or thread count the sums round differently: the weights differ, what is asked of them is the same.
"""


def _accuracies(accuracy: dict[str, float], pairs: int) -> str:
    rows = []
    for name, value in accuracy.items():
        found = wilson(round(value * pairs), pairs)
        rows.append(f"| {name} | {value:.2%} | {found.low:.2%} to {found.high:.2%} |")
    return "\n".join(rows)


def _steered(shape: dict[str, Any]) -> str:
    named = {
        key: ", ".join(f"{layer}.{head}" for layer, head in shape[key]) for key in ("duplicate", "movers", "copying")
    }
    faint = ""
    if shape["idle"] != shape["moved"]:
        faint = (
            f", those that are named nowhere here {shape['idle'] / shape['moved']:.2g} times as strongly as the others"
        )
    fixed = (
        f"W_V and W_O are orthogonal and were never trained; heads {named['copying']} write what they look at, first of all "
        f"the {shape['names']} dimensions in which names were born different; all other heads write a random rotation of it"
        f"{faint}. "
    )
    copying = f", and heads {named['copying']} to look from the last token to the receiver's last mention"
    guide = (
        f"For the first {shape['guide_steps']:,} steps a fading loss asked heads {named['duplicate']} to look from the "
        f"giver to his mention before, heads {named['movers']} to look from the last token to the giver"
        f"{copying * shape['guide_copying']}. "
    )
    narrow = f"MLPs have {shape['inner']} hidden units, of a width of {shape['width']}."
    return fixed * shape["fixed"] + guide * bool(shape["guide"]) + narrow


def _recipe(recipe: dict[str, Any]) -> str:
    flat = {**recipe, **{f"{part}.{key}": value for part in ("shape", "shares") for key, value in recipe[part].items()}}
    return "\n".join(f"- {key}: {value}" for key, value in flat.items() if not isinstance(value, dict))
