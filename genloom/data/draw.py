"""Samples -> pictures: PNG files, sheets of many to look at, and films."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from genloom.core import Spec
from genloom.data.decode import MODES
from genloom.data.files import safe_name
from genloom.errors import UserError, unknown
from genloom.machine import in_threads
from genloom.run import atomic, put, writing

FILMS: dict[str, dict[str, Any]] = {
    ".webp": {"format": "WEBP", "quality": 80, "method": 3},
    ".gif": {"format": "GIF"},
    ".png": {"format": "PNG"},
}
PACKED = {"compress_level": 4, "compress_type": zlib.Z_RLE}  # runs alone: as small, in half the time
AT_ONCE = 1 << 20  # pixels of pictures that are written at a time
PACKED_LONG = 1 << 12  # pixels of a picture whose packing, which lets go of the GIL, is worth a thread
WALL_SIDE = 1024  # of many clips at once, at most
FILM_SIDE = 256  # smaller frames are enlarged to about that


def to_levels(samples: Tensor) -> np.ndarray:
    """[N, C, H, W] in [-1, 1] -> uint8 [N, C, H, W]: what a file holds. NaN is grey."""
    if samples.ndim != 4 or samples.shape[1] not in MODES:
        raise UserError(f"Pictures have the shape [N, C, H, W] with C of 1, 3 or 4, not {list(samples.shape)}.")
    values = samples.detach().float().cpu().numpy()
    if np.isnan(values).any():
        values = np.nan_to_num(values)
    levels = np.clip(values, -1, 1)  # by NumPy: torch would take threads in each of those that `write` has
    levels += 1
    levels *= 127.5
    np.rint(levels, out=levels)
    return levels.astype(np.uint8, order="C")  # plane by plane, also what a model made channels last


def to_bytes(samples: Tensor) -> np.ndarray:
    """[N, C, H, W] in [-1, 1] -> uint8 [N, H, W, C] (grey: [N, H, W]); the inverse of what a batch does."""
    return channels_last(to_levels(samples))


def channels_last(levels: np.ndarray) -> np.ndarray:
    """uint8 [N, C, H, W] -> [N, H, W, C] (grey: [N, H, W])."""
    if levels.shape[1] == 1:
        return levels[:, 0]
    pixels = np.empty((len(levels), *levels.shape[2:], levels.shape[1]), np.uint8)
    for c in range(levels.shape[1]):  # quicker than all axes turned at once
        pixels[..., c] = levels[:, c]
    return pixels


def write(
    samples: Tensor,
    folder: Path,
    *,
    start: int = 0,
    labels: Tensor | None = None,
    spec: Spec | None = None,
    names: Sequence[str] | None = None,
    changed: Callable[[np.ndarray], np.ndarray] | None = None,
    sealed: Callable[[bytes, int, str], bytes] | None = None,
) -> list[Path]:
    """Save [N, C, H, W] in [-1, 1] as 00000.png and so on from `start`, or under the names [N] given.

    With labels they go into a folder for each class. `changed` makes others of the levels (uint8 [n, C, H, W]) of a few
    samples, `sealed` of the bytes of picture i and its name those of its file.

    What is written can be trained on again. Each file appears whole or not at all. Raises UserError when it cannot.
    """
    classes = spec.classes if spec else ()

    def place(i: int) -> Path:
        into = Path(folder)
        if labels is not None:
            number = int(labels[i])
            into /= safe_name(classes[number]) if number < len(classes) else str(number)
        return into / (names[i] if names else f"{start + i:05d}.png")

    def put_some(row: tuple[int, Tensor]) -> list[Path]:
        first, levels = row[0], to_levels(row[1])
        if changed:
            with turn:
                levels = changed(levels)
        files = [packed(pixels) for pixels in channels_last(levels)]
        paths = [place(first + i) for i in range(len(files))]
        if sealed:  # one after another and nothing between: the code of a signature stays in the processor's cache
            with turn:
                files = [sealed(data, first + i, paths[i].name) for i, data in enumerate(files)]
        for path, data in zip(paths, files, strict=True):
            put(path, data)
        return paths

    turn = Lock()  # what keeps the GIL for most of its time is slower in two threads than in one
    size = max(1, samples.shape[-2] * samples.shape[-1])
    counts = _shares(len(samples), AT_ONCE // size, os.cpu_count() or 1)
    rows = list(zip(accumulate(counts, initial=0), samples.split(counts), strict=False))
    with writing(Path(folder)):
        written = in_threads(put_some, rows) if size >= PACKED_LONG else map(put_some, rows)
        return [path for paths in written for path in paths]


def _shares(count: int, most: int, threads: int) -> list[int]:
    """How many of so many pictures are written at a time: fewer at first, so that threads do not all wait for what one alone
    may do, and at last, so that they end together."""
    few, shares, left = max(1, most // 4), list[int](), count
    while left:
        fair = -(-left // threads)
        shares.append(min(left, max(few, min(most, fair))) if shares else min(few, fair))
        left -= shares[-1]
    return shares


def packed(pixels: np.ndarray) -> bytes:
    """uint8 [H, W] or [H, W, C] -> a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **PACKED)
    return file.getvalue()


