"""StyleGAN2's discriminator, which StyleGAN3 keeps (Karras et al. 2020, section 4; minibatch deviation 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genloom.core import Spec
from genloom.errors import UserError
from genloom.nn.resample import BINOMIAL, downsample2d, filter_of
from genloom.nn.style import HALF, Conv, EqualLinear, Mapping, full_precision


class DiscriminatorBlock(nn.Module):
    resample_filter: Tensor

    def __init__(
        self, i: int, middle: int, o: int, channels: int, architecture: str, taps: Tensor, clamp: float | None
    ):
        super().__init__()
        self.architecture = architecture
        self.register_buffer("resample_filter", taps.clone())
        if i == 0 or architecture == "skip":
            self.fromrgb = Conv(channels, middle, 1, taps, clamp=clamp)
        self.conv0 = Conv(i or middle, middle, 3, taps, clamp=clamp)
        self.conv1 = Conv(middle, o, 3, taps, down=True, clamp=clamp)
        if architecture == "resnet":
            self.skip = Conv(middle, o, 1, taps, down=True, bias=False, active=False)

    def forward(self, x: Tensor | None, image: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if image is not None:
            y = self.fromrgb(image)
            x = y if x is None else x + y
            image = downsample2d(image, self.resample_filter) if self.architecture == "skip" else None
        assert x is not None
        if self.architecture == "resnet":
            short = self.skip(x, gain=HALF)
            return short + self.conv1(self.conv0(x), gain=HALF), image
        return self.conv1(self.conv0(x)), image


class Epilogue(nn.Module):
    """The coarsest features and the batch's deviation -> logits [B], or a product with the mapped label."""

    def __init__(
        self,
        width: int,
        cmap: int,
        size: int,
        channels: int,
        architecture: str,
        taps: Tensor,
        clamp: float | None,
        group: int | None,
        deviations: int,
    ):
        super().__init__()
        self.group, self.deviations, self.cmap = group, deviations, cmap
        if architecture == "skip":
            self.fromrgb = Conv(channels, width, 1, taps)
        self.conv = Conv(width + deviations, width, 3, taps, clamp=clamp)
        self.fc = EqualLinear(width * size**2, width, active=True)
        self.out = EqualLinear(width, cmap or 1)

    def forward(self, x: Tensor, image: Tensor | None, label: Tensor | None) -> Tensor:
        with full_precision(x):
            x = x.float()
            if image is not None:
                x = x + self.fromrgb(image.float())
            if self.deviations:
                x = minibatch_deviation(x, self.group or 0, self.deviations)
            x = self.out(self.fc(self.conv(x).flatten(1)))
            return x.squeeze(1) if label is None else (x * label).sum(1) / math.sqrt(self.cmap)


class Discriminator(nn.Module):
    """Images [B, C, H, H] and weights of classes [B, C] -> logits [B]."""

    def __init__(
        self,
        size: int,
        channels: int,
        classes: int,
        base: int,
        most: int,
        architecture: str = "resnet",
        clamp: float | None = None,
        cmap: int | None = None,
        group: int | None = 4,
        deviations: int = 1,
        mapping: Dict[str, Any] | None = None,
        taps: Sequence[float] = BINOMIAL,
    ):
        super().__init__()
        self.sizes, f = resolutions(size)[::-1], filter_of(taps)
        width = {s: min(base // s, most) for s in self.sizes}
        for n, s in enumerate(self.sizes[:-1]):
            i, o = width[s] if n else 0, width[self.sizes[n + 1]]
            self.add_module(f"b{s}", DiscriminatorBlock(i, width[s], o, channels, architecture, f, clamp))
        coarse = self.sizes[-1]
        cmap = (cmap or width[coarse]) if classes else 0
        if classes:
            self.mapping = Mapping(0, classes, cmap, **{"average": None, **(mapping or {})})
        end = Epilogue(width[coarse], cmap, coarse, channels, architecture, f, clamp, group, deviations)
        self.add_module(f"b{coarse}", end)

    def forward(self, image: Tensor, classes: Tensor | None = None) -> Tensor:
        left: Tensor | None = image.contiguous(memory_format=torch.channels_last)
        x = None
        for s in self.sizes[:-1]:
            x, left = self.get_submodule(f"b{s}")(x, left)
        label = self.mapping(None, classes) if classes is not None else None
        return self.get_submodule(f"b{self.sizes[-1]}")(x, left, label)


def freeze_first(discriminator: Discriminator, layers: int) -> None:
    """FreezeD (Mo et al. 2020): the finest layers of a trained discriminator keep what they know."""
    convs = [m for m in discriminator.modules() if isinstance(m, Conv)]
    for conv in convs[:layers]:
        conv.requires_grad_(False)


def resolutions(size: int) -> list[int]:
    """Sizes from the coarsest, 4 to 7, to this one, each twice the last.

    Raises UserError that offers the nearest possible sizes.
    """
    coarse = size
    while coarse > 7 and coarse % 2 == 0:
        coarse //= 2
    if not 4 <= coarse <= 7 or coarse == size:
        possible = sorted(b << k for b in (4, 5, 6, 7) for k in range(1, 10))
        below = max((p for p in possible if p <= size), default=8)
        above = min(p for p in possible if p >= size)
        raise UserError(
            f"StyleGAN2 doubles from 4, 5, 6 or 7 pixels, and {size} is none of their doubles: "
            f"give --data.size {below}" + (f" or {above}." if above != below else ".")
        )
    return [coarse << k for k in range((size // coarse).bit_length())]


def minibatch_deviation(x: Tensor, group: int, channels: int = 1) -> Tensor:
    """[B, C, H, W] -> [B, C + channels, H, W]: how much each group of images varies (Karras et al. 2018, section 3).

    Sample i is grouped with i + B/G, i + 2B/G ...; a batch that does not divide takes the largest group that does.
    """
    batch, c, height, width = x.shape
    size = next(g for g in range(min(group or batch, batch), 0, -1) if batch % g == 0)
    y = x.float().reshape(size, -1, channels, c // channels, height, width)  # [G, B/G, F, C/F, H, W]
    deviation = (y - y.mean(0)).square().mean(0).add(1e-8).sqrt().mean((2, 3, 4))  # [B/G, F]
    maps = deviation.to(x.dtype).repeat(size, 1)[:, :, None, None].expand(batch, channels, height, width)
    return torch.cat([x, maps], 1)


def square(spec: Spec) -> tuple[int, int]:
    """Channels and size of square pictures. Raises UserError for others."""
    channels, height, width = spec.shape
    if height != width:
        raise UserError(f"StyleGAN makes square pictures, not {height}x{width}: give --data.size {min(height, width)}.")
    return channels, height
