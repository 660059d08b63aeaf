"""Where one scene of a film is cut to another."""

from __future__ import annotations

import numpy as np

BLOCK = 8  # pixels of a side: what moves by less changes little
AROUND = 6  # frames on each side, against whose changes one is held
CHANGE = 8.0  # of 255, mean over blocks: less is no new scene
CALM, BUSY = 3.0, 1.7  # times as large as changes close by, on the calmer side and on the busier one
SHADES = 0.12  # share of pixels that change their shade, of 16: what moves brings few new ones
FLASH = 2  # frames: of two cuts this close one is a flash's


class Changes:
    """How much each frame of a film differs from the one before; `cuts` says from which frames on a new scene plays."""

    def __init__(self) -> None:
        self.moved: list[float] = []
        self.shaded: list[float] = []
        self.before: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, frame: np.ndarray) -> None:
        """uint8 [C, H, W], H and W multiples of 8."""
        channels, height, width = frame.shape
        blocks = frame.reshape(channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).mean((2, 4))
        shades = np.stack([np.bincount(plane.ravel() >> 4, minlength=16) for plane in frame]) / (height * width)
        if self.before is not None:
            self.moved.append(float(np.abs(blocks - self.before[0]).mean()))
            self.shaded.append(float(np.abs(shades - self.before[1]).sum(1).max()) / 2)
        self.before = blocks, shades

    def cuts(self) -> list[int]:
        """A change is a cut where it is large, stands out from those around it, and brings other shades.

        What moves fast changes every frame; a flash changes two, there and back.
        """
        found: list[int] = []
        for i, change in enumerate(self.moved):
            sides = self.moved[max(0, i - AROUND) : i], self.moved[i + 1 : i + 1 + AROUND]
            calm, busy = sorted(sorted(side)[-2] if len(side) > 1 else 0.0 for side in sides)  # one may be a cut itself
            if change > max(CHANGE, CALM * calm, BUSY * busy) and self.shaded[i] > SHADES:
                found.append(i + 1)
        return [cut for cut in found if not any(0 < abs(other - cut) <= FLASH for other in found)]
