"""Convolutions over texts and clips of several lengths in one batch: nothing is done for what fills the shorter ones up."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6
WIDER = 3  # times the channels within a block


class Inside:
    """Which places of [B, T] are filled, the first `counts` [B] of each item: layers work on those alone."""

    def __init__(self, counts: Tensor, length: int):
        filled = torch.arange(length, device=counts.device) < counts[:, None]  # [B, T]
        self.shape = filled.shape
        self.mask = filled[:, None].float()  # [B, 1, T]
        self.places = filled.flatten().nonzero()[:, 0]
        self.items = self.places // length

    def pack(self, x: Tensor) -> Tensor:  # [B, C, T] -> [n, C]
        return x.transpose(1, 2).flatten(0, 1)[self.places]

    def unpack(self, x: Tensor) -> Tensor:  # [n, C] -> [B, C, T], 0 outside
        whole = x.new_zeros(self.shape.numel(), x.shape[1]).index_copy(0, self.places, x)
        return whole.view(*self.shape, -1).transpose(1, 2)


class Block(nn.Module):
    """[B, C, T] -> the same: each channel along time, then all channels of a place (ConvNeXt, Liu et al. 2022, in 1-D).

    `told`: numbers of a condition [B, told] that scale and shift what is normalised; 0 for none.
    """

    def __init__(self, channels: int, told: int = 0, kernel: int = 7, dropout: float = 0.0):
        super().__init__()
        self.along = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, EPS)
        self.told = nn.Linear(told, 2 * channels) if told else None
        self.widen, self.narrow = nn.Linear(channels, WIDER * channels), nn.Linear(WIDER * channels, channels)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, inside: Inside, condition: Tensor | None = None) -> Tensor:
        y = self.norm(inside.pack(self.along(x)))
        if self.told is not None:
            scale, shift = self.told(condition)[inside.items].chunk(2, 1)
            y = y * (1 + scale) + shift
        return x + inside.unpack(self.drop(self.narrow(F.gelu(self.widen(y), approximate="tanh"))))
