"""One film, a file of any kind or a folder of frames -> upright uint8 frames of one size at one rate, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from genloom.data import decode
from genloom.data.files import UnreadableError, shown, suffix
from genloom.data.film_files import (
    ANIMATED,
    BROKEN,
    STILL,
    UNTIMED,
    Header,
    Reel,
    animation,
    checked,
    decoded,
    duration,
    opened,
    probe,
    width_of,
)

LONGEST = 6 * 3600  # seconds of one film: more is a mistake or an attack
Made = TypeVar("Made")


@dataclass(frozen=True)
class Screen:
    """What every frame becomes: [channels, height, width] uint8.

    `fit` "keep" and "crop" cover it and cut off what is beyond, "pad" fills up with the background, "stretch" stretches.
    """

    height: int
    width: int
    channels: int
    fit: str = "keep"
    background: tuple[int, int, int] = (0, 0, 0)


# ── its frames ───────────────────────────────────────────────────────────────────────────────────────────────────
class Reader:
    """The frames of a film [C, H, W] uint8, one at a time, at a constant rate: at each moment the nearest in time.

    After the last, `broken` says how much of the film could be used where it could not be read to its end, or is empty.
    Iterating raises UnreadableError when not even one frame can be read.
    """

    def __init__(self, reel: Reel, screen: Screen, rate: float, header: Header | None = None, nearest: bool = False):
        self.reel, self.screen, self.rate, self.nearest = reel, screen, rate, nearest
        self.header = header or probe(reel)
        self.broken = ""

    def __iter__(self) -> Iterator[np.ndarray]:
        source = self._pictures if self.reel.pictures else self._frames
        if suffix(self.reel.name) in ANIMATED and not self.reel.pictures:
            source = self._animation
        made: np.ndarray | None = None
        last: Callable[[], np.ndarray] | None = None
        for make in steady(source(), self.rate):
            if make is not last or made is None:
                made, last = make(), make
            yield made

    def _pictures(self) -> Iterator[tuple[float, float, Callable[[], np.ndarray]]]:
        bad, number = dict[str, str](), 0
        for name in self.reel.pictures:
            try:
                frame = self._picture(name)
            except UnreadableError as error:
                bad[name] = str(error)
                continue
            yield number / self.rate, 1 / self.rate, lambda frame=frame: frame  # type: ignore[misc]
            number += 1
        if bad:
            name, why = next(iter(bad.items()))
            if not number:
                raise UnreadableError(f"{shown(name)}: {why}")
            self.broken = f"{len(bad)} of {len(self.reel.pictures)} frames cannot be read, such as {shown(name)}: {why}"

    def _picture(self, name: str) -> np.ndarray:
        try:
            with self.reel.files.open(name) as stream, Image.open(stream, formats=decode.FORMATS) as image:
                checked(*image.size)
                image.load()
                return fitted(ImageOps.exif_transpose(image), self.screen, nearest=self.nearest)
        except Exception as error:  # decoders meet hostile bytes with errors of every kind
            raise UnreadableError(decode.reason(error)) from error

    def _animation(self) -> Iterator[tuple[float, float, Callable[[], np.ndarray]]]:
        time = 0.0
        with animation(self.reel) as image:
            for number in range(self.header.count):
                try:
                    lasts = duration(image, number)
                    frame = fitted(image.copy(), self.screen, nearest=self.nearest)
                except BROKEN:
                    if not number:
                        raise
                    self.broken = f"broken off: {number} of {self.header.count} frames could be used"
                    return
                yield time, lasts, lambda frame=frame: frame  # type: ignore[misc]
                time += lasts

    def _frames(self) -> Iterator[tuple[float, float, Callable[[], np.ndarray]]]:
        clock, faults, number = _Clock(1 / (self.header.rate or UNTIMED)), 0, 0
        with opened(self.reel) as (container, track):
            wide = width_of(track)
            for frame in decoded(container, track):
                if frame is None:
                    faults += 1
                    continue
                yield *clock.show(frame), lambda frame=frame: self._shown(frame, wide)  # type: ignore[misc]
                number += 1
        if not number:
            raise UnreadableError("no frame of it can be read")
        self._note_tail(clock, faults)

    def _note_tail(self, clock: _Clock, faults: int) -> None:
        seconds, whole = clock.time + clock.lasts, self.header.seconds or 0.0
        if whole - seconds > max(0.05 * whole, 2 * clock.usual):
            self.broken = f"broken off: the first {seconds:.1f} of {whole:.1f} seconds could be used"
        elif faults:
            self.broken = f"damaged: {faults} frames cannot be read, and those before and after stand in"

    def _shown(self, frame: Any, wide: float) -> np.ndarray:
        """A decoded frame, upright and fitted."""
        checked(frame.width, frame.height)
        see_through = frame.format.name in ("rgba", "bgra", "argb", "abgr") or frame.format.name.startswith(
            ("yuva", "ya")
        )
        kind = "rgba" if see_through else "gray" if self.screen.channels == 1 else "rgb24"
        matrix = self.header.matrix
        pixels = np.ascontiguousarray(upright(frame.to_ndarray(format=kind), matrix))
        return fitted(Image.fromarray(pixels), self.screen, 1 / wide if matrix[1] else wide, self.nearest)


class _Clock:
    """The time of each frame of a file, from 0 on and always growing, and how long the frame lasts, in seconds."""

    def __init__(self, usual: float):
        self.usual = self.lasts = usual
        self.time, self.ahead = -usual, 0.0
        self.started = False

    def show(self, frame: Any) -> tuple[float, float]:
        """Raises UnreadableError for a film that goes on for too long."""
        following = self.time + self.lasts
        if not self.started:
            self.started, self.ahead = True, frame.time or 0.0
        said = following if frame.time is None else frame.time - self.ahead
        if said - self.time > STILL:
            said, self.ahead = following, self.ahead + said - following
        self.time = said if said > self.time else following
        if self.time > LONGEST:
            raise UnreadableError(f"longer than {LONGEST // 3600} hours")
        self.lasts = min(float((frame.duration or 0) * (frame.time_base or 0)) or self.usual, STILL)
        return self.time, self.lasts


def steady(timed: Iterator[tuple[float, float, Made]], rate: float) -> Iterator[Made]:
    """Of (time, how long it lasts, thing) in order of time, from 0 on: at 0, 1/rate, 2/rate ... the thing nearest in time."""
    number, before, then, end = 0, None, 0.0, 0.0
    for time, lasts, thing in timed:
        while before is not None and number / rate <= (then + time) / 2:
            yield before
            number += 1
        before, then, end = thing, time, time + lasts
    while before is not None and number < max(1, round(end * rate)):
        yield before
        number += 1


def fitted(image: Image.Image, screen: Screen, wide: float = 1.0, nearest: bool = False) -> np.ndarray:
    """A picture whose pixels are `wide` times as wide as high, on the screen: uint8 [C, H, W].

    By Lanczos after a reduction by whole factors; `nearest` keeps its values as they are (maps of labels).
    """
    if nearest and screen.channels == 1 and image.mode == "P":
        image = Image.fromarray(np.asarray(image))  # its numbers, not their colours
    image = decode.colours(image, decode.Plan(0, screen.channels, screen.fit, screen.background))
    width, height = image.width * wide, float(image.height)
    size, box = (screen.width, screen.height), (0.0, 0.0, float(image.width), float(image.height))
    if screen.fit == "pad":
        scale = min(size[0] / width, size[1] / height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
    elif screen.fit != "stretch":
        scale = max(size[0] / width, size[1] / height)
        across, down = min(size[0] / scale / wide, box[2]), min(size[1] / scale, box[3])
        left, top = (image.width - across) / 2, (height - down) / 2
        box = left, top, left + across, top + down
    if image.size != size or box != (0.0, 0.0, *map(float, image.size)):
        how = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
        image = image.resize(size, how, box, reducing_gap=None if nearest else 2.0)
    if image.size != (screen.width, screen.height):
        paper = Image.new("RGB", (screen.width, screen.height), screen.background).convert(image.mode)
        paper.paste(image, ((screen.width - image.width) // 2, (screen.height - image.height) // 2))
        image = paper
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def upright(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """[H, W] or [H, W, C] as the display matrix wants it shown: quarter turns and reflections."""
    a, b, c, d = matrix
    if b:
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: d or 1, :: a or 1]
