"""StyleGAN2's generator: a mapping, and a synthesis that grows the picture from its styles (Karras et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genloom.nn.resample import BINOMIAL, filter_of, upsample2d
from genloom.nn.style import HALF, Conv, Mapping, StyledConv, ToRGB
from genloom.nn.style_critic import resolutions


class SynthesisBlock(nn.Module):
    """One resolution: upsampling convolution, convolution, and the image so far."""

    const: nn.Parameter
    resample_filter: Tensor

    def __init__(
        self, i: int, o: int, w: int, size: int, channels: int, last: bool, architecture: str, taps: Tensor, **kw: Any
    ):
        super().__init__()
        self.architecture, clamp = architecture, kw["clamp"]
        self.register_buffer("resample_filter", taps.clone())
        if i == 0:
            self.const = nn.Parameter(torch.randn(o, size, size))
        else:
            self.conv0 = StyledConv(i, o, w, size, up=True, taps=taps, **kw)
        self.conv1 = StyledConv(o, o, w, size, up=False, taps=taps, **kw)
        self.convs = 1 + (i > 0)
        self.rgb = last or architecture == "skip"
        if self.rgb:
            self.torgb = ToRGB(o, channels, w, clamp)
        if i and architecture == "resnet":
            self.skip = Conv(i, o, 1, taps, up=True, bias=False, active=False)

    def forward(self, x: Tensor | None, image: Tensor | None, ws: list[Tensor], noise: str) -> tuple[Tensor, Any]:
        """x [B, I, H, W] -> [B, O, 2H, 2W], and the image at this size; ws are as many styles as layers."""
        if x is None:
            x = self.const.expand(len(ws[0]), *self.const.shape).contiguous(memory_format=torch.channels_last)
            if torch.is_autocast_enabled(x.device.type):
                x = x.to(torch.get_autocast_dtype(x.device.type))
            x = self.conv1(x, ws[0], noise)
        elif self.architecture == "resnet":
            short = self.skip(x, gain=HALF)
            x = short + self.conv1(self.conv0(x, ws[0], noise), ws[1], noise, gain=HALF)
        else:
            x = self.conv1(self.conv0(x, ws[0], noise), ws[1], noise)
        if image is not None:
            image = upsample2d(image, self.resample_filter)
        if self.rgb:
            rgb = self.torgb(x, ws[self.convs])
            image = rgb if image is None else image + rgb
        return x, image


class Synthesis(nn.Module):
    """Styles [B, L, W], one a layer -> images [B, C, H, H]."""

    def __init__(
        self,
        w: int,
        size: int,
        channels: int,
        base: int,
        most: int,
        architecture: str = "skip",
        taps: Sequence[float] = BINOMIAL,
        **kw: Any,
    ):
        super().__init__()
        self.sizes = resolutions(size)
        width = {s: min(base // s, most) for s in self.sizes}
        for n, s in enumerate(self.sizes):
            i = width[self.sizes[n - 1]] if n else 0
            last = s == size
            block = SynthesisBlock(i, width[s], w, s, channels, last, architecture, filter_of(taps), **kw)
            self.add_module(f"b{s}", block)
        self.layers = 2 * len(self.sizes)  # one a convolution, and the last image's

    def forward(self, ws: Tensor, noise: str = "const") -> Tensor:
        styles, first = ws.float().unbind(1), 0
        x, image = None, None
        for s in self.sizes:
            block = self.get_submodule(f"b{s}")
            assert isinstance(block, SynthesisBlock)
            x, image = block(x, image, list(styles[first : first + block.convs + 1]), noise)
            first += block.convs  # the image's style drives the next block's first convolution too
        assert image is not None
        return image


class Generator(nn.Module):
    """Latents [B, Z] and weights of classes [B, C] -> images [B, C, H, H], about [-1, 1]."""

    def __init__(self, mapping: Mapping, synthesis: nn.Module, layers: int):
        super().__init__()
        self.mapping, self.synthesis, self.layers = mapping, synthesis, layers

    def styles(
        self, z: Tensor, classes: Tensor | None = None, truncation: float = 1.0, cutoff: int | None = None
    ) -> Tensor:
        """[B, L, W]: the first `cutoff` layers' styles (all without it) drawn towards the mean by the truncation ψ."""
        w = self.mapping(z, classes)
        ws = w[:, None].repeat(1, self.layers, 1)
        if truncation != 1:
            ws[:, :cutoff] = torch.lerp(self.mapping.w_avg, ws[:, :cutoff], truncation)
        return ws

    def forward(self, z: Tensor, classes: Tensor | None = None) -> Tensor:
        return self.synthesis(self.styles(z, classes))
