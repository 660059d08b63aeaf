"""The preflight of films: how long, how large, at what rate; where they are cut; what cannot be read, and what is there twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from genloom.data import open_data, resolve
from genloom.data.catalog import Entry
from genloom.data.files import noting, shown
from genloom.data.film import Reader, Screen
from genloom.data.film_files import Header, Reel
from genloom.data.film_survey import VideoOptions, check, decide, films_in, look, nothing_usable
from genloom.data.films import inside
from genloom.data.preflight import counted, listed, report, same
from genloom.data.shots import Changes
from genloom.data.translation import find_sides, pair
from genloom.errors import UserError


@dataclass(frozen=True)
class Look:
    """What one film is found to be, at the size and rate that `fit` would read it with."""

    header: Header
    frames: int
    cuts: list[int]
    broken: str
    same: str  # of films with the same frames

    def clips(self, length: int, whole: bool) -> int:
        """How many clips of that length it holds."""
        marks = [0, *([] if whole else self.cuts), self.frames]
        return sum((b - a) // length for a, b in pairwise(marks))


def inspect(source: str | Path, /, **given: Any) -> dict[str, Any]:
    """Keys: source, kind, films, minutes, shortest and longest (s), rates and sizes (value: films), cuts and turned, variable,
    broken (name: why), short (films without a clip), duplicates (groups of names), unreadable (name: why), fit, notes,
    problems. Every film is decoded. Raises UserError when none can be."""
    options = VideoOptions.of(given)
    found = resolve(source)
    if isinstance(found, Entry):
        return _of_entry(found, given)
    files, reels = films_in(found)
    headers, bad = look(reels)
    if not headers:
        raise nothing_usable(str(found), bad)
    screen, rate, notes = decide(list(headers.values()), options, None)
    looks = dict[str, Look]()
    for reel in reels:
        if reel.name in headers:
            with noting(bad, reel.shown):
                looks[reel.shown] = look_at(reel, headers[reel.name], screen, rate)
    if not looks:
        raise nothing_usable(str(found), bad)
    problems = []
    try:
        check(headers.values(), screen, rate, options.frames, screen.channels, f"The films of '{found}'")
    except UserError as error:
        problems.append(str(error))
    facts = _facts(looks, screen, rate, options)
    if not facts["fit"]["items"]:
        problems.append(
            f"No film has a scene of {options.frames} frames at {rate:g} a second: give fewer --data.frames."
        )
    others = [f"{files.others} other files are left alone, such as {name}." for name in files.other_names[:1]]
    return facts | {
        "source": str(found),
        "kind": files.kind,
        "unreadable": bad,
        "notes": [*notes, *others, *describe([reel.name for reel in inside(reels)])],
        "problems": problems,
    }


def look_at(reel: Reel, header: Header, screen: Screen, rate: float) -> Look:
    """Decode a film; one frame of it is held. Raises UnreadableError."""
    changes, same, count = Changes(), hashlib.blake2b(digest_size=16), 0
    reader = Reader(reel, screen, rate, header)
    for frame in reader:
        changes.add(frame)
        same.update(frame.tobytes())
        count += 1
    return Look(header, count, changes.cuts(), reader.broken, same.hexdigest())


def _facts(looks: Mapping[str, Look], screen: Screen, rate: float, options: VideoOptions) -> dict[str, Any]:
    seconds = [found.frames / rate for found in looks.values()]
    headers = [found.header for found in looks.values()]
    clips = {name: found.clips(options.frames, not options.cuts) for name, found in looks.items()}
    frames = sum(found.frames for found in looks.values())
    return {
        "films": len(looks),
        "minutes": round(sum(seconds) / 60, 2),
        "shortest": round(min(seconds), 3),
        "longest": round(max(seconds), 3),
        "rates": dict(Counter(f"{h.rate:.5g}" if h.rate else "none" for h in headers).most_common()),
        "sizes": dict(Counter(f"{h.width}x{h.height}" for h in headers).most_common()),
        "cuts": sum(len(found.cuts) for found in looks.values()),
        "turned": [name for name, found in looks.items() if found.header.turned],
        "variable": [name for name, found in looks.items() if found.header.variable],
        "broken": {name: found.broken for name, found in looks.items() if found.broken},
        "short": [name for name, count in clips.items() if not count],
        "duplicates": same((name, found.same) for name, found in looks.items()),
        "fit": {
            "items": sum(clips.values()),
            "shape": [screen.channels, options.frames, screen.height, screen.width],
            "rate": rate,
            "decoded_mb": round(frames * screen.channels * screen.height * screen.width / 2**20, 1),
        },
    }


def _of_entry(entry: Entry, given: Mapping[str, Any]) -> dict[str, Any]:
    """A built-in set says of itself what there is to say."""
    if entry.modality != "video":
        raise UserError(f"'{entry.name}' is {entry.modality}, and no films.")
    data: Any = open_data(entry.name, **given)
    seconds = [film.count / data.spec.extra["rate"] for film in data.films()]
    channels, _, height, width = data.spec.shape
    drawn = "drawn" in data.summary["kind"]  # frame by frame, as they are asked for
    frames = 0 if drawn else sum(film.count for film in data.films())
    empty: dict[str, Any] = {
        "turned": [],
        "variable": [],
        "broken": {},
        "short": [],
        "duplicates": [],
        "unreadable": {},
    }
    return empty | {
        "source": entry.name,
        "kind": "built in",
        "films": len(seconds),
        "minutes": round(sum(seconds) / 60, 2),
        "shortest": round(min(seconds), 3),
        "longest": round(max(seconds), 3),
        "rates": {f"{data.spec.extra['rate']:g}": len(seconds)},
        "sizes": {f"{width}x{height}": len(seconds)},
        "cuts": 0,
        "fit": {
            "items": len(data),
            "shape": list(data.spec.shape),
            "rate": data.spec.extra["rate"],
            "decoded_mb": round(frames * channels * height * width / 2**20, 1),
        },
        "notes": [f"{entry.summary}.", f"{entry.licence}, by {entry.credit}."],
        "problems": [],
    }


def describe(names: list[str]) -> list[str]:
    """What a model that makes films from films would find in films of these names, in sentences."""
    sides = find_sides(sorted(names))
    if sides is None:
        return ["For models that make films from films: give --data.source edges (grey, blurred, small, compressed)."]
    (a, source), (b, target) = sides
    found = f"{len(source):,} sources in '{shown(a)}' and {len(target):,} targets in '{shown(b)}'"
    try:
        pair(*sides, what="film", otherwise=", or have sources made from the targets (--data.source edges)")
    except UserError as error:
        return [f"For models that make films from films: {found}. {error}"]
    return [f"For models that make films from films: {found}, in pairs (vid2vid)."]


# ── as text ──────────────────────────────────────────────────────────────────────────────────────────────────────
def format_report(facts: dict[str, Any]) -> str:
    """What `inspect` found, as lines to read."""

    def some(names: list[str]) -> str:
        return listed(f"{len(names):,}", names) if names else ""

    fit = facts["fit"]
    rows = [
        ("films", f"{facts['films']:,}, {facts['minutes']:,} minutes"),
        ("lengths", f"{facts['shortest']:g} to {facts['longest']:g} s"),
        ("rates", f"frames a second: {counted(facts['rates'], ' in ')}"),
        ("sizes", counted(facts["sizes"], " in ")),
        ("cuts", f"{facts['cuts']:,} from one scene to another"),
        ("turned", some(facts["turned"])),
        ("variable", some(facts["variable"])),
        ("not whole", some([f"{name}: {why}" for name, why in facts["broken"].items()])),
        ("too short", some(facts["short"])),
        ("copies", some([" = ".join(group[:4]) for group in facts["duplicates"]])),
        ("unreadable", some([f"{name}: {why}" for name, why in facts["unreadable"].items()])),
        ("fit", f"{fit['items']:,} clips {'×'.join(map(str, fit['shape']))} at {fit['rate']:g} frames a second"),
        ("", f"kept decoded: {fit['decoded_mb']:,} MB" if fit["decoded_mb"] else ""),
    ]
    return report(facts, rows)
