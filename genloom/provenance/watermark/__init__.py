"""Marks in what is made itself, that stay when its metadata is gone: put in by a key, and found by it alone."""

from __future__ import annotations

import hmac
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from genloom.core import Spec
from genloom.data.decode import FORMATS, eight_bits
from genloom.data.decode import SUFFIXES as PICTURES
from genloom.data.draw import to_levels
from genloom.data.files import UnreadableError
from genloom.data.film_files import FILMS
from genloom.data.sound import SUFFIXES as SOUNDS
from genloom.provenance import label
from genloom.provenance.watermark import picture, sound
from genloom.text import mark
from genloom.text.tokenizer import from_json

TEXTS = frozenset({".txt", ".md"})
LONGEST = 1 << 20  # characters of a text that are looked at
SEARCHED = TEXTS | PICTURES | SOUNDS | FILMS  # endings of files that a mark may be in, whether a label is or not
FRAMES = 16  # of a film that are looked at, evenly spaced


def number(key: bytes) -> str:
    """What tells one key from another and nothing of the key itself: 16 hexadecimal digits."""
    return hmac.new(key, b"genloom watermark", "sha256").hexdigest()[:16]


def put(made: Tensor | Sequence[Tensor], spec: Spec, key: bytes) -> tuple[Tensor | Sequence[Tensor], bool]:
    """Samples with the mark in them, and whether there is one: what has no room for it stays as it is.

    Marked films [C, T, H, W] are uint8, the levels of their files.
    """
    if spec.modality == "image" and isinstance(made, Tensor) and min(made.shape[-2:]) >= picture.SMALLEST:
        return picture.marked(made, key), True
    if spec.modality == "audio":
        rate = int(spec.extra["rate"])
        sounds = [sound.marked(one, key, rate) for one in made]
        there = any(one.shape[-1] >= sound.SHORTEST * rate for one in sounds)
        return (torch.stack(sounds) if isinstance(made, Tensor) else sounds), there
    if spec.modality == "video" and all(has_room(film) for film in made):
        return [_marked_film(film, key) for film in made], True
    return made, False


def _marked_film(film: Tensor, key: bytes) -> Tensor:
    """[C, T, H, W] in [-1, 1] -> uint8 [C, T, H, W], as a file holds it."""
    return torch.from_numpy(picture.mark(to_levels(film.transpose(0, 1)), key)).transpose(0, 1)


def has_room(frames: Tensor) -> bool:
    """Whether frames [..., H, W] are pictures that a mark has room in, [C, T, H, W] or one."""
    return frames.shape[0] in (1, 3, 4) and min(frames.shape[-2:]) >= picture.SMALLEST


def score(path: Path, key: bytes, spec: Spec | None = None) -> tuple[float, float] | None:
    """How surely a file holds the mark of this key: standard deviations, and the p-value; None where none can be looked for.

    In a text it can only with the `spec` of the run that made it, for its tokenizer. Raises OSError when it cannot be opened,
    UserError where a library that reads it is not here.
    """
    kind, ending = label.kind_of(path), path.suffix.lower()
    if kind in label.PICTURES or (kind in (None, label.MP4) and ending in PICTURES):  # AVIF begins as MP4 does
        return _picture(path, key)
    if kind in (label.WAV, label.FLAC, label.MP3, label.OGG) or (kind is None and ending in SOUNDS):
        return _sound(path, key)
    if kind in (label.MP4, label.MOV, label.MATROSKA, label.WEBM) or (kind is None and ending in FILMS):
        return _film(path, key) or _sound(path, key)
    if kind is None and is_text(path) and spec and "tokenizer" in spec.extra:
        return _text(path, key, spec)
    return None


def is_text(path: Path) -> bool:
    return path.suffix.lower() in TEXTS


def _text(path: Path, key: bytes, spec: Spec) -> tuple[float, float] | None:
    tokens = from_json(spec.extra["tokenizer"])
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read(LONGEST)
    own = tokens.known(text)  # what others put around it, or between, is not what the run wrote
    return mark.score(tokens.encode(own), key, tokens.size)


@torch.inference_mode()
def _picture(path: Path, key: bytes) -> tuple[float, float] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file's other metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as opened:
                wanted = set(np.linspace(0, getattr(opened, "n_frames", 1) - 1, FRAMES).round().astype(int).tolist())
                frames = [_pixels(f) for i, f in enumerate(ImageSequence.Iterator(opened)) if i in wanted]
    except Exception:  # decoders meet hostile bytes with errors of every kind
        return None  # what is no whole picture says nothing
    return picture.score(frames, key)


@torch.inference_mode()
def _sound(path: Path, key: bytes) -> tuple[float, float] | None:
    try:
        with open(path, "rb") as stream:
            rate, _, blocks = import_module("genloom.data.sound").decoded(stream, path.name)
            return sound.score(blocks, rate, key)
    except (UnreadableError, EOFError):
        return None  # no sound


@torch.inference_mode()
def _film(path: Path, key: bytes) -> tuple[float, float] | None:
    """Of frames evenly spaced over the film, however long it is."""
    av = import_module("genloom.data.film_files").library()
    kept, every = list[np.ndarray](), 1
    try:
        with av.open(str(path), metadata_errors="ignore") as film:
            for i, frame in enumerate(film.decode(video=0) if film.streams.video else ()):
                if i % every:
                    continue
                kept.append(frame.to_ndarray(format="gray"))
                if len(kept) == 2 * FRAMES:
                    kept, every = kept[::2], 2 * every
    except (av.FFmpegError, ValueError):
        pass  # what was read before it broke off may tell
    return picture.score([frame for frame in kept if frame.shape == kept[0].shape], key)


def _pixels(frame: Image.Image) -> np.ndarray:
    frame = eight_bits(frame)
    return np.asarray(frame if frame.mode in ("L", "RGB", "RGBA") else frame.convert("RGB"))
