"""A mark in sound that is not heard and that a key finds again: a second of noise, repeated, below what hides it.

The key gives a phase to each whole Hertz of a band. At every place and frequency the noise is a small share of the sound
itself there, which masks it; the file's rate does not matter, nor where it was cut: found is it by evening the sound out,
laying all its seconds one upon another and comparing phases, at each shift. Without the mark the phases have nothing to do
with the key, so the score is a standard normal number at most, whatever the sound.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BAND = (400, 7000)  # Hz: telephones and speech codecs keep most of it
HIGHEST = 0.45  # of the rate
SHARE = 10 ** (-24.5 / 20)  # of the sound's own amplitude around each place and frequency
WINDOW = 0.032  # seconds
AROUND = 70.0  # Hz to each side, over which the sound's amplitude is taken
SHIFTS = 1 << 15  # places in a second that are tried
SHORTEST = 0.5  # seconds of sound that is marked, and in which a mark is looked for
PIECE = 1 << 15  # samples that are worked on at once: the processor's cache holds them
LONGEST = 1800  # seconds that are listened to
FAINT = 1e-4  # of full scale: quieter is silence


@lru_cache(4)
def phases(key: bytes) -> Tensor:
    """[7001] complex64: of each Hertz of the band, of magnitude 1; 0 below it."""
    count = BAND[1] - BAND[0]
    numbers = np.frombuffer(hashlib.shake_256(b"genloom sound 1\n" + key).digest(4 * count), "<u4")
    angles = torch.from_numpy(numbers.astype(np.float64)) * (2 * math.pi / 2**32)
    told = torch.zeros(BAND[1] + 1, dtype=torch.complex64)
    told[BAND[0] : BAND[1]] = torch.polar(torch.ones(count), angles.float())
    return told


@lru_cache(4)
def second(key: bytes, rate: int) -> Tensor:
    """[rate] f32: the noise, one wave a Hertz, of amplitude 1 each."""
    top = min(BAND[1], int(HIGHEST * rate)) + 1
    spectrum = torch.zeros(rate // 2 + 1, dtype=torch.complex64)
    spectrum[:top] = phases(key)[:top]
    return torch.fft.irfft(spectrum, n=rate) * (rate / 2)


@lru_cache(8)
def smooth(wanted: float) -> int:
    """The nearest number without a factor above 5: a Fourier transform of others takes up to seven times as long."""
    return min(
        (2**i * 3**j * 5**k for i in range(16) for j in range(8) for k in range(5)), key=lambda n: abs(n - wanted)
    )


@lru_cache(4)
def level(key: bytes, rate: int, half: int) -> float:
    """The root mean square of the noise at one frequency of its band, in a window."""
    own = torch.fft.rfft(second(key, rate)[: 2 * half] * torch.hann_window(2 * half).sqrt()).abs().square()
    frequency = torch.arange(len(own)) * rate / (2 * half)
    inside = (frequency > BAND[0]) & (frequency < min(BAND[1], HIGHEST * rate))
    return float(own[inside].mean().sqrt())


class Windows:
    """Sound in windows that overlap by half, and back: what is pushed comes out with something done to it, later.

    The first window begins half a window before the sound, so that each sample lies in two.
    """

    def __init__(self, rate: int):
        self.rate, self.half = rate, smooth(WINDOW * rate / 2)
        self.shape = torch.hann_window(2 * self.half).sqrt()
        self.held = torch.zeros(self.half)  # not yet in two windows
        self.tail = torch.zeros(self.half)  # what the last window gave to the samples after it
        self.at, self.taken, self.given = -self.half, 0, -self.half  # where `held` begins; samples in, and out
        self.width = max(1, round(AROUND * 2 * self.half / rate))

    def process(self, frames: Tensor, spectra: Tensor, start: int) -> Tensor:
        """Spectra [n, K] to add up in place of those of the frames [n, window], the first of which begins at `start`."""
        raise NotImplementedError

    def push(self, samples: Tensor) -> Tensor:
        """[m] of [n]: those that are done."""
        self.taken += len(samples)
        return torch.cat([self._some(piece) for piece in samples.split(PIECE)]) if len(samples) else samples

    def close(self) -> Tensor:
        """The rest."""
        left = self.taken - max(self.given, 0)
        return self._some(torch.zeros(2 * self.half))[:left]

    def _some(self, samples: Tensor) -> Tensor:
        self.held = torch.cat([self.held, samples])
        count = len(self.held) // self.half - 1
        if count < 1:
            return samples[:0]
        frames = self.held[: (count + 1) * self.half].unfold(0, 2 * self.half, self.half)
        spectra = torch.fft.rfft(frames * self.shape)
        made = torch.fft.irfft(self.process(frames, spectra, self.at), n=2 * self.half) * self.shape
        first, later = made[:, : self.half], made[:, self.half :]
        out = (first + torch.cat([self.tail[None], later[:-1]])).flatten()
        self.tail, self.held = later[-1], self.held[count * self.half :]
        self.at += count * self.half
        skipped = max(0, -self.given)  # what lies before the sound
        self.given += len(out)
        return out[skipped:]

    def around(self, spectra: Tensor) -> Tensor:
        """[n, K]: the root mean square of each frequency and those beside it."""
        power = F.pad((spectra * spectra.conj()).real[:, None], (self.width, self.width), "replicate")[:, 0]
        size, count = 2 * self.width + 1, spectra.shape[1]
        total = power[:, :count].clone()
        for i in range(1, size):
            total += power[:, i : i + count]
        return total.div_(size).sqrt_()


class Marker(Windows):
    """Marks one channel of sound as it comes. What a sample becomes depends on the sound around and its place in it alone."""

    def __init__(self, key: bytes, rate: int):
        super().__init__(rate)
        self.noise = second(key, rate)
        self.share = SHARE / level(key, rate, self.half)

    def process(self, frames: Tensor, spectra: Tensor, start: int) -> Tensor:
        first, length = start % self.rate, (len(frames) + 1) * self.half
        noise = self.noise.repeat((first + length) // self.rate + 1)[first : first + length]
        noise = torch.fft.rfft(noise.unfold(0, 2 * self.half, self.half) * self.shape)
        return spectra.addcmul_(noise, self.around(spectra).to(noise.dtype), value=self.share)


class Evened(Windows):
    """Sound with all places and frequencies equally loud, silence left silent."""

    def process(self, frames: Tensor, spectra: Tensor, start: int) -> Tensor:
        floor = FAINT * math.sqrt(self.half)  # of noise of that size in a window
        return spectra / (self.around(spectra) + floor)


def marked(sound: Tensor, key: bytes, rate: int) -> Tensor:
    """A sound [..., N] in [-1, 1] with the mark, of one channel; what is shorter than half a second as it is."""
    if sound.shape[-1] < SHORTEST * rate:
        return sound
    marker, samples = Marker(key, rate), sound.detach().float().cpu().flatten()
    return torch.cat([marker.push(samples), marker.close()]).clamp(-1, 1).view(sound.shape)


def score(blocks: Iterable[np.ndarray], rate: int, key: bytes) -> tuple[float, float] | None:
    """How many standard deviations a sound agrees with the key, and the p-value of that, all searching counted in.

    `blocks` [n] f32 of one channel, at any rate. None for a sound of less than half a second. Half of the chance of a
    false find is spent on the sound as it stands, half on one that was cut.
    """
    evened, folded, at, taken = Evened(rate), torch.zeros(rate), 0, 0
    for block in blocks:
        taken += len(block)
        at = _fold(folded, evened.push(torch.from_numpy(np.ascontiguousarray(block, np.float32))), at)
        if taken > LONGEST * rate:
            break
    if taken < SHORTEST * rate:
        return None
    _fold(folded, evened.close(), at)
    top = min(BAND[1], int(HIGHEST * rate))
    own = torch.fft.rfft(folded)[BAND[0] : top]
    size = own.abs()
    turned = own / size.clamp(min=1e-9) * phases(key)[BAND[0] : top].conj()
    count = max(1, int((size > 1e-9).sum()))
    spectrum = torch.zeros(SHIFTS // 2 + 1, dtype=torch.complex64)
    spectrum[BAND[0] : top] = turned
    shifts = torch.fft.irfft(spectrum, n=SHIFTS) * (SHIFTS / 2 / math.sqrt(count / 2))
    still, best = float(shifts[0]), float(shifts.max())
    return min((still, _chance(still, 2)), (best, _chance(best, 2 * SHIFTS)), key=lambda judged: judged[1])


def _chance(z: float, tried: int) -> float:
    return min(1.0, tried * 0.5 * math.erfc(z / math.sqrt(2)))


def _fold(folded: Tensor, samples: Tensor, at: int) -> int:
    """Add samples, the first of which is number `at`, to the second; the number of the next."""
    rate = len(folded)
    padded = F.pad(samples, (at % rate, -(at + len(samples)) % rate))
    folded += padded.view(-1, rate).sum(0)
    return at + len(samples)
