"""Shares, ranks, and how far chance may have moved them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Z = 1.96  # of a 95 % interval
RESAMPLES = 300
SHUFFLES = 200


def wilson(count: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a share, count of n (Wilson 1927), which need not be whole where items weigh differently."""
    if not n:
        return 0.0, 1.0
    p, z2 = count / n, Z * Z
    middle, half = p + z2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, min(p, (middle - half) / (1 + z2 / n))), min(1.0, max(p, (middle + half) / (1 + z2 / n)))


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


def total_variation(columns: Sequence[tuple[np.ndarray, np.ndarray]], seed: int) -> tuple[float, float, float]:
    """The largest total variation between the shares of codes (from -1 on, [n] and [m]) of two sides, over columns, and between
    what it lies in 19 of 20 cases.

    Of two sides that are alike it is above 0 too: what it is where their rows are shuffled is taken off for the lower end.
    """
    codes = [np.concatenate(column) + 1 for column in columns]
    n, m = (len(side) for side in columns[0])

    def furthest(order: np.ndarray) -> float:
        return max(_apart(c[order[:n]], c[order[n:]], int(c.max()) + 1) for c in codes)

    rng = np.random.default_rng(seed)
    value = furthest(np.arange(n + m))
    chance = float(np.quantile([furthest(rng.permutation(n + m)) for _ in range(SHUFFLES)], 0.975))
    return value, max(0.0, value - chance), min(1.0, value + 0.98 * math.sqrt(1 / n + 1 / m))


def _apart(a: np.ndarray, b: np.ndarray, codes: int) -> float:
    shares = [np.bincount(side, minlength=codes) / len(side) for side in (a, b)]
    return 0.5 * float(np.abs(shares[0] - shares[1]).sum())
