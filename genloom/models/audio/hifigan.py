"""HiFi-GAN: mel spectrograms to waves; each rise in rate is seen by several blocks that look differently far.

Two sets of discriminators judge: some see every p-th sample beside each other, some the wave at falling rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.errors import UserError
from genloom.nn.directed import convolution, directed, filled
from genloom.nn.spectral import StoredConv1d

SLOPE = 0.1
LAST_SLOPE = 0.01  # before the last convolution: PyTorch's default, in the authors' code
PERIODS = (2, 3, 5, 7, 11)  # primes: no two see the same samples beside each other
SCALES = 3
LAYERS = (  # of a scale: channels as multiples of its width, kernel, stride, groups
    (1, 15, 1, 1),
    (1, 41, 2, 4),
    (2, 41, 2, 16),
    (4, 41, 4, 16),
    (8, 41, 4, 16),
    (8, 41, 1, 16),
    (8, 5, 1, 1),
)


# ── the generator ────────────────────────────────────────────────────────────────────────────────────────────────
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


# ── the discriminators ───────────────────────────────────────────────────────────────────────────────────────────
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
        return [f.unflatten(0, (-1, self.period)) for f in features(self.layers, x)]


class Scale(nn.Module):
    """A wave [B, 1, N] -> the features [B, C, T] of every layer, the last logits [B, 1, T] (section 2.3).

    `spectral`: weights over their singular value, in place of weights as a direction and a length. `width` is a
    multiple of the most groups, 16.
    """

    def __init__(self, width: int, spectral: bool):
        super().__init__()
        channels = [1, *(width * times for times, *_ in LAYERS)]
        shapes = [(a, b, *layer[1:]) for (a, b), layer in zip(pairwise(channels), LAYERS, strict=True)]
        self.layers = nn.ModuleList()
        for before, after, kernel, stride, groups in (*shapes, (channels[-1], 1, 3, 1, 1)):
            how = {"stride": stride, "padding": kernel // 2, "groups": groups}
            if spectral:
                self.layers.append(StoredConv1d(before, after, kernel, **how))
            else:
                self.layers.append(convolution(before, after, kernel, **how))

    def forward(self, x: Tensor) -> list[Tensor]:
        return features(self.layers, x)


def features(layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """What each layer gives: all but the last, which are the logits, pass a leaky ReLU."""
    found = []
    for layer in layers[:-1]:
        x = F.leaky_relu(layer(x), SLOPE)
        found.append(x)
    return [*found, layers[-1](x)]


class Periods(nn.Module):
    """A wave [B, 1, N] -> the features of each period: the multi-period discriminator; the paper's width is 32."""

    def __init__(self, width: int):
        super().__init__()
        self.periods = nn.ModuleList([Period(p, width) for p in PERIODS])

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        return [period(x) for period in self.periods]


class Scales(nn.Module):
    """A wave [B, 1, N] -> the features of each rate, N, N / 2 and N / 4: the multi-scale discriminator; the paper's width is 128.

    Raises UserError for a width that does not split into its groups.
    """

    def __init__(self, width: int):
        super().__init__()
        most = max(groups for *_, groups in LAYERS)
        if width % most:
            raise UserError(f"The scales of HiFi-GAN's discriminator are a multiple of {most} wide, not {width}.")
        self.scales = nn.ModuleList([Scale(width, spectral=i == 0) for i in range(SCALES)])

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        found = []
        for scale in self.scales:
            found.append(scale(x))
            x = F.avg_pool1d(x, 4, 2, padding=2)
        return found


class Discriminators(nn.Module):
    """A wave [B, 1, N] -> the features of each period, then those of each scale."""

    def __init__(self, period_width: int, scale_width: int):
        super().__init__()
        self.periods, self.scales = Periods(period_width), Scales(scale_width)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        return [*self.periods(x), *self.scales(x)]


# ── the official weights ─────────────────────────────────────────────────────────────────────────────────────────
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


def discriminators_of(weights: Mapping[str, Tensor]) -> Discriminators:
    """The official discriminators from the state dicts `mpd` and `msd` of a checkpoint `do_…`, under those prefixes.

    Their widths are read off the weights, for no config.json tells them. Raises UserError for weights of another network.
    """
    firsts = [f"{part}.discriminators.0.convs.0.bias" for part in ("mpd", "msd")]
    if missing := next((k for k in firsts if k not in weights), None):
        raise UserError(f"These are no weights of HiFi-GAN's discriminators: there is no '{missing}'.")
    net = Discriminators(*(len(weights[k]) for k in firsts))
    parts = {f"periods.periods.{d}": f"mpd.discriminators.{d}" for d in range(len(PERIODS))}
    parts |= {f"scales.scales.{d}": f"msd.discriminators.{d}" for d in range(SCALES)}
    names: dict[str, str] = {}
    for own, there in parts.items():
        last = len(cast(nn.ModuleList, net.get_submodule(f"{own}.layers"))) - 1
        names |= {f"{own}.layers.{i}": f"{there}.convs.{i}" for i in range(last)}
        names[f"{own}.layers.{last}"] = f"{there}.conv_post"
    flat = {k: v.squeeze(3) if v.ndim == 4 else v for k, v in weights.items()}  # [C', C, K, 1]: convolutions in time
    return filled(net, names, flat)
