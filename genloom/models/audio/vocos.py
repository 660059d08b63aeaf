"""Vocos: mel spectrograms to waves through the inverse Fourier transform; all layers work at the rate of the frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.core import Card, Recipe, Result, Spec, build, register
from genloom.errors import UserError
from genloom.nn.directed import filled
from genloom.nn.istft import cut_off, istft, pieces
from genloom.nn.lined import Convolution, lined
from genloom.nn.mel import PRESETS, Mel, tables
from genloom.nn.streaming import Added, Chain, Convolved, Each, Overlapped, Pipe
from genloom.nn.wave_critic import PERIODS, Periods, Resolutions
from genloom.nn.weights import arguments
from genloom.objectives.adversarial import Objective, hinge_critic
from genloom.objectives.vocoding import Vocoder

EPS = 1e-6
LOUDEST = 100.0  # of a magnitude: its logarithm is free, and would overflow
EDGES: dict[str, Literal["same", "centre"]] = {"same": "same", "center": "centre"}
SAME_TRIANGLES = 1e-3  # between filters that differ in rounding alone


# ── the network ──────────────────────────────────────────────────────────────────────────────────────────────────
class AdaptiveNorm(nn.Module):
    """Layer normalisation of [B, T, C] whose scale and shift are looked up by a condition, i64 [B] or [1]."""

    def __init__(self, conditions: int, channels: int):
        super().__init__()
        self.scale, self.shift = nn.Embedding(conditions, channels), nn.Embedding(conditions, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        normal = F.layer_norm(x, x.shape[2:], eps=EPS)
        return normal * self.scale(condition)[:, None] + self.shift(condition)[:, None]


def norm(channels: int, conditions: int) -> nn.Module:
    return AdaptiveNorm(conditions, channels) if conditions else nn.LayerNorm(channels, EPS)


class Block(nn.Module):
    """[B, C, T] -> the same: each channel along time, then all channels of a frame (ConvNeXt, Liu et al. 2022, in 1-D)."""

    def __init__(self, channels: int, inner: int, gamma: float, conditions: int):
        super().__init__()
        self.along = Convolution(channels, channels, 7, padding=3, groups=channels)
        self.norm = norm(channels, conditions)
        self.widen, self.narrow = nn.Linear(channels, inner), nn.Linear(inner, channels)
        self.gamma = nn.Parameter(torch.full((channels,), gamma))

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        return x + self.across(self.along(x), *condition)

    def across(self, x: Tensor, *condition: Tensor) -> Tensor:
        seen = self.norm(x.transpose(1, 2), *condition)  # [B, T, C]
        return (self.gamma * self.narrow(F.gelu(self.widen(seen)))).transpose(1, 2)

    def pipe(self) -> Pipe:
        return Added([Chain(), Chain(Convolved(self.along, 3), Each(self.across))])


class Head(nn.Module):
    """[B, T, C] -> a wave [B, 1, N]: log magnitude and phase of each frame's Fourier transform, and its inverse.

    A phase is a plain number that wraps by itself: only its cosine and sine are used (section 3). Raises UserError for
    a hop that leaves samples which no frame touches.
    """

    window: Tensor

    def __init__(self, channels: int, n_fft: int, hop: int, edges: Literal["same", "centre"]):
        super().__init__()
        if not 0 < hop < n_fft:
            raise UserError(f"A hop of {hop} leaves gaps between frames of {n_fft} samples.")
        self.hop, self.edges = hop, edges
        self.out = nn.Linear(channels, n_fft + 2)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return istft(self.waves(x), self.window, self.hop, self.edges)[:, None]

    def waves(self, x: Tensor) -> Tensor:
        """[B, T, C] -> complex [B, n_fft / 2 + 1, T]."""
        log_magnitude, phase = self.out(x).float().transpose(1, 2).chunk(2, 1)
        magnitude = log_magnitude.exp().clamp(max=LOUDEST)
        return torch.complex(magnitude * phase.cos(), magnitude * phase.sin())


class Generator(nn.Module):
    """Mel frames [B, bands, T] -> a wave [B, 1, N], N as nn/istft.py tells (Siuzdak 2023, section 3).

    `gamma` is what each block's residual begins at, 1 / layers where it is not told. `conditions` counts the kinds of
    input that `condition`, i64 [B] or [1], tells apart (for the authors, a codec's bandwidths); 0 for one kind alone.
    """

    def __init__(
        self,
        bands: int,
        width: int,
        inner: int,
        layers: int,
        n_fft: int,
        hop: int,
        edges: Literal["same", "centre"],
        conditions: int = 0,
        gamma: float | None = None,
    ):
        super().__init__()
        self.sizes = {"width": width, "inner": inner, "layers": layers}
        gamma = 1 / layers if gamma is None else gamma
        self.conditions = conditions
        self.first = Convolution(bands, width, 7, padding=3)
        self.norm = norm(width, conditions)
        self.blocks = nn.ModuleList([Block(width, inner, gamma, conditions) for _ in range(layers)])
        self.last_norm = nn.LayerNorm(width, EPS)
        for layer in self.modules():  # the head, made after, begins as PyTorch begins it
            if isinstance(layer, (nn.Conv1d, nn.Linear)):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.head = Head(width, n_fft, hop, edges)

    def forward(self, mel: Tensor, condition: Tensor | None = None) -> Tensor:
        """Raises UserError where a condition is missing, or given without need."""
        if (condition is not None) != (self.conditions > 0):
            wanted = f"the number of a condition below {self.conditions}" if self.conditions else "no condition"
            raise UserError(f"This Vocos takes {wanted} beside the mel spectrogram.")
        return self.head(self.body(mel, *(() if condition is None else (condition,))))

    def body(self, x: Tensor, *told: Tensor) -> Tensor:
        """[B, bands, T] -> [B, T, width], all but the head."""
        x = self.norm(self.first(lined(x)).transpose(1, 2), *told).transpose(1, 2)
        for block in self.blocks:
            x = block(x, *told)
        return self.last_norm(x.transpose(1, 2))

    def pipe(self) -> Pipe:
        """The same without a condition, piece by piece."""
        window, hop = self.head.window, self.head.hop
        first = Each(lambda x: self.norm(x.transpose(1, 2)).transpose(1, 2))
        blocks = [cast(Block, block).pipe() for block in self.blocks]
        last = Overlapped(self._pieces, window, hop, cut_off(len(window), hop, self.head.edges))
        return Chain(Convolved(self.first, 3), first, *blocks, last)

    def _pieces(self, x: Tensor) -> Tensor:  # [B, C, T] -> [B, n_fft, T]
        return pieces(self.head.waves(self.last_norm(x.transpose(1, 2))), self.head.window)


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────
class Discriminators(nn.Module):
    """A wave [B, 1, N] -> the features of each period, then those of each resolution."""

    def __init__(self, period_width: int, resolution_width: int):
        super().__init__()
        self.periods = Periods(period_width)
        self.resolutions = Resolutions(resolution_width) if resolution_width else None

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        return [*self.periods(x), *(self.resolutions(x) if self.resolutions else [])]


TINY: dict[str, Any] = {
    "mel": "vocos@8000,n_fft=256,window=256,hop=64,bands=40",
    "segment": 1536,
    "width": 16,
    "inner": 32,
    "layers": 2,
    "period_width": 1,
    "resolution_width": 8,
}
CPU = Recipe(
    minutes=20,
    batch_size=16,
    lr=1e-3,
    betas=(0.8, 0.9),
    ema=0.995,
    decay=0.5,
    clip=1.0,
    model={
        "mel": "vocos@16000,bands=80",
        "segment": 8192,
        "width": 192,
        "inner": 576,
        "layers": 6,
        "period_width": 4,
        "resolution_width": 0,
        "spectra": 10.0,
        "alone": 0.6,
    },
)


class SpectralVocoder(Vocoder):
    """A vocoder with Vocos's losses: hinges, periods, and resolutions that count a tenth (section 3.3)."""

    objective = Objective(hinge_critic, lambda r, f: F.relu(1 - f))

    def weights(self, count: int) -> Sequence[float]:
        """Of each discriminator: the means over periods and over resolutions."""
        rest = count - len(PERIODS)
        return [1 / len(PERIODS)] * len(PERIODS) + [0.1 / max(rest, 1)] * rest


@register("vocos")
class Vocos(SpectralVocoder):
    """A wave of a mel spectrogram by the inverse Fourier transform of what a network at the rate of frames tells.

    `mel`, `segment`, `similar`, `spectra`, `features` and `alone` are a Vocoder's. `width`, `inner` and `layers` are of the network.
    The critics see periods, `period_width` wide at first, and spectrograms, `resolution_width` wide, or 0: none.
    """

    card = Card(
        paper="Vocos: Closing the gap between time-domain and Fourier-based neural vocoders for high-quality audio synthesis",
        authors="Siuzdak",
        year=2023,
        url="https://arxiv.org/abs/2306.00814",
        summary="The fastest vocoder here: all layers work at the rate of frames, a Fourier transform makes the samples.",
        changes="The critics are HiFi-GAN's periods and UnivNet's resolutions, without the bands that the authors' later code has. "
        "A running average of the generator makes the samples, but in the paper's recipe. The recipe cpu learns from the "
        "distance of mel spectrograms alone at first.",
        results=(
            Result("UTMOS", 3.734, "LibriTTS test-clean; recordings 4.058", "table 1"),
            Result("PESQ", 3.70, "LibriTTS test-clean", "table 1"),
            Result("million parameters", 13.5, "the generator", "section 4"),
        ),
    )
    recipes = {
        "tiny": Recipe(
            steps=12,
            batch_size=4,
            model=TINY,
        ),
        "cpu": CPU,
        "default": Recipe(steps=500_000, batch_size=16, betas=(0.8, 0.9), decay=1.0, curve="cosine"),
        "paper": Recipe(
            steps=1_000_000,
            batch_size=16,
            betas=(0.8, 0.9),
            ema=0.0,
            decay=1.0,
            curve="cosine",
            model={"segment": 16_384},
        ),
    }
    generator: Generator

    def __init__(
        self,
        spec: Spec,
        *,
        mel: str = "vocos",
        segment: int = 16_384,
        width: int = 512,
        inner: int = 1536,
        layers: int = 8,
        period_width: int = 32,
        resolution_width: int = 32,
        similar: float = 45.0,
        spectra: float = 0.0,
        features: float = 1.0,
        alone: float = 0.0,
    ):
        super().__init__(
            spec, mel=mel, segment=segment, similar=similar, spectra=spectra, features=features, alone=alone
        )
        kind = self.mel
        self.generator = Generator(kind.bands, width, inner, layers, kind.n_fft, kind.hop, kind.edges)
        self.discriminator = Discriminators(period_width, resolution_width)

    @classmethod
    def from_reference(cls, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Vocos:
        """The authors' network with its config.yaml, read into a dict. Raises UserError for what does not fit."""
        maker, mel = generator_of(weights, config), mel_of(config)
        if maker.conditions:
            raise UserError("Vocos with conditions is of a codec's codes, and makes no wave of a mel spectrogram.")
        spec = Spec("audio", (1, 64 * mel.hop), extra={"rate": mel.rate})
        words = f"n_fft={mel.n_fft},window={mel.window},hop={mel.hop},bands={mel.bands},edges={mel.edges}"
        net = build(cls, spec, {"mel": f"vocos@{mel.rate},{words}", **maker.sizes})
        net.generator.load_state_dict(maker.state_dict())
        return net.eval()


# ── the official weights ─────────────────────────────────────────────────────────────────────────────────────────
def generator_of(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Generator:
    """The official network from its state dict and its config.yaml, read into a dict.

    Raises UserError for parts or options of it that have no counterpart here, for weights of another network, and for
    weights that were made with other mel filters.
    """
    mel = mel_of(config)
    body = _options(
        config,
        "backbone",
        "VocosBackbone",
        ("input_channels", "dim", "intermediate_dim", "num_layers"),
        layer_scale_init_value=None,
        adanorm_num_embeddings=None,
    )
    bands, width, inner, layers, gamma, conditions = body.values()
    head = _options(config, "head", "ISTFTHead", ("dim", "n_fft", "hop_length"), padding="same")
    _, n_fft, hop, padding = head.values()
    net = Generator(bands, width, inner, layers, n_fft, hop, _edges(padding), conditions or 0, gamma)
    filters = weights.get("feature_extractor.mel_spec.mel_scale.fb")  # [n_fft / 2 + 1, bands]
    own = tables(mel)[1].T
    if filters is not None and not (filters.shape == own.shape and torch.allclose(filters, own, atol=SAME_TRIANGLES)):
        raise UserError("These weights of Vocos were made with other mel filters than their config tells.")
    return filled(net, {ours: _theirs(ours) for ours, _ in net.named_modules()}, weights)


def mel_of(config: Mapping[str, Any]) -> Mel:
    """What the official network was trained to be fed with. Raises UserError for other features than mel spectrograms."""
    defaults = {"sample_rate": 24_000, "n_fft": 1024, "hop_length": 256, "n_mels": 100, "padding": "center"}
    told = _options(config, "feature_extractor", "MelSpectrogramFeatures", (), **defaults)
    rate, n_fft, hop, bands, padding = told.values()
    return replace(PRESETS["vocos"], rate=rate, n_fft=n_fft, window=n_fft, hop=hop, bands=bands, edges=_edges(padding))


def _theirs(ours: str) -> str:
    """The official name of a layer."""
    for own, there in (("along", "dwconv"), ("widen", "pwconv1"), ("narrow", "pwconv2"), ("blocks.", "convnext.")):
        ours = ours.replace(own, there)
    whole = {"first": "embed", "last_norm": "final_layer_norm"}
    return ours if ours.startswith("head") else f"backbone.{whole.get(ours, ours)}"


def _options(
    config: Mapping[str, Any], part: str, kind: str, needed: tuple[str, ...], **optional: Any
) -> dict[str, Any]:
    """The arguments of one part, those needed first: a `class_path` and its `init_args`, or the arguments alone."""
    told = config.get(part)
    if not isinstance(told, Mapping):
        raise UserError(f"This config of Vocos has no '{part}'.")
    named = str(told.get("class_path", kind)).rpartition(".")[2]
    if named != kind:
        raise UserError(f"Vocos with {named} for its {part} has no counterpart here: only {kind} has.")
    given = told.get("init_args", told)
    if missing := next((k for k in needed if k not in given), None):
        raise UserError(f"The {part} in this config of Vocos has no '{missing}'.")
    return arguments(given, f"The {part} of Vocos", used=dict.fromkeys(needed) | optional, fixed={})


def _edges(padding: str) -> Literal["same", "centre"]:
    if padding not in EDGES:
        raise UserError(f"Vocos pads by 'same' or 'center', not '{padding}'.")
    return EDGES[padding]
