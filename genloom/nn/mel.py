"""The mel contract: what one number of a mel spectrogram means, so that no vocoder is fed with another's.

Four conventions that look alike are in use. Each field in which two differ changes what is heard; silence about them is the
commonest failure of vocoders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from genloom.errors import UserError, nearest

LINEAR, STEP = 1000.0, math.log(6.4) / 27  # Slaney's scale: linear up to 1 kHz, then so much of a logarithm a mel
NUMBERS = ("rate", "n_fft", "hop", "window", "bands", "fmin", "fmax", "floor", "epsilon")
LOGS = {"10": math.log(10), "e": 1.0}


@dataclass(frozen=True)
class Mel:
    """A mel spectrogram: log of the bands' sums of |STFT|.

    Args:
        rate: samples a second that it is made from, Hz
        n_fft, hop, window: samples of the transform, from one frame to the next, and of the periodic Hann window
        bands, fmin, fmax: triangles between these frequencies in Hz; fmax None is half the rate
        scale: of the triangles' centres: "slaney" (linear to 1 kHz, then logarithmic) or "htk"
        norm: "slaney" divides each triangle by half its width in Hz; "none" gives each the height 1
        log, floor: natural ("e") or decimal ("10") logarithm of the sums, which are not let below floor
        epsilon: added to |STFT|² under the root
        edges: "same" pads (n_fft - hop) / 2 samples by reflection, for N / hop frames; "centre" n_fft / 2, for one more
    """

    rate: int = 22_050
    n_fft: int = 1024
    hop: int = 256
    window: int = 1024
    bands: int = 80
    fmin: float = 0.0
    fmax: float | None = None
    scale: Literal["slaney", "htk"] = "slaney"
    norm: Literal["slaney", "none"] = "slaney"
    log: Literal["e", "10"] = "e"
    floor: float = 1e-5
    epsilon: float = 0.0
    edges: Literal["same", "centre"] = "same"

    def __post_init__(self) -> None:
        """Raises UserError for numbers that make no mel spectrogram."""
        for name in NUMBERS:
            if not isinstance(value := getattr(self, name), int | float) and not (name == "fmax" and value is None):
                raise UserError(f"This is no mel spectrogram: {name} is a number, not '{value}'.")
        top = self.rate / 2 if self.fmax is None else self.fmax
        for wrong, said in (
            (min(self.rate, self.n_fft, self.hop, self.window, self.bands) < 1, "all sizes are 1 or more"),
            (self.window > self.n_fft, f"a window of {self.window} does not fit into {self.n_fft} samples"),
            (self.hop > self.window, f"a hop of {self.hop} skips samples between windows of {self.window}"),
            (
                not 0 <= self.fmin < top <= self.rate / 2,
                f"{self.fmin:g} to {top:g} Hz is no part of 0 to {self.rate / 2:g}",
            ),
            (self.floor <= 0, "the floor is above 0"),
            (self.log not in LOGS, "log is e or 10"),
        ):
            if wrong:
                raise UserError(f"This is no mel spectrogram: {said}.")

    @classmethod
    def of(cls, given: str | Mapping[str, Any]) -> Self:
        """One from what `to_json` gave, or from words: a preset, perhaps at another rate, perhaps with other fields:
        `vocos`, `melgan@16000`, `hifigan@16000,hop=200,bands=64`. Raises UserError for another preset or field.
        """
        if isinstance(given, str):
            given = cls._in_words(given)
        known = {f.name for f in fields(cls)}
        if wrong := next((k for k in given if k not in known), None):
            raise UserError(f"A mel spectrogram has no '{wrong}'.{nearest(wrong, known)}")
        return cls(**given)

    @staticmethod
    def _in_words(given: str) -> dict[str, Any]:
        first, *changes = given.split(",")
        name, _, rate = first.partition("@")
        if name not in PRESETS:
            raise UserError(f"There is no mel preset '{name}': {', '.join(PRESETS)}.{nearest(name, PRESETS)}")
        found = asdict(PRESETS[name]) | ({"rate": number(rate)} if rate else {})
        if found["fmax"] and found["fmax"] > found["rate"] / 2:
            found["fmax"] = None  # there is no more to hear at that rate
        return found | {k: number(v) for k, _, v in (change.partition("=") for change in changes)}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def frames(self, samples: int) -> int:
        """How many frames so many samples give."""
        return (samples + 2 * self.pad - self.n_fft) // self.hop + 1

    @property
    def pad(self) -> int:
        return self.n_fft // 2 if self.edges == "centre" else (self.n_fft - self.hop) // 2

    def __call__(self, wave: Tensor) -> Tensor:
        """[B, N] or [B, 1, N] in [-1, 1] -> [B, bands, T]. Raises UserError for a wave too short to be padded."""
        return self.of_padded(self.padded(wave))

    def padded(self, wave: Tensor) -> Tensor:
        """[B, N] or [B, 1, N] -> [B, N + 2 pad], its ends reflected. Raises UserError for a wave too short for that."""
        wave = wave.flatten(1) if wave.ndim == 3 and wave.shape[1] == 1 else wave  # [B, N]
        if wave.ndim != 2 or wave.shape[1] <= self.pad:
            raise UserError(
                f"A mel spectrogram needs more than {self.pad} samples of one channel, not {list(wave.shape)}."
            )
        return F.pad(wave[:, None], (self.pad, self.pad), mode="reflect")[:, 0]

    def of_padded(self, padded: Tensor) -> Tensor:
        """[B, N] whose ends are padded already -> [B, bands, T]."""
        waves, filters = self.spectrum(padded), tables(self)[1].to(padded)
        power = waves.real.square() + waves.imag.square()
        sums = filters @ (power + self.epsilon).sqrt()  # [B, bands, T]
        return sums.clamp(min=self.floor).log() / LOGS[self.log]

    def spectrum(self, padded: Tensor) -> Tensor:
        """The transform alone: [B, N] whose ends are padded already -> complex [B, n_fft / 2 + 1, T]."""
        window = tables(self)[0].to(padded)
        return torch.stft(padded, self.n_fft, self.hop, self.window, window, center=False, return_complex=True)

    def convert(self, mel: Tensor, other: Mel) -> Tensor:
        """The same sound's mel as `other` would have it, where that follows from `mel` alone: another log, a higher floor.

        Raises UserError that names every other field in which the two differ.
        """
        if self.floor <= other.floor:
            same = replace(self, log=other.log, floor=other.floor)
        else:
            same = replace(self, log=other.log)
        if said := same.differences(other):
            raise UserError(f"A mel spectrogram of one kind cannot be turned into the other: {said}.")
        return (mel * LOGS[self.log]).clamp(min=math.log(other.floor)) / LOGS[other.log]

    def checked(self, mel: Tensor, kind: str | None = None) -> Tensor:
        """Such a mel spectrogram [bands, T], of the `kind` that these words say where they do.

        Raises UserError for other numbers of bands, values that no such spectrogram has, and kinds that cannot be turned
        into this one.
        """
        if kind is not None:
            mel = Mel.of(kind).convert(mel, self)
        if mel.ndim != 2 or mel.shape[0] != self.bands:
            turned = " (turn it round: it seems to be [frames, bands])" if mel.shape[-1] == self.bands else ""
            raise UserError(f"This mel spectrogram is {list(mel.shape)}, and {self.bands} bands are wanted{turned}.")
        lowest = math.log(self.floor) / LOGS[self.log]
        if float(mel.min()) < lowest - 1e-3:
            raise UserError(
                f"This mel spectrogram goes down to {float(mel.min()):.2f}, and a logarithm to base {self.log} of at least "
                f"{self.floor:g} ends at {lowest:.2f}: say which it is, with --kind {' or '.join(PRESETS)}."
            )
        return mel

    def differences(self, other: Mel) -> str:
        """`hop 256, not 300; log e, not 10`; empty where they agree. fmax is compared in Hz."""
        own, theirs = ({**asdict(m), "fmax": m.rate / 2 if m.fmax is None else m.fmax} for m in (self, other))
        return "; ".join(f"{k} {v}, not {theirs[k]}" for k, v in own.items() if v != theirs[k])


def number(text: str) -> Any:
    """The number that a text is, or the text."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


