"""How alike two sounds are, clip by clip: spectra, waveforms and cepstra.

Each takes a real and a made sound, [B, N] or [N] with values about [-1, 1] and of equal length, and gives a figure for
each clip, [B] in float64. Raises UserError where the shapes differ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genloom.errors import UserError
from genloom.nn.mel import LOGS, Mel
from genloom.nn.stft import multi_resolution

CEPSTRA = 13  # coefficients that the mel-cepstral distortion counts, from the first on; the zeroth is loudness
DECIBELS = 10 * math.sqrt(2) / math.log(10)


def clips(wave: Tensor) -> Tensor:
    """[B, N] in floating point, of [N], [B, N] or [B, 1, N]. Raises UserError for another shape, or for no samples."""
    wave = wave.flatten(1) if wave.ndim == 3 and wave.shape[1] == 1 else wave
    if wave.ndim not in (1, 2) or not wave.numel():
        raise UserError(f"Sounds are measured as [clips, samples] of one channel, not {list(wave.shape)}.")
    return wave.reshape(-1, wave.shape[-1]).to(torch.promote_types(wave.dtype, torch.float32))


def pair(real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """Both as clips [B, N]. Raises UserError unless they are as many and as long."""
    real, made = clips(real), clips(made)
    if real.shape != made.shape:
        raise UserError(
            f"A sound is compared with one of its own length: cut {list(real.shape)} and {list(made.shape)} to the same."
        )
    return real, made


# ── spectra ──────────────────────────────────────────────────────────────────────────────────────────────────────


def mel_l1(real: Tensor, made: Tensor, mel: Mel) -> Tensor:
    """[B]: mean absolute difference of the two log mel spectrograms, in units of `mel.log`."""
    real, made = pair(real, made)
    return (mel(real) - mel(made)).abs().flatten(1).mean(1).double()


def multi_resolution_stft(real: Tensor, made: Tensor) -> Tensor:
    """[B]: spectral convergence plus log-magnitude distance over three resolutions (Yamamoto et al. 2020, eq. 6)."""
    convergence, distance = multi_resolution(*pair(real, made))
    return (convergence + distance).double()


# ── waveforms ────────────────────────────────────────────────────────────────────────────────────────────────────


def snr(real: Tensor, made: Tensor) -> Tensor:
    """[B]: energy of the real sound over that of the difference, dB; inf where they are equal."""
    real, made = (x.double() for x in pair(real, made))
    return _decibels(real, made - real)


def si_sdr(real: Tensor, made: Tensor, *, zero_mean: bool = False) -> Tensor:
    """[B]: scale-invariant signal-to-distortion ratio, dB (Le Roux et al. 2019, eq. 5); `zero_mean` takes the means off.

    The part of `made` that is a multiple of `real`, over the rest. NaN where `real` is silent.
    """
    real, made = (x.double() for x in pair(real, made))
    if zero_mean:
        real, made = (x - x.mean(1, keepdim=True) for x in (real, made))
    target = (real * made).sum(1, keepdim=True) / real.square().sum(1, keepdim=True) * real
    return _decibels(target, made - target)


def _decibels(signal: Tensor, rest: Tensor) -> Tensor:
    return 10 * torch.log10(signal.square().sum(1) / rest.square().sum(1))


# ── cepstra ──────────────────────────────────────────────────────────────────────────────────────────────────────


def mcd(real: Tensor, made: Tensor, mel: Mel) -> Tensor:
    """[B]: mel-cepstral distortion in dB (Kubichek 1993), frame against frame, averaged over frames; nothing is warped.

    10 √2 / ln 10 times the distance of cepstra 1 to 13, which are `cepstra` of the given mel spectrogram. So scaled it is
    the root mean square over bands of the difference in dB of the two envelopes, as smooth as 13 cosines draw them and
    with equal loudness. Figures compare only under the same mel: those of other analyses (WORLD, SPTK) differ.
    """
    real, made = (cepstra(x, mel) for x in pair(real, made))
    return DECIBELS * (real - made).norm(dim=2).mean(1).double()


def mcd_dtw(real: Tensor, made: Tensor, mel: Mel) -> Tensor:
    """[B]: the same along the cheapest warping in time, for speech of another tempo: made [B, M] may differ in length."""
    real, made = (cepstra(clips(x), mel) for x in (real, made))
    if len(real) != len(made):
        raise UserError(f"Each clip is compared with one: {len(real)} real and {len(made)} made ones are no pairs.")
    return DECIBELS * warped(torch.cdist(real, made).double())


def cepstra(wave: Tensor, mel: Mel) -> Tensor:
    """Cepstra 1 to 13 [B, T, 13] of waves [B, N]: 2 / bands Σ L_k cos(π m (k + ½) / bands), L the natural log mel."""
    if mel.bands <= CEPSTRA:
        raise UserError(f"{CEPSTRA} cepstra need a mel spectrogram of more bands than {mel.bands}.")
    logs = mel(wave) * LOGS[mel.log]  # [B, bands, T]
    places = torch.arange(mel.bands, dtype=logs.dtype, device=logs.device) + 0.5
    orders = torch.arange(1, CEPSTRA + 1, dtype=logs.dtype, device=logs.device)
    cosines = torch.cos(math.pi / mel.bands * places[:, None] * orders)  # [bands, 13]
    return logs.mT @ cosines * (2 / mel.bands)


def warped(costs: Tensor) -> Tensor:
    """[B]: mean cost along the cheapest path through costs [B, T, S] from the first corner to the last.

    Dynamic time warping with steps down, right and across (Sakoe and Chiba 1978), a diagonal at a time: place i + 1 of a
    diagonal is row i, place 0 lies outside.
    """
    batch, rows, columns = costs.shape
    row = torch.arange(rows, device=costs.device)
    outside = costs.new_full((batch, rows + 1), torch.inf)
    totals, lengths = [outside.clone(), outside], [torch.zeros_like(outside)] * 2  # of the last two diagonals
    totals[0][:, 0] = 0  # where every path begins
    for diagonal in range(rows + columns - 1):
        column = diagonal - row
        inside = (column >= 0) & (column < columns)
        cost = torch.where(inside, costs[:, row, column.clamp(0, columns - 1)], torch.inf)
        before, which = torch.stack([totals[0][:, :-1], totals[1][:, :-1], totals[1][:, 1:]]).min(0)
        steps = torch.stack([lengths[0][:, :-1], lengths[1][:, :-1], lengths[1][:, 1:]]).gather(0, which[None])[0] + 1
        totals = [totals[1], torch.cat([outside[:, :1], before + cost], 1)]
        lengths = [lengths[1], torch.cat([torch.zeros_like(outside[:, :1]), steps], 1)]
    return totals[1][:, -1] / lengths[1][:, -1]
