"""A mark in pictures that is not seen and that a key finds again: spread spectrum (Cox et al. 1997) in a periodic tile.

The key gives a phase to each of some hundred middle frequencies of a tile of 64 x 64 pixels, which is repeated over the
picture's brightness, stronger where the picture hides more. Found is it by folding the picture back into one tile and
comparing phases: without the mark they have nothing to do with the key, so the score is a standard normal number at most,
whatever the picture. A shift of the tile is searched by one Fourier transform, a change of size by trying each.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PERIOD = 64  # pixels of a tile's side
SMALLEST = PERIOD  # of a picture that is marked
LEAST = 32  # of a picture, perhaps made smaller, in which a mark is looked for
BAND = (4.0, 18.0)  # waves in a tile: JPEG takes what is finer, and what is coarser drowns in the picture
WAVES = int(BAND[1]) + 1  # from left to right, 0 and on
C2 = (0.03 * 255) ** 2  # of SSIM (Wang et al. 2004)
LOST = 0.0175  # of SSIM, at most
NOISE = 5.8  # mean square of the mark at most, in levels of 255: 40.5 dB
EVEN = 0.06  # of the variance that hides it, at most
BUSIEST = 500.0  # beyond that variance the mark grows no more: it would take all that is allowed
SIGHT, AROUND, GROUND = (
    5,
    9,
    3.0,
)  # sides of the squares that variance and brightness are taken over; a floor of the latter
ROUNDS, SOFT = 5, 1.0  # of fitting the phases to the picture; the noise expected afterwards, of the median magnitude
SIZES, FINEST = (0.4, 4.2), 0.01  # that a picture may have been changed to, times its own; from one tried to the next
LARGEST = 2048  # pixels of a side that are looked at
CENTRE = 512  # pixels of the middle of a large picture that other sizes are tried on
CERTAIN = 1e-6  # p-value from which no further search is made


class Pattern(NamedTuple):
    """`phases` [64, WAVES] complex of magnitude 1 in `half` [64, WAVES] bool, the half-plane of the band, and 0 elsewhere."""

    phases: Tensor
    half: Tensor


@lru_cache(4)
def pattern(key: bytes) -> Pattern:
    k = torch.fft.fftfreq(PERIOD) * PERIOD
    across = torch.arange(WAVES)
    radius = torch.hypot(k[:, None], across)
    half = (radius >= BAND[0]) & (radius <= BAND[1]) & ((across > 0) | (k[:, None] > 0))
    count = int(half.sum())
    numbers = np.frombuffer(hashlib.shake_256(b"genloom picture 1\n" + key).digest(4 * count), "<u4")
    phases = torch.zeros(PERIOD, WAVES, dtype=torch.complex64)
    angles = torch.from_numpy(numbers.astype(np.float64)) * (2 * math.pi / 2**32)
    phases[half] = torch.polar(torch.ones(count), angles.float())
    return Pattern(phases, half)


# ── to put it in ─────────────────────────────────────────────────────────────────────────────────────────────────
def marked(pictures: Tensor, key: bytes) -> Tensor:
    """Pictures [N, C, H, W] in [-1, 1] with the mark; those below 64 pixels as they are. Each depends on itself alone."""
    if min(pictures.shape[-2:]) < SMALLEST:
        return pictures
    return torch.stack([_marked(picture.detach().float().cpu(), key) for picture in pictures])


def _marked(picture: Tensor, key: bytes) -> Tensor:
    bytes_ = picture.nan_to_num(0.0).clamp(-1, 1).add(1).mul(127.5)
    colours = bytes_[:3] if len(bytes_) >= 3 else bytes_[:1]
    bright = colours.mean(0)
    strength, hides = _strength(colours, bright)
    tile = _tile(bright, strength, pattern(key))
    mark = strength * _tiled(tile, *bright.shape)
    power = _box(mark.square(), SIGHT)
    lost = float((power / (hides + power)).mean())
    mark = mark * min(1.0, math.sqrt(LOST / max(lost, 1e-9)))
    if len(bytes_) == 4:
        mark = mark * (bytes_[3] > 0)  # nobody sees what is under nothing
    return torch.cat([(colours + mark).clamp(0, 255), bytes_[len(colours) :]]).div(127.5).sub(1)


def _strength(colours: Tensor, bright: Tensor) -> tuple[Tensor, Tensor]:
    """[H, W]: the mark's standard deviation at each place; and the variance that hides it there, as SSIM counts it."""
    mean, square = _box(bright, SIGHT), _box(bright.square(), SIGHT)
    hides = (square - mean.square()).clamp(min=0).mul(2).add(C2)
    busy = hides.clamp(max=BUSIEST)
    share = min(LOST / float((busy / hides).mean()), NOISE / float(busy.mean()), EVEN)
    room = torch.minimum(colours, 255 - colours).mean(0)  # on black it could only brighten, which SSIM does not forgive
    return torch.minimum((share * busy).sqrt(), 0.5 * room), hides


