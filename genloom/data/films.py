"""Films that become films: a source and a target side in pairs, or sources made from the targets, -> clips of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from genloom.core import NEEDS, Batch, Spec
from genloom.data.catalog import Entry
from genloom.data.derive import DERIVED, Palette, channels_of, deriving, palette_of
from genloom.data.detect import FILES
from genloom.data.files import shown
from genloom.data.film import Reader, Screen
from genloom.data.film_files import Header, Reel, stem
from genloom.data.film_flow import Flows, Moves
from genloom.data.film_survey import VideoOptions, check, choose, decide, films_in, look, nothing_usable
from genloom.data.labels import spread
from genloom.data.shelf import Rows, Shelf
from genloom.data.translation import PAIRED, find_sides, pair
from genloom.data.video import Film, Stock, VideoSet, as_clips, reading
from genloom.errors import UserError, unknown

APART = 1  # frames by which the two of a pair may differ in length without a word
FLOW_PLANES = 5  # bytes a pixel: two f16 and a confidence

Source = Literal["", "edges", "grey", "blurred", "small", "compressed", "landmarks", "pose"]
Teacher = Literal["none", "dis", "pyramid", "raft"]


@dataclass(frozen=True)
class FilmOptions(VideoOptions):
    """How films become sources and targets: size, channels and the like are the targets'."""

    source: Source = ""  # what sources are made from the targets; by default they are films of their own, in source/
    detector: str = ""  # the file of MediaPipe's detector, of landmarks (of faces) or pose
    palette: str = ""  # sources are maps of labels: how many, or their colours (#000000,#804080 or a file of them)
    flow: Teacher = "none"  # give the motion between frames along: by OpenCV (dis), or by our own means (pyramid)

    def __post_init__(self) -> None:
        """Raises UserError for a value that makes no sense."""
        super().__post_init__()
        if self.source and self.source not in DERIVED:
            raise unknown("source made from films", self.source, DERIVED)
        if self.flow not in get_args(Teacher):
            raise unknown("flow", self.flow, get_args(Teacher))
        if self.source and self.palette:
            raise UserError("Maps of labels are films of their own: leave --data.source or --data.palette out.")


OPTIONS = FilmOptions


# ── from disk, and by name ───────────────────────────────────────────────────────────────────────────────────────
def from_path(
    path: Path, *, needs: str = "films", split: str = "train", like: Spec | None = None, **given: Any
) -> FilmSet:
    """The two sides of a folder, zip or tar, equal names (without endings) being pairs; or films alone, of which the
    option `source` makes sources.

    Options are those of FilmOptions; `like`: made as that Spec's data were, where they say nothing else. Raises
    UserError when there are no two sides, when a film has no partner, or when none can be used.
    """
    options = as_in(like, given)
    files, found = films_in(path)
    known = {reel.name: reel for reel in inside(found)}
    if options.source:
        targets, apart = derived(known, split, options.limit)
        pairs: list[tuple[str, Reel, Reel | None]] = [(reel.name, reel, None) for reel in targets]
    else:
        pairs, apart = partners(path, known, split, options.limit)
    stock = paired(pairs, options, like, str(path))
    name = path.resolve().name
    if not apart:
        data = stock.dataset(name, files.fingerprint, split)
    else:
        data = stock.whole(name, files.fingerprint, split)
        if split == "train":
            data.test = lambda: _test_split(path, data.spec, given)
    assert isinstance(data, FilmSet)
    return data


def from_catalog(
    entry: Entry, *, needs: str = "films", split: str = "train", like: Spec | None = None, **given: Any
) -> VideoSet:
    """A built-in set of films with sources, as it is or made to other options."""
    made: VideoSet = entry.load(split).films(entry.name, split=split, like=like, **given)
    return made


def as_in(like: Spec | None, given: dict[str, Any]) -> FilmOptions:
    """The options, with the sources of that Spec where they say nothing else."""
    if like is None:
        return FilmOptions.of(given)
    palette = like.extra.get("palette", "")
    palette = ",".join(palette) if isinstance(palette, list | tuple) else str(palette)
    as_there = {key: like.extra.get(key, "") for key in ("source", "detector")}
    return FilmOptions.of(as_there | {"frames": like.shape[1], "palette": palette} | given)


def inside(found: list[Reel]) -> list[Reel]:
    """The films; one whose frames lie in source/ or target/ themselves as if they lay in a folder in it."""
    sides = {name for both in PAIRED for name in both} | {"trainA", "trainB", "testA", "testB"}
    return [
        replace(r, name=f"{r.name}/film") if r.pictures and r.name.rpartition("/")[2] in sides else r for r in found
    ]


