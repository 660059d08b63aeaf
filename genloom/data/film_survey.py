"""What films are to become: the options a person may set, and what follows from the films where they set none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from PIL import ImageColor

from genloom.core import Spec
from genloom.data import labels as labelling
from genloom.data.base import DataOptions
from genloom.data.files import Files, noting
from genloom.data.film import Screen
from genloom.data.film_files import FILMS, UNTIMED, Header, Reel, probe, reels
from genloom.data.shelf import STEP, check_room
from genloom.errors import UserError, unknown

DEFAULT_SIDE = 128  # the shorter side that is taken unasked: 4K films need not be learnt as such
MAX_SIDE = 4096
LONGEST_SHAPE = 4.0  # times as long as short: what is longer is cut off
HIGHEST = 30.0  # frames a second that are taken unasked
LIKENESS = 0.1  # by which shapes may differ (log of width over height) and nothing be said

Fit = Literal["keep", "crop", "pad", "stretch"]
Colours = Literal["auto", "grey", "rgb"]
COUNTS: dict[Colours, int] = {"grey": 1, "rgb": 3}
SIDES = f"a multiple of {STEP} from {STEP} to {MAX_SIDE}"


@dataclass(frozen=True)
class VideoOptions(DataOptions):
    """How films become clips."""

    size: int | None = None  # shorter side, a multiple of 16; by default what most films have, at most 128
    rate: float | None = None  # frames a second; by default what most films have, at most 30
    frames: int = 16  # length of a clip
    channels: Colours = "auto"  # grey where all films are stored so, else rgb
    fit: Fit = "keep"  # the shape that most films have, others cut to it; or a square: crop, pad or stretch
    background: str = "black"  # what pads, and what shows through: a colour name or #rrggbb
    cuts: bool = True  # no clip goes over a cut from one scene to another
    held_out: float = 0.1  # share of the films kept out of training; of a few long ones, the end of each
    limit: int | None = None  # use so many films, evenly spaced over all
    mirror: bool = False  # show each clip mirrored half of the time

    def __post_init__(self) -> None:
        """Raises UserError for a value that makes no sense."""
        self.check(
            ("size", self.size is None or (self.size % STEP == 0 and STEP <= self.size <= MAX_SIDE), SIDES),
            ("rate", self.rate is None or 0.1 <= self.rate <= 240, "from 0.1 to 240 frames a second"),
            ("frames", 2 <= self.frames <= 1024, "from 2 to 1024"),
            ("channels", self.channels in get_args(Colours), "auto, grey or rgb"),
            ("fit", self.fit in get_args(Fit), "keep, crop, pad or stretch"),
            ("held_out", 0 <= self.held_out <= 0.5, "a share from 0 to 0.5"),
            ("limit", self.limit is None or self.limit >= 1, "at least 1"),
        )
        colour(self.background)


def colour(name: str) -> tuple[int, int, int]:
    """Red, green, blue of a colour's name or of #rrggbb. Raises UserError."""
    try:
        return ImageColor.getrgb(name)[:3]
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"'{name}' is no colour: give a name such as black, or #rrggbb.") from None


def films_in(path: Path) -> tuple[Files, list[Reel]]:
    """The films at a path. Raises UserError when there is none."""
    files, found = reels(path)
    if not found:
        among = f", but other files, such as {files.other_names[0]}" if files.others else ""
        raise UserError(f"'{path}' holds no film{among}: give {', '.join(sorted(FILMS))}, .gif or folders of pictures.")
    return files, found


def choose(found: Sequence[Reel], split: str, limit: int | None) -> tuple[list[Reel], bool]:
    """The films to use, and whether folders train and test tell the splits apart."""
    if split not in labelling.SPLITS:
        raise unknown("split", split, labelling.SPLITS)
    names = [reel.name for reel in found]
    apart = bool(labelling.held_out(names))
    wanted = set(labelling.pick_split(names, split) if apart else names)
    chosen = [reel for reel in found if reel.name in wanted]
    return [chosen[i] for i in labelling.spread(limit or len(chosen), len(chosen))], apart