def _tile(bright: Tensor, strength: Tensor, key: Pattern) -> Tensor:
    """[64, 64] of variance 1, whose phases turn those of the picture as near as may be to the key's.

    What the score counts is the sum of cosines between both. Its gradient says where a wave of the mark helps most: where
    the picture's own is weak, and turned away (informed embedding, Miller et al. 2000). A few rounds come near the best.
    """
    level, spread = _flattened(bright)
    own, phases = _spectrum(level)[key.half], key.phases[key.half]
    wave = math.sqrt(2 / len(phases))  # amplitude of one, of a tile of variance 1
    gain = float((strength / spread).sum()) * wave / 2 * _passed()[key.half]
    noise = SOFT * own.abs().median() + 0.3 * gain.mean() + 1e-6  # also where the picture has nothing
    added = phases
    for _ in range(ROUNDS):
        both = own + gain * added
        size = (both.abs().square() + noise.square()).sqrt()
        slope = gain * (phases / size - both * (both * phases.conj()).real / size**3)
        added = added + slope / slope.abs().square().mean().sqrt().clamp(min=1e-9)
        added = added / added.abs().square().mean().sqrt()
    spectrum = torch.zeros_like(key.phases)
    spectrum[key.half] = added * wave
    return _waves(spectrum)


@lru_cache(1)
def _passed() -> Tensor:
    """[64, WAVES]: the share of each frequency that is left when the mean of the squares around is taken off."""
    offsets = torch.arange(AROUND) - AROUND // 2
    mean = torch.cos(2 * math.pi * torch.fft.fftfreq(PERIOD)[:, None] * offsets).mean(1)
    return 1 - mean[:, None] * mean[:WAVES]


