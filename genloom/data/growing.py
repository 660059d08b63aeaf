"""A row of numbers that grows: in memory while it is short, else in a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from threading import Lock
from typing import Any, BinaryIO

import numpy as np

from genloom.errors import UserError

IN_MEMORY = 64 * 2**20  # bytes; more are kept in a temporary file


class Growing:
    """Numbers added at the end, in memory while they are few, else in a temporary file."""

    def __init__(self, dtype: type):
        self.dtype, self.count = np.dtype(dtype), 0
        self.pieces: list[np.ndarray] = []
        self.file: BinaryIO | None = None

    def __len__(self) -> int:
        return self.count

    def add(self, numbers: Sequence[int] | np.ndarray) -> None:
        new = np.asarray(numbers).astype(self.dtype)
        self.count += len(new)
        self.pieces.append(new)
        if self.count * self.dtype.itemsize > IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        if self.file is None:
            self.file = tempfile.TemporaryFile(prefix="genloom-")  # noqa: SIM115, it lives as long as the data
        try:
            for piece in self.pieces:
                self.file.write(piece.tobytes())
        except OSError as error:
            raise UserError(f"The data do not fit into {tempfile.gettempdir()} ({error}): free some space.") from None
        self.pieces.clear()

    def array(self) -> np.ndarray | OnDisk:
        if self.file is None:
            self.pieces = [np.concatenate(self.pieces)] if self.pieces else [np.empty(0, self.dtype)]
            return self.pieces[0]
        self._spill()
        self.file.flush()
        return OnDisk(self.file, self.dtype, 0, self.count)


class OnDisk:
    """Numbers in a file, read when they are sliced; the pages of a mapped file would count as this process's memory."""

    def __init__(self, file: BinaryIO, dtype: np.dtype[Any], start: int, count: int):
        self.file, self.dtype, self.start, self.count = file, dtype, start, count
        self.lock = Lock()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, places: slice) -> np.ndarray:
        start, stop, _ = places.indices(self.count)
        size = self.dtype.itemsize
        with self.lock:
            self.file.seek((self.start + start) * size)
            return np.frombuffer(self.file.read(max(stop - start, 0) * size), self.dtype)


def cut_at(numbers: np.ndarray | OnDisk, place: int) -> tuple[np.ndarray | OnDisk, np.ndarray | OnDisk]:
    """What is before a place, and what is from it on; nothing is read."""
    if isinstance(numbers, np.ndarray):
        return numbers[:place], numbers[place:]
    file, dtype, start, count = numbers.file, numbers.dtype, numbers.start, numbers.count
    before, after = OnDisk(file, dtype, start, place), OnDisk(file, dtype, start + place, count - place)
    after.lock = before.lock = numbers.lock
    return before, after
