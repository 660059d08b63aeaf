"""Films, and models of films, small enough to know what must come of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import genloom
from genloom.core import Batch, Card, Model, Recipe, Spec, generator, register
from genloom.data.base import Dataset
from genloom.data.film_files import Header, probe, reels
from genloom.data.video import Film
from genloom.run import WEIGHTS, Run

SIDE = 32
CARD = Card("none", "none", 2024, "https://example.org", "for tests")


@register("smoother_for_test")
class Smoother(Model):
    """Takes the noise off a film that stands still: what it makes is the mean of all sources so far."""

    modality, card, recipes = "video", CARD, {"tiny": Recipe()}
    needs, conditions = "films", ("source",)

    def __init__(self, spec: Spec):
        super().__init__(spec)
        self.weight = nn.Parameter(torch.zeros(1))

    def stream(self, frames: Iterator[Tensor], *, alone: bool = False) -> Iterator[Tensor]:
        total, count = torch.zeros(1), 0
        for frame in frames:
            assert frame.shape == (1, 3, SIDE, SIDE) and frame.abs().max() <= 1
            total, count = (frame, 1) if alone else (total + frame, count + 1)
            yield total / count

    def sample(self, n: int, *, seed: int = 0, start: int = 0, source: Tensor | None = None) -> Tensor:
        raise AssertionError("films are made frame by frame")


@register("clips_for_test")
class Clips(Model):
    """Digits that move, of the class asked for: clips that the run keeps, `--frames` of them."""

    modality, card, recipes = "video", CARD, {"tiny": Recipe()}
    conditions = ("label", "frames")

    def __init__(self, spec: Spec):
        super().__init__(spec)
        self.clips = nn.Parameter(torch.zeros(40, *spec.shape))

    def sample(
        self, n: int, *, seed: int = 0, start: int = 0, label: int | Tensor | None = None, frames: int | None = None
    ) -> Tensor:
        asked = self.item_labels(n, label, start)
        rows = [(int(y) + 10 * ((seed + start + i) % 4)) for i, y in enumerate(asked)]
        return self.clips[torch.tensor(rows)][:, :, :frames]


class Films(Dataset):
    """Still scenes, each frame of whose sources has noise of its own."""

    name, fingerprint = "scenes", "ab"

    def __init__(self, counts: tuple[int, ...] = (24, 17)):
        extra = {"rate": 10.0, "source_channels": 3, "source": "", "serves": ["films"]}
        self.spec, self.counts, self.summary = Spec("video", (3, 8, SIDE, SIDE), extra=extra), counts, {}

    def __len__(self) -> int:
        return 1

    def batch(self, indices: np.ndarray, *, seed: int = 0) -> Batch:
        raise AssertionError("films are measured whole")

    def films(self) -> Iterator[Film]:
        for number, count in enumerate(self.counts):
            still = torch.rand(3, 4, 4, generator=generator(number)).mul(255)[None]
            scene = nn.functional.interpolate(still, SIDE, mode="bilinear").round().byte().numpy()
            noise = torch.randn(count, 3, SIDE, SIDE, generator=generator(number, 1)).mul(20).numpy()
            real, source = scene.repeat(count, 0), (scene + noise).clip(0, 255).astype(np.uint8)
            yield Film(f"part/{number}", count, lambda a, b, x=real: x[a:b], lambda a, b, x=source: x[a:b])


def saved(folder: Path, model: str, spec: Spec, tensors: dict[str, Tensor]) -> Run:
    about = {"source": "", "options": {}, "name": "stand-in", "fingerprint": "", "summary": {}}
    info = {"genloom": "0", "model": model, "config": {}, "options": {}, "spec": spec.to_json(), "data": about}
    run = Run.create(folder, info)
    run.save_tensors(WEIGHTS, tensors, {})
    return run


@cache
def digits() -> Dataset:
    return genloom.data.open_data("mnist", limit=400)


class Moving(Dataset):
    """A digit a clip that glides through 64 x 64 pixels, its class as label; `train` and held-out ones differ."""

    name = "moving-digits"

    def __init__(self, first: int = 0, count: int = 80, other: Dataset | None = None):
        self.digits, self.first, self.count, self.other = digits(), first, count, other
        self.spec = Spec("video", (1, 6, 64, 64), tuple("0123456789"), {"rate": 10.0})
        self.fingerprint, self.summary = f"{first:02x}", {}

    def __len__(self) -> int:
        return self.count

    def labels(self) -> Tensor:
        every = self.digits.labels()
        assert every is not None
        return every[self.first : self.first + self.count]

    def held_out(self) -> Dataset | None:
        return self.other

    def batch(self, indices: np.ndarray, *, seed: int = 0) -> Batch:
        found = self.digits.batch(np.asarray(indices) + self.first)
        clips = torch.full((len(indices), 1, 6, 64, 64), -1.0)
        for t in range(6):
            clips[:, :, t, 10 + 2 * t : 38 + 2 * t, 4 + 3 * t : 32 + 3 * t] = found["image"]
        return {"video": clips, "label": found["label"]}


def probed(path: Path) -> Header:
    """What a film says of itself."""
    return probe(reels(path)[1][0])


@register("mean_for_test")
class Mean(Model):
    """Learns the mean clip, and makes it with noise of its own."""

    modality, card = "video", CARD
    recipes = {"tiny": Recipe(steps=6, batch_size=4)}
    looks_at = 8

    def __init__(self, spec: Spec):
        super().__init__(spec)
        self.mean = nn.Parameter(torch.zeros(spec.shape))

    def grid(self) -> int:
        return 6

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        return {"squares": (batch["video"] - self.mean).square().flatten(1).mean(1)}

    def sample(self, n: int, *, seed: int = 0, start: int = 0) -> Tensor:
        return (self.mean + 0.2 * self.item_noise(n, *self.spec.shape, seed=seed, start=start)).clamp(-1, 1)
