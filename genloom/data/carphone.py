"""The film that comes with genloom: a face in a moving car, as it was filmed and as a bad line leaves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genloom.core import Spec
from genloom.data.files import hashed
from genloom.data.film_files import reels
from genloom.data.film_survey import VideoOptions
from genloom.data.films import as_in, paired
from genloom.data.video import VideoSet, stocked

USUAL = {"size": 144, "held_out": 0.25}  # its own size; the last 30 of its 120 frames are kept out of training


class Carphone:
    """The pristine film is the target; the source is the distorted one, or what is made from the target."""

    def __init__(self, folder: Path):
        paths = [folder / f"carphone-{side}.mp4" for side in ("pristine", "distorted")]
        self.pristine, self.distorted = (reel for path in paths for reel in reels(path)[1])
        self.fingerprint = hashed(b"".join(p.read_bytes() for p in paths))

    def video(self, name: str, *, split: str, like: Spec | None, **given: Any) -> VideoSet:
        options = VideoOptions.of(_usual(like) | given)
        return stocked([self.pristine], options, like, name).dataset(name, self.fingerprint, split)

    def films(self, name: str, *, split: str, like: Spec | None, **given: Any) -> VideoSet:
        options = as_in(like, _usual(like) | given)
        pair = name, self.pristine, None if options.source else self.distorted
        return paired([pair], options, like, name).dataset(name, self.fingerprint, split)


def _usual(like: Spec | None) -> dict[str, Any]:
    """Like other data, it has their size."""
    return {"held_out": USUAL["held_out"], "frames": like.shape[1]} if like else dict(USUAL)
