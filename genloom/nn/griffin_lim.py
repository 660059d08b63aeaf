"""A sound from its mel spectrogram, without a trained vocoder: magnitudes by non-negative fitting, phases by iteration."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from genloom.core import generator
from genloom.nn.istft import istft
from genloom.nn.mel import LOGS, Mel, tables

FITTING = 30  # multiplicative steps; more change the mel by less than its phases do
NOTHING = 1e-12  # where a triangle is too narrow to hold a frequency, its band is left out


def griffin_lim(log_mel: Tensor, mel: Mel, *, iterations: int = 60, momentum: float = 0.99, seed: int = 0) -> Tensor:
    """log_mel [B, bands, T] as `mel` makes it -> waves [B, N] of which that is about the mel spectrogram.

    Fast Griffin-Lim (Perraudin et al. 2013, algorithm 2) from random phases: clip i's depend on (seed, i) alone. N is
    T · hop for edges "same" and (T - 1) · hop for "centre"; loud waves may leave [-1, 1]. Raises UserError for too few
    frames to be padded.
    """
    target = magnitudes(log_mel, mel)
    turns = torch.stack([torch.rand(target.shape[1:], generator=generator(seed, i)) for i in range(len(target))])
    guess = torch.polar(target, 2 * math.pi * turns.to(target))
    margin = mel.n_fft - mel.window
    window = F.pad(tables(mel)[0], (margin // 2, margin - margin // 2)).to(target)  # [n_fft]
    last = guess
    for _ in range(iterations):
        wave = istft(target * torch.sgn(guess), window, mel.hop, mel.edges)
        consistent = mel.spectrum(mel.padded(wave))
        guess = torch.lerp(last, consistent, 1 + momentum)  # consistent + momentum · (consistent - last), in one pass
        last = consistent
    return istft(target * torch.sgn(guess), window, mel.hop, mel.edges)


def magnitudes(log_mel: Tensor, mel: Mel) -> Tensor:
    """Magnitudes |STFT| [B, n_fft / 2 + 1, T], none below zero, whose bands sum to the mel spectrogram [B, bands, T].

    Multiplicative steps of the Kullback-Leibler divergence (Lee and Seung 2001, eq. 5) from what each band would be if it
    were flat: relative errors count alike in loud and quiet bands, as they do for the logarithm.
    """
    wanted = (log_mel * LOGS[mel.log]).exp()
    filters = tables(mel)[1].to(wanted)  # [bands, n_fft / 2 + 1]
    weight = filters.sum(0)[:, None]
    spread = torch.where(weight > 0, filters.T / weight.clamp(min=NOTHING), 0)  # columns of zeros: outside all bands
    found = spread @ (wanted / filters.sum(1).clamp(min=NOTHING)[:, None])
    for _ in range(FITTING):
        found = found * (spread @ (wanted / (filters @ found).clamp(min=NOTHING)))
    return found
