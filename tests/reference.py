"""An independent, slow, obviously right oracle for activation patching, edge attribution and circuits.

Imports nothing of the package under test. Every number comes from the unmodified Hugging Face model, run in full with
plain hooks, one intervention at a time; hooks, attention function and attention setting are put back after every run.

A *site* is a value inside the model (`sites`, `patched`). A *source* writes to the residual stream (`input`, a head
`a0.h1`, an MLP `m0`), a *destination* reads from it (`a0.h1<q>`, `m0`, `logits`), an *edge* joins the two. A
destination's input is changed where only that destination reads it: for q, k and v the head's columns of the projection
are computed again from the changed stream; for an MLP its norm, or the MLP itself, is handed the changed stream.

The models compute norms and softmax in float32 even when they are float64, so identities hold to about 1e-6.
"""

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

POST_NORMED = ("gemma2", "gemma3_text", "olmo2")
# A change to a value in the running model: (value, what this run has seen so far) -> value.
Change = Callable[[Tensor, dict[tuple[str, int], Tensor]], Tensor]


# --- Where each family keeps its parts --------------------------------------------------------------------------------


@dataclass
class Layer:
    block: nn.Module
    attention: nn.Module
    norm: nn.Module  # before attention; an identity where the family has none
    projections: dict[str, nn.Module]  # q, k, v; one module three times where they are fused
    out: Any  # the output projection
    attn_write: Any  # its output is what attention adds to the stream
    entry: nn.Module  # its input is the stream as the MLP reads it, after entry_norm
    entry_norm: nn.Module  # the norm of attention where the MLP shares it, else an identity
    mlp_write: nn.Module  # its output is what the MLP adds to the stream


@dataclass
class Parts:
    kind: str
    layers: list[Layer]
    final_norm: nn.Module
    parallel: bool
    n_heads: int
    n_kv: int
    d_head: int

    def columns(self, letter: str, head: int) -> slice:
        """The columns of the projection's output that are this head's q, k or v."""
        d, n, which = self.d_head, self.n_heads, "qkv".index(letter)
        if self.kind == "gpt_neox":  # per head [q|k|v]
            start = (3 * head + which) * d
        elif self.kind == "gpt2":  # all of q | all of k | all of v
            start = (which * n + head) * d
        elif self.kind == "phi3":  # the same with fewer heads in k and v
            start = ((0, n, n + self.n_kv)[which] + head) * d
        else:
            start = head * d
        return slice(start, start + d)

    def heads(self, letter: str) -> int:
        return self.n_heads if letter == "q" else self.n_kv

    def through_head(self, layer: int, head: int, z: Tensor) -> Tensor:
        """What one head's z becomes by the output projection, without the bias: [pair, pos, d_model]."""
        weight = self.layers[layer].out.weight
        weight = weight if self.kind == "gpt2" else weight.T  # Conv1D keeps [in, out], Linear [out, in]
        return z[:, head] @ weight[head * self.d_head : (head + 1) * self.d_head]


def _layer(kind: str, parallel: bool, block: Any) -> Layer:
    if kind == "gpt2":
        attention, out, fused = block.attn, block.attn.c_proj, block.attn.c_attn
        norm, entry, mlp = block.ln_1, block.ln_2, block.mlp
    elif kind == "gpt_neox":
        attention, out, fused = block.attention, block.attention.dense, block.attention.query_key_value
        norm, entry, mlp = block.input_layernorm, block.post_attention_layernorm, block.mlp
    elif kind == "opt":
        attention, out, fused = block.self_attn, block.self_attn.out_proj, None
        norm, entry, mlp = block.self_attn_layer_norm, block.final_layer_norm, block.fc2
    elif kind == "phi":
        attention, out, fused = block.self_attn, block.self_attn.dense, None
        norm, entry, mlp = block.input_layernorm, block.mlp, block.mlp
    else:
        attention, out, mlp = block.self_attn, block.self_attn.o_proj, block.mlp
        fused = attention.qkv_proj if kind == "phi3" else None
        norm = nn.Identity() if kind == "olmo2" else block.input_layernorm
        entry = {"olmo2": block.mlp, "stablelm": block.mlp if parallel else block.post_attention_layernorm}.get(kind)
        entry = entry or (block.pre_feedforward_layernorm if kind in POST_NORMED else block.post_attention_layernorm)
    projections = {x: fused if fused is not None else getattr(attention, f"{x}_proj") for x in "qkv"}
    shared = parallel and entry is mlp  # phi, stablelm: one norm for both branches
    return Layer(
        block=block,
        attention=attention,
        norm=norm,
        projections=projections,
        out=out,
        attn_write=block.post_attention_layernorm if kind in POST_NORMED else out,
        entry=entry,
        entry_norm=norm if shared else nn.Identity(),
        mlp_write=block.post_feedforward_layernorm if kind in POST_NORMED else mlp,
    )


