"""A file -> the same file again, from the recipe that it carries."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from genloom import generate
from genloom.errors import UserError, printable
from genloom.origin import Marks, locate
from genloom.provenance import Origin, keys, label, read_label, watermark
from genloom.provenance.films import mdat
from genloom.provenance.pictures import riff_body, riff_chunks
from genloom.run import Run

NO_MARK = "--no-watermark"


def again(file: Path, run: Path | None = None, out: Path | None = None, source: str | None = None) -> tuple[Path, str]:
    """Make a file again, into `out` or the run's samples/again; says how the two compare, empty when they are the same.

    The sample is made alone first; where that rounds otherwise, together with those that it was made with. `source`
    replaces the path that the recipe has. Raises UserError when the file has no recipe, or its run is gone or has changed.
    """
    origin = recipe(file)
    found = locate(origin, file, run)
    if found.spec.modality == "video" and label.kind_of(file) is label.PNG:
        raise UserError(f"'{file}' is one picture of a film: {printable(origin.command)}")
    if origin.watermark:
        _has_its_key(file, origin.watermark)
    folder = out or found.folder / "samples" / "again"
    target = folder / file.name
    if target.exists() and target.samefile(file):
        raise UserError(f"'{file}' would be replaced by itself: give --out another folder.")
    start = origin.index - origin.index % generate.BATCH
    spans = [(origin.index, origin.index + 1), (start, min(start + generate.BATCH, origin.of))]
    if found.spec.modality == "table":
        spans = [(0, origin.of)]  # one file of them all
    try:
        before = essence(file)
    except (OSError, SyntaxError, *label.BROKEN) as error:
        raise UserError(f"'{file}' is damaged ({error}): it cannot be compared with what would be made.") from None
    difference = ""
    for span in dict.fromkeys(spans):
        made = _make(found, origin, span, folder, file, source)
        if not (difference := compared(before, essence(made))):
            break
    return target, difference


def _has_its_key(file: Path, number: str) -> None:
    """Raises UserError unless the key of this number is here; makes none."""
    key, place = keys.existing_key(), keys.home() / keys.KEY
    if key is None or watermark.number(key) != number:
        amiss = (
            "a watermark, and there is no key here" if key is None else f"the watermark of another key than '{place}'"
        )
        raise UserError(
            f"'{file}' has {amiss}: where you have a copy of its key, put it at '{place}'; without it the same file cannot be made."
        )


def recipe(file: Path) -> Origin:
    """What a file says of its origin. Raises UserError when that is not enough to make it again."""
    try:
        origin = read_label(file)
    except (OSError, label.BrokenError) as error:
        raise UserError(
            f"The recipe in '{file}' cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from None
    if origin is None:
        raise UserError(
            f"'{file}' carries no recipe: genloom did not make it, or it was saved anew by another program."
        )
    if origin.how != "sample":
        raise UserError(f"'{file}' is made again by the command in it: {printable(origin.command)}")
    lost = [name for name, value in origin.conditions.items() if isinstance(value, dict) and set(value) == {"digest"}]
    if lost and lost != ["source"]:
        raise UserError(
            f"'{file}' was made with a {lost[0]} that is too long to be kept in it: it cannot be made again."
        )
    return origin


def _make(run: Run, origin: Origin, span: tuple[int, int], folder: Path, file: Path, source: str | None) -> Path:
    conditions: dict[str, Any] = dict(origin.conditions) | ({"source": source} if source else {})
    asked = ({} if "source" in origin.conditions else {"n": origin.of}) | {"seed": origin.seed}
    told: dict[str, Any] = {"seed": origin.seed, "conditions": conditions, "options": asked}
    marks = Marks(run, visible=origin.visible, watermark=NO_MARK not in origin.command.split(), **told)
    marks.key = marks.key if origin.watermark else None  # what had no room for one, or is older than watermarks
    made, _ = generate.named(run, origin.of, origin.seed, conditions, span, marks)
    place = origin.index - span[0]
    if len(made) <= place:
        raise UserError(
            f"'{file}' was made of source number {origin.index + 1}, and there are fewer now: give --source."
        )
    name = file.stem if run.spec.modality == "text" else file.name
    one = made if run.spec.modality == "table" else made[place : place + 1]
    return generate.written(run, one, folder, marks, first=origin.index, of=origin.of, names=[name])[0]


def essence(path: Path) -> np.ndarray:
    """What a file holds beside its metadata, as numbers: pixels, samples of sound, coded frames, letters."""
    kind, data = label.kind_of(path), label.contents(path)
    if kind in label.PICTURES:
        from PIL import Image, ImageSequence

        with Image.open(io.BytesIO(data)) as picture:
            frames = [frame.copy() for frame in ImageSequence.Iterator(picture)]
            several = len(frames) > 1  # of which the first may have a palette, and others not
            return np.stack([np.asarray(frame.convert("RGBA") if several else frame) for frame in frames])
    if kind is label.WAV:
        sound = next((riff_body(data, start) for name, start, _ in riff_chunks(data) if name == b"data"), b"")
        return np.frombuffer(sound[: len(sound) // 2 * 2], "<i2")
    return np.frombuffer(mdat(data) if kind in (label.MP4, label.MOV) else data, np.uint8)


def compared(a: np.ndarray, b: np.ndarray) -> str:
    """How two differ, in words; empty when they do not."""
    if a.shape != b.shape:
        return f"it has {b.size:,} values, and the file {a.size:,}"
    gap = np.abs(a.astype(np.int64) - b.astype(np.int64))
    return f"{(gap > 0).mean():.2%} of its values differ, by {gap.max()} at most" if gap.any() else ""
