"""MelGAN: mel spectrograms to waves by transposed convolutions, judged at three rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.core import Card, Recipe, Result, Spec, build, register
from genloom.errors import UserError
from genloom.nn.directed import convolution, directed, filled
from genloom.nn.lined import Rise, activated, both, lined, reflected
from genloom.nn.pqmf import CUTOFFS, Synthesis
from genloom.nn.streaming import Beside, Chain, Convolved, Each, Pipe, Risen
from genloom.nn.weights import under
from genloom.objectives.adversarial import find_objective
from genloom.objectives.vocoding import Features, Vocoder, feature_matching, in_words, whole_numbers

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
        seen = F.leaky_relu_(self.dilated(activated(x, SLOPE, self.dilation)), SLOPE)
        return both(x, self.shortcut, seen, self.pointwise)

    def pipe(self) -> Pipe:
        dilated = Convolved(self.dilated, self.dilation, "reflect", SLOPE)
        return Beside(self.shortcut, Chain(dilated, Each(activate)), self.pointwise)


class Generator(nn.Module):
    """Mel frames [B, bands, T] -> a wave [B, 1, T · hop] in [-1, 1] (Kumar et al. 2019, section 2.1).

    Each stage makes `ratio` samples of one at half the width, then looks 3^j samples around in `residuals` blocks. With
    `split` above 1 so many frequency bands are made at a rate as much lower, and put together (Yang et al. 2020).
    """

    def __init__(self, bands: int, width: int, residuals: int, ratios: Sequence[int] = RATIOS, split: int = 1):
        super().__init__()
        self.sizes = {"width": width, "residuals": residuals, "ratios": in_words(ratios)}
        self.bands = bands
        channels = [width << i for i in range(len(ratios), -1, -1)]
        self.first = convolution(bands, channels[0], 7)
        self.rises = nn.ModuleList([rise(a, b, r) for a, b, r in zip(channels, channels[1:], ratios, strict=False)])
        self.blocks = nn.ModuleList(
            [nn.Sequential(*[Residual(c, 3**j) for j in range(residuals)]) for c in channels[1:]]
        )
        self.last = convolution(width, split, 7)
        self.together: Synthesis | None = Synthesis(split) if split > 1 else None

    def forward(self, mel: Tensor) -> Tensor:
        x: Tensor = self.first(reflected(lined(mel), 3))
        for rise, blocks in zip(self.rises, self.blocks, strict=True):
            x = cast(nn.Sequential, blocks)(rise(activate(x)))
        made = torch.tanh(self.last(activated(x, SLOPE, 3)))
        return made if self.together is None else cast(Synthesis, self.together)(made)

    def pipe(self) -> Pipe:
        """The same, piece by piece."""
        stages = [
            Chain(Each(activate), Risen(rise), *[cast(Residual, block).pipe() for block in cast(nn.Sequential, blocks)])
            for rise, blocks in zip(self.rises, self.blocks, strict=True)
        ]
        ends: list[Pipe] = [Convolved(self.last, 3, "reflect", SLOPE), Each(torch.tanh)]
        ends += [Risen(self.together)] if self.together else []
        return Chain(Convolved(self.first, 3, "reflect"), *stages, *ends)


def activation(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def activate(x: Tensor) -> Tensor:
    """The same in place."""
    return F.leaky_relu_(x, SLOPE)


def rise(before: int, after: int, ratio: int) -> nn.Module:
    """[B, C, T] -> [B, C', ratio · T]."""
    odd = ratio % 2
    return directed(Rise(before, after, 2 * ratio, ratio, padding=ratio // 2 + odd, output_padding=odd))


# ── the discriminators ───────────────────────────────────────────────────────────────────────────────────────────
class Scale(nn.Module):
    """A wave [B, 1, N] -> the features of every layer, the last a map of logits [B, 1, N / 4^strides] (section 2.2)."""

    def __init__(self, width: int, strides: int, stride: int, widest: int = WIDEST):
        super().__init__()
        if strides < 1:
            raise UserError(f"--model.critic-strides must be 1 or more, not {strides}.")
        channels = [min(width * stride**i, widest) for i in range(strides + 1)]
        self.layers = nn.ModuleList([convolution(1, width, 15)])
        for a, b in pairwise(channels):
            how = {"stride": stride, "padding": 5 * stride, "groups": a // 4}
            self.layers.append(convolution(a, b, 10 * stride + 1, **how))
        wide = min(2 * channels[-1], widest)
        self.layers.append(convolution(channels[-1], wide, 5, padding=2))
        self.layers.append(convolution(wide, 1, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        features, x = [], reflected(lined(x), 7)
        for layer in self.layers[:-1]:
            x = activation(layer(x))
            features.append(x)
        return [*features, self.layers[-1](x)]


class Discriminators(nn.Module):
    """A wave [B, 1, N] -> the features of each scale: the wave itself, then at half the rate, and half again."""

    def __init__(self, scales: int, width: int, strides: int, stride: int, widest: int = WIDEST):
        super().__init__()
        self.sizes = {
            "critic_scales": scales,
            "critic_width": width,
            "critic_strides": strides,
            "critic_stride": stride,
            "critic_widest": widest,
        }
        self.scales = nn.ModuleList([Scale(width, strides, stride, widest) for _ in range(scales)])

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        found = []
        for scale in self.scales:
            found.append(scale(x))
            x = F.avg_pool1d(x, 4, 2, padding=1, count_include_pad=False)
        return found


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────
@register("melgan")
class MelGAN(Vocoder):
    """A wave of a mel spectrogram, by a fully convolutional generator and discriminators at several rates.

    `mel`, `segment`, `similar`, `spectra`, `features` and `alone` are a Vocoder's. `width` and `residuals`: of the last stage, whose
    `ratios` times `split`, the frequency bands that are made apart, are the hop. The critic looks at `critic_scales` rates,
    `critic_width` channels at first, times `critic_stride` at each of `critic_strides`, at most `critic_widest`.
    `objective`: hinge, or least_squares as multi-band MelGAN has it.
    """

    card = Card(
        paper="MelGAN: Generative Adversarial Networks for Conditional Waveform Synthesis",
        authors="Kumar, Kumar, de Boissiere, Gestin, Teoh, Sotelo, de Brébisson, Bengio, Courville",
        year=2019,
        url="https://arxiv.org/abs/1910.06711",
        summary="Speech and music from mel spectrograms, fast on a CPU: a convolutional generator, critics at three rates.",
        changes="The recipes cpu and multiband make four frequency bands apart (Multi-band MelGAN, Yang et al. 2020) and learn "
        "from the distance of mel spectrograms first (as HiFi-GAN weighs it), then against the critic too. A running average "
        "of the generator makes the samples, but in the paper's recipe.",
        results=(
            Result("kHz of sound a second on a CPU", 51.9, "22 kHz, 80 bands", "table 1"),
            Result("million parameters", 4.26, "the generator", "table 1"),
        ),
    )
    recipes = {
        "tiny": Recipe(
            steps=12,
            batch_size=4,
            model={
                "mel": "melgan@8000",
                "segment": 1024,
                "width": 4,
                "residuals": 1,
                "critic_scales": 2,
                "critic_width": 4,
                "critic_strides": 2,
                "critic_widest": 32,
            },
        ),
        "cpu": Recipe(
            minutes=20,
            batch_size=8,
            lr=1e-3,
            betas=(0.8, 0.99),
            ema=0.995,
            decay=0.3,
            model={
                "mel": "melgan@16000",
                "width": 32,
                "ratios": "8 4 2",
                "split": 4,
                "similar": 45.0,
                "spectra": 10.0,
                "features": 2.0,
                "alone": 0.7,
                "critic_scales": 2,
                "critic_widest": 256,
                "objective": "least_squares",
            },
        ),
        "default": Recipe(steps=400_000, batch_size=16, lr=1e-4, betas=(0.5, 0.9)),
        "multiband": Recipe(
            steps=1_000_000,
            batch_size=64,
            lr=1e-3,
            betas=(0.5, 0.9),
            decay=0.5,
            model={
                "width": 48,
                "residuals": 4,
                "ratios": "8 4 2",
                "split": 4,
                "similar": 45.0,
                "features": 2.0,
                "alone": 0.2,
                "objective": "least_squares",
            },
        ),
        "paper": Recipe(steps=3_000_000, batch_size=16, lr=1e-4, betas=(0.5, 0.9), ema=0.0),
    }

    def __init__(
        self,
        spec: Spec,
        *,
        mel: str = "melgan",
        segment: int = 8192,
        width: int = 32,
        residuals: int = 3,
        ratios: str = "8 8 2 2",
        split: int = 1,
        critic_scales: int = 3,
        critic_width: int = 16,
        critic_strides: int = 4,
        critic_stride: int = 4,
        critic_widest: int = WIDEST,
        objective: str = "hinge",
        similar: float = 0.0,
        spectra: float = 0.0,
        features: float = 10.0,
        alone: float = 0.0,
    ):
        super().__init__(
            spec, mel=mel, segment=segment, similar=similar, spectra=spectra, features=features, alone=alone
        )
        self.objective = find_objective(objective)
        if split != 1 and split not in CUTOFFS:
            raise UserError(f"--model.split must be 1, {', '.join(map(str, CUTOFFS))}, not {split}.")
        steps = whole_numbers("ratios", ratios)
        self.check_hop(math.prod(steps) * split, "--model.ratios times --model.split")
        self.generator = Generator(self.mel.bands, width, residuals, steps, split)
        self.discriminator = Discriminators(critic_scales, critic_width, critic_strides, critic_stride, critic_widest)

    def matching(self, real: Features, fake: Features) -> Tensor:
        """Over the layers below the logits, 4 / (layers that stride + 1) and the mean over scales (the authors' code)."""
        weight = 4 / (len(real[0]) - 2) / len(real)
        return weight * feature_matching([r[:-1] for r in real], [f[:-1] for f in fake])

    @classmethod
    def from_reference(cls, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> MelGAN:
        """The authors' generator or discriminators, or both under "G." and "D."; sizes are read off the weights.

        `config` may hold `sampling_rate`. Raises UserError for weights of another network.
        """
        if wrong := next((k for k in config if k != "sampling_rate"), None):
            raise UserError(f"MelGAN's importer takes 'sampling_rate' alone, and not '{wrong}'.")
        direct = renamed(weights)
        parts = {name: under(direct, f"{name}.") for name in "GD"}
        if not any(parts.values()):
            parts["D" if any(k.startswith("model.disc_") for k in direct) else "G"] = direct
        maker = generator_of(parts["G"]) if parts["G"] else None
        judge = discriminators_of(parts["D"]) if parts["D"] else None
        rate = int(config.get("sampling_rate", 22_050))
        sizes = {**(maker.sizes if maker else {}), **(judge.sizes if judge else {})}
        bands = maker.bands if maker else 80
        hop = math.prod(whole_numbers("ratios", str(sizes["ratios"]))) if maker else 256
        changes = (f",bands={bands}" if bands != 80 else "") + (f",hop={hop}" if hop != 256 else "")
        spec = Spec("audio", (1, 64 * hop), extra={"rate": rate})
        net = build(cls, spec, {"mel": f"melgan@{rate}{changes}", **sizes})
        for own, found in ((net.generator, maker), (net.discriminator, judge)):
            if found is not None:
                own.load_state_dict(found.state_dict())
        return net.eval()


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
