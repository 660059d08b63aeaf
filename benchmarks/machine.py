"""The floor of this machine: its matrix-product rate and its memory bandwidth, measured."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def seconds(work: Callable[[], object], repeat: int = 5) -> float:
    """The median time of one call, after a warm-up."""
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def matmul_gflops(dtype: torch.dtype = torch.float32, n: int = 2048) -> float:
    a, b = torch.randn(n, n, dtype=dtype), torch.randn(n, n, dtype=dtype)
    return 2 * n**3 / seconds(lambda: a @ b) / 1e9


def copy_gbytes() -> float:
    """Bytes read plus written a second, by one large copy."""
    x = torch.randn(1 << 26)
    y = torch.empty_like(x)
    return 2 * 4 * x.numel() / seconds(lambda: y.copy_(x)) / 1e9
