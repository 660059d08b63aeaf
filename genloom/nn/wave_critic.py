"""Discriminators of waves that several vocoders use: by periods, and by spectrograms at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.nn.directed import convolution, directed
from genloom.nn.lined import lined

SLOPE = 0.1
PERIODS = (2, 3, 5, 7, 11)  # primes: no two see the same samples beside each other
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # n_fft, hop and window (Jang et al. 2021, table 1)
STRIDES = (1, 2, 2, 2)  # along frequency


def features(layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """What each layer gives: all but the last, which are the logits, pass a leaky ReLU."""
    found = []
    for layer in layers[:-1]:
        x = F.leaky_relu(layer(x), SLOPE)
        found.append(x)
    return [*found, layers[-1](x)]


class Period(nn.Module):
    """A wave [B, 1, N] -> the features [B, p, C, T] of every layer, the last logits [B, p, 1, T] (section 2.3).

    The paper folds the wave to ⌈N / p⌉ rows of p samples and convolves along each column: here the p columns stand
    beside the examples, the same numbers from convolutions in time.
    """

    def __init__(self, period: int, width: int):
        super().__init__()
        self.period = period
        channels = [1, *(width * c for c in (1, 4, 16, 32, 32))]
        strides = (3, 3, 3, 3, 1)
        layers = [
            convolution(a, b, 5, stride=s, padding=2) for (a, b), s in zip(pairwise(channels), strides, strict=True)
        ]
        self.layers = nn.ModuleList([*layers, convolution(channels[-1], 1, 3, padding=1)])

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.pad(x, (0, -x.shape[2] % self.period), mode="reflect")
        x = x.unflatten(2, (-1, self.period)).permute(0, 3, 1, 2).flatten(0, 1)  # [B · p, 1, N / p]
        return [f.unflatten(0, (-1, self.period)) for f in features(self.layers, lined(x))]


class Periods(nn.Module):
    """A wave [B, 1, N] -> the features of each period: the multi-period discriminator; the paper's width is 32."""

    def __init__(self, width: int):
        super().__init__()
        self.periods = nn.ModuleList([Period(p, width) for p in PERIODS])

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        return [period(x) for period in self.periods]


class Resolution(nn.Module):
    """A wave [B, 1, N] -> the features [B, C, T, F] of every layer over its spectrogram, the last logits [B, 1, T, F].

    UnivNet's (Jang et al. 2021, section 2.2): plain convolutions of the magnitudes, that shrink along frequency.
    """

    window: Tensor

    def __init__(self, width: int, n_fft: int, hop: int, window: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        layers = [_plane(1 if i == 0 else width, width, (3, 9), (1, s)) for i, s in enumerate(STRIDES)]
        self.layers = nn.ModuleList([*layers, _plane(width, width, (3, 3)), _plane(width, 1, (3, 3))])

    def forward(self, x: Tensor) -> list[Tensor]:
        pad = (self.n_fft - self.hop) // 2
        x = F.pad(x, (pad, pad), mode="reflect")[:, 0].float()
        waves = torch.stft(
            x, self.n_fft, self.hop, len(self.window), self.window, center=False, return_complex=True
        )  # [B, F, T]
        picture = (waves.abs() + 1e-9).transpose(1, 2)[:, None]
        return features(self.layers, picture.to(memory_format=torch.channels_last))  # twice as fast on a CPU


def _plane(before: int, after: int, kernel: tuple[int, int], stride: Sequence[int] = (1, 1)) -> nn.Module:
    padding = (kernel[0] // 2, kernel[1] // 2)
    return directed(nn.Conv2d(before, after, kernel, (stride[0], stride[1]), padding))


class Resolutions(nn.Module):
    """A wave [B, 1, N] -> the features of each resolution: the multi-resolution discriminator; the paper's width is 32."""

    def __init__(self, width: int):
        super().__init__()
        self.resolutions = nn.ModuleList([Resolution(width, *r) for r in RESOLUTIONS])

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        return [resolution(x) for resolution in self.resolutions]
