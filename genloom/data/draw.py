"""Samples -> pictures: PNG files, sheets of many to look at, and films."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
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
from genloom.run import atomic, writing

FILMS: dict[str, dict[str, Any]] = {
    ".webp": {"format": "WEBP", "quality": 80, "method": 3},
    ".gif": {"format": "GIF"},
    ".png": {"format": "PNG"},
}
WALL_SIDE = 1024  # of many clips at once, at most
FILM_SIDE = 256  # smaller frames are enlarged to about that


def to_bytes(samples: Tensor) -> np.ndarray:
    """[N, C, H, W] in [-1, 1] -> uint8 [N, H, W, C] (grey: [N, H, W]); the inverse of what a batch does."""
    if samples.ndim != 4 or samples.shape[1] not in MODES:
        raise UserError(f"Pictures have the shape [N, C, H, W] with C of 1, 3 or 4, not {list(samples.shape)}.")
    scaled = samples.detach().float().cpu().nan_to_num(0.0).clamp(-1, 1).add(1).mul(127.5).round()
    array = scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return array[..., 0] if array.shape[-1] == 1 else array


def write(
    samples: Tensor,
    folder: Path,
    *,
    start: int = 0,
    labels: Tensor | None = None,
    spec: Spec | None = None,
    names: Sequence[str] | None = None,
) -> list[Path]:
    """Save [N, C, H, W] in [-1, 1] as 00000.png and so on from `start`, or under the names [N] given.

    With labels they go into a folder for each class.

    What is written can be trained on again. Each file appears whole or not at all. Raises UserError when it cannot.
    """
    classes = spec.classes if spec else ()

    def place(i: int) -> Path:
        into = Path(folder)
        if labels is not None:
            number = int(labels[i])
            into /= safe_name(classes[number]) if number < len(classes) else str(number)
        return into / (names[i] if names else f"{start + i:05d}.png")

    def put(row: tuple[np.ndarray, Path]) -> None:
        pixels, path = row
        part = path.with_name(f".{path.name}.{os.getpid()}")
        Image.fromarray(pixels).save(part, "PNG", compress_level=4)
        os.replace(part, path)

    paths = [place(i) for i in range(len(samples))]
    with writing(Path(folder)):
        for parent in {path.parent for path in paths}:
            parent.mkdir(parents=True, exist_ok=True)
        list(in_threads(put, list(zip(to_bytes(samples), paths, strict=True))))
    return paths


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
