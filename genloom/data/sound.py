"""One file of sound, of any kind, rate and number of channels -> samples of one channel at the rate wanted."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from genloom.data.files import UnreadableError, suffix
from genloom.errors import UserError

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".g722", ".aif", ".aiff"})
RAW = {".g722": "g722"}  # kinds that do not say in the file what they are
LONGEST = 6 * 3600  # seconds of one file: more is a mistake or an attack
CLIPPED, SILENT = 0.999, 1e-3  # of full scale: at or above; below


@dataclass
class Sound:
    """`samples` [N] f32, mostly in [-1, 1], at `rate` Hz; `original` is the file's own rate, `channels` how many it has."""

    samples: np.ndarray
    rate: int
    original: int
    channels: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    @property
    def clipped(self) -> float:
        """The share of samples at full scale or beyond."""
        return float((np.abs(self.samples) >= CLIPPED).mean())

    @property
    def silent(self) -> bool:
        return bool(np.abs(self.samples).max() < SILENT)


def read(stream: BinaryIO, name: str, rate: int | None = None) -> Sound:
    """The file at `rate` Hz (by default its own), its channels averaged. Raises UnreadableError with the reason."""
    original, channels, blocks = decoded(stream, name)
    pieces = list(blocks if rate in (None, original) else resampled(blocks, original, rate or original))
    samples = np.concatenate(pieces) if pieces else np.empty(0, np.float32)
    if not len(samples):
        raise UnreadableError("no sound in it")
    return Sound(samples, rate or original, original, channels)


def decoded(stream: BinaryIO, name: str) -> tuple[int, int, Iterator[np.ndarray]]:
    """The file's own rate, its channels, and its samples [n] f32 block by block, channels averaged."""
    av = library("av")
    try:
        container: Any = av.open(stream, format=RAW.get(suffix(name)), metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnreadableError("no sound that can be read") from error
    if not container.streams.audio:
        container.close()
        raise UnreadableError("no sound in it")
    track = container.streams.audio[0]
    return track.rate, track.channels, blocks_of(container, track, av)


def blocks_of(container: Any, track: Any, av: ModuleType) -> Iterator[np.ndarray]:
    """Each frame as floats, its channels averaged: a frame is some thousand samples, however long the file."""
    count = 0
    try:
        with container:
            for frame in container.decode(track):
                block = floats(frame.to_ndarray(), 1 if frame.format.is_planar else track.channels).mean(0)
                if not np.isfinite(block).all():
                    raise UnreadableError("values in it are no numbers")
                count += len(block)
                if count > LONGEST * track.rate:
                    raise UnreadableError(f"longer than {LONGEST // 3600} hours")
                yield block
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnreadableError("broken off, or no sound that can be read") from error


def floats(values: np.ndarray, side_by_side: int) -> np.ndarray:
    """[C, N] f32 in [-1, 1] of one frame's values [C, N], or [1, N · C] where its channels stand side by side.

    By hand, for FFmpeg's own converter falls over many channels that have no names.
    """
    values = values.reshape(-1, side_by_side).T if side_by_side > 1 else values
    if values.dtype.kind == "u":
        return (values.astype(np.float32) - 128) / 128
    scale = float(-np.iinfo(values.dtype).min) if values.dtype.kind == "i" else 1.0
    return (values / scale).astype(np.float32)


def resampled(blocks: Iterator[np.ndarray], before: int, after: int) -> Iterator[np.ndarray]:
    """The same sound at another rate, by soxr: band-limited, without a shift in time."""
    stream = library("soxr").ResampleStream(before, after, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def library(name: str) -> ModuleType:
    """PyAV or soxr. Raises UserError where they are not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError("Sound needs two libraries more: pip install 'genloom[audio]'.") from None
