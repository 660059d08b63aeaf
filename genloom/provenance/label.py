"""What a file says of its own origin: metadata that any tool can read, and that anyone can remove.

Two texts, both JSON: the implicit label of GB 45438-2025 (`AIGC`), and ours (`GENLOOM`), from which the file can be made
again. Where each kind of file has a place for them, they are there; beside others lies FILE.genloom.json.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from genloom import __version__
from genloom.errors import UserError
from genloom.provenance import films, pictures, remuxed, sounds, xmp
from genloom.provenance.pictures import Data, Pieces
from genloom.run import atomic, put, writing

BESIDE = ".genloom.json"  # after the name of a file that has no place for metadata
PRODUCER = "GENLOOM_PRODUCER"  # in the environment: the name or code that a label gives
LONGEST = 8192  # characters of a condition that is kept whole
IN_MEMORY = 1 << 23  # bytes of a file that is read rather than mapped
BROKEN = (ValueError, IndexError, struct.error, OverflowError)


class BrokenError(Exception):
    """Why the metadata of a file cannot be read, in a few words."""


@dataclass(frozen=True)
class Origin:
    """What made a file, and how to make it again.

    `run` is the name of the run folder, not its path; `run_hash` the SHA-256 of its weights; item `index` of `of` that
    were drawn from `seed` under `conditions` (JSON-able); `how` is sample, or what else made it; `command` makes it
    again; `created` is UTC; `watermark` the number of
    the key whose mark is in it, if any.
    """

    model: str
    run: str
    run_hash: str
    seed: int = 0
    index: int = 0
    of: int = 1
    conditions: Mapping[str, Any] = field(default_factory=dict)
    how: str = "sample"
    visible: bool = False
    watermark: str = ""
    command: str = ""
    genloom: str = __version__
    created: str = ""

    def to_json(self) -> str:
        text = json.dumps(vars(self), ensure_ascii=False, separators=(",", ":"))
        return _NO_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

    @classmethod
    def from_json(cls, text: str) -> Origin | None:
        """None for anything that no genloom wrote."""
        value = as_object(text)
        known = {f.name: type(getattr(_BLANK, f.name)) for f in fields(cls)}
        if value is None or not {"model", "run", "run_hash"} <= value.keys():
            return None
        given = {k: v for k, v in value.items() if k in known}  # a newer genloom may say more
        return cls(**given) if all(type(v) is known[k] for k, v in given.items()) else None

    @property
    def number(self) -> str:
        """The same for the same content: of the run's weights, seed, index and conditions."""
        told = (
            self.run_hash,
            self.how,
            self.seed,
            self.index,
            self.command if self.how != "sample" else self.conditions,
        )
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


_BLANK = Origin("", "", "")
_NO_XML = re.compile("[\x7f-\x9f\ud800-\udfff\ufffe\uffff]")  # characters that XML, or UTF-8, does not take


def as_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def condition(value: Any) -> Any:
    """A condition as it is kept: what is no plain JSON, or too long, by its digest; of an absolute path the last name.

    A path says more of a person's machine than a published file should.
    """
    if isinstance(value, os.PathLike) or (isinstance(value, str) and os.path.isabs(value) and os.path.exists(value)):
        return Path(value).name if os.path.isabs(value) else os.fspath(value)
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        raw = value.numpy().tobytes() if hasattr(value, "numpy") else repr(value).encode()
        return {"digest": hashlib.sha256(raw).hexdigest()}
    return value if len(text) <= LONGEST else {"digest": hashlib.sha256(text.encode()).hexdigest()}


def producer() -> str:
    """Who a label says made the content: `$GENLOOM_PRODUCER`, a name or a provider's code, else genloom.

    Raises UserError for characters that GB 45438-2025 (annex E j) does not allow.
    """
    name = os.environ.get(PRODUCER) or "genloom"
    if not re.fullmatch(r"[!#-\[\]-~]{1,200}", name):
        raise UserError(
            f"{PRODUCER} is '{name}': a label takes letters, digits and signs of ASCII, without spaces or quotes."
        )
    return name


def aigc(origin: Origin) -> str:
    """The implicit label of GB 45438-2025, annex E: `Label` 1 is generated for certain.

    The fields of who spreads it, and the reserved ones, are for those to fill.
    """
    label = {"Label": "1", "ContentProducer": producer(), "ProduceID": origin.number, "ReservedCode1": ""}
    label |= {"ContentPropagator": "", "PropagateID": "", "ReservedCode2": ""}
    return json.dumps(label, separators=(",", ":"))


# ── kinds of files ───────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Kind:
    """A kind of file: `signed` says that C2PA has a place in it. `form` is FFmpeg's name of what it copies."""

    name: str
    mime: str
    read: Callable[[Data], dict[str, str]] | None = None
    write: Callable[[Data, Mapping[str, str]], Pieces] | None = None
    signed: bool = True
    form: str = ""


def _picture(name: str, mime: str, read: pictures.Reader, write: pictures.Writer) -> Kind:
    def get(data: Data) -> dict[str, str]:
        packet = read(data)
        return xmp.fields(packet) if packet else {}

    return Kind(name, mime, get, lambda data, told: write(data, xmp.written(told, read(data))))


def _ascii(told: Mapping[str, str]) -> dict[str, str]:
    """RIFF does not say how its texts are encoded: \\u escapes read alike in all."""
    return {name: json.dumps(json.loads(text), separators=(",", ":")) for name, text in told.items()}


