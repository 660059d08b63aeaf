"""Shares, ranks, and how far chance may have moved them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Z = 1.96  # of a 95 % interval
RESAMPLES = 300


def wilson(count: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, count of n (Wilson 1927)."""
    if not n:
        return 0.0, 1.0
    p, z2 = count / n, Z * Z
    middle, half = p + z2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n))


def auc(inside: np.ndarray, outside: np.ndarray) -> float:
    """How often a score of `inside` [n] is above one of `outside` [m], ties by half (Mann & Whitney 1947)."""
    both = np.concatenate([inside, outside])
    order = np.sort(both)
    ranks = (np.searchsorted(order, both, "left") + np.searchsorted(order, both, "right") + 1) / 2
    n, m = len(inside), len(outside)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def tpr_at(inside: np.ndarray, outside: np.ndarray, fpr: float) -> float:
    """Share of `inside` above the threshold that at most a share `fpr` of `outside` is above (Carlini et al. 2022)."""
    threshold = np.sort(outside)[::-1][min(math.floor(fpr * len(outside)), len(outside) - 1)]
    return float((inside > threshold).mean())


def resampled(figure: Any, inside: np.ndarray, outside: np.ndarray, seed: int) -> tuple[float, float]:
    """The 95 % bootstrap interval of figure(inside, outside), both drawn anew."""
    rng = np.random.default_rng(seed)
    drawn = [
        figure(
            inside[rng.integers(len(inside), size=len(inside))], outside[rng.integers(len(outside), size=len(outside))]
        )
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
