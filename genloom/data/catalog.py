"""The data sets that come with genloom, by name: what they hold, whose they are, and how they are read."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genloom.errors import UserError

EMBEDDED = Path(__file__).parent / "embedded"
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Pixels:
    """A decoded image data set: `pixels` uint8 [N, C, H, W], `ids` i64 [N] into `classes`, a hash of the files read."""

    pixels: np.ndarray
    ids: np.ndarray
    classes: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True)
class Entry:
    """A data set known by name. `load(split)` gives what the modality's `from_catalog` takes."""

    name: str
    modality: str
    summary: str
    licence: str
    credit: str
    url: str
    splits: tuple[str, ...]
    load: Callable[[str], Pixels]


def catalog() -> dict[str, Entry]:
    """Every built-in data set by name."""
    return {entry.name: entry for entry in (MNIST, DIGITS_8X8)}


def read_idx(path: Path) -> np.ndarray:
    """An xz-packed IDX file of bytes (LeCun et al.): two zeros, type 8, rank, sizes (u32 big-endian), values."""
    with lzma.open(path) as stream:
        zero, kind, rank = np.frombuffer(stream.read(4), np.dtype([("z", ">u2"), ("k", "u1"), ("r", "u1")]))[0]
        if zero or kind != 8:
            raise UserError(f"'{path}' is not an IDX file of bytes: install genloom again.")
        shape = tuple(int(n) for n in np.frombuffer(stream.read(4 * rank), ">u4"))
        values = np.empty(int(np.prod(shape)), np.uint8)
        stream.readinto(values.data)
    return values.reshape(shape)


def _read(images: str, labels: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Pixels [N, 1, H, W], labels [N] and the hash of both files."""
    paths = EMBEDDED / f"{images}-idx3-ubyte.xz", EMBEDDED / f"{labels}-idx1-ubyte.xz"
    digest = hashlib.blake2b(b"".join(p.read_bytes() for p in paths), digest_size=16).hexdigest()
    return read_idx(paths[0])[:, None], read_idx(paths[1]).astype(np.int64), digest


def _mnist(split: str) -> Pixels:
    part = {"train": "train", "test": "t10k"}[split]
    pixels, ids, digest = _read(f"mnist-{part}-images", f"mnist-{part}-labels")
    return Pixels(pixels, ids, DIGITS, digest)


def _digits(split: str) -> Pixels:
    """0..16 is spread over 0..255; the last 297 are the test split."""
    pixels, ids, digest = _read("digits-images", "digits-labels")
    part = slice(0, 1500) if split == "train" else slice(1500, None)
    spread = ((pixels[part].astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)
    return Pixels(spread, ids[part], DIGITS, digest)


MNIST = Entry(
    name="mnist",
    modality="image",
    summary="Handwritten digits, 28×28 grey: 60,000 to train and 10,000 to test",
    licence="CC BY-SA 3.0",
    credit="Yann LeCun, Corinna Cortes, Christopher J. C. Burges",
    url="http://yann.lecun.com/exdb/mnist/",
    splits=("train", "test"),
    load=_mnist,
)

DIGITS_8X8 = Entry(
    name="digits",
    modality="image",
    summary="Handwritten digits, 8×8 grey: 1,500 to train and 297 to test",
    licence="CC BY 4.0",
    credit="E. Alpaydin, C. Kaynak (UCI repository; the copy in scikit-learn)",
    url="https://archive.ics.uci.edu/dataset/80",
    splits=("train", "test"),
    load=_digits,
)
