"""Deep Griffin-Lim: what some iterations of Griffin-Lim make of a mel spectrogram, corrected by a network."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.core import Card, Recipe, Spec, register
from genloom.errors import UserError
from genloom.models.audio.vocos import CPU, TINY, Discriminators, Generator, SpectralVocoder
from genloom.nn.griffin_lim import griffin_lim
from genloom.nn.istft import istft
from genloom.nn.mel import Mel, tables
from genloom.nn.streaming import Pipe
from genloom.objectives.vocoding import WHOLE

QUIET = 1e-5  # of a magnitude: below, a phase tells nothing
AROUND = 64  # frames that a piece of a long clip is made with at each side


class Corrected(Generator):
    """Mel frames [B, bands, T] -> a wave [B, 1, N]: a gain and a turn of each number of Griffin-Lim's spectrum.

    It begins as Griffin-Lim alone, for its last layer begins at zero.
    """

    window: Tensor

    def __init__(self, mel: Mel, iterations: int, width: int, inner: int, layers: int):
        bins = mel.n_fft // 2 + 1
        super().__init__(2 * mel.bands + 3 * bins, width, inner, layers, mel.n_fft, mel.hop, mel.edges)
        del self.head
        self.mel, self.iterations = mel, iterations
        self.out = nn.Linear(width, 2 * bins)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        margin = mel.n_fft - mel.window
        window = F.pad(tables(mel)[0], (margin // 2, margin - margin // 2))
        self.register_buffer("window", window, persistent=False)

    def forward(self, mel: Tensor, condition: Tensor | None = None) -> Tensor:
        start, seen = self.begun(mel.float())
        gain, turn = self.out(self.body(seen)).float().transpose(1, 2).chunk(2, 1)  # [B, n_fft / 2 + 1, T]
        waves = start * torch.polar(gain.clamp(max=3).exp(), turn)
        return istft(waves, self.window, self.mel.hop, self.mel.edges)[:, None]

    @torch.no_grad()
    def begun(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Griffin-Lim's spectrum, complex [B, n_fft / 2 + 1, T], and what the network sees [B, C, T]: the mel spectrogram
        and how far Griffin-Lim's is from it, log magnitudes, and how phases move from frame to frame beside their bin."""
        wave = griffin_lim(mel, self.mel, iterations=self.iterations)
        start = self.mel.spectrum(self.mel.padded(wave))
        size = start.abs().clamp(min=QUIET)
        bins = torch.arange(start.shape[1], device=mel.device)[:, None]
        expected = torch.polar(
            torch.ones_like(size[:1]), (2 * math.pi * self.mel.hop / self.mel.n_fft * bins).expand_as(size[:1])
        )
        before = torch.cat([start[..., :1], start[..., :-1]], 2)
        moved = start * before.conj() / (size * before.abs().clamp(min=QUIET)) * expected.conj()
        missed = mel - self.mel(wave)
        return start, torch.cat([mel, missed, size.log(), moved.real, moved.imag], 1)


@register("deepgl")
class DeepGriffinLim(SpectralVocoder):
    """A vocoder for little data and few minutes: it begins as Griffin-Lim and learns what that gets wrong.

    `mel`, `segment`, `similar`, `spectra`, `features` and `alone` are a Vocoder's. `iterations` of Griffin-Lim come first.
    `width`, `inner` and `layers` are of Vocos's network; the critics are `period_width` and `resolution_width` wide.
    """

    card = Card(
        paper="Deep Griffin-Lim Iteration",
        authors="Masuyama, Yatabe, Koizumi, Oikawa, Harada",
        year=2019,
        url="https://arxiv.org/abs/1903.03971",
        summary="Griffin-Lim, corrected by a network: passes it within minutes of training, on minutes of sound.",
        changes="One correction after all iterations, by the network, losses and critics of Vocos, in place of one within each; "
        "it begins at a mel spectrogram, whose magnitudes are fitted, and corrects magnitudes too. It looks at a whole clip, "
        "so it makes no stream.",
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=4, model={**TINY, "iterations": 2}),
        "cpu": CPU,
        "default": Recipe(steps=300_000, batch_size=16, betas=(0.8, 0.9), decay=1.0, curve="cosine"),
    }
    bf16 = False

    def __init__(
        self,
        spec: Spec,
        *,
        mel: str = "vocos",
        segment: int = 16_384,
        iterations: int = 30,
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
        if iterations < 1:
            raise UserError(f"--model.iterations must be 1 or more, not {iterations}.")
        self.generator = Corrected(self.mel, iterations, width, inner, layers)
        self.discriminator = Discriminators(period_width, resolution_width)

    def vocode(self, mel: Tensor) -> Tensor:
        """[B, bands, T] -> [B, 1, N] in [-1, 1]; a long one in pieces that know what is around them."""
        frames, hop, made = mel.shape[2], self.mel.hop, []
        if frames <= WHOLE:
            return super().vocode(mel)
        for first in range(0, frames, WHOLE - 2 * AROUND):
            before, last = max(0, first - AROUND), first + WHOLE - 2 * AROUND
            piece = super().vocode(mel[..., before : min(frames, last + AROUND)])
            made.append(piece[..., (first - before) * hop : (last - before) * hop if last < frames else None])
        return torch.cat(made, 2)

    def pipe(self) -> Pipe:
        raise UserError(
            "Griffin-Lim looks at a whole clip, so 'deepgl' makes no stream: leave --stream out, or fit a vocos."
        )