PNG = _picture("PNG", "image/png", pictures.read_png, pictures.write_png)
JPEG = _picture("JPEG", "image/jpeg", pictures.read_jpeg, pictures.write_jpeg)
WEBP = _picture("WebP", "image/webp", pictures.read_webp, pictures.write_webp)
GIF = _picture("GIF", "image/gif", pictures.read_gif, pictures.write_gif)
WAV = Kind("WAV", "audio/wav", sounds.read_wav, lambda data, told: sounds.write_wav(data, _ascii(told)))
FLAC = Kind("FLAC", "audio/flac", sounds.read_flac, sounds.write_flac)
MP3 = Kind("MP3", "audio/mpeg", sounds.read_mp3, sounds.write_mp3)
MP4 = Kind("MP4", "video/mp4", films.read_mp4, films.write_mp4)
MOV = Kind("MOV", "video/quicktime", films.read_mp4, films.write_mp4)
OGG = Kind("Ogg", "audio/ogg", signed=False, form="ogg")
MATROSKA = Kind("Matroska", "video/x-matroska", signed=False, form="matroska")
WEBM = Kind("WebM", "video/webm", signed=False, form="webm")
PICTURES = (PNG, JPEG, WEBP, GIF)
_BEGINNINGS = ((b"\x89PNG\r\n\x1a\n", PNG), (b"\xff\xd8\xff", JPEG), (b"GIF8", GIF), (b"fLaC", FLAC), (b"OggS", OGG))
_RIFF = {b"WEBP": WEBP, b"WAVE": WAV}


def kind_of(path: Path) -> Kind | None:
    """What a file is, by what it begins with; None where there is no place for metadata that we know.

    Raises OSError.
    """
    with open(path, "rb") as file:
        head = file.read(64)
        if size := sounds.id3_size(head):
            file.seek(size)
            return FLAC if file.read(4) == b"fLaC" else MP3
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return MOV if head[8:12] == b"qt  " else MP4
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return WEBM if b"webm" in head else MATROSKA
    return MP3 if head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE6 == 0xE2 else None  # a frame of layer III


def contents(path: Path) -> Data:
    """The bytes of a file; a large one is mapped, not read."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size <= IN_MEMORY:
            return file.read()
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


# ── in and out ───────────────────────────────────────────────────────────────────────────────────────────────────
def texts(path: Path) -> dict[str, str]:
    """The fields AIGC and GENLOOM as a file has them, in it or beside it; those that it lacks are left out.

    Raises BrokenError when its metadata cannot be read, OSError when it cannot be opened.
    """
    kind = kind_of(path)
    try:
        if kind is None:
            return _beside(path)
        return (kind.read(contents(path)) if kind.read else remuxed.read(path)) or _beside(path)
    except BROKEN as error:
        raise BrokenError(" ".join(str(error).split()) or type(error).__name__) from None


def _beside(path: Path) -> dict[str, str]:
    beside = path.with_name(path.name + BESIDE)
    if not beside.is_file():  # a pipe would be waited for
        return {}
    value = as_object(beside.read_text(encoding="utf-8")) or {}
    if value.pop("sha256", None) != digest(path):
        raise ValueError(f"'{path.name}{BESIDE}' tells of other contents than the file has now")
    return {name.upper(): json.dumps(held, ensure_ascii=False) for name, held in value.items()}


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_label(path: Path) -> Origin | None:
    """What a file says of its origin, None when it says nothing that a genloom wrote. Raises as `texts` does."""
    return Origin.from_json(texts(path).get("GENLOOM", ""))


def write_label(path: Path, origin: Origin) -> None:
    """Write both texts into a file, or beside it: all of it or nothing. Raises UserError when it cannot."""
    if kind := kind_of(path):
        with atomic(path) as part:
            if kind.form:
                copied(path, part, origin, kind)
            else:
                part.write_bytes(b"".join(labelled(path, contents(path), origin, kind)))
    else:
        write_beside(path, origin, path)


def labelled(path: Path, data: Data, origin: Origin, kind: Kind) -> Pieces:
    """The pieces of a file with both texts in it. Raises UserError when it is not whole."""
    assert kind.write
    try:
        return kind.write(data, _told(origin))
    except BROKEN as error:
        raise UserError(f"'{path}' cannot be labelled as a {kind.name}, and stays as it was: {error}.") from None


def copied(path: Path, out: Path, origin: Origin, kind: Kind) -> None:
    """The same for a kind that FFmpeg copies, from file to file."""
    try:
        remuxed.write(path, _told(origin), out, kind.form)
    except BROKEN as error:
        raise UserError(f"'{path}' cannot be labelled as a {kind.name}, and stays as it was: {error}.") from None


def _told(origin: Origin) -> dict[str, str]:
    return {"AIGC": aigc(origin), "GENLOOM": origin.to_json()}


def write_beside(path: Path, origin: Origin, contents: Path) -> None:
    """FILE.genloom.json, that holds while FILE has these contents. Raises UserError when it cannot be written."""
    told = {"AIGC": json.loads(aigc(origin)), "genloom": vars(origin), "sha256": digest(contents)}
    beside = path.with_name(path.name + BESIDE)
    with writing(beside):
        put(beside, (json.dumps(told, ensure_ascii=False, indent=1) + "\n").encode())


def drop_beside(path: Path) -> None:
    """Without FILE.genloom.json, which told of what FILE was before. Raises UserError when it cannot be removed."""
    beside = path.with_name(path.name + BESIDE)
    with writing(beside):
        beside.unlink(missing_ok=True)
