"""A file -> the same file again, from the recipe that it carries."""

from __future__ import annotations

import inspect
import io
import json
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np
from torch import Tensor

from genloom import generate, naming
from genloom.errors import UserError, printable
from genloom.origin import Marks, locate
from genloom.plugins import model_of
from genloom.provenance import Origin, check, keys, label, read_label, remuxed, watermark
from genloom.provenance.films import mdat
from genloom.provenance.pictures import riff_body, riff_chunks
from genloom.run import Run

NO_MARK = "--no-watermark"
MOST = 10**9  # samples of one command, or it is none that anybody gave


def again(file: Path, run: Path | None = None, out: Path | None = None, source: str | None = None) -> tuple[Path, str]:
    """Make a file again, into `out` or the run's samples/again; says how the two compare, empty when they are the same.

    The sample is made alone first; where that rounds otherwise, together with those that it was made with. `source`
    replaces the path that the recipe has. Raises UserError when the file has no recipe, or its run is gone or has changed.
    """
    origin = recipe(file)
    found = locate(origin, file, run)
    _can_be_followed(file, origin, found)
    if found.spec.modality == "video" and label.kind_of(file) is label.PNG:
        raise UserError(f"'{file}' is one picture of a film, which is made again whole: {printable(origin.command)}")
    if origin.watermark:
        _has_its_key(file, origin.watermark)
    folder = out or found.folder / "samples" / "again"
    target = folder / _name(file, found)
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
        _make(found, origin, span, target, file, source)
        if difference := _other_kind(file, target):
            return target, difference
        if not (difference := compared(before, essence(target))):
            return target, ""
    return target, f"{difference}. {_why(file)}"


def _name(file: Path, run: Run) -> str:
    """The file's own, with an ending that the run writes: it may have been saved as another kind since."""
    endings = {"image": (".png",), "text": (".txt",), **naming.ENDINGS}[run.spec.modality]
    return file.name if file.suffix in endings else f"{file.stem}{endings[0]}"


def _other_kind(file: Path, made: Path) -> str:
    """That a file is of another kind than what its run writes, in words; empty when it is not."""
    was, now = label.kind_of(file), label.kind_of(made)
    if was is now or was is None or now is None:
        return ""
    return f"the file is {was.name} now, and the run wrote {now.name}: another program saved it anew"


def _why(file: Path) -> str:
    """What may have made the difference, as far as the file tells."""
    found, kind = check(file), label.kind_of(file)
    if found.state == "invalid":
        return f"The signature tells that {found.reason}"
    machine = "this machine rounds otherwise, or its libraries are others"
    if found.state in ("valid", "foreign") or kind is None:  # what lies beside a file holds for its contents alone
        return machine.capitalize()
    return f"Nothing in the file tells whether it was changed, or saved anew by another program; else {machine}"


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
    if file.exists() and not file.is_file():
        raise UserError(f"'{file}' is no file: give one that `genloom sample` made.")
    try:
        origin = read_label(file)
    except (OSError, label.BrokenError) as error:
        raise UserError(
            f"The recipe in '{file}' cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from None
    if origin is None:
        raise UserError(
            f"'{file}' carries no recipe: genloom did not make it, made it with --no-provenance, or another program saved "
            "it anew."
        )
    if origin.how != "sample":
        raise UserError(f"'{file}' is made again by the command in it: {printable(origin.command)}")
    lost = [name for name, value in origin.conditions.items() if isinstance(value, dict) and set(value) == {"digest"}]
    if lost and lost != ["source"]:
        raise UserError(
            f"'{file}' was made with a {lost[0]} that is too long to be kept in it: it cannot be made again."
        )
    return origin


def _can_be_followed(file: Path, origin: Origin, run: Run) -> None:
    """Raises UserError for numbers and conditions that no command takes: anybody may have written them."""
    takes = inspect.signature(model_of(run).sample, eval_str=True).parameters
    odd = [k for k, v in origin.conditions.items() if k in takes and not _fits(v, k, takes[k].annotation)]
    if not 0 <= origin.index < origin.of <= MOST:
        amiss = f"it tells of sample {origin.index} of {origin.of}"
    elif run.spec.modality == "table" and origin.of > bytes(label.contents(file)).count(b"\n"):
        amiss = f"it tells of {origin.of} rows, and the file has fewer"
    elif odd:
        amiss = f"'{odd[0]}' cannot be {printable(json.dumps(origin.conditions[odd[0]]))[:60]}"
    else:
        return
    raise UserError(f"The recipe in '{file}' cannot be followed, for {amiss}: genloom did not write it so.")


def _fits(value: Any, name: str, kind: Any) -> bool:
    """Whether a condition, as JSON has it, may be one of this type; a class, or what is read from a file, has a name."""
    kinds = get_args(kind) or (kind,)
    numbers = {int, float, bool} & set(kinds)
    if isinstance(value, dict):
        return set(value) == {"digest"} or any(get_origin(k) is dict for k in kinds)
    if isinstance(value, list):
        inside = {type(v) for v in value}
        return (list[str] in kinds and inside <= {str}) or (
            Tensor in kinds and bool(numbers) and inside <= {int, float}
        )
    if isinstance(value, str):
        return name == "label" or str in kinds or not numbers
    return type(value) in kinds or (type(value) is int and float in kinds)


def _make(run: Run, origin: Origin, span: tuple[int, int], target: Path, file: Path, source: str | None) -> None:
    conditions: dict[str, Any] = dict(origin.conditions) | ({"source": source} if source else {})
    asked = ({} if "source" in origin.conditions else {"n": origin.of}) | {"seed": origin.seed}
    told: dict[str, Any] = {"seed": origin.seed, "conditions": conditions, "options": asked}
    key = keys.existing_key() if origin.watermark else None  # what had no room for one, or is older than watermarks
    wanted = NO_MARK not in origin.command.split()
    marks = Marks(run, visible=origin.visible, watermark=wanted, key_of=lambda: key, **told)
    made, _ = generate.named(run, origin.of, origin.seed, conditions, span, marks)
    place = origin.index - span[0]
    if len(made) <= place:
        raise UserError(
            f"'{file}' was made of source number {origin.index + 1}, and there are fewer now: give --source."
        )
    name = target.stem if run.spec.modality == "text" else target.name
    one = made if run.spec.modality == "table" else made[place : place + 1]
    generate.written(run, one, target.parent, marks, first=origin.index, of=origin.of, names=[name])


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
    if kind is not None and kind.form:
        return np.frombuffer(remuxed.packets(path), np.uint8)
    return np.frombuffer(mdat(data) if kind in (label.MP4, label.MOV) else data, np.uint8)


def compared(a: np.ndarray, b: np.ndarray) -> str:
    """How two differ, in words; empty when they do not."""
    if a.shape != b.shape:
        return f"it has {b.size:,} values, and the file {a.size:,}"
    gap = np.abs(a.astype(np.int64) - b.astype(np.int64))
    return f"{(gap > 0).mean():.2%} of its values differ, by {gap.max()} at most" if gap.any() else ""
