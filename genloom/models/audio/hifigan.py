"""HiFi-GAN: mel spectrograms to waves; each rise in rate is seen by several blocks that look differently far.

Two sets of discriminators judge: some see every p-th sample beside each other, some the wave at falling rates.
"""

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
from genloom.nn.lined import Rise, lined
from genloom.nn.mel import Mel
from genloom.nn.spectral import StoredConv1d
from genloom.nn.streaming import Added, Chain, Convolved, Each, Pipe, Risen
from genloom.nn.wave_critic import PERIODS, Periods, features
from genloom.nn.weights import under
from genloom.objectives.adversarial import Objective, least_squares_critic, least_squares_generator
from genloom.objectives.vocoding import Vocoder, in_words, whole_numbers

SLOPE = 0.1
LAST_SLOPE = 0.01  # before the last convolution: PyTorch's default, in the authors' code
SCALES = 3
ACTIVE = Each(lambda x: F.leaky_relu(x, SLOPE))
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

    def pipe(self) -> Pipe:
        steps = []
        for i, dilated in enumerate(self.dilated):
            layers = [dilated, self.plain[i]] if self.plain else [dilated]
            deep = [Convolved(c, slope=SLOPE) for c in layers]
            steps.append(Added([Chain(), Chain(*deep)]))
        return Chain(*steps)


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
        self.sizes = {
            "width": width,
            "rates": in_words(rates),
            "rise_kernels": in_words(rise_kernels),
            "kernels": in_words(kernels),
            "dilations": ", ".join(map(in_words, dilations)),
            "pairs": pairs,
        }
        channels = [width >> i for i in range(len(rates) + 1)]
        self.first = convolution(bands, width, 7, padding=3)
        self.rises, self.blocks = nn.ModuleList(), nn.ModuleList()
        for before, after, rate, kernel in zip(channels, channels[1:], rates, rise_kernels, strict=False):
            rise = Rise(before, after, kernel, rate, padding=(kernel - rate) // 2)
            self.rises.append(directed(rise))
            blocks = [Residual(after, k, d, pairs) for k, d in zip(kernels, dilations, strict=True)]
            self.blocks.append(nn.ModuleList(blocks))
        self.last = convolution(channels[-1], 1, 7, padding=3)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.first(lined(mel))
        for rise, blocks in zip(self.rises, self.blocks, strict=True):
            x = rise(F.leaky_relu(x, SLOPE))
            seen = [block(x) for block in cast(nn.ModuleList, blocks)]
            x = torch.stack(seen).mean(0)
        return torch.tanh(self.last(F.leaky_relu(x, LAST_SLOPE)))

    def pipe(self) -> Pipe:
        """The same, piece by piece."""
        stages = []
        for rise, blocks in zip(self.rises, self.blocks, strict=True):
            seen = [cast(Residual, block).pipe() for block in cast(nn.ModuleList, blocks)]
            stages.append(Chain(ACTIVE, Risen(rise), Added(seen, mean=True)))
        return Chain(Convolved(self.first), *stages, Convolved(self.last, slope=LAST_SLOPE), Each(torch.tanh))


# ── the discriminators ───────────────────────────────────────────────────────────────────────────────────────────
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
        return features(self.layers, lined(x))


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
        self.period_width, self.scale_width = period_width, scale_width
        self.periods = Periods(period_width)
        self.scales = Scales(scale_width) if scale_width else None

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        return [*self.periods(x), *(self.scales(x) if self.scales else [])]


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────
@register("hifigan")
class HiFiGAN(Vocoder):
    """A wave of a mel spectrogram: residual blocks that look differently far, judged by periods and scales.

    `mel`, `segment`, `similar`, `spectra`, `features` and `alone` are a Vocoder's. The rate rises by `rates`, by convolutions of
    `rise_kernels`; `kernels` of the blocks, and their `dilations`: one row for all, or a row each after commas. `pairs`:
    a plain convolution follows each dilated one. The critics are `period_width` and `scale_width` wide at first, the latter 0 for none.
    """

    card = Card(
        paper="HiFi-GAN: Generative Adversarial Networks for Efficient and High Fidelity Speech Synthesis",
        authors="Kong, Kim, Bae",
        year=2020,
        url="https://arxiv.org/abs/2010.05646",
        summary="Speech from mel spectrograms near the recordings themselves: critics that see periods, and scales.",
        changes="A running average of the generator makes the samples, but in the recipes v1, v2 and v3. The recipe cpu learns "
        "from the distance of mel spectrograms alone at first.",
        results=(
            Result("mean opinion score", 4.36, "LJ Speech, V1; recordings 4.45", "table 1"),
            Result("mean opinion score", 4.05, "LJ Speech, V3; recordings 4.45", "table 1"),
            Result("million parameters", 13.92, "the generator, V1", "table 1"),
        ),
    )
    recipes = {
        "tiny": Recipe(
            steps=12,
            batch_size=4,
            model={
                "mel": "hifigan@8000",
                "segment": 1024,
                "width": 8,
                "rates": "16 16",
                "rise_kernels": "32 32",
                "kernels": "3",
                "period_width": 1,
                "scale_width": 16,
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
                "mel": "hifigan@16000",
                "width": 128,
                "rates": "8 8 4",
                "rise_kernels": "16 16 8",
                "kernels": "3 5 7",
                "dilations": "1 2, 2 6, 3 12",
                "pairs": False,
                "period_width": 4,
                "scale_width": 0,
                "spectra": 10.0,
                "alone": 0.6,
            },
        ),
        "default": Recipe(steps=500_000, batch_size=16, betas=(0.8, 0.99), decay=0.5),
        "v1": Recipe(steps=2_500_000, batch_size=16, betas=(0.8, 0.99), ema=0.0, decay=1.0),
        "v2": Recipe(steps=2_500_000, batch_size=16, betas=(0.8, 0.99), ema=0.0, decay=1.0, model={"width": 128}),
        "v3": Recipe(
            steps=2_500_000,
            batch_size=16,
            betas=(0.8, 0.99),
            ema=0.0,
            decay=1.0,
            model={
                "width": 256,
                "rates": "8 8 4",
                "rise_kernels": "16 16 8",
                "kernels": "3 5 7",
                "dilations": "1 2, 2 6, 3 12",
                "pairs": False,
            },
        ),
    }
    objective = Objective(  # the paper's squares are whole, Mao's halved
        lambda r, f: 2 * least_squares_critic(r, f), lambda r, f: 2 * least_squares_generator(r, f)
    )

    def __init__(
        self,
        spec: Spec,
        *,
        mel: str = "hifigan",
        segment: int = 8192,
        width: int = 512,
        rates: str = "8 8 2 2",
        rise_kernels: str = "16 16 4 4",
        kernels: str = "3 7 11",
        dilations: str = "1 3 5",
        pairs: bool = True,
        period_width: int = 32,
        scale_width: int = 128,
        similar: float = 45.0,
        spectra: float = 0.0,
        features: float = 2.0,
        alone: float = 0.0,
    ):
        super().__init__(
            spec, mel=mel, segment=segment, similar=similar, spectra=spectra, features=features, alone=alone
        )
        rises, wide, seen = (
            whole_numbers(name, text)
            for name, text in (("rates", rates), ("rise-kernels", rise_kernels), ("kernels", kernels))
        )
        self.check_hop(math.prod(rises), "--model.rates")
        rows = [whole_numbers("dilations", row) for row in dilations.split(",")]
        rows = rows * len(seen) if len(rows) == 1 else rows
        if len(rises) != len(wide) or len(seen) != len(rows):
            raise UserError(
                "HiFi-GAN takes a --model.rise-kernels for each of --model.rates, and --model.dilations, after commas, for "
                f"each of --model.kernels: not {len(wide)} for {len(rises)}, and {len(rows)} for {len(seen)}."
            )
        if width % 2 ** len(rises):
            raise UserError(f"--model.width halves {len(rises)} times: {width} does not.")
        self.generator = Generator(self.mel.bands, width, rises, wide, seen, rows, pairs)
        self.discriminator = Discriminators(period_width, scale_width)

    @classmethod
    def from_reference(cls, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> HiFiGAN:
        """The authors' generator under "generator.", or its discriminators under "mpd." and "msd.", or all of them, with
        their config.json. Raises UserError for what does not fit."""
        weights = {k.removeprefix("module."): v for k, v in weights.items()}
        judged = {k: v for k, v in weights.items() if k.startswith(("mpd.", "msd."))}
        made = under(weights, "generator.") or {k: v for k, v in weights.items() if k not in judged}
        options: dict[str, Any] = {"mel": mel_in_words(config)}
        maker = generator_of(made, config) if made else None
        judge = discriminators_of(judged) if judged else None
        if maker:
            options |= maker.sizes
        if judge:
            options |= {"period_width": judge.period_width, "scale_width": judge.scale_width}
        mel = Mel.of(options["mel"])
        spec = Spec("audio", (1, 64 * mel.hop), extra={"rate": mel.rate})
        net = build(cls, spec, options)
        for own, found in ((net.generator, maker), (net.discriminator, judge)):
            if found is not None:
                own.load_state_dict(found.state_dict())
        return net.eval()


def mel_in_words(config: Mapping[str, Any]) -> str:
    """What their config.json says of mel spectrograms, where it says it."""
    names = {
        "num_mels": "bands",
        "n_fft": "n_fft",
        "hop_size": "hop",
        "win_size": "window",
        "fmin": "fmin",
        "fmax": "fmax",
    }
    said = [f"{ours}={config[theirs]}" for theirs, ours in names.items() if config.get(theirs) is not None]
    return ",".join([f"hifigan@{config.get('sampling_rate', 22_050)}", *said])


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
