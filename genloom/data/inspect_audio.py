"""The preflight of sounds: how long, how loud, at what rate; what cannot be read, and what is there twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genloom.data import resolve
from genloom.data.audio import CLIPPED, AudioOptions, nothing_usable, sounds_in
from genloom.data.catalog import Entry
from genloom.data.files import hashed, noting, shown
from genloom.data.preflight import SHOWN, listed, report, same, unreadable
from genloom.data.sound import Sound, read
from genloom.data.speech import describe
from genloom.errors import UserError


class Look(NamedTuple):
    """What one file is found to be; `level` is the mean power in dB of full scale."""

    seconds: float
    rate: int
    channels: int
    level: float
    silent: bool
    clipped: bool
    same: str  # of files with the same samples


def inspect(source: str | Path, **given: Any) -> dict[str, Any]:
    """Keys: source, kind, files, minutes, shortest and longest (s), rates and channels (value: files), levels (dB of
    full scale: quietest, middle, loudest), silent and clipped (names), duplicates (groups of names), unreadable (name:
    why), notes. Every file is decoded. Raises UserError when none can be."""
    AudioOptions.of(given)
    found = resolve(source)
    if isinstance(found, Entry) and found.modality != "audio":
        raise UserError(f"'{found.name}' is {found.modality}, and no sound.")
    path = found.load("train") if isinstance(found, Entry) else found
    files = sounds_in(path)
    looks, bad = dict[str, Look](), dict[str, str]()
    for name in files.names:
        with noting(bad, name), files.open(name) as stream:
            looks[shown(name)] = look_at(read(stream, name))
    if not looks:
        raise nothing_usable(str(source), bad)
    seconds, levels = [look.seconds for look in looks.values()], sorted(look.level for look in looks.values())
    return {
        "source": found.name if isinstance(found, Entry) else str(found),
        "kind": files.kind,
        "files": len(looks),
        "minutes": round(sum(seconds) / 60, 2),
        "shortest": round(min(seconds), 3),
        "longest": round(max(seconds), 3),
        "rates": dict(Counter(str(look.rate) for look in looks.values()).most_common()),
        "channels": dict(Counter(str(look.channels) for look in looks.values()).most_common()),
        "levels": [round(levels[i], 1) for i in (0, len(levels) // 2, -1)],
        "silent": [name for name, look in looks.items() if look.silent],
        "clipped": [name for name, look in looks.items() if look.clipped],
        "duplicates": same((name, look.same) for name, look in looks.items()),
        "unreadable": bad,
        "notes": describe(path)
        or [f"{files.others} other files are left alone, such as {name}." for name in files.other_names[:1]],
    }


def look_at(sound: Sound) -> Look:
    power = float(np.square(sound.samples, dtype=np.float64).mean())
    same = hashed(sound.samples.tobytes())
    level = 10 * float(np.log10(power + 1e-12))
    return Look(sound.seconds, sound.original, sound.channels, level, sound.silent, sound.clipped > CLIPPED, same)


def format_report(facts: dict[str, Any]) -> str:
    """What `inspect` found, as lines to read."""

    def counts(found: dict[str, int], unit: str) -> str:
        return ", ".join(f"{int(value):,}{unit} in {count:,}" for value, count in list(found.items())[:SHOWN])

    def some(names: list[str]) -> str:
        return listed(f"{len(names):,}", names)

    quietest, middle, loudest = facts["levels"]
    rows = [
        ("sounds", f"{facts['files']:,}, {facts['minutes']:,} minutes"),
        ("lengths", f"{facts['shortest']:g} to {facts['longest']:g} s"),
        ("rates", counts(facts["rates"], " Hz")),
        ("channels", counts(facts["channels"], "")),
        ("levels", f"{quietest:g} to {loudest:g} dB of full scale, {middle:g} in the middle"),
        ("silent", some(facts["silent"])),
        ("clipped", some(facts["clipped"])),
        ("copies", some([" = ".join(group[:4]) for group in facts["duplicates"]])),
        ("unreadable", unreadable(facts)),
    ]
    return report(facts, rows)
