"""Moving pictures: films of any kind to clips of one length, size and rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genloom.core import Batch, Spec, mix
from genloom.data.base import Dataset
from genloom.data.catalog import Entry
from genloom.data.derive import Palette
from genloom.data.files import READING, digest, shown
from genloom.data.film import Reader, Screen
from genloom.data.film_files import FILMS, Reel, stem
from genloom.data.film_source import read_frames, read_sources
from genloom.data.film_survey import VideoOptions, check, choose, decide, films_in, look, nothing_usable
from genloom.data.film_write import Writer, side_by_side, write
from genloom.data.image import as_tensor, coins, skipped
from genloom.data.labels import by_folder
from genloom.data.shelf import Rows, Shelf
from genloom.data.shots import Changes
from genloom.errors import UserError

__all__ = [
    "OPTIONS",
    "SUFFIXES",
    "Writer",
    "from_catalog",
    "from_path",
    "read_frames",
    "read_sources",
    "side_by_side",
    "write",
]

SUFFIXES = FILMS
OPTIONS = VideoOptions
LEFT = 2  # times the end of a film that is held out must be left of it to train on


class Span(NamedTuple):
    """Frames first to last - 1 of the shelf: a film, or a part of one."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Film:
    """One whole film: `read(start, stop)` gives frames uint8 [n, C, H, W], `source` those that it is made from, if any."""

    name: str
    count: int
    read: Callable[[int, int], np.ndarray]
    source: Callable[[int, int], np.ndarray] | None = None


# ── from disk, and by name ───────────────────────────────────────────────────────────────────────────────────────
def from_path(path: Path, *, split: str = "train", like: Spec | None = None, **given: Any) -> VideoSet:
    """The films of a folder, zip or tar, or one: files, or folders of frames; sub-folders above them are classes.

    Folders train and test (or val) are the splits where there are such. Options are those of VideoOptions; `like`: made
    as that Spec's data were, where they say nothing else. Raises UserError when no film can be used.
    """
    options = VideoOptions.of(({"frames": like.shape[1]} if like else {}) | given)
    files, found = films_in(path)
    chosen, apart = choose(found, split, options.limit)
    stock = stocked(chosen, options, like, str(path))
    name = path.resolve().name
    if not apart:
        return stock.dataset(name, files.fingerprint, split)
    data = stock.whole(name, files.fingerprint, split)
    if split == "train":
        data.test = lambda: _test_split(path, data.spec, given)
    return data


def stocked(chosen: list[Reel], options: VideoOptions, like: Spec | None, where: str) -> Stock:
    """The frames of these films. Raises UserError when none can be used, or when they do not fit this machine."""
    headers, bad = look(chosen)
    if not headers:
        raise nothing_usable(where, bad)
    screen, rate, notes = decide(list(headers.values()), options, like)
    check(headers.values(), screen, rate, options.frames, screen.channels, f"The films of '{where}'")
    stock = Stock(screen, rate, options, bad, notes)
    for reel in chosen:
        if reel.name in headers:
            stock.add(reel.name, reader := Reader(reel, screen, rate, headers[reel.name]))
            stock.tell(reel.name, reader.broken)
    return stock


def _test_split(path: Path, spec: Spec, given: dict[str, Any]) -> VideoSet:
    """The films in a folder named test (or val), made like those to train on."""
    test = from_path(path, split="test", like=spec, **{k: v for k, v in given.items() if k == "cuts"})
    if test.spec.classes != spec.classes:
        raise UserError(f"'{path}' has other classes to test on than to train on: give both splits the same folders.")
    return test


def from_catalog(entry: Entry, *, split: str = "train", like: Spec | None = None, **given: Any) -> Dataset:
    """A built-in set of films, as it is or made to other options."""
    made: Dataset = entry.load(split).video(entry.name, split=split, like=like, **given)
    return made


