"""MelGAN: mel spectrograms to waves by transposed convolutions, judged at three rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.errors import UserError
from genloom.nn.directed import convolution, directed, filled

SLOPE = 0.2
RATIOS = (8, 8, 2, 2)  # of samples to frames, step by step: 256 in all
WIDEST = 1024  # channels of a discriminator, at most


# ── the generator ────────────────────────────────────────────────────────────────────────────────────────────────
class Residual(nn.Module):
    """[B, C, T] -> the same: a dilated convolution of three and one of one, beside a shortcut that is one of one too."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.dilated = convolution(channels, channels, 3, dilation=dilation)
        self.pointwise = convolution(channels, channels, 1)
        self.shortcut = convolution(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(F.leaky_relu(x, SLOPE), (self.dilation, self.dilation), mode="reflect")
        return self.shortcut(x) + self.pointwise(F.leaky_relu(self.dilated(padded), SLOPE))


class Generator(nn.Module):
    """Mel frames [B, bands, T] -> a wave [B, 1, T · ∏ ratios] in [-1, 1] (Kumar et al. 2019, section 2.1).

    Each stage makes `ratio` samples of one at half the width, then looks 3^j samples around in `residuals` blocks.
    """

    def __init__(self, bands: int, width: int, residuals: int, ratios: Sequence[int] = RATIOS):
        super().__init__()
        channels = [width << i for i in range(len(ratios), -1, -1)]
        self.first = convolution(bands, channels[0], 7)
        self.rises = nn.ModuleList([Rise(a, b, r) for a, b, r in zip(channels, channels[1:], ratios, strict=False)])
        self.blocks = nn.ModuleList(
            [nn.Sequential(*[Residual(c, 3**j) for j in range(residuals)]) for c in channels[1:]]
        )
        self.last = convolution(width, 1, 7)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.first(F.pad(mel, (3, 3), mode="reflect"))
        for rise, blocks in zip(self.rises, self.blocks, strict=True):
            x = blocks(rise(F.leaky_relu(x, SLOPE)))
        return torch.tanh(self.last(F.pad(F.leaky_relu(x, SLOPE), (3, 3), mode="reflect")))


class Rise(nn.ConvTranspose1d):
    """[B, C, T] -> [B, C', ratio · T]."""

    def __init__(self, before: int, after: int, ratio: int):
        odd = ratio % 2
        super().__init__(before, after, 2 * ratio, ratio, padding=ratio // 2 + odd, output_padding=odd)
        directed(self)


# ── the discriminators ───────────────────────────────────────────────────────────────────────────────────────────
class Scale(nn.Module):
    """A wave [B, 1, N] -> the features of every layer, the last a map of logits [B, 1, N / 4^strides] (section 2.2)."""

    def __init__(self, width: int, strides: int, stride: int, widest: int = WIDEST):
        super().__init__()
        channels = [min(width * stride**i, widest) for i in range(strides + 1)]
        self.layers = nn.ModuleList([convolution(1, width, 15)])
        for a, b in pairwise(channels):
            how = {"stride": stride, "padding": 5 * stride, "groups": a // 4}
            self.layers.append(convolution(a, b, 10 * stride + 1, **how))
        wide = min(2 * channels[-1], widest)
        self.layers.append(convolution(channels[-1], wide, 5, padding=2))
        self.layers.append(convolution(wide, 1, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        features, x = [], F.pad(x, (7, 7), mode="reflect")
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return [*features, self.layers[-1](x)]


class Discriminators(nn.Module):
    """A wave [B, 1, N] -> the features of each scale: the wave itself, then at half the rate, and half again."""

    def __init__(self, scales: int, width: int, strides: int, stride: int, widest: int = WIDEST):
        super().__init__()
        self.scales = nn.ModuleList([Scale(width, strides, stride, widest) for _ in range(scales)])

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        found = []
        for scale in self.scales:
            found.append(scale(x))
            x = F.avg_pool1d(x, 4, 2, padding=1, count_include_pad=False)
        return found


# ── the official weights ─────────────────────────────────────────────────────────────────────────────────────────
def generator_of(weights: Mapping[str, Tensor]) -> Generator:
    """The official generator from its state dict: its sizes are read off the weights.

    Raises UserError for weights of another network.
    """
    direct = renamed(weights)
    first = direct.get("model.1.weight_v")
    if first is None or first.ndim != 3:
        raise UserError("These are no weights of MelGAN's generator: there is no 'model.1.weight_v'.")
    rises = sorted(int(k.split(".")[1]) for k in direct if k.count(".") == 2 and direct[k].ndim == 3 and "_v" in k)[
        1:-1
    ]
    ratios = [direct[f"model.{i}.weight_v"].shape[2] // 2 for i in rises]
    residuals = rises[1] - rises[0] - 2 if len(rises) > 1 else 3
    names = {"first": "model.1", "last": f"model.{rises[-1] + residuals + 3}"}
    for s, at in enumerate(rises):
        names[f"rises.{s}"] = f"model.{at}"
        for j in range(residuals):
            block = f"model.{at + 1 + j}"
            names[f"blocks.{s}.{j}.dilated"] = f"{block}.block.2"
            names[f"blocks.{s}.{j}.pointwise"] = f"{block}.block.4"
            names[f"blocks.{s}.{j}.shortcut"] = f"{block}.shortcut"
    net = Generator(first.shape[1], first.shape[0] >> len(ratios), residuals, ratios)
    return filled(net, names, direct)


def discriminators_of(weights: Mapping[str, Tensor]) -> Discriminators:
    """The official discriminators from their state dict. Raises UserError for weights of another network."""
    direct = renamed(weights)
    scales = len({k.split(".")[1] for k in direct if k.startswith("model.disc_")})
    strides = len({k for k in direct if k.startswith("model.disc_0.") and k.endswith(".0.weight_v")}) - 1
    first, second = (direct.get(f"model.disc_0.model.{k}.weight_v") for k in ("layer_0.1", "layer_1.0"))
    if first is None or second is None:
        raise UserError(
            "These are no weights of MelGAN's discriminators: there is no 'model.disc_0.model.layer_0.1.weight_v'."
        )
    widest = max(len(v) for k, v in direct.items() if k.endswith("weight_v"))
    net = Discriminators(scales, len(first), strides, (second.shape[2] - 1) // 10, widest)
    places = ["layer_0.1", *(f"layer_{i}.0" for i in range(1, strides + 2)), f"layer_{strides + 2}"]
    names = {
        f"scales.{s}.layers.{i}": f"model.disc_{s}.model.{place}"
        for s in range(scales)
        for i, place in enumerate(places)
    }
    return filled(net, names, direct)


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix that a wrapper for several GPUs leaves."""
    return {k.removeprefix("module."): v for k, v in weights.items()}
