"""Frames of many films in one row, uint8 in memory while they are few, else on disk; and whether there is room for them."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from genloom.data.growing import IN_MEMORY, Growing, OnDisk
from genloom.errors import UserError
from genloom.machine import memory_free

HOLDS = 100  # times the numbers of one clip that training holds of it: weights' inputs, layer by layer
STEP = 16  # what sides of frames are a multiple of


class Rows(Protocol):
    """Arrays of one shape, to be read by number."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Arrays start to stop - 1 as [n, *shape]."""


class Drawn:
    """Arrays of films of `length` frames that are drawn when they are asked for: `draw(film, start, stop)` gives some of one."""

    def __init__(self, draw: Callable[[int, int, int], np.ndarray], length: int):
        self.draw, self.length = draw, length

    def read(self, start: int, stop: int) -> np.ndarray:
        """Arrays start to stop - 1 of one film."""
        film = max(min(start, stop - 1), 0) // self.length
        return self.draw(film, start - film * self.length, stop - film * self.length)


class Shelf:
    """Arrays of one shape, added at the end and read by number."""

    def __init__(self, shape: tuple[int, ...], dtype: Any = np.uint8):
        self.shape, self.size, self.row = shape, math.prod(shape), Growing(dtype)
        self.whole: np.ndarray | OnDisk | None = None

    def __len__(self) -> int:
        return len(self.row) // self.size

    def add(self, arrays: np.ndarray) -> None:
        """One array of the shape, or several [n, *shape]."""
        self.row.add(arrays.reshape(-1))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Arrays start to stop - 1 as [n, *shape]; nothing is added after the first call."""
        if self.whole is None:
            self.whole = self.row.array()
        return self.whole[start * self.size : stop * self.size].reshape(-1, *self.shape)


def check_room(frames: int, frame: int, clip: int, side: int, what: str) -> None:
    """Raises UserError, with a size that would do, where frames of so many bytes find no room on the disk for temporary
    files, or clips of so many numbers none in memory. `side` is the shorter side in pixels."""
    kept, free = frames * frame, shutil.disk_usage(tempfile.gettempdir()).free
    if kept > IN_MEMORY and kept > 0.9 * free:
        raise UserError(
            f"{what} take {_bytes(kept)} as frames, and {tempfile.gettempdir()} has {_bytes(free)} free: give "
            f"--data.size {_smaller(side, free / kept)}, a lower --data.rate, or --data.limit for fewer films."
        )
    memory, needed = memory_free(), 4 * HOLDS * clip
    if memory is not None and needed > memory:
        raise UserError(
            f"Training on one clip of this size takes about {_bytes(needed)}, and {_bytes(memory)} of memory are free: "
            f"give --data.size {_smaller(side, memory / needed)}, or fewer --data.frames."
        )


def _smaller(side: int, share: float) -> int:
    """The side of frames that take less than that share of what they take now."""
    return max(STEP, int(0.9 * side * math.sqrt(share)) // STEP * STEP)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
