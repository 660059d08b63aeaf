"""Which items stand among the training items again.

A held-out item that does was trained on: it hides copies, and tells nothing of who was in the data. Where such are left out,
so are training items that stand there twice, for those that are left are then of one kind on both sides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom.auditing.finding import shrunk
from genloom.auditing.near import Space
from genloom.core import Model
from genloom.data.audio import AudioSet
from genloom.data.base import Dataset
from genloom.data.text import TextSet
from genloom.measure import images, some_rows
from genloom.measure_text import training_text
from genloom.metrics.text import GRAM, Repeats

MOST = 60_000  # training items that are compared
BATCH = 256


class Twins(ABC):
    """Tells of items whether they are training items."""

    @abstractmethod
    def again(self, data: Dataset, rows: np.ndarray) -> np.ndarray:
        """[n] bool: which of those items of other data are training items."""

    @abstractmethod
    def twice(self, rows: np.ndarray) -> np.ndarray:
        """[n] bool: which of those training items stand there once more."""


def twins_of(data: Dataset, model: Model, pictures: Space | None) -> Twins | None:
    """Those of training data; None of data whose items are not compared one by one."""
    if pictures is not None:
        return Pictures(data, pictures)
    if isinstance(data, TextSet):
        return Texts(data, model)
    return Bytes(data) if isinstance(data, AudioSet) or data.spec.modality == "table" else None


def pixels(batches: Iterable[Tensor]) -> Tensor:
    """Pictures as rows [N, d] of pixels, at most 32 a side."""
    return torch.cat([shrunk(x) for x in batches])


class Pictures(Twins):
    """By their pixels."""

    def __init__(self, data: Dataset, space: Space):
        self.data, self.space = data, space

    def again(self, data: Dataset, rows: np.ndarray) -> np.ndarray:
        return self.space.holds(pixels(images(data, rows))).numpy()

    def twice(self, rows: np.ndarray) -> np.ndarray:
        return self.space.holds(pixels(images(self.data, rows)), but=torch.from_numpy(rows)).numpy()


class Bytes(Twins):
    """By what they are as numbers: rows of a table, stretches of sound."""

    def __init__(self, data: Dataset):
        self.data = data

    @cached_property
    def counts(self) -> Counter[bytes]:
        return Counter(self._keys(self.data, some_rows(len(self.data), MOST, 0)))

    def again(self, data: Dataset, rows: np.ndarray) -> np.ndarray:
        return np.array([key in self.counts for key in self._keys(data, rows)], bool)

    def twice(self, rows: np.ndarray) -> np.ndarray:
        return np.array([self.counts[key] > 1 for key in self._keys(self.data, rows)], bool)

    def _keys(self, data: Dataset, rows: np.ndarray) -> Iterator[bytes]:
        still, kind = data.still(), self.data.spec.modality
        for i in range(0, len(rows), BATCH):
            yield from (
                blake2b(item.numpy().tobytes(), digest_size=16).digest()
                for item in still.batch(rows[i : i + BATCH])[kind]
            )


class Texts(Twins):
    """By the bytes of a window, wherever in the training text they stand."""

    def __init__(self, data: TextSet, model: Any):
        self.data, self.tokenizer = data, model.tokenizer
        self.pieces = [model.tokenizer.piece(t) for t in range(model.vocabulary)]
        self.search = Repeats(training_text(data, model))

    def again(self, data: Dataset, rows: np.ndarray) -> np.ndarray:
        return np.array([self.search.holds(text) for text in self._texts(data.still(), rows)], bool)

    def twice(self, rows: np.ndarray) -> np.ndarray:
        return np.array([self.search.holds(text, times=2) for text in self._texts(self.data.still(), rows)], bool)

    def _texts(self, data: Dataset, rows: np.ndarray) -> Iterator[bytes]:
        for row in rows:
            tokens = data.batch(np.array([row]))["text"][0].tolist()
            yield b"".join([self.pieces[t] for t in tokens]) if len(tokens) >= GRAM else b""