def _parts(model: Any) -> Parts:
    config = model.config
    kind = config.model_type
    parallel = kind == "phi" or (kind in ("gpt_neox", "stablelm") and config.use_parallel_residual)
    if kind == "gpt2":
        blocks, final_norm = model.transformer.h, model.transformer.ln_f
    elif kind == "gpt_neox":
        blocks, final_norm = model.gpt_neox.layers, model.gpt_neox.final_layer_norm
    elif kind == "opt":
        blocks, final_norm = model.model.decoder.layers, model.model.decoder.final_layer_norm
    else:
        blocks = model.model.layers
        final_norm = model.model.final_layernorm if kind == "phi" else model.model.norm
    layers = [_layer(kind, parallel, block) for block in blocks]
    n_heads = config.num_attention_heads
    width = layers[0].out.weight.shape[0 if kind == "gpt2" else 1]
    return Parts(
        kind=kind,
        layers=layers,
        final_norm=final_norm,
        parallel=parallel,
        n_heads=n_heads,
        n_kv=getattr(config, "num_key_value_heads", n_heads),
        d_head=width // n_heads,
    )


# --- One run with everything seen and anything changed ----------------------------------------------------------------


@dataclass
class Run:
    """What one forward pass changes and what it has seen.

    `edits` change a site for all that comes after it; `inputs` change a destination's input for that destination only.
    """

    edits: dict[tuple[str, int], Change] = field(default_factory=dict)
    inputs: dict[str, Change] = field(default_factory=dict)
    seen: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def pass_by(self, site: str, layer: int, value: Tensor) -> Tensor:
        if (site, layer) in self.edits:
            value = self.edits[site, layer](value, self.seen)
        self.seen[site, layer] = value
        return value

    def enter(self, destination: str, value: Tensor) -> Tensor:
        return self.inputs[destination](value, self.seen)


