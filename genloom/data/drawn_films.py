"""Films that are drawn, not filmed: digits that fly about and bounce off the borders (Srivastava et al., ICML 2015)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from genloom.core import Spec, mix
from genloom.data.catalog import Pixels
from genloom.data.film_survey import VideoOptions
from genloom.data.labels import spread
from genloom.data.shelf import Drawn
from genloom.data.video import Span, VideoSet, digest
from genloom.errors import UserError

SIDE, DIGIT = 64, 28  # pixels
LENGTH = 20  # frames of a film, unless asked for more
RATE = 10.0  # frames a second
COUNTS = {"train": 10_000, "test": 1_000}  # films
STEP = 0.1  # of the room that a digit has, a frame
KEPT = 16  # films: one is drawn in a millisecond


def taken(name: str, given: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Raises UserError for an option that films which are drawn do not take."""
    for option, value in given.items():
        if option not in allowed and value != getattr(VideoOptions, option, None):
            raise UserError(f"'{name}' is drawn, and takes {', '.join(allowed)} alone: leave {option} out.")


@dataclass(frozen=True)
class Flying:
    """So many digits at once, of those that `load` gives for a split; with one alone, its class is the label."""

    load: Callable[[str], Pixels]
    together: int

    def video(self, name: str, *, split: str, like: Spec | None, **given: Any) -> VideoSet:
        taken(name, given, ("size", "frames", "limit"))
        as_there = {"size": like.shape[2], "frames": like.shape[1]} if like else {"size": SIDE, "frames": LENGTH}
        options = VideoOptions.of(as_there | given)
        side, length, digits = options.size or SIDE, max(LENGTH, options.frames), self.load(split)
        pixels = smaller(digits.pixels[:, 0], round(DIGIT * side / SIDE))
        numbers = spread(options.limit or COUNTS[split], COUNTS[split]).tolist()
        names = [f"{number:05}" for number in numbers]
        alone = self.together == 1
        labels = [int(digits.ids[chosen(number, len(pixels), 1)[0]]) for number in numbers] if alone else []
        spans = [Span(film, i * length, (i + 1) * length) for i, film in enumerate(names)]
        extra = {"rate": RATE, "fit": "keep", "background": "black"}
        spec = Spec("video", (1, options.frames, side, side), digits.classes if alone else (), extra)
        facts = {"items": len(spans), "kind": "drawn films", "frames": len(spans) * length, "rate": RATE, "notes": []}
        return VideoSet(
            name=name,
            spec=spec,
            fingerprint=digest(digits.fingerprint, self.together, options, split),
            summary=facts,
            shelf=Drawn(lambda film: fly(pixels, numbers[film], side, length, self.together), length, KEPT),
            spans=spans,
            scenes=spans,
            classes=dict(zip(names, labels, strict=True)) if alone else {},
            shifts=split == "train",
            mirror=False,
            test=lambda: self.video(name, split="test", like=spec) if split == "train" else None,
        )


def smaller(pixels: np.ndarray, side: int) -> np.ndarray:
    """uint8 [N, side, side] of digits [N, 28, 28]."""
    if side == pixels.shape[-1]:
        return pixels
    return np.stack([np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.LANCZOS)) for p in pixels])


def chosen(number: int, count: int, together: int) -> list[int]:
    """Which of so many digits fly in the film of that number."""
    return [mix(number, i) % count for i in range(together)]


def fly(pixels: np.ndarray, number: int, side: int, length: int, together: int) -> np.ndarray:
    """uint8 [length, 1, side, side]: digits [N, d, d] that start anywhere, in any direction, and bounce."""
    film = np.zeros((length, side, side), np.uint8)
    digit, room = pixels.shape[-1], side - pixels.shape[-1]
    random = np.random.Generator(np.random.PCG64(mix(number, together)))
    for which in chosen(number, len(pixels), together):
        angle = random.uniform(0, 2 * np.pi)
        start, step = random.uniform(0, room, 2), STEP * room * np.array([np.sin(angle), np.cos(angle)])
        way = (start + np.arange(length)[:, None] * step) % (2 * room)
        for frame, (y, x) in zip(film, np.where(way > room, 2 * room - way, way).astype(int), strict=True):
            there = frame[y : y + digit, x : x + digit]
            np.maximum(there, pixels[which], out=there)
    return film[:, None]