def _tiled(tile: Tensor, height: int, width: int) -> Tensor:
    return tile.repeat(-(-height // PERIOD), -(-width // PERIOD))[:height, :width]


# ── to find it again ─────────────────────────────────────────────────────────────────────────────────────────────
def score(frames: Iterable[np.ndarray], key: bytes) -> tuple[float, float] | None:
    """How many standard deviations a picture agrees with the key, and the p-value of that, all searching counted in.

    `frames`: uint8 [H, W] or [H, W, C], alpha last; those of a film, of one size, are judged together. None for a picture
    below 32 pixels. Half of the chance of a false find is spent on the picture as it stands, a quarter on one that was cut
    or mirrored, a quarter on other sizes.
    """
    levels = [_flattened(_bright(pixels))[0] for pixels in frames if min(pixels.shape[:2]) >= LEAST]
    if not levels:
        return None
    marks, level = pattern(key), torch.stack(levels).mean(0)
    spectrum = _spectrum(level)[None]
    best = _judged(float(_agreement(spectrum, marks)[0, 0, 0, 0]), 2.0)
    if best[1] > CERTAIN:
        best = min(best, _searched(spectrum, marks), key=lambda b: b[1])
    if best[1] > CERTAIN:
        best = min(best, _searched(_resized(level), marks), key=lambda b: b[1])
    return best


def _bright(pixels: np.ndarray) -> Tensor:
    values = torch.from_numpy(pixels[:LARGEST, :LARGEST].astype(np.float32))
    return values if values.ndim == 2 else values[..., : 3 if values.shape[2] >= 3 else 1].mean(2)


def _judged(z: float, tried: float) -> tuple[float, float]:
    return z, min(1.0, tried * 0.5 * math.erfc(z / math.sqrt(2)))


def _searched(spectra: Tensor, key: Pattern) -> tuple[float, float]:
    """The best of all shifts of spectra [S, 64, WAVES], and of their mirror images."""
    turned = _agreement(spectra, key)
    return _judged(float(turned.max()), 4.0 * turned.numel())


def _agreement(spectra: Tensor, key: Pattern) -> Tensor:
    """[2, S, 64, 64]: the score of each shift, as it is and mirrored. Frequencies that a picture has not are 0."""
    mirrored = torch.roll(spectra.flip(1), 1, 1).conj()
    both = torch.stack([spectra, mirrored])
    size = both.abs()
    turned = both / size.clamp(min=1e-9) * key.phases.conj()
    count = ((size > 1e-9) & key.half).sum((2, 3)).clamp(min=1)
    return _waves(turned) / (count / 2).sqrt()[..., None, None]


def _resized(level: Tensor) -> Tensor:
    """[S, 64, WAVES]: for each size that the picture may have been changed to, the tile's frequencies in it."""
    height, width = level.shape
    top, left = max(0, height - CENTRE) // 2, max(0, width - CENTRE) // 2
    part = level[top : top + CENTRE, left : left + CENTRE]
    side = 1 << max(part.shape).bit_length()
    field = torch.zeros(side, side)
    field[: part.shape[0], : part.shape[1]] = part
    centred = torch.roll(
        field, (-(part.shape[0] // 2), -(part.shape[1] // 2)), (0, 1)
    )  # phases from the middle turn least
    spectrum = torch.fft.fft2(centred)
    step = max(FINEST, 2.5 / max(part.shape))  # a small picture tells sizes less well apart
    scales = torch.exp(torch.arange(math.log(SIZES[0]), math.log(SIZES[1]), step, dtype=torch.float64))
    at = torch.fft.fftfreq(PERIOD, dtype=torch.float64) / scales[:, None]  # [S, 64] waves a pixel
    seen = (at.abs() < 0.45).to(spectrum.dtype)
    index = (at * side).round().long() % side
    return spectrum[index[:, :, None], index[:, None, :WAVES]] * seen[:, :, None] * seen[:, None, :WAVES]


# ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _flattened(bright: Tensor) -> tuple[Tensor, Tensor]:
    """[H, W]: the picture with its brightness and contrast evened out; and the contrast that it was divided by."""
    high = bright - _box(bright, AROUND)
    spread = _box(high.square(), AROUND).clamp(min=0).sqrt() + GROUND
    return high / spread, spread


def _spectrum(level: Tensor) -> Tensor:
    """[64, WAVES]: the tile's frequencies in a picture, all tiles laid one upon another."""
    height, width = level.shape
    whole = F.pad(level, (0, -width % PERIOD, 0, -height % PERIOD))
    return torch.fft.rfft2(whole.unflatten(0, (-1, PERIOD)).unflatten(2, (-1, PERIOD)).sum((0, 2)))[:, :WAVES]


def _waves(halves: Tensor) -> Tensor:
    """[..., 64, 64]: the sum of the waves [..., 64, WAVES] of the half-plane, each with its amplitude and phase."""
    first = halves[..., :1]
    whole = torch.cat([first + torch.roll(first.flip(-2), 1, -2).conj(), halves[..., 1:]], -1)
    return torch.fft.irfft2(whole, s=(PERIOD, PERIOD)) * (PERIOD**2 / 2)


def _box(values: Tensor, side: int) -> Tensor:
    """The mean over the square around each place of [H, W] or [C, H, W]."""
    half, (height, width) = side // 2, values.shape[-2:]
    rows = F.pad(values.reshape(1, -1, height, width), (half,) * 4, "reflect")
    for axis, size in ((2, height), (3, width)):  # sums of shifted views: several times faster than a pooling
        total = rows.narrow(axis, 0, size).clone()
        for offset in range(1, side):
            total += rows.narrow(axis, offset, size)
        rows = total
    return rows.mul_(1 / side**2).reshape(values.shape)