PRESETS = {
    "melgan": Mel(log="10"),
    "hifigan": Mel(fmax=8000.0, epsilon=1e-9),
    "vocos": Mel(rate=24_000, bands=100, scale="htk", norm="none", floor=1e-7, edges="centre"),
    "tacotron": Mel(fmax=8000.0, edges="centre"),
}


@lru_cache(maxsize=16)
def tables(mel: Mel) -> tuple[Tensor, Tensor]:
    """The window [W] and the triangles [bands, n_fft / 2 + 1], f32."""
    window = torch.hann_window(mel.window, dtype=torch.float64)
    low, high = (mels(torch.tensor(f, dtype=torch.float64), mel.scale) for f in (mel.fmin, mel.fmax or mel.rate / 2))
    edges = hertz(torch.linspace(float(low), float(high), mel.bands + 2, dtype=torch.float64), mel.scale)
    places = torch.arange(mel.n_fft // 2 + 1, dtype=torch.float64) * (mel.rate / mel.n_fft)
    rising = (places - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - places) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(rising, falling).clamp(min=0)
    if mel.norm == "slaney":
        filters *= (2 / (edges[2:] - edges[:-2]))[:, None]
    return window.float(), filters.float()


def mels(f: Tensor, scale: str) -> Tensor:
    """Hz -> mel."""
    if scale == "htk":
        return 2595 * torch.log10(1 + f / 700)
    return torch.where(f < LINEAR, 3 * f / 200, 15 + torch.log(f.clamp(min=LINEAR) / LINEAR) / STEP)


def hertz(m: Tensor, scale: str) -> Tensor:
    """Mel -> Hz."""
    if scale == "htk":
        return 700 * (10 ** (m / 2595) - 1)
    return torch.where(m < 15, 200 * m / 3, LINEAR * torch.exp(STEP * (m - 15)))


ANCHORS = ((0, 0, 4), (60, 15, 110), (150, 40, 125), (222, 75, 104), (252, 165, 80), (252, 253, 191))  # dark to light


def pictured(mel: Mel, wave: Tensor, depth: float = 80.0) -> Tensor:
    """A wave [B, 1, N] -> its mel spectrogram as a picture [B, 3, bands, T] in [-1, 1], low bands below."""
    return painted(mel, mel(wave.float()), depth)


def painted(mel: Mel, found: Tensor, depth: float = 80.0) -> Tensor:
    """Mel spectrograms [B, bands, T] -> pictures [B, 3, bands, T]: the darkest is `depth` dB under the loudest of all."""
    decibels = found * LOGS[mel.log] * 20 / math.log(10)
    level = ((decibels - decibels.max()) / depth + 1).clamp(0, 1).flip(1)  # [B, bands, T]
    anchors = torch.tensor(ANCHORS, dtype=torch.float32, device=found.device) / 127.5 - 1
    place = level * (len(ANCHORS) - 1)
    below = place.long().clamp(max=len(ANCHORS) - 2)
    share = (place - below)[..., None]
    return (anchors[below] * (1 - share) + anchors[below + 1] * share).permute(0, 3, 1, 2)
