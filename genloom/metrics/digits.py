"""A small classifier of hand-written digits: the judge of MNIST models. Its weights ship with the package.

Trained by benchmarks/train_digits.py; its own design: five 3x3 convolutions, global average pooling, one linear layer.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from genloom.metrics.features import fold

WEIGHTS = Path(__file__).parent / "weights" / "digits.safetensors"


class DigitNet(nn.Module):
    """Images [B, C, H, W] in [-1, 1] -> (96 pooled features, 10 logits)."""

    dim = 96

    def __init__(self) -> None:
        super().__init__()
        widths = [(1, 24, 1), (24, 24, 2), (24, 48, 1), (48, 48, 2), (48, self.dim, 1)]
        self.body = nn.Sequential(*(_conv(i, o, stride) for i, o, stride in widths))
        self.head = nn.Linear(self.dim, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = to_digits(images).contiguous(memory_format=torch.channels_last)
        features = self.body(x).mean((2, 3))  # [B, 96]
        return features, self.head(features)


def _conv(i: int, o: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))


def to_digits(images: Tensor) -> Tensor:
    """Images of any size and channels, [B, C, H, W] in [-1, 1] -> grey [B, 1, 28, 28]."""
    if images.shape[1] >= 3:  # luma of ITU-R BT.601; an alpha channel is left out
        weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        images = (images[:, :3] * weights).sum(1, keepdim=True)
    images = images[:, :1]
    if max(images.shape[2:]) < 20:  # scans cut to the strokes: framed as MNIST frames its 20 x 20 digits
        digits = F.interpolate(images.float(), (20, 20), mode="bicubic", align_corners=False).clamp(-1, 1)
        return F.pad(digits, [4] * 4, value=-1)
    if images.shape[2:] != (28, 28):
        images = F.interpolate(images.float(), (28, 28), mode="bilinear", antialias=True, align_corners=False)
    return images


def find_weights() -> Path:
    return WEIGHTS


def load(path: Path) -> DigitNet:
    """The classifier from such a file, ready to judge: half-precision weights, run in float32, batch norms folded."""
    net = DigitNet()
    net.load_state_dict({k: v.float() for k, v in load_file(path).items()}, strict=False)  # no batch counters
    return fold(net)