def look(chosen: Iterable[Reel]) -> tuple[dict[str, Header], dict[str, str]]:
    """What each film says of itself, by name; and those that cannot be read, with the reason."""
    headers, bad = dict[str, Header](), dict[str, str]()
    for reel in chosen:
        with noting(bad, reel.shown):
            headers[reel.name] = probe(reel)
    return headers, bad


def nothing_usable(where: str, bad: Mapping[str, str]) -> UserError:
    name, why = next(iter(bad.items()))
    return UserError(f"No film in '{where}' can be used, such as '{name}': {why}.")


def decide(headers: Sequence[Header], options: VideoOptions, like: Spec | None) -> tuple[Screen, float, list[str]]:
    """What every frame becomes, how many a second, and a sentence for each thing that a person may want to change.

    `like`: shape, rate and fit are those of that Spec where the options say nothing else.
    """
    rate, notes = _rate(headers, options, like)
    fit, back = options.fit, options.background
    if like and options.size is None:
        height, width = like.shape[2:]
        fit, back = like.extra.get("fit", fit), like.extra.get("background", back)
    else:
        height, width = _sides(headers, options)
    grey = all(h.grey for h in headers)
    channels = COUNTS.get(options.channels) or (like.shape[0] if like else 1 if grey else 3)
    if any((h.width, h.height) != (width, height) for h in headers) and like is None:
        notes.append(f"Frames become {width}x{height} (size and fit set others).")
    shapes = [abs(math.log(h.width / h.height * height / width)) > LIKENESS for h in headers]
    if count := sum(shapes):
        done = {"pad": f"{back} fills the rest", "stretch": "they are stretched"}.get(fit, "what is beyond is cut off")
        notes.append(f"{count} of {len(headers)} films are of another shape: {done}.")
    if count := sum(min(h.width, h.height) < min(height, width) for h in headers):
        notes.append(f"{count} of {len(headers)} films are smaller and were enlarged.")
    if count := sum(h.turned for h in headers):
        notes.append(f"{count} of {len(headers)} films were filmed turned, and are set upright.")
    return Screen(height, width, channels, fit, colour(back)), rate, notes


def _rate(headers: Sequence[Header], options: VideoOptions, like: Spec | None) -> tuple[float, list[str]]:
    """Frames a second: a whole fraction of what most films have, at most 30."""
    rates = Counter(round(h.rate, 3) for h in headers if h.rate)
    own = rates.most_common(1)[0][0] if rates else UNTIMED
    if options.rate is not None or like is not None:
        rate, notes = float(options.rate or like.extra["rate"]), list[str]()  # type: ignore[union-attr]
    elif not rates:
        return own, [f"Folders of frames do not say how many there are a second: {own:g} are taken (rate)."]
    else:
        rate, notes = round(own / math.ceil(own / HIGHEST), 3), []
    if others := sum(count for r, count in rates.items() if abs(r - rate) > 0.01 * rate):
        notes.append(f"{others} of {len(headers)} films have another rate: at {rate:g} frames a second, the nearest.")
    if varying := sum(h.variable for h in headers):
        notes.append(f"{varying} of {len(headers)} films have a variable rate: the frame nearest in time is taken.")
    return rate, notes


def _sides(headers: Sequence[Header], options: VideoOptions) -> tuple[int, int]:
    """Height and width, multiples of 16."""
    own = Counter(min(h.width, h.height) for h in headers).most_common(1)[0][0]
    short = options.size or max(STEP, min(own, DEFAULT_SIDE) // STEP * STEP)
    if options.fit != "keep":
        return short, short
    width, height = Counter((h.width, h.height) for h in headers).most_common(1)[0][0]
    shape = min(max(width, height) / min(width, height), LONGEST_SHAPE)
    long = round(short * shape / STEP) * STEP
    return (short, long) if width >= height else (long, short)


def check(headers: Iterable[Header], screen: Screen, rate: float, length: int, planes: int, what: str) -> None:
    """Raises UserError, with a size that would do, where `planes` values a pixel of all films, or of a clip, do not fit."""
    frames = sum(h.count * (rate / h.rate if h.rate else 1) for h in headers)
    pixels = screen.height * screen.width
    check_room(round(frames), planes * pixels, planes * pixels * length, min(screen.height, screen.width), what)