# ── what is kept of films ────────────────────────────────────────────────────────────────────────────────────────
@dataclass
class Stock:
    """The frames of all films in one row, where each film and each scene lies in it, and what a person should know."""

    screen: Screen
    rate: float
    options: VideoOptions
    bad: dict[str, str]
    notes: list[str]
    films: list[Span] = field(default_factory=list)
    scenes: list[Span] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    short: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.length = self.options.frames
        self.shelf = Shelf((self.screen.channels, self.screen.height, self.screen.width))

    def add(self, name: str, frames: Iterable[np.ndarray]) -> None:
        """Keep a film, of which nothing is held beyond the frame that is added."""
        changes, first = Changes(), len(self.shelf)
        try:
            for frame in frames:
                self.shelf.add(frame)
                if self.options.cuts:
                    changes.add(frame)
        except READING as error:
            self.bad[shown(name)] = str(error)
            return
        marks = [first, *(first + cut for cut in changes.cuts()), len(self.shelf)]
        scenes = [Span(name, a, b) for a, b in pairwise(marks) if b - a >= self.length]
        if scenes:
            self.films.append(Span(name, first, len(self.shelf)))
            self.scenes += scenes
        else:
            self.short.append(shown(name))

    def tell(self, name: str, broken: str) -> None:
        if broken:
            self.broken[shown(name)] = broken

    def split(self) -> tuple[list[Span], list[Span]]:
        """Films to train on, and held out: every so manieth, or of a few long ones the end of each."""
        share = self.options.held_out
        every = round(1 / share) if share else 0
        tests = self.films[every - 1 :: every] if every else []
        if tests or not share:
            return [film for film in self.films if film not in tests], tests
        trains = []
        for name, first, last in self.films:
            size = max(self.length, round(share * (last - first)))
            if last - first < (LEFT + 1) * size:
                size = 0
            trains.append(Span(name, first, last - size))
            tests += [Span(name, last - size, last)] if size else []
        if tests:
            which = "it" if len(self.films) == 1 else "each long one"
            self.notes.append(f"Too few films to keep whole ones out of training: the end of {which} is.")
        return trains, tests

    def dataset(self, name: str, fingerprint: str, split: str) -> VideoSet:
        """The split asked for, with what is held out beside it. Raises UserError when it is empty."""
        trains, tests = self.split() if self.films else ([], [])
        train = self.made(name, fingerprint, trains, shifts=True)
        test = self.made(name, fingerprint, tests, shifts=False) if self._of(tests) else None
        train.test = lambda: test
        if split == "train":
            return train
        if test is None:
            raise UserError(f"'{name}' holds too little to keep some out of training: give more, or longer films.")
        return test

    def whole(self, name: str, fingerprint: str, split: str) -> VideoSet:
        """All films as one split."""
        return self.made(name, f"{fingerprint} {split}", self.films, shifts=split == "train")

    def _of(self, films: list[Span]) -> list[Span]:
        """What lies of the scenes in these films, where a clip fits."""
        cut = [Span(s.name, max(s.first, f.first), min(s.last, f.last)) for f in films for s in self.scenes]
        return [scene for scene in cut if scene.last - scene.first >= self.length]

    def made(self, name: str, fingerprint: str, films: list[Span], *, shifts: bool) -> VideoSet:
        """Films of this stock as a set. Raises UserError when no clip fits."""
        scenes = self._of(films)
        if not scenes:
            raise self.too_short(name)
        every = by_folder(sorted({film.name for film in self.films}), set())
        shape = (self.screen.channels, self.length, self.screen.height, self.screen.width)
        return self.new(
            name=name,
            spec=Spec("video", shape, every.classes, self.extra()),
            fingerprint=digest(fingerprint, self.options, shape, self.rate),
            summary=self.summary(),
            shelf=self.shelf,
            spans=films,
            scenes=scenes,
            classes=dict(zip(every.names, every.ids.tolist(), strict=True)) if every.classes else {},
            shifts=shifts,
            mirror=self.options.mirror and shifts,
        )

    def extra(self) -> dict[str, Any]:
        """What the Spec says beyond shape and classes."""
        return {"rate": self.rate, "fit": self.screen.fit, "background": self.options.background}

    def new(self, **facts: Any) -> VideoSet:
        return VideoSet(**facts)

    def too_short(self, where: str) -> UserError:
        if not self.films and self.bad and not self.short:
            return nothing_usable(where, self.bad)
        such = f", such as '{self.short[0]}'" if self.short else ""
        return UserError(
            f"No film in '{where}' has a scene of {self.length} frames at {self.rate:g} a second{such}: give fewer "
            "--data.frames, or longer films."
        )

    def summary(self) -> dict[str, Any]:
        frames = sum(film.last - film.first for film in self.films)
        return {
            "items": len({film.name for film in self.films}),
            "kind": "films",
            "minutes": round(frames / self.rate / 60, 2),
            "frames": frames,
            "rate": self.rate,
            "scenes": len(self.scenes),
            "skipped": skipped(self.bad),
            "notes": [*self.notes, *self.said()],
        }

    def said(self) -> list[str]:
        found = []
        if self.broken:
            name, why = next(iter(self.broken.items()))
            found.append(f"{len(self.broken)} films are not whole, such as {name}: {why}.")
        if self.short:
            what = f"{len(self.short)} films have no scene of {self.length} frames and are left out"
            found.append(f"{what}, such as {self.short[0]} (frames sets another length).")
        return found


