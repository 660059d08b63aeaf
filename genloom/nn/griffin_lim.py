"""A sound from its mel spectrogram, without a trained vocoder: magnitudes by non-negative fitting, phases by iteration."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from genloom.core import generator
from genloom.nn.mel import LOGS, Mel, tables

FITTING = 30  # multiplicative steps; more change the mel by less than its phases do


def griffin_lim(
    log_mel: Tensor, mel: Mel, *, iterations: int = 60, momentum: float = 0.99, seed: int = 0
) -> Tensor:
    """log_mel [B, bands, T] as `mel` makes it -> waves [B, N] of which that is about the mel spectrogram.

    Fast Griffin-Lim (Perraudin et al. 2013, algorithm 2) from random phases: clip i's depend on (seed, i) alone. N is
    T · hop for edges "same" and (T - 1) · hop for "centre". Raises UserError for too few frames to be padded.
    """
    target = magnitudes(log_mel, mel)
    turns = torch.stack([torch.rand(target.shape[1:], generator=generator(seed, i)) for i in range(len(target))])
    guess = torch.polar(target, 2 * math.pi * turns.to(target))
    synthesis, last = Synthesis(mel, guess), guess
    for _ in range(iterations):
        consistent = mel.spectrum(synthesis(target * torch.sgn(guess)))
        guess = torch.lerp(last, consistent, 1 + momentum)  # consistent + momentum · (consistent - last), in one pass
        last = consistent
    return synthesis(target * torch.sgn(guess))


def magnitudes(log_mel: Tensor, mel: Mel) -> Tensor:
    """Magnitudes |STFT| [B, n_fft / 2 + 1, T], none below zero, whose bands sum to the mel spectrogram [B, bands, T].

    Multiplicative steps of the Kullback-Leibler divergence (Lee and Seung 2001, eq. 5) from what each band would be if it
    were flat: relative errors count alike in loud and quiet bands, as they do for the logarithm.
    """
    wanted = (log_mel * LOGS[mel.log]).exp()
    filters = tables(mel)[1].to(wanted)  # [bands, n_fft / 2 + 1]
    weight = filters.sum(0)[:, None]
    spread = torch.where(weight > 0, filters.T / weight.clamp(min=1e-12), 0)  # columns of zeros: outside all bands
    found = spread @ (wanted / filters.sum(1)[:, None])
    for _ in range(FITTING):
        found = found * (spread @ (wanted / (filters @ found)))
    return found


class Synthesis:
    """The wave whose spectra are nearest to those given (Griffin and Lim 1984, eq. 6), for spectra of one shape."""

    def __init__(self, mel: Mel, like: Tensor):
        """`like` complex [B, n_fft / 2 + 1, T]: its frames, number type and device."""
        self.mel, frames = mel, like.shape[2]
        margin = mel.n_fft - mel.window
        window = F.pad(tables(mel)[0], (margin // 2, margin - margin // 2)).to(like.real)
        self.window = window
        self.padded = (frames - 1) * mel.hop + mel.n_fft
        self.weight = self.overlap(self.window.square().expand(1, frames, -1)).clamp(min=1e-8)

    def overlap(self, frames: Tensor) -> Tensor:
        """Frames [B, T, n_fft] laid over each other, a hop apart -> [B, padded]."""
        pieces = F.pad(frames, (0, -self.mel.n_fft % self.mel.hop)).unflatten(2, (-1, self.mel.hop))  # [B, T, r, hop]
        count, each = pieces.shape[1:3]
        total = frames.new_zeros(len(frames), count + each - 1, self.mel.hop)
        for i in range(each):
            total[:, i : i + count] += pieces[:, :, i]
        return total.flatten(1)[:, : self.padded]

    def __call__(self, spectrum: Tensor) -> Tensor:
        frames = torch.fft.irfft(spectrum.transpose(1, 2), self.mel.n_fft) * self.window  # [B, T, n_fft]
        wave = self.overlap(frames) / self.weight
        return wave[:, self.mel.pad : self.padded - self.mel.pad]
