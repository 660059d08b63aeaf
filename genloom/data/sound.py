"""One file of sound, of any kind, rate and number of channels -> samples of one channel at the rate wanted."""

from __future__ import annotations

import importlib
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from genloom.core import Spec
from genloom.data.files import READING, UnreadableError, names_for, shown, streams, suffix
from genloom.errors import UserError
from genloom.run import cannot_write

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".g722", ".aif", ".aiff"})
MELS = frozenset({".npy"})
RAW = {".g722": "g722"}  # kinds that do not say in the file what they are
LONGEST = 6 * 3600  # seconds of one file: more is a mistake or an attack
FULL = 32767  # of 16 bits
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
    track = next(iter(container.streams.audio), None)
    if track is None or track.codec_context is None:
        container.close()
        raise UnreadableError("no sound in it" if track is None else "its sound is of a kind that FFmpeg does not know")
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


# ── files to make again, and files made ──────────────────────────────────────────────────────────────────────────
def read_sources(path: Path, spec: Spec, **_: Any) -> tuple[list[Tensor], list[str]]:
    """What vocoders start from, of one file or of a folder, zip or tar: waves [1, N] at the Spec's rate, of sounds, and
    mel spectrograms [bands, T], of .npy files; and names to write results under.

    Raises UserError for a file that cannot be read.
    """
    if not path.exists():
        raise UserError(f"There is nothing at '{path}': check the path of --source.")
    files = streams(path, SUFFIXES | MELS)
    if not files.names:
        raise UserError(f"'{path}' holds no sound ({', '.join(sorted(SUFFIXES))}) and no mel spectrogram (.npy).")
    found, rate = [], int(spec.extra["rate"])
    for name in files.names:
        try:
            with files.open(name) as stream:
                if suffix(name) in MELS:
                    found.append(read_mel(stream))
                else:
                    found.append(torch.from_numpy(read(stream, name, rate).samples)[None])
        except READING as error:
            raise UserError(f"'{shown(name)}' in '{path}' cannot be read: {error}.") from None
    return found, names_for(files.names, ".wav")


def pieces_of(path: Path, rate: int, size: Callable[[], int]) -> Iterator[np.ndarray]:
    """The samples of one file at that rate in pieces [size()], the last shorter, as it is read.

    Raises UserError for a file that cannot be read, before the first piece or at the place where it breaks off.
    """
    held, count = list[np.ndarray](), 0
    try:
        with open(path, "rb") as stream:
            original, _, blocks = decoded(stream, path.name)
            for block in blocks if rate == original else resampled(blocks, original, rate):
                held.append(block)
                count += len(block)
                while count >= (wanted := size()):
                    row = np.concatenate(held)
                    held, count = [row[wanted:]], count - wanted
                    yield row[:wanted]
        if count:
            yield np.concatenate(held)
    except READING as error:
        raise UserError(f"'{path}' cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def read_mel(stream: BinaryIO) -> Tensor:
    """[bands, T] f32 of a .npy file. Raises UnreadableError for another array."""
    try:
        values = np.load(stream, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UnreadableError("no array that NumPy wrote") from error
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.ndim != 2 or values.dtype.kind != "f" or not values.size or not np.isfinite(values).all():
        raise UnreadableError(
            f"no mel spectrogram, which is finite numbers [bands, T], but {values.dtype} {list(values.shape)}"
        )
    return torch.from_numpy(values.astype(np.float32))


def write(sounds: Tensor | Sequence[Tensor], out: Path, *, spec: Spec, names: list[str] | None = None) -> list[Path]:
    """A 16-bit WAV file of each [1, N] in [-1, 1], under these names or by number. Raises UserError when it cannot."""
    names = names or [f"{i:04}.wav" for i in range(len(sounds))]
    paths = [out / name for name in names]
    for path, sound in zip(paths, sounds, strict=True):
        with Writer(path, int(spec.extra["rate"])) as file:
            file.add(sound)
    return paths


class Writer:
    """A WAV file that grows; it appears whole when the `with` block ends, or not at all.

    `path` "-" is the standard output, whose header tells the largest size there is, as players of streams take it.
    """

    def __init__(self, path: Path, rate: int):
        self.path, self.rate, self.samples = path, rate, 0

    def __enter__(self) -> Writer:
        self.piped = str(self.path) == "-"
        self.part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with self._writing():
            if not self.piped:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = sys.stdout.buffer if self.piped else open(self.part, "wb")
            self.file.write(header(self.rate, None if self.piped else 0))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if self.piped:
            return
        try:
            with suppress(OSError) if kind else self._writing():
                with self.file:
                    self.file.seek(0)
                    self.file.write(header(self.rate, self.samples))
                if kind is None:
                    os.replace(self.part, self.path)
        finally:
            self.part.unlink(missing_ok=True)

    def add(self, sound: Tensor) -> None:
        """[1, n] in [-1, 1]; beyond that is clipped."""
        whole = (sound.detach().float().cpu().flatten() * FULL).round().clamp(-FULL, FULL).to(torch.int16)
        with self._writing():
            self.file.write(whole.numpy().astype("<i2").tobytes())
            self.samples += len(whole)
            self.file.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise  # the listener has gone
        except OSError as error:
            raise cannot_write(self.path, error) from None


def header(rate: int, samples: int | None) -> bytes:
    """Of a WAV file of one channel of 16 bits (RIFF, PCM); None: as many as there may be."""
    size = 2**32 - 1 - 36 if samples is None else min(2 * samples, 2**32 - 1 - 36)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVE" + form + b"data" + struct.pack("<I", size)
