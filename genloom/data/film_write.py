"""Frames -> films: MP4, GIF, WebP or a folder of pictures, one frame at a time, however many they are."""

from __future__ import annotations

import colorsys
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genloom.core import Spec
from genloom.data.film_files import library
from genloom.errors import UserError, unknown
from genloom.run import cannot_write, make_folder

Form = Literal["mp4", "gif", "webp", "frames"]
QUALITY = 17  # x264's constant rate factor: what is lost cannot be seen
H264, PLAIN = "libx264", "mpeg4"
GIF_TICK = 100  # a GIF counts time in hundredths of a second
FASTEST_GIF = 50.0  # frames a second; browsers slow down what is faster


class Writer:
    """A film that grows by `add`, in memory that does not; it appears whole when the `with` block ends, or not at all.

    The ending of `path` says what it is: .mp4 (also .mov, .mkv), .gif, .webp; without one it is a folder of PNG files
    00000.png and so on, in place of those of an older film. `note` is a sentence where it is not what one might expect,
    else empty. Raises UserError for another ending, and when it cannot be written.
    """

    def __init__(self, path: Path, rate: float):
        if path.suffix and path.suffix.lower() not in _MAKERS:
            raise unknown("kind of film", path.suffix, _MAKERS)
        self.path, self.rate, self.count, self.note = path, rate, 0, ""
        self.part = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
        self.size: tuple[int, int] | None = None
        self.container: Any = None
        self.track: Any = None

    def __enter__(self) -> Writer:
        make_folder(self.path.parent if self.path.suffix else self.part)
        return self

    def add(self, frame: np.ndarray) -> None:
        """uint8 [C, H, W]: grey, RGB, with alpha (shown on white), or planes of labels (shown in colours)."""
        picture = as_picture(frame)
        if self.size not in (None, picture.shape[1:]):
            raise UserError(
                f"A film has frames of one size: {list(self.size or ())}, and not {list(picture.shape[1:])}."
            )
        self.size = picture.shape[1:]
        try:
            if not self.path.suffix:
                image = Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0))
                image.save(self.part / f"{self.count:05d}.png", "PNG", compress_level=4)
            else:
                self._encode(picture)
        except (OSError, library().FFmpegError) as error:
            raise cannot_write(self.path, error) from None
        self.count += 1

    def _encode(self, picture: np.ndarray) -> None:
        frame = _MAKERS[self.path.suffix.lower()](picture)
        if self.container is None:
            self._start(frame.height, frame.width)
        frame.pts, frame.time_base = self.count, 1 / self._exact()
        for packet in self.track.encode(frame):
            self.container.mux(packet)

    def _exact(self) -> Fraction:
        return Fraction(self.rate).limit_denominator(1001)

    def _start(self, height: int, width: int) -> None:
        av, ending = library(), self.path.suffix.lower()
        still = {".gif": ("gif", "pal8", {}), ".webp": ("libwebp_anim", "bgra", {"quality": "85"})}
        codec, pixels, options = still.get(ending) or self._film_codec()
        fast, forever = {"movflags": "+faststart"}, {"loop": "0"}
        whole = {".mp4": fast, ".mov": fast, ".gif": forever, ".webp": forever}.get(ending, {})
        self.container = av.open(str(self.part), "w", options=whole)
        self.track = self.container.add_stream(codec, rate=self._exact(), options=options)
        self.track.width, self.track.height, self.track.pix_fmt = width, height, pixels

    def _film_codec(self) -> tuple[str, str, dict[str, str]]:
        try:
            library().Codec(H264, "w")
        except ValueError:
            self.note = "This FFmpeg has no H.264 encoder: films are MPEG-4 Part 2, which browsers may not play."
            return PLAIN, "yuv420p", {"qscale": "2", "flags": "+qscale", "global_quality": str(2 * 118)}
        return H264, "yuv420p", {"crf": str(QUALITY), "preset": "medium"}

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if self.container is not None:
                if kind is None:
                    for packet in self.track.encode():
                        self.container.mux(packet)
                self.container.close()
                if kind is None:
                    os.replace(self.part, self.path)
            elif kind is None and not self.path.suffix:
                self._put_frames()
        except (OSError, library().FFmpegError) as fault:
            if kind is None:
                raise cannot_write(self.path, fault) from None
        finally:
            with suppress(OSError):
                self.part.unlink() if self.path.suffix else shutil.rmtree(self.part)

    def _put_frames(self) -> None:
        make_folder(self.path)
        for frame in self.part.iterdir():
            os.replace(frame, self.path / frame.name)
        drop_frames(self.path, self.count)


