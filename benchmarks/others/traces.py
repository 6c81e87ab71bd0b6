"""Sweeps with nnsight, a trace for each patch, in an environment of its own: `python traces.py FOLDER`.

Attention's pattern has no name there that can be set without naming lines of transformers' code: it is left out.
"""

import time
from typing import Any

import torch
from asked import Asked, finish
from nnsight import NNsight

SITES = ("resid_pre", "attn_out", "mlp_out", "z", "v")


@torch.no_grad()
def sweeps(asked: Asked) -> dict[str, Any]:
    """Seconds of the reading run, and of each site's patches."""
    config, model = asked.model.config, NNsight(asked.model)
    blocks, width, head = model.transformer.h, config.n_embd, config.n_embd // config.n_head
    began = time.perf_counter()
    seen: dict[str, list[Any]] = {site: [] for site in SITES}
    with model.trace(asked.clean):
        for block in blocks:
            seen["resid_pre"].append(block.input.clone().save())
            seen["v"].append(block.attn.c_attn.output[..., 2 * width :].clone().save())
            seen["z"].append(block.attn.c_proj.input.clone().save())
            seen["attn_out"].append(block.attn.output[0].clone().save())
            seen["mlp_out"].append(block.mlp.output.clone().save())
    found: dict[str, Any] = {"read": time.perf_counter() - began}
    for site in SITES:
        values, began = [], time.perf_counter()
        for layer, place in asked.places[site]:
            block, clean = blocks[layer], seen[site][layer]
            heads = slice(place * head, (place + 1) * head)
            with model.trace(asked.corrupted):
                if site == "resid_pre":
                    block.input[:, place] = clean[:, place]
                elif site == "attn_out":
                    block.attn.output[0][:, place] = clean[:, place]
                elif site == "mlp_out":
                    block.mlp.output[:, place] = clean[:, place]
                elif site == "z":
                    block.attn.c_proj.input[..., heads] = clean[..., heads]
                else:
                    block.attn.c_attn.output[..., 2 * width :][..., heads] = clean[..., heads]
                logits = model.output.logits.save()
            values.append(asked.metric(logits).item())
        found[site] = {"seconds": time.perf_counter() - began, "values": values}
    return found


if __name__ == "__main__":
    finish(sweeps)
