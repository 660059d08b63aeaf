"""Attention between the places of an image."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.errors import UserError


class SelfAttention(nn.Module):
    """x + γ·o(attention), [B, C, H, W] -> the same: each place looks at every 2x2 square of the others.

    Zhang et al. 2019, section 3, with the pooling of the authors' code: queries and keys of C/8 channels, values of
    C/2, no scaling; γ begins at 0. `conv` makes the 1x1 convolutions.
    """

    def __init__(self, channels: int, conv: Callable[..., nn.Module]):
        super().__init__()
        narrow, half = max(channels // 8, 1), max(channels // 2, 1)
        self.theta = conv(channels, narrow, 1, bias=False)
        self.phi = conv(channels, narrow, 1, bias=False)
        self.g = conv(channels, half, 1, bias=False)
        self.o = conv(half, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query = self.theta(x).flatten(2).mT  # [B, HW, C/8]
        key = F.max_pool2d(self.phi(x), 2).flatten(2).mT  # [B, HW/4, C/8]
        value = F.max_pool2d(self.g(x), 2).flatten(2).mT  # [B, HW/4, C/2]
        wider = (0, value.shape[2] - query.shape[2])  # zeros change no product, and equal widths have the fused kernel
        query, key = F.pad(query, wider), F.pad(key, wider)
        seen = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=1.0)[:, 0].mT
        return x + self.gamma * self.o(seen.unflatten(2, x.shape[2:]))


def halved(attention: str, shape: tuple[int, ...]) -> str:
    """An attention option with "half" as the size that it is of pictures [C, H, W]."""
    return str(shape[1] // 2) if attention == "half" else attention


def attention_sizes(text: str, sizes: Collection[int], option: str) -> set[int]:
    """The sizes that an option names: "32_64", "none", or "auto" (64 where there is one). Raises UserError for others."""
    if text in ("none", "auto"):
        return {64} & set(sizes) if text == "auto" else set()
    words = text.split("_")
    if not all(w.isdecimal() and int(w) in sizes for w in words):
        there = ", ".join(str(s) for s in sorted(set(sizes)))
        raise UserError(f"--model.{option} '{text}' names no sizes of this model: its blocks have {there}; or none.")
    return {int(w) for w in words}
