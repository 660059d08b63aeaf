"""HiFi-GAN: mel spectrograms to waves; each rise in rate is seen by several blocks that look differently far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.errors import UserError
from genloom.nn.directed import convolution, directed, filled

SLOPE = 0.1
LAST_SLOPE = 0.01  # before the last convolution: PyTorch's default, in the authors' code


class Residual(nn.Module):
    """[B, C, T] -> the same: dilated convolutions, each added; with `pairs` a plain one follows each (V1 and V2)."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int], pairs: bool):
        super().__init__()
        reach = kernel // 2
        self.dilated = nn.ModuleList(
            [convolution(channels, channels, kernel, dilation=d, padding=reach * d) for d in dilations]
        )
        plain = [convolution(channels, channels, kernel, padding=reach) for _ in dilations if pairs]
        self.plain = nn.ModuleList(plain)

    def forward(self, x: Tensor) -> Tensor:
        for i, dilated in enumerate(self.dilated):
            seen = dilated(F.leaky_relu(x, SLOPE))
            x = x + (self.plain[i](F.leaky_relu(seen, SLOPE)) if self.plain else seen)
        return x


class Generator(nn.Module):
    """Mel frames [B, bands, T] -> a wave [B, 1, T · ∏ rates] in [-1, 1] (Kong et al. 2020, section 2.2).

    Each stage rises by a rate at half the width, and takes the mean of blocks of `kernels` and `dilations` (multi-receptive
    field fusion).
    """

    def __init__(
        self,
        bands: int,
        width: int,
        rates: Sequence[int],
        rise_kernels: Sequence[int],
        kernels: Sequence[int],
        dilations: Sequence[Sequence[int]],
        pairs: bool,
    ):
        super().__init__()
        channels = [width >> i for i in range(len(rates) + 1)]
        self.first = convolution(bands, width, 7, padding=3)
        self.rises, self.blocks = nn.ModuleList(), nn.ModuleList()
        for before, after, rate, kernel in zip(channels, channels[1:], rates, rise_kernels, strict=False):
            rise = nn.ConvTranspose1d(before, after, kernel, rate, padding=(kernel - rate) // 2)
            self.rises.append(directed(rise))
            blocks = [Residual(after, k, d, pairs) for k, d in zip(kernels, dilations, strict=True)]
            self.blocks.append(nn.ModuleList(blocks))
        self.last = convolution(channels[-1], 1, 7, padding=3)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.first(mel)
        for rise, blocks in zip(self.rises, self.blocks, strict=True):
            x = rise(F.leaky_relu(x, SLOPE))
            seen = [block(x) for block in cast(nn.ModuleList, blocks)]
            x = torch.stack(seen).mean(0)
        return torch.tanh(self.last(F.leaky_relu(x, LAST_SLOPE)))


def generator_of(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Generator:
    """The official generator from its state dict and its config.json.

    Raises UserError for a field that is missing there, and for weights of another network.
    """
    fields = ("upsample_initial_channel", "upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes")
    if missing := next((f for f in (*fields, "resblock_dilation_sizes", "resblock") if f not in config), None):
        raise UserError(f"This config.json of HiFi-GAN has no '{missing}'.")
    width, rates, rise_kernels, kernels = (config[f] for f in fields)
    dilations, pairs = config["resblock_dilation_sizes"], str(config["resblock"]) == "1"
    net = Generator(config.get("num_mels", 80), width, rates, rise_kernels, kernels, dilations, pairs)
    names = {"first": "conv_pre", "last": "conv_post"} | {f"rises.{i}": f"ups.{i}" for i in range(len(rates))}
    theirs = {"dilated": "convs1" if pairs else "convs", "plain": "convs2"}
    for s in range(len(rates)):
        for k, several in enumerate(dilations):
            at = s * len(kernels) + k
            names |= {
                f"blocks.{s}.{k}.{own}.{j}": f"resblocks.{at}.{name}.{j}"
                for own, name in theirs.items()
                for j in range(len(several))
            }
    return filled(net, names, weights)
