"""Pictures as a watermark looks at them: brightness evened out, and folded into one tile, whose frequencies are judged.

Of all squares of 2 x 2 pixels the corners are four arrays, [4, N, H, W]: what is asked of squares is a sum of these, in long
loops, which are quick. What is computed of a picture does not depend on those beside it, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

PERIOD = 64  # pixels of a tile's side
BAND = (4.0, 18.0)  # waves in a tile: JPEG takes what is finer, and what is coarser drowns in the picture
WAVES = int(BAND[1]) + 1  # from left to right, 0 and on
GREEN = 3.0  # times as much as red or blue it counts in brightness, as to the eye and to JPEG
LEVEL = 2.0 + GREEN  # of 256, in brightness
AROUND = 5  # side of the area that brightness and contrast are taken over, in squares of 2 x 2 pixels
GROUND = 3.0 * LEVEL  # a floor of the contrast


def painted(levels: np.ndarray) -> int:
    """How many planes of uint8 [N, C, H, W] are colours: what else there is is alpha."""
    return 3 if levels.shape[1] >= 3 else 1


def carrier(levels: np.ndarray) -> tuple[int, float]:
    """Which plane of uint8 [N, C, H, W] carries the mark, and how much a level of it counts in brightness.

    Green alone, with the strength of all three: what is smooth in red and blue stays so, and quick to write as PNG.
    """
    return (1, GREEN) if painted(levels) == 3 else (0, LEVEL)


def corners_of(levels: np.ndarray) -> np.ndarray:
    """uint8 [N, C, H, W], alpha last -> brightness f32 [4, N, H/2, W/2]: of all squares of 2 x 2 pixels the upper left
    ones, the upper right, the lower left, the lower right.

    An odd last row or column is left out.
    """
    count, shown = len(levels), painted(levels)
    height, width = levels.shape[2] // 2, levels.shape[3] // 2
    two = levels[:, :shown, : 2 * height, : 2 * width].view("<u2")  # pixels in one number
    plane, weight = carrier(levels)
    right, both = (values * np.uint16(weight) for values in (two[:, plane] >> 8, two[:, plane]))
    for other in set(range(shown)) - {plane}:
        right += two[:, other] >> 8
        both += two[:, other]  # what is more than 65,535 goes round, and comes back
    corners = np.empty((2, 2, count, height, width), np.float32)
    for x, bright in enumerate((both - (right << 8), right)):
        for y in range(2):
            corners[y, x] = bright[:, y::2]
    return corners.reshape(4, count, height, width)


def interlaced(corners: np.ndarray) -> np.ndarray:
    """[4, N, H, W] -> [N, 2 H, 2 W]."""
    _, count, height, width = corners.shape
    whole = np.empty((count, height, 2, width, 2), np.float32)
    for i, corner in enumerate(corners):
        whole[:, :, i // 2, :, i % 2] = corner
    return whole.reshape(count, 2 * height, 2 * width)


def evened(corners: np.ndarray, mean: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """[4, N, H, W], which is changed, with brightness and contrast [N, H, W] evened out."""
    corners -= mean
    corners *= 1 / contrast
    return corners


def contrast_of(around: Spread) -> np.ndarray:
    return np.sqrt(around.variance) + np.float32(GROUND)


def doubled(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """[N, H/2, W/2] -> [N, H, W], each value for its pair; an odd last row or column is as the one before."""
    rows = np.empty((*values.shape[:2], width), np.float32)
    rows[..., 0 : width // 2 * 2 : 2] = rows[..., 1::2] = values
    rows[..., width // 2 * 2 :] = values[..., -1:]
    return rows.take(np.minimum(np.arange(height) // 2, values.shape[1] - 1), 1)


def folded(level: np.ndarray) -> np.ndarray:
    """[4, N, H, W] -> [N, 64, 64]: all tiles of each laid one upon another."""
    side = PERIOD // 2
    _, count, height, width = level.shape
    if height % side or width % side:
        level = np.pad(level, ((0, 0), (0, 0), (0, -height % side), (0, -width % side)))
    rows = level.reshape(4, count, -1, side, level.shape[3]).sum(2)
    columns = rows.reshape(4, count, side, -1, side)
    return interlaced(summed(columns[:, :, :, i] for i in range(columns.shape[3])))


def spectrum_of(tile: np.ndarray) -> np.ndarray:
    """[N, 64, 64] -> [N, 64, WAVES]."""
    return np.fft.fft(np.fft.rfft(tile)[..., :WAVES], axis=-2)


def wave_sum(halves: np.ndarray) -> np.ndarray:
    """[..., 64, 64]: the sum of the waves [..., 64, WAVES] of the half-plane, each with its amplitude and phase."""
    whole = halves.copy()
    whole[..., 0, 0] += halves[..., 0, 0].conj()
    whole[..., 1:, 0] += halves[..., :0:-1, 0].conj()
    return np.fft.irfft(np.fft.ifft(whole, axis=-2), PERIOD) * np.float32(PERIOD**2 / 2)


class Spread(NamedTuple):
    """Of the square around each place, [N, H, W]."""

    mean: np.ndarray
    variance: np.ndarray


def spread(corners: np.ndarray) -> Spread:
    """Over AROUND x AROUND squares of 2 x 2 pixels, of brightness [4, N, H, W], which goes on mirrored."""
    line, shape = _mirrored(summed(corners), summed(corner * corner for corner in corners), AROUND // 2)
    return _spread(_fives(_fives(line, shape[-1]), 1), shape, AROUND, 4)


def coarse_spreads(corners: np.ndarray) -> tuple[np.ndarray, Spread]:
    """Of cells of 4 x 4 pixels, [N, H/2, W/2], from brightness [4, N, H, W]: the least variance of the four squares of
    2 x 2 cells that each is in, so that edges do not count for what is flat beside them; and over 3 x 3 cells.

    Four pixels of each cell, far from each other, are looked at. An odd last row or column is left out.
    """
    height, width = (side // 2 * 2 for side in corners.shape[2:])
    one, other = corners[0, :, :height:2, :width], corners[3, :, 1:height:2, :width]
    line, shape = _mirrored(_paired(one + other), _paired(one * one + other * other), 1)
    row = shape[-1]
    two = line[:-row] + line[row:]
    three = two[:-row] + line[2 * row :]
    nine = three[:-2] + three[1:-1]
    nine += three[2:]
    near = _spread(two[:-1] + two[1:], shape, 2, 4).variance
    least = np.minimum(near[:, :-1], near[:, 1:])
    return np.minimum(least[..., :-1], least[..., 1:]), _spread(nine, shape, 3, 4)


def _paired(values: np.ndarray) -> np.ndarray:
    """[N, H, W] -> [N, H, W/2]: the sums of two."""
    return values[..., ::2] + values[..., 1::2]


def _mirrored(sums: np.ndarray, squares: np.ndarray, more: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Two [N, H, W] that go on mirrored for `more` places on all sides, in one line, in which sums go on across the ends of
    rows, and the shape [2, N, H', W'] of that."""
    count, height, width = sums.shape
    padded = np.empty((2, count, height + 2 * more, width + 2 * more), np.float32)
    padded[:, :, more:-more, more:-more] = sums, squares
    for lines in (np.moveaxis(padded, 3, 0), np.moveaxis(padded, 2, 0)):
        lines[:more] = lines[2 * more : more : -1]
        lines[-more:] = lines[-more - 2 : -2 * more - 2 : -1]
    return padded.reshape(-1), padded.shape


def _fives(line: np.ndarray, step: int) -> np.ndarray:
    """The sums of five numbers, each a step after another."""
    two = line[:-step] + line[step:]
    five = two[: -3 * step] + two[2 * step : -step]
    five += line[4 * step :]
    return five


def _spread(sums: np.ndarray, shape: tuple[int, ...], side: int, pixels: int) -> Spread:
    """From the sums over squares of side² places, of so many pixels each, that begin at each place of an array of this shape
    as far as there are, and then those of squares."""
    whole, share = np.empty(shape, np.float32), np.float32(1 / (pixels * side**2))
    mean, variance = whole.reshape(2, -1)
    sums, squares = sums[: mean.size], sums[mean.size :]
    variance = variance[: squares.size]
    np.multiply(sums, share, out=mean)
    np.multiply(mean[: squares.size], mean[: squares.size], out=variance)
    np.subtract(squares * share, variance, out=variance)
    inner = slice(1 - side)
    return Spread(whole[0, :, inner, inner], np.abs(whole[1, :, inner, inner]))  # below 0 by rounding alone


def summed(values: Iterable[np.ndarray]) -> np.ndarray:
    values = iter(values)
    total = next(values).copy()
    for more in values:
        total += more
    return total
