"""Sound at another number of samples a second."""

from __future__ import annotations

import math

import torch
from torch import Tensor

KEPT = 0.995  # of the narrower band; what lies above fades to nothing at its edge


def at_rate(wave: Tensor, before: int, after: int) -> Tensor:
    """[B, N] at `before` Hz -> [B, ceil(N · after / before)] at `after` Hz: band-limited, without a shift in time.

    The spectrum of the whole clip is cut (or continued with zeros) at the lower of the two half rates, behind a raised
    cosine, so that any two rates will do. Silence of a tenth of a second keeps the end from running into the start.
    """
    if before == after:
        return wave
    shared = math.gcd(before, after)
    up, down = after // shared, before // shared
    samples = wave.shape[1]
    blocks = -(-(samples + before // 10) // down)
    kept = blocks * min(up, down) // 2 + 1  # frequencies that both rates have
    place = torch.linspace(0, 1, kept, dtype=wave.dtype, device=wave.device)
    fade = ((1 - place) / (1 - KEPT)).clamp(max=1)
    fade = (1 - torch.cos(math.pi * fade)) / 2
    spectrum = torch.fft.rfft(wave, blocks * down)[:, :kept] * fade
    return torch.fft.irfft(spectrum, blocks * up)[:, : -(-samples * up // down)] * (up / down)
