"""Films that are drawn, not filmed: digits that fly about and bounce (Srivastava et al., ICML 2015), and streets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from genloom.core import Spec, mix
from genloom.data.catalog import Pixels
from genloom.data.derive import palette_of
from genloom.data.files import digest
from genloom.data.film_survey import VideoOptions
from genloom.data.films import FilmOptions, FilmSet
from genloom.data.labels import spread
from genloom.data.shelf import STEP as MULTIPLE
from genloom.data.shelf import Drawn
from genloom.data.streets import COLOURS, Street
from genloom.data.video import Span, VideoSet
from genloom.errors import UserError


def taken(name: str, given: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Raises UserError for an option that films which are drawn do not take."""
    for option, value in given.items():
        if option not in allowed and value != getattr(FilmOptions, option, None):
            raise UserError(f"'{name}' is drawn, and takes {', '.join(allowed)} alone: leave {option} out.")


# ── digits ───────────────────────────────────────────────────────────────────────────────────────────────────────
SIDE, DIGIT = 64, 28  # pixels
LENGTH = 20  # frames of a film, unless asked for more
RATE = 10.0  # frames a second
COUNTS = {"train": 10_000, "test": 1_000}  # films
STEP = 0.1  # of the room that a digit has, a frame


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
        pixels = digits.pixels[:, 0]
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
            shelf=Drawn(lambda film, a, b: fly(pixels, numbers[film], side, length, self.together)[a:b], length),
            spans=spans,
            scenes=spans,
            classes=dict(zip(names, labels, strict=True)) if alone else {},
            shifts=split == "train",
            mirror=False,
            test=lambda: self.video(name, split="test", like=spec) if split == "train" else None,
        )


def chosen(number: int, count: int, together: int) -> list[int]:
    """Which of so many digits fly in the film of that number."""
    return [mix(number, i) % count for i in range(together)]


def fly(pixels: np.ndarray, number: int, side: int, length: int, together: int) -> np.ndarray:
    """uint8 [length, 1, side, side]: digits of [N, 28, 28] that start anywhere, in any direction, and bounce."""
    film = np.zeros((length, side, side), np.uint8)
    digit = round(DIGIT * side / SIDE)
    room = side - digit
    random = np.random.Generator(np.random.PCG64(mix(number, together)))
    for which in chosen(number, len(pixels), together):
        angle = random.uniform(0, 2 * np.pi)
        start, step = random.uniform(0, room, 2), STEP * room * np.array([np.sin(angle), np.cos(angle)])
        way = (start + np.arange(length)[:, None] * step) % (2 * room)
        made = np.asarray(Image.fromarray(pixels[which]).resize((digit, digit), Image.Resampling.LANCZOS))
        for frame, (y, x) in zip(film, np.where(way > room, 2 * room - way, way).astype(int), strict=True):
            there = frame[y : y + digit, x : x + digit]
            np.maximum(there, made, out=there)
    return film[:, None]


# ── streets ──────────────────────────────────────────────────────────────────────────────────────────────────────
STREET_SIDE, STREET_LENGTH, STREET_RATE = 64, 32, 12.0  # pixels, frames, frames a second
STREETS = {"train": 32, "test": 4}  # films: one is drawn in half a second, frame by frame as they are asked for


class Streets:
    """Drives through streets: maps of labels as sources, and the exact motion of each pixel, whatever teacher is asked for."""

    def films(self, name: str, *, split: str, like: Spec | None, **given: Any) -> FilmSet:
        return FilmSet(**self._facts(name, split, like, given, self.films))

    def video(self, name: str, *, split: str, like: Spec | None, **given: Any) -> VideoSet:
        """Without sources and motion."""
        facts = self._facts(name, split, like, given, self.video)
        return VideoSet(**{k: v for k, v in facts.items() if k not in ("sources", "palette", "flows")})

    def _facts(
        self, name: str, split: str, like: Spec | None, given: Mapping[str, Any], again: Callable[..., VideoSet]
    ) -> dict[str, Any]:
        taken(name, given, ("size", "frames", "limit", "mirror", "flow"))
        as_there = {"size": like.shape[2], "frames": like.shape[1]} if like else {"size": STREET_SIDE}
        options = FilmOptions.of(as_there | dict(given))
        height, length = options.size or STREET_SIDE, max(STREET_LENGTH, options.frames)
        width, total, train = height * 3 // 2 // MULTIPLE * MULTIPLE, STREETS[split], split == "train"
        numbers = [mix(train, int(i)) for i in spread(options.limit or total, total)]
        spans = [Span(f"{i:03}", i * length, (i + 1) * length) for i in range(len(numbers))]
        drives = [Street(number, height, width, length) for number in numbers]

        def rows(side: int) -> Drawn:
            return Drawn(lambda film, start, stop: drives[film].shots(start, stop)[side], length)

        palette = palette_of(",".join(COLOURS))
        extra = {"rate": STREET_RATE, "fit": "keep", "background": "black", "source": "", "serves": ["films"]}
        extra |= {"source_channels": palette.count, "palette": palette.to_json()}
        spec = Spec("video", (3, options.frames, height, width), extra=extra)
        frames = len(spans) * length
        return {
            "name": name,
            "spec": spec,
            "fingerprint": digest("streets", options, split),
            "summary": {"items": len(spans), "kind": "drawn films", "frames": frames, "rate": STREET_RATE, "notes": []},
            "shelf": rows(0),
            "spans": spans,
            "scenes": spans,
            "classes": {},
            "shifts": train,
            "mirror": options.mirror and train,
            "test": lambda: again(name, split="test", like=spec) if train else None,
            "sources": rows(1),
            "palette": palette,
            "flows": Moving(rows(2), rows(3)),
        }


@dataclass(frozen=True)
class Moving:
    """Flow and confidence that are drawn with the frames."""

    flow: Drawn
    sure: Drawn

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return self.flow.read(start, stop), self.sure.read(start, stop)