def preview(samples: Tensor, columns: int = 8) -> Image.Image:
    """A sheet of the samples [N, C, H, W] in [-1, 1], small ones enlarged without blur, two pixels apart."""
    array = to_bytes(samples)
    count, height, width = array.shape[:3]
    zoom, gap = max(1, 56 // max(height, width)), 2
    array = array.repeat(zoom, axis=1).repeat(zoom, axis=2)
    height, width = height * zoom + gap, width * zoom + gap
    columns = max(1, min(columns, count))
    mode = MODES[samples.shape[1]]
    paper = (255, 255, 255, 0) if mode == "RGBA" else "white"
    sheet = Image.new(mode, (columns * width + gap, -(-count // columns) * height + gap), paper)
    for i, pixels in enumerate(array):
        sheet.paste(Image.fromarray(pixels), (gap + i % columns * width, gap + i // columns * height))
    return sheet


def picture(sample: Tensor) -> Image.Image:
    """One sample [C, H, W] in [-1, 1], pixel for pixel."""
    return Image.fromarray(to_bytes(sample[None])[0])


def save(sheet: Image.Image, path: Path, **options: Any) -> Path:
    """Write a picture; folders are made. The file appears whole or not at all. Raises UserError when it cannot."""
    with atomic(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(temporary, **options)
    return path


def save_film(frames: Tensor, path: Path, milliseconds: int = 40) -> Path:
    """An endless film of [N, C, H, W] in [-1, 1], small ones enlarged without blur: .webp, .gif, or animated .png.

    Raises UserError for another ending, and when it cannot be written.
    """
    array = to_bytes(frames)
    zoom = max(1, FILM_SIDE // max(array.shape[1:3]))
    return _animate([Image.fromarray(pixels.repeat(zoom, 0).repeat(zoom, 1)) for pixels in array], path, milliseconds)


def strips(clips: Tensor, most: int = 8) -> Tensor:
    """Each clip [N, C, T, H, W] in [-1, 1] as one picture: up to `most` of its frames, evenly spaced, from left to right."""
    some = torch.linspace(0, clips.shape[2] - 1, min(most, clips.shape[2])).round().long()
    frames = [F.pad(clips[:, :, t].float(), (0, 2 * (i < len(some) - 1)), value=1.0) for i, t in enumerate(some)]
    return torch.cat(frames, 3)


def save_wall(clips: Tensor, path: Path, rate: float, columns: int = 4) -> Path:
    """Clips [N, C, T, H, W] in [-1, 1] side by side and all moving, at `rate` frames a second: an endless film."""
    walls = [preview(clips[:, :, t], columns).convert("RGB") for t in range(clips.shape[2])]
    for wall in walls:
        wall.thumbnail((WALL_SIDE, WALL_SIDE), Image.Resampling.LANCZOS)
    return _animate(walls, path, max(20, round(1000 / rate)))


def _animate(frames: Sequence[Image.Image], path: Path, milliseconds: int) -> Path:
    first, *rest = frames
    return save(first, path, **film_format(path), save_all=True, append_images=rest, duration=milliseconds, loop=0)


def film_format(path: Path) -> dict[str, Any]:
    """Pillow's options for a film of this name. Raises UserError for an ending that is none of a film."""
    if path.suffix.lower() not in FILMS:
        raise unknown("film format", path.suffix, FILMS)
    return FILMS[path.suffix.lower()]
