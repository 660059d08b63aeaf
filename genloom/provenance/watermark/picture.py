"""A mark in pictures that is not seen and that a key finds again: spread spectrum (Cox et al. 1997) in a periodic tile.

The key gives a phase to each of some hundred middle frequencies of a tile of 64 x 64 pixels, which is repeated over the
picture's green, stronger where the picture hides more. Found is it by folding the picture back into one tile and
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
from torch import Tensor

from genloom.data.draw import to_levels
from genloom.provenance.watermark.corners import (
    AROUND,
    BAND,
    GREEN,
    LEVEL,
    PERIOD,
    WAVES,
    carrier,
    coarse_spreads,
    contrast_of,
    corners_of,
    doubled,
    evened,
    folded,
    interlaced,
    painted,
    spectrum_of,
    spread,
    summed,
    wave_sum,
)

SMALLEST = PERIOD  # of a picture that is marked
LEAST = 32  # of a picture, perhaps made smaller, in which a mark is looked for
C2 = (0.03 * 255 * LEVEL) ** 2  # of SSIM (Wang et al. 2004)
LOST = 0.017  # of SSIM, at most, the mean over colours
NOISE = 5.8  # mean square of the mark at most, over all colours, of levels: 40.5 dB
EVEN = 0.06  # of the variance that hides it, at most
BUSIEST = 500.0 * LEVEL**2  # beyond that variance the mark grows no more: it would take all that is allowed
ROUNDS, SOFT = 3, 1.0  # of fitting the phases to the picture; the noise expected afterwards, of the median magnitude
SIZES, FINEST = (0.4, 4.2), 0.01  # that a picture may have been changed to, times its own; from one tried to the next
TOGETHER = 1 << 18  # pixels of pictures that are looked at at once: what fits the processor's cache
FITTED = 32  # pictures whose phases are fitted at once
STRIPS, SQUARE = 4, 4  # places that a picture's colours are looked at in
PEAK = 13.0  # of a tile of variance 1: with the strength there may be it stays within 127 levels
LARGEST = 2048  # pixels of a side that are looked at
CENTRE = 512  # pixels of the middle of a large picture that other sizes are tried on
CERTAIN = 1e-6  # p-value from which no further search is made


class Pattern(NamedTuple):
    """`phases` [64, WAVES] complex of magnitude 1 in `half` [64, WAVES] bool, the half-plane of the band, and 0 elsewhere."""

    phases: np.ndarray
    half: np.ndarray


@lru_cache(4)
def pattern(key: bytes) -> Pattern:
    k, across = np.fft.fftfreq(PERIOD)[:, None] * PERIOD, np.arange(WAVES)
    radius = np.hypot(k, across)
    half = (radius >= BAND[0]) & (radius <= BAND[1]) & ((across > 0) | (k > 0))
    numbers = np.frombuffer(hashlib.shake_256(b"genloom picture 1\n" + key).digest(4 * half.sum()), "<u4")
    phases = np.zeros((PERIOD, WAVES), np.complex64)
    phases[half] = np.exp(1j * (2 * math.pi / 2**32) * numbers.astype(np.float64))
    return Pattern(phases, half)


# ── to put it in ─────────────────────────────────────────────────────────────────────────────────────────────────
def marked(pictures: Tensor, key: bytes) -> Tensor:
    """Pictures [N, C, H, W] in [-1, 1] with the mark, as a file of 8 bits holds them; those below 64 pixels as they are."""
    if min(pictures.shape[-2:]) < SMALLEST or not len(pictures):
        return pictures
    return torch.from_numpy(mark(to_levels(pictures), key)).float() / 127.5 - 1


def mark(levels: np.ndarray, key: bytes) -> np.ndarray:
    """Levels uint8 [N, C, H, W] of pictures, from 64 pixels on, which are changed in place.

    Each depends on itself alone, to the bit, on any number of threads: it is made again without the others. So NumPy makes
    it, whose operations are rounded alike in all places.
    """
    for start in range(0, len(levels), FITTED):
        _mark(levels[start : start + FITTED], pattern(key))
    return levels


class _Seen(NamedTuple):
    """What of pictures decides their mark: the `tile` [N, 64, 64] that they fold into; the mark's standard deviation,
    `strength` [N, H/2, W/2]; how much of a mark of variance 1 counts in each, `felt` [N, 1]."""

    tile: np.ndarray
    strength: np.ndarray
    felt: np.ndarray


def _mark(levels: np.ndarray, key: Pattern) -> None:
    several = max(1, TOGETHER // (levels.shape[-1] * levels.shape[-2]))
    parts = [slice(start, start + several) for start in range(0, len(levels), several)]
    seen = [_seen(levels[part]) for part in parts]
    own = spectrum_of(np.concatenate([s.tile for s in seen]))
    tiles = _tiles(own, np.concatenate([s.felt for s in seen]), key)
    for part, this in zip(parts, seen, strict=True):
        _add(levels[part], tiles[part], this.strength)


def _seen(levels: np.ndarray) -> _Seen:
    """Of pictures uint8 [N, C, H, W]."""
    corners = corners_of(levels)
    near, around = coarse_spreads(corners)
    hides = 2 * near + np.float32(C2)
    busy = np.clip(hides, np.float32(C2), np.float32(BUSIEST))
    lost = _mean(busy / hides) * (_flatter(levels[:, :3]) if painted(levels) == 3 else 1)
    allowed = np.minimum(LOST / LEVEL**2 / lost, NOISE / _mean(busy))  # as if all colours had it
    share = np.minimum(allowed * np.float32(painted(levels) * carrier(levels)[1] ** 2), np.float32(EVEN))
    strength = np.minimum(np.sqrt(busy * share), _room(levels))
    contrast, (height, width) = contrast_of(around), corners.shape[2:]
    felt = _mean(strength / contrast)[:, 0] * np.float32(corners[:, 0].size)
    level = evened(corners, doubled(around.mean, height, width), doubled(contrast, height, width))
    return _Seen(folded(level), doubled(strength, height, width), felt)


def _room(levels: np.ndarray) -> np.ndarray:
    """Half the brightness [N, H/4, W/4] that what carries the mark lies from its least or most: on black a mark could only
    brighten, which SSIM does not forgive."""
    plane, weight = carrier(levels)
    few = levels[:, plane, 1:-2:4, 1:-2:4]
    return np.minimum(few, ~few) * np.float32(0.5 * weight)


def _flatter(colours: np.ndarray) -> np.ndarray:
    """[N, 1, 1]: how much more of SSIM a mark takes from pictures uint8 [N, 3, H, W] than their brightness tells, at least 1.

    In a drawing green may be flat where another colour varies. Of squares of SQUARE pixels a side, in STRIPS rows of them.
    """
    step, width = colours.shape[2] // STRIPS, colours.shape[3] // SQUARE * SQUARE
    rows = colours[:, :, : step * STRIPS, :width].reshape(len(colours), 3, STRIPS, step, width)[..., :SQUARE, :]
    values = np.empty((2, 2, STRIPS, SQUARE, len(colours), width), np.float32)  # and squared; green, brightness
    red, green, blue = rows.transpose(1, 2, 3, 0, 4)
    np.multiply(green, np.float32(LEVEL), out=values[0, 0])
    np.multiply(green, np.float32(GREEN), out=values[0, 1])
    values[0, 1] += red
    values[0, 1] += blue
    np.multiply(values[0], values[0], out=values[1])
    lines = summed(values[:, :, :, i] for i in range(SQUARE))
    mean, square = summed(lines[..., i::SQUARE] for i in range(SQUARE)) * np.float32(1 / SQUARE**2)
    hides = 2 * np.abs(square - mean * mean) + np.float32(C2)  # [2, STRIPS, N, W/4]
    green, bright = (np.minimum(hides[1], np.float32(BUSIEST)) / hides).sum((1, 3))
    return np.maximum(green / bright, 1)[:, None, None]


def _add(levels: np.ndarray, tiles: np.ndarray, strength: np.ndarray) -> None:
    """Put the tiles [N, 64, 64] into pictures uint8 [N, C, H, W]."""
    count, height, width = strength.shape
    half = PERIOD // 2
    tiles = np.clip(tiles, -PEAK, PEAK).reshape(count, half, 2, half, 2)
    corners = np.ascontiguousarray(tiles.transpose(2, 4, 0, 1, 3))
    across = np.concatenate([corners] * -(-width // half), -1)[..., :width]  # [2, 2, N, 32, W/2]
    change = np.empty((2, 2, count, height, width), np.float32)
    plane, weight = carrier(levels)
    strength = strength * np.float32(1 / weight)
    for top in range(0, height, half):
        rows = slice(top, min(top + half, height))
        np.multiply(across[..., : rows.stop - top, :], strength[:, rows], out=change[..., rows, :])
    two = np.empty((count, height, 2, width), "<i2")  # pixels in one number
    for y, (left, right) in enumerate(np.rint(change, out=change).astype(np.int16)):
        left &= 255
        right <<= 8
        np.bitwise_or(left, right, out=two[:, :, y])
    steps = two.view(np.int8).reshape(count, 2 * height, 2 * width)
    pixels = levels[:, :, : 2 * height, : 2 * width]
    if levels.shape[1] == 4:
        steps *= pixels[:, 3] > 0  # nobody sees what is under nothing
    more = np.clip(steps, np.int8(0), np.int8(127)).view(np.uint8)
    less = more - steps.view(np.uint8)
    carried = pixels[:, plane]
    np.minimum(carried, ~more, out=carried)  # what is more than 255, or less than 0, is not
    carried += more
    np.maximum(carried, less, out=carried)
    carried -= less


def _mean(values: np.ndarray) -> np.ndarray:
    """[N, H, W] -> [N, 1, 1]."""
    return _row_mean(values.reshape(len(values), -1))[..., None]


def _tiles(own: np.ndarray, felt: np.ndarray, key: Pattern) -> np.ndarray:
    """Tiles [N, 64, 64] of variance 1, whose phases turn those of the pictures, `own` [N, 64, WAVES], as near as may be to
    the key's.

    What the score counts is the sum of cosines between both. Its gradient says where a wave of the mark helps most: where
    the picture's own is weak, and turned away (informed embedding, Miller et al. 2000). A few rounds come near the best.
    """
    own, phases = _parts(own[:, key.half]), _parts(key.phases[key.half])[:, None]
    wave = np.float32(math.sqrt(2 / phases.shape[2]))  # amplitude of one, of a tile of variance 1
    gain = felt * (wave / 2 * _passed()[key.half])  # [N, K]
    size, middle = np.sqrt(_power(own)), own.shape[2] // 2
    typical = np.partition(size, middle)[:, middle, None]
    noise = np.float32(SOFT) * typical + np.float32(0.3) * _row_mean(gain) + np.float32(1e-6)  # also where nothing is
    noise *= noise
    added = phases
    for _ in range(ROUNDS):
        both = own + gain * added
        squared = _power(both) + noise
        along = (both[0] * phases[0] + both[1] * phases[1]) / squared
        slope = (phases - both * along) * (gain / np.sqrt(squared))
        added = added + slope / np.maximum(np.sqrt(_row_mean(_power(slope))), np.float32(1e-9))
        added = added / np.sqrt(_row_mean(_power(added)))
    spectrum = np.zeros((len(felt), *key.phases.shape), np.complex64)
    spectrum[:, key.half] = (added[0] + 1j * added[1]) * wave
    return wave_sum(spectrum)


def _parts(waves: np.ndarray) -> np.ndarray:
    """Complex [...] -> f32 [2, ...]. Products of complex numbers are not rounded the same in every place of an array."""
    return np.ascontiguousarray([waves.real, waves.imag])


def _power(waves: np.ndarray) -> np.ndarray:
    return waves[0] * waves[0] + waves[1] * waves[1]


def _row_mean(values: np.ndarray) -> np.ndarray:
    """[N, K] -> [N, 1]."""
    return values.sum(1, keepdims=True) * np.float32(1 / values.shape[1])


@lru_cache(1)
def _passed() -> np.ndarray:
    """[64, WAVES]: the share of each frequency that is left when the mean of the squares around is taken off.

    Of pairs of pixels: a mean over ten, or eleven of which the outermost count half.
    """
    offsets, weights = np.arange(-AROUND, AROUND + 1), np.ones(2 * AROUND + 1) / (2 * AROUND)
    weights[[0, -1]] /= 2
    mean = np.cos(2 * math.pi * np.fft.fftfreq(PERIOD)[:, None] * offsets) @ weights
    return (1 - mean[:, None] * mean[:WAVES]).astype(np.float32)


# ── to find it again ─────────────────────────────────────────────────────────────────────────────────────────────
def score(frames: Iterable[np.ndarray], key: bytes) -> tuple[float, float] | None:
    """How many standard deviations a picture agrees with the key, and the p-value of that, all searching counted in.

    `frames`: uint8 [H, W] or [H, W, C], alpha last; those of a film, of one size, are judged together. None for a picture
    below 32 pixels. Half of the chance of a false find is spent on the picture as it stands, a quarter on one that was cut
    or mirrored, a quarter on other sizes.
    """
    levels = [_level(pixels) for pixels in frames if min(pixels.shape[:2]) >= LEAST]
    if not levels:
        return None
    marks, level = pattern(key), np.mean(levels, 0)
    spectrum = spectrum_of(folded(level))
    best = _judged(float(_agreement(spectrum, marks)[0, 0, 0, 0]), 2.0)
    if best[1] > CERTAIN:
        best = min(best, _searched(spectrum, marks), key=lambda b: b[1])
    if best[1] > CERTAIN:
        best = min(best, _searched(_resized(interlaced(level)[0]), marks), key=lambda b: b[1])
    return best


def _level(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W] or [H, W, C] -> [4, 1, H/2, W/2]: evened out."""
    levels = pixels[:LARGEST, :LARGEST]
    corners = corners_of(np.ascontiguousarray(levels[None] if levels.ndim == 2 else np.moveaxis(levels, 2, 0))[None])
    around = spread(corners)
    return evened(corners, around.mean, contrast_of(around))


