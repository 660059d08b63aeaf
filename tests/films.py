"""Films to test with, made in place."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image


def moving(count: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """uint8 [n, 3, H, W]: a smooth ground over which a bright square goes, and a code of the frame's number.

    The top left 8x8 block is as bright as 8 * (number % 32): a frame can be told after lossy compression.
    """
    y, x = np.mgrid[:height, :width]
    ground = np.stack([60 + 40 * np.sin(x / 9 + seed), 90 + 0 * x, 60 + 40 * np.cos(y / 7 + seed)])
    film = np.repeat(ground[None], count, 0)
    for t in range(count):
        left = 10 + t % (width - 20)
        film[t, :, height // 2 : height // 2 + 8, left : left + 8] = 230
        film[t, :, :8, :8] = 8 * (t % 32)
    return film.astype(np.uint8)


def numbers(frames: np.ndarray) -> list[int]:
    """The code of each frame [n, C, H, W] of a film that `moving` made, at its own size."""
    return [round(float(f[:, 1:6, 1:6].mean()) / 8) for f in frames]


def save(
    path: Path,
    frames: np.ndarray,
    rate: float = 25,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: list[int] | None = None,
    turn: int = 0,
    wide: Fraction | None = None,
    sound: bool = False,
    **options: str,
) -> Path:
    """Write uint8 [n, 3, H, W]; `times` in hundredths of a second make the rate vary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    best = {"crf": "10", "preset": "ultrafast", "bf": "0", "g": "12"} if codec == "libx264" else {}
    with av.open(str(path), "w", options={k: v for k, v in options.items() if k == "movflags"}) as container:
        exact = Fraction(rate).limit_denominator(1001)
        track: Any = container.add_stream(codec, rate=exact, options=best)
        track.height, track.width, track.pix_fmt = *frames.shape[2:], pixels
        if codec != "libx264":
            track.bit_rate = 4_000_000
        if wide:
            track.codec_context.sample_aspect_ratio = wide
        if turn:
            track.set_display_rotation(turn)
        if times:
            track.codec_context.time_base = Fraction(1, 100)
        for i, pixel in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixel.transpose(1, 2, 0)), format="rgb24")
            frame.pts, frame.time_base = (times[i], Fraction(1, 100)) if times else (i, 1 / exact)
            container.mux(track.encode(frame))
        container.mux(track.encode())
    return path


def save_frames(folder: Path, frames: np.ndarray, name: str = "frame{}.png") -> Path:
    """Write each frame as a picture: frame1.png, frame2.png ... frame10.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(frames):
        Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(folder / name.format(i + 1))
    return folder


def save_animation(path: Path, frames: np.ndarray, lasts: list[int] | int = 40, **options: Any) -> Path:
    """Write an animated GIF, WebP or APNG by Pillow; `lasts` in milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = [Image.fromarray(np.ascontiguousarray(f.transpose(1, 2, 0))) for f in frames]
    kind = {".gif": "GIF", ".webp": "WEBP"}.get(path.suffix, "PNG")
    first.save(path, kind, save_all=True, append_images=rest, duration=lasts, loop=0, **options)
    return path
