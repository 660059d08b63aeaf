"""Plain modern residual networks of a GAN, after Huang et al. 2024 (R3GAN): grouped convolutions and no normalisation.

Modules are named as in the official state dicts, so that those load as they are.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.nn.conv import Conv2d
from genloom.nn.resample import downsample2d, upsample2d

SLOPE = 0.2  # of the leaky ReLUs


def natural_scales(height: int, breadth: int) -> int:
    """How many there are when pictures are halved until a side is 7 or less."""
    scales = 1
    while height % 2 == 0 and breadth % 2 == 0 and min(height, breadth) > 7:
        height, breadth, scales = height // 2, breadth // 2, scales + 1
    return scales


def stage(*layers: nn.Module) -> nn.Module:
    """One scale: a transition and residual blocks, in the order given."""
    return nn.Sequential(OrderedDict(Layers=nn.Sequential(*layers)))


class Block(nn.Module):
    """x + 1x1 ∘ leaky ∘ grouped 3x3 ∘ leaky ∘ 1x1 (x), [B, C, H, W]: the inverted bottleneck. Starts as the identity.

    `sides` of the grouped convolution's kernel: (3, 1) runs along the height alone.
    """

    def __init__(self, width: int, inner: int, groups: int, gain: float, sides: tuple[int, int] = (3, 3)):
        super().__init__()
        gain *= math.sqrt(2 / (1 + SLOPE**2))  # He's, for leaky ReLU
        self.LinearLayer1 = convolution(width, inner, gain=gain)
        self.LinearLayer2 = convolution(inner, inner, *sides, groups=groups, gain=gain)
        self.LinearLayer3 = convolution(inner, width, gain=0.0)
        self.NonLinearity1, self.NonLinearity2 = BiasedLeaky(inner), BiasedLeaky(inner)

    def forward(self, x: Tensor) -> Tensor:
        y = self.NonLinearity1(self.LinearLayer1(x))
        y = self.NonLinearity2(self.LinearLayer2(y))
        return x + self.LinearLayer3(y)


class Basis(nn.Module):
    """Latents [B, Z] -> [B, C, H, W] at the coarsest scale: a learnt picture a channel, scaled by a linear map of z."""

    def __init__(self, latent: int, width: int, base: tuple[int, int]):
        super().__init__()
        self.Basis = nn.Parameter(torch.randn(width, *base))
        self.LinearLayer = linear(latent, width)

    def forward(self, z: Tensor) -> Tensor:
        x = self.Basis * self.LinearLayer(z)[:, :, None, None]
        return x.contiguous(memory_format=torch.channels_last)  # what convolutions are fastest in


class Transition(nn.Module):
    """A change of scale by two through the kernel [1, 3, 3, 1], and of channels by a 1x1 convolution where they differ."""

    def __init__(self, i: int, o: int):
        super().__init__()
        self.LinearLayer = convolution(i, o) if i != o else nn.Identity()
        self.Resampler = Resampler()


class Up(Transition):
    def forward(self, x: Tensor) -> Tensor:  # [B, I, H, W] -> [B, O, 2H, 2W]
        return upsample2d(self.LinearLayer(x), self.Resampler.Kernel)


class Down(Transition):
    def forward(self, x: Tensor) -> Tensor:  # [B, I, H, W] -> [B, O, H/2, W/2]
        return self.LinearLayer(downsample2d(x, self.Resampler.Kernel))


class Resampler(nn.Module):
    """Holds the kernel: one of the official state dict's buffers."""

    Kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        side = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("Kernel", torch.outer(side, side))


def convolution(i: int, o: int, high: int = 1, wide: int = 1, groups: int = 1, gain: float = 1.0) -> nn.Module:
    """A convolution without bias that keeps the size, its weights normal with deviation gain / √fan-in."""
    layer = Conv2d(i, o, (high, wide), padding=(high // 2, wide // 2), groups=groups, bias=False)
    scaled_normal(layer.weight, gain)
    return nn.Sequential(OrderedDict(Layer=layer))


class BiasedLeaky(nn.Module):
    """Leaky ReLU of x + bias."""

    def __init__(self, width: int):
        super().__init__()
        self.Bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        return F.leaky_relu(x + self.Bias.to(x.dtype).view(-1, 1, 1), SLOPE)


def linear(i: int, o: int, gain: float = 1.0) -> nn.Linear:
    layer = nn.Linear(i, o, bias=False)
    scaled_normal(layer.weight, gain)
    return layer


def scaled_normal(weight: Tensor, gain: float = 1.0) -> None:
    nn.init.normal_(weight, 0, gain / math.sqrt(weight[0].numel()))
