"""What an audit finds, and the statistics that it says it with."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Z = 1.96  # of a 95 % interval
RESAMPLES = 300


@dataclass(frozen=True)
class Finding:
    """A figure with its 95 % interval, over `n` items; flagged where it passes its threshold. `sentence` says it plainly."""

    name: str
    method: str
    n: int
    value: float
    low: float
    high: float
    threshold: float | None
    flagged: bool
    sentence: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


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


def percent(share: float) -> str:
    """`2.3 %`; of small shares two digits."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.2g} %"


def shrunk(pictures: Tensor, side: int = 32) -> Tensor:
    """Pictures [N, C, H, W] as rows [N, d] of pixels, at most `side` a side."""
    if max(pictures.shape[2:]) > side:
        pictures = torch.nn.functional.adaptive_avg_pool2d(pictures, side)
    return pictures.flatten(1)
