"""Whether what a clip shows stays what it is: a classifier's word on every frame of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

FAINT = 0.2  # of full brightness: less is no part of what is looked for

Judge = Callable[[Tensor], Tensor]  # frames [N, C, H, W] in [-1, 1] -> logits [N, classes]


class Steadiness(NamedTuple):
    """Of each clip, [N]: `said`, the class that most of its frames are taken for; `agreement`, the share of them; and
    `confidence`, the mean probability that all its frames give that class."""

    said: Tensor
    agreement: Tensor
    confidence: Tensor

    @property
    def steady(self) -> Tensor:
        """Of each clip, 1 where all its frames are taken for one class and else 0, f64 [N]."""
        return (self.agreement == 1).double()


@torch.no_grad()
def steadiness(clips: Tensor, judge: Judge, size: int | None = 28, batch: int = 500) -> Steadiness:
    """How steadily a classifier takes the frames of clips [N, C, T, H, W] in [-1, 1] for the same thing.

    Each frame is cut to `size` around what is bright in it (None: seen whole), `batch` frames at a time.
    """
    frames = clips.transpose(1, 2).flatten(0, 1)  # [N·T, C, H, W]
    pieces = (piece if size is None else centred(piece, size) for piece in frames.split(batch))
    odds = torch.cat([judge(piece).double().softmax(1) for piece in pieces]).unflatten(0, (len(clips), -1))  # [N, T, K]
    votes = F.one_hot(odds.argmax(2), odds.shape[2]).double().mean(1)  # [N, K]
    said = (votes + 1e-3 * odds.mean(1)).argmax(1)  # of two with as many votes, the likelier
    at = said[:, None]
    return Steadiness(said, votes.gather(1, at)[:, 0], odds.mean(1).gather(1, at)[:, 0])


def centred(frames: Tensor, size: int) -> Tensor:
    """[N, C, size, size] around the centre of mass of what is bright in frames [N, C, H, W]; black beyond their border."""
    bright = F.relu((frames.mean(1) + 1) / 2 - FAINT)  # [N, H, W]
    mass = bright.sum((1, 2)).clamp_min(1e-6)
    places = []
    for axis, length in ((2, frames.shape[2]), (1, frames.shape[3])):
        along = torch.arange(length, device=frames.device, dtype=bright.dtype)
        centre = (bright.sum(axis) * along).sum(1) / mass  # [N]
        places.append((centre + 0.5).round().long()[:, None] + torch.arange(size, device=frames.device))  # [N, size]
    half = size // 2
    wide = F.pad(frames, (half, half, half, half), value=-1.0)
    rows = torch.arange(len(frames), device=frames.device)[:, None, None]
    y, x = (p.clamp(0, n - 1) for p, n in zip(places, wide.shape[2:], strict=True))
    return wide[rows, :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)
