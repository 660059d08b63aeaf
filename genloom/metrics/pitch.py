"""The pitch of a voice, and how far that of a made sound is from that of the real one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genloom.errors import UserError
from genloom.metrics.audio import clips, pair

LOW, HIGH = 75.0, 600.0  # Hz: voices from a bass to a child
HOP = 0.01  # seconds from one frame to the next
PERIODS = 3  # of the lowest pitch in a frame
CANDIDATES = 8  # of each frame, beside that it is unvoiced
FINER = 2  # times as many lags as samples, so that a parabola through three of them finds a sharp peak
VOICED, SILENT = 0.45, 0.03  # the least strength of a voiced frame; share of the loudest sample that is silence
OCTAVE, JUMP, SWITCH = 0.01, 0.35, 0.14  # costs: an octave lower; an octave from frame to frame; between voiced and not


def f0_error(real: Tensor, made: Tensor, rate: int) -> Tensor:
    """[B]: root mean square difference of pitch in cents over frames voiced in both; NaN where there are none."""
    (x, heard), (y, also) = (pitch(wave, rate) for wave in pair(real, made))
    both = heard & also
    cents = torch.where(both, 1200 * torch.log2(x.clamp(min=1) / y.clamp(min=1)), 0)
    return (cents.square().sum(1) / both.sum(1)).sqrt().double()


def voicing_error(real: Tensor, made: Tensor, rate: int) -> Tensor:
    """[B]: share of frames that are voiced in one and not in the other."""
    heard, also = (pitch(wave, rate)[1] for wave in pair(real, made))
    return (heard != also).double().mean(1)


def pitch(wave: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """f0 [B, T] in Hz, 0 where unvoiced, and voiced [B, T], of waves [B, N] at `rate` Hz; frame t is about t / 100 s.

    Boersma 1993 with his constants: the autocorrelation of a frame over that of its window, of whose peaks the best path
    through time is chosen. Raises UserError for a rate of less than four samples a period.
    """
    if rate < 4 * HIGH:
        raise UserError(f"Pitch is found in sound of {4 * HIGH:g} or more samples a second, not {rate}.")
    lags, strengths = candidates(clips(wave), rate)
    lags, voiced = best_path(lags, strengths)
    return torch.where(voiced, FINER * rate / lags, 0), voiced


def candidates(wave: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """Of waves [B, N]: lags [B, T, 8] of the strongest peaks, in FINER parts of a sample, and strengths [B, T, 8 + 1].

    The last strength is that of being unvoiced (Boersma 1993, eqs. 23 and 24). A peak that is none has strength -inf.
    """
    size = 2 * round(PERIODS * rate / LOW / 2)
    frames = F.pad(wave, (size // 2, size // 2)).unfold(1, size, round(HOP * rate))  # [B, T, size]
    frames = frames - frames.mean(2, keepdim=True)
    shortest, longest = int(FINER * rate / HIGH), int(FINER * rate / LOW) + 1
    window = torch.hann_window(size, dtype=wave.dtype, device=wave.device)
    likeness = correlation(frames * window, longest + 2) / correlation(window, longest + 2)  # [B, T, longest + 2]
    left, middle, right = likeness.unfold(2, 3, 1)[:, :, shortest - 1 : longest].unbind(3)
    peak = (middle > left) & (middle >= right) & (middle > VOICED / 2)
    bend = (left - 2 * middle + right).clamp(max=-1e-12)
    shift = ((left - right) / (2 * bend)).clamp(-0.5, 0.5)  # of the parabola's top
    lag = torch.arange(shortest, longest + 1, device=wave.device) + shift
    height = (middle - (left - right) * shift / 4).clamp(max=1)
    strength = torch.where(peak, height - OCTAVE * torch.log2(lag * LOW / (FINER * rate)), -torch.inf)
    best, where = strength.topk(CANDIDATES, 2)
    loud = frames.abs().amax(2)
    level = loud / wave.abs().amax(1, keepdim=True).clamp(min=1e-9)
    unvoiced = VOICED + (2 - level * (1 + VOICED) / SILENT).clamp(min=0)
    return lag.gather(2, where), torch.cat([best, unvoiced[:, :, None]], 2)


def correlation(frames: Tensor, lags: int) -> Tensor:
    """Autocorrelation [..., lags] of frames [..., size], 1 at lag 0, at FINER lags a sample; 0 in a frame of silence."""
    n = 2 ** (2 * frames.shape[-1] - 1).bit_length()
    power = torch.fft.rfft(frames, n).abs().square()
    found = torch.fft.irfft(power, FINER * n)[..., :lags]
    return found / found[..., :1].clamp(min=1e-12)


def best_path(lags: Tensor, strengths: Tensor) -> tuple[Tensor, Tensor]:
    """Lag [B, T] and voiced [B, T] along the path of most strength and least change (Boersma 1993, eq. 27; Viterbi)."""
    heights = F.pad(lags.log2(), (0, 1))  # [B, T, K + 1], the last state is unvoiced
    voiced = torch.ones(heights.shape[2], dtype=torch.bool, device=lags.device)
    voiced[-1] = False
    switch = (voiced[:, None] != voiced) * SWITCH  # [from, to]
    both = voiced[:, None] & voiced
    moves = JUMP * (heights[:, :-1, :, None] - heights[:, 1:, None]).abs() * both + switch  # [B, T - 1, from, to]
    total, origins = strengths[:, 0], []
    for t in range(1, heights.shape[1]):
        best, origin = (total[:, :, None] - moves[:, t - 1]).max(1)
        total = best + strengths[:, t]
        origins.append(origin)
    state = total.argmax(1, keepdim=True)
    path = [state]
    for origin in reversed(origins):
        state = origin.gather(1, state)
        path.append(state)
    states = torch.cat(path[::-1], 1)  # [B, T]
    last = lags.shape[2]
    return lags.gather(2, states.clamp(max=last - 1)[:, :, None])[:, :, 0], states < last
