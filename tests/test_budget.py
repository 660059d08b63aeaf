"""The memory of a step is told before it is needed, and told rightly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genloom import budget, core
from genloom.core import Batch, Spec
from genloom.data.base import Dataset
from genloom.errors import UserError


class Noise(Dataset):
    """Films of noise, of any size."""

    def __init__(self, height: int, width: int, frames: int = 5):
        extra = {"source_channels": 3, "serves": ["films"], "rate": 25.0}
        self.spec = Spec("video", (3, frames, height, width), extra=extra)
        self.name, self.fingerprint, self.summary = "noise", "", {}

    def __len__(self) -> int:
        return 4

    def batch(self, indices: np.ndarray, *, seed: int = 0) -> Batch:
        _, t, h, w = self.spec.shape
        shapes = {"video": (3, t), "source": (3, t), "flow": (2, t - 1), "confidence": (1, t - 1)}
        return {k: torch.rand(len(indices), *s, h, w) for k, s in shapes.items()}


def model(data: Dataset) -> core.Model:
    cls = core.find("vid2vid")
    return core.build(cls, data.spec, {**cls.recipes["tiny"].model, "blank": 0.0})


def test_a_corner_tells_what_the_whole_needs() -> None:
    data = Noise(128, 192)
    net = model(data)
    corner = budget.piece_mb(net, data) / (64 * 64)
    whole = max(budget.kept_mb(net, data.batch(np.arange(2)), phase.name) for phase in net.phases())
    assert abs(corner * 128 * 192 * 2 / whole - 1) < 0.2


def test_too_much_is_refused_with_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Noise(2160, 3840)
    net = model(data)
    monkeypatch.setattr(budget, "available_mb", lambda device: 4000.0)
    with pytest.raises(
        UserError, match=r"3840 × 2160 pixels needs about [\d.]+ GB, and 4\.0 GB are free: give --data\.size"
    ) as told:
        budget.check(net, data, 2)
    size = int(str(told.value).split("--data.size ")[1].split()[0])
    assert 64 <= size < 2160 and size % 16 == 0
    budget.check(net, Noise(size, size * 16 // 9 // 16 * 16), 1)
    monkeypatch.setattr(budget, "available_mb", lambda device: 1e9)
    budget.check(net, data, 2)


def test_a_batch_that_is_too_large_alone_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Noise(256, 256)
    net = model(data)
    one = budget.piece_mb(net, data) / 64**2 * 256**2
    monkeypatch.setattr(budget, "available_mb", lambda device: 4 * one)
    with pytest.raises(UserError, match=r"--batch-size [23] \(or"):
        budget.check(net, data, 64)


def test_small_data_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "available_mb", lambda device: 0.0)
    budget.check(model(Noise(64, 64)), Noise(64, 64), 4)


def test_a_machine_that_does_not_tell_is_believed_to_have_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "available_mb", lambda device: None)
    budget.check(model(Noise(64, 64)), Noise(2160, 3840), 4)
