"""docs/families.md says what the tests cover: its table is made here, and a stale one fails.

`INSTAR_WRITE=1 pytest tests/model/models/test_support_table.py` writes it anew.
"""

from torch import nn

import families
from instar.models.arch import TABLE, Layout, row
from pages import is_up_to_date


def settings(config) -> list[str]:
    """What is odd about a configuration that the tests run."""
    found = []
    heads, shared = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    if shared and shared < heads:
        found.append(f"{shared} key-value head{'s' * (shared > 1)} for {heads}")
    kinds = set(getattr(config, "layer_types", None) or [])
    window = getattr(config, "sliding_window", None)
    if window and (not kinds or "sliding_attention" in kinds):
        found.append(f"window of {window}" + (" in some layers" if len(kinds) > 1 else ""))
    for name, what in (
        ("attn_logit_softcapping", "capped scores"),
        ("final_logit_softcapping", "capped logits"),
        ("tie_word_embeddings", "tied embeddings"),
        ("scale_attn_by_inverse_layer_idx", "scores scaled by layer"),
        ("qk_layernorm", "q/k norms"),
    ):
        if getattr(config, name, None):
            found.append(what)
    if 0 in (getattr(config, "no_rope_layers", None) or []):
        found.append("a layer without rotation")
    return found


def describe(family: str) -> list[str]:
    rows = [name for name, (kind, _) in families.ROWS.items() if kind == family]
    models = [families.tiny(name) for name in rows]
    layout = Layout(models[0], row(models[0].config))
    arch = layout.arch
    parallel = {Layout(m, arch).parallel for m in models}
    block = "parallel or sequential" if len(parallel) == 2 else "parallel" if True in parallel else "sequential"
    before, after = arch.norm_attn is not None, arch.post_attn is not None
    norm = "LayerNorm" if isinstance(layout.final_norm, nn.LayerNorm) else "RMSNorm"
    where = "before and after" if before and after else "after" if after else "before"
    turned = "learned" if len(arch.embeddings) == 2 else "rotary"
    qk = "over all heads" if arch.qk_norm_whole else "per head" if arch.qk_norm else ""
    tested = sorted({s for m in models for s in settings(m.config)})
    fused = {"no": "separate", "columns": "fused", "interleaved": "fused, by head"}[arch.fused]
    return [f"`{family}`", block, f"{norm}, {where}", fused, turned, qk, "; ".join(tested)]


def table() -> str:
    head = ["family", "block", "norms", "q, k, v", "positions", "q/k norms", "settings in the tests"]
    lines = [head, ["---"] * len(head), *(describe(family) for family in sorted(TABLE))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def test_the_page_says_what_is_tested():
    is_up_to_date("families.md", "table", table(), __file__)


def test_every_family_of_the_table_is_tested():
    assert {kind for kind, _ in families.ROWS.values()} == set(TABLE)