def _hook_stream(stack: ExitStack, run: Run, parts: Parts, index: int) -> None:
    """The residual stream and what is added to it. Hooks on one module run in the order they are put on."""
    layer = parts.layers[index]

    def block_reads(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return run.pass_by("resid_pre", index, args[0]), *args[1:]

    def attention_projects(_: nn.Module, _args: Any, out: Tensor) -> None:
        run.pass_by("raw", index, out)

    def attention_adds(_: nn.Module, _args: Any, out: Tensor) -> Tensor:
        out = run.pass_by("attn_out", index, out)
        if not parts.parallel:
            before = run.seen["resid_pre", index]
            middle = run.pass_by("resid_mid", index, before + out)
            # The stream in the middle is no module's value: attention adds what brings the stream there.
            out = middle - before if ("resid_mid", index) in run.edits else out
        return out

    def mlp_reads(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        before = run.seen["resid_pre" if parts.parallel else "resid_mid", index]
        run.pass_by("mlp_in", index, before)
        if f"m{index}" not in run.inputs:
            return None
        read = layer.entry_norm.forward(run.enter(f"m{index}", before))
        return read.reshape(args[0].shape), *args[1:]  # OPT has pairs and positions in one dimension here

    def mlp_adds(_: nn.Module, _args: Any, out: Tensor) -> Tensor:
        shape = run.seen["resid_pre", index].shape
        return run.pass_by("mlp_out", index, out.reshape(shape)).reshape(out.shape)

    stack.callback(layer.block.register_forward_pre_hook(block_reads).remove)
    stack.callback(layer.out.register_forward_hook(attention_projects).remove)
    stack.callback(layer.attn_write.register_forward_hook(attention_adds).remove)
    stack.callback(layer.entry.register_forward_pre_hook(mlp_reads).remove)
    stack.callback(layer.mlp_write.register_forward_hook(mlp_adds).remove)


def _hook_projection(stack: ExitStack, run: Run, parts: Parts, index: int, letter: str) -> None:
    """Let each head read its own version of the stream: its columns of the projection are computed again."""
    layer = parts.layers[index]

    def project(module: nn.Module, _args: Any, out: Tensor) -> Tensor:
        for head in range(parts.heads(letter)):
            name = f"a{index}.h{head}<{letter}>"
            if name in run.inputs:
                read = run.enter(name, run.seen["resid_pre", index])
                columns = parts.columns(letter, head)
                out = out.clone()
                # `forward` and not a call, which would come back to this hook.
                out[..., columns] = module.forward(layer.norm.forward(read))[..., columns]
        return out

    stack.callback(layer.projections[letter].register_forward_hook(project).remove)


def _hook_attention(stack: ExitStack, run: Run, parts: Parts) -> None:
    """Stand in front of the family's own attention function, to see and change q, k, v, pattern and z."""
    home: Any = sys.modules[type(parts.layers[0].attention).__module__]
    original = home.eager_attention_forward

    def attend(module: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        index = module.layer_idx
        q, k, v = (run.pass_by(site, index, x) for site, x in (("q", q), ("k", k), ("v", v)))
        z, pattern = original(module, q, k, v, *args, **kwargs)
        pattern = run.pass_by("pattern", index, pattern)
        if ("pattern", index) in run.edits:
            z = (pattern @ v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)).transpose(1, 2)
        z = run.pass_by("z", index, z.transpose(1, 2)).transpose(1, 2)
        return z, pattern

    stack.callback(setattr, home, "eager_attention_forward", original)
    home.eager_attention_forward = attend


@contextmanager
def _hooked(model: Any, run: Run) -> Iterator[None]:
    parts = _parts(model)

    def logits_read(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        stream = run.pass_by("final", 0, args[0])
        return (run.enter("logits", stream), *args[1:]) if "logits" in run.inputs else None

    with ExitStack() as stack:
        stack.callback(model.set_attn_implementation, model.config._attn_implementation)
        model.set_attn_implementation("eager")
        _hook_attention(stack, run, parts)
        for index in range(len(parts.layers)):
            _hook_stream(stack, run, parts, index)
            for letter in "qkv":
                _hook_projection(stack, run, parts, index, letter)
        stack.callback(parts.final_norm.register_forward_pre_hook(logits_read).remove)
        yield


def _measure(model: Any, run: Run, tokens: Tensor, mask: Tensor, answer: Tensor, foils: Tensor) -> Tensor:
    """The metric of one run. The caller decides whether gradients are kept."""
    with _hooked(model, run):
        logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
    end = mask.long().sum(dim=1) - 1
    last = logits[torch.arange(len(tokens)), end]
    return last.gather(1, answer[:, None])[:, 0] - last.gather(1, foils).mean(dim=1)


@torch.no_grad()
def _look(model: Any, tokens: Tensor, mask: Tensor) -> dict[tuple[str, int], Tensor]:
    """Everything an unchanged run passes by."""
    run = Run()
    with _hooked(model, run):
        model(input_ids=tokens, attention_mask=mask, use_cache=False)
    return run.seen


# --- Sites and patching -----------------------------------------------------------------------------------------------


def sites(model: Any, tokens: Tensor, mask: Tensor) -> dict[str, list[Tensor]]:
    """Every site of every layer; `resid_mid` is absent in parallel blocks."""
    seen = _look(model, tokens, mask)
    names = ["resid_pre", "resid_mid", "attn_out", "mlp_out", "q", "k", "v", "pattern", "z"]
    n_layers = len(_parts(model).layers)
    return {name: [seen[name, n] for n in range(n_layers)] for name in names if (name, 0) in seen}


@torch.no_grad()
def metric(model: Any, tokens: Tensor, mask: Tensor, answer: Tensor, foils: Tensor) -> Tensor:
    """logit(answer) - mean logit(foils) at each prompt's last token: [pair]."""
    return _measure(model, Run(), tokens, mask, answer, foils)


@torch.no_grad()
def patched(
    model: Any,
    base: Tensor,
    source: Tensor,
    mask: Tensor,
    answer: Tensor,
    foils: Tensor,
    site: str,
    layer: int,
    pos: int | None = None,
    head: int | None = None,
) -> Tensor:
    """The metric on `base` with one site, at one head and position or all, taken from the run on `source`."""
    theirs = _look(model, source, mask)[site, layer]
    where = (slice(None),) if site in ("resid_pre", "resid_mid", "attn_out", "mlp_out") else (slice(None), head)
    where = tuple(slice(None) if x is None else x for x in (*where, pos))

    def replace(value: Tensor, _seen: dict[tuple[str, int], Tensor]) -> Tensor:
        value = value.clone()
        value[where] = theirs[where]
        return value

    return _measure(model, Run(edits={(site, layer): replace}), base, mask, answer, foils)


# --- The graph --------------------------------------------------------------------------------------------------------


def readers(model: Any) -> dict[str, list[str]]:
    """Every destination in order, with the sources that come strictly before it."""
    parts = _parts(model)
    before = ["input"]
    found: dict[str, list[str]] = {}
    for n in range(len(parts.layers)):
        for letter in "qkv":
            for head in range(parts.heads(letter)):
                found[f"a{n}.h{head}<{letter}>"] = list(before)
        heads = [f"a{n}.h{head}" for head in range(parts.n_heads)]
        found[f"m{n}"] = list(before) if parts.parallel else before + heads
        before += [*heads, f"m{n}"]
    found["logits"] = before
    return found


def edges(model: Any) -> list[str]:
    return [f"{source}->{destination}" for destination, sources in readers(model).items() for source in sources]


def _stream_of(seen: dict[tuple[str, int], Tensor], destination: str) -> Tensor:
    """The stream as this destination reads it in a run."""
    if destination == "logits":
        return seen["final", 0]
    site = "mlp_in" if destination[0] == "m" else "resid_pre"
    return seen[site, int(destination[1:].split(".")[0])]


def _changed(
    parts: Parts, base: dict[tuple[str, int], Tensor], other: dict[tuple[str, int], Tensor], sources: Collection[str]
) -> Tensor:
    """What these sources write in run `other` minus what they write in run `base`, for exact interventions."""
    total = torch.zeros_like(base["resid_pre", 0])
    if "input" in sources:
        total = total + other["resid_pre", 0] - base["resid_pre", 0]
    for n, layer in enumerate(parts.layers):
        heads = [head for head in range(parts.n_heads) if f"a{n}.h{head}" in sources]
        if heads:
            change = sum(parts.through_head(n, head, other["z", n] - base["z", n]) for head in heads)
            if parts.kind in POST_NORMED:  # the heads go through one norm together
                norm, raw = layer.attn_write, base["raw", n]
                change = norm.forward(raw + change) - norm.forward(raw)
            total = total + change
        if f"m{n}" in sources:
            total = total + other["mlp_out", n] - base["mlp_out", n]
    return total


def _writes(parts: Parts, seen: dict[tuple[str, int], Tensor]) -> dict[str, Tensor]:
    """What every source writes in one run, for attribution: a post norm is frozen at this run's own scale."""
    found = {"input": seen["resid_pre", 0]}
    for n, layer in enumerate(parts.layers):
        scale: Tensor | float = 1.0
        if parts.kind in POST_NORMED:
            norm, raw = layer.attn_write, seen["raw", n]
            eps = norm.variance_epsilon if parts.kind == "olmo2" else norm.eps
            weight = norm.weight if parts.kind == "olmo2" else 1 + norm.weight
            scale = torch.rsqrt(raw.pow(2).mean(dim=-1, keepdim=True) + eps) * weight
        for head in range(parts.n_heads):
            found[f"a{n}.h{head}"] = parts.through_head(n, head, seen["z", n]) * scale
        found[f"m{n}"] = seen["mlp_out", n]
    return found


# --- Edges and circuits -----------------------------------------------------------------------------------------------


@torch.no_grad()
def edges_exact(
    model: Any, clean: Tensor, corrupted: Tensor, mask: Tensor, answer: Tensor, foils: Tensor
) -> dict[str, float]:
    """The mean change of the metric on clean when one edge alone carries what it carries on corrupted."""
    parts = _parts(model)
    base, other = _look(model, clean, mask), _look(model, corrupted, mask)
    before = metric(model, clean, mask, answer, foils)
    changes = {source: _changed(parts, base, other, {source}) for source in readers(model)["logits"]}
    scores = {}
    for destination, sources in readers(model).items():
        for source in sources:
            run = Run(inputs={destination: lambda value, _seen, change=changes[source]: value + change})
            after = _measure(model, run, clean, mask, answer, foils)
            scores[f"{source}->{destination}"] = (after - before).mean().item()
    return scores


def _input_gradients(
    model: Any, tokens: Tensor, mask: Tensor, answer: Tensor, foils: Tensor, embeddings: Tensor
) -> dict[str, Tensor]:
    """The gradient of the metric with respect to every destination's input, at these embeddings."""
    leaves = {name: torch.zeros_like(embeddings).requires_grad_() for name in readers(model)}
    run = Run(
        edits={("resid_pre", 0): lambda _value, _seen: embeddings},
        inputs={name: lambda value, _seen, leaf=leaf: value + leaf for name, leaf in leaves.items()},
    )
    with torch.enable_grad():
        total = _measure(model, run, tokens, mask, answer, foils).sum()  # pairs do not see each other
        found = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def edges_eap(
    model: Any,
    clean: Tensor,
    corrupted: Tensor,
    mask: Tensor,
    answer: Tensor,
    foils: Tensor,
    steps: int | None = None,
    rule: str = "midpoint",
) -> dict[str, float]:
    """Edge attribution patching; with `steps`, the gradients are averaged on the way from corrupted to clean."""
    parts = _parts(model)
    base, other = _look(model, clean, mask), _look(model, corrupted, mask)
    start, way = other["resid_pre", 0], base["resid_pre", 0] - other["resid_pre", 0]
    offset = {"midpoint": 0.5, "left": 0.0}[rule]
    points = [base["resid_pre", 0]] if steps is None else [start + (k + offset) / steps * way for k in range(steps)]
    gradients = [_input_gradients(model, clean, mask, answer, foils, point) for point in points]
    ours, theirs = _writes(parts, base), _writes(parts, other)
    scores = {}
    for destination, sources in readers(model).items():
        gradient = sum(found[destination] for found in gradients) / len(gradients)
        for source in sources:
            product = (theirs[source] - ours[source]) * gradient
            scores[f"{source}->{destination}"] = product.sum().item() / len(clean)
    return scores


@torch.no_grad()
def circuit(
    model: Any,
    clean: Tensor,
    corrupted: Tensor,
    mask: Tensor,
    answer: Tensor,
    foils: Tensor,
    edges: Collection[str],
) -> Tensor:
    """The metric when only these edges carry what their sources write now; all others carry the corrupted run: [pair].

    The model runs on clean, and every destination is handed its input, so its own stream reaches nothing but `input`.
    """
    parts = _parts(model)
    base = _look(model, corrupted, mask)

    def read(destination: str, kept: set[str]) -> Change:
        return lambda _value, now: _stream_of(base, destination) + _changed(parts, base, now, kept)

    inputs = {
        destination: read(destination, {source for source in sources if f"{source}->{destination}" in edges})
        for destination, sources in readers(model).items()
    }
    return _measure(model, Run(inputs=inputs), clean, mask, answer, foils)
