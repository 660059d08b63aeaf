"""A mark in pictures that is not seen and that a key finds again: spread spectrum (Cox et al. 1997) in a periodic tile.

The key gives a phase to each of some hundred middle frequencies of a tile of 64 x 64 pixels, which is repeated over the
picture's brightness, stronger where the picture hides more. Found is it by folding the picture back into one tile and
comparing phases: without the mark they have nothing to do with the key, so the score is a standard normal number at most,
whatever the picture. A shift of the tile is searched by one Fourier transform, a change of size by trying each.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
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
TOGETHER = 1 << 16  # pixels of pictures that are marked at once: what fits the processor's cache
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
    """Pictures [N, C, H, W] in [-1, 1] with the mark; those below 64 pixels as they are.

    Each depends on itself alone, to the bit, on any number of threads: it is made again without the others. So what
    joins places is added in double precision, and the rest is one exactly rounded operation after another.
    """
    if min(pictures.shape[-2:]) < SMALLEST or not len(pictures):
        return pictures
    several = max(1, TOGETHER // (pictures.shape[-1] * pictures.shape[-2]))
    return torch.cat([_marked(part.detach().float().cpu(), pattern(key)) for part in pictures.split(several)])


def _marked(pictures: Tensor, key: Pattern) -> Tensor:
    levels = pictures.nan_to_num(0.0).clamp_(-1, 1).add_(1).mul_(127.5)
    colours = list(levels.unbind(1))[: 3 if levels.shape[1] >= 3 else 1]
    bright = _added(colours).div_(len(colours))  # [N, H, W]
    strength, hides = _strength(colours, bright)
    mark = _tiled(_tile(bright, strength, key), *bright.shape[1:]).mul_(strength)
    power = _box(mark.square(), SIGHT)
    lost = _mean(power.div_(hides.add_(power))).clamp(min=1e-9)
    mark.mul_((LOST / lost).sqrt().clamp(max=1))
    if levels.shape[1] == 4:
        mark.mul_(levels[:, 3] > 0)  # nobody sees what is under nothing
    for colour in colours:
        colour.add_(mark).clamp_(0, 255)
    return levels.div_(127.5).sub_(1)


def _strength(colours: list[Tensor], bright: Tensor) -> tuple[Tensor, Tensor]:
    """[N, H, W]: the mark's standard deviation at each place; and the variance that hides it there, as SSIM counts it."""
    mean, square = _box(bright, SIGHT), _box(bright.square(), SIGHT)
    hides = square.sub_(mean.square_()).clamp_(min=0).mul_(2).add_(C2)
    busy = hides.clamp(max=BUSIEST)
    share = torch.minimum(LOST / _mean(busy / hides), NOISE / _mean(busy)).clamp(max=EVEN)
    room = _added([(c - 127.5).abs_().neg_() for c in colours]).div_(len(colours)).add_(127.5)
    # on black it could only brighten, which SSIM does not forgive
    return torch.minimum(busy.mul_(share).sqrt_(), room.mul_(0.5)), hides


def _mean(values: Tensor) -> Tensor:
    """[N, H, W] -> [N, 1, 1]."""
    return values.mean((1, 2), keepdim=True, dtype=torch.float64).float()


def _tile(bright: Tensor, strength: Tensor, key: Pattern) -> Tensor:
    """[N, 64, 64] of variance 1, whose phases turn those of the pictures as near as may be to the key's.

    What the score counts is the sum of cosines between both. Its gradient says where a wave of the mark helps most: where
    the picture's own is weak, and turned away (informed embedding, Miller et al. 2000). A few rounds come near the best.
    Waves [2, N, K] are told by their real and imaginary parts.
    """
    level, spread = _flattened(bright)
    own, phases = _parts(_spectrum(level)[:, key.half]), _parts(key.phases[key.half])[:, None]
    wave = math.sqrt(2 / phases.shape[2])  # amplitude of one, of a tile of variance 1
    seen = (strength / spread).sum((1, 2), dtype=torch.float64).float()
    gain = (seen[:, None] * (wave / 2) * _passed()[key.half]).numpy()  # [N, K]
    noise = SOFT * np.median(np.sqrt(_power(own)), 1, keepdims=True)  # also where the picture has nothing
    noise = noise + np.float32(0.3) * _mean_wave(gain) + np.float32(1e-6)
    added = phases
    for _ in range(ROUNDS):
        both = own + gain * added
        squared = _power(both) + noise * noise
        along = (both[0] * phases[0] + both[1] * phases[1]) / squared
        slope = (phases - both * along) * (gain / np.sqrt(squared))
        added = added + slope / np.maximum(np.sqrt(_mean_wave(_power(slope))), np.float32(1e-9))
        added = added / np.sqrt(_mean_wave(_power(added)))
    spectrum = torch.zeros(len(bright), *key.phases.shape, dtype=torch.complex64)
    spectrum[:, key.half] = torch.complex(*torch.from_numpy(added * np.float32(wave)))
    return _waves(spectrum)


