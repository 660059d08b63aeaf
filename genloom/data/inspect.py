"""The preflight: what is in a data set, what is wrong with it, and what `fit` would make of it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genloom.data import resolve
from genloom.data.catalog import Entry
from genloom.data.decode import Header, Plan, Unreadable, decode, read_header
from genloom.data.files import Files, shown
from genloom.data.image import FEWEST, IN_MEMORY, check_classes, choose, from_catalog, none_usable, pictures_in
from genloom.data.labels import without
from genloom.data.survey import COUNTS, ImageOptions, decide, image_options
from genloom.data.translation import describe
from genloom.errors import UserError

SHOWN = 10  # of each list, when it is written as text


@dataclass(frozen=True)
class Look:
    """One file: its header and the hash of its bytes, or why it cannot be read."""

    name: str
    header: Header | None
    hash: bytes
    why: str = ""


def inspect(source: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Everything worth knowing before training, JSON-able. Every file is read and decoded once (`limit`: so many).

    Keys: source, kind, files, looked_at, other_files, formats, modes, sizes, classes, duplicates (groups of names with
    the same bytes), unreadable (name: why), fit, notes, problems. Raises UserError when there is nothing to look at;
    what would keep `fit` from training is in `problems`.
    """
    found = resolve(source if isinstance(source, str | Path) else Path(source))
    chosen = image_options(options)
    if isinstance(found, Entry):
        return _of_entry(found, options)
    return _of_path(found, chosen)


def _of_path(path: Path, options: ImageOptions) -> dict[str, Any]:
    problems: list[str] = []
    files = pictures_in(path)
    try:
        chosen = choose(files, "train", options)
    except UserError as error:
        chosen, problems = without(files.names), [str(error)]
    looks = list(_look_at(files, chosen.names))
    bad = {look.name: look.why for look in looks if not look.header}
    headers = [look.header for look in looks if look.header]
    if not headers:
        raise none_usable(str(path), bad)
    plan, notes = decide(headers, options)
    chosen.keep(bad)
    try:
        check_classes(chosen)
    except UserError as error:
        problems.append(str(error))
    if len(headers) < FEWEST:
        problems.append(f"Training needs at least {FEWEST} pictures: add more.")
    counts = np.bincount(chosen.ids, minlength=len(chosen.classes)).tolist()
    return {
        "source": str(path),
        "kind": files.kind,
        "files": len(files.names),
        "looked_at": len(looks),
        "other_files": {"count": files.others, "such_as": files.other_names},
        "formats": dict(Counter(h.format for h in headers).most_common()),
        "modes": dict(Counter(h.mode for h in headers).most_common()),
        "sizes": _sizes(headers),
        "classes": dict(zip(chosen.classes, counts, strict=True)),
        "duplicates": _duplicates(looks),
        "unreadable": {shown(name): why for name, why in bad.items()},
        "fit": _fit(plan, len(headers)),
        "notes": [*chosen.notes, *notes, *describe(files.names)],
        "problems": problems,
    }


def _look_at(files: Files, names: Sequence[str]) -> Iterator[Look]:
    """Read and decode each file, small, in threads: a header can be whole where the picture is not."""
    tiny = Plan(8, 3, "stretch", (255, 255, 255))

    def look(name: str) -> Look:
        try:
            header = read_header(files, name)
            decode(files, name, tiny)
            with files.open(name) as stream:
                return Look(name, header, hashlib.blake2b(stream.read(), digest_size=16).digest())
        except (Unreadable, OSError) as error:
            return Look(name, None, b"", str(error))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(names), 1024):  # not all at once: each waiting file costs a kilobyte
            yield from pool.map(look, names[start : start + 1024])


def _duplicates(looks: Sequence[Look]) -> list[list[str]]:
    groups: dict[bytes, list[str]] = {}
    for look in looks:
        if look.header:
            groups.setdefault(look.hash, []).append(shown(look.name))
    return [group for group in groups.values() if len(group) > 1]


