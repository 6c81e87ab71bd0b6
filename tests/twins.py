"""Two models of one shape, and prompts for them: what tests between two checkpoints begin with."""

import copy

import torch

import families
import instar
from instar.models.arch import Layout, row
from instar.models.load import Model, fingerprint


def noisy(module, size, seed=1):
    """A copy with noise on every parameter."""
    module, draw = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            scale = value.square().mean().sqrt() if value.ndim > 1 else 1.0
            value.add_(size * scale * torch.randn(value.shape, generator=draw, dtype=torch.float64))
    return module


def named(module, name):
    """A model under a name; not proven, which takes longer than all else here (test_load.py does it)."""
    return Model(module, None, Layout(module, row(module.config)), name, fingerprint(module))


def prompts(n=3, width=7):
    tokens = families.tokens(n, width)
    corrupted = tokens.clone()
    corrupted[:, 2] = 3 + (tokens[:, 2] + 5) % 90
    mask = torch.arange(width)[None] < width - torch.arange(n)[:, None]
    foils = torch.tensor([[9, 10], [11, 12], [13, 14]])[:n]
    return instar.Batch.from_tokens(tokens, corrupted, torch.arange(n) + 5, foils, mask)
