"""Spectra of two sounds compared at several resolutions, for what one window blurs in time another blurs in frequency."""

from __future__ import annotations

import torch
from torch import Tensor

from genloom.errors import UserError

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # transform, hop, Hann window; in samples
QUIETEST = 1e-7  # power below which nothing is told apart


def magnitude(wave: Tensor, n_fft: int, hop: int, window: int) -> Tensor:
    """|STFT| [B, n_fft / 2 + 1, T] of waves [B, N], padded by reflection so that frames lie centred."""
    hann = torch.hann_window(window, dtype=wave.dtype, device=wave.device)
    waves = torch.stft(wave, n_fft, hop, window, hann, return_complex=True)
    return (waves.real.square() + waves.imag.square()).clamp(min=QUIETEST).sqrt()


def multi_resolution(real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """Spectral convergence [B] and log-magnitude distance [B] of made from real [B, N] (Yamamoto et al. 2020, eqs. 4-6).

    | |S| - |Ŝ| |_F / | |S| |_F and the mean of |log |S| - log |Ŝ||, S the transform of the real wave, each averaged over
    RESOLUTIONS; their sum is the paper's loss, here for each clip by itself. Differentiable. Raises UserError for clips
    too short for the longest transform.
    """
    longest = max(n_fft for n_fft, _, _ in RESOLUTIONS)
    if real.shape[1] <= longest // 2:
        raise UserError(f"Spectra are compared on more than {longest // 2} samples, not {real.shape[1]}.")
    convergence, distance = [], []
    for resolution in RESOLUTIONS:
        x, y = magnitude(real, *resolution), magnitude(made, *resolution)
        convergence.append((x - y).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1))
        distance.append((x.log() - y.log()).abs().flatten(1).mean(1))
    return torch.stack(convergence).mean(0), torch.stack(distance).mean(0)
