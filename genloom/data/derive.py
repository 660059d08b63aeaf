"""Sources made from the frames that they are to become: edges, grey, blurred and the like; and maps of labels."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genloom.data.detect import FILES, detecting
from genloom.data.motion import opencv
from genloom.errors import UserError, unknown

SMOOTH, WEAK, STRONG = 1.0, 40, 110  # edges: pixels that noise is smoothed over; slopes that go on, and that begin one
BLUR = 32  # the shorter side over this is the blur's standard deviation
SMALL = 4  # times smaller
JPEG = 8  # quality, of 100
MOST = 64  # labels
# What there is, and how many planes it has; 0: as many as the frame.
DERIVED = {"edges": 1, "grey": 1, "blurred": 0, "small": 0, "compressed": 0, "landmarks": 1, "pose": 1}


def channels_of(name: str, channels: int) -> int:
    """How many planes a source of that name has. Raises UserError for a name that is none."""
    if name not in DERIVED:
        raise unknown("source made from films", name, DERIVED)
    return DERIVED[name] or channels


@contextmanager
def deriving(name: str, detector: str = "") -> Generator[Callable[[np.ndarray], np.ndarray]]:
    """What makes the source uint8 [C', H, W] of a frame uint8 [C, H, W]; each frame's own, whatever is beside it.

    `detector`: the file of what finds landmarks or a pose. Raises UserError where a library is missing.
    """
    if name in FILES:
        with detecting(name, detector) as make:
            yield make
    else:
        yield partial(derive, name)


def derive(name: str, frame: np.ndarray) -> np.ndarray:
    """A source that takes nothing but the frame."""
    if name == "edges":
        return edges(frame)
    image = Image.fromarray(frame[0] if len(frame) == 1 else np.ascontiguousarray(frame.transpose(1, 2, 0)))
    if name == "grey":
        made = image.convert("L")
    elif name == "blurred":
        made = _blurred(image, min(image.size) / BLUR)
    elif name == "small":
        little = image.resize((image.width // SMALL, image.height // SMALL), Image.Resampling.BOX)
        made = little.resize(image.size, Image.Resampling.BICUBIC)
    else:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=JPEG)
        made = Image.open(buffer, formats=("JPEG",))
    array = np.asarray(made)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _blurred(image: Image.Image, deviation: float) -> Image.Image:
    return Image.fromarray(opencv().GaussianBlur(np.asarray(image), (0, 0), deviation))


def edges(frame: np.ndarray) -> np.ndarray:
    """Canny's edges (PAMI 1986), white on black: uint8 [1, H, W] of [C, H, W]."""
    cv2 = opencv()
    grey = (
        frame[0]
        if len(frame) == 1
        else cv2.cvtColor(np.ascontiguousarray(frame.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY)
    )
    found: np.ndarray = cv2.Canny(cv2.GaussianBlur(grey, (0, 0), SMOOTH), WEAK, STRONG, L2gradient=True)
    return found[None]


# ── maps of labels ───────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Palette:
    """What the values of a map of labels mean: its colours, or None where they are the numbers 0 to count - 1 themselves."""

    count: int
    colours: tuple[tuple[int, int, int], ...] | None = None

    @property
    def channels(self) -> int:
        """Of the pictures that hold the labels."""
        return 3 if self.colours else 1

    def numbers(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [1, H, W], the label of each pixel of [channels, H, W]: that of the nearest colour; 255 for no label."""
        if self.colours is None:
            return np.where(frame < self.count, frame, 255).astype(np.uint8)
        away = frame[None].astype(np.int32) - np.array(self.colours, np.int32)[:, :, None, None]
        return np.square(away).sum(1).argmin(0).astype(np.uint8)[None]

    def planes(self, numbers: np.ndarray) -> np.ndarray:
        """uint8 [..., count, H, W] of labels [..., 1, H, W]: 255 in the plane of the label, 0 elsewhere."""
        return ((numbers == np.arange(self.count, dtype=np.uint8)[:, None, None]) * np.uint8(255)).astype(np.uint8)

    def to_json(self) -> Any:
        return self.count if self.colours is None else ["#{:02x}{:02x}{:02x}".format(*c) for c in self.colours]


def palette_of(given: str | int | list[str]) -> Palette:
    """A number of labels (pixels hold 0, 1 ...), colours such as "#000000,#804080", or a file with a colour a line.

    Raises UserError for what is none of these.
    """
    from genloom.data.film_survey import colour

    text = str(given).strip() if not isinstance(given, list) else ",".join(given)
    if text.isdecimal():
        if not 2 <= int(text) <= MOST:
            raise UserError(f"A palette has 2 to {MOST} labels, not {text}.")
        return Palette(int(text))
    if "," not in text and not text.startswith("#"):
        try:
            text = ",".join(Path(text).expanduser().read_text("utf-8").split())
        except (OSError, UnicodeDecodeError):
            raise UserError(
                f"The palette '{given}' is no file: give a number of labels, colours such as #000000,#804080, or a file "
                "with a colour a line."
            ) from None
    colours = tuple(colour(word) for word in text.split(",") if word)
    if not 2 <= len(set(colours)) <= MOST:
        raise UserError(f"A palette has 2 to {MOST} colours that differ, and this has {len(set(colours))}.")
    return Palette(len(colours), colours)
