"""What pictures are to become: the options a person may set, and what follows from the pictures where they set none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Literal, Self, get_args

from PIL import ImageColor

from genloom.data.base import DataOptions
from genloom.data.decode import Header, Plan, read_each, read_header
from genloom.data.files import Files, shown
from genloom.data.labels import spread
from genloom.errors import UserError

FEW = 100  # pictures, below which a GAN sees each of them too often
LOOKED_AT = 256  # headers, evenly spaced, from which size and channels follow
LARGEST, SMALLEST = 64, 8  # sides chosen without being asked
MAX_SIDE = 4096

Fit = Literal["crop", "pad", "stretch"]
Channels = Literal["auto", "grey", "rgb", "rgba"]
COUNTS: dict[Channels, int] = {"grey": 1, "rgb": 3, "rgba": 4}
NAMES = {count: name for name, count in COUNTS.items()}


@dataclass(frozen=True)
class ImageOptions(DataOptions):
    """How pictures become items."""

    size: int | None = None  # side of the square every picture becomes; by default what most allow, at most 64
    fit: Fit = "crop"  # how a picture that is not square becomes so
    channels: Channels = "auto"  # grey where all are grey, else rgb; rgba keeps what is see-through
    labels: Path | None = None  # CSV or JSONL file with columns file and label; otherwise sub-folders are classes
    mirror: bool = False  # show each picture mirrored half of the time
    limit: int | None = None  # use so many pictures, evenly spaced over all
    background: str = "white"  # what shows through, and what pads: a colour name or #rrggbb

    def __post_init__(self) -> None:
        """Raises UserError for a value that makes no sense."""
        self.check(
            ("size", _whole(self.size, 1, MAX_SIDE), f"a whole number from 1 to {MAX_SIDE}"),
            ("limit", _whole(self.limit, 2), "a whole number of at least 2"),
            ("fit", self.fit in get_args(Fit), "crop, pad or stretch"),
            ("channels", self.channels in get_args(Channels), "auto, grey, rgb or rgba"),
            ("mirror", isinstance(self.mirror, bool), "true or false"),
        )
        self.colour()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Options by name. Raises UserError for an unknown one, with the nearest."""
        labels = given.get("labels")
        return super().of({**given, "labels": labels and Path(labels).expanduser()})

    def colour(self) -> tuple[int, int, int]:
        """The background as red, green, blue."""
        try:
            return ImageColor.getrgb(self.background)[:3]
        except (ValueError, TypeError) as error:
            wanted = "give a name such as white, or #rrggbb"
            raise UserError(f"background '{self.background}' is no colour: {wanted}.") from error


def _whole(value: object, low: int, high: float = inf) -> bool:
    return value is None or (type(value) is int and low <= value <= high)


def look(files: Files, names: Sequence[str], where: str) -> tuple[list[Header], dict[str, str]]:
    """Headers of some of the files, evenly spaced; and those of them that cannot be read, with the reason.

    Raises UserError when none can.
    """
    some, bad = [names[i] for i in spread(LOOKED_AT, len(names))], dict[str, str]()
    headers = [header for _, header in read_each(partial(read_header, files), some, bad)]
    if not headers:
        raise none_usable(where, bad)
    return headers, bad


def none_usable(where: str, bad: Mapping[str, str]) -> UserError:
    name, why = min(bad.items())
    return UserError(f"None of the pictures in '{where}' can be used, such as '{shown(name)}': {why}.")


def decide(headers: Sequence[Header], options: ImageOptions) -> tuple[Plan, list[str]]:
    """What every picture becomes, and a sentence for each thing decided that a person may want to change."""
    size, notes = _size(headers, options)
    channels = COUNTS.get(options.channels) or (1 if all(h.grey for h in headers) else 3)
    some = "" if len(headers) < LOOKED_AT else f" of {len(headers)} looked at"
    if (count := sum(h.alpha for h in headers)) and channels != 4:
        notes.append(f"{count}{some} have see-through parts: {options.background} shows there (rgba keeps them).")
    if count := sum(not h.grey for h in headers) if channels == 1 else 0:
        notes.append(f"{count}{some} are in colour and become grey.")
    if count := sum(h.width != h.height for h in headers):
        pad = f"{options.background} fills the rest"
        done = {"crop": "their centre is kept", "pad": pad, "stretch": "they are stretched"}
        notes.append(f"{count}{some} are not square: {done[options.fit]}.")
    side = max if options.fit == "pad" else min
    if count := sum(side(h.width, h.height) < size for h in headers):
        notes.append(f"{count}{some} are smaller than {size}×{size} and were enlarged.")
    return Plan(size, channels, options.fit, options.colour()), notes


def few(count: int) -> list[str]:
    """What to know of a set of so few pictures."""
    advice = "a model may learn them by heart. fastgan is made for a hundred or so."
    return [f"Only {count} pictures: {advice}"] if count < FEW else []


def _size(headers: Sequence[Header], options: ImageOptions) -> tuple[int, list[str]]:
    """The side asked for; else the pictures' own where all are one small square; else a power of two most allow."""
    if options.size is not None:
        return options.size, []
    sizes = {(h.width, h.height) for h in headers}
    side = Counter(min(h.width, h.height) for h in headers).most_common(1)[0][0]
    if sizes == {(side, side)} and SMALLEST <= side <= LARGEST:
        return side, []
    size = min(LARGEST, max(SMALLEST, 1 << (side.bit_length() - 1)))
    return size, [f"Pictures become {size}×{size}: the smaller side is {side} most often (size sets another)."]
