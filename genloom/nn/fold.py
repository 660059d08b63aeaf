"""Resampling folded into the 3x3 convolution beside it: the same numbers from 4/9 of the multiplications."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from genloom.nn.spectral import weight_of


def double_then_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The 3x3 convolution (padding 1) of x doubled by nearest neighbours: one transposed 4x4 convolution."""
    kernel = 4 * _blurred(weight_of(conv).flip(2, 3))
    return F.conv_transpose2d(x, kernel.transpose(0, 1), conv.bias, stride=2, padding=1)


def conv_then_halve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The 3x3 convolution (padding 1) of x of even size, then means over 2x2: one 4x4 convolution with stride 2."""
    return F.conv2d(x, _blurred(weight_of(conv)), conv.bias, stride=2, padding=1)


def _blurred(weight: Tensor) -> Tensor:
    """[O, I, 3, 3] -> [O, I, 4, 4]: the mean of the kernel at the four places that a 2x2 square sees it from."""
    return F.avg_pool2d(F.pad(weight, (1, 1, 1, 1)), 2, 1)
