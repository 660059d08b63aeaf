"""What --out names: a folder, or one file whose ending says what it is to be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genloom.errors import UserError

FILMS = (".mp4", ".mov", ".mkv", ".gif", ".webp")  # endings of the name of one film
SOUNDS, TABLES, SHEETS = (".wav",), (".csv",), (".png",)
ENDINGS = {"audio": SOUNDS, "video": FILMS, "table": TABLES}  # of the name of one file of a modality
# Endings of files as people name them: a folder may have a dot in its name, `lr0.5` or `faces.v2`, but none of these.
_OF_FILES = (
    "aac aif aiff apng avi avif bmp csv flac gif htm html jpeg jpg json jsonl m4a m4v md mkv mov mp3 mp4 mpeg mpg npy npz "
    "ogg ogv opus parquet pdf png tar tif tiff tsv txt wav webm webp wmv xlsx zip"
)
OF_FILES = frozenset(f".{ending}" for ending in _OF_FILES.split())


def is_file(
    out: Path, endings: Sequence[str], n: int | None = None, form: str | None = None, holds_all: bool = False
) -> bool:
    """Whether `out` is the name of a file and not of a folder. Raises UserError for one with another ending, for several
    samples that it does not hold, or for another form."""
    ending = out.suffix.lower()
    if ending not in endings:
        if str(out) == "-" or (ending in OF_FILES and not out.is_dir()):
            raise _not_offered(out, endings, "a folder")
        return False
    if n is not None and not holds_all:
        holds_one(out, n)
    if form not in (None, ending[1:]):
        raise UserError(f"'{out}' does not end in .{form}: leave --form out, or give --out a folder.")
    return True


def holds_one(out: Path, n: int) -> None:
    """Raises UserError for so many samples in the one file of that name."""
    if n != 1:
        raise UserError(
            f"'{out}' is the name of one file, and {n} samples are asked for: give --out a folder, or ask for one."
        )


def only_file(out: Path, endings: Sequence[str]) -> None:
    """Raises UserError for what is not the name of a file with one of these endings."""
    if out.suffix.lower() not in endings:
        raise _not_offered(out, endings)


def _not_offered(out: Path, endings: Sequence[str], *also: str) -> UserError:
    named = (f"a name that ends in {', '.join(endings)}",) if endings else ()
    return UserError(f"'{out}' is not what this writes: give --out {', or '.join([*also, *named])}.")


def with_form(name: str, form: str) -> str:
    """The name of an MP4 file as that of another form; of frames, of a folder."""
    stem = name.removesuffix(".mp4")
    return stem.replace(".", "_") if form == "frames" else f"{stem}.{form}"
