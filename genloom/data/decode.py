"""One picture: its bytes -> uint8 [C, S, S], whatever its size, mode, depth or rotation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from genloom.data.files import READING, Files, UnreadableError
from genloom.machine import in_threads

K = TypeVar("K")
R = TypeVar("R")

# Only formats whose decoders run no other program and unpack nothing else.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
_ENDINGS = "png apng jpg jpeg jpe jfif webp bmp dib gif tif tiff ppm pgm pbm pnm jp2 avif"
SUFFIXES = frozenset(f".{ending}" for ending in _ENDINGS.split())
MAX_PIXELS = 89_478_485  # Pillow's own limit: 340 MB once decoded. A JPEG is decoded smaller, so it may be larger.
TOO_LARGE = f"larger than {MAX_PIXELS / 1e6:.0f} megapixels"
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
PIECE = 32  # pictures that a thread decodes at a time: a task costs as much as a small one


@dataclass(frozen=True)
class Plan:
    """What every picture becomes: [channels, size, size] uint8."""

    size: int
    channels: int
    fit: str
    background: tuple[int, int, int]


@dataclass(frozen=True)
class Header:
    """What the first bytes of a file say, the picture upright."""

    width: int
    height: int
    mode: str
    format: str
    grey: bool
    alpha: bool


def reason(error: Exception) -> str:
    """A decoder's complaint in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    if isinstance(error, Image.DecompressionBombError):
        return TOO_LARGE
    if isinstance(error, FileNotFoundError):
        return "the file is gone"
    return " ".join(str(error).split())[:120] or type(error).__name__


def read_each(work: Callable[[K], R], items: Sequence[K], bad: dict[K, str]) -> Iterator[tuple[K, R]]:
    """Each item with what the work makes of it, in order, by threads; `bad` says why others cannot be read."""

    def attempt(item: K) -> R | Exception:
        try:
            return work(item)
        except READING as error:
            return error

    for item, made in zip(items, in_threads(attempt, items, PIECE), strict=True):
        if isinstance(made, Exception):
            bad[item] = str(made)
        else:
            yield item, made


def read_header(files: Files, name: str) -> Header:
    """Size, mode and format without decoding. Raises UnreadableError."""
    with _opened(files, name) as image:
        width, height = image.size
        early = image.format != "PNG" or "exif" in image.info  # else asking for it decodes: it may come last
        if early and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5:
            width, height = height, width
        return Header(width, height, image.mode, image.format or "", _is_grey(image), image.has_transparency_data)


def decode(files: Files, name: str, plan: Plan) -> np.ndarray:
    """The picture as uint8 [C, S, S]. Raises UnreadableError."""
    with _opened(files, name) as image:
        if image.format == "JPEG":
            _reduce(image, plan)
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableError(TOO_LARGE)
        image.load()
        if image.format != "PNG" or "exif" in image.info:  # most have none, and asking takes as long as a small picture
            ImageOps.exif_transpose(image, in_place=True)
        return fit(colours(image, plan), plan)


@contextmanager
def _opened(files: Files, name: str) -> Iterator[Image.Image]:
    """The picture, not yet decoded. Raises UnreadableError, for what is done with it too."""
    try:
        with files.open(name) as stream:
            jpeg = stream.read(3) == b"\xff\xd8\xff"
            stream.seek(0)
            # a JPEG goes past Pillow's size check: draft decodes a large one small
            yield JpegImagePlugin.JpegImageFile(stream) if jpeg else Image.open(stream, formats=FORMATS)
    except Exception as error:  # decoders meet hostile bytes with errors of every kind
        raise UnreadableError(reason(error)) from error


def _reduce(image: Image.Image, plan: Plan) -> None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 where that leaves twice the wanted pixels, and grey from its luma."""
    if image.info.get("progressive") and image.width * image.height > MAX_PIXELS:
        raise UnreadableError(f"progressive and {TOO_LARGE}")  # held whole, at any scale
    longest = 2 * plan.size if plan.fit == "pad" else 2 * plan.size * max(image.size) // max(min(image.size), 1)
    scale = max(image.size) / longest
    grey = plan.channels == 1 and image.mode == "RGB"
    image.draft("L" if grey else image.mode, (max(1, int(image.width / scale)), max(1, int(image.height / scale))))


def _is_grey(image: Image.Image) -> bool:
    if image.mode != "P":
        return Image.getmodebase(image.mode) == "L"
    palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def colours(image: Image.Image, plan: Plan) -> Image.Image:
    """8 bits a channel in the wanted mode; what is see-through shows the background, unless alpha is kept."""
    image = eight_bits(image)
    mode = MODES[plan.channels]
    if mode != "RGBA" and image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (*plan.background, 255))
        image = Image.alpha_composite(canvas, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def eight_bits(image: Image.Image) -> Image.Image:
    """Scale deep greys by the range their type is used for (0..1, 0..255, 16 or 31 bits): none is clipped."""
    if not image.mode.startswith(("I", "F")):  # I, F, I;16 and its kin
        return image
    values = np.asarray(image).astype(np.float64)
    top = float(np.nan_to_num(values, posinf=0).max(initial=0))
    ranges = (1, 255, 65535) if image.mode == "F" else (65535, 2**31 - 1)
    full = next((r for r in ranges if top <= r), top)
    scaled = np.nan_to_num(values).clip(0, full) * (255 / full)
    return Image.fromarray((scaled + 0.5).astype(np.uint8))


def fit(image: Image.Image, plan: Plan) -> np.ndarray:
    """Make it square by cropping the centre, padding or stretching, and resize (Lanczos): uint8 [C, S, S]."""
    size, (width, height) = plan.size, image.size
    inner, box = (size, size), None
    if plan.fit == "pad":
        scale = size / max(width, height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
    elif plan.fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = left, top, left + side, top + side
    if image.size != inner:
        image = image.resize(inner, Image.Resampling.LANCZOS, box, reducing_gap=3.0)
    if inner != (size, size):
        # see-through if that is kept
        paper = Image.new("RGBA", (size, size), (*plan.background, 0)).convert(image.mode)
        paper.paste(image, ((size - inner[0]) // 2, (size - inner[1]) // 2))
        image = paper
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))
