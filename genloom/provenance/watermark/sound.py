"""A mark in sound that is not heard and that a key finds again: signs of a key, as small changes of loudness.

Time is cut into slots of 24 ms, frequency from 300 to 6000 Hz into 24 bands. In each band one slot is made a little louder and
the next a little softer, or the other way, as the key says: spread spectrum in the logarithm of the spectrum, so the change
lies as far below the sound as is asked, at every moment and pitch, where the sound itself hides it. The signs come again
after 16 pairs of slots. Found is it by adding up all rounds and comparing with the key, beginning at every 1.5 ms. Without a mark the
signs have nothing to do with the sound, so the score is a standard normal number, whatever the sound (Hoeffding 1963).
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SLOT = 0.024  # seconds
PAIRS = 16  # of slots, after which the signs come again
BANDS = 24
EDGES = np.geomspace(300.0, 6000.0, BANDS + 1)  # Hz: codecs and telephones keep them
LOUDER = 1.0  # dB by which a slot is changed
STARTS = 16  # of a slot's length, at which a mark may begin
WINDOW, HOP = 8, 2  # starts that the window of a spectrum has, and from one to the next
QUIET = 1e-9  # power of a band that is silence: nothing can be told from it
AROUND = 2  # bands on each side
MOST = 3.0  # dB: a greater difference of two slots counts as this
SHORTEST = 2 * SLOT
BLOCK, MARGIN = 4.0, 0.25  # seconds of a stream that are marked at once, and on each side of them looked at


@lru_cache(4)
def signs(key: bytes) -> Tensor:
    """[PAIRS, BANDS] of -1 and 1."""
    raw = np.frombuffer(hashlib.shake_256(b"genloom sound 1\n" + key).digest(PAIRS * BANDS // 8), np.uint8)
    return torch.from_numpy(np.unpackbits(raw).astype(np.float32)).view(PAIRS, BANDS) * 2 - 1


# ── to put it in ─────────────────────────────────────────────────────────────────────────────────────────────────
def marked(wave: Tensor, rate: int, key: bytes, first: int = 0) -> Tensor:
    """A wave [1, N] in [-1, 1] at `rate` Hz with the mark; a shorter one than two slots as it is.

    `first`: the number of its first sample in a longer wave, a multiple of two hops.
    """
    if wave.shape[-1] < SHORTEST * rate:
        return wave
    hop, x = _hop(rate), wave.float()
    wanted, start = _wanted(x, hop, rate, key, first)
    spectrum = _spectrum(x, hop * HOP, hop)
    gains = _gains(first + hop * HOP * torch.arange(spectrum.shape[2], dtype=torch.float64), hop, rate, wanted, start)
    size = WINDOW * hop
    made = torch.istft(spectrum * gains, size, hop * HOP, window=_window(size), center=True, length=wave.shape[-1])
    return made.clamp(-1, 1).view_as(wave)


class Stream:
    """The same of a wave that comes piece by piece: exactly what the whole would have become, some seconds later."""

    def __init__(self, rate: int, key: bytes):
        self.rate, self.key = rate, key
        self.step = _hop(rate) * HOP
        self.held, self.first, self.out = torch.zeros(1, 0), 0, 0

    def push(self, x: Tensor, last: bool = False) -> Tensor:
        """Pieces [1, n], n >= 0, in; [1, m] out, at the `last` all."""
        self.held = torch.cat([self.held, x.float().cpu()], 1)
        stop = self.first + self.held.shape[1]
        ready = stop if last else (stop - round(MARGIN * self.rate)) // self.step * self.step
        if ready <= self.out or (not last and ready - self.out < BLOCK * self.rate):
            return x.new_zeros(1, 0)
        made = marked(self.held, self.rate, self.key, self.first)[:, self.out - self.first : ready - self.first]
        self.out = ready
        kept = max(self.first, (ready - round(MARGIN * self.rate)) // self.step * self.step)
        self.held, self.first = self.held[:, kept - self.first :], kept
        return made


def _hop(rate: int) -> int:
    """Samples of about one start."""
    return max(1, round(rate * SLOT / STARTS))


@lru_cache(8)
def _window(size: int) -> Tensor:
    return torch.hann_window(size).sqrt()


def _spectrum(wave: Tensor, step: int, hop: int) -> Tensor:
    """[1, F, T] complex: frame t is about sample t · step."""
    size = WINDOW * hop
    return torch.stft(wave, size, step, window=_window(size), center=True, pad_mode="constant", return_complex=True)


def _wanted(wave: Tensor, hop: int, rate: int, key: bytes, first: int) -> tuple[Tensor, int]:
    """[pairs, BANDS] dB by which the first slot of each pair is made louder, and the second softer; and which pair the first is.

    None where the sound agrees with the key as much as counts anyway, or disagrees more than could be mended.
    """
    start = math.ceil(first / rate / (2 * SLOT))
    apart = _pairs(_levels(wave, hop, rate), (start * 2 * SLOT * rate - first) / hop, rate / hop)
    told = signs(key)[torch.arange(start, start + len(apart)) % PAIRS]
    agrees = apart * told
    useful = (agrees < MOST) & (agrees > -MOST - 2 * LOUDER)
    return told * useful * LOUDER, start


def _gains(samples: Tensor, hop: int, rate: int, wanted: Tensor, start: int) -> Tensor:
    """[F, T]: what each frequency is multiplied with about those samples [T], without a jump from slot to slot."""
    places = samples / rate / SLOT  # in slots
    whole, within = places.floor().long(), places - places.floor()
    shape = torch.sin(math.pi * within).clamp(min=0).sqrt().float()  # to nothing where slots meet
    side = 1 - 2 * (whole % 2).float()
    pair = whole // 2 - start
    none = torch.zeros(1, BANDS)  # before the first pair, and where the last is not whole
    given = torch.cat([none, wanted, none])[(pair + 1).clamp(0, len(wanted) + 1)]
    told = given * (side * shape)[:, None]  # [T, BANDS]
    inside = _in_band(hop, rate)
    return (10 ** (told / 20)).T[_band_of(hop, rate)] * inside + (1 - inside)


def _frequencies(hop: int, rate: int) -> np.ndarray:
    return np.fft.rfftfreq(WINDOW * hop, 1 / rate)


@lru_cache(8)
def _band_of(hop: int, rate: int) -> Tensor:
    return torch.from_numpy(np.clip(np.searchsorted(EDGES, _frequencies(hop, rate), "right") - 1, 0, BANDS - 1))


@lru_cache(8)
def _in_band(hop: int, rate: int) -> Tensor:
    f = _frequencies(hop, rate)
    return torch.from_numpy(((f >= EDGES[0]) & (f < EDGES[-1])).astype(np.float32))[:, None]


# ── to find it again ─────────────────────────────────────────────────────────────────────────────────────────────
def score(wave: Tensor, rate: int, key: bytes) -> tuple[float, float] | None:
    """How many standard deviations a wave [1, N] agrees with the key, and the p-value, all places that were tried counted in.

    None for a wave of less than two slots.
    """
    if wave.shape[-1] < SHORTEST * rate:
        return None
    hop = _hop(rate)
    levels = _levels(wave.float(), hop, rate)  # [T, BANDS] at every start
    own, best = torch.fft.rfft(signs(key), dim=0).conj(), 0.0
    for start in range(2 * STARTS):
        apart = _rounds(_pairs(levels, start * SLOT / STARTS * rate / hop, rate / hop))
        size = float(apart.square().sum().sqrt())
        if size > 1e-6:
            agree = torch.fft.irfft((torch.fft.rfft(apart, dim=0) * own).sum(1), PAIRS)
            best = max(best, float(agree.max()) / size)
    return best, min(1.0, 2 * STARTS * PAIRS * 0.5 * math.erfc(best / math.sqrt(2)))


def _levels(wave: Tensor, hop: int, rate: int) -> Tensor:
    """[T, BANDS] dB of each band in the middle of the slot that begins at hop t."""
    power = _spectrum(wave, hop, hop)[0].abs().square().T  # [T, F]
    bands = torch.zeros(len(power), BANDS).index_add_(1, _band_of(hop, rate), power * _in_band(hop, rate).T)
    total = torch.cat([torch.zeros(1, BANDS), bands.double().cumsum(0)])
    inner = STARTS - 4  # what lies near a slot's ends is of two
    slots = (total[2 + inner :] - total[2:-inner])[: max(0, len(bands) - STARTS)]
    return 10 * (slots / (WINDOW * hop) / inner).clamp(min=QUIET).log10().float()


def _pairs(levels: Tensor, begin: float, speed: float) -> Tensor:
    """[pairs, BANDS]: how much louder the first slot of each pair is than the second, but for what all bands around do.

    `begin`: the first pair's first row of the levels; `speed`: rows a second.
    """
    pairs = max(0, int((len(levels) - 1 - begin) / speed / SLOT + 1) // 2)
    rows = (begin + torch.arange(2 * pairs, dtype=torch.float64) * SLOT * speed).round().long()
    slots = levels[rows.clamp(max=max(0, len(levels) - 1))]
    apart = slots[0::2] - slots[1::2]
    if not pairs:
        return apart
    return apart - F.avg_pool1d(apart[:, None], 2 * AROUND + 1, 1, AROUND, count_include_pad=False)[:, 0]


def _rounds(apart: Tensor) -> Tensor:
    """[PAIRS, BANDS]: the differences as far as they count, all rounds together."""
    filled = torch.zeros(-(-max(1, len(apart)) // PAIRS) * PAIRS, BANDS)
    filled[: len(apart)] = apart.clamp(-MOST, MOST)
    return filled.view(-1, PAIRS, BANDS).sum(0)
