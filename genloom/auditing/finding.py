"""What an audit finds, and how it says it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


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


def percent(share: float) -> str:
    """`2.3 %`; of small shares two digits."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.2g} %"


def shrunk(pictures: Tensor, side: int = 32) -> Tensor:
    """Pictures [N, C, H, W] as rows [N, d] of pixels, at most `side` a side."""
    if max(pictures.shape[2:]) > side:
        pictures = torch.nn.functional.adaptive_avg_pool2d(pictures, side)
    return pictures.flatten(1)