def _sizes(headers: Sequence[Header]) -> dict[str, Any]:
    common = Counter((h.width, h.height) for h in headers).most_common()
    by_area = sorted(common, key=lambda item: item[0][0] * item[0][1])
    return {
        "most_common": {f"{w}×{h}": count for (w, h), count in common[:SHOWN]},
        "different": len(common),
        "smallest": "{}×{}".format(*by_area[0][0]),
        "largest": "{}×{}".format(*by_area[-1][0]),
        "not_square": sum(h.width != h.height for h in headers),
    }


def _fit(plan: Plan, count: int) -> dict[str, Any]:
    weight = count * plan.channels * plan.size**2
    return {
        "items": count,
        "shape": [plan.channels, plan.size, plan.size],
        "channels": next(name for name, n in COUNTS.items() if n == plan.channels),
        "not_square": plan.fit,
        "decoded_mb": round(weight / 2**20, 1),
        "kept": "decoded in memory" if weight <= IN_MEMORY else "decoded as needed",
    }


def _of_entry(entry: Entry, options: dict[str, Any]) -> dict[str, Any]:
    data = from_catalog(entry, **options)
    native = from_catalog(entry, **{k: v for k, v in options.items() if k == "limit"})
    channels, height, width = native.spec.shape
    plan = Plan(data.spec.shape[1], data.spec.shape[0], image_options(options).fit, (255, 255, 255))
    hashes = [hashlib.blake2b(pixels.tobytes(), digest_size=16).digest() for pixels in native.pixels]
    look = Header(width, height, "L" if channels == 1 else "RGB", "", channels == 1, False)
    return {
        "source": entry.name,
        "kind": "built in",
        "files": len(native),
        "looked_at": len(native),
        "other_files": {"count": 0, "such_as": []},
        "formats": {},
        "modes": {look.mode: len(native)},
        "sizes": _sizes([look]) | {"most_common": {f"{width}×{height}": len(native)}},
        "classes": data.summary["classes"],
        "duplicates": _duplicates([Look(f"#{i}", look, h) for i, h in enumerate(hashes)]),
        "unreadable": {},
        "fit": _fit(plan, len(data)),
        "notes": [f"{entry.summary}.", f"{entry.licence}, by {entry.credit}: {entry.url}"],
        "problems": [],
    }


# ── as text ──────────────────────────────────────────────────────────────────────────────────────────────────────
def format_report(facts: dict[str, Any]) -> str:
    """What `inspect` found, as lines to read."""
    fit, sizes, others = facts["fit"], facts["sizes"], facts["other_files"]
    classes, copies = facts["classes"], facts["duplicates"]
    extra = sum(len(group) - 1 for group in copies)
    lines = [
        f"{facts['source']} ({facts['kind']})",
        _line("pictures", f"{facts['files']:,}" + _unless(facts["looked_at"], facts["files"])),
        _line("formats", _counts(facts["formats"])),
        _line("modes", _counts(facts["modes"])),
        _line("sizes", f"{_counts(sizes['most_common'])}; {sizes['smallest']} to {sizes['largest']}"),
        _line("classes", f"{len(classes)}: {_counts(classes)}" if classes else "none"),
        _line("copies", f"{extra:,} exact" + "".join(f"\n             {' = '.join(g[:4])}" for g in copies[:SHOWN])),
        _line("unreadable", f"{len(facts['unreadable']):,}" + _named(facts["unreadable"])),
        _line("other files", f"{others['count']:,} ({', '.join(others['such_as'])})" if others["count"] else ""),
        _line("fit", f"{fit['items']:,} items {'×'.join(map(str, fit['shape']))} ({fit['channels']})"),
        _line("", f"{fit['kept']}, {fit['decoded_mb']:,} MB; not square: {fit['not_square']}"),
        *(_line("note", note) for note in facts["notes"]),
        *(_line("PROBLEM", problem) for problem in facts["problems"]),
    ]
    return "\n".join(line for line in lines if line)


def _line(name: str, text: str) -> str:
    return f"{name:<12} {text}" if text else ""


def _unless(looked_at: int, files: int) -> str:
    return "" if looked_at == files else f", {looked_at:,} looked at"


def _counts(counts: dict[str, int]) -> str:
    more = f", {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
    return ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:SHOWN]) + more


def _named(unreadable: dict[str, str]) -> str:
    return "".join(f"\n             {name}: {why}" for name, why in list(unreadable.items())[:SHOWN])
