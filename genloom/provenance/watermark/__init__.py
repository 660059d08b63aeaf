"""Marks in what is made itself, that stay when its metadata is gone: put in by a key, and found by it alone."""

from __future__ import annotations

import hmac
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from genloom.core import Spec
from genloom.data.files import UnreadableError
from genloom.data.sound import decoded, library
from genloom.errors import UserError
from genloom.provenance import label
from genloom.provenance.watermark import picture, sound

FRAMES = 16  # of a film that are looked at
EVERY = 4  # frames from one of them to the next
LARGEST = 1 << 25  # pixels of a frame
LISTENED = 240  # seconds of a sound that are listened to
SOUNDS = (label.WAV, label.FLAC, label.MP3, label.OGG)
FILMS = (label.MP4, label.MOV, label.MATROSKA, label.WEBM)


def number(key: bytes) -> str:
    """What tells one key from another and nothing of the key itself: 16 hexadecimal digits."""
    return hmac.new(key, b"genloom watermark", "sha256").hexdigest()[:16]


def put(made: Tensor | Sequence[Tensor], spec: Spec, key: bytes) -> tuple[Tensor | Sequence[Tensor], bool]:
    """Samples with the mark in them, and whether there is one: what has no room for it stays as it is."""
    if spec.modality == "audio":
        return [sound.marked(wave.detach().float().cpu(), int(spec.extra["rate"]), key) for wave in made], True
    if spec.modality not in ("image", "video") or not len(made) or min(made[0].shape[-2:]) < picture.SMALLEST:
        return made, False
    if spec.modality == "image":
        return picture.marked(torch.as_tensor(made), key), True
    clips = [picture.marked(clip.transpose(0, 1), key).transpose(0, 1) for clip in made]  # frame by frame
    return torch.stack(clips) if isinstance(made, Tensor) else clips, True


def score(path: Path, key: bytes) -> tuple[float, float] | None:
    """How surely a file holds the mark of this key: standard deviations, and the p-value; None where none can be looked for.

    Raises OSError when it cannot be opened.
    """
    kind = label.kind_of(path)
    if kind in label.PICTURES:
        return _picture(path, key)
    if kind in SOUNDS:
        return _sound(path, key)
    return _film(path, key) if kind in FILMS else None


@torch.inference_mode()
def _picture(path: Path, key: bytes) -> tuple[float, float] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                wanted = set(np.linspace(0, getattr(opened, "n_frames", 1) - 1, FRAMES).round().astype(int).tolist())
                frames = [_pixels(f) for i, f in enumerate(ImageSequence.Iterator(opened)) if i in wanted]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None  # what is no whole picture says nothing
    return picture.score(frames, key)


def _sound(path: Path, key: bytes) -> tuple[float, float] | None:
    """At the file's own rate, its channels averaged; of a long one the first minutes."""
    try:
        with open(path, "rb") as file:
            rate, _, blocks = decoded(file, path.name)
            pieces, count = list[np.ndarray](), 0
            for block in blocks:
                pieces.append(block)
                count += len(block)
                if count > LISTENED * rate:
                    break
    except (UnreadableError, UserError):
        return None
    if not pieces:
        return None
    return sound.score(torch.from_numpy(np.concatenate(pieces))[None], rate, key)


def _film(path: Path, key: bytes) -> tuple[float, float] | None:
    """Every so many frames of its beginning; of a file without pictures its sound."""
    try:
        av = library("av")
        with av.open(str(path)) as film:
            if not film.streams.video:
                return _sound(path, key)
            shown = islice(film.decode(video=0), 0, FRAMES * EVERY, EVERY)
            frames = [frame.to_ndarray(format="rgb24") for frame in shown if frame.width * frame.height <= LARGEST]
    except UserError:
        return None  # without PyAV
    except (ValueError, OSError):  # its own errors are these
        return None
    return picture.score(frames, key) if frames else None


def _pixels(frame: Image.Image) -> np.ndarray:
    return np.asarray(frame if frame.mode in ("L", "RGB", "RGBA") else frame.convert("RGB"))
