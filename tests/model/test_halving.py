"""What runs out of memory takes fewer pairs a pass and goes on, with the same numbers."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
import torch

import instar
from instar.models.memory import halving

PAIRS = 3000


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """So many bytes more than this process has now; what it asks for beyond is refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_a_pass_that_does_not_fit_is_halved(embedded):
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    clean = torch.randint(1, 200, (PAIRS, 24), generator=draw)
    corrupted = clean.clone()
    corrupted[:, 3] = clean[:, 3] % 199 + 1
    batch = instar.Batch.from_tokens(clean, corrupted, clean[:, 0], clean[:, 0] % 199 + 1)
    expected = instar.lens(embedded, batch, chunk=100)
    assert "chunk" not in expected.attrs
    with at_most(300 * 2**20), pytest.warns(UserWarning, match=r"lens: no memory for \d+ pairs a pass; \d+ now"):
        found = instar.lens(embedded, batch, chunk=PAIRS)
    assert 1 <= found.attrs["chunk"] < PAIRS
    for name in expected.data_vars:
        np.testing.assert_allclose(found[name].values, expected[name].values, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_at_all_says_so():
    asked = []

    @halving
    def measured(batch: list[int], *, chunk: int = 8) -> None:
        asked.append(chunk)
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")

    said = "measured: no memory for one pair at a time: use a larger machine"
    with pytest.raises(MemoryError, match=said), pytest.warns(UserWarning, match="pairs a pass"):
        measured([1] * 5)
    assert asked == [8, 2, 1]


def test_another_error_is_not_taken_for_one():
    @halving
    def measured(batch: list[int], *, chunk: int = 8) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        measured([1])