def drop_frames(folder: Path, first: int) -> None:
    """Remove the frames of a longer film that was in this folder before: those of number `first` and on."""
    for path in folder.glob("*.png"):
        if re.fullmatch(r"\d{5,}", path.stem) and int(path.stem) >= first:
            path.unlink()


def _film_frame(picture: np.ndarray) -> Any:
    even = _even(picture)
    array = even[0] if len(even) == 1 else np.ascontiguousarray(even.transpose(1, 2, 0))
    return library().VideoFrame.from_ndarray(array, format="gray" if len(even) == 1 else "rgb24")


def _gif_frame(picture: np.ndarray) -> Any:
    """Each frame has its own 256 colours."""
    image = Image.fromarray(picture[0] if len(picture) == 1 else np.ascontiguousarray(picture.transpose(1, 2, 0)))
    few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    colours = np.zeros((256, 4), np.uint8)
    palette = np.array(few.getpalette(), np.uint8).reshape(-1, 3)[:256]
    colours[: len(palette), 1:], colours[:, 0] = palette, 255  # alpha, red, green, blue
    return library().VideoFrame.from_ndarray((np.asarray(few), colours), format="pal8")


def _webp_frame(picture: np.ndarray) -> Any:
    alpha = np.full((1, *picture.shape[1:]), 255, np.uint8)
    whole = np.concatenate([*([picture] * (3 // len(picture))), alpha]).transpose(1, 2, 0)
    return library().VideoFrame.from_ndarray(np.ascontiguousarray(whole), format="rgba")


_MAKERS = {".mp4": _film_frame, ".mov": _film_frame, ".mkv": _film_frame, ".gif": _gif_frame, ".webp": _webp_frame}


def _even(picture: np.ndarray) -> np.ndarray:
    """H.264's colours are shared by squares of four pixels: an odd side repeats its last row or column."""
    _, height, width = picture.shape
    return np.pad(picture, ((0, 0), (0, height % 2), (0, width % 2)), "edge") if height % 2 or width % 2 else picture


def as_picture(frame: np.ndarray) -> np.ndarray:
    """uint8 [1 or 3, H, W] to look at: alpha on white, and planes of labels (5 or more, or 2) each in a colour of its own."""
    planes = len(frame)
    if planes in (1, 3):
        return frame
    if planes == 4:
        alpha = frame[3:].astype(np.uint16)
        return ((frame[:3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    wheel = [colorsys.hsv_to_rgb(i / planes, 0.75, 0.95 - 0.35 * (i % 2)) for i in range(planes)]
    return (np.array(wheel) * 255).astype(np.uint8)[frame.argmax(0)].transpose(2, 0, 1)


def side_by_side(*frames: np.ndarray) -> np.ndarray:
    """Frames [C, H, W] uint8 of one height as one picture [3, H, W]: the source, what was made, what is real."""
    heights = {frame.shape[1] for frame in frames}
    if len(heights) > 1:
        raise UserError(f"Films side by side have one height, and these have {', '.join(map(str, sorted(heights)))}.")
    pictures = [as_picture(frame) for frame in frames]
    return np.concatenate([np.broadcast_to(p, (3, *p.shape[1:])) for p in pictures], 2)


def as_frames(clip: Tensor) -> Iterable[np.ndarray]:
    """The frames [C, H, W] uint8 of a clip [C, T, H, W] in [-1, 1] or of levels uint8."""
    if clip.dtype != torch.uint8:
        clip = clip.detach().float().cpu().nan_to_num(0.0).clamp_(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)
    yield from clip.transpose(0, 1).numpy()


def write(
    samples: Tensor | Sequence[Tensor],
    out: Path,
    *,
    spec: Spec,
    names: Sequence[str] | None = None,
    form: str = "mp4",
) -> list[Path]:
    """A film of each clip [C, T, H, W] in [-1, 1], or of levels uint8, under these names or by number, at the Spec's rate.

    `form`: mp4, gif, webp, or frames (a folder of pictures each). Raises UserError for another, and when they cannot be
    written.
    """
    if form not in get_args(Form):
        raise unknown("form of films", form, get_args(Form))
    ending = "" if form == "frames" else f".{form}"
    paths = []
    for i, clip in enumerate(samples):
        name = names[i] if names else f"{i:04}{ending}"
        with Writer(Path(out) / name, float(spec.extra["rate"])) as film:
            for frame in as_frames(clip):
                film.add(frame)
        paths.append(film.path)
    return paths
