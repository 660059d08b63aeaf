"""Which films a path holds, what each says of itself, and opening it."""

from __future__ import annotations

import importlib
import os
import re
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from genloom.data import decode
from genloom.data.files import Files, UnreadableError, shown, streams, suffix
from genloom.errors import needs_extra

_ENDINGS = "mp4 m4v mov 3gp avi mkv webm mpg mpeg mts m2ts ogv wmv flv y4m"
FILMS = frozenset(f".{ending}" for ending in _ENDINGS.split())
ANIMATED = frozenset({".gif", ".apng", ".webp"})  # pictures that may move, read by Pillow
SUFFIXES = FILMS | ANIMATED | decode.SUFFIXES
# What FFmpeg may take a file for: none of these opens another file, or an address, that the file names.
_KINDS = "mov,mp4,avi,matroska,webm,mpeg,mpegvideo,mpegts,ogg,asf,flv,yuv4mpegpipe,h264,hevc,ivf"
UNTIMED = 25.0  # frames a second of a folder of frames, which says nothing of it
STILL = 60.0  # seconds that one frame may last: a longer gap in a file's clock is a fault of it
STEADY = 0.5  # of the middle interval between frames: intervals that differ by more are of a variable rate
PROBED = 200  # frames whose times tell whether the rate varies
BROKEN = (OSError, EOFError, SyntaxError, ValueError)  # what Pillow's decoders raise


@dataclass(frozen=True)
class Reel:
    """Where a film is: a file, or the pictures of a folder in natural order of their names."""

    name: str
    files: Files
    pictures: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        return shown(self.name)


@dataclass(frozen=True)
class Header:
    """What a film says of itself, as it is to be shown: upright, its pixels square.

    `rate` (frames a second) is None for a folder of frames; `count` and `seconds` are estimates where the file tells but one.
    """

    width: int
    height: int
    rate: float | None
    count: int
    seconds: float | None
    variable: bool = False
    grey: bool = False
    matrix: tuple[int, int, int, int] = (1, 0, 0, 1)  # of the display: (x, y) is shown at (a x + c y, b x + d y)

    @property
    def turned(self) -> bool:
        return self.matrix != (1, 0, 0, 1)


# ── which films there are ────────────────────────────────────────────────────────────────────────────────────────
def reels(path: Path) -> tuple[Files, list[Reel]]:
    """The films of a folder, zip or tar, or of one file, sorted by name: files, and folders of pictures.

    Pictures beside a film (posters, thumbnails) are left alone. GIF, WebP and APNG files are films where the first of
    a folder moves. Raises UserError when the path cannot be read.
    """
    files = streams(path, SUFFIXES)
    folders: dict[str, list[str]] = defaultdict(list)
    for name in files.names:
        folders[name.rpartition("/")[0]].append(name)
    found = []
    for folder, names in folders.items():
        films = [n for n in names if suffix(n) in FILMS] or _animations(files, names)
        found += [Reel(name, files) for name in films]
        if not films:
            found.append(Reel(folder or path.resolve().name, files, tuple(sorted(names, key=natural))))
    return files, sorted(found, key=lambda reel: reel.name)


def _animations(files: Files, names: list[str]) -> list[str]:
    """The pictures that move, told by the first of them."""
    moving = [n for n in names if suffix(n) in ANIMATED]
    try:
        with files.open(moving[0]) as stream, Image.open(stream, formats=decode.FORMATS) as image:
            return moving if getattr(image, "n_frames", 1) > 1 else []
    except Exception:  # none there, or none that can be read: named when they are
        return []


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts frame2 before frame10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


# ── what a film says of itself ───────────────────────────────────────────────────────────────────────────────────
def probe(reel: Reel) -> Header:
    """Size, rate and number of frames, of which one is decoded at most. Raises UnreadableError."""
    if reel.pictures:
        return _probe_pictures(reel)
    return _probeanimation(reel) if suffix(reel.name) in ANIMATED else _probe_film(reel)


def _probe_pictures(reel: Reel) -> Header:
    why = ""
    for name in reel.pictures:
        try:
            head = decode.read_header(reel.files, name)
            return Header(head.width, head.height, None, len(reel.pictures), None, grey=head.grey)
        except UnreadableError as error:
            why = why or f"{shown(name)}: {error}"
    raise UnreadableError(why)


def _probeanimation(reel: Reel) -> Header:
    with animation(reel) as image:
        count, grey = getattr(image, "n_frames", 1), image.mode in ("1", "L", "LA")
        lasts = [duration(image, 0)]
        with suppress(*BROKEN):  # what is whole is used
            lasts += [duration(image, i) for i in range(1, min(count, PROBED))]
    seconds = sum(lasts) * count / len(lasts)
    return Header(*image.size, count / seconds, count, seconds, variable=_varies(lasts), grey=grey)


def duration(image: Image.Image, number: int) -> float:
    """Seconds that a frame of an animation is shown; browsers take a tenth for less than a fiftieth."""
    image.seek(number)
    image.load()  # before this a WebP does not say it
    lasts = float(image.info.get("duration") or 0) / 1000
    return min(lasts, STILL) if lasts >= 0.02 else 0.1