# ── the set ──────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(eq=False, repr=False, kw_only=True)
class VideoSet(Dataset):
    """Clips of T frames, one after another in each scene; with `shifts` each begins a little elsewhere, by (seed, number).

    Batches hold `video` f32 [B, C, T, H, W] in [-1, 1] and, with classes, `label` i64 [B]. `spans` are the films or the
    parts of them in this split, `scenes` what of them no cut goes through, `classes` the class of each film by its name.
    """

    shelf: Rows
    spans: list[Span]
    scenes: list[Span]
    classes: dict[str, int]
    shifts: bool
    mirror: bool
    slow = True

    def __post_init__(self) -> None:
        self.length = self.spec.shape[1]
        self.ends = np.cumsum([(scene.last - scene.first) // self.length for scene in self.scenes])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def labels(self) -> Tensor | None:
        return self._labels(np.arange(len(self))) if self.classes else None

    def batch(self, indices: np.ndarray, *, seed: int = 0) -> Batch:
        numbers = np.asarray(indices, np.int64)
        starts = [self.start(int(i), seed) for i in numbers]
        flips = coins(numbers, seed) if self.mirror else np.zeros(len(numbers), bool)
        batch = self.gather(starts, flips)
        return batch | {"label": self._labels(numbers)} if self.classes else batch

    def gather(self, starts: list[int], flips: np.ndarray) -> Batch:
        """What a batch holds of the frames from each start on, mirrored where `flips` says so."""
        return {"video": as_clips(self.shelf, starts, self.length, flips)}

    def start(self, item: int, seed: int) -> int:
        """The frame of the shelf that a clip begins with."""
        number = int(np.searchsorted(self.ends, item, side="right"))
        _, first, last = self.scenes[number]
        start = first + (item - (int(self.ends[number - 1]) if number else 0)) * self.length
        return min(start + (mix(seed, item) % self.length if self.shifts else 0), last - self.length)

    def films(self) -> Iterator[Film]:
        """Every film of this split, whole, one at a time."""
        for name, first, last in self.spans:
            yield Film(stem(shown(name)), last - first, reading(self.shelf, first, last))

    def _labels(self, numbers: np.ndarray) -> Tensor:
        scenes = np.searchsorted(self.ends, numbers, side="right")
        return torch.tensor([self.classes[self.scenes[s].name] for s in scenes], dtype=torch.int64)


def as_clips(shelf: Rows, starts: list[int], length: int, flips: np.ndarray, palette: Palette | None = None) -> Tensor:
    """f32 [B, C, T, H, W] in [-1, 1]: so many frames from each start on; with a palette, labels as planes."""
    clips = np.stack([shelf.read(start, start + length) for start in starts])
    if flips.any():
        clips[flips] = clips[flips][..., ::-1]
    clips = palette.planes(clips) if palette else clips
    return as_tensor(np.ascontiguousarray(clips.swapaxes(1, 2)))


def reading(shelf: Rows, first: int, last: int) -> Callable[[int, int], np.ndarray]:
    """Frames of a film by their numbers in it."""
    return lambda start, stop: shelf.read(min(first + start, last), min(first + stop, last))
