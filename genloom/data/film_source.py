"""Films that a model starts from, frame by frame as they are read: nothing is held, however long they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom.core import Spec
from genloom.data.derive import Palette, deriving, palette_of
from genloom.data.files import READING, names_for
from genloom.data.film import Reader, Screen
from genloom.data.film_files import Header, Reel, probe
from genloom.data.film_survey import colour, films_in
from genloom.errors import UserError


@dataclass
class SourceFilm:
    """A film as sources: iterating gives each frame [1, C', H, W] f32 in [-1, 1]; `count` is what its header tells.

    Iterating raises UserError where it cannot be read; after it `broken` says how much could be used, where not all.
    """

    name: str
    rate: float
    reel: Reel
    header: Header
    spec: Spec
    broken: str = ""

    @property
    def count(self) -> int:
        return max(1, round(self.header.count * (self.rate / self.header.rate if self.header.rate else 1)))

    def frames(self) -> Iterator[np.ndarray]:
        """Each frame uint8 [C', H, W]."""
        extra, (channels, _, height, width) = self.spec.extra, self.spec.shape
        kind = extra.get("source", "")
        palette = palette_of(extra["palette"]) if extra.get("palette") else None
        given = channels if kind else palette.channels if palette else int(extra.get("source_channels", channels))
        screen = Screen(height, width, given, extra.get("fit", "keep"), colour(extra.get("background", "black")))
        reader = Reader(self.reel, screen, self.rate, self.header, nearest=palette is not None)
        with deriving(kind, extra.get("detector", "")) if kind else nullcontext(_planes(palette)) as make:
            try:
                yield from map(make, reader)
            except READING as error:
                raise UserError(f"'{self.reel.shown}' cannot be read: {error}.") from None
        self.broken = reader.broken

    def __iter__(self) -> Iterator[Tensor]:
        for frame in self.frames():
            yield torch.from_numpy(frame.astype(np.float32))[None] / 127.5 - 1


def _planes(palette: Palette | None) -> Callable[[np.ndarray], np.ndarray]:
    return (lambda frame: palette.planes(palette.numbers(frame))) if palette else (lambda frame: frame)


def read_sources(path: Path, spec: Spec, **_: Any) -> tuple[list[SourceFilm], list[str]]:
    """The films of one file, or of a folder, zip or tar, to be read as sources at the Spec's size and rate, and names of
    results. Where the Spec's sources are made from targets (edges ...), they are made from these.

    Raises UserError for a film that cannot be read.
    """
    if not path.exists():
        raise UserError(f"There is nothing at '{path}': check the path of --source.")
    found = films_in(path)[1]
    rate, films = float(spec.extra["rate"]), []
    for reel in found:
        try:
            films.append(SourceFilm(reel.shown, rate, reel, probe(reel), spec))
        except READING as error:
            raise UserError(f"'{reel.shown}' in '{path}' cannot be read: {error}.") from None
    return films, names_for([reel.name for reel in found], ".mp4")


def read_frames(path: Path, spec: Spec) -> Tensor:
    """The frames of one film or picture [C, t, H, W] in [-1, 1], as those that a model of this Spec makes.

    Raises UserError for several, and for what cannot be read.
    """
    if not path.exists():
        raise UserError(f"There is nothing at '{path}': check the path.")
    apart = ("source", "palette", "source_channels")
    films, _ = read_sources(path, replace(spec, extra={k: v for k, v in spec.extra.items() if k not in apart}))
    if len(films) != 1:
        raise UserError(f"'{path}' holds {len(films)} films, and one is wanted: give its file.")
    return torch.cat(list(films[0])).transpose(0, 1)