def _judged(z: float, tried: float) -> tuple[float, float]:
    return z, min(1.0, tried * 0.5 * math.erfc(z / math.sqrt(2)))


def _searched(spectra: np.ndarray, key: Pattern) -> tuple[float, float]:
    """The best of all shifts of spectra [S, 64, WAVES], and of their mirror images."""
    turned = _agreement(spectra, key)
    return _judged(float(turned.max()), 4.0 * turned.size)


def _agreement(spectra: np.ndarray, key: Pattern) -> np.ndarray:
    """[2, S, 64, 64]: the score of each shift, as it is and mirrored. Frequencies that a picture has not are 0."""
    mirrored = np.roll(spectra[:, ::-1], 1, 1).conj()
    both = np.stack([spectra, mirrored])
    size = np.abs(both)
    turned = both / np.maximum(size, np.float32(1e-9)) * key.phases.conj()
    count = np.maximum(((size > 1e-9) & key.half).sum((2, 3)), 1)
    return wave_sum(turned) / np.sqrt(count / 2).astype(np.float32)[..., None, None]


def _resized(level: np.ndarray) -> np.ndarray:
    """[S, 64, WAVES]: for each size that the picture may have been changed to, the tile's frequencies in it."""
    height, width = level.shape
    top, left = max(0, height - CENTRE) // 2, max(0, width - CENTRE) // 2
    part = level[top : top + CENTRE, left : left + CENTRE]
    side = 1 << max(part.shape).bit_length()
    field = np.zeros((side, side), np.float32)
    field[: part.shape[0], : part.shape[1]] = part
    centred = np.roll(
        field, (-(part.shape[0] // 2), -(part.shape[1] // 2)), (0, 1)
    )  # phases from the middle turn least
    spectrum = np.fft.fft2(centred)
    step = max(FINEST, 2.5 / max(part.shape))  # a small picture tells sizes less well apart
    scales = np.exp(np.arange(math.log(SIZES[0]), math.log(SIZES[1]), step))
    at = np.fft.fftfreq(PERIOD) / scales[:, None]  # [S, 64] waves a pixel
    seen = np.abs(at) < 0.45
    index = np.rint(at * side).astype(int) % side
    kept = seen[:, :, None] & seen[:, None, :WAVES]
    return spectrum[index[:, :, None], index[:, None, :WAVES]] * kept
