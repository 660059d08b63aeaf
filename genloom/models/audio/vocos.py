"""Vocos: mel spectrograms to waves through the inverse Fourier transform; all layers work at the rate of the frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.errors import UserError
from genloom.nn.directed import filled
from genloom.nn.istft import istft
from genloom.nn.mel import PRESETS, Mel, tables
from genloom.nn.weights import arguments

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
        self.along = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = norm(channels, conditions)
        self.widen, self.narrow = nn.Linear(channels, inner), nn.Linear(inner, channels)
        self.gamma = nn.Parameter(torch.full((channels,), gamma))

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        seen = self.norm(self.along(x).transpose(1, 2), *condition)  # [B, T, C]
        seen = self.gamma * self.narrow(F.gelu(self.widen(seen)))
        return x + seen.transpose(1, 2)


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
        log_magnitude, phase = self.out(x).float().transpose(1, 2).chunk(2, 1)  # [B, n_fft / 2 + 1, T]
        magnitude = log_magnitude.exp().clamp(max=LOUDEST)
        waves = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        return istft(waves, self.window, self.hop, self.edges)[:, None]


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
        gamma = 1 / layers if gamma is None else gamma
        self.conditions = conditions
        self.first = nn.Conv1d(bands, width, 7, padding=3)
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
        told = () if condition is None else (condition,)
        x = self.norm(self.first(mel).transpose(1, 2), *told).transpose(1, 2)
        for block in self.blocks:
            x = block(x, *told)
        return self.head(self.last_norm(x.transpose(1, 2)))


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