def derived(known: dict[str, Reel], split: str, limit: int | None) -> tuple[list[Reel], bool]:
    """The films to make sources from, the targets where there are two sides; and whether folders tell splits apart."""
    apart = find_sides(sorted(known), "test") is not None
    sides = find_sides(sorted(known), split if apart else "train")
    if sides is None:
        return choose(list(known.values()), split, limit)
    names = sides[1][1]
    return [known[names[i]] for i in spread(limit or len(names), len(names))], apart


def partners(
    path: Path, known: dict[str, Reel], split: str, limit: int | None
) -> tuple[list[tuple[str, Reel, Reel | None]], bool]:
    """Pairs as (name, target, source), and whether folders tell splits apart. Raises UserError."""
    names = sorted(known)
    apart = find_sides(names, "test") is not None
    sides = find_sides(names, split if apart else "train")
    if sides is None:
        raise UserError(f"'{path}' has no films in source/ and target/: give {NEEDS['films']}.")
    otherwise = ", or have sources made from the targets (--data.source edges)"
    sources, targets = pair(*sides, what="film", otherwise=otherwise)
    start = len(sides[1][0])
    every = [(targets[i][start:], known[targets[i]], known[sources[i]]) for i in range(len(targets))]
    return [every[i] for i in spread(limit or len(every), len(every))], apart


def _test_split(path: Path, spec: Spec, given: dict[str, Any]) -> FilmSet:
    """The films in folders named test (or val, testA ...), made like those to train on."""
    return from_path(path, split="test", like=spec, **{k: v for k, v in given.items() if k in ("cuts", "flow")})


def paired(
    pairs: Sequence[tuple[str, Reel, Reel | None]], options: FilmOptions, like: Spec | None, where: str
) -> FilmStock:
    """The frames of all pairs. Raises UserError when none can be used, or when they do not fit this machine."""
    headers, bad = look([target for _, target, _ in pairs])
    others, worse = look([source for _, _, source in pairs if source])
    usable = [p for p in pairs if p[1].name in headers and (p[2] is None or p[2].name in others)]
    if not usable:
        raise nothing_usable(where, bad | worse)
    screen, rate, notes = decide([headers[target.name] for _, target, _ in usable], options, like)
    sides = [(headers[t.name], others[s.name] if s else headers[t.name]) for _, t, s in usable]
    kind = kind_of(options, screen, [source for _, source in sides], like)
    if turned := sum(abs(a.width / a.height - b.width / b.height) > 0.1 * a.width / a.height for a, b in sides):
        notes.append(f"{turned} sources are of another shape than their targets: each is cut to size by itself.")
    planes = screen.channels + kind.stored + (FLOW_PLANES if options.flow != "none" else 0)
    check([target for target, _ in sides], screen, rate, options.frames, planes, f"The films of '{where}'")
    stock = FilmStock(screen, rate, options, bad | worse, notes, kind=kind)
    for (name, target, source), (header, other) in zip(usable, sides, strict=True):
        stock.pair(name, (target, header), (source, other) if source else None)
    return stock


# ── what is kept of sources ──────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Kind:
    """What sources are: made from targets by `name`, or films of their own; `channels` planes; `palette` of labels."""

    name: str
    channels: int
    palette: Palette | None = None

    @property
    def stored(self) -> int:
        """Bytes a pixel: labels are kept as numbers."""
        return 1 if self.palette else self.channels

    def screen(self, target: Screen) -> Screen:
        """That of sources that are films of their own."""
        return replace(target, channels=self.palette.channels if self.palette else self.channels)


def kind_of(options: FilmOptions, screen: Screen, sources: Sequence[Header], like: Spec | None) -> Kind:
    if options.source:
        return Kind(options.source, channels_of(options.source, screen.channels))
    if options.palette:
        palette = palette_of(options.palette)
        return Kind("", palette.count, palette)
    own = 1 if all(h.grey for h in sources) else 3
    return Kind("", int(like.extra.get("source_channels", own)) if like else own)


