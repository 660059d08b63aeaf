"""The preflight: what is in a data set, what is wrong with it, and what `fit` would make of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from genloom.data import resolve
from genloom.data.catalog import Entry
from genloom.data.decode import MODES, Header, Plan, decode, read_each, read_header
from genloom.data.files import Files, hashed, shown
from genloom.data.image import FEWEST, IN_MEMORY, check_classes, choose, from_catalog, pictures_in
from genloom.data.labels import Labelled
from genloom.data.preflight import SHOWN, copies, counted, report, same, unreadable
from genloom.data.survey import NAMES, ImageOptions, decide, few, none_usable
from genloom.data.translation import describe
from genloom.errors import UserError

Look = tuple[Header, str]  # what is said at the start of a file, and the hash of all of it


def inspect(source: str | Path, **options: Any) -> dict[str, Any]:
    """Everything worth knowing before training, JSON-able. Every file is read and decoded once (`limit`: so many).

    Keys: source, kind, files, looked_at, other_files, formats, modes, sizes, classes, duplicates (groups of names with
    the same bytes), unreadable (name: why), fit, notes, problems. Raises UserError when there is nothing to look at;
    what would keep `fit` from training is in `problems`.
    """
    found = resolve(source)
    chosen = ImageOptions.of(options)
    return _of_entry(found, chosen) if isinstance(found, Entry) else _of_path(found, chosen)


def _of_path(path: Path, options: ImageOptions) -> dict[str, Any]:
    problems: list[str] = []
    files = pictures_in(path)
    try:
        chosen = choose(files, "train", options)
    except UserError as error:
        chosen, problems = Labelled(files.names), [str(error)]
    bad: dict[str, str] = {}
    looks = dict(read_each(partial(_look, files), chosen.names, bad))
    if not looks:
        raise none_usable(str(path), bad)
    plan, notes = decide([header for header, _ in looks.values()], options)
    chosen.drop(bad)
    try:
        check_classes(chosen)
    except UserError as error:
        problems.append(str(error))
    if len(looks) < FEWEST:
        problems.append(f"Training needs at least {FEWEST} pictures: add more.")
    return _facts(str(path), files.kind, looks, bad, plan) | {
        "files": len(files.names),
        "other_files": {"count": files.others, "such_as": files.other_names},
        "classes": chosen.counts(),
        "notes": [*chosen.notes, *notes, *few(len(chosen.names)), *describe(files.names)],
        "problems": problems,
    }


def _look(files: Files, name: str) -> Look:
    """Read and decode a file, small: a header can be whole where the picture is not. Raises UnreadableError or OSError."""
    header = read_header(files, name)
    decode(files, name, Plan(8, 3, "stretch", (255, 255, 255)))
    with files.open(name) as stream:
        return header, hashed(stream.read())


def _of_entry(entry: Entry, options: ImageOptions) -> dict[str, Any]:
    data = from_catalog(entry, **vars(options))
    native = from_catalog(entry, limit=options.limit)
    channels, height, width = native.spec.shape
    plan = Plan(data.spec.shape[1], data.spec.shape[0], options.fit, options.colour())
    header = Header(width, height, MODES[channels], "IDX", channels == 1, False)
    looks = {f"#{i}": (header, hashed(pixels.tobytes())) for i, pixels in enumerate(native.pixels)}
    return _facts(entry.name, "built in", looks, {}, plan) | {
        "files": len(native),
        "other_files": {"count": 0, "such_as": []},
        "classes": data.summary["classes"],
        "notes": entry.notes(),
        "problems": [],
    }


def _facts(source: str, kind: str, looks: Mapping[str, Look], bad: Mapping[str, str], plan: Plan) -> dict[str, Any]:
    """What is said alike of files and of built-in sets."""
    headers = [header for header, _ in looks.values()]
    sizes = dict(Counter((h.width, h.height) for h in headers).most_common())
    by_area = [f"{width}×{height}" for width, height in sorted(sizes, key=prod)]
    weight = len(looks) * plan.channels * plan.size**2
    return {
        "source": source,
        "kind": kind,
        "looked_at": len(looks) + len(bad),
        "formats": dict(Counter(h.format for h in headers).most_common()),
        "modes": dict(Counter(h.mode for h in headers).most_common()),
        "sizes": {
            "most_common": {f"{width}×{height}": sizes[width, height] for width, height in list(sizes)[:SHOWN]},
            "different": len(sizes),
            "smallest": by_area[0],
            "largest": by_area[-1],
            "not_square": sum(h.width != h.height for h in headers),
        },
        "duplicates": same((shown(name), digest) for name, (_, digest) in looks.items()),
        "unreadable": {shown(name): why for name, why in bad.items()},
        "fit": {
            "items": len(looks),
            "shape": [plan.channels, plan.size, plan.size],
            "channels": NAMES[plan.channels],
            "not_square": plan.fit,
            "decoded_mb": round(weight / 2**20, 1),
            "kept": "decoded in memory" if weight <= IN_MEMORY else "decoded as needed",
        },
    }


# ── as text ──────────────────────────────────────────────────────────────────────────────────────────────────────
def format_report(facts: dict[str, Any]) -> str:
    """What `inspect` found, as lines to read."""
    fit, sizes, others, classes = facts["fit"], facts["sizes"], facts["other_files"], facts["classes"]
    looked = "" if facts["looked_at"] == facts["files"] else f", {facts['looked_at']:,} looked at"
    rows = [
        ("pictures", f"{facts['files']:,}{looked}"),
        ("formats", counted(facts["formats"])),
        ("modes", counted(facts["modes"])),
        ("sizes", f"{counted(sizes['most_common'])}; {sizes['smallest']} to {sizes['largest']}"),
        ("classes", f"{len(classes)}: {counted(classes)}" if classes else "none"),
        ("copies", copies(facts)),
        ("unreadable", unreadable(facts)),
        ("other files", f"{others['count']:,} ({', '.join(others['such_as'])})" if others["count"] else ""),
        ("fit", f"{fit['items']:,} items {'×'.join(map(str, fit['shape']))} ({fit['channels']})"),
        ("", f"{fit['kept']}, {fit['decoded_mb']:,} MB; not square: {fit['not_square']}"),
    ]
    return report(facts, rows)