def _parts(waves: Tensor) -> np.ndarray:
    """Complex [...] -> f32 [2, ...]. Products of complex numbers are not rounded the same in every place of an array."""
    return np.moveaxis(torch.view_as_real(waves).numpy(), -1, 0).copy()


def _power(waves: np.ndarray) -> np.ndarray:
    return waves[0] * waves[0] + waves[1] * waves[1]


def _mean_wave(values: np.ndarray) -> np.ndarray:
    """[N, K] -> [N, 1]."""
    return values.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)


@lru_cache(1)
def _passed() -> Tensor:
    """[64, WAVES]: the share of each frequency that is left when the mean of the squares around is taken off."""
    offsets = torch.arange(AROUND) - AROUND // 2
    mean = torch.cos(2 * math.pi * torch.fft.fftfreq(PERIOD)[:, None] * offsets).mean(1)
    return 1 - mean[:, None] * mean[:WAVES]


def _tiled(tile: Tensor, height: int, width: int) -> Tensor:
    return tile.repeat(1, -(-height // PERIOD), -(-width // PERIOD))[:, :height, :width]


# ── to find it again ─────────────────────────────────────────────────────────────────────────────────────────────
def score(frames: Iterable[np.ndarray], key: bytes) -> tuple[float, float] | None:
    """How many standard deviations a picture agrees with the key, and the p-value of that, all searching counted in.

    `frames`: uint8 [H, W] or [H, W, C], alpha last; those of a film, of one size, are judged together. None for a picture
    below 32 pixels. Half of the chance of a false find is spent on the picture as it stands, a quarter on one that was cut
    or mirrored, a quarter on other sizes.
    """
    levels = [_flattened(_bright(pixels)[None])[0] for pixels in frames if min(pixels.shape[:2]) >= LEAST]
    if not levels:
        return None
    marks, level = pattern(key), torch.cat(levels).mean(0)
    spectrum = _spectrum(level[None])
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
    """[N, H, W]: the pictures with brightness and contrast evened out; and the contrast that they were divided by."""
    high = bright - _box(bright, AROUND)
    spread = _box(high.square(), AROUND).clamp_(min=0).sqrt_().add_(GROUND)
    return high.div_(spread), spread


def _spectrum(level: Tensor) -> Tensor:
    """[N, 64, WAVES]: the tile's frequencies in pictures [N, H, W], all tiles of each laid one upon another."""
    height, width = level.shape[1:]
    whole = F.pad(level, (0, -width % PERIOD, 0, -height % PERIOD))
    rows = _added(whole.unflatten(1, (-1, PERIOD)).unbind(1))
    tile = _added(rows.unflatten(2, (-1, PERIOD)).unbind(2)).numpy()
    halves = np.fft.rfft(tile)[..., :WAVES]  # by NumPy: how torch's are rounded depends on N and threads
    return torch.from_numpy(np.fft.fft(halves, axis=-2))


def _added(several: Sequence[Tensor]) -> Tensor:
    """Their sum, in their order."""
    total = several[0].clone()
    for one in several[1:]:
        total += one
    return total


def _waves(halves: Tensor) -> Tensor:
    """[..., 64, 64]: the sum of the waves [..., 64, WAVES] of the half-plane, each with its amplitude and phase."""
    first = halves[..., :1]
    whole = torch.cat([first + torch.roll(first.flip(-2), 1, -2).conj(), halves[..., 1:]], -1)
    made = np.fft.irfft(np.fft.ifft(whole.numpy(), axis=-2), PERIOD)
    return torch.from_numpy(made) * (PERIOD**2 / 2)


def _box(values: Tensor, side: int) -> Tensor:
    """The mean over the square around each place of [N, H, W]; `side` is a power of two and one."""
    half = side // 2
    rows = F.pad(values[None], (half,) * 4, "reflect")[0]
    for axis, size in ((1, values.shape[1]), (2, values.shape[2])):  # sums of shifted views: faster than a pooling
        total, width = rows, 1
        while width < side - 1:
            rest = total.shape[axis] - width
            total, width = total.narrow(axis, 0, rest) + total.narrow(axis, width, rest), 2 * width
        rows = total.narrow(axis, 0, size) + rows.narrow(axis, side - 1, size)
    return rows.mul_(1 / side**2)
