"""A mark in sound that is not heard and that a key finds again: spread spectrum in loudness, by time and pitch.

Sound is cut into tiles of some hundredths of a second by some hundred hertz, and the key makes each a little louder or softer:
a change in proportion to what is there stays below what that masks. Found is it by comparing each tile with those before and
after. Without the mark they have nothing to do with the key, so the score is a standard normal number at most, whatever the
sound. Signs come again every few seconds, so a piece cut out anywhere is found by trying each shift.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

HOP = 0.016  # seconds from one frame to the next; a frame lasts two
LONG = 3  # frames of a tile
TILES = 80  # of a period, one after another: 3.84 seconds
LOWEST, WIDE, BANDS = 250.0, 125.0, 44  # hertz of the lowest tile and of each; how many there are, up to 5,750 Hz
DEPTH = 1.2  # decibels that a tile is made louder or softer
SILENT = 1e-9  # mean square of a tile below which nothing is looked for: -90 dB
AROUND = 3  # tiles above and below, whose mean is taken off: a word begins in all of them at once
LIMIT = 1.5  # of a tile's difference from its neighbours, in mean magnitudes
SHORTEST, LONGEST = 1.0, 120.0  # seconds of a sound that is marked; that are looked at
FEWEST = 100  # tiles that can tell anything
PIECE = 1 << 18  # samples that are marked at once


@lru_cache(4)
def signs(key: bytes) -> Tensor:
    """[TILES, BANDS] of -1 and 1."""
    raw = hashlib.shake_256(b"genloom sound 1\n" + key).digest(TILES * BANDS // 8)
    bits = np.unpackbits(np.frombuffer(raw, np.uint8)).astype(np.float32)
    return torch.from_numpy(bits * 2 - 1).reshape(TILES, BANDS)


@lru_cache(8)
def _bands(rate: int) -> tuple[int, Tensor]:
    """Samples of a hop; and [bins] the band of each frequency of a frame of two hops, -1 for none."""
    hop = round(HOP * rate)
    hertz = torch.fft.rfftfreq(2 * hop, 1 / rate)
    band = ((hertz - LOWEST) / WIDE).floor().long()
    return hop, torch.where((band >= 0) & (band < BANDS) & (hertz < 0.45 * rate), band, -1)


# ── to put it in ─────────────────────────────────────────────────────────────────────────────────────────────────
class Marker:
    """Marks a wave as it comes: `add` takes pieces [n] and gives what is done, 48 ms at most behind; `end` the rest.

    Frame t begins at `t · HOP` seconds to the nearest sample, so the mark keeps its time at every rate.
    """

    def __init__(self, rate: int, key: bytes):
        self.rate, self.signs = rate, signs(key)
        self.hop, self.band = _bands(rate)
        self.window = torch.hann_window(2 * self.hop).sqrt()
        self.frame, self.at = -1, 0  # the next frame, and the place of the first sample that waits
        self.waiting, self.mark = torch.zeros(0), torch.zeros(0)

    def _start(self, frame: int) -> int:
        return round(frame * HOP * self.rate)

    def add(self, piece: Tensor) -> Tensor:
        """[m] samples with the mark in them of those so far, [n] more."""
        self.waiting = torch.cat([self.waiting, piece.detach().float().cpu().nan_to_num(0.0)])
        self.mark = F.pad(self.mark, (0, len(self.waiting) + 3 * self.hop - len(self.mark)))
        end = self.at + len(self.waiting)
        count = 0
        while self._start(self.frame + count) + 2 * self.hop <= end:
            count += 1
        self._frames(count)
        return self._done(self._start(self.frame) - self.at if count else 0)

    def end(self) -> Tensor:
        """[m] the samples that were not given back yet."""
        count = 0
        while self._start(self.frame + count) < self.at + len(self.waiting):
            count += 1
        self._frames(count)
        return self._done(len(self.waiting))

    def _frames(self, count: int) -> None:
        """Add so many frames' changes to what waits."""
        if not count:
            return
        size, numbers = 2 * self.hop, range(self.frame, self.frame + count)
        places = torch.tensor([self._start(t) - self.at for t in numbers])
        index = places[:, None] + torch.arange(size)
        inside = F.pad(self.waiting, (size, 2 * size))
        spectrum = torch.fft.rfft(inside[index + size] * self.window)
        tile = torch.tensor([t // LONG % TILES for t in numbers])
        louder = self.signs[tile][:, self.band.clamp(min=0)] * (self.band >= 0)
        change = torch.fft.irfft(spectrum * (10 ** (louder * DEPTH / 20) - 1), n=size) * self.window
        mark = F.pad(self.mark, (size, 2 * size))
        self.mark = mark.index_add(0, (index + size).flatten(), change.flatten())[size : size + len(self.mark)]
        self.frame += count

    def _done(self, count: int) -> Tensor:
        count = max(0, min(count, len(self.waiting)))
        done = (self.waiting[:count] + self.mark[:count]).clamp(-1, 1)
        self.waiting, self.mark, self.at = self.waiting[count:], self.mark[count:], self.at + count
        return done


def marked(wave: Tensor, rate: int, key: bytes) -> Tensor:
    """A wave [..., N] in [-1, 1] with the mark, each channel by itself."""
    rows = []
    for row in wave.reshape(-1, wave.shape[-1]):
        marker = Marker(rate, key)
        rows.append(torch.cat([*map(marker.add, row.split(PIECE)), marker.end()]))
    return torch.stack(rows).reshape(wave.shape)


# ── to find it again ─────────────────────────────────────────────────────────────────────────────────────────────
def score(wave: Tensor, rate: int, key: bytes) -> tuple[float, float] | None:
    """How many standard deviations a wave [N] agrees with the key, and the p-value of that, all searching counted in.

    None for one too short or too low in rate to tell. Half of the chance of a false find is spent on the sound as it stands.
    """
    differences = _differences(wave[: round(LONGEST * rate)], rate)
    if differences is None:
        return None
    key_signs = signs(key)
    agreement = _agreement(differences, key_signs)
    here, best = float(agreement[0, 0]), float(agreement.max())
    return min(_judged(here, 2.0), _judged(best, 2.0 * agreement.numel()), key=lambda b: b[1])


def _judged(z: float, tried: float) -> tuple[float, float]:
    return z, min(1.0, tried * 0.5 * math.erfc(z / math.sqrt(2)))


PHASES = 2 * LONG  # shifts within a tile that are tried


def _differences(wave: Tensor, rate: int) -> Tensor | None:
    """[PHASES, TILES, BANDS]: by how much each tile of the period is louder than those around, summed over all periods.

    None where too few can be heard.
    """
    energy = _energy(wave, rate)
    valid = energy > SILENT
    valid[:PHASES], valid[-PHASES:] = False, False
    if int(valid.sum()) < FEWEST * PHASES:
        return None
    loud = (energy + 1e-12).log()
    before, after = F.pad(loud, (0, 0, PHASES, 0))[:-PHASES], F.pad(loud, (0, 0, 0, PHASES))[PHASES:]
    rise = loud - (before + after) / 2
    rise = rise - F.avg_pool1d(F.pad(rise, (AROUND, AROUND), "replicate"), 2 * AROUND + 1, 1)
    rise = torch.where(valid, rise, 0)
    rise = (rise * (valid.sum() / (rise.abs().sum() + 1e-9) / LIMIT)).tanh()
    whole = F.pad(rise, (0, 0, 0, -len(rise) % (PHASES * TILES)))
    return whole.reshape(-1, TILES, PHASES, BANDS).sum(0).permute(1, 0, 2)


def _energy(wave: Tensor, rate: int) -> Tensor:
    """[t, BANDS]: mean square of the tile that begins at each half hop."""
    hop, band = _bands(rate)
    count = max(1, int((len(wave) / rate - 2 * HOP) / (HOP / 2)) + 1)
    starts = (torch.arange(count, dtype=torch.float64) * (HOP / 2) * rate).round().long()
    window, power = torch.hann_window(2 * hop), list[Tensor]()
    for part in starts.split(4096):
        index = (part[:, None] + torch.arange(2 * hop)).clamp(max=len(wave) - 1)
        power.append(torch.fft.rfft(wave[index] * window).abs().square() / hop**2)
    bands = torch.zeros(count, BANDS).index_add(1, band.clamp(min=0), torch.cat(power) * (band >= 0))
    whole = F.pad(bands.T[None], (0, PHASES - 2))
    return F.avg_pool1d(whole, PHASES - 1, 1)[0].T


def _agreement(differences: Tensor, key_signs: Tensor) -> Tensor:
    """[PHASES, TILES]: the score of each shift."""
    spectrum = torch.fft.rfft(differences, dim=1) * torch.fft.rfft(key_signs, dim=0).conj()
    turned = torch.fft.irfft(spectrum.sum(2), n=TILES, dim=1)
    return turned / differences.square().sum((1, 2)).clamp(min=1e-12).sqrt()[:, None]
