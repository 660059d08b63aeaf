"""Sounds as windows of 1.6 s: what their spectra are like as a whole, and which stretch of other sounds is nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from genloom.nn.mel import Mel

BATCH = 256  # windows at once
BANDS = 16  # of a coarse log mel picture
FRAMES, STEP = 5, 0.08  # mel frames of a step, and its seconds
STEPS = 20  # of a window: as long as what the ear for voices hears at once (metrics/speakers.py)


@dataclass(frozen=True)
class Windows:
    """Windows of so many steps, each of FRAMES frames of `mel`."""

    mel: Mel
    steps: int

    @classmethod
    def at(cls, rate: int, longest: int) -> Self:
        """Windows of 1.6 s at `rate` Hz; shorter ones where clips of `longest` samples hold none."""
        hop = max(2, 2 * round(rate * STEP / FRAMES / 2))
        mel = Mel(rate, 4 * hop, hop, 4 * hop, BANDS)
        return cls(mel, min(STEPS, max(1, longest // (FRAMES * hop))))

    @property
    def step(self) -> int:
        """Samples from one step to the next."""
        return FRAMES * self.mel.hop

    @property
    def samples(self) -> int:
        return self.steps * self.step

    @property
    def seconds(self) -> float:
        return self.samples / self.mel.rate

    def cut(self, clip: Tensor) -> Tensor:
        """Windows [n, samples] of a clip [N], one after another; a shorter clip is one, followed by silence."""
        return self._filled(clip).unfold(0, self.samples, self.samples)

    def pictures(self, windows: Tensor) -> Tensor:
        """Log mel pictures [n, BANDS, steps] of windows [n, samples]."""
        return F.avg_pool1d(self._frames(windows), FRAMES)

    def parts(self, windows: Tensor) -> Tensor:
        """Pictures [n, shifts, BANDS, steps - 1] of parts of windows, that begin at each frame of the first step.

        One of them lies within half a frame of where a copy's would in `every`, wherever a window was cut.
        """
        frames = self._frames(windows)
        length = FRAMES * self.searched
        return torch.stack([F.avg_pool1d(frames[..., k : k + length], FRAMES) for k in range(self.shifts)], 1)

    def every(self, clip: Tensor) -> Tensor:
        """Such pictures [n, BANDS, steps - 1] of a clip [N], one from each step on."""
        steps = F.avg_pool1d(self._frames(self._filled(clip)[None]), FRAMES)[0]  # [BANDS, T]
        return steps.unfold(1, self.searched, 1).transpose(0, 1)

    @property
    def searched(self) -> int:
        """Steps of a part."""
        return max(1, self.steps - 1)

    @property
    def shifts(self) -> int:
        return FRAMES if self.steps > 1 else 1

    def _frames(self, waves: Tensor) -> Tensor:
        return torch.cat([self.mel(w) for w in waves.split(BATCH)])

    def _filled(self, clip: Tensor) -> Tensor:
        return F.pad(clip, (0, max(0, self.samples - len(clip))))


def statistics(pictures: Tensor) -> Tensor:
    """[n, 2 BANDS] in float64: mean and deviation over time of each band of pictures [n, BANDS, steps]."""
    pictures = pictures.double()
    return torch.cat([pictures.mean(2), pictures.std(2, correction=0)], 1)


def loudness(windows: Tensor) -> Tensor:
    """[n]: mean power of windows [n, N] in dB of full scale, silence being -100."""
    return 10 * windows.double().square().mean(1).clamp(min=1e-10).log10()


def noise_like(windows: Tensor, n: int, seed: int) -> Tensor:
    """Gaussian noise [n, N] with the mean power spectrum of windows [m, N]: what is alike in them but no more."""
    size = windows.shape[1]
    power = torch.fft.rfft(windows).abs().square().mean(0)
    white = torch.randn(n, size, generator=torch.Generator().manual_seed(seed))
    return torch.fft.irfft(torch.fft.rfft(white) * (power / size).sqrt(), size)
