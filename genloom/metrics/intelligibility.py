"""How much of speech can be understood: STOI (Taal et al. 2011) and ESTOI (Jensen and Taal 2016)."""

from __future__ import annotations

import torch
from torch import Tensor

from genloom.metrics.audio import pair
from genloom.nn.rate import at_rate

RATE = 10_000  # Hz
FRAME, HOP, N_FFT = 256, 128, 512  # samples
BANDS, LOWEST = 15, 150.0  # third octaves, and the middle of the first in Hz
SEGMENT = 30  # frames over which intelligibility is judged: 384 ms
QUIET = 40.0  # dB below the loudest frame from which on there is no speech
CLIP = 1 + 10 ** (15 / 20)  # times the clean band, beyond which more noise does no more harm


def stoi(real: Tensor, made: Tensor, rate: int) -> Tensor:
    """[B]: short-time objective intelligibility of made for real speech [B, N] at `rate` Hz, about 0 to 1.

    NaN for a clip with less than 30 frames (0.4 s) of speech.
    """
    return torch.stack([_stoi(*_segments(x, y)) for x, y in zip(*_at_ten(real, made, rate), strict=True)])


def estoi(real: Tensor, made: Tensor, rate: int) -> Tensor:
    """[B]: the extended measure, which also hears noise that comes and goes; arguments and NaN as for `stoi`."""
    return torch.stack([_estoi(*_segments(x, y)) for x, y in zip(*_at_ten(real, made, rate), strict=True)])


def _stoi(x: Tensor, y: Tensor) -> Tensor:
    """Mean correlation in time of bands [S, 15, 30], the made ones scaled and clipped (Taal et al. 2011, eqs. 3-6)."""
    scaled = y * (x.norm(dim=2, keepdim=True) / y.norm(dim=2, keepdim=True).clamp(min=1e-12))
    return (_standard(x, 2) * _standard(torch.minimum(scaled, CLIP * x), 2)).sum(2).mean()


def _estoi(x: Tensor, y: Tensor) -> Tensor:
    """Mean correlation of spectra [S, 15, 30], each band's course standardised first (Jensen and Taal 2016, eqs. 4-8)."""
    x, y = (_standard(_standard(a, 2), 1) for a in (x, y))
    return (x * y).sum(1).mean()


def _standard(a: Tensor, dim: int) -> Tensor:
    a = a - a.mean(dim, keepdim=True)
    return a / a.norm(dim=dim, keepdim=True).clamp(min=1e-12)


def _at_ten(real: Tensor, made: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    real, made = pair(real, made)
    return at_rate(real.double(), rate, RATE), at_rate(made.double(), rate, RATE)


def _segments(real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """Clips [N] at 10 kHz -> band magnitudes [S, 15, 30] of every 30 frames in a row, pauses of the real one left out."""
    window = torch.hann_window(FRAME + 2, periodic=False, dtype=real.dtype, device=real.device)[1:-1]
    none = real.new_empty(0, BANDS, SEGMENT)
    if len(real) <= FRAME:
        return none, none
    frames = _frames(torch.stack([real, made])) * window  # [2, T, 256]
    loudness = 20 * torch.log10(frames[0].norm(dim=1) + 1e-16)
    spoken = frames[:, loudness > loudness.max() - QUIET]
    joined = torch.zeros(2, spoken.shape[1] + 1, HOP, dtype=real.dtype, device=real.device)
    joined[:, :-1] += spoken[:, :, :HOP]
    joined[:, 1:] += spoken[:, :, HOP:]
    spectra = torch.fft.rfft(_frames(joined.flatten(1)) * window, N_FFT)
    bands = (spectra.abs().square() @ _third_octaves().to(real)).sqrt()  # [2, T, 15]
    if bands.shape[1] < SEGMENT:
        return none, none
    x, y = bands.unfold(1, SEGMENT, 1)  # each [S, 15, 30]
    return x, y


def _frames(waves: Tensor) -> Tensor:
    """[2, N] -> [2, T, 256]; as in the authors' program, a frame that would end with the last sample is left out."""
    return waves[:, :-1].unfold(1, FRAME, HOP)


def _third_octaves() -> Tensor:
    """Which of the 257 frequencies lie in which of the 15 bands: zeros and ones [257, 15]."""
    places = torch.arange(N_FFT // 2 + 1, dtype=torch.float64) * (RATE / N_FFT)
    edges = LOWEST * 2 ** ((2 * torch.arange(BANDS + 1, dtype=torch.float64) - 1) / 6)
    nearest = (places - edges[:, None]).abs().argmin(1)  # [16]
    number = torch.arange(len(places))[:, None]
    return ((number >= nearest[:-1]) & (number < nearest[1:])).double()
