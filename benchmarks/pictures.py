"""The picture on the README's first screen, from three runs: `python -m benchmarks.pictures TEXTBOOK GAN FLOW`."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

import genloom
from genloom.data.image import preview

GAP = 24


def side_by_side(runs: list[str], out: Path, side: int = 480) -> None:
    """The first 64 samples of each run, enlarged by whole pixels, next to each other."""
    grids = [preview(genloom.sample(run, 64), columns=8).convert("L") for run in runs]
    grids = [g.resize((side, side), Image.Resampling.BICUBIC) for g in grids]
    whole = Image.new("L", (len(grids) * side + (len(grids) - 1) * GAP, side), 255)
    for i, grid in enumerate(grids):
        whole.paste(grid, (i * (side + GAP), 0))
    whole.save(out, optimize=True)


if __name__ == "__main__":
    side_by_side(sys.argv[1:], Path(__file__).parent.parent / "docs" / "gan-side-by-side.png")
