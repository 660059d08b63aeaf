"""The motion between frames that models of films are taught with: computed once, kept on disk between runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from genloom import __version__
from genloom.data import motion
from genloom.data.files import hashed
from genloom.data.shelf import Shelf
from genloom.run import put

PIECE = 64  # frames whose flow is computed, and kept, together


class Moves(Protocol):
    """The motion between frames, to be read by number."""

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Flow f16 [n, 2, H, W] and confidence uint8 [n, H, W] from frames start .. stop - 1 to the next ones."""


class Flows:
    """Backward flow f16 [2, H, W] and confidence uint8 [H, W] of each frame to the next, a row for each frame.

    A film's last row is empty: nothing follows.
    """

    def __init__(self, method: str, height: int, width: int):
        self.method = method
        self.flow, self.sure = Shelf((2, height, width), np.float16), Shelf((height, width))

    def of(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The frames uint8 [C, H, W] of a film as they are, while their flow is put in."""
        waiting: list[np.ndarray] = []
        try:
            for frame in frames:
                if len(waiting) > PIECE:
                    self._put(waiting)
                    waiting = waiting[-1:]
                waiting.append(frame)
                yield frame
        finally:  # as many rows as there were frames, of a film that breaks off too
            if waiting:
                self._put(waiting)
                self.flow.add(np.zeros(self.flow.shape, np.float16))
                self.sure.add(np.zeros(self.sure.shape, np.uint8))

    def _put(self, frames: list[np.ndarray]) -> None:
        flow, sure = cached(np.stack(frames), self.method)
        self.flow.add(flow)
        self.sure.add(sure)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Flow f16 [n, 2, H, W] and confidence uint8 [n, H, W] from frames start .. stop - 1 to the next ones."""
        return self.flow.read(start, stop), self.sure.read(start, stop)


def folder() -> Path:
    home = os.environ.get("GENLOOM_HOME")
    if home:
        return Path(home) / "flow"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genloom" / "flow"


def cached(frames: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    """What motion.flows gives, from disk where these very frames were seen before; failing to keep it is no error."""
    about = f"{method} {frames.shape} {__version__}".encode()
    path = folder() / f"{hashed(frames.tobytes() + about)}.safetensors"
    with suppress(OSError, SafetensorError, KeyError):
        found = load(path.read_bytes())
        if found["flow"].shape == (len(frames) - 1, 2, *frames.shape[2:]):
            return found["flow"], found["sure"]
    flow, sure = motion.flows(frames, method)
    with suppress(OSError):
        put(path, save({"flow": flow, "sure": sure}))
    return flow, sure
