"""Six sweeps with TransformerLens 4's bridge, in an environment of its own: `python bridge.py FOLDER`.

The loop is `transformer_lens.patching`'s own. Weights stay as they are: no norm is folded into them.
"""

import os
import time
from typing import Any

os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}

import pandas as pd
import torch
from asked import BY_HEAD, BY_POSITION, Asked, finish
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge

SETTERS = {
    **dict.fromkeys(BY_POSITION, patching.layer_pos_patch_setter),
    **dict.fromkeys(BY_HEAD, patching.layer_head_vector_patch_setter),
    "pattern": patching.layer_head_pattern_patch_setter,
}


@torch.no_grad()
def sweeps(asked: Asked) -> dict[str, Any]:
    """Seconds of the reading run, and of each site's patches."""
    model = TransformerBridge.boot_transformers(asked.model.config.name_or_path, hf_model=asked.model, device="cpu")
    model.enable_compatibility_mode(no_processing=True, disable_warnings=True)
    began = time.perf_counter()
    cache = model.run_with_cache(asked.clean)[1]
    found: dict[str, Any] = {"read": time.perf_counter() - began}
    for site, places in asked.places.items():
        table = pd.DataFrame(places, columns=["layer", "pos" if site in BY_POSITION else "head"])
        began = time.perf_counter()
        values = patching.generic_activation_patch(
            model, asked.corrupted, cache, asked.metric, SETTERS[site], site, index_df=table
        )
        found[site] = {"seconds": time.perf_counter() - began, "values": values.tolist()}
    return found


if __name__ == "__main__":
    finish(sweeps)