@dataclass
class FilmStock(Stock):
    """Frames of targets, of their sources, and the motion between targets, in rows beside one another."""

    options: FilmOptions
    kind: Kind = field(kw_only=True)
    unequal: list[str] = field(default_factory=list)
    blank: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        height, width = self.screen.height, self.screen.width
        self.sources = Shelf((self.kind.stored, height, width))
        self.flows = Flows(self.options.flow, height, width) if self.options.flow != "none" else None

    def pair(self, name: str, target: tuple[Reel, Header], source: tuple[Reel, Header] | None) -> None:
        """Keep a film and its source, both as long as the shorter."""
        readers = [Reader(target[0], self.screen, self.rate, target[1])]
        if source:
            labels = self.kind.palette is not None
            readers.append(Reader(source[0], self.kind.screen(self.screen), self.rate, source[1], nearest=labels))
        frames = self._both(name, *readers) if source else self._derived(readers[0])
        self.add(name, self.flows.of(frames) if self.flows else frames)
        for reader in readers:
            self.tell(reader.reel.name, reader.broken)

    def _derived(self, target: Reader) -> Iterator[np.ndarray]:
        with deriving(self.kind.name, self.options.detector) as make:
            for frame in target:
                made = make(frame)
                self.blank += self.kind.name in FILES and not made.any()
                self.sources.add(made)
                yield frame

    def _both(self, name: str, target: Reader, source: Reader) -> Iterator[np.ndarray]:
        mine, theirs = iter(target), iter(source)
        for frame in mine:
            other = next(theirs, None)
            if other is None:
                over = 1 + sum(1 for _, _ in zip(range(APART), mine, strict=False))
                break
            palette = self.kind.palette
            self.sources.add(palette.numbers(other) if palette else other)
            yield frame
        else:
            over = sum(1 for _, _ in zip(range(APART + 1), theirs, strict=False))
        if over > APART:
            self.unequal.append(shown(name))

    def extra(self) -> dict[str, Any]:
        palette = {"palette": self.kind.palette.to_json()} if self.kind.palette else {}
        detector = {"detector": self.options.detector} if self.kind.name in FILES else {}
        made = {"source_channels": self.kind.channels, "source": self.kind.name, "serves": ["films"]}
        return super().extra() | made | palette | detector

    def said(self) -> list[str]:
        found = super().said()
        if self.blank:
            found.append(f"In {self.blank} of {len(self.sources)} frames nobody was found: their sources are black.")
        if self.unequal:
            found.append(
                f"{len(self.unequal)} pairs are of unequal length and end with the shorter, such as {self.unequal[0]}."
            )
        return found

    def new(self, **facts: Any) -> VideoSet:
        return FilmSet(**facts, sources=self.sources, palette=self.kind.palette, flows=self.flows)


# ── the set ──────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(eq=False, repr=False, kw_only=True)
class FilmSet(VideoSet):
    """Clips of targets with those of their sources.

    Batches hold `video` and `source` f32 [B, C', T, H, W] in [-1, 1], and with flows `flow` f32 [B, 2, T-1, H, W] (in
    pixels, x first: where in frame t each pixel of frame t+1 comes from) and `confidence` f32 [B, 1, T-1, H, W] in [0, 1].
    """

    sources: Rows
    palette: Palette | None
    flows: Moves | None

    def gather(self, starts: list[int], flips: np.ndarray) -> Batch:
        batch = super().gather(starts, flips)
        batch["source"] = as_clips(self.sources, starts, self.length, flips, self.palette)
        return batch | moved(self.flows.read, starts, self.length, flips) if self.flows else batch

    def films(self) -> Iterator[Film]:
        for name, first, last in self.spans:
            source = reading(self.sources, first, last)
            yield Film(stem(shown(name)), last - first, reading(self.shelf, first, last), self._planes(source))

    def _planes(self, read: Callable[[int, int], np.ndarray]) -> Callable[[int, int], np.ndarray]:
        palette = self.palette
        return (lambda start, stop: palette.planes(read(start, stop))) if palette else read


def moved(
    read: Callable[[int, int], tuple[np.ndarray, np.ndarray]], starts: list[int], length: int, flips: np.ndarray
) -> dict[str, Tensor]:
    """`flow` and `confidence` of the clips from each start on; what is mirrored moves the other way."""
    found = [read(start, start + length - 1) for start in starts]
    flow, sure = (np.stack(side).astype(np.float32) for side in zip(*found, strict=True))
    flow[flips], sure[flips] = flow[flips][..., ::-1], sure[flips][..., ::-1]
    flow[flips, :, 0] *= -1
    sure /= 255
    return {"flow": torch.from_numpy(flow).transpose(1, 2).contiguous(), "confidence": torch.from_numpy(sure)[:, None]}
