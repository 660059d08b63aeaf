"""The inverse short-time Fourier transform: frames overlapped and added, at fixed places."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def istft(waves: Tensor, window: Tensor, hop: int, edges: Literal["same", "centre"]) -> Tensor:
    """The wave [B, N] nearest to have the transform `waves`, complex [B, n_fft / 2 + 1, T] (Griffin & Lim 1984, eq. 6).

    `window` [n_fft] weighs each frame; the sum is divided by that of the squared windows. `edges` are those of nn/mel.py:
    what its padding put before and after is cut off, which leaves N = T · hop for "same" and (T - 1) · hop for "centre".
    A frame touches n_fft samples and no more, so a long wave can be made in pieces.
    """
    n_fft, frames = len(window), waves.shape[2]
    cut = cut_off(n_fft, hop, edges)
    end = (frames - 1) * hop + n_fft - cut
    squares = window.square()[None, :, None].expand(1, n_fft, frames)
    wave, envelope = (overlapped(x, hop)[:, cut:end] for x in (pieces(waves, window), squares))
    return wave / envelope


def pieces(waves: Tensor, window: Tensor) -> Tensor:
    """[B, n_fft / 2 + 1, T] complex -> [B, n_fft, T], weighed."""
    return torch.fft.irfft(waves, len(window), dim=1) * window[:, None]


def cut_off(n_fft: int, hop: int, edges: Literal["same", "centre"]) -> int:
    """The samples of each end that belong to the padding."""
    return n_fft // 2 if edges == "centre" else (n_fft - hop) // 2


def overlapped(pieces: Tensor, hop: int) -> Tensor:
    """[B, W, T] -> [B, (T - 1) · hop + W].

    Each piece is cut into stretches of a hop, and those that come first, second ... lie side by side: a few additions of
    long rows, where `fold` adds sample by sample.
    """
    _, size, frames = pieces.shape
    cuts = F.pad(pieces.mT, (0, -size % hop)).unflatten(2, (-1, hop))  # [B, T, W / hop, hop]
    count = cuts.shape[2]
    rows = sum(F.pad(cuts[:, :, i], (0, 0, i, count - 1 - i)) for i in range(count))  # [B, T + W / hop - 1, hop]
    return torch.as_tensor(rows).flatten(1)[:, : (frames - 1) * hop + size]