def _probe_film(reel: Reel) -> Header:
    with opened(reel) as (container, track):
        times, frame = _first(container, track)
        matrix, wide = matrix_of(frame), width_of(track)
        size = checked(round(frame.width * wide), frame.height)
        width, height = size[::-1] if matrix[1] else size
        gaps = [b - a for a, b in pairwise(sorted(times))]
        rate = _plausible(track.average_rate) or _plausible(1 / max(median(gaps), 1e-6) if gaps else 0) or UNTIMED
        seconds = _seconds(container, track)
        if container.format.name == "avi":  # of one cut short, FFmpeg guesses the length
            seconds = track.frames / rate or seconds
        count = track.frames or round((seconds or len(times) / rate) * rate)
        grey = frame.format.name.startswith(("gray", "mono"))
        return Header(width, height, rate, count, seconds, _varies(gaps), grey, matrix)


def _first(container: Any, track: Any) -> tuple[list[float], Any]:
    """The times (s) of the first frames, in the order of the file, and the first frame decoded."""
    av, times, frame = library(), list[float](), None
    packets = container.demux(track)
    while len(times) < PROBED:
        packet = None
        try:
            packet = next(packets, None)
            frames = packet.decode() if packet is not None and frame is None else []
        except (av.FFmpegError, ValueError):
            if packet is None:  # the file's own fault: there is no next packet
                break
            continue
        if packet is None:
            break
        frame = next((f for f in frames if not f.is_corrupt), frame)
        if packet.pts is not None:
            times.append(float(packet.pts * packet.time_base))
    if frame is None:
        raise UnreadableError("no frame of it can be read")
    return times, frame


def _plausible(rate: Any) -> float:
    """A rate in frames a second, or 0 for one that is a file's way of saying that it does not know."""
    return float(rate) if rate and 0.1 <= rate <= 1000 else 0.0


def _varies(gaps: list[float]) -> bool:
    return len(gaps) > 1 and max(gaps[:-1]) - min(gaps[:-1]) > STEADY * median(gaps)  # the last is often odd


def _seconds(container: Any, track: Any) -> float | None:
    if track.duration:
        return float(track.duration * track.time_base)
    return container.duration / 1e6 if container.duration and len(container.streams) == 1 else None


def width_of(track: Any) -> float:
    """How much wider than high a pixel is shown."""
    ratio = float(track.sample_aspect_ratio or 1)
    return ratio if 0.2 <= ratio <= 5 else 1.0


def checked(width: int, height: int) -> tuple[int, int]:
    if width * height > decode.MAX_PIXELS or not width * height:
        raise UnreadableError(f"its frames are {width}x{height}, and at most {decode.MAX_PIXELS / 1e6:.0f} MP are read")
    return width, height


def matrix_of(frame: Any) -> tuple[int, int, int, int]:
    """The signs of the display matrix (a, b, c, d), for quarter turns and reflections.

    A frame that was asked for it lives on until Python collects its garbage: one of a film is, the first.
    """
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            m = np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]].astype(np.float64)
            a, b, c, d = (int(s) for s in np.sign(np.round(m / max(np.abs(m).max(), 1))))
            if abs(a * d - b * c) == 1:
                return a, b, c, d
    return 1, 0, 0, 1


# ── opening it ───────────────────────────────────────────────────────────────────────────────────────────────────
@contextmanager
def animation(reel: Reel) -> Generator[Image.Image]:
    """An animated picture; errors of what is done with it are UnreadableError."""
    try:
        with reel.files.open(reel.name) as stream, Image.open(stream, formats=("GIF", "WEBP", "PNG")) as image:
            checked(*image.size)
            yield image
    except UnreadableError:
        raise
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise UnreadableError(decode.reason(error)) from error


@contextmanager
def opened(reel: Reel) -> Generator[tuple[Any, Any]]:
    """A film and its track of pictures. Raises UnreadableError, for what is done with it too."""
    av = library()
    try:
        with (
            reel.files.open(reel.name) as stream,
            av.open(stream, options={"format_whitelist": _KINDS}, metadata_errors="ignore") as container,
        ):
            tracks = [t for t in container.streams.video if not t.disposition & av.stream.Disposition.attached_pic]
            if not tracks:
                raise UnreadableError("no pictures in it" + (", sound alone" if container.streams.audio else ""))
            tracks[0].thread_type = "AUTO"
            yield container, tracks[0]
    except (av.FFmpegError, OSError, EOFError, ValueError) as error:
        raise UnreadableError("no film that can be read") from error


def decoded(container: Any, track: Any) -> Iterator[Any]:
    """Its frames, and None for each fault: what comes after one is read where it can be."""
    av, packets = library(), container.demux(track)
    while True:
        packet = None
        try:
            packet = next(packets, None)
            frames = [] if packet is None else packet.decode()
        except (av.FFmpegError, ValueError):
            yield None
            frames = []
        if packet is None:  # the end, or a fault of the file after which there is nothing
            return
        yield from (None if frame.is_corrupt else frame for frame in frames)


def library() -> ModuleType:
    """PyAV. Raises UserError where it is not installed."""
    try:
        return importlib.import_module("av")
    except ImportError:
        raise needs_extra("av", "video", "Reading and writing films") from None


def stem(name: str) -> str:
    """The name of a film without the ending of its file."""
    return os.path.splitext(name)[0] if suffix(name) in SUFFIXES else name
